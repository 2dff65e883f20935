//! Canaries: a few dozen chunks whose vectors travel with the snapshot, so that another machine can prove
//! that it embeds the same way.
//!
//! A snapshot that reads everything takes the chunks with the smallest hash of their id. One that builds on
//! another takes the same among the earlier canaries of unchanged documents and the chunks of documents that it
//! read. Where that leaves fewer than [`LEAST`], unchanged documents are read for more.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::base::is_shared;
use crate::corpus::SourceObject;
use crate::embed::{Engine, Role};
use crate::error::Result;
use crate::ids::{ChunkId, Digest};
use crate::ingest::ChunkedDocument;
use crate::repository::{DocumentBrief, Manifest, ObjectRef, Repository, path};
use crate::vectors::{PartKey, PartName, VectorRow, read_part, write_part};

/// Number of canaries.
const CANARIES: usize = 32;
/// Fewer than these are topped up, where there are more chunks.
const LEAST: u64 = 16;

/// The name under which canaries are encoded: they are a small part of their own.
fn name() -> PartName {
    PartName { bits: 0, bucket: 0, key: PartKey(Digest::of(b"canaries")) }
}

fn rank(id: &ChunkId) -> Digest {
    Digest::of(id.0.as_bytes())
}

/// Picks the chunks with the smallest hash of their id: the same ones whatever the order of documents.
#[derive(Default)]
pub(super) struct CanaryPicker {
    chosen: BTreeMap<Digest, VectorRow>,
}

impl CanaryPicker {
    pub(super) fn offer(&mut self, document: &ChunkedDocument) {
        let text = &document.document.text;
        for chunk in &document.chunks {
            let digest = Digest::of(&text.as_bytes()[chunk.start..chunk.end]);
            let id = ChunkId::new(&document.document.id, chunk.ordinal, &digest);
            let rank = rank(&id);
            if self.chosen.len() >= CANARIES && self.chosen.last_key_value().is_some_and(|(last, _)| *last < rank) {
                continue;
            }
            let row = VectorRow {
                chunk_id: id,
                document_id: document.document.id.clone(),
                ordinal: chunk.ordinal,
                start: chunk.start as u64,
                end: chunk.end as u64,
                text: text[chunk.start..chunk.end].to_owned(),
                title: None,
                tenant: None,
                acl: Vec::new(),
                metadata: serde_json::Map::new(),
                chunk_digest: digest,
                vector: Vec::new(),
            };
            // One that is kept with its vector already is the same chunk.
            self.chosen.entry(rank).or_insert(row);
            if self.chosen.len() > CANARIES {
                self.chosen.pop_last();
            }
        }
    }

    /// Drops the chunks of an object whose documents do not count after all.
    pub(super) fn forget(&mut self, path: &str) {
        let of_object = |id: &str| id.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('#'));
        self.chosen.retain(|_, row| !of_object(&row.document_id));
    }

    /// Takes earlier canaries, with their vectors.
    pub(super) fn keep(&mut self, rows: Vec<VectorRow>) {
        for row in rows {
            self.chosen.insert(rank(&row.chunk_id), row);
        }
        while self.chosen.len() > CANARIES {
            self.chosen.pop_last();
        }
    }

    /// Whether a snapshot of so many chunks should have more.
    pub(super) fn too_few(&self, chunks: u64) -> bool {
        (self.chosen.len() as u64) < LEAST.min(chunks)
    }

    /// Embeds the chosen chunks that have no vector yet and stores all. The previous object is taken as it is when
    /// it holds the same.
    pub(super) async fn store(
        self,
        repository: &Repository,
        engine: Arc<Engine>,
        rules: &Digest,
        previous: Option<&ObjectRef>,
    ) -> Result<ObjectRef> {
        let model = engine.context().fingerprint()?;
        let rules = *rules;
        let mut rows: Vec<_> = self.chosen.into_values().collect();
        let count = rows.len() as u64;
        if let Some(previous) = previous
            && previous.rows == Some(count)
            && is_shared(previous)
            && rows.iter().all(|r| !r.vector.is_empty())
        {
            return Ok(previous.clone());
        }
        let seal = repository.file_seal(path::CANARIES)?;
        let bytes = tokio::task::spawn_blocking(move || {
            let new: Vec<_> = rows.iter_mut().filter(|r| r.vector.is_empty()).collect();
            let texts: Vec<_> = new.iter().map(|r| r.text.clone()).collect();
            if !texts.is_empty() {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                let embedded = engine.embed(Role::Document, &texts, &|| false)?;
                for (row, vector) in new.into_iter().zip(embedded.embeddings.rows()) {
                    row.vector = vector.to_vec();
                }
            }
            write_part(&name(), &rows, engine.context().dimension as usize, &model, &rules, &seal)
        })
        .await??;
        let mut object = repository.put_content(path::CANARIES, "parquet", bytes).await?;
        object.rows = Some(count);
        Ok(object)
    }
}

/// Earlier canaries whose documents are kept, and objects to read for more.
#[derive(Default)]
pub(super) struct Kept {
    /// By document id, and whether the document is kept.
    earlier: HashMap<String, (Vec<VectorRow>, bool)>,
    /// Objects of kept documents that have chunks: files before record files, then by the document's digest.
    spare: BTreeMap<(bool, Digest), SourceObject>,
}

impl Kept {
    pub(super) fn new(rows: Vec<VectorRow>) -> Self {
        let mut earlier: HashMap<String, (Vec<VectorRow>, bool)> = HashMap::new();
        for row in rows {
            earlier.entry(row.document_id.clone()).or_default().0.push(row);
        }
        Self { earlier, spare: BTreeMap::new() }
    }

    /// Notes a document that is kept.
    pub(super) fn document(&mut self, row: &DocumentBrief) {
        if let Some((_, kept)) = self.earlier.get_mut(row.document_id.as_str()) {
            *kept = true;
        }
        let key = (row.line.is_some(), row.digest);
        let full = self.spare.len() as u64 >= LEAST;
        if row.chunks > 0 && !(full && self.spare.last_key_value().is_some_and(|(last, _)| *last < key)) {
            self.spare.insert(key, row.object.clone());
            if self.spare.len() as u64 > LEAST {
                self.spare.pop_last();
            }
        }
    }

    /// The canaries of kept documents.
    pub(super) fn rows(&mut self) -> Vec<VectorRow> {
        let kept = std::mem::take(&mut self.earlier).into_values().filter(|(_, kept)| *kept);
        kept.flat_map(|(rows, _)| rows).collect()
    }

    /// Objects to read when there are too few, each once.
    pub(super) fn spare(&mut self) -> Vec<SourceObject> {
        let mut objects: Vec<SourceObject> = Vec::new();
        for object in std::mem::take(&mut self.spare).into_values() {
            if objects.iter().all(|o| o.path != object.path) {
                objects.push(object);
            }
        }
        objects
    }
}

/// The canaries of a snapshot.
pub(crate) async fn read_canaries(repository: &Repository, manifest: &Manifest) -> Result<Vec<VectorRow>> {
    let bytes = repository.get_checked(&manifest.canaries).await?;
    read_part(&name(), bytes, &repository.file_seal(path::CANARIES)?)
        .map_err(|e| e.with("object", &manifest.canaries.path))
}
