use std::sync::atomic::Ordering::SeqCst;

use super::super::world::{HOUR, Take, World};
use super::*;
use crate::repository::Manifest;
use crate::retention::Interval;

async fn by_ids(world: &World, ids: &[&str], force_last: bool) -> Result<ForgetReport> {
    let ids = ids.iter().map(|id| (*id).to_owned()).collect();
    let options = ForgetOptions { ids, force_last, ..Default::default() };
    forget(&world.repository, &options, &Events::silent(), &Cancel::default()).await
}

async fn by_rules(world: &World, rules: Vec<Rule>, dry_run: bool) -> Result<ForgetReport> {
    let options = ForgetOptions { rules, dry_run, ..Default::default() };
    forget(&world.repository, &options, &Events::silent(), &Cancel::default()).await
}

async fn ids(world: &World) -> Vec<String> {
    Manifest::ids(&world.repository).await.unwrap()
}

#[tokio::test]
async fn rules_remove_manifests_and_nothing_else_and_count_by_the_stores_clock() {
    let world = World::new();
    for day in 0..10 {
        world.snapshot(&Take::of(&["a", "b"]).at(-24 * day)).await.unwrap();
    }
    let objects = world.store.names().await.len();
    let rules = || vec![Rule::Every(Interval::Daily, 3)];
    let planned = by_rules(&world, rules(), true).await.unwrap();
    assert_eq!((planned.kept.len(), planned.removed.len(), ids(&world).await.len()), (3, 7, 10));
    let done = by_rules(&world, rules(), false).await.unwrap();
    assert_eq!(done.rules, ["daily 3"]);
    assert!(done.kept.iter().all(|k| k.reasons.contains(&"daily 3".to_owned())));
    assert_eq!(done.kept.last().unwrap().reasons, ["daily 3", "last good one"]);
    assert_eq!(ids(&world).await, done.kept.iter().map(|k| k.id.clone()).collect::<Vec<_>>());
    assert_eq!(world.store.names().await.len(), objects - 7);
    // The same again: nothing.
    assert!(by_rules(&world, rules(), false).await.unwrap().removed.is_empty());
    // All are years in this machine's future, and none in the store's.
    assert!(done.kept.iter().all(|k| k.suspicious.is_none()));
    world.store.pass(400 * 24 * HOUR);
    let last = by_rules(&world, vec![Rule::Within(SignedDuration::from_hours(24))], false).await.unwrap();
    assert_eq!((last.kept.len(), last.removed.len()), (1, 2));
    assert_eq!(last.kept[0].reasons, ["last good one"]);
    world.check("after forget").await;
}

#[tokio::test]
async fn without_rules_nothing_is_removed() {
    let world = World::new();
    world.snapshot(&Take::of(&["a"])).await.unwrap();
    let e = by_rules(&world, Vec::new(), false).await.unwrap_err();
    assert_eq!((e.kind(), e.exit_code()), (ErrorKind::Configuration, 2));
}

#[tokio::test]
async fn a_snapshot_that_lost_an_object_is_not_the_last_good_one() {
    let world = World::new();
    let good = world.snapshot(&Take::of(&["a"]).at(-48)).await.unwrap();
    let broken = world.snapshot(&Take::of(&["b"]).at(-24)).await.unwrap();
    let short = world.snapshot(&Take::of(&["c"])).await.unwrap();
    world.store.lose(&broken.canaries.path).await;
    world.store.damage(&short.inventory[0].path, b"short").await;
    let report = by_rules(&world, vec![Rule::Last(1)], false).await.unwrap();
    let kept: Vec<_> = report.kept.iter().map(|k| k.id.as_str()).collect();
    // The newest as the rule says; the last good one whatever it says; and what the rule says of the ordinary ones.
    assert_eq!(kept, [good.id.as_str(), short.id.as_str()]);
    assert!(report.kept[1].suspicious.as_ref().unwrap().contains("not everything"));
    // By name: the last good one of the pipeline stays unless it is meant.
    assert_eq!(by_ids(&world, &[&good.id], false).await.unwrap_err().kind(), ErrorKind::Configuration);
    assert_eq!(by_ids(&world, &[&good.id], true).await.unwrap().removed.len(), 1);
}

#[tokio::test]
async fn by_id_or_the_beginning_of_one() {
    let world = World::new();
    let first = world.snapshot(&Take::of(&["a"]).at(-48)).await.unwrap();
    let second = world.snapshot(&Take::of(&["b"])).await.unwrap();
    let other = world.snapshot(&Take { pipeline: "other", ..Take::of(&["c"]).at(-1) }).await.unwrap();
    for (wanted, kind) in [("1999", ErrorKind::NotFound), ("2031", ErrorKind::Configuration)] {
        assert_eq!(by_ids(&world, &[wanted], false).await.unwrap_err().kind(), kind);
    }
    // Each pipeline has a last one, and naming all of them at once does not help.
    for wanted in [vec![other.id.as_str()], vec![&first.id, &second.id], vec![&first.id, &other.id]] {
        assert_eq!(by_ids(&world, &wanted, false).await.unwrap_err().kind(), ErrorKind::Configuration);
    }
    assert_eq!(ids(&world).await.len(), 3);
    let report = by_ids(&world, &[&first.id[..10]], false).await.unwrap();
    assert_eq!(report.removed[0].id, first.id);
    assert_eq!(ids(&world).await, [other.id, second.id]);
}

#[tokio::test]
async fn unreadable_manifests_are_named_and_go_by_their_whole_id_only() {
    let world = World::new();
    let damaged = world.snapshot(&Take::of(&["a"]).at(-48)).await.unwrap().id;
    world.snapshot(&Take::of(&["b"])).await.unwrap();
    world.store.damage(&path::manifest(&damaged), b"{").await;
    let report = by_rules(&world, vec![Rule::Last(1)], false).await.unwrap();
    assert_eq!(report.unreadable[0].id, damaged);
    assert!(report.removed.is_empty());
    assert_eq!(by_ids(&world, &[&damaged[..12]], false).await.unwrap_err().kind(), ErrorKind::Configuration);
    // Written by a newer version: not for this one to remove.
    let newer =
        br#"{"digest":"0000000000000000000000000000000000000000000000000000000000000000","manifest":{"format":99}}"#;
    world.store.damage(&path::manifest(&damaged), newer).await;
    assert_eq!(by_ids(&world, &[&damaged], false).await.unwrap_err().kind(), ErrorKind::Configuration);
    world.store.damage(&path::manifest(&damaged), b"{").await;
    assert_eq!(by_ids(&world, &[&damaged], false).await.unwrap().removed.len(), 1);
    assert_eq!(ids(&world).await.len(), 1);
}

#[tokio::test]
async fn what_the_store_protects_stays_and_is_told() {
    let world = World::new();
    for day in 0..4 {
        world.snapshot(&Take::of(&["a"]).at(-24 * day)).await.unwrap();
    }
    world.store.control.no_delete.store(true, SeqCst);
    let report = by_rules(&world, vec![Rule::Last(1)], false).await.unwrap();
    assert_eq!((report.exit_code, report.removed.len()), (0, 3));
    assert!(report.removed.iter().all(|r| r.protected));
    assert_eq!(ids(&world).await.len(), 4);
    // Its lock is in nobody's way although it could not be removed.
    world.store.control.no_delete.store(false, SeqCst);
    assert!(by_rules(&world, vec![Rule::Last(1)], false).await.unwrap().removed.iter().all(|r| !r.protected));
}

#[tokio::test]
async fn two_at_once_never_remove_the_last_good_one_together() {
    for seed in 1..40u64 {
        let world = World::new();
        let first = world.snapshot(&Take::of(&["a"]).at(-48)).await.unwrap().id;
        let second = world.snapshot(&Take::of(&["b"])).await.unwrap().id;
        world.store.control.yields.store(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), SeqCst);
        let run = |id: String| {
            let world = world.clone();
            tokio::spawn(async move { by_ids(&world, &[&id], false).await.map(drop).map_err(|e| e.kind()) })
        };
        let (a, b) = (run(first), run(second));
        let outcomes = [a.await.unwrap(), b.await.unwrap()];
        assert!(!ids(&world).await.is_empty(), "seed {seed}: {outcomes:?}");
    }
}
