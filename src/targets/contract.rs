//! The contract of a target.

use std::sync::Arc;

use async_trait::async_trait;

use super::types::*;
use crate::error::Result;
use crate::ids::ChunkId;

/// A collection that regrow made, or that carries its marker: the only thing that can be written or deleted.
///
/// Only targets make one, after they have seen the marker; so no drill can touch production, by type.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnedCollection {
    name: String,
    marker: Marker,
}

impl OwnedCollection {
    /// For targets: `name` was just created with `marker`, or `marker` was just read from it.
    pub(crate) fn attest(name: String, marker: Marker) -> Self {
        Self { name, marker }
    }

    /// Physical name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The marker as last read or written.
    pub fn marker(&self) -> &Marker {
        &self.marker
    }
}

/// A vector database.
///
/// Names given to reading methods are physical names or production names (aliases); writing methods
/// take an [`OwnedCollection`]. All methods may be called from several tasks at once.
///
/// Errors are [`ErrorKind::Target`](crate::ErrorKind::Target), with
/// [`retryable`](crate::Error::retryable) set where the same call may succeed later;
/// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for a collection that does not exist;
/// [`ErrorKind::StorageFull`](crate::ErrorKind::StorageFull) where that is the cause.
#[async_trait]
pub trait Target: Send + Sync {
    /// Kind, as in pipeline files: `embedded`, `memory`.
    fn kind(&self) -> &'static str;

    /// What this target can do.
    fn capabilities(&self) -> Capabilities;

    /// What answers there. Connects where there is no connection yet; so does every other method.
    ///
    /// A version that is too old or too new to be used is [`ErrorKind::Target`](crate::ErrorKind::Target) and says why,
    /// here and from every other method; wrong credentials are [`ErrorKind::Denied`](crate::ErrorKind::Denied).
    async fn server(&self) -> Result<ServerInfo>;

    /// What of `spec` this target cannot express, in words for people: printed by the plan before anything runs, and listed
    /// in the report. [`create`](Self::create) makes the collection without it. What makes a restore useless (a metric that
    /// is not there, too many dimensions) is not listed here: `create` refuses it as
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration), and so does this.
    async fn unsupported(&self, spec: &CollectionSpec) -> Result<Vec<String>>;

    /// Physical names of all collections, sorted.
    async fn list(&self) -> Result<Vec<String>>;

    /// What `name` is; `None` when there is no such collection.
    async fn describe(&self, name: &str) -> Result<Option<CollectionInfo>>;

    /// Creates a collection, empty, with its marker. Its payload indexes are there at the latest when the index is
    /// built; filters give the same results without them.
    /// [`ErrorKind::AlreadyExists`](crate::ErrorKind::AlreadyExists) when the name is taken.
    /// A `create` that was interrupted leaves nothing that `describe` shows, and can be repeated.
    /// Every target takes names of up to 30 lower-case letters and digits that begin with a letter, and all that
    /// [`Names::allow`] allows; others are [`ErrorKind::Configuration`](crate::ErrorKind::Configuration).
    async fn create(&self, spec: &CollectionSpec) -> Result<OwnedCollection>;

    /// Takes hold of an existing collection that carries regrow's marker; an error otherwise.
    async fn open_owned(&self, name: &str) -> Result<OwnedCollection>;

    /// Writes `marker` on a collection that carries none, because the user said that it is theirs: from then on regrow may
    /// rename, write and delete it. Nothing else of it changes. One that carries a marker already is
    /// [`ErrorKind::AlreadyExists`](crate::ErrorKind::AlreadyExists).
    async fn adopt(&self, name: &str, marker: Marker) -> Result<OwnedCollection>;

    /// Replaces the marker (the instance stays the same).
    async fn mark(&self, collection: &OwnedCollection, marker: Marker) -> Result<OwnedCollection>;

    /// Writes points, replacing those with the same id. A point whose vector has the wrong dimension
    /// or a value that is not finite is refused by id; the others are written.
    async fn write(&self, collection: &OwnedCollection, points: Vec<Point>) -> Result<WriteOutcome>;

    /// As [`write`](Self::write), of points that the caller keeps for another try. A target that only reads them does
    /// without a copy.
    async fn write_shared(&self, collection: &OwnedCollection, points: Arc<Vec<Point>>) -> Result<WriteOutcome> {
        self.write(collection, Arc::unwrap_or_clone(points)).await
    }

    /// Returns once everything written before survives a crash of the process.
    async fn flush(&self, collection: &OwnedCollection) -> Result<()>;

    /// Starts building the index; idempotent. Building goes on in the background.
    async fn start_index(&self, collection: &OwnedCollection) -> Result<()>;

    /// How far the index is; an error when building failed.
    async fn index_state(&self, collection: &OwnedCollection) -> Result<IndexState>;

    /// Exact number of points that pass the filter.
    async fn count(&self, name: &str, filter: &Filter) -> Result<u64>;

    /// The points with these ids that exist, in no particular order, with vectors.
    /// Vectors are bit for bit what was written, except that a target may normalise for cosine.
    async fn fetch(&self, name: &str, ids: &[ChunkId]) -> Result<Vec<Point>>;

    /// Points in id order after `after`, with vectors. Complete: every point comes exactly once.
    async fn scroll(&self, name: &str, after: Option<ChunkId>, limit: usize) -> Result<ScrollPage>;

    /// The nearest points, best first. Ties come in id order when `exact`.
    async fn search(&self, name: &str, request: &SearchRequest) -> Result<Vec<ScoredPoint>>;

    /// Points the production name `alias` at the collection; returns the physical name it pointed at before, which is kept.
    /// Promoting that one again is the way back.
    ///
    /// Where `alias` is the physical name of a collection: one without marker is refused. An owned one (adopted, say) is
    /// renamed in the same step where [`Capabilities::rename`] says so, and its new name returned; else it is refused. After
    /// a kill in between, promoting again completes it, and reading by `alias` finds one of the two.
    async fn promote(&self, alias: &str, collection: &OwnedCollection) -> Result<Option<String>>;

    /// Deletes the collection. Refused while a production name points at it.
    async fn delete(&self, collection: OwnedCollection) -> Result<()>;
}
