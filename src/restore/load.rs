//! Last stages of a restore before the verdict: points into the collection, and its index.

use super::collection::receipt;
use super::plan::Prepared;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Stage};
use crate::targets::load::{self, Pace};
use crate::targets::{Filter, OwnedCollection};
use crate::vectors::{PartRef, VectorRow};

/// Writes the rows of one part, waits until they are durable, and notes it.
pub(super) async fn load_part(
    prepared: &Prepared,
    collection: &OwnedCollection,
    part: &PartRef,
    rows: Vec<VectorRow>,
) -> Result<()> {
    let (target, workspace) = (&*prepared.target, &prepared.workspace);
    let pace = Pace::of(target, &workspace.pipeline.target);
    let points = rows.into_iter().map(VectorRow::into_point);
    let written = |count| workspace.events.progress(Stage::Load, count);
    load::write_all(target, collection, points, pace, &workspace.cancel, written).await?;
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

/// Builds the index and waits for it; returns the seconds it took.
pub(super) async fn build_index(prepared: &Prepared, collection: &OwnedCollection) -> Result<f64> {
    let events = &prepared.workspace.events;
    let mut seen = 0;
    events.start(Stage::Index, None, "points");
    let seconds = load::build_index(&*prepared.target, collection, &prepared.workspace.cancel, |state| {
        if state.indexed > seen {
            events.send(Event::StageTotal { stage: Stage::Index, total: state.total });
            events.progress(Stage::Index, state.indexed - seen);
            seen = state.indexed;
        }
    })
    .await?;
    events.finish(Stage::Index, seconds);
    Ok(seconds)
}
