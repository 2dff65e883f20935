//! Reading and searching.

use std::collections::HashMap;

use qdrant_client::qdrant as q;
use uuid::Uuid;

use super::client::Client;
use super::collection::Shape;
use super::{filter, payload, points};
use crate::error::Result;
use crate::ids::ChunkId;
use crate::targets::filter::{Checked, matches_nothing};
use crate::targets::types::*;
use crate::targets::{checks, score};

/// Points with vectors and payload in one answer.
const PAGE: usize = 1_000;

/// The points with these ids that exist.
pub(super) async fn fetch(client: &Client, name: &str, shape: &Shape, ids: &[ChunkId]) -> Result<Vec<Point>> {
    let mut unique = ids.to_vec();
    unique.sort_unstable();
    unique.dedup();
    let mut found = Vec::with_capacity(unique.len());
    for some in unique.chunks(PAGE) {
        let request = q::GetPoints {
            collection_name: name.to_owned(),
            ids: some.iter().map(|id| points::id_of(id.0)).collect(),
            with_payload: Some(points::with_payload(true)),
            with_vectors: Some(points::with_vector(shape.vector_name.as_deref())),
            ..q::GetPoints::default()
        };
        for point in client.retrieve(request).await? {
            found.push(points::from_proto(point, shape.vector_name.as_deref())?);
        }
    }
    Ok(found)
}

/// The next points in id order.
pub(super) async fn scroll(
    client: &Client,
    name: &str,
    shape: &Shape,
    mut after: Option<ChunkId>,
    limit: usize,
) -> Result<ScrollPage> {
    let (limit, mut found) = (limit.max(1), Vec::new());
    let page = shape.most.unwrap_or(PAGE).clamp(1, PAGE);
    loop {
        let offset = match after {
            None => None,
            // Qdrant's offset is the first point of a page, ours the last one before.
            Some(id) => match id.0.as_u128().checked_add(1) {
                Some(next) => Some(points::id_of(Uuid::from_u128(next))),
                None => return Ok(ScrollPage { points: found, next: None }),
            },
        };
        let request = q::ScrollPoints {
            collection_name: name.to_owned(),
            offset,
            limit: u32::try_from(page.min(limit - found.len())).ok(),
            with_payload: Some(points::with_payload(true)),
            with_vectors: Some(points::with_vector(shape.vector_name.as_deref())),
            ..q::ScrollPoints::default()
        };
        let answer = client.scroll(request).await?;
        for point in answer.result {
            found.push(points::from_proto(point, shape.vector_name.as_deref())?);
        }
        after = found.last().map(|point| point.id);
        if answer.next_page_offset.is_none() {
            return Ok(ScrollPage { points: found, next: None });
        }
        if found.len() >= limit {
            return Ok(ScrollPage { points: found, next: after });
        }
    }
}

/// The nearest points, best first, ties by id.
pub(super) async fn search(
    client: &Client,
    name: &str,
    shape: &Shape,
    request: &SearchRequest,
    checked: &[Checked],
) -> Result<Vec<ScoredPoint>> {
    checks::query(name, &request.vector, shape.dimension)?;
    if request.limit == 0 || matches_nothing(checked) {
        return Ok(Vec::new());
    }
    let mut limit = request.limit;
    loop {
        let mut found = once(client, name, shape, request, checked, limit).await?;
        // Points as good as the last one may have been cut off: which of them come back must not be chance.
        let cut = found.len() == limit && found[limit - 1].score == found[request.limit - 1].score;
        if request.exact && cut {
            limit = limit.saturating_mul(2).max(limit + 16);
            continue;
        }
        found.truncate(request.limit);
        return if request.exact { with_payloads(client, name, found).await } else { Ok(found) };
    }
}

async fn once(
    client: &Client,
    name: &str,
    shape: &Shape,
    request: &SearchRequest,
    checked: &[Checked],
    limit: usize,
) -> Result<Vec<ScoredPoint>> {
    let nearest = q::VectorInput {
        variant: Some(q::vector_input::Variant::Dense(q::DenseVector { data: request.vector.clone() })),
    };
    let query = q::QueryPoints {
        collection_name: name.to_owned(),
        query: Some(q::Query { variant: Some(q::query::Variant::Nearest(nearest)) }),
        using: shape.vector_name.clone(),
        filter: filter::filter(checked),
        params: Some(q::SearchParams {
            hnsw_ef: (!request.exact).then_some(u64::from(shape.ef_search).max(limit as u64)),
            exact: Some(request.exact),
            ..q::SearchParams::default()
        }),
        limit: Some(limit as u64),
        with_payload: Some(points::with_payload(!request.exact)),
        ..q::QueryPoints::default()
    };
    let mut found = client.query(query).await?.into_iter().map(points::scored).collect::<Result<Vec<_>>>()?;
    found.sort_by(|a, b| score::best_first(shape.metric, a.score, b.score).then(a.id.cmp(&b.id)));
    Ok(found)
}

/// What was deleted meanwhile is left out.
async fn with_payloads(client: &Client, name: &str, found: Vec<ScoredPoint>) -> Result<Vec<ScoredPoint>> {
    let mut payloads = HashMap::with_capacity(found.len());
    for some in found.chunks(PAGE) {
        let request = q::GetPoints {
            collection_name: name.to_owned(),
            ids: some.iter().map(|point| points::id_of(point.id.0)).collect(),
            with_payload: Some(points::with_payload(true)),
            ..q::GetPoints::default()
        };
        for point in client.retrieve(request).await? {
            payloads.insert(points::chunk_id(point.id)?, payload::decode(point.payload)?);
        }
    }
    Ok(found
        .into_iter()
        .filter_map(|mut point| {
            point.payload = payloads.remove(&point.id)?;
            Some(point)
        })
        .collect())
}
