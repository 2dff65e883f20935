use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;

use super::*;
use crate::copy::tests::{Shaky, contents, filled, load, overwrite, workspace};

async fn repository() -> (Arc<InMemory>, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let workspace = workspace(directory.path(), &[]);
    let ids = filled(&workspace).await;
    (load(&directory.path().join("repository")).await, ids)
}

async fn look(store: &Arc<InMemory>, options: VerifyOptions) -> VerifyReport {
    let repository = Repository::over(store.clone(), "memory");
    verify(&repository, &options, &Events::silent(), &Cancel::default()).await.unwrap()
}

fn quick() -> VerifyOptions {
    VerifyOptions { quick: true, ..VerifyOptions::default() }
}

#[tokio::test]
async fn a_whole_repository_is_read_whole() {
    let (store, ids) = repository().await;
    let report = look(&store, VerifyOptions::default()).await;
    assert!(report.ok, "{:?}", report.damaged);
    assert_eq!((report.level, report.snapshots, report.vector_sets), (Level::Full, 2, 2));
    assert_eq!((report.objects_read, report.bytes_read), (report.objects, report.bytes));
    assert_eq!((report.orphans.objects, report.foreign.objects), (0, 0));
    let fast = look(&store, quick()).await;
    assert_eq!((fast.ok, fast.bytes_read, fast.objects, fast.bytes), (true, 0, report.objects, report.bytes));
    let one = look(&store, VerifyOptions { snapshot: Some(ids[0].clone()), ..VerifyOptions::default() }).await;
    assert_eq!((one.ok, one.snapshots, one.vector_sets), (true, 1, 1));
    assert!(one.objects < report.objects, "{} {}", one.objects, report.objects);
}

/// Every object, damaged in every way: it is named, with what it hurts.
#[tokio::test]
async fn every_damage_to_every_object_is_named() {
    let (store, _) = repository().await;
    let all = contents(store.as_ref()).await;
    let mut seen: BTreeMap<ObjectKind, u32> = BTreeMap::new();
    for (name, bytes) in &all {
        let kind = ObjectKind::of(name);
        let sealed = !matches!(kind, ObjectKind::Repository | ObjectKind::Drill);
        let mut flipped = bytes.to_vec();
        flipped[bytes.len() / 2] ^= 8;
        let other = all.iter().find(|(other, _)| *other != name && ObjectKind::of(other) == kind);
        let cases = [
            ("empty", Some(Bytes::new()), false),
            ("truncated", Some(bytes.slice(..bytes.len() / 2)), false),
            // Records that are not sealed may be changed in ways that mean nothing.
            ("flipped", sealed.then(|| flipped.into()), true),
            ("another's", other.map(|(_, bytes)| bytes.clone()), true),
        ];
        for (case, damage, may_fit) in cases {
            let Some(damage) = damage else { continue };
            if damage == *bytes || (case == "another's" && kind == ObjectKind::Drill) {
                continue;
            }
            let same_size = damage.len() == bytes.len();
            overwrite(store.as_ref(), name, damage).await;
            let report = look(&store, VerifyOptions::default()).await;
            assert_eq!((report.ok, report.exit_code), (false, 30), "{name} {case}");
            let found: Vec<_> = report.damaged.iter().map(|d| d.object.as_str()).collect();
            assert_eq!(found, [name.as_str()], "{case}");
            let found = &report.damaged[0];
            assert_eq!((found.kind, found.derivable), (kind, kind.derivable()));
            assert!(!found.hurts.is_empty() && !found.problem.is_empty(), "{found:?}");
            // Names and sizes say the same, as far as they can.
            let unsized_record = matches!(kind, ObjectKind::Repository | ObjectKind::Drill);
            if !(unsized_record || may_fit && same_size) {
                assert!(!look(&store, quick()).await.ok, "{name} {case}");
            }
            *seen.entry(kind).or_default() += 1;
        }
        store.delete(&Path::from(name.as_str())).await.unwrap();
        let report = look(&store, VerifyOptions::default()).await;
        // Without a commit record there is nothing that could be damaged.
        let unseen =
            matches!(kind, ObjectKind::Manifest | ObjectKind::VectorSet | ObjectKind::Drill | ObjectKind::Repository);
        assert_eq!(report.ok, unseen, "{name}");
        if !unseen {
            assert_eq!((report.damaged[0].object.as_str(), report.damaged[0].what), (name.as_str(), Problem::Missing));
            assert_eq!(look(&store, quick()).await.damaged[0].what, Problem::Missing);
        }
        overwrite(store.as_ref(), name, bytes.clone()).await;
    }
    assert!(seen.len() >= 7 && seen.values().all(|n| *n >= 2), "{seen:?}");
    assert!(look(&store, VerifyOptions::default()).await.ok);
}

#[tokio::test]
async fn an_object_that_the_store_does_not_give_is_a_finding() {
    let (store, _) = repository().await;
    let all = contents(store.as_ref()).await;
    for kind in [ObjectKind::Part, ObjectKind::Inventory, ObjectKind::Manifest, ObjectKind::VectorSet] {
        let name = all.keys().find(|name| ObjectKind::of(name) == kind).unwrap();
        let shaky = Shaky::over(store.clone());
        shaky.deny(name);
        let repository = Repository::over(Arc::new(shaky), "memory");
        let found = verify(&repository, &VerifyOptions::default(), &Events::silent(), &Cancel::default()).await;
        let found = found.unwrap().damaged;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((&found[0].object, found[0].what), (name, Problem::Unreadable));
    }
}

#[tokio::test]
async fn groups_find_what_is_damaged_once_and_a_seed_chooses_the_same_again() {
    let (store, _) = repository().await;
    let all = contents(store.as_ref()).await;
    let name = all.keys().find(|name| ObjectKind::of(name) == ObjectKind::Part).unwrap();
    let mut bytes = all[name].to_vec();
    bytes[99] ^= 1;
    overwrite(store.as_ref(), name, bytes).await;
    let (mut found, mut read) = (0, 0);
    for n in 1..=3 {
        let subset = Some(Subset::Group { n, of: 3 });
        let report = look(&store, VerifyOptions { subset, ..VerifyOptions::default() }).await;
        assert_eq!((report.level, report.seed), (Level::Subset, None));
        found += report.damaged.len();
        read += report.objects_read;
    }
    assert_eq!(found, 1);
    assert_eq!(read, look(&store, VerifyOptions::default()).await.objects_read);

    let subset = Some(Subset::Share(0.4));
    let first = look(&store, VerifyOptions { subset, ..VerifyOptions::default() }).await;
    let again = look(&store, VerifyOptions { subset, seed: first.seed, ..VerifyOptions::default() }).await;
    assert!(first.seed.is_some() && first.objects_read > 0 && first.objects_read < first.objects);
    assert_eq!((first.objects_read, first.damaged), (again.objects_read, again.damaged));
}

#[tokio::test]
async fn what_nothing_needs_is_counted_and_no_damage() {
    let (store, ids) = repository().await;
    let forgotten = path::manifest(&ids[1]);
    store.delete(&Path::from(forgotten.as_str())).await.unwrap();
    overwrite(store.as_ref(), "notes.txt", Bytes::from_static(b"mine")).await;
    let report = look(&store, VerifyOptions::default()).await;
    assert!(report.ok, "{:?}", report.damaged);
    // Its inventory and perhaps its canaries; its vector set has a record of its own.
    assert!((1..=2).contains(&report.orphans.objects), "{:?}", report.orphans);
    assert_eq!((report.foreign.objects, report.foreign.bytes), (1, 4));
}
