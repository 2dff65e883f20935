use std::collections::BTreeMap;
use std::fmt;
use std::path::Path as FilePath;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};

use super::*;
use crate::embed::{Engine, Tokenizer};
use crate::model::{FetchOptions, ModelStore};
use crate::pipeline::Pipeline;
use crate::repository::FileSeal;
use crate::restore::{RestoreOptions, restore};
use crate::snapshot::{SnapshotOptions, snapshot};
use crate::vectors::{read_part, write_part};
use crate::verify::{ObjectKind, Problem, VerifyOptions, verify};

type Stored = object_store::Result<()>;

/// A tokenizer of whole words, all of them unknown but a few.
fn tokenizer() -> Tokenizer {
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"];
    let vocab: serde_json::Map<_, _> =
        words.iter().enumerate().map(|(i, w)| ((*w).to_owned(), serde_json::json!(i))).collect();
    let mut vocab = vocab;
    (0..500).for_each(|i| drop(vocab.insert(format!("w{i}"), serde_json::json!(i + 4))));
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}},
        "decoder": null, "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}
    });
    Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap()
}

/// Text of so many words, different for every seed.
pub(crate) fn words(seed: u64, count: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let word = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        format!("w{}", state % 500)
    };
    (0..count).map(word).collect::<Vec<_>>().join(" ")
}

/// A pipeline over `docs/` and `repository/` in a directory, with an engine without a model; replicas as given.
pub(crate) fn workspace(directory: &FilePath, replicas: &[&str]) -> Workspace {
    let mut text =
        "name='docs'\n[corpus]\nurl='docs'\n[chunking]\nsize=16\noverlap=0\n[repository]\nurl='repository'\n"
            .to_owned();
    for name in replicas {
        text += &format!("[[repository.replicas]]\nname='{name}'\nurl='{name}'\n");
    }
    text += "[target]\nkind='memory'\n[validation]\nsample=5\nrecall_queries=5\nmin_self_retrieval=0.0\n";
    std::fs::create_dir_all(directory.join("docs")).unwrap();
    let pipeline = Pipeline::from_toml(&text, "test").unwrap();
    let models = ModelStore::new(directory.join("models"), FetchOptions::default());
    let mut workspace = Workspace::new(pipeline, directory.to_owned(), models);
    workspace.engine = Some(Arc::new(Engine::noop(tokenizer(), 8).unwrap()));
    workspace
}

/// Two snapshots with their vector sets, of a corpus that changed by one document; and the record of a drill.
pub(crate) async fn filled(workspace: &Workspace) -> Vec<String> {
    let mut ids = Vec::new();
    for i in 0..40 {
        std::fs::write(workspace.base.join(format!("docs/{i}.md")), words(i, 500)).unwrap();
    }
    for round in 0..2 {
        if round == 1 {
            std::fs::write(workspace.base.join("docs/new.md"), words(99, 100)).unwrap();
        }
        ids.push(snapshot(workspace, &SnapshotOptions::default()).await.unwrap().snapshot);
        restore(workspace, RestoreOptions::default()).await.unwrap();
    }
    let repository = workspace.repository().await.unwrap();
    repository.put_new("drills/one.json", Bytes::from_static(b"{\"ok\": true}")).await.unwrap();
    ids
}

/// The objects of a directory, in memory.
pub(crate) async fn load(directory: &FilePath) -> Arc<InMemory> {
    let store = object_store::local::LocalFileSystem::new_with_prefix(directory).unwrap();
    copied(&store).await
}

async fn copied(from: &dyn ObjectStore) -> Arc<InMemory> {
    let to = InMemory::new();
    for meta in from.list(None).try_collect::<Vec<_>>().await.unwrap() {
        let bytes = from.get(&meta.location).await.unwrap().bytes().await.unwrap();
        to.put(&meta.location, bytes.into()).await.unwrap();
    }
    Arc::new(to)
}

pub(crate) async fn contents(store: &dyn ObjectStore) -> BTreeMap<String, Bytes> {
    let mut all = BTreeMap::new();
    for meta in store.list(None).try_collect::<Vec<_>>().await.unwrap() {
        let bytes = store.get(&meta.location).await.unwrap().bytes().await.unwrap();
        all.insert(meta.location.to_string(), bytes);
    }
    all
}

/// Puts bytes in the place of an object.
pub(crate) async fn overwrite(store: &dyn ObjectStore, name: &str, bytes: impl Into<PutPayload>) {
    store.put(&Path::from(name), bytes.into()).await.unwrap();
}

/// A store that breaks: after some operations for good, as after a kill; or it changes what is written.
#[derive(Debug, Clone)]
pub(crate) struct Shaky {
    inner: Arc<InMemory>,
    /// Operations that still succeed.
    left: Arc<AtomicI64>,
    operations: Arc<AtomicU64>,
    /// Writes that arrive with a flipped bit.
    flips: Arc<AtomicI64>,
    /// Objects that cannot be read.
    denied: Arc<Mutex<Vec<String>>>,
}

impl Shaky {
    pub(crate) fn over(inner: Arc<InMemory>) -> Self {
        Self {
            inner,
            left: Arc::new(AtomicI64::new(i64::MAX)),
            operations: Arc::default(),
            flips: Arc::default(),
            denied: Arc::default(),
        }
    }

    pub(crate) fn deny(&self, name: &str) {
        self.denied.lock().unwrap().push(name.to_owned());
    }

    fn broken() -> object_store::Error {
        object_store::Error::Generic { store: "shaky", source: "the connection is gone".into() }
    }

    /// Counts an operation; `false` when it is the one at which the run is killed: its effect may have happened.
    fn step(&self) -> object_store::Result<bool> {
        self.operations.fetch_add(1, Ordering::SeqCst);
        match self.left.fetch_sub(1, Ordering::SeqCst) {
            n if n > 1 => Ok(true),
            1 => Ok(false),
            _ => Err(Self::broken()),
        }
    }
}

impl fmt::Display for Shaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("shaky")
    }
}

#[async_trait]
impl ObjectStore for Shaky {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        let lives = self.step()?;
        if !lives && self.operations.load(Ordering::SeqCst).is_multiple_of(2) {
            return Err(Self::broken());
        }
        let payload = if self.flips.fetch_sub(1, Ordering::SeqCst) > 0 {
            let mut bytes: Vec<u8> = Bytes::from(payload).to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            bytes.into()
        } else {
            payload
        };
        let result = self.inner.put_opts(at, payload, options).await?;
        if lives { Ok(result) } else { Err(Self::broken()) }
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.step()?;
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        if !self.step()? {
            return Err(Self::broken());
        }
        if self.denied.lock().unwrap().iter().any(|name| name == at.as_ref()) {
            return Err(object_store::Error::PermissionDenied { path: at.to_string(), source: "no".into() });
        }
        self.inner.get_opts(at, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        if !self.step().unwrap_or(false) {
            return futures::stream::once(async { Err(Self::broken()) }).boxed();
        }
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        if !self.step().unwrap_or(false) {
            return futures::stream::once(async { Err(Self::broken()) }).boxed();
        }
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        if !self.step()? {
            return Err(Self::broken());
        }
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: object_store::CopyOptions) -> Stored {
        self.step()?;
        self.inner.copy_opts(from, to, options).await
    }
}

/// A filled repository, in memory, and its snapshots.
async fn source() -> (Arc<InMemory>, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let workspace = workspace(directory.path(), &[]);
    let ids = filled(&workspace).await;
    (load(&directory.path().join("repository")).await, ids)
}

fn over(store: impl ObjectStore) -> Repository {
    Repository::over(Arc::new(store), "memory")
}

async fn run(source: &Repository, targets: Vec<(&str, Repository)>, options: &CopyOptions) -> Result<CopyReport> {
    let mut opened = Vec::new();
    for (name, repository) in targets {
        let seeded = seed(source, &repository, options.mode != CopyMode::Copy).await;
        let (created, repository) = match seeded {
            Ok(seeded) if seeded.absent => (false, Ok(None)),
            Ok(seeded) => (seeded.created, Ok(Some(repository))),
            Err(e) => (false, Err(e)),
        };
        opened.push(CopyTarget {
            name: name.to_owned(),
            url: "memory".to_owned(),
            repository,
            created,
            extra_keys: Vec::new(),
            lock: None,
        });
    }
    copy_to(source, opened, options, &Events::silent(), &Cancel::default()).await
}

async fn sound(store: Arc<InMemory>) {
    let repository = Repository::over(store, "memory");
    let report = verify(&repository, &VerifyOptions::default(), &Events::silent(), &Cancel::default()).await.unwrap();
    assert!(report.ok, "{:?}", report.damaged);
}

#[tokio::test]
async fn a_replica_is_the_repository_byte_for_byte_and_a_second_copy_does_nothing() {
    let (from, ids) = source().await;
    let to = Arc::new(InMemory::new());
    let source = over(from.clone());
    let check = CopyOptions { mode: CopyMode::Check, ..CopyOptions::default() };
    let ahead = run(&source, vec![("r", over(to.clone()))], &check).await.unwrap();
    assert_eq!((ahead.ok, ahead.exit_code), (false, 30));
    assert_eq!(ahead.replicas[0].snapshots_missing, ids);
    assert_eq!(ahead.replicas[0].behind_seconds, None);
    assert!(contents(to.as_ref()).await.is_empty());

    let first = run(&source, vec![("r", over(to.clone()))], &CopyOptions::default()).await.unwrap();
    assert!(first.ok, "{first:?}");
    let replica = &first.replicas[0];
    assert_eq!((replica.snapshots_copied.len(), replica.vector_sets_copied, replica.drills_copied), (2, 2, 1));
    assert!(replica.created);
    assert_eq!(first.bytes_copied, replica.bytes_missing);
    assert_eq!(contents(to.as_ref()).await, contents(from.as_ref()).await);
    sound(to.clone()).await;

    let second = run(&source, vec![("r", over(to.clone()))], &CopyOptions::default()).await.unwrap();
    assert!(second.ok);
    assert_eq!((second.bytes_read, second.bytes_copied, second.replicas[0].objects_missing), (0, 0, 0));
    assert_eq!(second.replicas[0].snapshots_there, 2);
    let check = run(&source, vec![("r", over(to.clone()))], &check).await.unwrap();
    assert_eq!((check.ok, check.exit_code, check.replicas[0].behind_seconds), (true, 0, Some(0.0)));
}

#[tokio::test]
async fn killed_after_every_operation_and_continued_gives_the_same_replica() {
    let (from, ids) = source().await;
    let source = over(from.clone());
    let wanted = contents(from.as_ref()).await;
    let counter = Shaky::over(Arc::new(InMemory::new()));
    assert!(run(&source, vec![("r", over(counter.clone()))], &CopyOptions::default()).await.unwrap().ok);
    let operations = counter.operations.load(Ordering::SeqCst);
    assert!(operations > 30, "{operations}");
    for n in 1..operations as i64 {
        let to = Arc::new(InMemory::new());
        let shaky = Shaky::over(to.clone());
        shaky.left.store(n, Ordering::SeqCst);
        let broken = run(&source, vec![("r", over(shaky))], &CopyOptions::default()).await;
        assert!(broken.is_err() || !broken.as_ref().unwrap().ok, "{n}: {broken:?}");
        // What shows is whole.
        let half = over(to.clone());
        for id in &ids {
            if let Ok(manifest) = crate::repository::Manifest::read(&half, id).await {
                for object in manifest.objects() {
                    half.get_checked(object).await.unwrap();
                }
            }
        }
        let report = run(&source, vec![("r", over(to.clone()))], &CopyOptions::default()).await.unwrap();
        assert!(report.ok, "{n}: {report:?}");
        assert!(contents(to.as_ref()).await == wanted, "{n}");
    }
}

#[tokio::test]
async fn a_damaged_object_is_named_and_not_copied_and_the_rest_is() {
    let (from, ids) = source().await;
    let whole = contents(from.as_ref()).await;
    let second = crate::repository::Manifest::read(&over(from.clone()), &ids[1]).await.unwrap();
    let bad = second.inventory[0].path.clone();
    let mut bytes = whole[&bad].to_vec();
    bytes[100] ^= 1;
    overwrite(from.as_ref(), &bad, bytes).await;
    let to = Arc::new(InMemory::new());
    let report = run(&over(from.clone()), vec![("r", over(to.clone()))], &CopyOptions::default()).await.unwrap();
    assert_eq!((report.ok, report.exit_code), (false, 30));
    assert_eq!(report.damaged.len(), 1, "{:?}", report.damaged);
    assert_eq!((report.damaged[0].object.as_str(), report.damaged[0].what), (bad.as_str(), Problem::Content));
    assert_eq!(report.damaged[0].hurts, [format!("snapshot {}", ids[1])]);
    assert_eq!(report.replicas[0].snapshots_copied, [ids[0].clone()]);
    assert!(report.replicas[0].withheld[0].contains(&ids[1]), "{:?}", report.replicas[0].withheld);
    assert!(!contents(to.as_ref()).await.contains_key(&bad));
    sound(to.clone()).await;
    // Mended, the rest follows.
    overwrite(from.as_ref(), &bad, whole[&bad].clone()).await;
    assert!(run(&over(from), vec![("r", over(to.clone()))], &CopyOptions::default()).await.unwrap().ok);
    assert_eq!(contents(to.as_ref()).await, whole);
}

#[tokio::test]
async fn what_arrives_wrongly_is_written_again_or_named() {
    let (from, _) = source().await;
    let wanted = contents(from.as_ref()).await;
    let source = over(from);
    let to = Arc::new(InMemory::new());
    // The record of the repository first, so that the flip hits an object.
    seed(&source, &over(to.clone()), false).await.unwrap();
    let shaky = Shaky::over(to.clone());
    shaky.flips.store(1, Ordering::SeqCst);
    let report = run(&source, vec![("r", over(shaky))], &CopyOptions::default()).await.unwrap();
    assert!(report.ok, "{report:?}");
    assert_eq!(contents(to.as_ref()).await, wanted);

    let to = Arc::new(InMemory::new());
    seed(&source, &over(to.clone()), false).await.unwrap();
    let shaky = Shaky::over(to.clone());
    shaky.flips.store(i64::MAX / 2, Ordering::SeqCst);
    let report = run(&source, vec![("r", over(shaky))], &CopyOptions::default()).await.unwrap();
    assert!(!report.ok);
    assert_eq!(report.replicas[0].snapshots_copied.len(), 0);
    assert_eq!(report.replicas[0].withheld.len(), 2 + 2 + 1, "{:?}", report.replicas[0].withheld);
    // What is wrong there is vouched for by nothing, and the next copy writes over it.
    let left = contents(to.as_ref()).await;
    let record = |name: &str| ["snapshots/", "vector-sets/", "drills/"].iter().any(|folder| name.starts_with(folder));
    assert!(!left.keys().any(|name| record(name)), "{:?}", left.keys());
    assert!(run(&source, vec![("r", over(to.clone()))], &CopyOptions::default()).await.unwrap().ok);
    assert_eq!(contents(to.as_ref()).await, wanted);
}

#[tokio::test]
async fn another_repository_is_refused_and_the_other_replicas_go_on() {
    let (from, _) = source().await;
    let other = Arc::new(InMemory::new());
    overwrite(other.as_ref(), "repository.json", Bytes::from(format!("{{\"id\": \"{}\"}}", uuid::Uuid::new_v4())))
        .await;
    let full = Shaky::over(Arc::new(InMemory::new()));
    full.left.store(9, Ordering::SeqCst);
    let good = Arc::new(InMemory::new());
    let targets = vec![("other", over(other.clone())), ("full", over(full)), ("good", over(good.clone()))];
    let report = run(&over(from.clone()), targets, &CopyOptions::default()).await.unwrap();
    assert_eq!((report.ok, report.exit_code), (false, 2));
    let [a, b, c] = report.replicas.as_slice() else { panic!("{report:?}") };
    assert_eq!(a.error.as_ref().unwrap()["kind"], "configuration");
    assert_eq!(b.error.as_ref().unwrap()["kind"], "storage");
    assert!(c.ok && c.error.is_none(), "{c:?}");
    assert_eq!(contents(other.as_ref()).await.len(), 1);
    assert_eq!(contents(good.as_ref()).await, contents(from.as_ref()).await);
}

#[tokio::test]
async fn one_snapshot_comes_with_its_vector_set_only() {
    let (from, ids) = source().await;
    let to = Arc::new(InMemory::new());
    let options = CopyOptions { snapshots: vec![ids[0].clone()], drills: false, ..CopyOptions::default() };
    let report = run(&over(from.clone()), vec![("r", over(to.clone()))], &options).await.unwrap();
    assert!(report.ok);
    assert_eq!((report.snapshots, report.vector_sets), (1, 1));
    let kinds: Vec<ObjectKind> = contents(to.as_ref()).await.keys().map(|name| ObjectKind::of(name)).collect();
    assert_eq!(kinds.iter().filter(|k| **k == ObjectKind::Manifest).count(), 1);
    assert!(!kinds.contains(&ObjectKind::Drill));
    sound(to.clone()).await;
    let options = CopyOptions { snapshots: vec!["latest".to_owned()], vectors: false, ..CopyOptions::default() };
    let report = run(&over(from), vec![("r", over(to.clone()))], &options).await.unwrap();
    assert!(report.ok);
    assert_eq!((report.replicas[0].snapshots_copied.clone(), report.vector_sets), (vec![ids[1].clone()], 0));
    sound(to).await;
}

#[tokio::test]
async fn a_part_that_is_as_good_is_kept_and_named_as_it_is() {
    let (from, _) = source().await;
    let source = over(from.clone());
    let all = contents(from.as_ref()).await;
    let name = all.keys().find(|name| ObjectKind::of(name) == ObjectKind::Part).unwrap();
    let part = name.rsplit('/').next().unwrap().parse().unwrap();
    let mut rows = read_part(&part, all[name].clone(), &FileSeal::none()).unwrap();
    rows[0].vector[0] += 1e-7;
    let mut folders = name.split('/').skip(1).map(|digest| digest.parse().unwrap());
    let (model, rules) = (folders.next().unwrap(), folders.next().unwrap());
    let other = write_part(&part, &rows, 8, &model, &rules, &FileSeal::none()).unwrap();
    assert_ne!(other, all[name]);
    let to = Arc::new(InMemory::new());
    seed(&source, &over(to.clone()), false).await.unwrap();
    overwrite(to.as_ref(), name, other.clone()).await;
    let report = run(&source, vec![("r", over(to.clone()))], &CopyOptions::default()).await.unwrap();
    assert!(report.ok, "{report:?}");
    let copied = contents(to.as_ref()).await;
    assert_eq!(copied[name], other);
    assert!(copied.keys().eq(all.keys()));
    sound(to.clone()).await;
    let again = run(&source, vec![("r", over(to))], &CopyOptions::default()).await.unwrap();
    assert!(again.ok && again.bytes_copied == 0, "{again:?}");
}

#[tokio::test]
async fn what_a_replica_lost_is_brought_back_and_what_is_damaged_there_is_named() {
    let (from, _) = source().await;
    let all = contents(from.as_ref()).await;
    let to = copied(from.as_ref()).await;
    let parts: Vec<&String> = all.keys().filter(|name| ObjectKind::of(name) == ObjectKind::Part).collect();
    let inventory = all.keys().find(|name| ObjectKind::of(name) == ObjectKind::Inventory).unwrap();
    for name in [parts[0], inventory] {
        to.delete(&Path::from(name.as_str())).await.unwrap();
    }
    overwrite(to.as_ref(), parts[1], all[parts[1]].slice(..50)).await;
    let report = run(&over(from.clone()), vec![("r", over(to.clone()))], &CopyOptions::default()).await.unwrap();
    assert_eq!((report.ok, report.exit_code), (false, 30));
    assert_eq!(report.replicas[0].objects_copied, 2);
    assert_eq!(report.replicas[0].damaged.len(), 1);
    assert_eq!(report.replicas[0].damaged[0].object, *parts[1]);
    let mut now = contents(to.as_ref()).await;
    assert_eq!(now.insert(parts[1].clone(), all[parts[1]].clone()).unwrap().len(), 50);
    assert_eq!(now, all);
}
