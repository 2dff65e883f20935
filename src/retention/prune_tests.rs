use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::super::world::{HOUR, Take, World};
use super::*;
use crate::repository::Manifest;
use crate::retention::{ForgetOptions, Rule, forget};

async fn forget_all_but_last(world: &World) -> Result<u64> {
    let options = ForgetOptions { rules: vec![Rule::Last(1)], ..Default::default() };
    let report = forget(&world.repository, &options, &Events::silent(), &Cancel::default()).await?;
    Ok(report.removed.len() as u64)
}

/// Two snapshots with their vector sets, the first of which is forgotten, and litter.
async fn used() -> World {
    let world = World::new();
    let first = world.snapshot(&Take::of(&["a", "b", "c", "d", "e", "f", "g"]).at(-48)).await.unwrap();
    world.restore(&first.id).await.unwrap();
    let second = world.snapshot(&Take::of(&["a", "b", "c", "d", "e", "f", "h"])).await.unwrap();
    world.restore(&second.id).await.unwrap();
    world.litter().await;
    world
}

#[tokio::test]
async fn what_nothing_needs_goes_after_the_grace_and_nothing_else() {
    let world = used().await;
    assert_eq!(forget_all_but_last(&world).await.unwrap(), 1);
    let loose = world.loose().await;
    // Contents, two parts, one set; and of the litter what runs leave behind.
    for (prefix, count) in [
        ("inventories/", 2),
        ("canaries/", 1),
        ("skipped/", 1),
        ("captured/", 1),
        ("documents/", 2),
        ("vectors/", 2),
        ("vector-sets/", 1),
        ("snapshots/", 1),
        ("restores/", 1),
        ("drills/", 1),
    ] {
        assert_eq!(loose.iter().filter(|n| n.starts_with(prefix)).count(), count, "{prefix}: {loose:?}");
    }
    assert_eq!(loose.len(), 13);

    let before = world.store.names().await;
    let first = world.prune(24).await.unwrap();
    assert_eq!((first.ok, first.exit_code, first.snapshots), (true, 0, 1));
    assert_eq!((first.marked.objects, first.waiting.objects, first.removed.objects), (13, 13, 0));
    assert!(first.next.is_some());
    world.store.pass(23 * HOUR);
    let early = world.prune(24).await.unwrap();
    assert_eq!((early.marked.objects, early.waiting.objects, early.removed.objects), (0, 13, 0));
    // Nothing new is written about what is known.
    let marks = world.names("prunes/").await;
    assert_eq!(marks.len(), 2);
    world.store.pass(HOUR);
    let options = PruneOptions { dry_run: true, ..Default::default() };
    let planned = prune(&world.repository, &options, &Events::silent(), &Cancel::default()).await.unwrap();
    assert_eq!(planned.removed.objects, 13);
    assert_eq!(world.names("prunes/").await, marks);
    let done = world.prune(24).await.unwrap();
    assert_eq!((done.removed, done.waiting.objects, done.protected.objects), (planned.removed, 0, 0));
    let left: Vec<_> = before.iter().filter(|name| !loose.contains(name)).cloned().collect();
    assert_eq!(world.store.names().await, left, "exactly these, and no mark and no lock");
    world.check("after prune").await;
    assert_eq!(world.prune(24).await.unwrap().removed.objects, 0);
}

#[tokio::test]
async fn killed_between_any_two_operations_and_run_again() {
    let count = {
        let world = used().await;
        let before = world.store.control.operations.load(SeqCst);
        forget_all_but_last(&world).await.unwrap();
        world.prune(0).await.unwrap();
        world.prune(0).await.unwrap();
        world.store.control.operations.load(SeqCst) - before
    };
    assert!(count > 100, "{count}");
    for left in 0..=count {
        let world = used().await;
        world.store.control.operations_left.store(left as i64, SeqCst);
        let run = async {
            forget_all_but_last(&world).await?;
            world.prune(0).await?;
            world.prune(0).await
        };
        let outcome = run.await;
        world.revive();
        let why = format!("killed after {left} operations");
        let snapshots = world.check(&why).await;
        assert!(snapshots == 1 || (snapshots == 2 && outcome.is_err()), "{why}");
        forget_all_but_last(&world).await.unwrap();
        world.prune(0).await.unwrap();
        world.prune(0).await.unwrap();
        assert_eq!(world.check(&why).await, 1);
        assert_eq!(world.loose().await, Vec::<String>::new(), "{why}");
        world.store.pass(31 * 60);
        world.repository.remove_locks(false).await.unwrap();
        assert_eq!(world.names("locks/").await, Vec::<String>::new(), "{why}");
        assert_eq!(world.names("prunes/").await, Vec::<String>::new(), "{why}");
    }
}

#[tokio::test]
async fn a_snapshot_killed_anywhere_leaves_only_what_prune_removes() {
    let take = Take::of(&["a", "x", "y"]).at(1);
    for left in 0..60 {
        let world = used().await;
        world.store.control.operations_left.store(left, SeqCst);
        let taken = world.snapshot(&take).await.is_ok();
        world.revive();
        let snapshots = world.check("killed snapshot").await;
        assert!(snapshots == 3 || !taken);
        world.prune(0).await.unwrap();
        world.prune(0).await.unwrap();
        assert_eq!(world.check("pruned").await, snapshots);
        assert!(world.loose().await.is_empty());
    }
}

/// What came of a storm.
#[derive(Debug, Default, Clone, Copy)]
struct Storm {
    taken: u64,
    restored: u64,
    removed: u64,
    /// Objects that are missing from snapshots at the end.
    broken: u64,
}

/// Snapshots and restores at once with forgets and prunes, in an order that the seed gives.
async fn storm(seed: u64) -> Storm {
    let world = World::new();
    // The same few states of a corpus again and again: what one prune marks, the next snapshot relies on.
    let takes = [Take::of(&["a", "b", "c"]), Take::of(&["d", "e", "f"]), Take::of(&["g", "h"])];
    world.snapshot(&takes[0].clone().at(-1000)).await.unwrap();
    world.store.control.yields.store(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), SeqCst);
    let mut writers = Vec::new();
    for writer in 0..2i64 {
        let (world, takes) = (world.clone(), takes.clone());
        writers.push(tokio::spawn(async move {
            let mut storm = Storm::default();
            for round in 0..10i64 {
                let take = takes[((round + writer) % 3) as usize].clone().at(-900 + round * 2 + writer);
                let Ok(manifest) = world.snapshot(&take).await else { continue };
                storm.taken += 1;
                match world.restore(&manifest.id).await {
                    Ok(_) => storm.restored += 1,
                    // Another run removes, or the snapshot is forgotten already.
                    Err(e) => assert!(matches!(e.kind(), ErrorKind::Locked | ErrorKind::NotFound), "{e}"),
                }
            }
            storm
        }));
    }
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut removers = Vec::new();
    for _ in 0..2 {
        let (world, done) = (world.clone(), done.clone());
        removers.push(tokio::spawn(async move {
            let mut removed = 0;
            while !done.load(SeqCst) {
                let pruned = async {
                    forget_all_but_last(&world).await?;
                    world.prune(0).await
                };
                match pruned.await {
                    Ok(report) => removed += report.removed.objects,
                    Err(e) => assert_eq!(e.kind(), ErrorKind::Locked, "{e}"),
                }
            }
            removed
        }));
    }
    let mut storm = Storm::default();
    for writer in writers {
        let one = writer.await.unwrap();
        storm.taken += one.taken;
        storm.restored += one.restored;
    }
    done.store(true, SeqCst);
    for remover in removers {
        storm.removed += remover.await.unwrap();
    }
    world.store.control.yields.store(0, SeqCst);
    for id in Manifest::ids(&world.repository).await.unwrap() {
        let manifest = Manifest::read(&world.repository, &id).await.unwrap();
        for object in manifest.objects() {
            storm.broken += u64::from(world.repository.get_checked(object).await.is_err());
        }
    }
    world.check("after the storm").await;
    assert!(world.names("locks/").await.is_empty());
    storm
}

#[tokio::test]
async fn at_once_with_snapshots_and_restores_nothing_that_is_needed_goes() {
    let mut all = Storm::default();
    for seed in 1..60 {
        let one = storm(seed).await;
        assert_eq!(one.broken, 0, "seed {seed}: {one:?}");
        all.taken += one.taken;
        all.restored += one.restored;
        all.removed += one.removed;
    }
    assert!(all.taken > 40 && all.restored > 10 && all.removed > 40, "there was no storm: {all:?}");
}

/// What the lock is for: a snapshot that relies on contents which are there, unreferenced and long marked.
#[tokio::test]
async fn contents_that_are_relied_on_go_under_no_lock_and_stay_under_one() {
    for locked in [false, true] {
        let world = World::new();
        let take = Take::of(&["a", "b"]);
        world.snapshot(&take.clone().at(-72)).await.unwrap();
        world.snapshot(&Take::of(&["c"]).at(-48)).await.unwrap();
        forget_all_but_last(&world).await.unwrap();
        world.prune(24).await.unwrap();
        world.store.pass(25 * HOUR);
        let lock = match locked {
            true => Some(world.repository.lock(LockKind::Shared, "snapshot", &Events::silent()).await.unwrap()),
            false => None,
        };
        let manifest = world.contents(&take).await.unwrap();
        let pruned = world.prune(24).await;
        let Some(lock) = lock else {
            assert!(pruned.unwrap().removed.objects > 0);
            let object = &manifest.inventory[0];
            assert!(world.repository.get_checked(object).await.is_err(), "without a lock it went");
            continue;
        };
        assert_eq!(pruned.unwrap_err().kind(), ErrorKind::Locked);
        lock.commit(&world.repository, &manifest).await.unwrap();
        lock.release().await;
        world.prune(24).await.unwrap();
        assert_eq!(world.check("relied on").await, 2);
    }
}

/// A restore that ends after its snapshot was forgotten: its parts are marked long ago, its record is new.
#[tokio::test]
async fn a_vector_set_goes_as_a_whole() {
    let world = World::new();
    let manifest = world.snapshot(&Take::of(&["a", "b", "c"]).at(-48)).await.unwrap();
    let record = world.vector_set(&manifest).await.unwrap();
    let other = world.snapshot(&Take::of(&["d", "e", "f"])).await.unwrap();
    assert_eq!(forget_all_but_last(&world).await.unwrap(), 1);
    world.prune(24).await.unwrap();
    world.store.pass(25 * HOUR);
    record.commit(&world.repository).await.unwrap();
    // A newer set under the same model and rules, so that the first is not the newest.
    world.store.pass(60);
    world.restore(&other.id).await.unwrap();
    let parts = record.parts.len() as u64;
    let report = world.prune(24).await.unwrap();
    assert!(report.removed.objects > 0, "{report:?}");
    assert_eq!((report.waiting.objects, report.marked.objects), (parts + 1, 1), "the record, and its parts with it");
    assert!(report.next.is_some());
    world.check("the record is new").await;
    assert_eq!(world.names("vector-sets/").await.len(), 2);
    world.store.pass(25 * HOUR);
    assert_eq!(world.prune(24).await.unwrap().removed.objects, parts + 1);
    world.check("both went").await;
    assert!(world.loose().await.is_empty());
}

#[tokio::test]
async fn who_lost_the_lock_does_not_commit() {
    let world = World::new();
    world.snapshot(&Take::of(&["a"]).at(-48)).await.unwrap();
    let lock = world.repository.lock(LockKind::Shared, "snapshot", &Events::silent()).await.unwrap();
    let manifest = world.contents(&Take::of(&["b", "c"])).await.unwrap();
    // A machine that sleeps for two days; meanwhile others prune twice.
    world.prune(24).await.unwrap();
    world.store.pass(48 * HOUR);
    assert!(world.prune(24).await.unwrap().removed.objects > 0);
    assert_eq!(lock.commit(&world.repository, &manifest).await.unwrap_err().kind(), ErrorKind::Locked);
    assert_eq!(world.check("after the sleep").await, 1);
}

#[tokio::test]
async fn a_manifest_is_taken_back_when_the_lock_was_lost_while_it_was_written() {
    let world = World::new();
    let lock = world.repository.lock(LockKind::Shared, "snapshot", &Events::silent()).await.unwrap();
    let manifest = world.contents(&Take::of(&["b", "c"])).await.unwrap();
    // The machine sleeps just as the manifest is sent: at any of the operations of the commit.
    let mut taken_back = 0;
    world.store.control.yields.store(7, SeqCst);
    for i in 0..200 {
        let lock = world.repository.lock(LockKind::Shared, "snapshot", &Events::silent()).await.unwrap();
        let created = manifest.created + SignedDuration::from_secs(i);
        let manifest = Manifest { id: crate::ids::timed_id(created), created, ..manifest.clone() };
        let sleeper = {
            let world = world.clone();
            tokio::spawn(async move {
                let before = world.names("snapshots/").await.len();
                while world.names("snapshots/").await.len() == before {
                    tokio::task::yield_now().await;
                }
                world.store.pass(2 * HOUR);
            })
        };
        let outcome = lock.commit(&world.repository, &manifest).await;
        sleeper.abort();
        let there = Manifest::read(&world.repository, &manifest.id).await.is_ok();
        assert_eq!(there, outcome.is_ok());
        taken_back += usize::from(!there);
        lock.release().await;
    }
    assert!(taken_back > 0, "never in between");
    lock.release().await;
}

#[tokio::test]
async fn while_others_work_prune_marks_and_does_not_remove() {
    let world = used().await;
    world.prune(0).await.unwrap();
    forget_all_but_last(&world).await.unwrap();
    let lock = world.repository.lock(LockKind::Shared, "restore", &Events::silent()).await.unwrap();
    let before = world.loose().await;
    let e = world.prune(0).await.unwrap_err();
    assert_eq!((e.kind(), e.context_value("purpose")), (ErrorKind::Locked, Some("restore")));
    assert_eq!(world.loose().await, before);
    lock.still_held().await.unwrap();
    lock.release().await;
    // All of it was marked meanwhile.
    assert_eq!(world.prune(0).await.unwrap().removed.objects, before.len() as u64);
}

#[tokio::test]
async fn what_was_written_anew_or_needed_in_between_waits_anew() {
    let world = used().await;
    world.prune(24).await.unwrap();
    world.store.pass(25 * HOUR);
    world.repository.delete("documents/orphan.pack").await.unwrap();
    world.repository.put_new("documents/orphan.pack", bytes::Bytes::from_static(b"litter")).await.unwrap();
    let report = world.prune(24).await.unwrap();
    assert!(report.removed.objects > 0);
    assert_eq!((report.marked.objects, report.waiting.objects), (1, 1));
    assert_eq!(world.loose().await, ["documents/orphan.pack"]);
    world.store.pass(25 * HOUR);
    assert_eq!(world.prune(24).await.unwrap().removed.objects, 1);
}

#[tokio::test]
async fn a_damaged_mark_only_makes_everything_wait_longer() {
    let world = used().await;
    world.prune(24).await.unwrap();
    world.store.pass(25 * HOUR);
    for name in world.names("prunes/").await {
        world.store.damage(&name, b"{").await;
    }
    let report = world.prune(24).await.unwrap();
    assert!(report.removed.objects == 0 && report.marked.objects > 0);
    world.store.pass(25 * HOUR);
    assert_eq!(world.prune(24).await.unwrap().removed.objects, report.marked.objects);
}

#[tokio::test]
async fn what_the_store_protects_is_counted_and_not_tried_for_ever() {
    let world = World::new();
    for i in 0..300 {
        let name = format!("documents/orphan-{i}.pack");
        world.repository.put_new(&name, bytes::Bytes::from_static(b"x")).await.unwrap();
    }
    world.snapshot(&Take::of(&["a"])).await.unwrap();
    world.store.control.no_delete.store(true, SeqCst);
    world.prune(0).await.unwrap();
    let before = world.store.control.operations.load(SeqCst);
    let report = world.prune(0).await.unwrap();
    assert_eq!((report.exit_code, report.protected.objects, report.removed.objects), (0, 300, 0));
    let operations = world.store.control.operations.load(SeqCst) - before;
    assert!(operations < 150, "{operations} operations");
    assert_eq!(world.loose().await.len(), 300);
    // Once it lets them go, they go at once: they were marked all the time.
    world.store.control.no_delete.store(false, SeqCst);
    assert_eq!(world.prune(0).await.unwrap().removed.objects, 300);
    world.check("after protection").await;
}

#[tokio::test]
async fn nothing_goes_that_an_unreadable_manifest_may_need() {
    let newer =
        br#"{"digest":"0000000000000000000000000000000000000000000000000000000000000000","manifest":{"format":99}}"#;
    for bytes in [b"{".as_slice(), newer] {
        let world = used().await;
        let victim = Manifest::ids(&world.repository).await.unwrap().remove(0);
        let name = format!("snapshots/{victim}/manifest.json");
        world.store.damage(&name, bytes.to_vec().leak()).await;
        let before = world.store.names().await;
        world.prune(0).await.unwrap();
        let report = world.prune(0).await.unwrap();
        assert!(!report.ok && report.exit_code == 1);
        assert!(report.refused[0].contains(&victim), "{:?}", report.refused);
        let after = world.store.names().await;
        let gone: Vec<_> = before.iter().filter(|n| !after.contains(n)).map(|n| n.split('/').next().unwrap()).collect();
        // An uncommitted snapshot, receipts and a drill's parts: no manifest needs these.
        assert_eq!(gone, ["drills", "restores", "snapshots"]);
    }
}

#[tokio::test]
async fn vectors_stay_when_a_record_or_an_inventory_cannot_be_read() {
    let world = used().await;
    forget_all_but_last(&world).await.unwrap();
    let record = world.names("vector-sets/").await.remove(0);
    world.store.damage(&record, b"{").await;
    world.prune(0).await.unwrap();
    let vectors = world.names("vectors/").await;
    let report = world.prune(0).await.unwrap();
    assert!(!report.ok && report.refused[0].contains("vector set"));
    assert_eq!(world.names("vectors/").await, vectors);
    assert!(world.names(&record).await.len() == 1, "the record itself is not removed either");
    assert!(report.removed.objects > 0, "contents of the forgotten snapshot go");

    let world = used().await;
    forget_all_but_last(&world).await.unwrap();
    let id = Manifest::ids(&world.repository).await.unwrap().remove(0);
    let manifest = Manifest::read(&world.repository, &id).await.unwrap();
    world.store.lose(&manifest.inventory[0].path).await;
    let (vectors, sets) = (world.names("vectors/").await, world.names("vector-sets/").await);
    world.prune(0).await.unwrap();
    let report = world.prune(0).await.unwrap();
    assert!(!report.ok && report.refused[0].contains("inventory"), "{:?}", report.refused);
    assert_eq!((world.names("vectors/").await, world.names("vector-sets/").await), (vectors, sets));
}

#[tokio::test]
async fn the_newest_vectors_of_a_model_that_is_used_stay_for_reuse() {
    let world = World::new();
    let old = world.snapshot(&Take::of(&["a", "b"]).at(-72)).await.unwrap();
    world.restore(&old.id).await.unwrap();
    let other = world.snapshot(&Take { model: "gone", ..Take::of(&["a", "b"]).at(-60) }).await.unwrap();
    world.restore(&other.id).await.unwrap();
    let newer = world.snapshot(&Take::of(&["a", "c"]).at(-48)).await.unwrap();
    let set = world.restore(&newer.id).await.unwrap();
    // Never restored: its vectors come from what is there.
    world.snapshot(&Take::of(&["a", "d"])).await.unwrap();
    forget_all_but_last(&world).await.unwrap();
    world.prune(0).await.unwrap();
    world.prune(0).await.unwrap();
    assert_eq!(world.names("vector-sets/").await, [format!("vector-sets/{set}.json")]);
    assert_eq!(world.names("vectors/").await.len(), 2);
    world.check("after prune").await;
}

#[tokio::test]
async fn nothing_is_marked_where_nothing_can_be_written_but_a_dry_run_counts() {
    let world = used().await;
    world.store.control.read_only.store(true, SeqCst);
    assert!(refused(&world.prune(0).await.unwrap_err()));
    let options = PruneOptions { dry_run: true, ..Default::default() };
    let report = prune(&world.repository, &options, &Events::silent(), &Cancel::default()).await.unwrap();
    assert!(report.marked.objects > 0);
}

#[tokio::test]
async fn an_unreachable_store_is_an_error_and_never_an_empty_repository() {
    let world = used().await;
    world.prune(0).await.unwrap();
    for left in 0..40 {
        world.store.control.operations_left.store(left, SeqCst);
        assert!(world.prune(0).await.is_err());
        world.revive();
        assert_eq!(world.check("unreachable").await, 2);
    }
}

#[tokio::test]
async fn a_mark_of_many_objects_is_read_back_whole() {
    let world = World::new();
    let writer_repository = Arc::new(world.repository.clone());
    let mut writer = MarkWriter::new(&writer_repository);
    let modified: Timestamp = "2031-01-01T00:00:00Z".parse().unwrap();
    for i in 0..45_000u64 {
        let since = (i % 2 == 0).then_some(modified);
        writer.push(format!("documents/{i}.pack"), i, modified, since).await.unwrap();
    }
    let id = writer.finish().await.unwrap().unwrap();
    assert_eq!(world.names("prunes/").await.len(), 4);
    let marks = Marks::newest(&world.repository, &Events::silent()).await.unwrap();
    assert_eq!((marks.id(), marks.len()), (Some(id.as_str()), 45_000));
    assert_eq!(marks.since("documents/44444.pack", modified), Some(modified));
    assert!(marks.since("documents/44443.pack", modified).unwrap() > modified);
    assert_eq!(marks.since("documents/44444.pack", modified + SignedDuration::from_secs(1)), None);
    assert_eq!(marks.since("documents/45000.pack", modified), None);
}
