//! Writing, and knowing that it was written.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use qdrant_client::qdrant as q;

use super::client::{condition, is_invalid};
use super::collection::Shape;
use super::{BATCH, QdrantTarget, points};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::ChunkId;
use crate::targets::checks;
use crate::targets::types::*;

/// Points that may be on their way unconfirmed: their ids are kept.
const UNCONFIRMED: usize = 200_000;
/// Ids in one question whether they are there.
const ASKED: usize = 5_000;

/// What was handed over to a collection and not yet seen there.
#[derive(Debug, Default)]
pub(super) struct Unconfirmed {
    ids: Mutex<HashSet<ChunkId>>,
    /// Held while they are confirmed, so that who comes later waits too.
    confirming: tokio::sync::Mutex<()>,
}

impl Unconfirmed {
    fn ids(&self) -> std::sync::MutexGuard<'_, HashSet<ChunkId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything unconfirmed, by collection.
pub(super) type AllUnconfirmed = Mutex<HashMap<String, Arc<Unconfirmed>>>;

fn of(all: &AllUnconfirmed, collection: &str) -> Arc<Unconfirmed> {
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    all.entry(collection.to_owned()).or_default().clone()
}

pub(super) async fn write(
    target: &QdrantTarget,
    collection: &str,
    shape: &Shape,
    points: Vec<Point>,
) -> Result<WriteOutcome> {
    let (good, mut refused) = checks::sort_out(points, shape.dimension);
    let taken = good.len();
    // The last of several with one id counts.
    let mut places: HashMap<ChunkId, usize> = HashMap::with_capacity(good.len());
    let mut distinct: Vec<Point> = Vec::with_capacity(good.len());
    for point in good {
        match places.get(&point.id) {
            Some(place) => distinct[*place] = point,
            None => {
                places.insert(point.id, distinct.len());
                distinct.push(point);
            }
        }
    }
    let unconfirmed = of(&target.inner.unconfirmed, collection);
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for point in distinct {
        let size = points::size(&point);
        if batch.len() == BATCH || (bytes + size > target.inner.batch_bytes && !batch.is_empty()) {
            upsert(target, collection, shape, std::mem::take(&mut batch), &unconfirmed, &mut refused).await?;
            bytes = 0;
        }
        bytes += size;
        batch.push(point);
    }
    if !batch.is_empty() {
        upsert(target, collection, shape, batch, &unconfirmed, &mut refused).await?;
    }
    if unconfirmed.ids().len() > UNCONFIRMED {
        settle(target, collection).await?;
    }
    let refused_here = refused.iter().filter(|(id, _)| places.contains_key(id)).count();
    Ok(WriteOutcome { written: taken - refused_here, refused })
}

/// Hands points over. A batch that the server finds wrong is halved until the point at fault is alone.
async fn upsert(
    target: &QdrantTarget,
    collection: &str,
    shape: &Shape,
    points: Vec<Point>,
    unconfirmed: &Unconfirmed,
    refused: &mut Vec<(ChunkId, String)>,
) -> Result<()> {
    let mut waiting = vec![
        points
            .into_iter()
            .map(|point| (point.id, points::to_proto(point, shape.vector_name.as_deref())))
            .collect::<Vec<_>>(),
    ];
    while let Some(mut batch) = waiting.pop() {
        let request = |batch: &[(ChunkId, q::PointStruct)]| q::UpsertPoints {
            collection_name: collection.to_owned(),
            wait: Some(false),
            points: batch.iter().map(|(_, point)| point.clone()).collect(),
            ..q::UpsertPoints::default()
        };
        match target.client().upsert(request(&batch)).await {
            Ok(()) => unconfirmed.ids().extend(batch.iter().map(|(id, _)| *id)),
            Err(e) if is_invalid(&e) => match batch.as_slice() {
                [(id, _)] => refused.push((*id, e.context_value("said").unwrap_or("refused").to_owned())),
                _ => {
                    let right = batch.split_off(batch.len() / 2);
                    waiting.extend([right, batch]);
                }
            },
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Returns when everything that was handed over to the collection is applied, and there: a server that could not apply
/// something says so only in its log.
pub(super) async fn settle(target: &QdrantTarget, collection: &str) -> Result<()> {
    let unconfirmed = of(&target.inner.unconfirmed, collection);
    let _one = unconfirmed.confirming.lock().await;
    let ids = std::mem::take(&mut *unconfirmed.ids());
    if ids.is_empty() {
        return Ok(());
    }
    let outcome = confirm(target, collection, &ids).await;
    if outcome.is_err() {
        unconfirmed.ids().extend(ids);
    }
    outcome
}

async fn confirm(target: &QdrantTarget, collection: &str, ids: &HashSet<ChunkId>) -> Result<()> {
    target.client().barrier(collection).await?;
    let all: Vec<q::PointId> = ids.iter().map(|id| points::id_of(id.0)).collect();
    for some in all.chunks(ASKED) {
        let has_id = q::HasIdCondition { has_id: some.to_vec() };
        let filter = q::Filter { must: vec![condition(has_id)], ..q::Filter::default() };
        let found = target.client().count(collection, Some(filter)).await?;
        if found != some.len() as u64 {
            return Err(Error::new(ErrorKind::Target, "points that the server took are not there")
                .with("collection", collection)
                .with("expected", some.len())
                .with("found", found)
                .guidance("look into the server's log; run the command again: it continues with what was confirmed"));
        }
    }
    Ok(())
}

/// Before reads: whatever this process wrote is seen. A name may be an alias, so all collections are settled.
pub(super) async fn settle_all(target: &QdrantTarget) -> Result<()> {
    let all: Vec<String> = {
        let all = target.inner.unconfirmed.lock().unwrap_or_else(PoisonError::into_inner);
        all.keys().cloned().collect()
    };
    for collection in all {
        match settle(target, &collection).await {
            // It was deleted by somebody else: whoever writes to it will hear.
            Err(e) if e.kind() == ErrorKind::NotFound => forget(target, &collection),
            other => other?,
        }
    }
    Ok(())
}

pub(super) fn forget(target: &QdrantTarget, collection: &str) {
    target.inner.unconfirmed.lock().unwrap_or_else(PoisonError::into_inner).remove(collection);
}
