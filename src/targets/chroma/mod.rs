//! Chroma, local or in its cloud, by its HTTP interface of version 2.
//!
//! - **Load.** Upserts in columns with vectors as base64, by bytes and within the server's own limit. Records that are
//!   there already are not written again; those with other fields are removed first, because Chroma's upsert merges. In a collection that this
//!   process made only what it may have written itself is looked up. A batch that the server refuses is
//!   halved until the record at fault is alone, and that one is reported.
//! - **Index.** Chroma builds it while it writes; [`Target::start_index`] makes it catch up with its log.
//! - **Payload.** Metadata is flat: see `payload`. Everything comes back as it was.
//! - **Cosine.** Vectors get length 1 unless their squared length is within 1e-6 of it, and are compared by dot
//!   product, because Chroma's own cosine would change their bits.
//! - **Promotion.** By renaming, in two steps: for a moment nothing has the production name. What was interrupted between
//!   them is finished by the next promotion, and reads through regrow see the new collection meanwhile. A collection
//!   has one production name. A pointer in another collection would be atomic, but no other client follows it: it would
//!   find an empty collection, where now it finds none for a moment.
//! - **Exact search and filters.** Chroma has no exact search: every vector that passes the filter is read and compared.

mod client;
mod collection;
mod filter;
mod payload;
mod promote;
mod reads;
mod write;
mod written;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::OnceCell;
use url::Url;
use uuid::Uuid;

use self::client::{Client, Limits, Remote, absent};
use self::reads::{Buckets, Filtered, Include};
use self::written::Written;
use super::connect::Connection;
use super::contract::{OwnedCollection, Target};
use super::types::*;
use super::{checks, filter as conditions};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::ChunkId;
use crate::model::Metric;
use crate::pipeline::TargetSettings;
use crate::secret::Secret;

/// Points in one write where the server allows it: its time per point falls up to about here.
const BATCH: usize = 2000;
/// Versions before 1 that have the interface's version 2.
const OLD_ENOUGH: [&str; 4] = ["0.6.", "0.7.", "0.8.", "0.9."];
/// Chroma takes names of up to 512; its cloud up to 128.
const NAMES: Names =
    Names { max_bytes: 128, characters: Characters::Words { also: "-_.", upper: true, digit_first: true } };

/// Where a Chroma server is, and how to talk to it.
#[derive(Debug, Clone)]
pub struct ChromaOptions {
    /// `http://HOST:PORT` or `https://HOST`.
    pub url: Url,
    /// Chroma's tenant; made by the first `create` where it is missing.
    pub tenant: String,
    /// Chroma's database; made by the first `create` where it is missing.
    pub database: String,
    /// For the header `x-chroma-token`.
    pub token: Option<Secret>,
    /// Certificates to trust beside the machine's, in PEM.
    pub ca: Option<Vec<u8>>,
    /// For a request and its answer; writes, and queries that wait for the index, have ten times as long.
    pub timeout: Duration,
    /// Most bytes of vectors and payload in one request; a point that is larger travels alone.
    pub batch_bytes: usize,
    /// Writes that may be under way at once.
    pub writers: usize,
}

impl ChromaOptions {
    /// The default tenant and database of the server at `url`.
    pub fn new(url: Url) -> Self {
        Self {
            url,
            tenant: "default_tenant".to_owned(),
            database: "default_database".to_owned(),
            token: None,
            ca: None,
            timeout: Duration::from_secs(60),
            batch_bytes: 8 << 20,
            // The server takes one write at a time into its log; a second is read meanwhile.
            writers: 2,
        }
    }
}

/// A database of a Chroma server. Clones share the connections.
#[derive(Debug, Clone)]
pub struct ChromaTarget {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    batch_bytes: usize,
    writers: usize,
    ready: OnceCell<Ready>,
    /// What is written to, by name and instance: the server's id leads to no successor of the same name.
    known: Mutex<HashMap<(String, Uuid), Known>>,
}

/// What the server said when it was first asked.
#[derive(Debug, Clone)]
struct Ready {
    version: String,
    limits: Limits,
}

/// A collection that is written to.
#[derive(Debug, Clone)]
struct Known {
    id: String,
    dimension: usize,
    metric: Metric,
    /// What was written since this process made it; absent where it did not.
    written: Option<Arc<Written>>,
}

impl ChromaTarget {
    /// Sets up the client; nothing is sent yet.
    ///
    /// [`ErrorKind::Configuration`] for a URL or certificate that cannot be used.
    pub fn new(options: &ChromaOptions) -> Result<Self> {
        Ok(Self {
            inner: Arc::new(Inner {
                client: Client::open(options)?,
                batch_bytes: options.batch_bytes.max(1),
                writers: options.writers.max(1),
                ready: OnceCell::new(),
                known: Mutex::default(),
            }),
        })
    }

    /// As the pipeline says.
    pub(crate) fn connect(connection: Connection, settings: &TargetSettings) -> Result<Self> {
        let mut options = ChromaOptions::new(connection.url);
        if let Some(tenant) = settings.chroma.as_ref().and_then(|own| own.tenant.clone()) {
            options.tenant = tenant;
        }
        options.database = connection.database.unwrap_or(options.database);
        options.batch_bytes = settings.batch_bytes.unwrap_or(options.batch_bytes);
        options.writers = connection.writers.unwrap_or(options.writers);
        (options.token, options.ca, options.timeout) = (connection.api_key, connection.ca, connection.timeout);
        Self::new(&options)
    }

    fn client(&self) -> &Client {
        &self.inner.client
    }

    async fn ready(&self) -> Result<&Ready> {
        let ask = || async {
            let none = || {
                Error::new(ErrorKind::Target, "no Chroma server of interface version 2 answers there").guidance(
                    "check `target.url`: the address of a Chroma server of version 0.6 or later, without a path",
                )
            };
            let version = absent(self.client().version().await)?.ok_or_else(none)?;
            if version.starts_with("0.") && !OLD_ENOUGH.iter().any(|old| version.starts_with(old)) {
                return Err(Error::new(
                    ErrorKind::Target,
                    "the Chroma server is too old: it lacks interface version 2",
                )
                .with("version", version)
                .guidance("use Chroma 0.6 or later; its release notes say how to bring the data along"));
            }
            Ok(Ready { version, limits: self.client().limits().await? })
        };
        self.inner.ready.get_or_try_init(ask).await
    }

    /// The collection with this physical or production name.
    async fn find(&self, name: &str) -> Result<Option<Remote>> {
        self.ready().await?;
        if let Some(remote) = self.client().named(&collection::stored(name)).await? {
            return Ok(Some(remote));
        }
        // It has its production name at the server, or is about to take this one.
        let mut taker = None;
        for remote in self.client().list().await? {
            if remote.physical() == name || remote.alias() == Some(name) {
                return Ok(Some(remote));
            }
            if remote.taking()?.is_some_and(|t| t.alias == name) {
                taker = Some(remote);
            }
        }
        Ok(taker)
    }

    async fn read(&self, name: &str) -> Result<Remote> {
        self.find(name).await?.ok_or_else(|| checks::not_found(name))
    }

    /// The collection behind a handle, as it is now.
    async fn owned(&self, held: &OwnedCollection) -> Result<Remote> {
        let remote = self.find(held.name()).await?.filter(|r| r.physical() == held.name());
        let remote = remote.ok_or_else(|| checks::not_found(held.name()))?;
        remote.held_by(held.name(), held.marker().instance)?;
        Ok(remote)
    }

    /// Production names of a collection: the one it has, or the one that an interrupted promotion left to it.
    async fn aliases(&self, remote: &Remote) -> Result<Vec<String>> {
        if let Some(alias) = remote.alias() {
            return Ok(vec![alias.to_owned()]);
        }
        let Some(taking) = remote.taking()? else { return Ok(Vec::new()) };
        let holder = self.client().named(&collection::stored(&taking.alias)).await?;
        Ok(if holder.is_none() { vec![taking.alias] } else { Vec::new() })
    }

    async fn known(&self, held: &OwnedCollection) -> Result<Known> {
        let instance = (held.name().to_owned(), held.marker().instance);
        let lock = || self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(&instance) {
            return Ok(known.clone());
        }
        let remote = self.owned(held).await?;
        let known =
            Known { dimension: remote.dimension()?, metric: remote.distance()?.1, id: remote.id, written: None };
        lock().insert(instance, known.clone());
        Ok(known)
    }

    fn forget(&self, held: &OwnedCollection) {
        let mut known = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(&(held.name().to_owned(), held.marker().instance));
    }

    /// The error that says what became of a collection that is not there any more.
    async fn gone(&self, held: &OwnedCollection) -> Error {
        self.forget(held);
        match self.owned(held).await {
            Err(e) => e,
            Ok(_) => checks::not_found(held.name()).transient(),
        }
    }
}

#[async_trait]
impl Target for ChromaTarget {
    fn kind(&self) -> &'static str {
        "chroma"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            atomic_promote: false,
            rename: true,
            several_names: false,
            deferred_index: false,
            exact_count: true,
            persistent: true,
            exclusive: false,
            max_batch_points: BATCH,
            max_batch_bytes: self.inner.batch_bytes,
            write_concurrency: self.inner.writers,
            metrics: vec![Metric::Cosine, Metric::Dot, Metric::Euclidean],
            tenants: vec![TenantKeeping::Payload],
            native_import: false,
            consistency: Consistency::Immediate,
            names: NAMES,
        }
    }

    /// The version is that of the interface: Chroma says `1.0.0` in every release from 1.0 on.
    async fn server(&self) -> Result<ServerInfo> {
        let Ready { version, limits } = self.ready().await?.clone();
        let details = BTreeMap::from([
            ("most records in a request".to_owned(), limits.max_batch_size.to_string()),
            ("vectors as base64".to_owned(), limits.supports_base64_encoding.to_string()),
        ]);
        Ok(ServerInfo { name: "Chroma".to_owned(), version, details })
    }

    async fn unsupported(&self, spec: &CollectionSpec) -> Result<Vec<String>> {
        checks::spec(spec)?;
        Ok(collection::unsupported(spec, self.client().is_cloud()))
    }

    async fn list(&self) -> Result<Vec<String>> {
        self.ready().await?;
        let mut names: Vec<String> =
            self.client().list().await?.iter().map(|remote| remote.physical().to_owned()).collect();
        names.sort_unstable();
        Ok(names)
    }

    async fn describe(&self, name: &str) -> Result<Option<CollectionInfo>> {
        let Some(remote) = self.find(name).await? else { return Ok(None) };
        let Some(count) = absent(self.client().count(&remote.id).await)? else { return Ok(None) };
        remote.info(self.aliases(&remote).await?, count).map(Some)
    }

    async fn create(&self, spec: &CollectionSpec) -> Result<OwnedCollection> {
        checks::spec(spec)?;
        checks::fits("collection", &spec.name, &NAMES)?;
        if let Some(there) = self.find(&spec.name).await? {
            let physical = there.physical() == spec.name;
            return Err(checks::taken(&spec.name, if physical { "a collection" } else { "a production name" }));
        }
        match self.client().create(&collection::creation(spec, self.client().is_cloud())?).await {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(checks::taken(&spec.name, "a collection").because(e)),
            other => {
                let written = Some(Arc::new(Written::default()));
                let known = Known { id: other?.id, dimension: spec.dimension, metric: spec.metric, written };
                let mut all = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
                all.insert((spec.name.clone(), spec.marker.instance), known);
                Ok(OwnedCollection::attest(spec.name.clone(), spec.marker.clone()))
            }
        }
    }

    async fn open_owned(&self, name: &str) -> Result<OwnedCollection> {
        let remote = self.read(name).await?;
        let marker = remote.marker()?.ok_or_else(|| checks::not_owned(name))?;
        Ok(OwnedCollection::attest(remote.physical().to_owned(), marker))
    }

    async fn adopt(&self, name: &str, marker: Marker) -> Result<OwnedCollection> {
        let remote = self.read(name).await?;
        if remote.marker()?.is_some() {
            return Err(checks::owned_already(name));
        }
        let mut metadata = remote.metadata();
        let physical = remote.physical().to_owned();
        metadata.insert(collection::NAME.to_owned(), physical.clone().into());
        metadata.insert(collection::MARKER.to_owned(), collection::text(&marker)?.into());
        self.client().update(&remote.id, &metadata, None).await?;
        Ok(OwnedCollection::attest(physical, marker))
    }

    async fn mark(&self, held: &OwnedCollection, marker: Marker) -> Result<OwnedCollection> {
        checks::same_instance(held.name(), held.marker().instance, marker.instance)?;
        let remote = self.owned(held).await?;
        let mut metadata = remote.metadata();
        metadata.insert(collection::MARKER.to_owned(), collection::text(&marker)?.into());
        self.client().update(&remote.id, &metadata, None).await?;
        Ok(OwnedCollection::attest(held.name().to_owned(), marker))
    }

    async fn write(&self, held: &OwnedCollection, points: Vec<Point>) -> Result<WriteOutcome> {
        let known = self.known(held).await?;
        match write::write(self, &known, points).await {
            Err(e) if e.kind() == ErrorKind::NotFound => Err(self.gone(held).await),
            other => other,
        }
    }

    /// The server has written to its log before it answers a write.
    async fn flush(&self, held: &OwnedCollection) -> Result<()> {
        self.owned(held).await.map(drop)
    }

    async fn start_index(&self, held: &OwnedCollection) -> Result<()> {
        let remote = self.owned(held).await?;
        if !remote.indexed() {
            let mut metadata = remote.metadata();
            metadata.insert(collection::INDEXED.to_owned(), true.into());
            self.client().update(&remote.id, &metadata, None).await?;
        }
        if self.client().count(&remote.id).await? > 0 {
            // A server of one node takes its log into the index when it is asked something.
            let any = vec![1.0_f32; remote.dimension()?];
            let body = json!({"query_embeddings": [any], "n_results": 1, "include": []});
            self.client().query(&remote.id, &body).await?;
        }
        Ok(())
    }

    async fn index_state(&self, held: &OwnedCollection) -> Result<IndexState> {
        let remote = self.owned(held).await?;
        let total = self.client().count(&remote.id).await?;
        if !remote.indexed() {
            return Ok(IndexState { done: total == 0, indexed: 0, total });
        }
        let waiting = self.client().indexing(&remote.id).await?.map_or(0, |state| state.num_unindexed_ops);
        Ok(IndexState { done: waiting == 0, indexed: total.saturating_sub(waiting), total })
    }

    async fn count(&self, name: &str, filter: &Filter) -> Result<u64> {
        let checked = conditions::check(filter)?;
        let remote = self.read(name).await?;
        Filtered::new(self.client(), &remote, &checked).await?.count().await
    }

    async fn fetch(&self, name: &str, ids: &[ChunkId]) -> Result<Vec<Point>> {
        let remote = self.read(name).await?;
        reads::fetch(self.client(), &remote.id, ids, Include::ALL).await
    }

    async fn scroll(&self, name: &str, after: Option<ChunkId>, limit: usize) -> Result<ScrollPage> {
        let remote = self.read(name).await?;
        let limit = limit.max(1);
        let count = self.client().count(&remote.id).await?;
        let from = after.map_or(0, payload::bucket);
        // Buckets hold as many as expected, give or take the root of that: mostly one request is enough.
        let page = limit + 4 * limit.isqrt() + 1;
        let mut buckets = Buckets::new(self.client(), &remote.id, filter::every, Include::ALL, (from, page, count));
        let mut points: Vec<Point> = Vec::new();
        while points.len() <= limit {
            let Some(page) = buckets.next().await? else { break };
            points.extend(page.into_iter().filter(|p| after.is_none_or(|after| p.id > after)));
        }
        let more = points.len() > limit;
        points.truncate(limit);
        let next = if more { points.last().map(|p| p.id) } else { None };
        Ok(ScrollPage { points, next })
    }

    async fn search(&self, name: &str, request: &SearchRequest) -> Result<Vec<ScoredPoint>> {
        let checked = conditions::check(&request.filter)?;
        let remote = self.read(name).await?;
        checks::query(name, &request.vector, remote.dimension()?)?;
        let filtered = Filtered::new(self.client(), &remote, &checked).await?;
        if request.exact {
            return filtered.exact(&request.vector, request.limit).await;
        }
        let mut vector = request.vector.clone();
        if remote.distance()?.1 == Metric::Cosine {
            write::normalise(&mut vector);
        }
        filtered.nearest(&vector, request.limit).await
    }

    async fn promote(&self, alias: &str, held: &OwnedCollection) -> Result<Option<String>> {
        checks::fits("production name", alias, &NAMES)?;
        promote::promote(self, alias, held).await
    }

    async fn delete(&self, held: OwnedCollection) -> Result<()> {
        let remote = self.owned(&held).await?;
        let aliases = self.aliases(&remote).await?;
        if !aliases.is_empty() {
            return Err(checks::in_production(held.name(), &aliases));
        }
        self.client().delete(&remote.name).await?;
        self.forget(&held);
        Ok(())
    }
}
