//! Where things lie in a repository, and which bucket a document belongs to.

use crate::ids::Digest;

/// Version of the repository format that this build writes. Older ones stay readable.
pub const FORMAT_VERSION: u32 = 2;

/// Object paths, relative to the repository's root.
pub(crate) mod path {
    use crate::ids::Digest;

    pub(crate) const REPOSITORY: &str = "repository.json";
    pub(crate) const SNAPSHOTS: &str = "snapshots";
    pub(crate) const VECTORS: &str = "vectors";
    pub(crate) const VECTOR_SETS: &str = "vector-sets";
    pub(crate) const DRILLS: &str = "drills";
    pub(crate) const VERIFICATIONS: &str = "verifications";
    pub(crate) const RESTORES: &str = "restores";
    pub(crate) const LOCKS: &str = "locks";
    pub(crate) const PRUNES: &str = "prunes";
    /// Inventories, canaries and lists of skipped documents, named by their digest: snapshots share them.
    pub(crate) const INVENTORIES: &str = "inventories";
    pub(crate) const CANARIES: &str = "canaries";
    pub(crate) const SKIPPED: &str = "skipped";
    /// Indexes of captured objects, and packs with their blobs, named by their digest.
    pub(crate) const CAPTURED: &str = "captured";
    pub(crate) const DOCUMENTS: &str = "documents";

    /// Key slots of an encrypted repository.
    pub(crate) const KEYS: &str = "keys";

    pub(crate) fn key_slot(id: &str) -> String {
        format!("{KEYS}/{id}.json")
    }

    pub(crate) fn manifest(id: &str) -> String {
        format!("{SNAPSHOTS}/{id}/manifest.json")
    }

    /// An object that is named by the digest of its bytes.
    pub(crate) fn content(folder: &str, digest: &Digest, extension: &str) -> String {
        format!("{folder}/{digest}.{extension}")
    }

    /// Folder of the parts of one model under one set of chunking rules.
    pub(crate) fn parts(root: &str, model: &Digest, rules: &Digest) -> String {
        format!("{root}/{model}/{rules}")
    }

    pub(crate) fn vector_set(id: &str) -> String {
        format!("{VECTOR_SETS}/{id}.json")
    }

    pub(crate) fn drill(id: &str) -> String {
        format!("{DRILLS}/{id}.json")
    }

    /// Receipts of the parts loaded into one collection.
    pub(crate) fn receipts(instance: uuid::Uuid) -> String {
        format!("{RESTORES}/{instance}")
    }
}

/// The bucket of a document: the first `bits` bits of blake3 of its id, so that adding or removing
/// documents changes only their buckets. With 0 bits there is one bucket.
pub fn bucket_of(document_id: &str, bits: u8) -> u32 {
    if bits == 0 {
        return 0;
    }
    (Digest::of(document_id.as_bytes()).prefix() >> (64 - u32::from(bits))) as u32
}

/// How many bits give parts of a good size for `chunks` chunks: about 64 parts of 512 to 32,768 chunks
/// (a part of 32,768 vectors of 384 dimensions with their texts is about 64 MB), so that small corpora
/// still resume and stream in small steps. `previous` is kept while it is within a factor of four,
/// because another number of buckets renames every part.
pub(crate) fn bucket_bits(chunks: u64, previous: Option<u8>) -> u8 {
    let rows = (chunks / 64).clamp(512, 32_768);
    let parts = chunks.div_ceil(rows).max(1);
    let ideal = (64 - (parts - 1).leading_zeros()) as u8;
    match previous {
        Some(bits) if bits.abs_diff(ideal) <= 2 => bits,
        _ => ideal.min(24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_grow_with_the_corpus() {
        assert_eq!(bucket_bits(0, None), 0);
        assert_eq!(bucket_bits(500, None), 0);
        assert_eq!(bucket_bits(5_000, None), 4);
        assert_eq!(bucket_bits(1_000_000, None), 6);
        assert_eq!(bucket_bits(1_000_000_000, None), 15);
        assert_eq!(bucket_bits(12_000, Some(4)), 4);
    }

    #[test]
    fn buckets_stay_in_range_and_nest() {
        for i in 0..1000 {
            let id = format!("doc-{i}");
            assert_eq!(bucket_of(&id, 0), 0);
            assert!(bucket_of(&id, 5) < 32);
            assert_eq!(bucket_of(&id, 8) >> 3, bucket_of(&id, 5));
        }
    }
}
