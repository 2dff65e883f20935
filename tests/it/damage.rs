//! Repositories of every format version, with every object damaged in every way: the damage is named with the object,
//! what it hurts says so, and everything else still works.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use regrow::cancel::Cancel;
use regrow::embed::Engine;
use regrow::event::Events;
use regrow::model::{FetchOptions, ModelCard, ModelFiles, ModelStore};
use regrow::pipeline::Pipeline;
use regrow::repository::{Manifest, Repository, VerifyOptions, VerifyReport, verify};
use regrow::restore::{RestoreOptions, restore};
use regrow::status::status;
use regrow::targets::memory::MemoryTarget;
use regrow::{ErrorKind, Workspace};

type Objects = BTreeMap<String, Vec<u8>>;

fn fixtures() -> PathBuf {
    FilePath::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

struct Fixture {
    pipeline: Pipeline,
    base: PathBuf,
    engine: Arc<Engine>,
    objects: Objects,
}

impl Fixture {
    async fn load(version: &str) -> Self {
        let (pipeline, base) = Pipeline::load(&fixtures().join(version).join("regrow.toml")).unwrap();
        let store = LocalFileSystem::new_with_prefix(base.join("repository")).unwrap();
        let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
        let mut objects = Objects::new();
        for meta in listed {
            let bytes = store.get(&meta.location).await.unwrap().bytes().await.unwrap();
            objects.insert(meta.location.to_string(), bytes.to_vec());
        }
        assert!(objects.len() > 5, "{version} has {} objects", objects.len());
        Self { engine: engine(&pipeline, &base), pipeline, base, objects }
    }

    /// A workspace over a repository that holds these objects.
    async fn with(&self, objects: &Objects) -> (Workspace, Arc<InMemory>) {
        let store = Arc::new(InMemory::new());
        for (name, bytes) in objects {
            store.put(&Path::from(name.as_str()), bytes.clone().into()).await.unwrap();
        }
        let workspace = workspace(&self.pipeline, &self.base, &self.engine).with_repository_store(store.clone());
        (workspace, store)
    }
}

fn models() -> ModelStore {
    ModelStore::new(std::env::temp_dir().join("regrow-no-models"), FetchOptions::default())
}

fn workspace(pipeline: &Pipeline, base: &FilePath, engine: &Arc<Engine>) -> Workspace {
    let mut workspace = Workspace::new(pipeline.clone(), base.to_owned(), models());
    workspace.engine = Some(engine.clone());
    // As `tests/fixtures/make` has it.
    workspace.variables = Arc::new(|name| (name == "FIXTURE_PASSPHRASE").then(|| "fixture".to_owned()));
    workspace.with_target(Arc::new(MemoryTarget::new()))
}

fn engine(pipeline: &Pipeline, base: &FilePath) -> Arc<Engine> {
    let card = ModelCard::find(base.join(&pipeline.model.name).to_str().unwrap()).unwrap();
    let files = ModelFiles::open(&card, &base.join(pipeline.model.source.as_ref().unwrap())).unwrap();
    Arc::new(Engine::open(&files, &pipeline.model).unwrap())
}

/// The kind of an object: what may stand in its place when two are mixed up.
fn kind(name: &str) -> String {
    let file = name.rsplit('/').next().unwrap_or_default();
    match name.split('/').next().unwrap_or_default() {
        "snapshots" => file.split(['.', '-']).next().unwrap_or_default().to_owned(),
        folder => folder.to_owned(),
    }
}

/// What happened to an object, and the objects as they are then.
fn damages(objects: &Objects, name: &str) -> Vec<(String, Objects)> {
    let bytes = &objects[name];
    let mut out = Vec::new();
    let mut with = |what: &str, wrong: Option<Vec<u8>>| {
        let mut damaged = objects.clone();
        match wrong {
            Some(wrong) if wrong == *bytes => return,
            Some(wrong) => drop(damaged.insert(name.to_owned(), wrong)),
            None => drop(damaged.remove(name)),
        }
        out.push((what.to_owned(), damaged));
    };
    let flipped = |at: usize| {
        let mut wrong = bytes.clone();
        wrong[at] ^= 1;
        Some(wrong)
    };
    with("emptied", Some(Vec::new()));
    with("cut in half", Some(bytes[..bytes.len() / 2].to_vec()));
    with("one byte short", Some(bytes[..bytes.len() - 1].to_vec()));
    with("longer", Some([&bytes[..], b"x"].concat()));
    with("changed at its start", flipped(0));
    with("changed in the middle", flipped(bytes.len() / 2));
    with("changed at its end", flipped(bytes.len() - 1));
    with("missing", None);
    for (other, theirs) in objects.iter().filter(|(other, _)| *other != name && kind(other) == kind(name)) {
        with(&format!("replaced by {other}"), Some(theirs.clone()));
    }
    out
}

async fn check(repository: &Repository) -> VerifyReport {
    verify(repository, &VerifyOptions::default(), &Events::silent(), &Cancel::default()).await.unwrap()
}

/// What a snapshot is without any damage.
async fn restored(workspace: &Workspace, id: &str) -> regrow::Result<(u64, u64)> {
    // To the last point; index and verdict are the target's.
    let options = RestoreOptions { snapshot: id.to_owned(), load_only: true, ..RestoreOptions::default() };
    let report = restore(workspace, options).await?;
    Ok((report.documents, report.target.count))
}

async fn every_damage(version: &str) {
    let fixture = Fixture::load(version).await;
    let (sound, _) = fixture.with(&fixture.objects).await;
    let repository = sound.repository().await.unwrap();
    let report = check(&repository).await;
    assert!(report.ok, "{:?}", report.damaged);
    let ids = Manifest::ids(&repository).await.unwrap();
    let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut wanted = BTreeMap::new();
    for id in &ids {
        let manifest = Manifest::read(&repository, id).await.unwrap();
        let objects = manifest.inventory.iter().chain([&manifest.canaries]).map(|o| o.path.clone());
        needs.insert(id.clone(), objects.chain([format!("snapshots/{id}/manifest.json")]).collect());
        wanted.insert(id.clone(), restored(&sound, id).await.unwrap());
    }
    let mut cases = 0;
    for name in fixture.objects.keys() {
        for (what, objects) in damages(&fixture.objects, name) {
            cases += 1;
            one(&fixture, name, &what, &objects, &needs, &wanted).await;
        }
    }
    assert!(cases > 40, "{cases}");
}

async fn one(
    fixture: &Fixture,
    name: &str,
    what: &str,
    objects: &Objects,
    needs: &BTreeMap<String, BTreeSet<String>>,
    wanted: &BTreeMap<String, (u64, u64)>,
) {
    let case = format!("{name} is {what}");
    let (workspace, _) = fixture.with(objects).await;
    let repository = match workspace.repository().await {
        Ok(repository) => repository,
        // The only slot: without it nothing can be opened, and nothing is taken for damaged.
        Err(e) if name.starts_with("keys/") => {
            let kinds = [ErrorKind::Damaged, ErrorKind::KeyWrong, ErrorKind::KeyMissing];
            assert!(kinds.contains(&e.kind()), "{case}: {e}");
            return;
        }
        Err(e) => {
            assert_eq!(name, "repository.json", "{case}: {e}");
            let kind = if what == "missing" { ErrorKind::NotFound } else { ErrorKind::Damaged };
            assert_eq!(e.kind(), kind, "{case}: {e}");
            if kind == ErrorKind::Damaged {
                assert_eq!(e.context_value("object"), Some(name), "{case}: {e}");
            }
            return;
        }
    };
    let is_manifest = kind(name) == kind("snapshots/x/manifest.json");
    // A snapshot without its manifest is one that was never committed.
    let never_was = is_manifest && what == "missing";

    // Verify names it, what it hurts, and nothing else.
    let report = check(&repository).await;
    let named: Vec<_> = report.damaged.iter().map(|d| d.object.as_str()).collect();
    let derivable = name.starts_with("vectors/") || name.starts_with("vector-sets/");
    let unsealed = fixture.base.ends_with("v1") && name.starts_with("vector-sets/");
    let record = name.starts_with("vector-sets/") && what == "missing";
    if never_was || record || name == "repository.json" {
        assert!(named.is_empty(), "{case}: {named:?}");
    } else if unsealed {
        // Without a digest a change that still makes sense goes unseen, or names a part that is not so.
        assert!(what.starts_with("changed") || !named.is_empty(), "{case}");
    } else {
        assert_eq!(named, [name], "{case}");
        assert_eq!(report.damaged[0].derivable, derivable, "{case}");
        assert!(!report.damaged[0].hurts.is_empty(), "{case}");
    }

    // The list has every snapshot but the one; it and what needs it are refused by name, the others are as before.
    let ids = Manifest::ids(&repository).await.unwrap();
    for (id, objects) in needs {
        let hurt = objects.contains(name);
        let own_manifest = is_manifest && hurt;
        assert_eq!(ids.contains(id), !(own_manifest && never_was), "{case}: {ids:?}");
        match Manifest::find(&repository, id, None).await {
            Ok(_) => assert!(!own_manifest, "{case}"),
            Err(e) => {
                assert!(own_manifest, "{case}: {id}: {e}");
                let kind = if never_was { ErrorKind::NotFound } else { ErrorKind::Damaged };
                assert_eq!(e.kind(), kind, "{case}: {e}");
                assert!(never_was || e.context_value("object") == Some(name), "{case}: {e}");
            }
        }
        match restored(&workspace, id).await {
            Ok(found) => assert!(!hurt && found == wanted[id], "{case}: {id}: {found:?}"),
            Err(e) => {
                assert!(hurt, "{case}: {id}: {e} {:?}", e.causes());
                let kind = if never_was { ErrorKind::NotFound } else { ErrorKind::Damaged };
                assert_eq!(e.kind(), kind, "{case}: {e}");
                assert!(never_was || format!("{e} {:?}", e.causes()).contains(name), "{case}: {e}");
            }
        }
    }
    let status = status(&workspace).await.unwrap();
    assert_eq!(status.snapshots, needs.len() as u64 - u64::from(is_manifest), "{case}");
    // `latest` passes over nothing silently: it is the latest, or an error that names it.
    if let Err(e) = Manifest::find(&repository, "latest", None).await {
        assert!(is_manifest, "{case}: {e}");
    }

    // A part or a record that was derived again is right again.
    if derivable {
        let report = check(&repository).await;
        assert!(report.ok, "{case}: after the restores {:?}", report.damaged);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_damage_to_a_repository_of_format_1_is_named_and_confined() {
    every_damage("v1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_damage_to_a_repository_of_format_2_is_named_and_confined() {
    every_damage("v2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_damage_to_captured_bytes_is_named_and_confined() {
    every_damage("v2-copy").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_damage_to_captured_text_is_named_and_confined() {
    every_damage("v2-text").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_damage_to_an_encrypted_repository_is_named_and_confined() {
    every_damage("v2-encrypted").await;
}
