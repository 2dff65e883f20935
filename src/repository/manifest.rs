//! The manifest: the file that is the snapshot. Types of format version 1; no I/O beyond reading and writing itself.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use super::layout::{FORMAT_VERSION, path};
use super::store::Repository;
use crate::chunk::ChunkingRules;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Digest, fingerprint};
use crate::model::ModelContext;
use crate::pipeline::{CaptureMode, CorpusSettings, FieldType, IndexSettings};
use crate::targets::{Role, ServerInfo, Tenants};
use crate::validate::GoldenBaseline;

/// An object that a snapshot or vector set needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectRef {
    /// Path relative to the repository's root.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// blake3 of the bytes.
    pub digest: Digest,
    /// Rows, for Parquet objects.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rows: Option<u64>,
    /// First and last bucket, for inventory objects.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub buckets: Option<(u32, u32)>,
}

impl ObjectRef {
    /// Whether these are the object's bytes.
    pub(super) fn is(&self, bytes: &[u8]) -> bool {
        bytes.len() as u64 == self.bytes && Digest::of(bytes) == self.digest
    }
}

/// A document that was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkippedDocument {
    /// Path of the object.
    pub path: String,
    /// Line or record in it, from 1.
    pub line: Option<u64>,
    /// Why.
    pub reason: String,
}

/// The corpus at the moment of the snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusRecord {
    /// How it was read; a restore reads it the same way.
    pub settings: CorpusSettings,
    /// How documents are kept.
    pub capture: CaptureMode,
    /// Objects listed.
    pub objects: u64,
    /// Sum over the objects of a hash of path, size and modification time: an equal listing gives an equal value.
    pub listing: String,
    /// Latest modification of any object, in microseconds since 1970. (Format 2.)
    #[serde(default)]
    pub newest: Option<i64>,
    /// Objects that changed while they were read and were read again. (Format 2.)
    #[serde(default)]
    pub reread: u64,
}

/// Documents that the repository holds itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Captured {
    /// The index: which object of the corpus consists of which blobs, and where they are.
    pub index: Vec<ObjectRef>,
    /// Packs that hold the blobs; the index counts them from 0.
    pub packs: Vec<ObjectRef>,
    /// Objects of the corpus that are captured.
    pub objects: u64,
    /// Their bytes, before deduplication and compression.
    pub bytes: u64,
}

/// What a snapshot holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Documents in the inventory.
    pub documents: u64,
    /// Documents left out as bad.
    pub documents_skipped: u64,
    /// Chunks.
    pub chunks: u64,
    /// Tokens in the chunks, special tokens not counted; overlaps count twice.
    pub tokens: u64,
    /// Bytes of the documents as stored.
    pub bytes: u64,
}

/// How documents are spread over parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Buckets {
    /// Bits of the hash that number a bucket.
    pub bits: u8,
}

/// The collection's configuration, so that a restore recreates it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetRecord {
    /// Target kind.
    pub kind: String,
    /// Production name.
    pub collection: String,
    /// Index parameters.
    pub index: IndexSettings,
    /// Payload fields with an index.
    pub payload_indexes: BTreeMap<String, FieldType>,
    /// Points in the live collection, when there was one.
    pub live_count: Option<u64>,
    /// Physical name the production name pointed at, when there was one.
    pub live_collection: Option<String>,
    /// What answered, where the target is a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerInfo>,
    /// Tenants of the live collection, where the target is a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenants: Option<Tenants>,
    /// Who may do what with the live collection.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Role>,
    /// The target's own parameters of the live collection.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub own: serde_json::Map<String, serde_json::Value>,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format version.
    pub format: u32,
    /// Snapshot id; sorts by time.
    pub id: String,
    /// The moment the listing of the corpus began: the snapshot's point in time.
    pub created: jiff::Timestamp,
    /// When the manifest was written.
    pub completed: jiff::Timestamp,
    /// Version of regrow that wrote it.
    pub tool_version: String,
    /// Name of the pipeline.
    pub pipeline: String,
    /// The corpus.
    pub corpus: CorpusRecord,
    /// Chunking rules.
    pub rules: ChunkingRules,
    /// Fingerprint of the rules.
    pub rules_fingerprint: Digest,
    /// Model context.
    pub model: ModelContext,
    /// Fingerprint of the model context.
    pub model_fingerprint: Digest,
    /// Name or path of the model card.
    pub model_card: String,
    /// What it holds.
    pub counts: Counts,
    /// How documents are spread over parts.
    pub buckets: Buckets,
    /// The inventory, in bucket order.
    pub inventory: Vec<ObjectRef>,
    /// The canaries: chunks with their vectors.
    pub canaries: ObjectRef,
    /// Documents left out, one JSON object per line.
    pub skipped: Option<ObjectRef>,
    /// The collection's configuration.
    pub target: TargetRecord,
    /// What golden queries found in the live collection.
    pub golden_baseline: Option<GoldenBaseline>,
    /// What a restore cannot bring back.
    pub cannot_restore: Vec<String>,
    /// The snapshot of this pipeline that was the latest when this one began. (Format 2.)
    #[serde(default)]
    pub previous: Option<String>,
    /// Words that the user gave it. (Format 2.)
    #[serde(default)]
    pub tags: Vec<String>,
    /// The documents, where the repository holds them. (Format 2.)
    #[serde(default)]
    pub captured: Option<Captured>,
}

impl Manifest {
    /// Every object that the snapshot needs, the manifest itself apart.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        let captured = self.captured.iter().flat_map(|c| c.index.iter().chain(&c.packs));
        self.inventory.iter().chain([&self.canaries]).chain(&self.skipped).chain(captured)
    }
}

/// The manifest as stored: with a digest over its canonical JSON, so that a changed manifest is noticed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed<T> {
    digest: Digest,
    manifest: T,
}

const SEAL: &str = "manifest/1";
/// Most bits that number a bucket.
const MOST_BITS: u8 = 24;

impl Manifest {
    /// Writes the manifest: the commit of the snapshot.
    pub(crate) async fn commit(&self, repository: &Repository) -> Result<()> {
        let sealed = Sealed { digest: fingerprint(SEAL, self)?, manifest: self };
        repository.put_json(&path::manifest(&self.id), &sealed).await?;
        Ok(())
    }

    /// Reads a snapshot.
    pub async fn read(repository: &Repository, id: &str) -> Result<Self> {
        let name = path::manifest(id);
        let bytes = repository.open_sealed_optional(&name).await?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "there is no such snapshot")
                .with("snapshot", id)
                .with("repository", repository.url())
                .guidance("`regrow list` shows the snapshots")
        })?;
        let manifest = Self::parse(&bytes);
        let manifest = manifest.map_err(|e| e.with("object", &name).with("repository", repository.url()))?;
        if manifest.id != id {
            return Err(Error::new(ErrorKind::Damaged, "the manifest is another snapshot's")
                .with("object", name)
                .with("found", manifest.id)
                .with("repository", repository.url())
                .guidance("use another snapshot (`regrow list`), or a copy of this repository"));
        }
        Ok(manifest)
    }

    /// Parses the bytes of `manifest.json`.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let damaged = |why: String| {
            Error::new(ErrorKind::Damaged, "the manifest is damaged")
                .guidance("use another snapshot (`regrow list`), or a copy of this repository")
                .because(why)
        };
        let sealed: Sealed<serde_json::Value> =
            serde_json::from_slice(bytes).map_err(|e| damaged(format!("not a complete JSON document: {e}")))?;
        let format = sealed.manifest.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if format > u64::from(FORMAT_VERSION) {
            return Err(Error::new(ErrorKind::Configuration, "the snapshot was written by a newer regrow")
                .with("format", format)
                .with("readable", FORMAT_VERSION)
                .guidance("use a regrow at least as new as the one that wrote it"));
        }
        let found = fingerprint(SEAL, &sealed.manifest)?;
        if found != sealed.digest {
            return Err(damaged(format!("its digest is {}, recorded is {}", found.short(), sealed.digest.short())));
        }
        let manifest: Self = serde_json::from_value(sealed.manifest).map_err(|e| damaged(e.to_string()))?;
        // The digest tells what has changed, not what was never right: numbers that are counted to are limited here.
        let bits = manifest.buckets.bits;
        if bits > MOST_BITS {
            return Err(damaged(format!("{bits} bits of buckets, of {MOST_BITS} at most")));
        }
        Ok(manifest)
    }

    /// All snapshots whose manifest is there, oldest first: ids only.
    pub async fn ids(repository: &Repository) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        let mut objects = repository.list(path::SNAPSHOTS);
        while let Some((name, ..)) = objects.try_next().await? {
            // A folder without a manifest is a snapshot that was never committed.
            let id = name.strip_prefix(path::SNAPSHOTS).and_then(|rest| rest.strip_prefix('/'));
            if let Some(id) = id.and_then(|rest| rest.strip_suffix("/manifest.json")) {
                ids.push(id.to_owned());
            }
        }
        ids.sort();
        Ok(ids)
    }

    /// The newest snapshot is damaged: which is the newest, of the same pipeline, that is not?
    async fn not_latest(
        repository: &Repository,
        ids: &[String],
        damaged: &str,
        pipeline: Option<&str>,
        error: Error,
    ) -> Error {
        for id in ids.iter().rev().skip_while(|id| *id != damaged).skip(1) {
            let ours = |manifest: Self| pipeline.is_none_or(|name| manifest.pipeline == name);
            if Self::read(repository, id).await.is_ok_and(ours) {
                return error.with("newest that is readable", id).guidance(
                    "use another snapshot with --snapshot (`regrow list`), or `regrow repair` this one from a replica",
                );
            }
        }
        error
    }

    /// Finds a snapshot: `latest`, an id, or the unambiguous beginning of one. With `pipeline`, `latest`
    /// is the latest of that pipeline.
    pub async fn find(repository: &Repository, wanted: &str, pipeline: Option<&str>) -> Result<Self> {
        let ids = Self::ids(repository).await?;
        if wanted == "latest" {
            for id in ids.iter().rev() {
                let manifest = match Self::read(repository, id).await {
                    // Nothing older is taken silently in its place.
                    Err(e) if e.kind() == ErrorKind::Damaged => {
                        return Err(Self::not_latest(repository, &ids, id, pipeline, e).await);
                    }
                    // It was forgotten since the listing.
                    Err(e) if e.kind() == ErrorKind::NotFound => continue,
                    other => other?,
                };
                if pipeline.is_none_or(|name| manifest.pipeline == name) {
                    return Ok(manifest);
                }
            }
            return Err(Error::new(ErrorKind::NotFound, "there is no snapshot yet")
                .with("repository", repository.url())
                .guidance("take one with `regrow snapshot`"));
        }
        let matching: Vec<_> = ids.iter().filter(|id| id.starts_with(wanted)).collect();
        match matching.as_slice() {
            [id] => Self::read(repository, id).await,
            [] => Self::read(repository, wanted).await,
            several => Err(Error::new(ErrorKind::Configuration, "several snapshots begin like this")
                .with("snapshot", wanted)
                .with("matches", several.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(", "))
                .guidance("give more of the id")),
        }
    }
}

/// One line of `regrow list`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SnapshotSummary {
    /// Snapshot id.
    pub id: String,
    /// Point in time.
    pub created: jiff::Timestamp,
    /// Pipeline.
    pub pipeline: String,
    /// Words that the user gave it.
    pub tags: Vec<String>,
    /// How documents are kept.
    pub capture: CaptureMode,
    /// What it holds.
    pub counts: Counts,
    /// Model card name.
    pub model: String,
    /// Fingerprint of the model context.
    pub model_fingerprint: Digest,
    /// Fingerprint of the rules.
    pub rules_fingerprint: Digest,
}

impl From<&Manifest> for SnapshotSummary {
    fn from(m: &Manifest) -> Self {
        Self {
            id: m.id.clone(),
            created: m.created,
            pipeline: m.pipeline.clone(),
            tags: m.tags.clone(),
            capture: m.corpus.capture,
            counts: m.counts.clone(),
            model: m.model.name.clone(),
            model_fingerprint: m.model_fingerprint,
            rules_fingerprint: m.rules_fingerprint,
        }
    }
}
