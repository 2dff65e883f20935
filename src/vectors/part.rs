//! What a part is computed from, and the name that follows from it.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::repository::{DocumentRow, Manifest, Repository};

/// What one document contributes to a part's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartInput<'a> {
    /// Document id.
    pub document_id: &'a str,
    /// Digest of the text that is chunked.
    pub text_digest: &'a Digest,
    /// Digest of title, tenant, acl and metadata.
    pub payload_digest: &'a Digest,
    /// Digest over the chunks.
    pub chunk_digest: &'a Digest,
}

impl<'a> From<&'a DocumentRow> for PartInput<'a> {
    fn from(row: &'a DocumentRow) -> Self {
        Self {
            document_id: &row.document_id,
            text_digest: &row.text_digest,
            payload_digest: &row.payload_digest,
            chunk_digest: &row.chunk_digest,
        }
    }
}

/// The key of a part: blake3 over the bucket, both fingerprints and every document in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartKey(pub Digest);

impl PartKey {
    /// Computes the key; `documents` come sorted by id.
    pub fn new<'a>(
        model: &Digest,
        rules: &Digest,
        bits: u8,
        bucket: u32,
        documents: impl Iterator<Item = PartInput<'a>>,
    ) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"regrow part/1\n").update(model.as_bytes()).update(rules.as_bytes());
        hasher.update(&[bits]).update(&bucket.to_be_bytes());
        for document in documents {
            hasher.update(&(document.document_id.len() as u64).to_be_bytes());
            hasher.update(document.document_id.as_bytes());
            hasher.update(document.text_digest.as_bytes());
            hasher.update(document.payload_digest.as_bytes());
            hasher.update(document.chunk_digest.as_bytes());
        }
        Self(Digest::from_hasher(&hasher))
    }

    /// The key as the repository's part names have it: in an encrypted one, nobody can compute it from contents.
    pub(crate) fn named(self, repository: &Repository) -> Self {
        Self(repository.name(&self.0))
    }
}

/// The file name of a part: `<bits>-<bucket>-<key>.parquet`. Bits and bucket let a later rebuild find the
/// parts that may hold the same chunks without opening any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartName {
    /// Bits of the hash that number a bucket.
    pub bits: u8,
    /// The bucket.
    pub bucket: u32,
    /// What it is computed from.
    pub key: PartKey,
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}-{:06x}-{}.parquet", self.bits, self.bucket, self.key.0)
    }
}

impl std::str::FromStr for PartName {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        let parse = || {
            let mut fields = name.strip_suffix(".parquet")?.splitn(3, '-');
            let bits = fields.next()?.parse().ok().filter(|bits| *bits <= 32)?;
            let bucket = u32::from_str_radix(fields.next()?, 16).ok()?;
            let key = fields.next()?.parse().ok()?;
            Some(Self { bits, bucket, key: PartKey(key) })
        };
        parse().ok_or_else(|| Error::new(ErrorKind::Damaged, "this is not the name of a part").with("name", name))
    }
}

impl PartName {
    /// The name of the part that holds these documents of a snapshot's bucket; they come sorted by id.
    pub(crate) fn of<'a>(
        repository: &Repository,
        manifest: &Manifest,
        bucket: u32,
        rows: impl Iterator<Item = &'a DocumentRow>,
    ) -> Self {
        let (model, rules, bits) = (&manifest.model_fingerprint, &manifest.rules_fingerprint, manifest.buckets.bits);
        let key = PartKey::new(model, rules, bits, bucket, rows.map(PartInput::from)).named(repository);
        Self { bits, bucket, key }
    }

    /// The name of the part that follows from all documents of a bucket; `None` where none of them has a chunk, because
    /// then there is no part.
    pub(crate) fn of_bucket(
        repository: &Repository,
        manifest: &Manifest,
        bucket: u32,
        rows: &[DocumentRow],
    ) -> Option<Self> {
        rows.iter().any(|row| row.chunks > 0).then(|| Self::of(repository, manifest, bucket, rows.iter()))
    }

    /// Whether a document can lie both in this part and in bucket `bucket` of `bits` bits.
    pub(crate) fn overlaps(&self, bits: u8, bucket: u32) -> bool {
        if self.bits <= bits {
            bucket.checked_shr(u32::from(bits - self.bits)).unwrap_or(0) == self.bucket
        } else {
            self.bucket.checked_shr(u32::from(self.bits - bits)).unwrap_or(0) == bucket
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_overlap() {
        let name = PartName { bits: 7, bucket: 0x55, key: PartKey(Digest::of(b"k")) };
        assert_eq!(name.to_string().parse::<PartName>().unwrap(), name);
        assert!("x.parquet".parse::<PartName>().is_err());
        assert!(name.overlaps(7, 0x55) && !name.overlaps(7, 0x54));
        assert!(name.overlaps(5, 0x55 >> 2) && name.overlaps(8, 0xab) && !name.overlaps(8, 0xac));
        assert!(name.overlaps(0, 0));
    }

    #[test]
    fn the_key_depends_on_everything() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let input = |id, text| PartInput { document_id: id, text_digest: text, payload_digest: &a, chunk_digest: &a };
        let key = |model, bucket, inputs: &[PartInput<'_>]| PartKey::new(model, &a, 4, bucket, inputs.iter().cloned());
        let base = key(&a, 1, &[input("x", &a)]);
        assert_eq!(base, key(&a, 1, &[input("x", &a)]));
        for other in [
            key(&b, 1, &[input("x", &a)]),
            key(&a, 2, &[input("x", &a)]),
            key(&a, 1, &[input("x", &b)]),
            key(&a, 1, &[input("y", &a)]),
            key(&a, 1, &[]),
        ] {
            assert_ne!(base, other);
        }
    }
}
