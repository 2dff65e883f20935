//! Middle stages of a restore: vectors for the rows of a bucket, and the part they become.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures::{StreamExt, TryStreamExt, stream};

use super::plan::Prepared;
use super::source::Bucket;
use crate::embed::Role;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Stage;
use crate::ids::Digest;
use crate::measure::Busy;
use crate::vectors::{MovedDocument, PartName, PartRef, VectorRow, read_part, write_part};

/// Counters of the two stages.
#[derive(Debug, Default)]
pub(super) struct ComputeTotals {
    pub(super) embed: Busy,
    pub(super) write: Busy,
    pub(super) chunks_embedded: AtomicU64,
    pub(super) chunks_reused: AtomicU64,
    pub(super) tokens: AtomicU64,
}

/// Fills in the vectors: from earlier parts by chunk digest, the rest from the model, each text once.
pub(super) async fn embed(prepared: &Prepared, totals: &Arc<ComputeTotals>, bucket: &mut Bucket) -> Result<()> {
    let wanted: HashSet<Digest> = bucket.rows.iter().map(|r| r.chunk_digest).collect();
    let PartName { bits, bucket: number, .. } = bucket.name;
    let mut vectors = prepared.reuse.vectors(&prepared.repository, bits, number, wanted).await?;
    let moved = missing_of_moved(bucket, &vectors);
    if !moved.is_empty() {
        vectors.extend(prepared.reuse.moved(&prepared.repository, bits, number, moved).await?);
    }
    let reused = bucket.rows.iter().filter(|r| vectors.contains_key(&r.chunk_digest)).count();
    totals.chunks_reused.fetch_add(reused as u64, Ordering::Relaxed);
    prepared.workspace.events.progress(Stage::Embed, reused as u64);

    let mut missing: Vec<(Digest, String)> = Vec::new();
    let mut uses: HashMap<Digest, u64> = HashMap::new();
    for row in bucket.rows.iter().filter(|r| !vectors.contains_key(&r.chunk_digest)) {
        let count = uses.entry(row.chunk_digest).or_default();
        if *count == 0 {
            missing.push((row.chunk_digest, row.text.clone()));
        }
        *count += 1;
    }
    let start = Instant::now();
    let mut slices = stream::iter(missing.chunks(prepared.engine.slice()))
        .map(|slice| {
            let (engine, cancel) = (prepared.engine.clone(), prepared.workspace.cancel.clone());
            let (digests, texts): (Vec<Digest>, Vec<String>) = slice.iter().cloned().unzip();
            let call = tokio::task::spawn_blocking(move || {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                engine.embed(Role::Document, &texts, &|| cancel.is_cancelled())
            });
            async move { Ok::<_, Error>((digests, call.await??)) }
        })
        .buffered(prepared.engine.calls());
    while let Some((digests, embedded)) = slices.try_next().await? {
        totals.tokens.fetch_add(embedded.tokens, Ordering::Relaxed);
        let rows: u64 = digests.iter().map(|d| uses[d]).sum();
        totals.chunks_embedded.fetch_add(rows, Ordering::Relaxed);
        prepared.workspace.events.progress(Stage::Embed, rows);
        for (digest, vector) in digests.into_iter().zip(embedded.embeddings.rows()) {
            vectors.insert(digest, vector.to_vec());
        }
    }
    drop(slices);
    totals.embed.since(start);
    let dimension = prepared.manifest.model.dimension as usize;
    for row in &mut bucket.rows {
        match vectors.get(&row.chunk_digest) {
            Some(vector) if vector.len() == dimension => row.vector.clone_from(vector),
            found => {
                return Err(Error::new(ErrorKind::ModelMismatch, "a vector has the wrong dimension")
                    .with("chunk", row.chunk_id)
                    .with("expected", dimension)
                    .with("found", found.map_or(0, Vec::len)));
            }
        }
    }
    Ok(())
}

/// Of documents that were known under other ids: these ids, and the chunks that have no vector yet.
fn missing_of_moved<'a>(bucket: &'a Bucket, found: &HashMap<Digest, Vec<f32>>) -> Vec<MovedDocument<'a>> {
    if bucket.moved.is_empty() {
        return Vec::new();
    }
    let mut missing: HashMap<&str, HashSet<Digest>> = HashMap::new();
    for row in bucket.rows.iter().filter(|r| !found.contains_key(&r.chunk_digest)) {
        missing.entry(&row.document_id).or_default().insert(row.chunk_digest);
    }
    let with_ids = |(id, chunks)| Some(MovedDocument { earlier: bucket.moved.get(id)?, chunks });
    missing.into_iter().filter_map(with_ids).collect()
}

/// Encodes and commits the part. A part of that name which is there already holds the same, or is damaged
/// and replaced.
pub(super) async fn store(
    prepared: &Prepared,
    totals: &Arc<ComputeTotals>,
    bucket: Bucket,
) -> Result<(PartRef, Vec<VectorRow>)> {
    let start = Instant::now();
    let (model, rules) = (prepared.manifest.model_fingerprint, prepared.manifest.rules_fingerprint);
    let dimension = prepared.manifest.model.dimension as usize;
    let Bucket { name, rows, .. } = bucket;
    let path = prepared.object(&name);
    let seal = prepared.repository.file_seal(&path)?;
    let own = seal.clone();
    let (bytes, rows) = tokio::task::spawn_blocking(move || {
        write_part(&name, &rows, dimension, &model, &rules, &own).map(|bytes| (bytes, rows))
    })
    .await??;
    let mut object = match prepared.repository.put_new(&path, bytes.clone()).await {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            let there = prepared.repository.get(&path).await?;
            let kept = object_ref(&path, &there);
            match read_part(&name, there, &seal) {
                Ok(stored) if stored == rows && prepared.repository.get_checked(&kept).await.is_ok() => kept,
                Err(e) if e.kind() != ErrorKind::Damaged => return Err(e.with("object", &path)),
                // In one step: vector sets that name it are never without it.
                _ => prepared.repository.replace(&path, bytes).await?,
            }
        }
        other => other?,
    };
    object.rows = Some(rows.len() as u64);
    totals.write.since(start);
    Ok((PartRef { object, bucket: name.bucket, rows: rows.len() as u64 }, rows))
}

/// Reads a part that is stored already; `None` when it is gone or damaged, and must be computed again.
pub(super) async fn stored(prepared: &Prepared, name: PartName) -> Result<Option<(PartRef, Vec<VectorRow>)>> {
    let path = prepared.object(&name);
    let Some(bytes) = prepared.repository.get_optional(&path).await? else { return Ok(None) };
    let mut object = object_ref(&path, &bytes);
    let seal = prepared.repository.file_seal(&path)?;
    match tokio::task::spawn_blocking(move || read_part(&name, bytes, &seal)).await? {
        Ok(rows) => {
            object.rows = Some(rows.len() as u64);
            Ok(Some((PartRef { object, bucket: name.bucket, rows: rows.len() as u64 }, rows)))
        }
        Err(e) if e.kind() == ErrorKind::Damaged => {
            let cause = e.causes().join(": ");
            prepared.workspace.events.warn(format!("{e}: {cause}; it is computed again"));
            // It stays until its replacement is at hand.
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

fn object_ref(path: &str, bytes: &bytes::Bytes) -> crate::repository::ObjectRef {
    crate::repository::ObjectRef {
        path: path.to_owned(),
        bytes: bytes.len() as u64,
        digest: Digest::of(bytes),
        rows: None,
        buckets: None,
    }
}
