use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};

use super::*;
use crate::copy::tests::{filled, workspace};
use crate::copy::{CopyOptions, copy};
use crate::repository::FileSeal;
use crate::vectors::{read_part, write_part};
use crate::verify::verify;

/// Path → bytes of all files below a directory.
fn files(root: &FilePath) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &FilePath, at: &FilePath, all: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(at).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(root, &path, all);
            } else {
                let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                all.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(root, root, &mut all);
    all
}

struct Place {
    _directory: tempfile::TempDir,
    root: PathBuf,
    workspace: Workspace,
}

/// A filled repository, with a complete replica or without.
async fn place(replica: bool) -> Place {
    let directory = tempfile::tempdir().unwrap();
    let workspace = workspace(directory.path(), if replica { &["second"] } else { &[] });
    filled(&workspace).await;
    if replica {
        assert!(copy(&workspace, &[], &CopyOptions::default()).await.unwrap().ok);
    }
    Place { root: directory.path().join("repository"), workspace, _directory: directory }
}

impl Place {
    async fn repair(&self) -> RepairReport {
        repair(&self.workspace, &RepairOptions::default()).await.unwrap()
    }

    async fn sound(&self) -> bool {
        let repository = self.workspace.repository().await.unwrap();
        let (events, cancel) = (&self.workspace.events, &self.workspace.cancel);
        verify(&repository, &VerifyOptions::default(), events, cancel).await.unwrap().ok
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.root.join(name), bytes).unwrap();
    }
}

#[tokio::test]
async fn every_damaged_object_comes_back_from_a_replica() {
    let place = place(true).await;
    let all = files(&place.root);
    for (name, bytes) in &all {
        let kind = ObjectKind::of(name);
        let other = all.iter().find(|(other, _)| *other != name && ObjectKind::of(other) == kind);
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 8;
        let unsealed = matches!(kind, ObjectKind::Drill | ObjectKind::Repository);
        let no_record = unsealed || matches!(kind, ObjectKind::Manifest | ObjectKind::VectorSet);
        for damage in [
            Some(bytes[..bytes.len() / 2].to_vec()),
            (!unsealed).then_some(flipped),
            other.map(|(_, bytes)| bytes.clone()),
            None,
        ] {
            match &damage {
                Some(damage) => place.write(name, damage),
                // Records that are gone leave no trace.
                None if no_record && kind != ObjectKind::Repository => continue,
                None => std::fs::remove_file(place.root.join(name)).unwrap(),
            }
            let dry = RepairOptions { dry_run: true, ..RepairOptions::default() };
            let planned = repair(&place.workspace, &dry).await.unwrap();
            assert!(planned.ok && planned.actions.len() == 1, "{planned:?}");
            assert_eq!(planned.actions[0].outcome, Outcome::Planned);
            let report = place.repair().await;
            assert!(report.ok, "{name}: {report:?}");
            assert_eq!((report.damaged, report.actions.len()), (1, 1), "{name}: {report:?}");
            assert_eq!((report.actions[0].object.as_str(), report.actions[0].outcome), (name.as_str(), Outcome::Done));
            let wanted = if kind == ObjectKind::VectorSet { How::Rebuild } else { How::Replica };
            assert_eq!(report.actions[0].how, wanted, "{name}");
            assert!(place.sound().await, "{name}");
            // A record that is written again has another time in it.
            if kind != ObjectKind::VectorSet {
                assert!(std::fs::read(place.root.join(name)).unwrap() == *bytes, "{name}");
            }
        }
    }
    assert_eq!(place.repair().await.damaged, 0);
}

#[tokio::test]
async fn without_a_replica_what_is_derived_is_derived_again_and_the_rest_is_named() {
    let place = place(false).await;
    let all = files(&place.root);
    for kind in
        [ObjectKind::Part, ObjectKind::VectorSet, ObjectKind::Inventory, ObjectKind::Canaries, ObjectKind::Drill]
    {
        for (name, bytes) in all.iter().filter(|(name, _)| ObjectKind::of(name) == kind) {
            place.write(name, &bytes[..bytes.len() / 3]);
            let report = place.repair().await;
            let action = &report.actions[0];
            assert_eq!(action.object, *name);
            match kind {
                ObjectKind::Part | ObjectKind::VectorSet => {
                    let how = if kind == ObjectKind::Part { How::Compute } else { How::Rebuild };
                    assert_eq!((action.how, action.outcome), (how, Outcome::Done), "{report:?}");
                    assert!(report.ok && place.sound().await, "{report:?}");
                }
                _ => {
                    assert_eq!((report.ok, report.exit_code), (false, 30));
                    assert_eq!((action.how, action.outcome), (How::Nothing, Outcome::Failed));
                    let detail = action.detail.as_deref().unwrap();
                    assert!(detail.contains("no replica has it") && detail.contains("--from"), "{detail}");
                    assert_eq!(report.remaining.len(), 1);
                    // Nothing was touched.
                    assert_eq!(std::fs::read(place.root.join(name)).unwrap(), bytes[..bytes.len() / 3]);
                    place.write(name, bytes);
                }
            }
        }
    }
}

#[tokio::test]
async fn several_parts_and_the_record_over_them_come_back_together() {
    let place = place(false).await;
    let all = files(&place.root);
    let of = |kind| all.keys().filter(move |name| ObjectKind::of(name) == kind);
    for name in of(ObjectKind::Part).take(3).chain(of(ObjectKind::VectorSet)) {
        place.write(name, b"");
    }
    std::fs::remove_file(place.root.join(of(ObjectKind::Part).nth(3).unwrap())).unwrap();
    let report = place.repair().await;
    assert!(report.ok && place.sound().await, "{report:?}");
    assert!(report.chunks_embedded > 0);
}

#[tokio::test]
async fn a_part_that_is_right_is_kept_and_every_record_over_it_is_corrected() {
    let place = place(false).await;
    let all = files(&place.root);
    // A part that both vector sets share.
    let records: Vec<&Vec<u8>> =
        all.iter().filter(|(n, _)| ObjectKind::of(n) == ObjectKind::VectorSet).map(|x| x.1).collect();
    let named = |name: &str| records.iter().filter(|r| String::from_utf8_lossy(r).contains(name)).count();
    let name = all.keys().find(|n| ObjectKind::of(n) == ObjectKind::Part && named(n) == 2).unwrap();
    let part = name.rsplit('/').next().unwrap().parse().unwrap();
    let mut rows = read_part(&part, all[name].clone().into(), &FileSeal::none()).unwrap();
    rows[0].vector[0] += 1e-7;
    let mut folders = name.split('/').skip(1).map(|digest| digest.parse().unwrap());
    let other =
        write_part(&part, &rows, 8, &folders.next().unwrap(), &folders.next().unwrap(), &FileSeal::none()).unwrap();
    place.write(name, &other);
    assert!(!place.sound().await);
    let report = place.repair().await;
    assert_eq!((report.actions[0].how, report.actions[0].hurts.len()), (How::Record, 2), "{report:?}");
    assert!(report.ok && place.sound().await);
    assert_eq!(std::fs::read(place.root.join(name)).unwrap(), other);
}

#[tokio::test]
async fn documents_that_changed_are_named_and_only_their_parts_fail() {
    let place = place(false).await;
    let all = files(&place.root);
    let parts: Vec<&String> = all.keys().filter(|n| ObjectKind::of(n) == ObjectKind::Part).collect();
    for name in &parts {
        place.write(name, b"");
    }
    std::fs::write(place.workspace.base.join("docs/7.md"), "something else").unwrap();
    let report = place.repair().await;
    let failed: Vec<&RepairAction> = report.actions.iter().filter(|a| a.outcome == Outcome::Failed).collect();
    assert!(!failed.is_empty() && failed.len() < parts.len(), "{failed:?}");
    assert!(failed.iter().any(|a| a.detail.as_deref().is_some_and(|d| d.contains("7.md"))), "{failed:?}");
    // Also a part that no snapshot's latest documents make up any more, if there is one, is computed or named.
    assert_eq!(report.remaining.len(), failed.len());
}

#[tokio::test]
async fn a_replica_of_another_repository_is_passed_over() {
    let place = place(true).await;
    let record = place.workspace.base.join("second/repository.json");
    std::fs::write(
        &record,
        format!("{{\"format\":2,\"id\":\"{}\",\"created\":\"2026-01-01T00:00:00Z\"}}", uuid::Uuid::new_v4()),
    )
    .unwrap();
    let all = files(&place.root);
    let name = all.keys().find(|n| ObjectKind::of(n) == ObjectKind::Inventory).unwrap();
    place.write(name, b"");
    let report = place.repair().await;
    assert_eq!((report.ok, report.actions[0].how), (false, How::Nothing));
}

#[tokio::test]
async fn an_encrypted_repository_is_verified_copied_and_mended_the_same_way() {
    let directory = tempfile::tempdir().unwrap();
    let mut workspace = workspace(directory.path(), &["second"]);
    workspace.pipeline.repository.encryption.key = Some("env:KEY".parse().unwrap());
    workspace.variables = std::sync::Arc::new(|_| Some("5a".repeat(32)));
    filled(&workspace).await;
    let record = directory.path().join("repository/drills/one.json");
    std::fs::remove_file(record).unwrap();
    let place = Place { root: directory.path().join("repository"), workspace, _directory: directory };
    assert!(place.sound().await);
    assert!(copy(&place.workspace, &[], &CopyOptions::default()).await.unwrap().ok);
    let all = files(&place.root);
    assert_eq!(all, files(&place.workspace.base.join("second")));
    let mut seen = BTreeSet::new();
    for (name, bytes) in &all {
        let kind = ObjectKind::of(name);
        if kind == ObjectKind::Key || !seen.insert(kind) {
            continue;
        }
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 8;
        place.write(name, if kind == ObjectKind::Repository { &bytes[..9] } else { &flipped });
        let report = place.repair().await;
        assert!(report.ok && report.damaged == 1, "{name}: {report:?}");
        assert!(place.sound().await, "{name}");
    }
    assert!(seen.len() >= 6, "{seen:?}");
    // Without the replica a part is computed again, and enciphered again.
    std::fs::remove_dir_all(place.workspace.base.join("second")).unwrap();
    let part = all.keys().find(|name| ObjectKind::of(name) == ObjectKind::Part).unwrap();
    place.write(part, b"");
    let report = place.repair().await;
    assert_eq!((report.ok, report.actions[0].how), (true, How::Compute), "{report:?}");
    assert!(place.sound().await);
}
