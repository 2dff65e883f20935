//! The smallest target that the checks can be tried on: a sorted map, brute-force search, and faults on demand.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::ChunkId;
use crate::model::Metric;
use crate::targets::*;

pub(super) struct Double {
    pub(super) info: CollectionInfo,
    pub(super) points: BTreeMap<ChunkId, Point>,
    /// Filters on this field are not applied.
    pub(super) leaks: Option<&'static str>,
    /// A search returns only every n-th point, as a bad index would.
    pub(super) index_skips: usize,
}

fn lookup<'a>(payload: &'a serde_json::Map<String, Value>, field: &str) -> Option<&'a Value> {
    match field.split_once('.') {
        None => payload.get(field),
        Some((head, rest)) => lookup(payload.get(head)?.as_object()?, rest),
    }
}

impl Double {
    fn passes(&self, point: &Point, filter: &Filter) -> bool {
        filter.all.iter().all(|condition| {
            let (name, values) = match condition {
                Condition::Equals { field, value } => (field, std::slice::from_ref(value)),
                Condition::AnyOf { field, values } => (field, values.as_slice()),
                Condition::Range { .. } => return true,
            };
            let found = match lookup(&point.payload, name) {
                Some(Value::Array(all)) => all.iter().any(|v| values.contains(v)),
                Some(v) => values.contains(v),
                None => false,
            };
            found || self.leaks == Some(name.as_str())
        })
    }

    fn score(&self, a: &[f32], b: &[f32]) -> f32 {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        match self.info.metric {
            Metric::Cosine => dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f32::MIN_POSITIVE),
            Metric::Dot => dot(a, b),
            Metric::Euclidean => -a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt(),
        }
    }
}

fn unused<T>() -> Result<T> {
    Err(Error::new(ErrorKind::Target, "validation must not write"))
}

#[async_trait]
impl Target for Double {
    fn kind(&self) -> &'static str {
        "double"
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            atomic_promote: false,
            deferred_index: false,
            persistent: false,
            max_batch_points: 1000,
            metrics: vec![self.info.metric],
            ..Capabilities::local()
        }
    }
    async fn server(&self) -> Result<ServerInfo> {
        unused()
    }
    async fn unsupported(&self, _: &CollectionSpec) -> Result<Vec<String>> {
        unused()
    }
    async fn list(&self) -> Result<Vec<String>> {
        Ok(vec![self.info.name.clone()])
    }
    async fn describe(&self, name: &str) -> Result<Option<CollectionInfo>> {
        Ok((name == self.info.name).then(|| self.info.clone()))
    }
    async fn create(&self, _: &CollectionSpec) -> Result<OwnedCollection> {
        unused()
    }
    async fn open_owned(&self, _: &str) -> Result<OwnedCollection> {
        unused()
    }
    async fn adopt(&self, _: &str, _: Marker) -> Result<OwnedCollection> {
        unused()
    }
    async fn mark(&self, _: &OwnedCollection, _: Marker) -> Result<OwnedCollection> {
        unused()
    }
    async fn write(&self, _: &OwnedCollection, _: Vec<Point>) -> Result<WriteOutcome> {
        unused()
    }
    async fn flush(&self, _: &OwnedCollection) -> Result<()> {
        unused()
    }
    async fn start_index(&self, _: &OwnedCollection) -> Result<()> {
        unused()
    }
    async fn index_state(&self, _: &OwnedCollection) -> Result<IndexState> {
        unused()
    }
    async fn count(&self, _: &str, filter: &Filter) -> Result<u64> {
        // A leak in search need not show in counts, so faults do not touch them.
        let honest = Self { info: self.info.clone(), points: BTreeMap::new(), leaks: None, index_skips: 1 };
        Ok(self.points.values().filter(|p| honest.passes(p, filter)).count() as u64)
    }
    async fn fetch(&self, _: &str, ids: &[ChunkId]) -> Result<Vec<Point>> {
        Ok(ids.iter().filter_map(|id| self.points.get(id)).cloned().collect())
    }
    async fn scroll(&self, _: &str, after: Option<ChunkId>, limit: usize) -> Result<ScrollPage> {
        let mut rest = self.points.values().filter(|p| after.is_none_or(|a| p.id > a));
        // Pages far smaller than asked for, so that paging itself is tried.
        let points: Vec<Point> = rest.by_ref().take(limit.min(7)).cloned().collect();
        let next = rest.next().and(points.last().map(|p| p.id));
        Ok(ScrollPage { points, next })
    }
    async fn search(&self, _: &str, request: &SearchRequest) -> Result<Vec<ScoredPoint>> {
        let step = if request.exact { 1 } else { self.index_skips };
        let visible = self.points.values().step_by(step).filter(|p| self.passes(p, &request.filter));
        let mut found: Vec<ScoredPoint> = visible
            .map(|p| ScoredPoint {
                id: p.id,
                score: self.score(&request.vector, &p.vector),
                payload: p.payload.clone(),
            })
            .collect();
        found.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
        found.truncate(request.limit);
        Ok(found)
    }
    async fn promote(&self, _: &str, _: &OwnedCollection) -> Result<Option<String>> {
        unused()
    }
    async fn delete(&self, _: OwnedCollection) -> Result<()> {
        unused()
    }
}
