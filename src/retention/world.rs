//! A repository to test on: snapshots and vector sets as the verbs write them, without corpus and model.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use futures::TryStreamExt;
use jiff::{SignedDuration, Timestamp};

use super::prune::{PruneOptions, PruneReport, prune};
use super::references::ReferenceReader;
use crate::cancel::Cancel;
use crate::chunk::ChunkingRules;
use crate::corpus::SourceObject;
use crate::error::Result;
use crate::event::Events;
use crate::ids::{Digest, timed_id};
use crate::model::{Architecture, Dtype, Metric, ModelContext, Pooling};
use crate::pipeline::{CaptureMode, CorpusSettings, IndexSettings, Pipeline};
use crate::repository::test_store::TestStore;
use crate::repository::{
    Buckets, Captured, CorpusRecord, Counts, DocumentRow, FORMAT_VERSION, InventoryReader, InventoryWriter, LockKind,
    Manifest, ObjectRef, Repository, TargetRecord, bucket_of, path,
};
use crate::vectors::{PartName, PartRef, VectorSetRecord};

/// The store's clock is years away from this machine's: whatever looks at the wrong one fails.
pub(super) const NOW: &str = "2031-05-05T05:05:05Z";
pub(super) const HOUR: i64 = 3600;
const BITS: u8 = 2;

#[derive(Clone)]
pub(super) struct World {
    pub(super) store: TestStore,
    pub(super) repository: Repository,
}

/// What a snapshot is made of.
#[derive(Clone)]
pub(super) struct Take {
    pub(super) pipeline: &'static str,
    pub(super) documents: Vec<String>,
    pub(super) created: Timestamp,
    pub(super) tags: Vec<String>,
    pub(super) model: &'static str,
}

impl Take {
    pub(super) fn of(documents: &[&str]) -> Self {
        Self {
            pipeline: "docs",
            documents: documents.iter().map(|d| (*d).to_owned()).collect(),
            created: NOW.parse().unwrap(),
            tags: Vec::new(),
            model: "m",
        }
    }

    pub(super) fn at(self, hours: i64) -> Self {
        Self { created: NOW.parse::<Timestamp>().unwrap() + SignedDuration::from_hours(hours), ..self }
    }
}

fn row(document: &str) -> DocumentRow {
    DocumentRow {
        document_id: document.to_owned(),
        object: SourceObject { path: document.to_owned(), size: 1, modified: 0, etag: None, version: None },
        line: None,
        bytes: 1,
        digest: Digest::of(document.as_bytes()),
        text_digest: Digest::of(document.as_bytes()),
        payload_digest: Digest::of(b"payload"),
        tenant: None,
        acl: Vec::new(),
        metadata: "{}".to_owned(),
        chunks: 1,
        tokens: 1,
        chunk_digest: Digest::of(document.as_bytes()),
        moved_from: Vec::new(),
    }
}

impl World {
    pub(super) fn new() -> Self {
        let store = TestStore::new(NOW.parse().unwrap());
        let repository = Repository::over(Arc::new(store.clone()), "test");
        Self { store, repository }
    }

    /// Takes a snapshot as the verb does: under a shared lock, contents first, the manifest last.
    pub(super) async fn snapshot(&self, take: &Take) -> Result<Manifest> {
        let lock = self.repository.lock(LockKind::Shared, "snapshot", &Events::silent()).await?;
        let taken = async {
            let manifest = self.contents(take).await?;
            lock.commit(&self.repository, &manifest).await?;
            Ok(manifest)
        };
        let taken = taken.await;
        lock.release().await;
        taken
    }

    /// Everything of a snapshot but the manifest's commit.
    pub(super) async fn contents(&self, take: &Take) -> Result<Manifest> {
        let repository = &self.repository;
        let mut writer = InventoryWriter::new(repository);
        for bucket in 0..1 << BITS {
            let mut rows: Vec<_> =
                take.documents.iter().filter(|d| bucket_of(d, BITS) == bucket).map(|d| row(d)).collect();
            rows.sort_by(|a, b| a.document_id.cmp(&b.document_id));
            writer.bucket(bucket, &rows).await?;
        }
        let inventory = writer.finish().await?;
        let content = async |folder, what: &str| {
            let text = format!("{what} of {}", take.documents.join(","));
            repository.put_content(folder, "bin", text.into_bytes().into()).await
        };
        let model = ModelContext {
            name: take.model.to_owned(),
            weights: Digest::of(take.model.as_bytes()),
            tokenizer: Digest::of(b"t"),
            config: Digest::of(b"c"),
            architecture: Architecture::Noop,
            pooling: Pooling::Mean,
            normalize: true,
            query_prefix: String::new(),
            document_prefix: String::new(),
            max_tokens: 256,
            dtype: Dtype::F32,
            dimension: 4,
            metric: Metric::Cosine,
        };
        let rules = ChunkingRules {
            splitter_version: 1,
            extractor_version: 1,
            unit: "tokens".to_owned(),
            size: 100,
            overlap: 0,
            tokenizer: Digest::of(b"t"),
        };
        let documents = take.documents.len() as u64;
        let settings: CorpusSettings = Pipeline::starter(take.pipeline, "docs", "repository").corpus;
        Ok(Manifest {
            format: FORMAT_VERSION,
            id: timed_id(take.created),
            created: take.created,
            completed: take.created,
            tool_version: "0.0.0".to_owned(),
            pipeline: take.pipeline.to_owned(),
            corpus: CorpusRecord {
                settings,
                capture: CaptureMode::Copy,
                objects: documents,
                listing: String::new(),
                newest: None,
                reread: 0,
            },
            rules_fingerprint: rules.fingerprint()?,
            rules,
            model_fingerprint: model.fingerprint()?,
            model,
            model_card: "none".to_owned(),
            counts: Counts { documents, chunks: documents, ..Counts::default() },
            buckets: Buckets { bits: BITS },
            inventory,
            canaries: content(path::CANARIES, "canaries").await?,
            skipped: Some(content(path::SKIPPED, "skipped").await?),
            target: TargetRecord {
                kind: "memory".to_owned(),
                collection: "docs".to_owned(),
                index: IndexSettings::default(),
                payload_indexes: Default::default(),
                live_count: None,
                live_collection: None,
                server: None,
                tenants: None,
                roles: Vec::new(),
                own: serde_json::Map::new(),
            },
            golden_baseline: None,
            cannot_restore: Vec::new(),
            previous: None,
            tags: take.tags.clone(),
            captured: Some(Captured {
                index: vec![content(path::CAPTURED, "index").await?],
                packs: vec![content(path::DOCUMENTS, "pack").await?],
                objects: documents,
                bytes: documents,
            }),
        })
    }

    /// Stores the vector set of a snapshot as a restore does: parts that are there are kept, the record comes last.
    pub(super) async fn restore(&self, id: &str) -> Result<String> {
        let lock = self.repository.lock(LockKind::Shared, "restore", &Events::silent()).await?;
        let restored = async {
            let manifest = Manifest::read(&self.repository, id).await?;
            let record = self.vector_set(&manifest).await?;
            lock.still_held().await?;
            record.commit(&self.repository).await?;
            Ok(record.id)
        };
        let restored = restored.await;
        lock.release().await;
        restored
    }

    /// Everything of a vector set but its record's commit.
    pub(super) async fn vector_set(&self, manifest: &Manifest) -> Result<VectorSetRecord> {
        let parts = self.parts(manifest).await?;
        let names = parts.iter().map(|p| p.name().unwrap());
        let record = VectorSetRecord {
            format: FORMAT_VERSION,
            id: VectorSetRecord::id(&self.repository, &manifest.model_fingerprint, &manifest.rules_fingerprint, names)?,
            created: Timestamp::now(),
            snapshot: manifest.id.clone(),
            model: manifest.model.clone(),
            model_fingerprint: manifest.model_fingerprint,
            rules: manifest.rules.clone(),
            rules_fingerprint: manifest.rules_fingerprint,
            bits: BITS,
            rows: parts.len() as u64,
            parts,
        };
        // What was relied on must be there to the end.
        for part in &record.parts {
            self.repository.get_checked(&part.object).await?;
        }
        Ok(record)
    }

    async fn parts(&self, manifest: &Manifest) -> Result<Vec<PartRef>> {
        let (model, rules) = (manifest.model_fingerprint, manifest.rules_fingerprint);
        let mut reader = InventoryReader::new(&self.repository, manifest);
        let mut parts = Vec::new();
        for bucket in 0..1 << BITS {
            let rows = reader.bucket(bucket).await?;
            let Some(name) = PartName::of_bucket(&self.repository, manifest, bucket, &rows) else { continue };
            let object = format!("{}/{name}", path::parts(path::VECTORS, &model, &rules));
            let bytes = bytes::Bytes::from(format!("vectors of {name}"));
            let stored = self.repository.put_new(&object, bytes.clone()).await;
            if stored.as_ref().is_err_and(|e| e.kind() != crate::ErrorKind::AlreadyExists) {
                stored?;
            }
            let object = ObjectRef {
                path: object,
                bytes: bytes.len() as u64,
                digest: Digest::of(&bytes),
                rows: None,
                buckets: None,
            };
            parts.push(PartRef { object, bucket, rows: 1 });
        }
        Ok(parts)
    }

    pub(super) async fn prune(&self, grace_hours: i64) -> Result<PruneReport> {
        let options = PruneOptions { dry_run: false, grace: SignedDuration::from_hours(grace_hours) };
        prune(&self.repository, &options, &Events::silent(), &Cancel::default()).await
    }

    /// Nothing fails from now on, and locks of who was killed are stale.
    pub(super) fn revive(&self) {
        self.store.control.operations_left.store(i64::MAX, SeqCst);
        self.store.pass(31 * 60);
    }

    /// Panics unless every snapshot is whole, and every vector set has its parts.
    pub(super) async fn check(&self, why: &str) -> usize {
        let ids = Manifest::ids(&self.repository).await.unwrap();
        for id in &ids {
            let manifest = Manifest::read(&self.repository, id).await.unwrap();
            for object in manifest.objects() {
                self.repository.get_checked(object).await.unwrap_or_else(|e| panic!("{why}: snapshot {id}: {e}"));
            }
        }
        for name in self.names("vector-sets/").await {
            let id = name.trim_start_matches("vector-sets/").trim_end_matches(".json");
            for part in VectorSetRecord::read(&self.repository, id).await.unwrap().parts {
                self.repository.get_checked(&part.object).await.unwrap_or_else(|e| panic!("{why}: set {id}: {e}"));
            }
        }
        ids.len()
    }

    /// Names of objects below a prefix.
    pub(super) async fn names(&self, prefix: &str) -> Vec<String> {
        self.store.names().await.into_iter().filter(|n| n.starts_with(prefix)).collect()
    }

    /// Objects that nothing refers to.
    pub(super) async fn loose(&self) -> Vec<String> {
        let cancel = Cancel::default();
        let references = ReferenceReader::new(&self.repository, &cancel).read().await.unwrap();
        let all: Vec<String> = self.repository.list("").map_ok(|(name, ..)| name).try_collect().await.unwrap();
        all.into_iter().filter(|name| references.removable(name)).collect()
    }

    /// What runs leave behind that were killed, and what a stranger put there.
    pub(super) async fn litter(&self) {
        for name in [
            "snapshots/20310101T000000Z-00000aaa/inventory-00000.parquet",
            "inventories/orphan.parquet",
            "documents/orphan.pack",
            "restores/7c0c8d5e-0000-4000-8000-000000000000/00-000000-x.parquet.json",
            "drills/20310101T000000Z-00000aaa/m/r/part.parquet",
            "drills/20310101T000000Z-00000bbb.json",
            "keys/one.json",
            "strange/folder/file",
        ] {
            self.repository.put_new(name, bytes::Bytes::from_static(b"litter")).await.unwrap();
        }
    }
}
