//! A corpus, a repository, a target, and what is known of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path as FilePath;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use regrow::cancel::Cancel;
use regrow::copy::{CopyOptions, CopyTarget, copy_to};
use regrow::embed::{Engine, Tokenizer};
use regrow::event::Events;
use regrow::faults::{Faults, Faulty, Rates};
use regrow::model::{FetchOptions, ModelStore};
use regrow::pipeline::{CaptureMode, Pipeline};
use regrow::repository::{Reliable, Repository, Retries, Sleep, VerifyOptions, verify};
use regrow::restore::{OnChanged, RestoreOptions, restore};
use regrow::retention::{ForgetOptions, PruneOptions, PruneReport, forget, prune};
use regrow::snapshot::{SnapshotOptions, snapshot};
use regrow::targets::memory::MemoryTarget;
use regrow::{ErrorKind, Workspace};

use super::check;
use super::rng::Rng;

/// Documents by id, with their text.
pub type Documents = BTreeMap<String, Arc<str>>;

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Adds, changes, renames or deletes documents.
    Edit,
    Snapshot,
    /// Two at the same time.
    Snapshots,
    Restore,
    /// A restore and a snapshot at the same time.
    RestoreAndSnapshot,
    Verify,
    Forget,
    /// Removes what nothing needs, without a grace.
    Prune,
    /// Brings the replica what it lacks.
    Copy,
    /// A prune and a snapshot at the same time.
    PruneAndSnapshot,
    /// A stored part is cut, changed or lost.
    Damage,
}

impl Operation {
    const ALL: [(Self, u32); 11] = [
        (Self::Edit, 30),
        (Self::Snapshot, 25),
        (Self::Snapshots, 4),
        (Self::Restore, 20),
        (Self::RestoreAndSnapshot, 4),
        (Self::Verify, 5),
        (Self::Forget, 7),
        (Self::Prune, 8),
        (Self::Copy, 5),
        (Self::PruneAndSnapshot, 3),
        (Self::Damage, 5),
    ];

    pub fn choose(rng: &mut Rng) -> Self {
        let mut at = rng.below(Self::ALL.iter().map(|(_, weight)| *weight as usize).sum()) as u32;
        for (operation, weight) in Self::ALL {
            if at < weight {
                return operation;
            }
            at -= weight;
        }
        Self::Edit
    }
}

/// How the stores behave during an operation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Weather {
    Calm,
    /// Errors, short and wrong bodies with this probability.
    Faults(f64),
    /// Listings lag behind by so many operations.
    Lag(u64),
    /// The repository's store dies after so many operations.
    Kill(u64),
    /// The corpus's store does.
    KillCorpus(u64),
}

/// What was done and how it went, so that a run that tests nothing is noticed.
#[derive(Debug, Default)]
pub struct Seen {
    done: BTreeMap<(Operation, bool), u64>,
    uncommitted: u64,
    committed_though_failed: u64,
    healed: u64,
}

impl Seen {
    pub fn add(&mut self, other: &Self) {
        for (key, count) in &other.done {
            *self.done.entry(*key).or_default() += count;
        }
        self.uncommitted += other.uncommitted;
        self.committed_though_failed += other.committed_though_failed;
        self.healed += other.healed;
    }

    /// Snapshots that failed and left nothing, and those that failed and are there all the same.
    pub fn uncommitted(&self) -> u64 {
        self.uncommitted + self.committed_though_failed
    }

    fn note(&mut self, operation: Operation, ok: bool) {
        *self.done.entry((operation, ok)).or_default() += 1;
    }

    pub fn assert_something_of_everything(&self) {
        for (operation, _) in Operation::ALL {
            assert!(self.done.contains_key(&(operation, true)), "never succeeded: {operation:?}");
        }
        for operation in [Operation::Snapshot, Operation::Restore, Operation::Snapshots, Operation::Verify] {
            assert!(self.done.contains_key(&(operation, false)), "never failed: {operation:?}");
        }
        assert!(self.uncommitted > 0 && self.healed > 0, "{self:?}");
    }
}

const PIPELINE: &str = r#"
name = "random"
[corpus]
url = "corpus"
[[corpus.records]]
include = ["*.jsonl"]
id = "id"
text = ["text"]
[chunking]
size = 16
overlap = 2
[repository]
url = "repository"
[target]
kind = "memory"
[validation]
min_self_retrieval = 0.0 # short texts of few words: many are the same
"#;

fn engine() -> Arc<Engine> {
    static ENGINE: OnceLock<Arc<Engine>> = OnceLock::new();
    let file = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("models/golden/tiny-distilbert/tokenizer.json");
    ENGINE.get_or_init(|| Arc::new(Engine::noop(Tokenizer::open(&file).unwrap(), 8).unwrap())).clone()
}

pub struct World {
    pub rng: Rng,
    /// What is being done, for messages.
    pub now: String,
    /// The stores themselves, which never fail.
    corpus: Arc<InMemory>,
    pub stored: Arc<InMemory>,
    /// The replica's store, and a failing one over it.
    pub copied: Arc<InMemory>,
    faulty_copied: Faulty,
    faulty_corpus: Faulty,
    faulty: Faulty,
    pub workspace: Workspace,
    target: MemoryTarget,
    clock: Arc<AtomicI64>,
    /// The corpus as it is.
    pub documents: Documents,
    /// Files of the corpus: for each the ids of its documents.
    files: BTreeMap<String, Vec<String>>,
    named: u64,
    /// Snapshots that must be readable, with what they must hold.
    pub committed: BTreeMap<String, Documents>,
    /// What a snapshot that is there now, and was not before, must hold.
    pub may_appear: Option<Documents>,
    /// Parts that were damaged on purpose.
    pub damaged: BTreeSet<String>,
}

fn reliable(store: &Faulty) -> Arc<dyn ObjectStore> {
    let sleep: Sleep = Arc::new(|_| Box::pin(std::future::ready(())));
    let retries = Retries { tries: 4, ..Retries::default() };
    Arc::new(Reliable::with_sleep(store.shared(), retries, sleep))
}

impl World {
    pub fn new(seed: u64) -> Self {
        let (corpus, stored) = (Arc::new(InMemory::new()), Arc::new(InMemory::new()));
        let deadline = Duration::from_micros(50);
        let copied = Arc::new(InMemory::new());
        let faulty_copied = Faulty::new(copied.clone(), seed ^ 2).deadline(deadline);
        let faulty_corpus = Faulty::new(corpus.clone(), seed).deadline(deadline);
        let faulty = Faulty::new(stored.clone(), seed ^ 1).deadline(deadline);
        let target = MemoryTarget::new();
        let models = ModelStore::new(std::env::temp_dir().join("regrow-no-models"), FetchOptions::default());
        let mut pipeline = Pipeline::from_toml(PIPELINE, "random").unwrap();
        pipeline.capture.mode = [CaptureMode::Reference, CaptureMode::Copy, CaptureMode::Text][(seed % 3) as usize];
        // Some machine's clock: snapshots are taken on machines that do not agree on the time.
        let clock = Arc::new(AtomicI64::new(1_790_000_000));
        let ticks = clock.clone();
        let mut workspace = Workspace::new(pipeline, std::env::temp_dir(), models)
            .with_target(Arc::new(target.clone()))
            .with_corpus_store(reliable(&faulty_corpus))
            .with_repository_store(reliable(&faulty));
        workspace.engine = Some(engine());
        workspace.now = Arc::new(move || {
            jiff::Timestamp::from_second(ticks.fetch_add(1, Ordering::Relaxed)).expect("a time in this century")
        });
        Self {
            rng: Rng::new(seed),
            now: String::new(),
            corpus,
            stored,
            copied,
            faulty_copied,
            faulty_corpus,
            faulty,
            workspace,
            target,
            clock,
            documents: Documents::new(),
            files: BTreeMap::new(),
            named: 0,
            committed: BTreeMap::new(),
            may_appear: None,
            damaged: BTreeSet::new(),
        }
    }

    /// The repository as it is, through a store that works.
    pub fn repository(&self) -> Repository {
        Repository::over(self.stored.clone(), "memory")
    }

    /// What the stores will do, chosen and set.
    pub fn weather(&mut self) -> Weather {
        let weather = match self.rng.below(10) {
            0..5 => Weather::Calm,
            5 | 6 => Weather::Faults(0.02 + self.rng.share() * 0.4),
            7 => Weather::Kill(self.rng.below(40) as u64 + 1),
            8 => Weather::KillCorpus(self.rng.below(12) as u64 + 1),
            _ => Weather::Lag(self.rng.below(20) as u64 + 1),
        };
        self.set(weather);
        weather
    }

    /// From now on the stores behave like this.
    pub fn set(&mut self, weather: Weather) {
        match weather {
            Weather::Calm => {}
            Weather::Faults(p) => {
                self.faulty.set(Faults::everywhere(p));
                // What a corpus without digests says is what there is: no wrong bits there.
                let corpus = Faults::everywhere(p);
                self.faulty_copied.set(corpus);
                self.faulty_corpus.set(Faults { get: Rates { flipped: 0.0, ..corpus.get }, ..corpus });
            }
            Weather::Kill(n) => self.faulty.kill_after(n),
            Weather::KillCorpus(n) => self.faulty_corpus.kill_after(n),
            Weather::Lag(n) => self.faulty.set(Faults { lag: n, ..Faults::default() }),
        }
    }

    /// Whether a store has died.
    pub fn is_dead(&self) -> bool {
        self.faulty.is_dead() || self.faulty_corpus.is_dead()
    }

    /// The stores work again.
    pub fn calm(&mut self) {
        for store in [&self.faulty, &self.faulty_corpus, &self.faulty_copied] {
            store.set(Faults::default());
            store.revive();
            drop(store.log());
        }
    }

    pub async fn run(&mut self, operation: Operation, weather: Weather, seen: &mut Seen) {
        // Machines' clocks are hours apart.
        let skew = self.rng.below(4 * 3600) as i64 - 2 * 3600;
        self.clock.store(1_790_000_000 + 60 * self.named as i64 + skew, Ordering::Relaxed);
        self.named += 1;
        let calm = weather == Weather::Calm;
        if calm {
            // Those of runs that were killed; a machine would wait until they are stale.
            self.repository().remove_locks(true).await.unwrap();
        }
        match operation {
            Operation::Edit => {
                for _ in 0..=self.rng.below(4) {
                    self.edit().await;
                }
                seen.note(operation, true);
            }
            Operation::Snapshot => {
                self.may_appear = Some(self.documents.clone());
                let done = snapshot(&self.workspace, &SnapshotOptions::default()).await;
                self.took(operation, done, calm, seen).await;
            }
            Operation::Snapshots => {
                self.may_appear = Some(self.documents.clone());
                let (workspace, options) = (self.workspace.clone(), SnapshotOptions::default());
                let (one, two) = tokio::join!(snapshot(&workspace, &options), snapshot(&workspace, &options));
                self.took(operation, one, calm, seen).await;
                self.may_appear = Some(self.documents.clone());
                self.took(operation, two, calm, seen).await;
            }
            Operation::Restore => {
                let Some((id, options)) = self.restorable() else { return };
                let done = restore(&self.workspace, options.clone()).await;
                self.restored(operation, &id, &options, done, calm, seen).await;
            }
            Operation::RestoreAndSnapshot => {
                let Some((id, options)) = self.restorable() else { return };
                self.may_appear = Some(self.documents.clone());
                let (workspace, taking) = (self.workspace.clone(), SnapshotOptions::default());
                let (one, two) = tokio::join!(snapshot(&workspace, &taking), restore(&workspace, options.clone()));
                self.took(operation, one, calm, seen).await;
                self.restored(operation, &id, &options, two, calm, seen).await;
            }
            Operation::Verify => {
                let repository = match self.workspace.repository().await {
                    Ok(repository) => repository,
                    Err(e) => {
                        assert!(!calm || e.kind() == ErrorKind::NotFound, "{}: {e:?}", self.now);
                        return;
                    }
                };
                let options = VerifyOptions::default();
                let report = verify(&repository, &options, &Events::silent(), &self.workspace.cancel).await;
                if let (Err(e), true) = (&report, calm) {
                    panic!("{}: {e:?}", self.now);
                }
                seen.note(operation, report.is_ok());
            }
            Operation::Forget => {
                let ids: Vec<_> = self.committed.keys().cloned().collect();
                // The repository keeps a few, so that there is something to look after.
                if ids.len() < 4 {
                    return;
                }
                if let Some(id) = self.rng.one(&ids).cloned() {
                    let Ok(repository) = self.workspace.repository().await else { return };
                    let options = ForgetOptions { ids: vec![id.clone()], ..ForgetOptions::default() };
                    let done = forget(&repository, &options, &Events::silent(), &Cancel::default()).await;
                    if let (Err(e), true) = (&done, calm) {
                        panic!("{}: {e:?}", self.now);
                    }
                    // Whatever the answer was: the manifest is there, or it is forgotten.
                    let there = self.repository().get_optional(&format!("snapshots/{id}/manifest.json")).await.unwrap();
                    assert!(done.is_err() || there.is_none(), "{}: {id} is still there", self.now);
                    if there.is_none() {
                        self.committed.remove(&id);
                    }
                    seen.note(operation, done.is_ok());
                }
            }
            Operation::Prune => {
                let done = self.prune().await;
                self.pruned(operation, &done, calm, seen);
            }
            Operation::PruneAndSnapshot => {
                self.may_appear = Some(self.documents.clone());
                let workspace = self.workspace.clone();
                let options = SnapshotOptions::default();
                let (one, two) = tokio::join!(self.prune(), snapshot(&workspace, &options));
                // Each may find that the other is at work; neither may lose anything.
                self.pruned(operation, &one, false, seen);
                let excluded = two.as_ref().is_err_and(|e| e.kind() == ErrorKind::Locked);
                self.took(operation, two, calm && !excluded, seen).await;
            }
            Operation::Copy => {
                let Ok(repository) = self.workspace.repository().await else { return };
                // As copy makes a replica: the same repository, by id.
                let record = Path::from("repository.json");
                let bytes = self.stored.get(&record).await.unwrap().bytes().await.unwrap();
                self.copied.put(&record, bytes.into()).await.unwrap();
                let target = CopyTarget {
                    name: "replica".to_owned(),
                    url: "replica".to_owned(),
                    repository: Ok(Some(Repository::over(reliable(&self.faulty_copied), "replica"))),
                    created: false,
                    extra_keys: Vec::new(),
                    lock: None,
                };
                let options = CopyOptions::default();
                let done = copy_to(&repository, vec![target], &options, &Events::silent(), &Cancel::default()).await;
                if let (Err(e), true) = (&done, calm) {
                    panic!("{}: {e:?}", self.now);
                }
                seen.note(operation, done.is_ok());
                self.calm();
                check::replica(self, done.is_ok_and(|report| report.ok)).await;
            }
            Operation::Damage => {
                let done = self.damage().await;
                seen.note(operation, done);
            }
        }
    }

    async fn prune(&self) -> regrow::Result<PruneReport> {
        let repository = self.workspace.repository().await?;
        let options = PruneOptions { grace: jiff::SignedDuration::ZERO, ..PruneOptions::default() };
        prune(&repository, &options, &Events::silent(), &Cancel::default()).await
    }

    fn pruned(&self, operation: Operation, done: &regrow::Result<PruneReport>, calm: bool, seen: &mut Seen) {
        if let (Err(e), true) = (done, calm) {
            assert!(e.kind() == ErrorKind::NotFound, "{}: {e:?}", self.now);
        }
        seen.note(operation, done.is_ok());
    }

    /// Something changes in the corpus.
    async fn edit(&mut self) {
        let files: Vec<String> = self.files.keys().cloned().collect();
        let chosen = self.rng.one(&files).cloned();
        match (self.rng.below(10), chosen) {
            (0 | 1, Some(name)) if files.len() > 2 => self.remove(&name).await,
            (2 | 3, Some(name)) => {
                let bytes = self.corpus.get(&Path::from(name.as_str())).await.unwrap().bytes().await.unwrap();
                let ids = self.files[&name].clone();
                let texts: Vec<_> = ids.iter().map(|id| self.documents[id].clone()).collect();
                self.remove(&name).await;
                self.named += 1;
                let renamed = format!("moved/{}-{}", self.named, name.rsplit('/').next().unwrap());
                let ids = ids.iter().map(|id| format!("{renamed}{}", &id[name.len()..])).collect();
                self.write(&renamed, bytes, ids, texts).await;
            }
            (4 | 5, Some(name)) => self.file(&name).await,
            (6, _) => {
                let name = format!("records-{}.jsonl", self.rng.below(2));
                self.file(&name).await;
            }
            _ => {
                self.named += 1;
                let name = format!("{}/{}.txt", ["a", "b", "c"][self.rng.below(3)], self.named);
                self.file(&name).await;
            }
        }
    }

    async fn remove(&mut self, name: &str) {
        self.corpus.delete(&Path::from(name)).await.unwrap();
        for id in self.files.remove(name).unwrap_or_default() {
            self.documents.remove(&id);
        }
    }

    async fn write(&mut self, name: &str, bytes: Bytes, ids: Vec<String>, texts: Vec<Arc<str>>) {
        for id in self.files.remove(name).unwrap_or_default() {
            self.documents.remove(&id);
        }
        self.corpus.put(&Path::from(name), bytes.into()).await.unwrap();
        self.documents.extend(ids.iter().cloned().zip(texts));
        self.files.insert(name.to_owned(), ids);
    }

    /// Writes a file, new or anew: a text or records.
    async fn file(&mut self, name: &str) {
        if !name.ends_with(".jsonl") {
            let text: Arc<str> = self.text().into();
            let bytes = Bytes::copy_from_slice(text.as_bytes());
            return self.write(name, bytes, vec![name.to_owned()], vec![text]).await;
        }
        let (mut lines, mut ids, mut texts) = (String::new(), Vec::new(), Vec::new());
        for number in 0..1 + self.rng.below(6) {
            if self.rng.below(4) == 0 {
                continue;
            }
            let text: Arc<str> = self.text().into();
            lines.push_str(&serde_json::json!({ "id": number, "text": *text }).to_string());
            lines.push('\n');
            ids.push(format!("{name}#{number}"));
            texts.push(text);
        }
        self.write(name, lines.into_bytes().into(), ids, texts).await;
    }

    /// A few words, mostly new ones.
    fn text(&mut self) -> String {
        // The test model's vocabulary, without which texts would have the same tokens, and a few strangers.
        const WORDS: [&str; 24] = [
            "account",
            "and",
            "are",
            "backup",
            "can",
            "corpus",
            "derived",
            "every",
            "from",
            "gone",
            "index",
            "on",
            "provider",
            "rebuilt",
            "region",
            "schedule",
            "that",
            "the",
            "vectors",
            "when",
            "über",
            "海",
            "\u{1f6a2}",
            "Lamp.",
        ];
        let mut text = String::new();
        for _ in 0..1 + self.rng.below(60) {
            text.push_str(WORDS[self.rng.below(WORDS.len())]);
            text.push_str([" ", " ", " ", "\n", "\n\n"][self.rng.below(5)]);
        }
        for _ in 0..12 {
            text.push_str(WORDS[self.rng.below(20)]);
            text.push(' ');
        }
        text.push_str("end");
        text
    }

    async fn took(
        &mut self,
        operation: Operation,
        done: regrow::Result<regrow::snapshot::SnapshotReport>,
        calm: bool,
        seen: &mut Seen,
    ) {
        seen.note(operation, done.is_ok());
        match done {
            Ok(report) => {
                assert_eq!(report.documents, self.documents.len() as u64, "{}", self.now);
                self.committed.insert(report.snapshot, self.documents.clone());
            }
            Err(e) => {
                assert!(!calm, "{}: {e:?}", self.now);
                // It may be there all the same: then it is whole.
                self.calm();
                let before = self.committed.len();
                check::snapshots(self).await;
                match self.committed.len() - before {
                    0 => seen.uncommitted += 1,
                    _ => seen.committed_though_failed += 1,
                }
            }
        }
    }

    fn restorable(&mut self) -> Option<(String, RestoreOptions)> {
        let ids: Vec<_> = self.committed.keys().cloned().collect();
        // Mostly the newest, which the corpus still agrees with.
        let id = if self.rng.below(3) > 0 { ids.last().cloned() } else { self.rng.one(&ids).cloned() }?;
        let on_changed = if self.rng.below(4) == 0 { OnChanged::Skip } else { OnChanged::Fail };
        let options = RestoreOptions {
            snapshot: id.clone(),
            on_changed,
            reuse: self.rng.below(4) > 0,
            fresh: self.rng.below(5) == 0,
            ..RestoreOptions::default()
        };
        Some((id, options))
    }

    async fn restored(
        &mut self,
        operation: Operation,
        id: &str,
        options: &RestoreOptions,
        done: regrow::Result<regrow::restore::RestoreReport>,
        calm: bool,
        seen: &mut Seen,
    ) {
        seen.note(operation, done.is_ok());
        match done {
            Ok(report) => {
                assert!(report.ok, "{}: {:?}", self.now, report.checks);
                let whole = options.on_changed == OnChanged::Fail;
                check::collection(self, &self.target, &report, &self.committed[id], whole).await;
                let before = self.damaged.len();
                check::what_is_still_damaged(self).await;
                seen.healed += (before - self.damaged.len()) as u64;
            }
            Err(e) if calm => {
                let same = self.committed[id] == self.documents;
                // With copies of its own, a snapshot does not need the corpus.
                let refers = self.workspace.pipeline.capture.mode == CaptureMode::Reference;
                assert!(!same && refers && e.kind() == ErrorKind::CorpusDiffers, "{}: {e:?}", self.now);
            }
            Err(_) => {}
        }
    }

    /// Cuts, changes or loses a stored part: what can be derived again.
    async fn damage(&mut self) -> bool {
        let names = check::names(self, "vectors").await;
        let Some(name) = self.rng.one(&names).cloned() else { return false };
        let path = Path::from(name.as_str());
        let right = self.stored.get(&path).await.unwrap().bytes().await.unwrap();
        if right.is_empty() {
            return false;
        }
        let mut wrong = right.to_vec();
        match self.rng.below(4) {
            0 => wrong.truncate(self.rng.below(right.len())),
            1 | 2 => wrong[self.rng.below(right.len())] ^= 1 << self.rng.below(8),
            _ => wrong.clear(),
        }
        if wrong.is_empty() && self.rng.below(2) == 0 {
            self.stored.delete(&path).await.unwrap();
        } else {
            self.stored.put(&path, wrong.into()).await.unwrap();
        }
        self.damaged.insert(name);
        true
    }

    /// At the end everything is as it should be: the corpus is snapshotted and restored, and nothing is damaged.
    pub async fn finish(&mut self, seen: &mut Seen) {
        self.now = format!("{}; then at the end", self.now);
        self.may_appear = Some(self.documents.clone());
        let done = snapshot(&self.workspace, &SnapshotOptions::default()).await;
        self.took(Operation::Snapshot, done, true, seen).await;
        let newest =
            self.committed.iter().rev().find(|(_, d)| **d == self.documents).map(|(id, _)| id.clone()).unwrap();
        let options = RestoreOptions { snapshot: newest.clone(), ..RestoreOptions::default() };
        let done = restore(&self.workspace, options.clone()).await;
        self.restored(Operation::Restore, &newest, &options, done, true, seen).await;
        check::everything(self).await;
    }
}
