//! Points and queries in the engine's words.

use std::path::Path;

use qdrant_edge::{
    EdgeShard, NamedQuery, Payload, PointId, PointStructPersisted, QueryEnum, Record, SearchParams, VectorInternal,
    VectorStructInternal, VectorStructPersisted,
};
use serde_json::{Map, Value};

use super::engine;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::ChunkId;
use crate::model::Metric;
use crate::targets::types::{Point, ScoredPoint, SearchRequest};

/// About how many bytes a point takes.
pub(super) fn size(point: &Point) -> usize {
    fn text(value: &Value) -> usize {
        match value {
            Value::String(s) => s.len() + 8,
            Value::Array(items) => items.iter().map(text).sum::<usize>() + 8,
            Value::Object(map) => object(map),
            Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        }
    }
    fn object(map: &Map<String, Value>) -> usize {
        map.iter().map(|(key, value)| key.len() + text(value)).sum::<usize>() + 8
    }
    // The log writes each value of a vector in five bytes.
    5 * point.vector.len() + object(&point.payload) + 32
}

pub(super) fn to_engine(point: Point) -> PointStructPersisted {
    PointStructPersisted {
        id: PointId::Uuid(point.id.0),
        vector: VectorStructPersisted::Single(point.vector),
        payload: Some(Payload(point.payload)),
    }
}

fn foreign(dir: &Path, what: &str) -> Error {
    Error::new(ErrorKind::Target, format!("the collection holds {what} that regrow did not write"))
        .with("path", dir.display())
        .guidance("delete the collection and restore it from its vector set")
}

fn chunk_id(dir: &Path, id: PointId) -> Result<ChunkId> {
    match id {
        PointId::Uuid(id) => Ok(ChunkId(id)),
        PointId::NumId(_) => Err(foreign(dir, "a numeric point id")),
    }
}

/// A point without vector where none was asked for.
pub(super) fn from_engine(dir: &Path, record: Record) -> Result<Point> {
    let vector = match record.vector {
        None => Vec::new(),
        Some(VectorStructInternal::Single(vector)) => vector,
        Some(VectorStructInternal::Named(mut named)) => match named.remove("") {
            Some(VectorInternal::Dense(vector)) => vector,
            Some(_) | None => return Err(foreign(dir, "a kind of vector")),
        },
        Some(VectorStructInternal::MultiDense(_)) => return Err(foreign(dir, "a kind of vector")),
    };
    let payload = record.payload.map(|p| p.0).unwrap_or_default();
    Ok(Point { id: chunk_id(dir, record.id)?, vector, payload })
}

pub(super) struct Query {
    pub(super) metric: Metric,
    pub(super) ef: usize,
    pub(super) filter: Option<qdrant_edge::Filter>,
}

impl Query {
    /// The nearest points, best first, ties by id.
    pub(super) fn run(&self, dir: &Path, shard: &EdgeShard, request: &SearchRequest) -> Result<Vec<ScoredPoint>> {
        let mut limit = request.limit;
        loop {
            let found = self.once(dir, shard, request, limit, !request.exact)?;
            // Points as good as the last one may have been cut off: which of them come back must not be chance.
            let cut = found.len() == limit && found[limit - 1].score == found[request.limit.min(limit) - 1].score;
            if request.exact && cut {
                limit = limit.saturating_mul(2).max(limit + 16);
                continue;
            }
            let mut found = found;
            found.truncate(request.limit);
            return if request.exact { self.with_payloads(dir, shard, found) } else { Ok(found) };
        }
    }

    fn once(
        &self,
        dir: &Path,
        shard: &EdgeShard,
        request: &SearchRequest,
        limit: usize,
        payload: bool,
    ) -> Result<Vec<ScoredPoint>> {
        let search = qdrant_edge::SearchRequest {
            query: QueryEnum::Nearest(NamedQuery::default_dense(request.vector.clone())),
            filter: self.filter.clone(),
            params: Some(SearchParams {
                hnsw_ef: Some(self.ef.max(limit)),
                exact: request.exact,
                ..SearchParams::default()
            }),
            limit,
            offset: 0,
            with_payload: Some(payload.into()),
            with_vector: Some(false.into()),
            score_threshold: None,
        };
        let found = engine::call(dir, "searching", || shard.search(search))?;
        let mut found: Vec<ScoredPoint> = found
            .into_iter()
            .map(|p| {
                Ok(ScoredPoint {
                    id: chunk_id(dir, p.id)?,
                    score: p.score,
                    payload: p.payload.map(|p| p.0).unwrap_or_default(),
                })
            })
            .collect::<Result<_>>()?;
        found.sort_by(|a, b| {
            let by_score = match self.metric {
                Metric::Cosine | Metric::Dot => b.score.total_cmp(&a.score),
                Metric::Euclidean => a.score.total_cmp(&b.score),
            };
            by_score.then(a.id.cmp(&b.id))
        });
        Ok(found)
    }

    fn with_payloads(&self, dir: &Path, shard: &EdgeShard, found: Vec<ScoredPoint>) -> Result<Vec<ScoredPoint>> {
        let ids: Vec<PointId> = found.iter().map(|p| PointId::Uuid(p.id.0)).collect();
        let records =
            engine::call(dir, "fetching points", || shard.retrieve(&ids, Some(true.into()), Some(false.into())))?;
        let mut payloads = std::collections::HashMap::with_capacity(records.len());
        for record in records {
            payloads.insert(chunk_id(dir, record.id)?, record.payload.map(|p| p.0).unwrap_or_default());
        }
        Ok(found
            .into_iter()
            .map(|mut p| {
                p.payload = payloads.remove(&p.id).unwrap_or_default();
                p
            })
            .collect())
    }
}
