//! How any target is loaded: writers at once, batches by points and bytes, and the wait for its index.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};

use super::contract::{OwnedCollection, Target};
use super::types::{IndexState, Point};
use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::TargetSettings;

/// Points per write into a target in this process; one behind a wire says itself.
const BATCH: usize = 512;
/// How often the index is asked for its progress.
const POLL: Duration = Duration::from_millis(100);

/// What one write holds at most, and how many are under way at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Points in a write.
    pub(crate) points: usize,
    /// Bytes in a write; a point that is larger goes alone.
    pub(crate) bytes: usize,
    /// Writes at once.
    pub(crate) writers: usize,
}

impl Pace {
    /// What the target advises, and the pipeline's own word over it.
    pub(crate) fn of(target: &dyn Target, settings: &TargetSettings) -> Self {
        let advice = target.capabilities();
        // A target with a server behind a wire likes large writes.
        let points = match settings.kind.is_server() {
            true => advice.max_batch_points,
            false => BATCH.min(advice.max_batch_points),
        };
        Self {
            points: points.max(1),
            bytes: settings.batch_bytes.map_or(advice.max_batch_bytes, |b| b.min(advice.max_batch_bytes)),
            writers: settings.writers.unwrap_or(advice.write_concurrency).max(1),
        }
    }
}

/// Writes all points; `written` hears of each write that is confirmed. They are durable after [`Target::flush`].
pub(crate) async fn write_all(
    target: &dyn Target,
    collection: &OwnedCollection,
    points: impl Iterator<Item = Point> + Send,
    pace: Pace,
    cancel: &Cancel,
    written: impl Fn(u64) + Sync,
) -> Result<()> {
    let written = &written;
    futures::stream::iter(batches(points, pace.points, pace.bytes))
        .map(async |points| {
            cancel.check()?;
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
            written(count as u64);
            Ok(())
        })
        .buffer_unordered(pace.writers)
        .try_collect::<()>()
        .await
}

/// Points in order, so many or so many bytes at a time; one that is larger goes alone.
fn batches(points: impl Iterator<Item = Point>, most: usize, bytes: usize) -> impl Iterator<Item = Vec<Point>> {
    let mut points = points.peekable();
    std::iter::from_fn(move || {
        let (mut batch, mut held) = (Vec::new(), 0);
        while let Some(point) = points.peek() {
            held += point_bytes(point);
            if batch.len() == most || (held > bytes && !batch.is_empty()) {
                break;
            }
            batch.extend(points.next());
        }
        (!batch.is_empty()).then_some(batch)
    })
}

/// About what a point takes in a request.
pub(crate) fn point_bytes(point: &Point) -> usize {
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

/// Has the index built and waits for it; returns the seconds it took. `progress` hears of what is indexed now.
pub(crate) async fn build_index(
    target: &dyn Target,
    collection: &OwnedCollection,
    cancel: &Cancel,
    mut progress: impl FnMut(&IndexState),
) -> Result<f64> {
    let started = Instant::now();
    target.start_index(collection).await?;
    loop {
        cancel.check()?;
        let state = target.index_state(collection).await?;
        progress(&state);
        if state.done {
            return Ok(started.elapsed().as_secs_f64());
        }
        tokio::time::sleep(POLL).await;
    }
}
