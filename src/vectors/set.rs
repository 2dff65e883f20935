//! The commit record of a rebuild, and reading the vector set it names.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{PartName, VectorRow, VectorSource, read_part};
use crate::chunk::ChunkingRules;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Digest, fingerprint};
use crate::model::ModelContext;
use crate::repository::{FORMAT_VERSION, ObjectRef, Repository, path};

/// One part of a vector set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartRef {
    /// The object.
    pub object: ObjectRef,
    /// Its bucket.
    pub bucket: u32,
    /// Its rows.
    pub rows: u64,
}

impl PartRef {
    /// The part's name.
    pub fn name(&self) -> Result<PartName> {
        self.object.path.rsplit('/').next().unwrap_or_default().parse()
    }
}

/// The commit record of a vector set: the parts of one rebuild.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VectorSetRecord {
    /// Format version.
    pub format: u32,
    /// Id: follows from what the set is computed from.
    pub id: String,
    /// When it was first committed.
    pub created: jiff::Timestamp,
    /// Snapshot it was first computed from.
    pub snapshot: String,
    /// Model context.
    pub model: ModelContext,
    /// Fingerprint of the model context.
    pub model_fingerprint: Digest,
    /// Chunking rules.
    pub rules: ChunkingRules,
    /// Fingerprint of the rules.
    pub rules_fingerprint: Digest,
    /// Bits of the hash that number a bucket.
    pub bits: u8,
    /// Parts in bucket order; empty buckets have none.
    pub parts: Vec<PartRef>,
    /// Rows in all parts.
    pub rows: u64,
}

/// The record as stored: with a digest over its canonical JSON, so that a changed record is noticed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed<T> {
    digest: Digest,
    vector_set: T,
}

const SEAL: &str = "vector-set-record/1";
/// The last format whose records have no digest.
const WITHOUT_DIGEST: u64 = 1;

impl VectorSetRecord {
    /// The id of the set with these parts, in bucket order.
    pub(crate) fn id(
        repository: &Repository,
        model: &Digest,
        rules: &Digest,
        parts: impl Iterator<Item = PartName>,
    ) -> Result<String> {
        let names: Vec<String> = parts.map(|p| p.to_string()).collect();
        let id = repository.name(&fingerprint("vector-set/1", &(model, rules, names))?);
        Ok(id.to_string()[..32].to_owned())
    }

    /// Writes the commit record. One that is there already is kept when it names the same objects;
    /// otherwise (a damaged part was computed again, or the record itself is damaged) it is replaced.
    pub(crate) async fn commit(&self, repository: &Repository) -> Result<()> {
        let name = path::vector_set(&self.id);
        let sealed = Sealed { digest: fingerprint(SEAL, self)?, vector_set: self };
        match repository.put_json(&name, &sealed).await {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            other => return other.map(drop),
        }
        match Self::read(repository, &self.id).await {
            Ok(stored) if stored.parts == self.parts => return Ok(()),
            // What another version or key wrote is not damaged.
            Err(e) if !matches!(e.kind(), ErrorKind::Damaged | ErrorKind::NotFound) => return Err(e),
            _ => {}
        }
        repository.delete(&name).await?;
        repository.put_json(&name, &sealed).await.map(drop)
    }

    /// Reads a commit record.
    pub async fn read(repository: &Repository, id: &str) -> Result<Self> {
        let name = path::vector_set(id);
        let bytes = repository.open_sealed(&name).await?;
        // In an encrypted repository nobody changes a record unnoticed; early ones there have no digest.
        let record = Self::parse(&bytes, repository.is_encrypted()).map_err(|e| e.with("object", &name))?;
        if record.id != id {
            return Err(Error::new(ErrorKind::Damaged, "the commit record is another vector set's")
                .with("object", name)
                .with("found", record.id)
                .guidance("the next restore writes it again"));
        }
        Ok(record)
    }

    /// Parses the bytes of a record. One without a digest is right if it is `authentic` otherwise, or of format 1.
    fn parse(bytes: &[u8], authentic: bool) -> Result<Self> {
        let damaged = |why: String| {
            Error::new(ErrorKind::Damaged, "the commit record of a vector set is damaged")
                .guidance("the next restore writes it again once it is removed")
                .because(why)
        };
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
        let (digest, value) = if value.get("vector_set").is_some() {
            let sealed: Sealed<serde_json::Value> =
                serde_json::from_value(value).map_err(|e| damaged(e.to_string()))?;
            (Some(sealed.digest), sealed.vector_set)
        } else {
            (None, value)
        };
        let format = value.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if format > u64::from(FORMAT_VERSION) {
            return Err(Error::new(ErrorKind::Configuration, "the vector set was written by a newer regrow")
                .with("format", format)
                .with("readable", FORMAT_VERSION)
                .guidance("use a regrow at least as new as the one that wrote it"));
        }
        match digest {
            Some(digest) => {
                let found = fingerprint(SEAL, &value)?;
                if found != digest {
                    return Err(damaged(format!("its digest is {}, recorded is {}", found.short(), digest.short())));
                }
            }
            None if authentic || format == WITHOUT_DIGEST => {}
            None => return Err(damaged("it has no digest".to_owned())),
        }
        serde_json::from_value(value).map_err(|e| damaged(e.to_string()))
    }
}

/// A vector set in a repository, read part by part.
pub struct StoredVectorSet<'a> {
    repository: &'a Repository,
    parts: Vec<(PartName, ObjectRef)>,
    rows: u64,
}

impl<'a> StoredVectorSet<'a> {
    /// The parts, with the rows in all of them.
    pub fn new(repository: &'a Repository, parts: &[PartRef]) -> Result<Self> {
        Ok(Self {
            repository,
            rows: parts.iter().map(|p| p.rows).sum(),
            parts: parts.iter().map(|p| Ok((p.name()?, p.object.clone()))).collect::<Result<_>>()?,
        })
    }
}

#[async_trait]
impl VectorSource for StoredVectorSet<'_> {
    fn parts(&self) -> usize {
        self.parts.len()
    }

    fn rows(&self) -> u64 {
        self.rows
    }

    async fn read(&self, part: usize) -> Result<Vec<VectorRow>> {
        let (name, object) = &self.parts[part];
        let bytes = self.repository.get_checked(object).await?;
        let (name, seal) = (*name, self.repository.file_seal(&object.path)?);
        tokio::task::spawn_blocking(move || read_part(&name, bytes, &seal)).await?
    }
}
