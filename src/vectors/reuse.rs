//! Vectors that earlier rebuilds computed under the same model context, found by chunk digest.

use std::collections::{HashMap, HashSet};

use futures::TryStreamExt;

use super::{PartName, read_part};
use crate::error::Result;
use crate::ids::Digest;
use crate::repository::{Repository, path};

/// The parts that exist under one model context, by name only: one entry per part, none per chunk.
#[derive(Debug, Default)]
pub(crate) struct ReuseIndex {
    /// Newest first.
    parts: Vec<(PartName, String, jiff::Timestamp)>,
    objects: HashSet<String>,
}

/// Versions of a part looked into, newest first: enough for the last few versions of a corpus.
const VERSIONS: usize = 3;

impl ReuseIndex {
    /// Lists the parts of `model`, under any chunking rules.
    pub(crate) async fn list(repository: &Repository, model: &Digest) -> Result<Self> {
        let mut parts: Vec<_> = repository
            .list(&format!("{}/{}", path::VECTORS, repository.name(model)))
            .try_filter_map(async |(object, _, modified)| {
                let name = object.rsplit('/').next().unwrap_or_default().parse::<PartName>();
                Ok(name.ok().map(|name| (name, object, modified)))
            })
            .try_collect()
            .await?;
        parts.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| a.1.cmp(&b.1)));
        let objects = parts.iter().map(|(_, object, _)| object.clone()).collect();
        Ok(Self { parts, objects })
    }

    /// Whether there is a part at this object.
    pub(crate) fn contains(&self, object: &str) -> bool {
        self.objects.contains(object)
    }

    /// Vectors by chunk digest from parts that may share documents with the bucket; stops as soon as all of
    /// `wanted` are found. A damaged part is passed over: its vectors are computed again.
    pub(crate) async fn vectors(
        &self,
        repository: &Repository,
        bits: u8,
        bucket: u32,
        mut wanted: HashSet<Digest>,
    ) -> Result<HashMap<Digest, Vec<f32>>> {
        let mut found = HashMap::new();
        let mut versions: HashMap<(u8, u32), usize> = HashMap::new();
        for (name, object, _) in self.parts.iter().filter(|(n, ..)| n.overlaps(bits, bucket)) {
            if wanted.is_empty() {
                break;
            }
            let seen = versions.entry((name.bits, name.bucket)).or_default();
            *seen += 1;
            if *seen > VERSIONS {
                continue;
            }
            let Some(bytes) = repository.get_optional(object).await? else { continue };
            let (name, seal) = (*name, repository.file_seal(object)?);
            let Ok(rows) = tokio::task::spawn_blocking(move || read_part(&name, bytes, &seal)).await? else { continue };
            for row in rows {
                if wanted.remove(&row.chunk_digest) {
                    found.insert(row.chunk_digest, row.vector);
                }
            }
        }
        Ok(found)
    }
}
