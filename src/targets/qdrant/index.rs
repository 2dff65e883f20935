//! Building the index: the server does it by itself once it may, and this tells when it has.

use std::time::Duration;

use qdrant_client::qdrant as q;

use super::QdrantTarget;
use super::collection::{AFTER_LOAD, AfterLoad, Remote, edit, nothing, text};
use super::own::{Strict, optimization_threads};
use crate::error::{Error, ErrorKind, Result};
use crate::targets::contract::OwnedCollection;
use crate::targets::types::*;

/// The server is done when so many looks in a row find nothing to do: between two optimizations nothing runs for a moment,
/// and for another one after its settings were changed.
const QUIET: usize = 5;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(60);

/// The optimizers may build: with the threshold of before, and as many at once as the server or the pipeline finds right.
pub(super) async fn start(target: &QdrantTarget, held: &OwnedCollection) -> Result<()> {
    target.settle(held.name()).await?;
    let remote = target.owned(held).await?;
    let Some(after) = remote.after_load()?.filter(|after| !after.started) else { return Ok(()) };
    let started = AfterLoad { started: true, ..after.clone() };
    let request = q::UpdateCollection {
        optimizers_config: Some(q::OptimizersConfigDiff {
            indexing_threshold: Some(after.indexing_threshold),
            max_optimization_threads: Some(optimization_threads(after.build_threads)),
            ..q::OptimizersConfigDiff::default()
        }),
        ..edit(held.name(), [(AFTER_LOAD, text(&started)?)])
    };
    target.client().update(request).await
}

/// How far the server is. When it is done, the collection gets what it is to keep.
pub(super) async fn state(target: &QdrantTarget, held: &OwnedCollection) -> Result<IndexState> {
    target.settle(held.name()).await?;
    let mut looks = 0;
    loop {
        let remote = target.owned(held).await?;
        let total = target.client().count(held.name(), None).await?;
        let indexed = remote.info.indexed_vectors_count.unwrap_or(0).min(total);
        let after = remote.after_load()?;
        if !after.as_ref().is_none_or(|after| after.started) || !quiet(target, &remote, total).await? {
            return Ok(IndexState { done: false, indexed, total });
        }
        looks += 1;
        if looks < QUIET {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        if let Some(after) = after {
            finish(target, held, &after).await?;
        }
        // What has no graph is in segments that are searched whole, faster than by one: it is covered too.
        return Ok(IndexState { done: true, indexed: total, total });
    }
}

/// Whether nothing runs or waits, and what is indexed fits what is there.
async fn quiet(target: &QdrantTarget, remote: &Remote, total: u64) -> Result<bool> {
    let info = &remote.info;
    let failed = |reason: &str| {
        Err(Error::new(ErrorKind::Target, "building the index failed")
            .with("collection", &remote.name)
            .with("reason", reason)
            .guidance("look into the server's log; when the cause is gone, run the command again"))
    };
    if let Some(optimizers) = info.optimizer_status.as_ref().filter(|status| !status.ok) {
        return failed(&optimizers.error);
    }
    match info.status() {
        q::CollectionStatus::Green => {}
        q::CollectionStatus::Red => return failed("the server could not apply a write"),
        q::CollectionStatus::Grey => {
            // After a restart the optimizers wait until something is changed; the server advises a change of nothing.
            let nudge = q::UpdateCollection {
                optimizers_config: Some(q::OptimizersConfigDiff::default()),
                ..edit(&remote.name, [])
            };
            target.client().update(nudge).await?;
            return Ok(false);
        }
        _ => return Ok(false),
    }
    let waiting = info.update_queue.as_ref().is_some_and(|q| q.length > 0 || q.deferred_points.unwrap_or(0) > 0);
    Ok(!waiting && fits(remote, total)?)
}

/// Whether so many vectors may be without a graph: each segment may hold a threshold of them.
fn fits(remote: &Remote, total: u64) -> Result<bool> {
    let config = remote.info.config.as_ref();
    let threshold = config.and_then(|c| c.optimizer_config.as_ref()).and_then(|o| o.indexing_threshold);
    let Some(threshold) = threshold.filter(|kilobytes| *kilobytes > 0) else { return Ok(true) };
    let indexed = remote.info.indexed_vectors_count.unwrap_or(0);
    let bytes = total.saturating_sub(indexed).saturating_mul(remote.shape()?.dimension as u64 * 4);
    Ok(bytes <= remote.info.segments_count.max(1).saturating_mul(threshold.saturating_mul(1024)))
}

/// As many optimizations at once as before, and the limits for other clients.
async fn finish(target: &QdrantTarget, held: &OwnedCollection, after: &AfterLoad) -> Result<()> {
    let request = q::UpdateCollection {
        optimizers_config: (after.max_optimization_threads != after.build_threads).then(|| q::OptimizersConfigDiff {
            max_optimization_threads: Some(optimization_threads(after.max_optimization_threads)),
            ..q::OptimizersConfigDiff::default()
        }),
        strict_mode_config: after.strict_mode.as_ref().map(Strict::write),
        ..edit(held.name(), [(AFTER_LOAD, nothing())])
    };
    target.client().update(request).await
}
