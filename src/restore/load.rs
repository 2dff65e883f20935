//! Last stages of a restore before the verdict: points into the collection, and its index.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};

use super::collection::receipt;
use super::plan::Prepared;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Stage;
use crate::targets::{Filter, OwnedCollection};
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
    let size = BATCH.min(capabilities.max_batch_points).max(1);
    let mut rows = rows.into_iter();
    let batches = std::iter::from_fn(move || {
        let batch: Vec<_> = rows.by_ref().take(size).map(VectorRow::into_point).collect();
        (!batch.is_empty()).then_some(batch)
    });
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
        .buffer_unordered(capabilities.write_concurrency.max(1))
        .try_collect::<()>()
        .await?;
    target.flush(collection).await?;
    receipt(prepared, collection, part).await
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
