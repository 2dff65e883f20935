//! Last stages of a restore before the verdict: points into the collection, and its index.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};

use super::collection::receipt;
use super::plan::Prepared;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Stage;
use crate::targets::{Filter, OwnedCollection, Point};
use crate::vectors::{PartRef, VectorRow};

/// Points per write; targets may set a smaller limit.
const BATCH: usize = 512;

/// Writes the rows of one part, waits until they are durable, and notes it.
pub(super) async fn load_part(
    prepared: &Prepared,
    collection: &OwnedCollection,
    part: &PartRef,
    rows: Vec<VectorRow>,
) -> Result<()> {
    let target = &prepared.target;
    let capabilities = target.capabilities();
    let settings = &prepared.workspace.pipeline.target;
    let bytes = settings.batch_bytes.map_or(capabilities.max_batch_bytes, |b| b.min(capabilities.max_batch_bytes));
    // A target with a server behind a wire likes large writes; it says how large.
    let size = match settings.kind.is_server() {
        true => capabilities.max_batch_points,
        false => BATCH.min(capabilities.max_batch_points),
    };
    let batches = batches(rows, size.max(1), bytes);
    futures::stream::iter(batches)
        .map(async |points| {
            prepared.workspace.cancel.check()?;
            let count = points.len();
            let outcome = target.write(collection, points).await?;
            if let Some((id, reason)) = outcome.refused.first() {
                return Err(Error::new(ErrorKind::Target, "the target refused points")
                    .with("collection", collection.name())
                    .with("refused", outcome.refused.len())
                    .with("first", id)
                    .with("reason", reason));
            }
            if outcome.written != count {
                return Err(Error::new(ErrorKind::Target, "the target did not say what became of every point")
                    .with("collection", collection.name())
                    .with("sent", count)
                    .with("written", outcome.written));
            }
            prepared.workspace.events.progress(Stage::Load, count as u64);
            Ok(())
        })
        .buffer_unordered(settings.writers.unwrap_or(capabilities.write_concurrency).max(1))
        .try_collect::<()>()
        .await?;
    target.flush(collection).await?;
    receipt(prepared, collection, part).await
}

/// Points in order, so many or so many bytes at a time; one that is larger goes alone.
fn batches(rows: Vec<VectorRow>, points: usize, bytes: usize) -> impl Iterator<Item = Vec<Point>> {
    let mut rows = rows.into_iter().map(VectorRow::into_point).peekable();
    std::iter::from_fn(move || {
        let (mut batch, mut held) = (Vec::new(), 0);
        while let Some(point) = rows.peek() {
            held += point_bytes(point);
            if batch.len() == points || (held > bytes && !batch.is_empty()) {
                break;
            }
            batch.extend(rows.next());
        }
        (!batch.is_empty()).then_some(batch)
    })
}

/// About what a point takes in a request.
fn point_bytes(point: &Point) -> usize {
    fn size(value: &serde_json::Value) -> usize {
        match value {
            serde_json::Value::String(text) => text.len() + 4,
            serde_json::Value::Array(items) => items.iter().map(size).sum::<usize>() + 4,
            serde_json::Value::Object(map) => map.iter().map(|(k, v)| k.len() + 4 + size(v)).sum::<usize>() + 4,
            _ => 12,
        }
    }
    32 + 4 * point.vector.len() + point.payload.iter().map(|(k, v)| k.len() + 4 + size(v)).sum::<usize>()
}

/// Checks that every point is there.
pub(super) async fn check_count(prepared: &Prepared, collection: &OwnedCollection, expected: u64) -> Result<()> {
    let count = prepared.target.count(collection.name(), &Filter::default()).await?;
    if count == expected {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Target, "the collection does not hold the points that were written")
        .with("collection", collection.name())
        .with("expected", expected)
        .with("found", count)
        .guidance("run the restore again with --fresh to build a new collection from the stored parts"))
}

/// How often the index is asked for its progress.
const POLL: Duration = Duration::from_millis(100);

/// Builds the index and waits for it; returns the seconds it took.
pub(super) async fn build_index(prepared: &Prepared, collection: &OwnedCollection) -> Result<f64> {
    let started = Instant::now();
    let events = &prepared.workspace.events;
    let target = &prepared.target;
    target.start_index(collection).await?;
    let mut seen = 0;
    events.start(Stage::Index, None, "points");
    loop {
        prepared.workspace.cancel.check()?;
        let state = target.index_state(collection).await?;
        if state.indexed > seen {
            events.send(crate::event::Event::StageTotal { stage: Stage::Index, total: state.total });
            events.progress(Stage::Index, state.indexed - seen);
            seen = state.indexed;
        }
        if state.done {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    events.finish(Stage::Index, seconds);
    Ok(seconds)
}
