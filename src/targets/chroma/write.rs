//! Writing.

use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::client::may_be_one_record;
use super::{BATCH, ChromaTarget, Known, payload};
use crate::error::{ErrorKind, Result};
use crate::ids::ChunkId;
use crate::model::Metric;
use crate::targets::checks;
use crate::targets::types::*;

/// A record on its way.
struct Record {
    id: ChunkId,
    vector: Vec<f32>,
    metadata: Map<String, Value>,
    document: String,
    /// Bytes that it takes in a request, about.
    size: usize,
}

/// Length 1, unless it is about that already, or there is no direction.
pub(super) fn normalise(vector: &mut [f32]) {
    let squared: f64 = vector.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
    if squared == 0.0 || (squared - 1.0).abs() <= 1e-6 {
        return;
    }
    let length = squared.sqrt();
    for value in vector {
        #[expect(clippy::cast_possible_truncation, reason = "values are f32")]
        let scaled = (f64::from(*value) / length) as f32;
        *value = scaled;
    }
}

pub(super) async fn write(target: &ChromaTarget, known: &Known, points: Vec<Point>) -> Result<WriteOutcome> {
    let (good, mut refused) = checks::sort_out(points, known.dimension);
    let taken = good.len();
    let mut records: Vec<Record> = Vec::with_capacity(good.len());
    let mut places: HashMap<ChunkId, usize> = HashMap::with_capacity(good.len());
    for mut point in good {
        if known.metric == Metric::Cosine {
            normalise(&mut point.vector);
        }
        let (metadata, document) = payload::encode(&point);
        let texts: usize = metadata.iter().map(|(key, v)| key.len() + v.as_str().map_or(24, str::len)).sum();
        let size = 64 + point.vector.len() * 16 / 3 + texts + document.len();
        let record = Record { id: point.id, vector: point.vector, metadata, document, size };
        // The last of several with one id counts.
        match places.get(&record.id) {
            Some(place) => records[*place] = record,
            None => {
                places.insert(record.id, records.len());
                records.push(record);
            }
        }
    }
    let limits = target.ready().await?.limits;
    let most = limits.max_batch_size.clamp(1, BATCH);
    let mut from = 0;
    while from < records.len() {
        let (mut until, mut size) = (from, 0);
        while until < records.len()
            && until - from < most
            && (until == from || size + records[until].size <= target.inner.batch_bytes)
        {
            size += records[until].size;
            until += 1;
        }
        upsert(target, known, &records[from..until], limits.supports_base64_encoding, &mut refused).await?;
        from = until;
    }
    let refused_here = refused.iter().filter(|(id, _)| places.contains_key(id)).count();
    Ok(WriteOutcome { written: taken - refused_here, refused })
}

/// Writes the records; those that the server refuses are named.
async fn upsert(
    target: &ChromaTarget,
    known: &Known,
    records: &[Record],
    base64: bool,
    refused: &mut Vec<(ChunkId, String)>,
) -> Result<()> {
    let mut waiting = vec![records];
    while let Some(records) = waiting.pop() {
        let outcome = match clear(target, known, records).await {
            Ok(()) => target.client().upsert(&known.id, &body(records, base64)).await,
            Err(e) => Err(e),
        };
        match outcome {
            Ok(()) => {}
            Err(e) if may_be_one_record(&e) => match records {
                [] => {}
                [one] => refused.push((one.id, e.context_value("said").unwrap_or("refused").to_owned())),
                _ => {
                    let (left, right) = records.split_at(records.len() / 2);
                    waiting.extend([right, left]);
                }
            },
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Removes what is there with fields that the new records do not have: an upsert would leave them.
async fn clear(target: &ChromaTarget, known: &Known, records: &[Record]) -> Result<()> {
    let ids: Vec<String> = records.iter().map(|r| r.id.to_string()).collect();
    let there = target.client().get(&known.id, &json!({"ids": ids, "include": ["metadatas"]})).await?;
    if there.ids.is_empty() {
        return Ok(());
    }
    let new: HashMap<&str, &Map<String, Value>> =
        ids.iter().map(String::as_str).zip(records.iter().map(|r| &r.metadata)).collect();
    let old = there.ids.iter().zip(there.metadatas.unwrap_or_default());
    let stale: HashSet<&str> = old
        .filter(|(id, old)| {
            let new = new.get(id.as_str());
            old.iter().flatten().any(|(key, _)| new.is_some_and(|new| !new.contains_key(key)))
        })
        .map(|(id, _)| id.as_str())
        .collect();
    if stale.is_empty() {
        return Ok(());
    }
    let stale: Vec<String> = stale.into_iter().map(str::to_owned).collect();
    match target.client().remove(&known.id, &stale).await {
        // Someone else removed them.
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn body(records: &[Record], base64: bool) -> Value {
    let embedding = |vector: &[f32]| -> Value {
        if base64 {
            STANDARD.encode(vector.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()).into()
        } else {
            json!(vector)
        }
    };
    json!({
        "ids": records.iter().map(|r| r.id.to_string()).collect::<Vec<_>>(),
        "embeddings": records.iter().map(|r| embedding(&r.vector)).collect::<Vec<_>>(),
        "metadatas": records.iter().map(|r| &r.metadata).collect::<Vec<_>>(),
        "documents": records.iter().map(|r| r.document.as_str()).collect::<Vec<_>>(),
    })
}
