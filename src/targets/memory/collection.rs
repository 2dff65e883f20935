//! One collection in memory.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;

use serde_json::{Map, Value};

use crate::error::Result;
use crate::ids::ChunkId;
use crate::targets::checks;
use crate::targets::filter::{Checked, passes};
use crate::targets::score::{best_first, score};
use crate::targets::types::*;

#[derive(Debug)]
struct Stored {
    vector: Vec<f32>,
    payload: Map<String, Value>,
}

#[derive(Debug)]
pub(super) struct Collection {
    spec: CollectionSpec,
    /// Absent on a collection that another tool made.
    marker: Option<Marker>,
    points: BTreeMap<ChunkId, Stored>,
    /// Search is always exact, so the index is only a state that a driver can wait for.
    indexed: bool,
}

impl Collection {
    pub(super) fn new(spec: CollectionSpec, marker: Option<Marker>) -> Self {
        Self { spec, marker, points: BTreeMap::new(), indexed: false }
    }

    pub(super) fn marker(&self) -> Result<&Marker> {
        self.marker.as_ref().ok_or_else(|| checks::not_owned(&self.spec.name))
    }

    pub(super) fn is_owned(&self) -> bool {
        self.marker.is_some()
    }

    pub(super) fn rename(&mut self, name: &str) {
        name.clone_into(&mut self.spec.name);
    }

    pub(super) fn set_marker(&mut self, marker: Marker) {
        self.marker = Some(marker);
    }

    pub(super) fn info(&self, aliases: Vec<String>) -> CollectionInfo {
        let tenants: HashSet<&str> =
            self.points.values().filter_map(|p| p.payload.get(field::TENANT)?.as_str()).collect();
        CollectionInfo {
            name: self.spec.name.clone(),
            aliases,
            dimension: self.spec.dimension,
            metric: self.spec.metric,
            index: self.spec.index.clone(),
            payload_indexes: self.spec.payload_indexes.clone(),
            count: self.points.len() as u64,
            tenants: Tenants { count: Some(tenants.len() as u64), kept: TenantKeeping::Payload },
            roles: self.spec.roles.clone(),
            own: self.spec.own.clone(),
            marker: self.marker.clone(),
        }
    }

    pub(super) fn write(&mut self, points: Vec<Point>) -> WriteOutcome {
        let (good, refused) = checks::sort_out(points, self.spec.dimension);
        let written = good.len();
        for Point { id, vector, payload } in good {
            self.points.insert(id, Stored { vector, payload });
        }
        WriteOutcome { written, refused }
    }

    pub(super) fn start_index(&mut self) {
        self.indexed = true;
    }

    pub(super) fn index_state(&self) -> IndexState {
        let total = self.points.len() as u64;
        IndexState { done: self.indexed || total == 0, indexed: if self.indexed { total } else { 0 }, total }
    }

    pub(super) fn count(&self, filter: &[Checked]) -> u64 {
        self.points.values().filter(|p| passes(filter, &p.payload)).count() as u64
    }

    pub(super) fn fetch(&self, ids: &[ChunkId]) -> Vec<Point> {
        let mut seen = HashSet::with_capacity(ids.len());
        ids.iter()
            .filter(|id| seen.insert(**id))
            .filter_map(|id| self.points.get(id).map(|stored| point(*id, stored)))
            .collect()
    }

    pub(super) fn scroll(&self, after: Option<ChunkId>, limit: usize) -> ScrollPage {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.points.range((start, Bound::Unbounded));
        let points: Vec<Point> = rest.by_ref().take(limit.max(1)).map(|(id, stored)| point(*id, stored)).collect();
        let next = if rest.next().is_some() { points.last().map(|p| p.id).or(after) } else { None };
        ScrollPage { points, next }
    }

    pub(super) fn search(
        &self,
        name: &str,
        vector: &[f32],
        limit: usize,
        filter: &[Checked],
    ) -> Result<Vec<ScoredPoint>> {
        checks::query(name, vector, self.spec.dimension)?;
        let mut found: Vec<(f32, ChunkId)> = self
            .points
            .iter()
            .filter(|(_, stored)| passes(filter, &stored.payload))
            .map(|(id, stored)| (score(self.spec.metric, vector, &stored.vector), *id))
            .collect();
        found.sort_by(|(a, a_id), (b, b_id)| best_first(self.spec.metric, *a, *b).then(a_id.cmp(b_id)));
        found.truncate(limit);
        Ok(found
            .into_iter()
            .map(|(score, id)| ScoredPoint { id, score, payload: self.points[&id].payload.clone() })
            .collect())
    }
}

fn point(id: ChunkId, stored: &Stored) -> Point {
    Point { id, vector: stored.vector.clone(), payload: stored.payload.clone() }
}
