//! Digests, fingerprints and ids.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};

/// blake3 of some bytes, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// From a finished hasher.
    pub fn from_hasher(hasher: &blake3::Hasher) -> Self {
        Self(*hasher.finalize().as_bytes())
    }

    /// From raw bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }

    /// The first eight bytes as a big-endian number: the hash that buckets use.
    pub fn prefix(&self) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0[..8]);
        u64::from_be_bytes(first)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.short())
    }
}

impl FromStr for Digest {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let bad = || Error::new(ErrorKind::Damaged, "not a digest of 64 hexadecimal digits").with("value", s);
        if s.len() != 64 || !s.is_ascii() {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&s[2 * i..2 * i + 2], 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse().map_err(|_| serde::de::Error::custom("not a digest of 64 hexadecimal digits"))
    }
}

/// The fingerprint of a value: blake3 of a domain name and the value's canonical JSON
/// (keys in a fixed order, no white space). Two values with the same fingerprint are the same.
pub fn fingerprint<T: Serialize>(domain: &str, value: &T) -> Result<Digest> {
    let canonical = serde_json::to_value(value)
        .and_then(|mut v| {
            // A dependency may turn on serde_json's insertion order for the whole binary.
            v.sort_all_objects();
            serde_json::to_vec(&v)
        })
        .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot write canonical bytes").because(e))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"regrow ").update(domain.as_bytes()).update(b"\n").update(&canonical);
    Ok(Digest::from_hasher(&hasher))
}

/// The id of a chunk: UUIDv5 of document id, ordinal and chunk digest, so that loading it again is an upsert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChunkId(pub Uuid);

/// Namespace of chunk ids; never changes.
const CHUNK_NAMESPACE: Uuid = Uuid::from_bytes(*b"regrow chunk ids");

impl ChunkId {
    /// Computes the id.
    pub fn new(document_id: &str, ordinal: u32, digest: &Digest) -> Self {
        let mut name = Vec::with_capacity(document_id.len() + 37);
        name.extend_from_slice(document_id.as_bytes());
        name.push(0);
        name.extend_from_slice(&ordinal.to_be_bytes());
        name.extend_from_slice(digest.as_bytes());
        Self(Uuid::new_v5(&CHUNK_NAMESPACE, &name))
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A new id that sorts by time: `20261120T154200Z-1a2b3c4d`.
pub fn timed_id(now: jiff::Timestamp) -> String {
    let random = Uuid::new_v4().simple().to_string();
    // Microseconds in five digits, so that ids of the same second sort by time as well.
    let micros = now.subsec_nanosecond().unsigned_abs() / 1000;
    format!("{}-{micros:05x}{}", now.strftime("%Y%m%dT%H%M%SZ"), &random[..3])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_round_trips() {
        let d = Digest::of(b"abc");
        assert_eq!(d.to_string().parse::<Digest>().unwrap(), d);
        assert!("xyz".parse::<Digest>().is_err());
    }

    #[test]
    fn chunk_ids_are_stable() {
        // A change of this value would turn every repeated load into duplicates.
        let id = ChunkId::new("a.md", 0, &Digest::of(b"text"));
        assert_eq!(id, ChunkId::new("a.md", 0, &Digest::of(b"text")));
        assert_ne!(id, ChunkId::new("a.md", 1, &Digest::of(b"text")));
    }

    #[test]
    fn fingerprints_ignore_field_order() {
        #[derive(Serialize)]
        struct A {
            x: u8,
            y: u8,
        }
        #[derive(Serialize)]
        struct B {
            y: u8,
            x: u8,
        }
        assert_eq!(fingerprint("t", &A { x: 1, y: 2 }).unwrap(), fingerprint("t", &B { y: 2, x: 1 }).unwrap());
        assert_ne!(fingerprint("t", &A { x: 1, y: 2 }).unwrap(), fingerprint("u", &A { x: 1, y: 2 }).unwrap());
    }
}
