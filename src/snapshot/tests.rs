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

mod edits;
mod memory;

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

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_corpus_is_listed_and_nothing_more() {
    let f = Fixture::new();
    for i in 0..300 {
        f.write(&format!("a/{i}.txt"), &sentence(i, 60), 0);
    }
    f.write("r.jsonl", "{\"id\": 1, \"text\": \"one\"}\n{\"id\": 2, \"text\": \"two\"}\n", 0);
    let first = f.snapshot("r").await;
    assert_eq!((first.objects_read, counts(&first)), (301, [0, 302, 302, 0, 0, 0]));
    let (_, before) = f.manifest("r").await;
    assert!(before.buckets.bits > 2, "{:?}", before.buckets);

    let second = f.snapshot("r").await;
    assert_eq!((second.objects_read, second.bytes_read, counts(&second)), (0, 0, [302, 0, 0, 0, 0, 0]));
    let (_, after) = f.manifest("r").await;
    assert_eq!(
        (&after.inventory, &after.canaries, &after.counts),
        (&before.inventory, &before.canaries, &before.counts)
    );
    assert_eq!(after.corpus.listing, before.corpus.listing);
    assert_eq!(after.previous, Some(before.id));

    // One document more: it is read, and all groups of buckets but its own are shared.
    f.write("a/new.txt", "a new page", 5);
    let third = f.snapshot("r").await;
    assert_eq!((third.objects_read, third.bytes_read, counts(&third)), (1, 10, [302, 1, 1, 0, 0, 0]));
    let (_, more) = f.manifest("r").await;
    let shared = more.inventory.iter().filter(|o| after.inventory.contains(o)).count();
    assert_eq!(shared, after.inventory.len() - 1);
    assert_eq!(f.rows("r").await.len(), 303);

    // Everything read again gives the same objects, and so shares all of them.
    let all = f.rehash("r").await;
    assert_eq!((all.objects_read, counts(&all)), (302, [303, 303, 0, 0, 0, 0]));
    assert_eq!(f.manifest("r").await.1.inventory, more.inventory);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_around_the_previous_snapshot_is_read_again() {
    let f = Fixture::new();
    f.write("old.txt", "old", 0);
    std::fs::write(f.path("young.txt"), "young").unwrap();
    f.snapshot("r").await;
    let second = f.snapshot("r").await;
    assert_eq!((second.objects_read, counts(&second)), (1, [2, 1, 0, 0, 0, 0]));
    // The same size and, within its resolution, the same time.
    let modified = std::fs::metadata(f.path("young.txt")).unwrap().modified().unwrap();
    std::fs::write(f.path("young.txt"), "YOUNG").unwrap();
    std::fs::File::options().write(true).open(f.path("young.txt")).unwrap().set_modified(modified).unwrap();
    let third = f.snapshot("r").await;
    assert_eq!(third.changes.documents_changed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_gone_before_it_was_read_is_read_when_it_is_back() {
    /// Takes the directory away as soon as the first document was read, when everything is listed.
    struct Thief(PathBuf, std::sync::atomic::AtomicBool);
    impl crate::event::Reporter for Thief {
        fn event(&self, event: &crate::event::Event) {
            let read = matches!(event, crate::event::Event::Progress { stage: crate::event::Stage::Read, delta: 1 });
            if read && !self.1.swap(true, std::sync::atomic::Ordering::Relaxed) {
                std::fs::rename(self.0.join("many"), self.0.join(".many")).unwrap();
            }
        }
    }
    let f = Fixture::new();
    f.write("old.txt", "old", 0);
    f.snapshot("r").await;
    for n in 0..400 {
        f.write(&format!("many/{n}.txt"), &sentence(n, 5), 1);
    }
    let mut workspace = f.workspace("r");
    workspace.events = crate::event::Events::new(Arc::new(Thief(f.path(""), std::sync::atomic::AtomicBool::default())));
    let second = snapshot(&workspace, &SnapshotOptions::default()).await.unwrap();
    assert!(second.objects_vanished > 0 && second.documents < 401, "{second:?}");
    assert_eq!(second.objects, 401);
    // As they were listed, with the times they had.
    std::fs::rename(f.path(".many"), f.path("many")).unwrap();
    let third = f.snapshot("r").await;
    assert_eq!((third.documents, third.objects_vanished), (401, 0));
    let fourth = f.snapshot("r").await;
    assert_eq!((fourth.documents, fourth.objects_read), (401, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_keeps_size_and_time_is_seen_where_files_have_tags() {
    let f = Fixture::new();
    f.write("a.txt", "before", 0);
    f.write("b.txt", "stays", 0);
    f.snapshot("r").await;
    if f.rows("r").await["a.txt"].object.etag.is_none() {
        return;
    }
    f.write("a.txt", "after!", 0);
    let second = f.snapshot("r").await;
    assert_eq!((second.objects_read, counts(&second)), (1, [1, 1, 0, 0, 1, 0]));
    f.write("a.txt", "after?", 0);
    let options = crate::diff::DiffOptions { corpus: true, ..Default::default() };
    let report = crate::diff::diff(&f.workspace("r"), &options).await.unwrap();
    assert_eq!((report.documents_read, report.unchanged), (1, 1));
    assert_eq!(report.differences[&crate::diff::DifferenceKind::Text].documents, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_settings_read_everything_again() {
    let f = Fixture::new();
    for i in 0..5 {
        f.write(&format!("acme/{i}.txt"), &sentence(i, 9), 0);
    }
    f.snapshot("r").await;
    let changed = f.with("r", "path_metadata = \"{tenant}/**\"");
    let second = snapshot(&changed, &SnapshotOptions::default()).await.unwrap();
    assert_eq!((second.objects_read, counts(&second)), (5, [0, 5, 0, 0, 5, 0]));
    assert!(f.rows("r").await.values().all(|r| r.tenant.as_deref() == Some("acme")));
    // Globs only decide what is listed.
    let fewer = f.with("r", "path_metadata = \"{tenant}/**\"\nexclude = [\"4.txt\"]");
    let third = snapshot(&fewer, &SnapshotOptions::default()).await.unwrap();
    assert_eq!((third.objects_read, counts(&third)), (0, [4, 0, 0, 0, 0, 1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_files_are_tried_again_and_bad_records_stay_bad() {
    let f = Fixture::new();
    f.write("good.txt", "good", 0);
    f.write("r.jsonl", "{\"id\": 1, \"text\": \"one\"}\nnonsense\n{\"id\": 1, \"text\": \"again\"}\n", 0);
    std::fs::write(f.path("bad.txt"), b"\x00\x01\x02\xff").unwrap();
    f.touch("bad.txt", 0);
    let first = f.snapshot("r").await;
    assert_eq!((first.documents, first.documents_skipped), (2, 3), "{:?}", first.skipped);
    let second = f.snapshot("r").await;
    assert_eq!((second.objects_read, second.documents, second.documents_skipped), (1, 2, 3));
    let (_, one) = f.manifest("r").await;
    f.rehash("r").await;
    assert_eq!(f.manifest("r").await.1.skipped, one.skipped);

    std::fs::remove_file(f.path("bad.txt")).unwrap();
    let third = f.snapshot("r").await;
    assert_eq!((third.objects_read, third.documents_skipped), (0, 2));
    let fourth = f.snapshot("r").await;
    assert_eq!((fourth.objects_read, fourth.documents_skipped, fourth.skipped.len()), (0, 2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_may_become_more_and_fewer() {
    let f = Fixture::new();
    for i in 0..10 {
        f.write(&format!("{i}.txt"), &sentence(i, 9), 0);
    }
    f.snapshot("r").await;
    assert_eq!(f.manifest("r").await.1.buckets.bits, 0);
    for i in 10..1500 {
        f.write(&format!("{i}.txt"), &sentence(i, 30), 0);
    }
    let more = f.snapshot("r").await;
    assert_eq!(counts(&more), [10, 1490, 1490, 0, 0, 0]);
    assert!(f.manifest("r").await.1.buckets.bits > 2);
    f.rehash("s").await;
    assert_eq!(f.rows("r").await, f.rows("s").await);
    for i in 20..1500 {
        std::fs::remove_file(f.path(&format!("{i}.txt"))).unwrap();
    }
    let fewer = f.snapshot("r").await;
    assert_eq!(counts(&fewer), [20, 0, 0, 0, 0, 1480]);
    // For canaries only.
    assert!(fewer.objects_read <= 16, "{fewer:?}");
    assert_eq!(f.manifest("r").await.1.buckets.bits, 0);
    f.rehash("s").await;
    assert_eq!(f.rows("r").await, f.rows("s").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_renamed_files_keep_their_vectors() {
    let f = Fixture::new();
    for i in 0..10_000 {
        f.write(&format!("before/{}/{i}.txt", i % 10), &sentence(i, 5), 0);
    }
    f.write("stays.txt", "this one stays", 0);
    f.snapshot("r").await;
    let first = f.restore("r").await;
    assert_eq!(first.chunks_embedded, first.chunks);
    std::fs::rename(f.path("before"), f.path("after")).unwrap();
    f.write("copy.txt", "this one stays", 0);
    let second = f.snapshot("r").await;
    assert_eq!(counts(&second), [1, 10_001, 10_001, 10_001, 0, 10_000]);
    let rows = f.rows("r").await;
    assert_eq!(rows["after/3/3.txt"].moved_from, ["before/3/3.txt"]);
    assert_eq!((&rows["copy.txt"].moved_from, &rows["stays.txt"].moved_from), (&vec!["stays.txt".to_owned()], &vec![]));
    let report = f.restore("r").await;
    assert_eq!((report.chunks_embedded, report.chunks), (0, first.chunks + 1));

    // Twice without a restore in between: the earlier ids are handed on.
    std::fs::rename(f.path("after/3/3.txt"), f.path("third.txt")).unwrap();
    f.snapshot("r").await;
    std::fs::rename(f.path("third.txt"), f.path("fourth.txt")).unwrap();
    f.snapshot("r").await;
    assert_eq!(f.rows("r").await["fourth.txt"].moved_from, ["third.txt", "after/3/3.txt", "before/3/3.txt"]);
    assert_eq!(f.restore("r").await.chunks_embedded, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_metadata_embeds_nothing() {
    let f = Fixture::new();
    for i in 0..20 {
        f.write(&format!("{i}.md"), &format!("---\ntitle: A\n---\n{}", sentence(i, 20)), 0);
    }
    f.snapshot("r").await;
    f.restore("r").await;
    f.write("7.md", &format!("---\ntitle: B\n---\n{}", sentence(7, 20)), 1);
    let second = f.snapshot("r").await;
    assert_eq!(counts(&second), [19, 1, 0, 0, 1, 0]);
    assert_eq!(f.restore("r").await.chunks_embedded, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn canaries_of_documents_that_are_gone_are_replaced() {
    let f = Fixture::new();
    for i in 0..200 {
        f.write(&format!("{i}.txt"), &sentence(i, 5), 0);
    }
    f.snapshot("r").await;
    let (repository, manifest) = f.manifest("r").await;
    let first = read_canaries(&repository, &manifest).await.unwrap();
    assert_eq!(first.len(), 32);
    // A few that go are not replaced: those that stay are enough.
    for canary in &first[..10] {
        std::fs::remove_file(f.path(&canary.document_id)).unwrap();
    }
    let second = f.snapshot("r").await;
    assert_eq!((second.objects_read, second.canaries), (0, 22));
    let (_, manifest) = f.manifest("r").await;
    let kept = read_canaries(&repository, &manifest).await.unwrap();
    assert_eq!(kept, first[10..]);
    for canary in &kept[3..] {
        std::fs::remove_file(f.path(&canary.document_id)).unwrap();
    }
    let third = f.snapshot("r").await;
    assert!(third.objects_read > 0 && third.canaries >= 16, "{third:?}");
    assert_eq!(third.changes.documents_read, 0);
    let (_, manifest) = f.manifest("r").await;
    let rows = f.rows("r").await;
    let canaries = read_canaries(&repository, &manifest).await.unwrap();
    assert_eq!(canaries[..3].iter().filter(|c| kept[..3].contains(c)).count().min(3), 3.min(canaries.len()));
    for canary in &canaries {
        assert!(rows.contains_key(&canary.document_id));
        let text = std::fs::read_to_string(f.path(&canary.document_id)).unwrap();
        assert_eq!(text[canary.start as usize..canary.end as usize], canary.text);
        assert!((canary.vector.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-3);
    }
    // The restore embeds the canaries and compares.
    assert!(f.restore("r").await.chunks > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_previous_snapshot_is_not_built_on() {
    for missing in [false, true] {
        let f = Fixture::new();
        for i in 0..50 {
            f.write(&format!("{i}.txt"), &sentence(i, 9), 0);
        }
        f.snapshot("r").await;
        let (_, manifest) = f.manifest("r").await;
        let object = f.directory.path().join("r").join(&manifest.inventory[0].path);
        if missing {
            std::fs::remove_file(&object).unwrap();
        } else {
            let mut bytes = std::fs::read(&object).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&object, bytes).unwrap();
        }
        // Something changed, or the inventory would not be looked into.
        f.write("new.txt", "new", 0);
        let second = f.snapshot("r").await;
        assert_eq!((second.objects_read, second.documents), (51, 51));
        f.rehash("s").await;
        assert_eq!(f.rows("r").await, f.rows("s").await);
        // And the one that is there now serves as usual.
        assert_eq!(f.snapshot("r").await.objects_read, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_stopped_leaves_no_snapshot() {
    let f = Fixture::new();
    for i in 0..100 {
        f.write(&format!("{i}.txt"), &sentence(i, 9), 0);
    }
    f.snapshot("r").await;
    let (repository, first) = f.manifest("r").await;
    for i in 0..50 {
        f.write(&format!("{i}.txt"), &sentence(i + 1, 12), 1);
    }
    // Stopped when so many documents have been told.
    struct StopAt(std::sync::atomic::AtomicI64, crate::cancel::Cancel);
    impl crate::event::Reporter for StopAt {
        fn event(&self, event: &crate::event::Event) {
            if let crate::event::Event::Progress { delta, .. } = event
                && self.0.fetch_sub(*delta as i64, std::sync::atomic::Ordering::SeqCst) <= *delta as i64
            {
                self.1.cancel();
            }
        }
    }
    for after in [1, 51, 60, 99] {
        let mut workspace = f.workspace("r");
        let reporter = StopAt(after.into(), workspace.cancel.clone());
        workspace.events = crate::event::Events::new(Arc::new(reporter));
        let stopped = snapshot(&workspace, &SnapshotOptions::default()).await.unwrap_err();
        assert_eq!(stopped.kind(), ErrorKind::Cancelled);
        assert_eq!(Manifest::ids(&repository).await.unwrap(), [first.id.as_str()]);
    }
    let second = f.snapshot("r").await;
    assert_eq!(counts(&second), [50, 50, 0, 0, 50, 0]);
    f.rehash("s").await;
    assert_eq!(f.rows("r").await, f.rows("s").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_format_1_is_built_on() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1");
    let directory = tempfile::tempdir().unwrap();
    copy(&source, directory.path());
    let (mut pipeline, base) = Pipeline::load(&directory.path().join("regrow.toml")).unwrap();
    pipeline.model.source = Some(tiny().display().to_string());
    let models = ModelStore::new(directory.path().join("models"), FetchOptions::default());
    let workspace = Workspace::new(pipeline, base, models);
    let repository = workspace.repository().await.unwrap();
    let old = Manifest::find(&repository, "latest", None).await.unwrap();
    assert_eq!((old.format, old.corpus.newest), (1, None));
    let mut reader = InventoryReader::new(&repository, &old);
    let mut before = Vec::new();
    for bucket in 0..1 << old.buckets.bits {
        before.extend(reader.bucket(bucket).await.unwrap());
    }
    for row in &before {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(row.object.modified as u64);
        let file = std::fs::File::options().write(true).open(directory.path().join("docs").join(&row.object.path));
        file.unwrap().set_modified(time).unwrap();
    }
    let options = SnapshotOptions { skip_target: true, ..SnapshotOptions::default() };
    let report = snapshot(&workspace, &options).await.unwrap();
    assert_eq!(report.changes.documents_unchanged, before.len() as u64, "{report:?}");
    let new = Manifest::find(&repository, "latest", None).await.unwrap();
    assert_eq!((new.format, &new.counts), (2, &old.counts));
    // Nothing of it lies in the folder of the old snapshot.
    assert!(new.objects().all(|o| !o.path.starts_with("snapshots/")));
    let mut reader = InventoryReader::new(&repository, &new);
    let mut after = Vec::new();
    for bucket in 0..1 << new.buckets.bits {
        after.extend(reader.bucket(bucket).await.unwrap());
    }
    // Files had no tags then.
    after.iter_mut().for_each(|row| row.object.etag = None);
    assert_eq!(after, before);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)
        } else {
            std::fs::copy(entry.path(), target).map(|_| ()).unwrap()
        }
    }
}
