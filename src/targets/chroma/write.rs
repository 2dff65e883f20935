//! Writing.

use std::collections::HashMap;

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
    let there = match &known.written {
        Some(written) => {
            let again: Vec<&Record> = records.iter().filter(|r| written.may_hold(&r.id)).collect();
            written.note(records.iter().map(|r| r.id));
            there(target, known, &again).await?
        }
        None => there(target, known, &records.iter().collect::<Vec<_>>()).await?,
    };
    let new: Vec<&Record> = records.iter().filter(|r| there.get(&r.id) != Some(&State::Same)).collect();
    let stale: Vec<String> =
        new.iter().filter(|r| there.get(&r.id) == Some(&State::Stale)).map(|r| r.id.to_string()).collect();
    if !stale.is_empty() {
        match target.client().remove(&known.id, &stale).await {
            // Someone else removed them.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            other => other?,
        }
    }
    let mut waiting = vec![new.as_slice()];
    while let Some(records) = waiting.pop() {
        if records.is_empty() {
            continue;
        }
        match target.client().upsert(&known.id, &body(records, base64)).await {
            Ok(()) => {}
            Err(e) if may_be_one_record(&e) => match records {
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

/// What a record that is to be written finds in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Itself: writing it again would only make the index worse, because Chroma mends the graph around it.
    Same,
    /// One whose fields the new one has too: they are overwritten.
    Other,
    /// One with further fields, which an upsert would leave.
    Stale,
}

async fn there(target: &ChromaTarget, known: &Known, records: &[&Record]) -> Result<HashMap<ChunkId, State>> {
    if records.is_empty() {
        return Ok(HashMap::new());
    }
    let texts: Vec<String> = records.iter().map(|r| r.id.to_string()).collect();
    // Without vectors first: most often nothing is there, and a new collection has no index to read them from.
    let found = target.client().get(&known.id, &json!({"ids": texts, "include": ["metadatas", "documents"]})).await?;
    let mut metadatas = found.metadatas.unwrap_or_default().into_iter();
    let mut documents = found.documents.unwrap_or_default().into_iter();
    let new: HashMap<&str, &Record> = texts.iter().map(String::as_str).zip(records.iter().copied()).collect();
    let (mut states, mut alike) = (HashMap::with_capacity(found.ids.len()), Vec::new());
    for id in found.ids {
        let (metadata, document) = (metadatas.next().flatten().unwrap_or_default(), documents.next().flatten());
        let Some(record) = new.get(id.as_str()) else { continue };
        let stale = !metadata.keys().all(|key| record.metadata.contains_key(key));
        states.insert(record.id, if stale { State::Stale } else { State::Other });
        if metadata == record.metadata && document.as_deref().unwrap_or_default() == record.document {
            alike.push(id);
        }
    }
    if alike.is_empty() {
        return Ok(states);
    }
    let found = match target.client().get(&known.id, &json!({"ids": alike, "include": ["embeddings"]})).await {
        Ok(found) => found,
        // They are written again.
        Err(e) if e.retryable() => return Ok(states),
        Err(e) => return Err(e),
    };
    let bits = |v: &[f32]| v.iter().map(|f| f.to_bits()).collect::<Vec<u32>>();
    for (id, vector) in found.ids.iter().zip(found.embeddings.unwrap_or_default()) {
        if let (Some(record), Some(vector)) = (new.get(id.as_str()), vector)
            && bits(&vector) == bits(&record.vector)
        {
            states.insert(record.id, State::Same);
        }
    }
    Ok(states)
}

fn body(records: &[&Record], base64: bool) -> Value {
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
