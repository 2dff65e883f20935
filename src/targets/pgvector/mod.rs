//! PostgreSQL with pgvector: a collection is a table, a production name a view of it (or the table's own name).
//!
//! - **Load.** Binary COPY over several connections into an unlogged table with nothing but its primary key. A batch with
//!   an id that is there already goes through a temporary table and replaces what it names.
//! - **Index.** The table is made durable first, because that writes it anew with all its indexes; then the vector index with
//!   the memory and the processes it can use, then the payload indexes.
//! - **Durability.** Until the index is built, points survive the end of regrow and a restart of the server, and are gone after a
//!   crash of the server: a restore notices that, and loads them again from the stored parts.
//! - **Payload** is jsonb; what jsonb would change (zero characters, negative zero, numbers with an exponent) is kept as text beside it.
//! - **Marker** and what the catalog does not say stand in the table's comment.

mod client;
mod collection;
mod filter;
mod index;
mod points;
mod promote;
mod sql;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::SinkExt;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;

use self::client::{Extension, Lease, Pool, wrong};
use self::collection::{Entry, Note, catalog, find};
use self::index::Job;
use self::points::Batch;
use self::sql::{literal, quoted};
use super::connect::Connection;
use super::contract::{OwnedCollection, Target};
use super::types::*;
use super::{checks, filter as conditions};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use crate::ids::ChunkId;
use crate::model::Metric;
use crate::pipeline::{PgvectorIndex, PgvectorSwitch, TargetSettings};

/// Longest identifier of PostgreSQL.
const MAX_NAME_BYTES: usize = 63;
/// Most candidates that pgvector's search takes.
const MAX_CANDIDATES: usize = 1000;

/// Collections in one schema of a database. Connects at the first call.
pub struct PgvectorTarget {
    pool: Arc<Pool>,
    writers: usize,
    switch: PgvectorSwitch,
    events: Events,
    /// Builds of this process, by instance.
    jobs: Mutex<HashMap<uuid::Uuid, Job>>,
    /// Tables that were written to, by name and instance: each write checks in its own transaction that they are the same still.
    written: Mutex<HashMap<(String, uuid::Uuid), Entry>>,
}

impl PgvectorTarget {
    pub(crate) fn new(connection: &Connection, settings: &TargetSettings, events: Events) -> Result<Self> {
        let own = settings.pgvector.clone().unwrap_or_default();
        let schema = own.schema.unwrap_or_else(|| "public".to_owned());
        Ok(Self {
            pool: Arc::new(Pool::new(connection, schema)?),
            writers: connection.writers.unwrap_or(6),
            switch: own.switch.unwrap_or_default(),
            events,
            jobs: Mutex::default(),
            written: Mutex::default(),
        })
    }

    async fn entry(&self, client: &Lease<'_>, name: &str) -> Result<Entry> {
        find(client, &self.pool.schema, name).await?.ok_or_else(|| checks::not_found(name))
    }

    async fn owned(&self, client: &Lease<'_>, held: &OwnedCollection) -> Result<Entry> {
        let entries = catalog(client, &self.pool.schema).await?;
        promote::owned(&entries, held).cloned()
    }

    fn job(&self, instance: uuid::Uuid) -> Option<Job> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).get(&instance).cloned()
    }

    /// COPY into a table; false when an id is there already, and nothing was written.
    async fn copy(client: &Lease<'_>, relation: &str, rows: &Bytes) -> Result<bool> {
        let doing = |e| wrong("writing points", e);
        let statement = format!("COPY {relation} ({}) FROM STDIN (FORMAT BINARY)", points::COLUMNS);
        let mut sink = Box::pin(client.copy_in::<_, Bytes>(&statement).await.map_err(doing)?);
        let sent = async {
            // Pieces that the connection can send while the next ones are taken.
            for at in (0..rows.len()).step_by(1 << 20) {
                sink.send(rows.slice(at..rows.len().min(at + (1 << 20)))).await?;
            }
            sink.send(points::tail()).await?;
            sink.as_mut().finish().await
        };
        match sent.await {
            Ok(_) => Ok(true),
            Err(e) if e.code() == Some(&SqlState::UNIQUE_VIOLATION) => Ok(false),
            Err(e) => Err(doing(e)),
        }
    }

    /// The collection's table as the last write found it, or as it is now.
    async fn known(&self, held: &OwnedCollection, now: bool) -> Result<Entry> {
        let instance = (held.name().to_owned(), held.marker().instance);
        let lock = || self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().get(&instance).filter(|_| !now).cloned();
        if let Some(entry) = known {
            return Ok(entry);
        }
        let client = self.pool.lease().await?;
        let entry = self.owned(&client, held).await?;
        client.done();
        lock().insert(instance, entry.clone());
        Ok(entry)
    }

    /// Begins a transaction in which the table is the one that is meant, with its marker; false, and no transaction, when
    /// it is not.
    async fn begin(&self, client: &Lease<'_>, entry: &Entry) -> Result<bool> {
        let doing = |e| wrong("writing points", e);
        let instance = entry.note.as_ref().map(|note| note.marker.instance.to_string()).unwrap_or_default();
        // One round trip, so in literals.
        let statements = format!(
            "BEGIN; LOCK TABLE {} IN ROW EXCLUSIVE MODE; \
             SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = {} AND c.relname = {} AND c.oid::int8 = {} \
             AND position({} IN obj_description(c.oid, 'pg_class')) > 0",
            entry.relation(&self.pool.schema),
            literal(&self.pool.schema),
            literal(&entry.table),
            entry.oid,
            literal(&instance),
        );
        let same = match client.simple_query(&statements).await {
            Ok(messages) => messages.iter().any(|m| matches!(m, SimpleQueryMessage::Row(_))),
            Err(e) if e.code() == Some(&SqlState::UNDEFINED_TABLE) => false,
            Err(e) => return Err(doing(e)),
        };
        if !same {
            client.batch_execute("ROLLBACK").await.map_err(doing)?;
        }
        Ok(same)
    }

    /// Writes points of which some are there already.
    async fn replace(&self, client: &Lease<'_>, entry: &Entry, rows: &Bytes) -> Result<()> {
        let relation = entry.relation(&self.pool.schema);
        let columns = points::COLUMNS;
        let doing = |e| wrong("replacing points", e);
        if !self.begin(client, entry).await? {
            return Err(made_anew(entry));
        }
        let stage = format!("CREATE TEMPORARY TABLE regrow_stage (LIKE {relation}) ON COMMIT DROP");
        client.batch_execute(&stage).await.map_err(doing)?;
        Self::copy(client, "pg_temp.regrow_stage", rows).await?;
        let statement = match entry.partitioned {
            // In order of the ids, so that two that write the same do not wait for one another.
            false => format!(
                "INSERT INTO {relation} ({columns}) SELECT {columns} FROM pg_temp.regrow_stage ORDER BY id ON CONFLICT (id) DO UPDATE \
                 SET tenant = excluded.tenant, embedding = excluded.embedding, payload = excluded.payload, exact = excluded.exact"
            ),
            // A point may have another tenant now, and so another partition.
            true => format!(
                "DELETE FROM {relation} t USING pg_temp.regrow_stage s WHERE t.id = s.id; \
                 INSERT INTO {relation} ({columns}) SELECT {columns} FROM pg_temp.regrow_stage ORDER BY id"
            ),
        };
        match client.batch_execute(&format!("{statement}; COMMIT")).await {
            Err(e) if e.code() == Some(&SqlState::UNIQUE_VIOLATION) => Err(doing(e).transient()),
            other => other.map_err(doing),
        }
    }

    /// Whether a point of these is there already. In a partitioned table the primary key does not say: it holds the tenant too.
    async fn any_there(&self, client: &Lease<'_>, entry: &Entry, ids: &[String]) -> Result<bool> {
        let relation = entry.relation(&self.pool.schema);
        let query = format!("SELECT EXISTS (SELECT 1 FROM {relation} WHERE id = ANY($1::text[]::uuid[]))");
        let row = client.query_one(&query, &[&ids]).await.map_err(|e| wrong("looking for points", e))?;
        Ok(row.get(0))
    }

    /// A search that looks at every point that passes, or one with the index.
    async fn nearest(
        &self,
        client: &Lease<'_>,
        entry: &Entry,
        request: &SearchRequest,
        condition: &str,
        exact: bool,
    ) -> Result<Vec<ScoredPoint>> {
        let relation = entry.relation(&self.pool.schema);
        let metric = entry.note.as_ref().map_or(Metric::Cosine, |note| note.metric);
        let operator = match metric {
            Metric::Cosine => "<=>",
            Metric::Dot => "<#>",
            Metric::Euclidean => "<->",
        };
        let limit = i64::try_from(request.limit).unwrap_or(i64::MAX);
        let query = if exact {
            // A vector without direction has no distance: it is similar to nothing, which is a cosine of 0.
            format!(
                "SELECT id, payload, exact, d FROM (SELECT id, payload, exact, CASE WHEN d = 'NaN' THEN 1 ELSE d END AS d FROM \
                 (SELECT id, payload, exact, embedding {operator} $1 AS d FROM {relation} WHERE {condition}) s) s \
                 ORDER BY d, id LIMIT {limit}"
            )
        } else {
            format!(
                "SELECT id, payload, exact, embedding {operator} $1 AS d FROM {relation} WHERE {condition} \
                 ORDER BY embedding {operator} $1 LIMIT {limit}"
            )
        };
        let mut vector = Vec::with_capacity(4 + 4 * request.vector.len());
        points::vector(&request.vector, entry.vector_type, &mut vector);
        let doing = |e| wrong("searching", e);
        let rows = client.query(&query, &[&points::Encoded(vector)]).await.map_err(doing)?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            let (id, payload) = points::id_and_payload(entry.name(), row, 0)?;
            let distance: f64 = row.get(3);
            let score = match metric {
                Metric::Cosine if distance.is_nan() => 0.0,
                Metric::Cosine => 1.0 - distance,
                Metric::Dot => -distance,
                Metric::Euclidean => distance,
            };
            #[expect(clippy::cast_possible_truncation, reason = "scores are f32")]
            let score = score as f32;
            found.push(ScoredPoint { id, score, payload });
        }
        Ok(found)
    }
}

fn made_anew(entry: &Entry) -> Error {
    Error::new(ErrorKind::Target, "the table was made anew by someone else in the meantime")
        .with("collection", entry.name())
        .guidance("run the command again: it starts from the collection that is there now")
}

#[async_trait]
impl Target for PgvectorTarget {
    fn kind(&self) -> &'static str {
        "pgvector"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            rename: true,
            exclusive: false,
            max_batch_points: 4096,
            max_batch_bytes: 4 << 20,
            write_concurrency: self.writers,
            tenants: vec![TenantKeeping::Payload, TenantKeeping::Partition],
            names: Names { max_bytes: MAX_NAME_BYTES, characters: Characters::Any },
            ..Capabilities::local()
        }
    }

    async fn server(&self) -> Result<ServerInfo> {
        Ok(self.pool.known().await?.info.clone())
    }

    async fn unsupported(&self, spec: &CollectionSpec) -> Result<Vec<String>> {
        checks::spec(spec)?;
        let (own, unknown) = collection::own(&spec.own)?;
        collection::servable(spec, &own)?;
        let mut out: Vec<String> = unknown.iter().map(|key| format!("{key}: pgvector has no such parameter")).collect();
        let client = self.pool.lease().await?;
        let (_, missing) = collection::grants(&client, "x", &spec.roles).await?;
        client.done();
        out.extend(missing.iter().map(|role| format!("the rights of {role}: there is no such role in this database")));
        Ok(out)
    }

    async fn list(&self) -> Result<Vec<String>> {
        let client = self.pool.lease().await?;
        let mut names: Vec<String> =
            catalog(&client, &self.pool.schema).await?.iter().map(|entry| entry.name().to_owned()).collect();
        client.done();
        names.sort_unstable();
        Ok(names)
    }

    async fn describe(&self, name: &str) -> Result<Option<CollectionInfo>> {
        let client = self.pool.lease().await?;
        let info = match find(&client, &self.pool.schema, name).await? {
            Some(entry) => Some(collection::info(&client, &self.pool.schema, &entry).await?),
            None => None,
        };
        client.done();
        Ok(info)
    }

    async fn create(&self, spec: &CollectionSpec) -> Result<OwnedCollection> {
        checks::spec(spec)?;
        checks::fits("collection", &spec.name, &self.capabilities().names)?;
        let (mut own, _) = collection::own(&spec.own)?;
        collection::servable(spec, &own)?;
        let policies = own.policies.take().unwrap_or_default();
        // Where the table is, is no part of what it is.
        (own.schema, own.switch) = (None, None);
        own.vector_type = Some(own.vector_type.unwrap_or_default());
        own.index = Some(own.index.unwrap_or_default());
        own.partitions = own.partitions.filter(|n| *n > 0);
        let note = Note::new(spec, own);
        let schema = &self.pool.schema;
        let client = self.pool.lease().await?;
        if find(&client, schema, &spec.name).await?.is_some() {
            return Err(checks::taken(&spec.name, "a collection or production name"));
        }
        let doing = |e| wrong("creating a table", e);
        let made = format!(
            "BEGIN; SELECT pg_advisory_xact_lock(hashtext('regrow schema')); CREATE SCHEMA IF NOT EXISTS {}; {}",
            quoted(schema),
            collection::create(schema, spec, &note)?
        );
        if let Err(e) = client.batch_execute(&made).await {
            return Err(match e.code() == Some(&SqlState::DUPLICATE_TABLE) {
                true => checks::taken(&spec.name, "another relation"),
                false => doing(e),
            });
        }
        let relation = format!("{}.{}", quoted(schema), quoted(&spec.name));
        let (mut statements, _) = collection::grants(&client, &relation, &spec.roles).await?;
        if !policies.is_empty() {
            statements.push(format!("ALTER TABLE {relation} ENABLE ROW LEVEL SECURITY"));
        }
        statements.extend(
            policies.iter().map(|(name, policy)| format!("CREATE POLICY {} ON {relation} {policy}", quoted(name))),
        );
        for statement in statements {
            // Prepared: one statement, whatever stands in it.
            client.execute(&statement, &[]).await.map_err(|e| wrong("giving rights", e))?;
        }
        client.batch_execute("COMMIT").await.map_err(doing)?;
        client.done();
        Ok(OwnedCollection::attest(spec.name.clone(), spec.marker.clone()))
    }

    async fn open_owned(&self, name: &str) -> Result<OwnedCollection> {
        let client = self.pool.lease().await?;
        let entry = self.entry(&client, name).await?;
        client.done();
        let note = entry.note.as_ref().ok_or_else(|| checks::not_owned(name))?;
        Ok(OwnedCollection::attest(note.name.clone(), note.marker.clone()))
    }

    async fn adopt(&self, name: &str, marker: Marker) -> Result<OwnedCollection> {
        let client = self.pool.lease().await?;
        let entry = self.entry(&client, name).await?;
        if entry.note.is_some() {
            return Err(checks::owned_already(name));
        }
        let info = collection::info(&client, &self.pool.schema, &entry).await?;
        let spec = CollectionSpec {
            name: info.name.clone(),
            dimension: info.dimension,
            metric: info.metric,
            index: info.index,
            payload_indexes: BTreeMap::new(),
            own: info.own,
            roles: Vec::new(),
            marker: marker.clone(),
        };
        let (mut own, _) = collection::own(&spec.own)?;
        own.policies = None;
        let note = Note::new(&spec, own);
        let statement = note.comment(&entry.relation(&self.pool.schema))?;
        client.batch_execute(&statement).await.map_err(|e| wrong("writing the marker", e))?;
        client.done();
        Ok(OwnedCollection::attest(info.name, marker))
    }

    async fn mark(&self, collection: &OwnedCollection, marker: Marker) -> Result<OwnedCollection> {
        checks::same_instance(collection.name(), collection.marker().instance, marker.instance)?;
        let new = marker.clone();
        index::edit(&self.pool, collection.name(), marker.instance, move |note| note.marker = new).await?;
        Ok(OwnedCollection::attest(collection.name().to_owned(), marker))
    }

    async fn write(&self, collection: &OwnedCollection, points: Vec<Point>) -> Result<WriteOutcome> {
        self.write_shared(collection, Arc::new(points)).await
    }

    async fn write_shared(&self, collection: &OwnedCollection, points: Arc<Vec<Point>>) -> Result<WriteOutcome> {
        let mut entry = self.known(collection, false).await?;
        let (dimension, kind, partitioned) = (entry.dimension, entry.vector_type, entry.partitioned);
        // Numbers to text and floats to bytes take a while: on a thread of their own.
        let batch = tokio::task::spawn_blocking(move || Batch::of(&points, dimension, kind, partitioned)).await??;
        let Batch { rows, ids, written, refused } = batch;
        let Some(rows) = rows else { return Ok(WriteOutcome { written, refused }) };
        // Only now, so that no connection is idle meanwhile.
        let client = self.pool.lease().await?;
        let there = entry.partitioned && self.any_there(&client, &entry, &ids).await?;
        let mut copied = false;
        if !there {
            if !self.begin(&client, &entry).await? {
                // Renamed, or gone: then this says so.
                entry = self.known(collection, true).await?;
                if !self.begin(&client, &entry).await? {
                    return Err(made_anew(&entry));
                }
            }
            copied = Self::copy(&client, &entry.relation(&self.pool.schema), &rows).await?;
            let end = if copied { "COMMIT" } else { "ROLLBACK" };
            client.batch_execute(end).await.map_err(|e| wrong("writing points", e))?;
        }
        if !copied {
            self.replace(&client, &entry, &rows).await?;
        }
        client.done();
        Ok(WriteOutcome { written, refused })
    }

    async fn flush(&self, collection: &OwnedCollection) -> Result<()> {
        // Every write is a transaction that was committed.
        let client = self.pool.lease().await?;
        self.owned(&client, collection).await?;
        client.done();
        Ok(())
    }

    async fn start_index(&self, collection: &OwnedCollection) -> Result<()> {
        let client = self.pool.lease().await?;
        let entry = self.owned(&client, collection).await?;
        client.done();
        if entry.note.as_ref().is_some_and(|note| note.indexed) {
            return Ok(());
        }
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let instance = collection.marker().instance;
        if !jobs.get(&instance).is_some_and(|job| matches!(job.running(), Ok(true))) {
            jobs.insert(instance, Job::start(self.pool.clone(), entry, self.events.clone()));
        }
        Ok(())
    }

    async fn index_state(&self, collection: &OwnedCollection) -> Result<IndexState> {
        let running = match self.job(collection.marker().instance) {
            Some(job) => job.running()?,
            None => false,
        };
        let client = self.pool.lease().await?;
        let entry = self.owned(&client, collection).await?;
        client.done();
        index::state(&self.pool, &entry, running).await
    }

    async fn count(&self, name: &str, filter: &Filter) -> Result<u64> {
        let condition = filter::condition(&conditions::check(filter)?);
        let client = self.pool.lease().await?;
        let entry = self.entry(&client, name).await?;
        let query = format!("SELECT count(*) FROM {} WHERE {condition}", entry.relation(&self.pool.schema));
        let row = client.query_one(&query, &[]).await.map_err(|e| wrong("counting points", e))?;
        client.done();
        Ok(row.get::<_, i64>(0).unsigned_abs())
    }

    async fn fetch(&self, name: &str, ids: &[ChunkId]) -> Result<Vec<Point>> {
        let client = self.pool.lease().await?;
        let entry = self.entry(&client, name).await?;
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let query = format!(
            "SELECT id, payload, exact, embedding FROM {} WHERE id = ANY($1::text[]::uuid[])",
            entry.relation(&self.pool.schema)
        );
        let rows = client.query(&query, &[&ids]).await.map_err(|e| wrong("fetching points", e))?;
        client.done();
        rows.iter().map(|row| points::point(name, row)).collect()
    }

    async fn scroll(&self, name: &str, after: Option<ChunkId>, limit: usize) -> Result<ScrollPage> {
        let client = self.pool.lease().await?;
        let entry = self.entry(&client, name).await?;
        let limit = limit.max(1);
        let from = after.map_or_else(|| "TRUE".to_owned(), |id| format!("id > '{id}'::uuid"));
        let query = format!(
            "SELECT id, payload, exact, embedding FROM {} WHERE {from} ORDER BY id LIMIT {}",
            entry.relation(&self.pool.schema),
            limit.saturating_add(1)
        );
        let rows = client.query(&query, &[]).await.map_err(|e| wrong("reading points", e))?;
        client.done();
        let points: Vec<Point> = rows.iter().take(limit).map(|row| points::point(name, row)).collect::<Result<_>>()?;
        let next = if rows.len() > limit { points.last().map(|point| point.id) } else { None };
        Ok(ScrollPage { points, next })
    }

    async fn search(&self, name: &str, request: &SearchRequest) -> Result<Vec<ScoredPoint>> {
        let checked = conditions::check(&request.filter)?;
        let client = self.pool.lease().await?;
        let entry = self.entry(&client, name).await?;
        checks::query(name, &request.vector, entry.dimension)?;
        if request.limit == 0 {
            client.done();
            return Ok(Vec::new());
        }
        let condition = filter::condition(&checked);
        let note = entry.note.as_ref().filter(|note| note.indexed);
        let Some(note) = note.filter(|_| !request.exact && request.limit <= MAX_CANDIDATES) else {
            let found = self.nearest(&client, &entry, request, &condition, true).await?;
            client.done();
            return Ok(found);
        };
        let candidates = (note.index.ef_search as usize).max(request.limit).min(MAX_CANDIDATES);
        let hnsw = note.own.index.unwrap_or_default() == PgvectorIndex::Hnsw;
        let mut settings = match hnsw {
            true => format!("SET LOCAL hnsw.ef_search = {candidates}"),
            false => {
                let query = format!("SELECT count(*) FROM {}", entry.relation(&self.pool.schema));
                let row = client.query_one(&query, &[]).await.map_err(|e| wrong("searching", e))?;
                format!("SET LOCAL ivfflat.probes = {}", index::probes(note, row.get::<_, i64>(0).unsigned_abs()))
            }
        };
        if hnsw && self.pool.known().await?.extension >= Extension::ITERATIVE {
            settings += "; SET LOCAL hnsw.iterative_scan = strict_order";
        }
        client.batch_execute(&format!("BEGIN; {settings}")).await.map_err(|e| wrong("searching", e))?;
        let mut found = self.nearest(&client, &entry, request, &condition, false).await?;
        client.batch_execute("COMMIT").await.map_err(|e| wrong("searching", e))?;
        if found.len() < request.limit {
            // The index gave up before enough passed the filter, or there are no more: only looking at all of them tells.
            found = self.nearest(&client, &entry, request, &condition, true).await?;
        }
        client.done();
        let better = |a: &ScoredPoint, b: &ScoredPoint| match note.metric {
            Metric::Euclidean => a.score.total_cmp(&b.score),
            Metric::Cosine | Metric::Dot => b.score.total_cmp(&a.score),
        };
        found.sort_by(|a, b| better(a, b).then(a.id.cmp(&b.id)));
        Ok(found)
    }

    async fn promote(&self, alias: &str, collection: &OwnedCollection) -> Result<Option<String>> {
        checks::fits("production name", alias, &self.capabilities().names)?;
        promote::promote(&self.pool, alias, collection, self.switch).await
    }

    async fn delete(&self, collection: OwnedCollection) -> Result<()> {
        let client = self.pool.lease().await?;
        let entry = self.owned(&client, &collection).await?;
        let aliases = entry.aliases();
        if !aliases.is_empty() {
            return Err(checks::in_production(collection.name(), &aliases));
        }
        let relation = entry.relation(&self.pool.schema);
        client.batch_execute(&format!("DROP TABLE {relation}")).await.map_err(|e| wrong("deleting a table", e))?;
        client.done();
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).remove(&collection.marker().instance);
        Ok(())
    }
}
