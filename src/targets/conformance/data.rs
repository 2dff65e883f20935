//! Deterministic points.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::ids::{ChunkId, Digest};
use crate::model::Metric;
use crate::pipeline::{FieldType, IndexSettings};
use crate::targets::contract::{OwnedCollection, Target};
use crate::targets::types::*;

/// A marker of a new instance.
pub fn marker() -> Marker {
    Marker {
        instance: Uuid::new_v4(),
        restore_key: Digest::of(b"restore"),
        snapshot: "20261120T154200Z-1a2b3c4d".to_owned(),
        model_fingerprint: Digest::of(b"model"),
        rules_fingerprint: Digest::of(b"rules"),
        purpose: Purpose::Drill,
        state: CollectionState::Loading,
        created: jiff::Timestamp::UNIX_EPOCH,
    }
}

/// A collection with the payload indexes that [`sample`]'s fields want; `acl_unindexed` has none on purpose.
pub fn spec(name: &str, dimension: usize, metric: Metric) -> CollectionSpec {
    let payload_indexes = BTreeMap::from([
        (field::DOCUMENT_ID.to_owned(), FieldType::Keyword),
        (field::TENANT.to_owned(), FieldType::Keyword),
        (field::ACL.to_owned(), FieldType::Keyword),
        ("metadata.year".to_owned(), FieldType::Integer),
        ("metadata.score".to_owned(), FieldType::Float),
        ("metadata.draft".to_owned(), FieldType::Bool),
        ("metadata.updated".to_owned(), FieldType::Datetime),
    ]);
    CollectionSpec {
        name: name.to_owned(),
        dimension,
        metric,
        index: IndexSettings::default(),
        payload_indexes,
        own: Map::new(),
        roles: Vec::new(),
        marker: marker(),
    }
}

/// Small, fast, the same everywhere (splitmix64).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Values in -1..1.
pub(super) fn raw_vector(seed: u64, dimension: usize) -> Vec<f32> {
    let mut state = seed;
    #[expect(clippy::cast_precision_loss, reason = "24 bits fit")]
    let value = |n: u64| (n >> 40) as f32 / (1_u64 << 23) as f32 - 1.0;
    (0..dimension).map(|_| value(next(&mut state))).collect()
}

/// A vector of length 1.
pub fn unit_vector(seed: u64, dimension: usize) -> Vec<f32> {
    let mut vector = raw_vector(seed, dimension);
    let length = vector.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
    for value in &mut vector {
        #[expect(clippy::cast_possible_truncation, reason = "values are f32")]
        let scaled = (f64::from(*value) / length) as f32;
        *value = scaled;
    }
    vector
}

/// A point and what it was made from.
pub struct Sample;

impl Sample {
    /// Id of the `n`th point.
    pub fn id(n: u64) -> ChunkId {
        ChunkId::new("sample", u32::try_from(n).unwrap(), &Digest::of(&n.to_le_bytes()))
    }

    /// Payload of the `n`th point.
    pub fn payload(n: u64) -> Map<String, Value> {
        let tenant = ["a", "b", "c"][(n % 3) as usize];
        let acl: Vec<String> = (0..n % 4).map(|k| format!("group-{}", (n + k) % 5)).collect();
        let value = json!({
            "document_id": format!("doc-{}.md", n / 7),
            "ordinal": n % 7,
            "text": format!("Text of point {n}: Grüße, 世界, \u{1f30d}."),
            "tenant": tenant,
            "acl": acl,
            "acl_unindexed": acl,
            "metadata": {
                "year": 1990 + n % 40,
                "score": (n % 17) as f64 / 4.0,
                "draft": n.is_multiple_of(5),
                "updated": format!("2026-{:02}-01T00:00:00Z", 1 + n % 12),
                "nested": {"deep": n % 2},
            },
        });
        match value {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

/// The `n`th point, with a vector of length 1.
pub fn sample(n: u64, dimension: usize) -> Point {
    Point { id: Sample::id(n), vector: unit_vector(n, dimension), payload: Sample::payload(n) }
}

/// Creates a collection and writes the first `count` points.
pub(super) async fn filled(target: &dyn Target, spec: &CollectionSpec, count: u64) -> OwnedCollection {
    let owned = target.create(spec).await.unwrap();
    write_range(target, &owned, 0..count, spec.dimension).await;
    owned
}

/// Writes a range of points in batches.
pub(super) async fn write_range(
    target: &dyn Target,
    owned: &OwnedCollection,
    range: std::ops::Range<u64>,
    dimension: usize,
) {
    let all: Vec<u64> = range.collect();
    for batch in all.chunks(target.capabilities().max_batch_points.min(1024)) {
        let points: Vec<Point> = batch.iter().map(|n| sample(*n, dimension)).collect();
        let outcome = target.write(owned, points).await.unwrap();
        assert_eq!(outcome, WriteOutcome { written: batch.len(), refused: Vec::new() });
    }
    if target.capabilities().consistency == Consistency::AfterFlush {
        target.flush(owned).await.unwrap();
    }
}

/// All points by scrolling, with pages of this size.
pub(super) async fn scroll_all(target: &dyn Target, name: &str, page: usize) -> Vec<Point> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let got = target.scroll(name, after, page).await.unwrap();
        assert!(got.points.len() <= page);
        assert!(got.next.is_none() || !got.points.is_empty(), "a page that is not the last one holds points");
        all.extend(got.points);
        after = got.next;
        if after.is_none() {
            return all;
        }
    }
}

/// Builds the index and waits until it is done.
pub async fn wait_for_index(target: &dyn Target, owned: &OwnedCollection) -> IndexState {
    target.start_index(owned).await.unwrap();
    // Starting it again changes nothing.
    target.start_index(owned).await.unwrap();
    loop {
        let state = target.index_state(owned).await.unwrap();
        assert!(state.indexed <= state.total);
        if state.done {
            return state;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A search without filter.
pub(super) fn nearest(vector: Vec<f32>, limit: usize, exact: bool) -> SearchRequest {
    SearchRequest { vector, limit, filter: Filter::default(), exact }
}
