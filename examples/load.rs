//! Loads made-up points into a database, as a restore does, and prints how long it took:
//!
//! ```sh
//! cargo run --release --example load -- chroma http://127.0.0.1:8000 20000 384
//! ```
//!
//! `benches/peers/load.py` compares it with the database's own client.

use std::time::Instant;

use futures::{StreamExt, TryStreamExt};
use regrow::event::Events;
use regrow::ids::{ChunkId, Digest};
use regrow::model::Metric;
use regrow::pipeline::{IndexSettings, TargetSettings};
use regrow::targets::{CollectionSpec, CollectionState, Filter, Marker, Point, Purpose, ScrollPage, WriteOutcome};
use regrow::{Error, ErrorKind, Result};
use serde_json::{Map, Value, json};

/// As `benches/peers/load.py` has it.
fn payload(n: u64) -> Map<String, Value> {
    let tenant = ["a", "b", "c"][(n % 3) as usize];
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

/// Anything in -1..1.
fn vector(n: u64, dimension: usize) -> Vec<f32> {
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    (0..dimension).map(|_| next()).collect()
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, url, points, dimension] = arguments.as_slice() else {
        return Err(Error::new(ErrorKind::Configuration, "usage: load KIND URL POINTS DIMENSION"));
    };
    let number =
        |text: &str| text.parse::<u64>().map_err(|e| Error::new(ErrorKind::Configuration, "not a number").because(e));
    let (count, dimension) = (number(points)?, usize::try_from(number(dimension)?).unwrap_or(1));
    let settings: TargetSettings = serde_json::from_value(json!({"kind": kind, "url": url}))
        .map_err(|e| Error::new(ErrorKind::Configuration, "no such target").because(e))?;
    let target = regrow::targets::open(&settings, std::path::Path::new("."), &|_| None, &Events::silent())?;
    let now = jiff::Timestamp::now();
    let marker = Marker {
        instance: uuid::Uuid::new_v4(),
        restore_key: Digest::of(b"load"),
        snapshot: regrow::ids::timed_id(now),
        model_fingerprint: Digest::of(b"load"),
        rules_fingerprint: Digest::of(b"load"),
        purpose: Purpose::Drill,
        state: CollectionState::Loading,
        created: now,
    };
    let spec = CollectionSpec {
        name: format!("load{}", marker.instance.as_fields().0),
        dimension,
        metric: Metric::Dot,
        index: IndexSettings::default(),
        payload_indexes: std::collections::BTreeMap::new(),
        own: Map::new(),
        roles: Vec::new(),
        marker,
    };
    // Made before the clock starts, as the peer's are.
    let vectors: Vec<Vec<f32>> = (0..count).map(|n| vector(n, dimension)).collect();
    let owned = target.create(&spec).await?;
    let advice = target.capabilities();
    let start = Instant::now();
    futures::stream::iter((0..count).step_by(advice.max_batch_points))
        .map(async |from| {
            let until = (from + advice.max_batch_points as u64).min(count);
            let points = (from..until).map(|n| Point {
                id: ChunkId::new("load", u32::try_from(n).unwrap_or(0), &Digest::of(&n.to_le_bytes())),
                vector: vectors[n as usize].clone(),
                payload: payload(n),
            });
            target.write(&owned, points.collect()).await.map(|WriteOutcome { written, .. }| written)
        })
        .buffer_unordered(advice.write_concurrency)
        .try_collect::<Vec<_>>()
        .await?;
    target.flush(&owned).await?;
    let seconds = start.elapsed().as_secs_f64();
    let there = target.count(owned.name(), &Filter::default()).await?;
    let ScrollPage { points, .. } = target.scroll(owned.name(), None, 1).await?;
    if there != count || points.is_empty() {
        return Err(Error::new(ErrorKind::Target, "not everything arrived").with("there", there).with("sent", count));
    }
    target.delete(owned).await?;
    println!("{}", json!({"points": count, "seconds": seconds}));
    Ok(())
}
