//! Snapshots that build on others: on real files and repositories, with the embedder that computes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::{SnapshotOptions, SnapshotReport, read_canaries, snapshot};
use crate::embed::{Engine, Tokenizer};
use crate::error::ErrorKind;
use crate::model::{FetchOptions, ModelStore};
use crate::pipeline::Pipeline;
use crate::repository::{DocumentRow, InventoryReader, Manifest, Repository};
use crate::restore::{RestoreOptions, RestoreReport, restore};
use crate::workspace::Workspace;

mod base;
mod edits;
mod kept;
mod memory;
mod moved;

pub(crate) fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/golden/tiny-distilbert")
}

/// A corpus in a temporary directory, and repositories beside it.
pub(crate) struct Fixture {
    pub(crate) directory: tempfile::TempDir,
    engine: Arc<Engine>,
}

/// Long before any snapshot.
const OLD: u64 = 1_700_000_000;

impl Fixture {
    pub(crate) fn new() -> Self {
        let tokenizer = Tokenizer::open(&tiny().join("tokenizer.json")).unwrap();
        let engine = Arc::new(Engine::noop(tokenizer, 8).unwrap());
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("docs")).unwrap();
        Self { directory, engine }
    }

    /// A workspace whose snapshots go to `repository`.
    pub(crate) fn workspace(&self, repository: &str) -> Workspace {
        self.with(repository, "")
    }

    pub(crate) fn with(&self, repository: &str, corpus: &str) -> Workspace {
        let text = format!(
            "name = \"test\"\n[corpus]\nurl = \"docs\"\non_bad_document = \"skip\"\n{corpus}\n\
             [[corpus.records]]\ninclude = [\"*.jsonl\"]\nid = \"id\"\ntext = [\"text\"]\nmetadata = [\"*\"]\n\
             [chunking]\nsize = 8\noverlap = 0\n[repository]\nurl = \"{repository}\"\n[target]\nkind = \"memory\"\n"
        );
        let pipeline = Pipeline::from_toml(&text, "test").unwrap();
        let models = ModelStore::new(self.directory.path().join("models"), FetchOptions::default());
        let mut workspace = Workspace::new(pipeline, self.directory.path().to_owned(), models);
        workspace.engine = Some(self.engine.clone());
        workspace
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("docs").join(name)
    }

    /// Writes a file that was last modified `age` seconds after long ago.
    pub(crate) fn write(&self, name: &str, text: &str, age: u64) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        self.touch(name, age);
    }

    pub(crate) fn touch(&self, name: &str, age: u64) {
        let file = std::fs::File::options().write(true).open(self.path(name)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(OLD + age)).unwrap();
    }

    pub(crate) async fn snapshot(&self, repository: &str) -> SnapshotReport {
        snapshot(&self.workspace(repository), &SnapshotOptions::default()).await.unwrap()
    }

    pub(crate) async fn rehash(&self, repository: &str) -> SnapshotReport {
        let options = SnapshotOptions { rehash: true, ..SnapshotOptions::default() };
        snapshot(&self.workspace(repository), &options).await.unwrap()
    }

    pub(crate) async fn manifest(&self, repository: &str) -> (Repository, Manifest) {
        let repository = self.workspace(repository).repository().await.unwrap();
        let manifest = Manifest::find(&repository, "latest", None).await.unwrap();
        (repository, manifest)
    }

    /// The latest snapshot's documents, by id.
    pub(crate) async fn rows(&self, repository: &str) -> BTreeMap<String, DocumentRow> {
        let (repository, manifest) = self.manifest(repository).await;
        let mut reader = InventoryReader::new(&repository, &manifest);
        let mut rows = BTreeMap::new();
        for bucket in 0..1 << manifest.buckets.bits {
            for row in reader.bucket(bucket).await.unwrap() {
                assert!(rows.insert(row.document_id.clone(), row).is_none());
            }
        }
        assert_eq!(rows.len() as u64, manifest.counts.documents);
        assert_eq!(rows.values().map(|r| u64::from(r.chunks)).sum::<u64>(), manifest.counts.chunks);
        assert_eq!(rows.values().map(|r| r.tokens).sum::<u64>(), manifest.counts.tokens);
        assert_eq!(rows.values().map(|r| r.bytes).sum::<u64>(), manifest.counts.bytes);
        rows
    }

    /// Restores the latest snapshot as far as it needs no index.
    async fn restore(&self, repository: &str) -> RestoreReport {
        let options = RestoreOptions { load_only: true, ..RestoreOptions::default() };
        restore(&self.workspace(repository), options).await.unwrap()
    }
}

fn sentence(seed: usize, words: usize) -> String {
    (0..words).map(|i| format!("word{}of{seed} ", (seed * 31 + i * 7) % 97)).collect()
}

fn counts(r: &SnapshotReport) -> [u64; 6] {
    let c = &r.changes;
    [
        c.documents_unchanged,
        c.documents_read,
        c.documents_added,
        c.documents_moved,
        c.documents_changed,
        c.documents_removed,
    ]
}
