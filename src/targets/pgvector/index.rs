//! Building the index in the background: the table becomes durable, then the vector index, the payload indexes, statistics.

use std::sync::{Arc, Mutex, PoisonError};

use super::client::{Extension, Lease, Pool, wrong};
use super::collection::{Entry, Note, derived, find};
use super::sql::{field, is_list, literal, number, quoted};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use crate::model::Metric;
use crate::pipeline::{FieldType, PgvectorIndex, PgvectorType};
use crate::targets::checks;
use crate::targets::filter::path;
use crate::targets::types::IndexState;

/// A build in this process.
#[derive(Debug, Clone, Default)]
pub(super) struct Job(Arc<Mutex<State>>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Running,
    Done,
    Failed(String),
}

impl Job {
    pub(super) fn start(pool: Arc<Pool>, entry: Entry, events: Events) -> Self {
        let job = Self::default();
        let shared = job.0.clone();
        tokio::spawn(async move {
            let outcome = build(&pool, &entry, &events).await;
            *shared.lock().unwrap_or_else(PoisonError::into_inner) = match outcome {
                Ok(()) => State::Done,
                Err(e) => State::Failed(e.to_string()),
            };
        });
        job
    }

    /// Still at it; an error when it failed.
    pub(super) fn running(&self) -> Result<bool> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Running => Ok(true),
            State::Done => Ok(false),
            State::Failed(why) => Err(Error::new(ErrorKind::Target, "building the index failed")
                .because(why.clone())
                .guidance("correct the cause and run the same command again: the points are there")),
        }
    }
}

/// The comment of a payload field's index.
pub(super) fn comment(field: &str) -> String {
    format!("regrow field {field}")
}

async fn build(pool: &Pool, entry: &Entry, events: &Events) -> Result<()> {
    let Some(note) = &entry.note else { return Err(checks::not_owned(entry.name())) };
    let client = pool.lease().await?;
    // Takes as long as it takes; ends when this process does.
    run(&client, "SET statement_timeout = 0; SET lock_timeout = 0").await?;
    if pool.known().await?.number >= 140_000 {
        run(&client, "SET client_connection_check_interval = '2s'").await?;
    }
    let relation = entry.relation(&pool.schema);
    let parts = match note.own.partitions.unwrap_or(0) {
        0 => vec![relation.clone()],
        n => (0..n)
            .map(|n| format!("{}.{}", quoted(&pool.schema), quoted(&derived(note.marker.instance, &format!("p{n}")))))
            .collect(),
    };
    // Before the indexes: making a table durable writes it anew, with all indexes that are there.
    for part in &parts {
        let row = client
            .query_one(
                &format!("SELECT relpersistence = 'u' FROM pg_class WHERE oid = {}::regclass", literal(part)),
                &[],
            )
            .await
            .map_err(|e| wrong("looking at the table", e))?;
        if row.get(0) {
            run(&client, &format!("ALTER TABLE {part} SET LOGGED")).await?;
        }
    }
    vector_index(pool, &client, note, entry, &relation, &parts, events).await?;
    for (n, (name, kind)) in note.payload_indexes.iter().enumerate() {
        for (k, definition) in definitions(name, *kind)?.into_iter().enumerate() {
            let index = derived(note.marker.instance, &format!("f{n}_{k}"));
            run(&client, &format!("CREATE INDEX IF NOT EXISTS {} ON {relation} {definition}", quoted(&index))).await?;
            let said = literal(&comment(name));
            run(&client, &format!("COMMENT ON INDEX {}.{} IS {said}", quoted(&pool.schema), quoted(&index))).await?;
        }
    }
    run(&client, &format!("ANALYZE {relation}")).await?;
    drop(client);
    edit(pool, entry.name(), note.marker.instance, |note| note.indexed = true).await
}

/// Indexes of a payload field: equality by GIN over the value or the elements of a list, ranges by B-tree over numbers, and
/// a small one over lists, so that a range can use both.
fn definitions(name: &str, kind: FieldType) -> Result<Vec<String>> {
    let path = path(name)?;
    let equal = format!("USING gin (({}) jsonb_path_ops)", field(&path));
    Ok(match kind {
        FieldType::Keyword | FieldType::Bool | FieldType::Datetime => vec![equal],
        FieldType::Integer | FieldType::Float => {
            vec![equal, format!("({})", number(&path)), format!("(id) WHERE {}", is_list(&path))]
        }
    })
}

async fn vector_index(
    pool: &Pool,
    client: &Lease<'_>,
    note: &Note,
    entry: &Entry,
    relation: &str,
    parts: &[String],
    events: &Events,
) -> Result<()> {
    let row = client
        .query_one(&format!("SELECT count(*), current_setting('max_parallel_workers')::int FROM {relation}"), &[])
        .await
        .map_err(|e| wrong("counting points", e))?;
    let rows = u64::try_from(row.get::<_, i64>(0)).unwrap_or(0);
    let most = usize::try_from(row.get::<_, i32>(1)).unwrap_or(0);
    let kind = match note.own.vector_type.unwrap_or_default() {
        PgvectorType::Vector => "vector",
        PgvectorType::Halfvec => "halfvec",
    };
    let operators = match note.metric {
        Metric::Cosine => "cosine_ops",
        Metric::Dot => "ip_ops",
        Metric::Euclidean => "l2_ops",
    };
    let definition = match note.own.index.unwrap_or_default() {
        PgvectorIndex::Hnsw => format!(
            "USING hnsw (embedding {kind}_{operators}) WITH (m = {}, ef_construction = {})",
            note.index.m, note.index.ef_construct
        ),
        PgvectorIndex::Ivfflat => {
            format!("USING ivfflat (embedding {kind}_{operators}) WITH (lists = {})", lists(note.own.lists, rows))
        }
    };
    let memory = match &note.own.maintenance_memory {
        Some(memory) => memory.clone(),
        // The graph: vectors, links of both directions, headers; half as much again.
        None => {
            let graph = rows * (4 * entry.dimension as u64 + 20 * u64::from(note.index.m) + 200) * 3 / 2;
            format!("{}MB", (graph >> 20).clamp(64, 8192))
        }
    };
    run(client, &format!("SET maintenance_work_mem = {}", literal(&memory))).await?;
    // The process that asks works too.
    let mut workers = if note.index.threads == 0 { most } else { note.index.threads.saturating_sub(1).min(most) };
    if pool.known().await?.extension < Extension::PARALLEL {
        if workers > 0 {
            events
                .note("the index is built by one process: parallel builds are safe from pgvector 0.8.2 on".to_owned());
        }
        workers = 0;
    }
    let index = quoted(&derived(note.marker.instance, "vector"));
    let statement = format!("CREATE INDEX IF NOT EXISTS {index} ON {relation} {definition}");
    loop {
        run(client, &format!("SET max_parallel_maintenance_workers = {workers}")).await?;
        for part in parts {
            run(client, &format!("ALTER TABLE {part} SET (parallel_workers = {workers})")).await?;
        }
        match client.batch_execute(&statement).await {
            Ok(()) => break,
            // Little shared memory, as in containers: one process needs none.
            Err(e) if workers > 0 && e.code().is_some_and(|code| code.code().starts_with("53")) => {
                events.note(
                    "the server has too little shared memory for a parallel build; the index is built by one process"
                        .to_owned(),
                );
                workers = 0;
            }
            Err(e) => return Err(wrong("building the index", e)),
        }
    }
    for part in parts {
        run(client, &format!("ALTER TABLE {part} RESET (parallel_workers)")).await?;
    }
    Ok(())
}

/// pgvector's advice: a thousandth of the rows, and the square root from a million on.
fn lists(asked: Option<u32>, rows: u64) -> u64 {
    let advised = if rows <= 1_000_000 { rows / 1000 } else { rows.isqrt() };
    asked.map_or(advised, u64::from).clamp(1, 32_768)
}

/// Lists that a search looks into.
pub(super) fn probes(note: &Note, rows: u64) -> u64 {
    note.own.probes.map_or_else(|| lists(note.own.lists, rows).isqrt().max(1) * 2, u64::from).clamp(1, 32_768)
}

async fn run(client: &Lease<'_>, statement: &str) -> Result<()> {
    client.batch_execute(statement).await.map_err(|e| wrong("building the index", e))
}

/// Changes the comment of a table that is still the same instance.
pub(super) async fn edit(
    pool: &Pool,
    name: &str,
    instance: uuid::Uuid,
    change: impl FnOnce(&mut Note) + Send,
) -> Result<()> {
    let client = pool.lease().await?;
    let entry = find(&client, &pool.schema, name).await?.ok_or_else(|| checks::not_found(name))?;
    let relation = entry.relation(&pool.schema);
    let doing = |e| wrong("writing the marker", e);
    client
        .batch_execute(&format!("BEGIN; LOCK TABLE {relation} IN SHARE UPDATE EXCLUSIVE MODE"))
        .await
        .map_err(doing)?;
    // As it is under the lock.
    let entry = find(&client, &pool.schema, name).await?.ok_or_else(|| checks::not_found(name))?;
    let mut note = entry.note.clone().ok_or_else(|| checks::not_owned(name))?;
    checks::same_instance(name, instance, note.marker.instance)?;
    change(&mut note);
    client.batch_execute(&format!("{}; COMMIT", note.comment(&relation)?)).await.map_err(doing)?;
    client.done();
    Ok(())
}

/// How far the index is.
pub(super) async fn state(pool: &Pool, entry: &Entry, running: bool) -> Result<IndexState> {
    let client = pool.lease().await?;
    let relation = entry.relation(&pool.schema);
    let indexed = entry.note.as_ref().is_some_and(|note| note.indexed) && !running;
    let state = if indexed {
        let row = client.query_one(&format!("SELECT count(*) FROM {relation}"), &[]).await;
        let total = row.map_err(|e| wrong("counting points", e))?.get::<_, i64>(0).unsigned_abs();
        // PostgreSQL keeps an index complete.
        IndexState { done: true, indexed: total, total }
    } else {
        let row = client
            .query_one(
                "SELECT coalesce((SELECT sum(p.tuples_done)::int8 FROM pg_stat_progress_create_index p \
                 WHERE p.relid::int8 = $1 OR p.relid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent::int8 = $1)), 0), \
                 (SELECT sum(greatest(c.reltuples, 0))::int8 FROM pg_class c WHERE c.oid::int8 = $1 \
                 OR c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent::int8 = $1))",
                &[&entry.oid],
            )
            .await
            .map_err(|e| wrong("asking for progress", e))?;
        let (done, about) =
            (row.get::<_, i64>(0).unsigned_abs(), row.get::<_, Option<i64>>(1).unwrap_or(0).unsigned_abs());
        // The total is exact where nothing runs; counting beside a build would slow it.
        let total = match running {
            true => about.max(done),
            false => {
                let row = client.query_one(&format!("SELECT count(*) FROM {relation}"), &[]).await;
                row.map_err(|e| wrong("counting points", e))?.get::<_, i64>(0).unsigned_abs()
            }
        };
        IndexState { done: false, indexed: done.min(total), total }
    };
    client.done();
    Ok(state)
}
