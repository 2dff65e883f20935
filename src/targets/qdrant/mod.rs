//! A Qdrant server, by gRPC.
//!
//! - **Load.** Parallel upserts that do not wait: the server keeps them in its log and applies them shard by shard. Payload
//!   indexes are made before, graphs after: while points are loaded, no segment may have one.
//! - **Confirmation.** [`Target::flush`] sends one operation that goes to every shard and waits for it; each shard applies what
//!   it got in order. Then it counts the points by their ids, because a write that the server could not apply is only in its log.
//!   Reads of this process do the same first where something is unconfirmed.
//! - **Index.** The threshold of before comes back, with as many optimizations at once as the server finds right. It is done
//!   when several looks in a row find nothing running or waiting, and what has no graph is small enough to have none.
//! - **Payload.** As it is; what the protocol or the server would change stands once more as JSON: see `payload`.
//! - **Cosine.** Qdrant leaves vectors alone whose squared length is within 1e-6 of 1, and scales others.
//! - **Promotion.** An alias, moved by one action.
//! - **Marker.** In the collection's metadata, which servers have from 1.16 on. It is written last: what was interrupted
//!   while it was made is not there, and made again.

mod client;
mod collection;
mod filter;
mod index;
mod indexes;
mod own;
mod payload;
mod points;
mod promote;
mod reads;
mod write;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::OnceCell;
use url::Url;
use uuid::Uuid;

use self::client::{Client, is_invalid};
use self::collection::{MARKER, Remote, SPEC, Shape, Spec, edit, text};
use super::connect::Connection;
use super::contract::{OwnedCollection, Target};
use super::types::*;
use super::{checks, filter as conditions};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::ChunkId;
use crate::model::Metric;
use crate::pipeline::TargetSettings;
use crate::secret::Secret;

/// Points in one upsert: Qdrant advises 64 to 256.
const BATCH: usize = 256;
/// Tenants that are counted.
const TENANTS: u64 = 100_000;
/// How long what was read about a collection counts without being read again. A flush always reads it again.
const REMEMBERED: Duration = Duration::from_secs(1);
/// Qdrant takes almost any text that a file can be named by; these are what every version and file system takes.
const NAMES: Names =
    Names { max_bytes: 200, characters: Characters::Words { also: "-_.", upper: true, digit_first: true } };

/// Where a Qdrant server is, and how to talk to it.
#[derive(Debug, Clone)]
pub struct QdrantOptions {
    /// The address of its gRPC interface: `http://HOST:6334` or `https://HOST:6334`.
    pub url: Url,
    /// For the header `api-key`.
    pub api_key: Option<Secret>,
    /// Certificates to trust beside the machine's, in PEM.
    pub ca: Option<Vec<u8>>,
    /// For a request and its answer; writes and changes of a collection have ten times as long.
    pub timeout: Duration,
    /// Most bytes of vectors and payload in one request; a point that is larger travels alone.
    pub batch_bytes: usize,
    /// Writes that may be under way at once.
    pub writers: usize,
}

impl QdrantOptions {
    /// The server at `url`, without a key.
    pub fn new(url: Url) -> Self {
        Self { url, api_key: None, ca: None, timeout: Duration::from_secs(60), batch_bytes: 8 << 20, writers: 4 }
    }
}

/// A Qdrant server. Clones share the connection.
#[derive(Debug, Clone)]
pub struct QdrantTarget {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    batch_bytes: usize,
    writers: usize,
    ready: OnceCell<(String, Version)>,
    unconfirmed: write::AllUnconfirmed,
    /// What reads found, by the name that was asked for.
    shapes: Mutex<HashMap<String, (Shape, Instant)>>,
    /// What is written to, by name and instance, and when its marker was last seen.
    known: Mutex<HashMap<(String, Uuid), (Shape, Instant)>>,
}

/// Major and minor version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim_start_matches('v').split(['.', '-', '+']).map(str::parse);
        Some(Self(parts.next()?.ok()?, parts.next()?.ok()?))
    }
}

/// Runs a read, and once more where the server finds it wrong: the name may have been given to another collection.
macro_rules! reading {
    ($target:expr, $name:expr, $shape:ident => $read:expr) => {{
        write::settle_all($target).await?;
        let $shape = $target.shape($name).await?;
        match $read.await {
            Err(e) if is_invalid(&e) || e.kind() == ErrorKind::NotFound => {
                $target.forget_all();
                let $shape = $target.shape($name).await?;
                $read.await
            }
            other => other,
        }
    }};
}

fn fresh<T: Clone>(entry: Option<&(T, Instant)>) -> Option<T> {
    entry.filter(|(_, seen)| seen.elapsed() < REMEMBERED).map(|(value, _)| value.clone())
}

impl QdrantTarget {
    /// Sets up the client; nothing is sent yet.
    ///
    /// [`ErrorKind::Configuration`] for a URL, certificate or key that cannot be used.
    pub fn new(options: &QdrantOptions) -> Result<Self> {
        Ok(Self {
            inner: Arc::new(Inner {
                client: Client::open(options)?,
                batch_bytes: options.batch_bytes.max(1),
                writers: options.writers.max(1),
                ready: OnceCell::new(),
                unconfirmed: Mutex::default(),
                shapes: Mutex::default(),
                known: Mutex::default(),
            }),
        })
    }

    /// As the pipeline says.
    pub(crate) fn connect(connection: Connection, settings: &TargetSettings) -> Result<Self> {
        let mut options = QdrantOptions::new(connection.url);
        options.batch_bytes = settings.batch_bytes.unwrap_or(options.batch_bytes);
        options.writers = connection.writers.unwrap_or(options.writers);
        (options.api_key, options.ca, options.timeout) = (connection.api_key, connection.ca, connection.timeout);
        Self::new(&options)
    }

    fn client(&self) -> &Client {
        &self.inner.client
    }

    async fn ready(&self) -> Result<&(String, Version)> {
        let ask = || async {
            let said = self.client().version().await?;
            let refuse = |message: &str, guidance: &str| {
                Err(Error::new(ErrorKind::Target, message).with("version", &said).guidance(guidance))
            };
            match Version::parse(&said) {
                Some(version @ Version(1, 16..)) => Ok((said, version)),
                Some(Version(0 | 1, _)) => refuse(
                    "the Qdrant server is too old: its collections have no metadata, where regrow keeps its marker",
                    "use Qdrant 1.16 or later",
                ),
                Some(_) => refuse(
                    "the Qdrant server is of a major version that this regrow does not know",
                    "use a newer regrow, or Qdrant 1.16 or a later 1.x",
                ),
                None => refuse("the server does not say which version it is", "check `target.url`"),
            }
        };
        self.inner.ready.get_or_try_init(ask).await
    }

    /// The collection with this physical or production name, if it is there.
    async fn find(&self, name: &str) -> Result<Option<Remote>> {
        match self.look(name).await? {
            Some(remote) if remote.unfinished()?.is_some() => Ok(None),
            other => Ok(other),
        }
    }

    /// The same, also when it is only being made.
    async fn look(&self, name: &str) -> Result<Option<Remote>> {
        self.ready().await?;
        let all = self.client().aliases().await?;
        let physical = all.iter().find(|a| a.alias_name == name).map_or(name, |a| a.collection_name.as_str());
        let Some(info) = self.client().get(physical).await? else { return Ok(None) };
        let of_it = all.iter().filter(|a| a.collection_name == physical).map(|a| a.alias_name.clone());
        let mut aliases: Vec<String> = of_it.collect();
        aliases.sort_unstable();
        Ok(Some(Remote { name: physical.to_owned(), aliases, info }))
    }

    async fn read(&self, name: &str) -> Result<Remote> {
        self.find(name).await?.ok_or_else(|| checks::not_found(name))
    }

    /// The collection behind a handle, as it is now.
    async fn owned(&self, held: &OwnedCollection) -> Result<Remote> {
        let remote = self.find(held.name()).await?.filter(|remote| remote.name == held.name());
        let remote = remote.ok_or_else(|| checks::not_found(held.name()))?;
        remote.held_by(held.marker().instance)?;
        Ok(remote)
    }

    /// What reads have to know of a collection.
    async fn shape(&self, name: &str) -> Result<Shape> {
        let lock = || self.inner.shapes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shape) = fresh(lock().get(name)) {
            return Ok(shape);
        }
        let shape = self.read(name).await?.shape()?;
        lock().insert(name.to_owned(), (shape.clone(), Instant::now()));
        Ok(shape)
    }

    /// The name, unless the collection is only being made.
    async fn finished(&self, name: String) -> Result<Option<String>> {
        let Some(info) = self.client().get(&name).await? else { return Ok(None) };
        let remote = Remote { name, aliases: Vec::new(), info };
        Ok(remote.unfinished()?.is_none().then_some(remote.name))
    }

    /// What writes have to know of a collection; its marker was seen a moment ago.
    async fn known(&self, held: &OwnedCollection) -> Result<Shape> {
        let instance = (held.name().to_owned(), held.marker().instance);
        let lock = || self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shape) = fresh(lock().get(&instance)) {
            return Ok(shape);
        }
        let shape = self.owned(held).await?.shape()?;
        lock().insert(instance, (shape.clone(), Instant::now()));
        Ok(shape)
    }

    /// What was remembered may be wrong now.
    fn forget_all(&self) {
        self.inner.shapes.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.inner.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn settle(&self, collection: &str) -> Result<()> {
        write::settle(self, collection).await
    }
}

#[async_trait]
impl Target for QdrantTarget {
    fn kind(&self) -> &'static str {
        "qdrant"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            atomic_promote: true,
            rename: false,
            several_names: true,
            deferred_index: true,
            exact_count: true,
            persistent: true,
            exclusive: false,
            max_batch_points: BATCH,
            max_batch_bytes: self.inner.batch_bytes,
            write_concurrency: self.inner.writers,
            metrics: vec![Metric::Cosine, Metric::Dot, Metric::Euclidean],
            tenants: vec![TenantKeeping::Payload],
            native_import: false,
            // For others. This process sees its own writes at once.
            consistency: Consistency::AfterFlush,
            names: NAMES,
        }
    }

    async fn server(&self) -> Result<ServerInfo> {
        let version = self.ready().await?.0.clone();
        Ok(ServerInfo { name: "Qdrant".to_owned(), version, details: BTreeMap::new() })
    }

    async fn unsupported(&self, spec: &CollectionSpec) -> Result<Vec<String>> {
        collection::unsupported(spec, self.ready().await?.1)
    }

    async fn list(&self) -> Result<Vec<String>> {
        self.ready().await?;
        let mut names = Vec::new();
        for some in self.client().list().await?.chunks(8) {
            let asked = some.iter().map(|name| self.finished(name.clone()));
            names.extend(futures::future::try_join_all(asked).await?.into_iter().flatten());
        }
        names.sort_unstable();
        Ok(names)
    }

    async fn describe(&self, name: &str) -> Result<Option<CollectionInfo>> {
        write::settle_all(self).await?;
        let Some(remote) = self.find(name).await? else { return Ok(None) };
        let Some(count) = client::absent(self.client().count(&remote.name, None).await)? else { return Ok(None) };
        let tenants = match remote.knows_tenants() {
            true => self.client().distinct(&remote.name, field::TENANT, TENANTS).await?,
            false => None,
        };
        remote.info(count, tenants).map(Some)
    }

    async fn create(&self, spec: &CollectionSpec) -> Result<OwnedCollection> {
        let (own, _) = collection::servable(spec)?;
        checks::fits("collection", &spec.name, &NAMES)?;
        if let Some(there) = self.look(&spec.name).await? {
            let physical = there.name == spec.name;
            if !physical || there.unfinished()?.is_none() {
                return Err(checks::taken(&spec.name, if physical { "a collection" } else { "a production name" }));
            }
            // What was interrupted is of no use to anybody.
            self.client().delete(&spec.name).await?;
        }
        let taken = |e: Error| match e.kind() {
            ErrorKind::AlreadyExists => checks::taken(&spec.name, "a collection").because(e),
            _ => e,
        };
        self.client().create(collection::creation(spec, &own)?).await.map_err(taken)?;
        let (parameters, others) = (own.payload_index_parameters.as_ref(), own.other_payload_indexes.as_ref());
        let (requests, _) = indexes::requests(&spec.name, &spec.payload_indexes, parameters, others)?;
        for request in requests {
            self.client().index_field(request).await?;
        }
        let made = self.look(&spec.name).await?.filter(|made| made.name == spec.name);
        let made = made.ok_or_else(|| checks::not_found(&spec.name).transient())?;
        if made.unfinished()? != Some(spec.marker.instance) {
            return Err(checks::taken(&spec.name, "a collection that somebody else made at the same time"));
        }
        self.client().update(collection::completion(spec, &own, &made)?).await?;
        self.forget_all();
        Ok(OwnedCollection::attest(spec.name.clone(), spec.marker.clone()))
    }

    async fn open_owned(&self, name: &str) -> Result<OwnedCollection> {
        let remote = self.read(name).await?;
        let marker = remote.marker()?.ok_or_else(|| checks::not_owned(name))?;
        Ok(OwnedCollection::attest(remote.name, marker))
    }

    async fn adopt(&self, name: &str, marker: Marker) -> Result<OwnedCollection> {
        let remote = self.read(name).await?;
        if remote.marker()?.is_some() {
            return Err(checks::owned_already(name));
        }
        let spec = Spec { ef_search: Some(remote.shape()?.ef_search) };
        self.client().update(edit(&remote.name, [(SPEC, text(&spec)?), (MARKER, text(&marker)?)])).await?;
        Ok(OwnedCollection::attest(remote.name, marker))
    }

    async fn mark(&self, held: &OwnedCollection, marker: Marker) -> Result<OwnedCollection> {
        checks::same_instance(held.name(), held.marker().instance, marker.instance)?;
        self.owned(held).await?;
        self.client().update(edit(held.name(), [(MARKER, text(&marker)?)])).await?;
        Ok(OwnedCollection::attest(held.name().to_owned(), marker))
    }

    async fn write(&self, held: &OwnedCollection, points: Vec<Point>) -> Result<WriteOutcome> {
        let shape = self.known(held).await?;
        match write::write(self, held.name(), &shape, points).await {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.forget_all();
                write::forget(self, held.name());
                self.owned(held).await?;
                Err(checks::not_found(held.name()).transient())
            }
            other => other,
        }
    }

    async fn flush(&self, held: &OwnedCollection) -> Result<()> {
        self.owned(held).await?;
        self.settle(held.name()).await
    }

    async fn start_index(&self, held: &OwnedCollection) -> Result<()> {
        index::start(self, held).await
    }

    async fn index_state(&self, held: &OwnedCollection) -> Result<IndexState> {
        index::state(self, held).await
    }

    async fn count(&self, name: &str, filter: &Filter) -> Result<u64> {
        let checked = conditions::check(filter)?;
        reading!(self, name, _shape => async {
            match conditions::matches_nothing(&checked) {
                true => Ok(0),
                false => self.client().count(name, filter::filter(&checked)).await,
            }
        })
    }

    async fn fetch(&self, name: &str, ids: &[ChunkId]) -> Result<Vec<Point>> {
        reading!(self, name, shape => reads::fetch(self.client(), name, &shape, ids))
    }

    async fn scroll(&self, name: &str, after: Option<ChunkId>, limit: usize) -> Result<ScrollPage> {
        reading!(self, name, shape => reads::scroll(self.client(), name, &shape, after, limit))
    }

    async fn search(&self, name: &str, request: &SearchRequest) -> Result<Vec<ScoredPoint>> {
        let checked = conditions::check(&request.filter)?;
        reading!(self, name, shape => reads::search(self.client(), name, &shape, request, &checked))
    }

    async fn promote(&self, alias: &str, held: &OwnedCollection) -> Result<Option<String>> {
        checks::fits("production name", alias, &NAMES)?;
        promote::promote(self, alias, held).await
    }

    async fn delete(&self, held: OwnedCollection) -> Result<()> {
        let remote = self.owned(&held).await?;
        if !remote.aliases.is_empty() {
            return Err(checks::in_production(&remote.name, &remote.aliases));
        }
        let there = self.client().delete(held.name()).await?;
        self.forget_all();
        write::forget(self, held.name());
        if there { Ok(()) } else { Err(checks::not_found(held.name())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(Version::parse("1.18.3"), Some(Version(1, 18)));
        assert_eq!(Version::parse("v1.9.0-rc.1"), Some(Version(1, 9)));
        assert!(Version(1, 9) < Version(1, 16));
        assert_eq!(Version::parse("latest"), None);
    }
}
