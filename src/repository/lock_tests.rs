use std::sync::Arc;

use super::*;
use crate::repository::test_store::TestStore;
use std::sync::atomic::Ordering::SeqCst;

/// Hours away from this machine's clock, so that whatever looks at the wrong one fails.
fn store() -> (TestStore, Repository) {
    let store = TestStore::new("2031-05-05T05:05:05Z".parse().unwrap());
    let repository = Repository::over(Arc::new(store.clone()), "test");
    (store, repository)
}

async fn take(repository: &Repository, kind: LockKind) -> Result<Lock> {
    repository.lock(kind, "test run", &Events::silent()).await
}

async fn locks(store: &TestStore) -> Vec<String> {
    store.names().await.into_iter().filter(|n| n.starts_with("locks/")).collect()
}

const KINDS: [LockKind; 3] = [LockKind::Shared, LockKind::Maintenance, LockKind::Exclusive];

#[tokio::test]
async fn kinds_exclude_each_other_as_said_and_release_makes_room() {
    for first in KINDS {
        for second in KINDS {
            let (store, repository) = store();
            let held = take(&repository, first).await.unwrap();
            let other = take(&repository, second).await;
            assert_eq!(other.is_err(), first.excludes(second), "{first:?} {second:?}");
            assert_eq!(first.excludes(second), second.excludes(first));
            match other {
                Ok(other) => other.release().await,
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Locked);
                    assert!(e.retryable());
                    assert_eq!(e.context_value("purpose"), Some("test run"));
                    assert!(e.next_step().unwrap().contains("unlock"));
                }
            }
            held.still_held().await.unwrap();
            held.release().await;
            assert_eq!(locks(&store).await, Vec::<String>::new());
            take(&repository, second).await.unwrap().release().await;
        }
    }
}

#[tokio::test]
async fn only_without_a_sign_of_life_by_the_stores_clock_is_a_lock_stale() {
    let (store, repository) = store();
    let held = take(&repository, LockKind::Exclusive).await.unwrap();
    store.pass(29 * 60);
    assert_eq!(take(&repository, LockKind::Shared).await.unwrap_err().kind(), ErrorKind::Locked);
    // A sign of life.
    held.still_held().await.unwrap();
    store.pass(29 * 60);
    assert_eq!(take(&repository, LockKind::Shared).await.unwrap_err().kind(), ErrorKind::Locked);
    store.pass(2 * 60);
    let shared = take(&repository, LockKind::Shared).await.unwrap();
    // Who was ignored notices it before it commits, and stays lost.
    assert_eq!(held.still_held().await.unwrap_err().kind(), ErrorKind::Locked);
    assert_eq!(held.still_held().await.unwrap_err().kind(), ErrorKind::Locked);
    shared.still_held().await.unwrap();
    held.release().await;
    shared.release().await;
    assert_eq!(locks(&store).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_removed_lock_is_noticed() {
    let (store, repository) = store();
    let held = take(&repository, LockKind::Shared).await.unwrap();
    let report = repository.remove_locks(false).await.unwrap();
    assert_eq!((report.removed.len(), report.kept.len()), (0, 1));
    assert_eq!(report.kept[0].pid, std::process::id());
    held.still_held().await.unwrap();
    let report = repository.remove_locks(true).await.unwrap();
    assert_eq!((report.removed.len(), report.kept.len()), (1, 0));
    assert_eq!(locks(&store).await, Vec::<String>::new());
    assert_eq!(held.still_held().await.unwrap_err().kind(), ErrorKind::Locked);
}

#[tokio::test]
async fn where_nothing_can_be_deleted_a_released_lock_is_in_nobodys_way() {
    let (store, repository) = store();
    store.control.no_delete.store(true, SeqCst);
    let held = take(&repository, LockKind::Exclusive).await.unwrap();
    held.still_held().await.unwrap();
    held.still_held().await.unwrap();
    assert!(take(&repository, LockKind::Shared).await.is_err());
    held.release().await;
    // Three objects and the note that they are released stay; none is in the way.
    assert!(locks(&store).await.len() > 3);
    let next = take(&repository, LockKind::Exclusive).await.unwrap();
    next.still_held().await.unwrap();
    let report = repository.remove_locks(true).await.unwrap();
    assert!(report.protected > 0);
    assert_eq!(next.still_held().await.unwrap_err().kind(), ErrorKind::Locked);
    take(&repository, LockKind::Exclusive).await.unwrap();
}

#[tokio::test]
async fn readers_do_without_a_lock_where_nothing_can_be_written() {
    let (store, repository) = store();
    store.control.read_only.store(true, SeqCst);
    let lock = repository.lock_to_read("restore", &Events::silent()).await.unwrap();
    assert!(lock.inner.record.is_none());
    lock.still_held().await.unwrap();
    lock.release().await;
    assert!(take(&repository, LockKind::Shared).await.is_err());
    assert!(locks(&store).await.is_empty());
}

#[tokio::test]
async fn unreadable_locks_exclude_until_they_are_stale() {
    let (store, repository) = store();
    let held = take(&repository, LockKind::Shared).await.unwrap();
    let name = locks(&store).await.remove(0);
    Box::leak(Box::new(held));
    store.damage(&name, b"{ not a lock").await;
    let e = take(&repository, LockKind::Shared).await.unwrap_err();
    assert_eq!((e.kind(), e.context_value("purpose")), (ErrorKind::Locked, Some("unreadable")));
    store.pass(31 * 60);
    take(&repository, LockKind::Shared).await.unwrap();
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn the_lock_of_a_process_that_has_ended_is_ignored_at_once() {
    let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let own = process::own().unwrap();
    let mut fields: Vec<&str> = own.rsplitn(3, ' ').collect();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let started = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().to_owned();
    let pid = child.id().to_string();
    (fields[0], fields[1]) = (&started, &pid);
    let recorded = fields.iter().rev().copied().collect::<Vec<_>>().join(" ");
    assert!(!process::has_ended(&own));
    assert!(!process::has_ended(&recorded), "{recorded}");
    // The same number, another process.
    assert!(process::has_ended(&format!("{recorded}1")));
    assert!(!process::has_ended("another machine 1 1"));
    assert!(!process::has_ended("nonsense"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(process::has_ended(&recorded), "{recorded}");

    let (store, repository) = store();
    let holder = Uuid::new_v4();
    let lock = take(&repository, LockKind::Exclusive).await.unwrap();
    let record = LockRecord { process: Some(recorded), ..lock.inner.record.clone().unwrap() };
    lock.release().await;
    repository.put_json(&object_name(holder), &record).await.unwrap();
    let report = repository.remove_locks(false).await.unwrap();
    assert_eq!((report.removed.len(), report.kept.len()), (1, 0));
    repository.put_json(&object_name(holder), &record).await.unwrap();
    take(&repository, LockKind::Exclusive).await.unwrap().release().await;
    assert!(locks(&store).await.is_empty(), "whoever comes next removes it");
}

#[tokio::test]
async fn two_that_exclude_each_other_never_both_go_on() {
    for seed in 1..150 {
        let (store, repository) = store();
        store.control.yields.store(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15), SeqCst);
        let inside = Arc::new(std::sync::Mutex::new((0, 0)));
        let run = |kind: LockKind| {
            let (repository, inside) = (repository.clone(), inside.clone());
            tokio::spawn(async move {
                let Ok(lock) = take(&repository, kind).await else { return };
                {
                    let mut inside = inside.lock().unwrap();
                    if kind == LockKind::Shared {
                        inside.0 += 1
                    } else {
                        inside.1 += 1
                    }
                    assert!(inside.1 == 0 || *inside == (0, 1), "seed {seed}: {inside:?}");
                }
                for _ in 0..5 {
                    tokio::task::yield_now().await;
                }
                lock.still_held().await.unwrap();
                {
                    let mut inside = inside.lock().unwrap();
                    if kind == LockKind::Shared { inside.0 -= 1 } else { inside.1 -= 1 }
                }
                lock.release().await;
            })
        };
        let runs = [LockKind::Shared, LockKind::Exclusive, LockKind::Shared, LockKind::Exclusive].map(run);
        for run in runs {
            run.await.unwrap();
        }
        assert!(locks(&store).await.is_empty());
    }
}

#[tokio::test]
async fn waiting_gets_the_lock_when_the_other_ends_and_stops_when_asked() {
    let (_, repository) = store();
    let cancel = Cancel::default();
    let patient = repository.clone().with_locking(Locking {
        wait: Duration::from_secs(600),
        cancel: cancel.clone(),
        ..Locking::default()
    });
    let held = take(&repository, LockKind::Exclusive).await.unwrap();
    let waiting = tokio::spawn({
        let patient = patient.clone();
        async move { take(&patient, LockKind::Shared).await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!waiting.is_finished());
    held.release().await;
    let shared = waiting.await.unwrap().unwrap();
    let waiting = tokio::spawn(async move { take(&patient, LockKind::Exclusive).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    cancel.cancel();
    assert_eq!(waiting.await.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    shared.release().await;
}

#[tokio::test]
async fn a_lock_that_is_held_for_hours_stays_alive_by_itself() {
    let (store, repository) = store();
    let repository = repository.with_locking(Locking { refresh: Duration::from_millis(1), ..Locking::default() });
    let held = take(&repository, LockKind::Exclusive).await.unwrap();
    for _ in 0..30 {
        store.pass(360);
        let before = held.inner.held.lock().await.name();
        while held.inner.held.lock().await.name() == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(take(&repository, LockKind::Shared).await.is_err());
    }
    held.still_held().await.unwrap();
    held.release().await;
    assert!(locks(&store).await.is_empty());
}

impl Held {
    fn name(&self) -> Option<String> {
        if let Self::Object(name, _) = self { Some(name.clone()) } else { None }
    }
}

#[tokio::test]
async fn dropped_locks_are_released() {
    let (store, repository) = store();
    drop(take(&repository, LockKind::Exclusive).await.unwrap());
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(locks(&store).await.is_empty());
}
