//! Canaries: a few dozen chunks whose vectors travel with the snapshot, so that another machine can prove
//! that it embeds the same way.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::embed::{Engine, Role};
use crate::error::Result;
use crate::ids::{ChunkId, Digest};
use crate::ingest::ChunkedDocument;
use crate::repository::{Manifest, ObjectRef, Repository, path};
use crate::vectors::{PartKey, PartName, VectorRow, read_part, write_part};

/// Number of canaries.
const CANARIES: usize = 32;

/// The name under which canaries are encoded: they are a small part of their own.
fn name() -> PartName {
    PartName { bits: 0, bucket: 0, key: PartKey(Digest::of(b"canaries")) }
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
            let rank = Digest::of(id.0.as_bytes());
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
            self.chosen.insert(rank, row);
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

    /// Embeds the chosen chunks and stores them.
    pub(super) async fn store(self, repository: &Repository, engine: Arc<Engine>, rules: &Digest) -> Result<ObjectRef> {
        let model = engine.context().fingerprint()?;
        let rules = *rules;
        let mut rows: Vec<_> = self.chosen.into_values().collect();
        let count = rows.len() as u64;
        let bytes = tokio::task::spawn_blocking(move || {
            let texts: Vec<_> = rows.iter().map(|r| r.text.as_str()).collect();
            let embedded = engine.embed(Role::Document, &texts, &|| false)?;
            for (row, vector) in rows.iter_mut().zip(embedded.embeddings.rows()) {
                row.vector = vector.to_vec();
            }
            write_part(&name(), &rows, engine.context().dimension as usize, &model, &rules)
        })
        .await??;
        let mut object = repository.put_content(path::CANARIES, "parquet", bytes).await?;
        object.rows = Some(count);
        Ok(object)
    }
}

/// The canaries of a snapshot.
pub(crate) async fn read_canaries(repository: &Repository, manifest: &Manifest) -> Result<Vec<VectorRow>> {
    let bytes = repository.get_checked(&manifest.canaries).await?;
    read_part(&name(), bytes).map_err(|e| e.with("object", &manifest.canaries.path))
}
