//! Vectors that earlier rebuilds computed under the same model context, found by chunk digest.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use futures::TryStreamExt;

use super::{PartName, read_part};
use crate::error::Result;
use crate::ids::Digest;
use crate::repository::{Repository, bucket_of, path};

/// A part's name, its object, and when it was written.
type StoredPart = (PartName, String, jiff::Timestamp);

/// The parts that exist under one model context, by name only: one entry per part, none per chunk.
#[derive(Debug, Default)]
pub(crate) struct ReuseIndex {
    /// Newest first.
    parts: Vec<StoredPart>,
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
            take(repository, name, object, &mut wanted, &mut found).await?;
        }
        Ok(found)
    }

    /// Vectors of documents that were moved or copied here, from parts that may hold them under their earlier ids.
    /// Parts that serve most documents come first, each is read once, and none that can help nobody any more;
    /// parts that overlap the bucket itself were looked into by [`Self::vectors`].
    pub(crate) async fn moved(
        &self,
        repository: &Repository,
        bits: u8,
        bucket: u32,
        documents: Vec<MovedDocument<'_>>,
    ) -> Result<HashMap<Digest, Vec<f32>>> {
        let sizes: BTreeSet<u8> = self.parts.iter().map(|(name, ..)| name.bits).collect();
        let mut places: BTreeMap<(u8, u32), BTreeSet<usize>> = BTreeMap::new();
        for (document, MovedDocument { earlier, .. }) in documents.iter().enumerate() {
            for (id, size) in earlier.iter().flat_map(|id| sizes.iter().map(move |size| (id, *size))) {
                places.entry((size, bucket_of(id, size))).or_default().insert(document);
            }
        }
        let mut places: Vec<_> = places.into_iter().collect();
        places.sort_by_key(|(place, documents)| (Reverse(documents.len()), *place));
        let mut by_place: HashMap<(u8, u32), Vec<&StoredPart>> = HashMap::new();
        for part in self.parts.iter().filter(|(name, ..)| !name.overlaps(bits, bucket)) {
            let versions = by_place.entry((part.0.bits, part.0.bucket)).or_default();
            if versions.len() < VERSIONS {
                versions.push(part);
            }
        }
        let mut wanted: HashSet<Digest> = documents.iter().flat_map(|d| d.chunks.iter().copied()).collect();
        let mut found = HashMap::new();
        let mut read = 0;
        for (place, served) in places {
            for (name, object, _) in by_place.remove(&place).unwrap_or_default() {
                let helps = served.iter().any(|d| documents[*d].chunks.iter().any(|c| wanted.contains(c)));
                if !helps {
                    break;
                }
                if read == MOVED_PARTS {
                    return Ok(found);
                }
                read += 1;
                take(repository, name, object, &mut wanted, &mut found).await?;
            }
        }
        Ok(found)
    }
}

/// A document that was known under other ids, with its chunks that have no vector yet.
pub(crate) struct MovedDocument<'a> {
    pub(crate) earlier: &'a [String],
    pub(crate) chunks: HashSet<Digest>,
}

/// Parts looked into for the moved documents of one bucket: a directory that was renamed may have been spread over
/// every bucket there is.
const MOVED_PARTS: usize = 256;

/// Takes what is wanted from one part. A part that is gone or damaged has nothing.
async fn take(
    repository: &Repository,
    name: &PartName,
    object: &str,
    wanted: &mut HashSet<Digest>,
    found: &mut HashMap<Digest, Vec<f32>>,
) -> Result<()> {
    let Some(bytes) = repository.get_optional(object).await? else { return Ok(()) };
    let (name, seal) = (*name, repository.file_seal(object)?);
    let Ok(rows) = tokio::task::spawn_blocking(move || read_part(&name, bytes, &seal)).await? else { return Ok(()) };
    for row in rows {
        if wanted.remove(&row.chunk_digest) {
            found.insert(row.chunk_digest, row.vector);
        }
    }
    Ok(())
}
