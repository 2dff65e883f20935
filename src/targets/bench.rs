//! Measures how fast a target takes points and builds its index: as a restore loads it, with points that are made up.

use std::time::Instant;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::load::{self, Pace, point_bytes};
use super::{
    CollectionSpec, CollectionState, Filter, Marker, OwnedCollection, Point, Purpose, ScrollPage, ServerInfo, Target,
    field,
};
use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Events, Stage};
use crate::ids::{ChunkId, Digest, timed_id};
use crate::model::Metric;
use crate::pipeline::{FieldType, TargetSettings};

/// What is loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Points.
    pub points: usize,
    /// Dimension of their vectors.
    pub dimension: usize,
    /// Whether the index is built, too.
    pub index: bool,
}

/// Points to load, made before any clock starts.
#[derive(Debug)]
pub struct LoadSet {
    vectors: Vec<f32>,
    options: LoadOptions,
}

/// One load.
#[derive(Debug, Clone, Serialize)]
pub struct LoadRound {
    /// Kind of the target.
    pub target: &'static str,
    /// What answered.
    pub server: ServerInfo,
    /// Points that were loaded.
    pub points: usize,
    /// Dimension of their vectors.
    pub dimension: usize,
    /// Vectors and payload, in bytes.
    pub bytes: u64,
    /// Writes at once.
    pub writers: usize,
    /// Most points in one write.
    pub batch_points: usize,
    /// From the first write to the end of the flush: durable and counted.
    pub load_seconds: f64,
    /// Building the index after it.
    pub index_seconds: Option<f64>,
}

impl LoadSet {
    /// Vectors of numbers between -1 and 1, the same every time.
    pub fn new(options: LoadOptions) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
        };
        let vectors = std::iter::repeat_with(next).take(options.points * options.dimension).collect();
        Self { vectors, options }
    }

    fn point(&self, n: usize) -> Point {
        let at = n * self.options.dimension;
        Point {
            id: ChunkId::new("load", u32::try_from(n).unwrap_or(u32::MAX), &Digest::of(&n.to_le_bytes())),
            vector: self.vectors[at..at + self.options.dimension].to_vec(),
            payload: payload(n),
        }
    }

    /// Loads a new collection, checks that everything arrived, and deletes it.
    ///
    /// # Errors
    /// Those of the target, and [`ErrorKind::Target`] when not everything is there.
    pub async fn load(
        &self,
        target: &dyn Target,
        settings: &TargetSettings,
        events: &Events,
        cancel: &Cancel,
    ) -> Result<LoadRound> {
        let server = target.server().await?;
        let collection = target.create(&self.collection(target, settings)).await?;
        let outcome = self.load_into(target, settings, &collection, events, cancel).await;
        let deleted = target.delete(collection).await;
        let (pace, bytes, load_seconds, index_seconds) = outcome?;
        deleted?;
        Ok(LoadRound {
            target: target.kind(),
            server,
            points: self.options.points,
            dimension: self.options.dimension,
            bytes,
            writers: pace.writers,
            batch_points: pace.points,
            load_seconds,
            index_seconds,
        })
    }

    async fn load_into(
        &self,
        target: &dyn Target,
        settings: &TargetSettings,
        collection: &OwnedCollection,
        events: &Events,
        cancel: &Cancel,
    ) -> Result<(Pace, u64, f64, Option<f64>)> {
        let count = self.options.points;
        let pace = Pace::of(target, settings);
        // A restore has them from its other stages.
        let points: Vec<Point> = (0..count).map(|n| self.point(n)).collect();
        let bytes = points.iter().map(|point| point_bytes(point) as u64).sum();
        events.start(Stage::Load, Some(count as u64), "points");
        let started = Instant::now();
        load::write_all(target, collection, points.into_iter(), pace, cancel, |n| events.progress(Stage::Load, n))
            .await?;
        target.flush(collection).await?;
        let load_seconds = started.elapsed().as_secs_f64();
        events.finish(Stage::Load, load_seconds);
        let there = target.count(collection.name(), &Filter::default()).await?;
        let ScrollPage { points, .. } = target.scroll(collection.name(), None, 1).await?;
        if there != count as u64 || (points.is_empty() && count > 0) {
            return Err(Error::new(ErrorKind::Target, "not everything arrived")
                .with("sent", count)
                .with("found", there));
        }
        let index_seconds = match self.options.index {
            true => Some(load::build_index(target, collection, cancel, |_| ()).await?),
            false => None,
        };
        Ok((pace, bytes, load_seconds, index_seconds))
    }

    fn collection(&self, target: &dyn Target, settings: &TargetSettings) -> CollectionSpec {
        let now = jiff::Timestamp::now();
        let made_up = Digest::of(b"bench load");
        let marker = Marker {
            instance: uuid::Uuid::new_v4(),
            restore_key: made_up,
            snapshot: timed_id(now),
            model_fingerprint: made_up,
            rules_fingerprint: made_up,
            purpose: Purpose::Drill,
            state: CollectionState::Loading,
            created: now,
        };
        // As every restore has them.
        let mut payload_indexes = settings.payload_indexes.clone();
        for name in [field::DOCUMENT_ID, field::TENANT, field::ACL] {
            payload_indexes.insert(name.to_owned(), FieldType::Keyword);
        }
        let dot = target.capabilities().metrics.contains(&Metric::Dot);
        CollectionSpec {
            name: target.capabilities().names.fit(&format!("load{}", marker.instance.as_fields().0)),
            dimension: self.options.dimension,
            // Dot needs no vectors of length 1, which these are not.
            metric: if dot { Metric::Dot } else { Metric::Cosine },
            index: settings.index.clone(),
            payload_indexes,
            own: settings.own(),
            roles: Vec::new(),
            marker,
        }
    }
}

/// What a chunk has: 400 bytes of text, names, numbers, a list, a nested object.
fn payload(n: usize) -> Map<String, Value> {
    let tenant = ["a", "b", "c"][n % 3];
    let value = json!({
        "document_id": format!("doc-{}.md", n / 7), "ordinal": n % 7, "tenant": tenant,
        "acl": [format!("group-{}", n % 5)], "text": format!("Text of point {n}. ").repeat(20),
        "metadata": {"year": 1990 + n % 40, "score": (n % 17) as f64 / 4.0, "draft": n.is_multiple_of(5)},
    });
    match value {
        Value::Object(payload) => payload,
        _ => Map::new(),
    }
}
