use std::sync::Mutex;

use futures::TryStreamExt;
use object_store::memory::InMemory;

use super::*;
use crate::error::ErrorKind;
use crate::faults::{Faults, Faulty, Operation, Rates, is_injected};
use crate::ids::Digest;
use crate::repository::Repository;

fn reliable(store: &Faulty, tries: u32) -> (Arc<Reliable>, Arc<Mutex<Vec<Duration>>>) {
    let pauses = Arc::<Mutex<Vec<Duration>>>::default();
    let noted = pauses.clone();
    let sleep: Sleep = Arc::new(move |pause| {
        noted.lock().unwrap().push(pause);
        Box::pin(std::future::ready(()))
    });
    let retries = Retries { tries, first: Duration::from_secs(1), longest: Duration::from_secs(5) };
    (Arc::new(Reliable::with_sleep(Arc::new(store.clone()), retries, sleep)), pauses)
}

fn faulty(seed: u64) -> Faulty {
    Faulty::new(Arc::new(InMemory::new()), seed)
}

fn at(n: u64) -> Path {
    Path::from(format!("a/{n:03}"))
}

fn creating() -> PutOptions {
    PutOptions { mode: PutMode::Create, ..PutOptions::default() }
}

#[tokio::test]
async fn tries_are_bounded_and_pauses_grow_to_a_limit() {
    let store = faulty(1);
    store.set(Faults { get: Rates { before: 1.0, ..Rates::default() }, ..Faults::default() });
    let (reliable, pauses) = reliable(&store, 5);
    assert!(is_injected(&reliable.get(&at(1)).await.unwrap_err()));
    assert_eq!(store.operations(), 5);
    assert_eq!(*pauses.lock().unwrap(), [1, 2, 4, 5].map(Duration::from_secs));
}

#[tokio::test]
async fn what_is_settled_is_not_tried_again() {
    let store = faulty(2);
    let (reliable, pauses) = reliable(&store, 5);
    assert!(matches!(reliable.get(&at(1)).await, Err(Error::NotFound { .. })));
    reliable.put_opts(&at(1), "x".into(), creating()).await.unwrap();
    // The same bytes, but nothing was in doubt: somebody else's.
    let again = reliable.put_opts(&at(1), "x".into(), creating()).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })));
    assert!(pauses.lock().unwrap().is_empty());
    for kind in [std::io::ErrorKind::PermissionDenied, std::io::ErrorKind::StorageFull] {
        let source = Box::new(std::io::Error::from(kind));
        assert!(!transient(&Error::Generic { store: "local", source }));
    }
}

#[tokio::test]
async fn a_write_in_doubt_counts_when_its_own_bytes_are_there() {
    // One that was done although it failed, then one that somebody else did in between.
    for (theirs, ok) in [(None, true), (Some("y"), false)] {
        let store = faulty(3);
        let rates = match theirs {
            None => Rates { after: 1.0, ..Rates::default() },
            Some(_) => Rates { before: 1.0, ..Rates::default() },
        };
        let theirs = theirs.map(PutPayload::from);
        store.set(Faults { put: rates, ..Faults::default() });
        let calm = store.clone();
        let sleep: Sleep = Arc::new(move |_| {
            let (calm, theirs) = (calm.clone(), theirs.clone());
            calm.set(Faults::default());
            Box::pin(async move {
                if let Some(theirs) = theirs {
                    calm.put(&at(1), theirs).await.unwrap();
                }
            })
        });
        let reliable = Reliable::with_sleep(Arc::new(store.clone()), Retries::default(), sleep);
        let done = reliable.put_opts(&at(1), "x".into(), creating()).await;
        assert_eq!(done.is_ok(), ok, "{done:?}");
        let there = store.get(&at(1)).await.unwrap().bytes().await.unwrap();
        assert_eq!(there, if ok { "x" } else { "y" });
    }
}

#[tokio::test]
async fn a_deletion_in_doubt_that_finds_nothing_has_done_its_work() {
    let store = faulty(4);
    let (reliable, _) = reliable(&store, 50);
    for n in 0..40 {
        reliable.put(&at(n), "x".into()).await.unwrap();
    }
    store.set(Faults { delete: Rates::errors(0.6), ..Faults::default() });
    let paths = stream::iter((0..40).map(|n| Ok(at(n)))).boxed();
    let mut gone: Vec<_> = reliable.delete_stream(paths).try_collect().await.unwrap();
    gone.sort();
    assert!(gone.iter().eq(&(0..40).map(at).collect::<Vec<_>>()));
    assert_eq!(reliable.list(None).count().await, 0);
    assert!(matches!(reliable.delete(&at(1)).await, Err(Error::NotFound { .. }) | Ok(())));
    store.set(Faults::default());
    assert!(reliable.delete(&at(1)).await.is_err() || store.get(&at(1)).await.is_err());
}

#[tokio::test]
async fn bodies_and_listings_are_continued_where_they_broke_off() {
    let store = faulty(5);
    let (reliable, _) = reliable(&store, 60);
    let bytes: Vec<u8> = (0..50_000u32).map(|n| (n % 251) as u8).collect();
    let names: Vec<_> = (0..60).map(at).collect();
    for name in &names {
        reliable.put(name, bytes.clone().into()).await.unwrap();
    }
    let short = Rates { short: 0.5, ..Rates::errors(0.1) };
    store.set(Faults { get: short, list: short, ..Faults::default() });
    for name in &names {
        assert_eq!(reliable.get(name).await.unwrap().bytes().await.unwrap(), bytes);
        let part = reliable.get_range(name, 1000..40_000).await.unwrap();
        assert_eq!(part, bytes[1000..40_000]);
    }
    let listed: Vec<_> = reliable.list(None).map_ok(|m| m.location).try_collect().await.unwrap();
    assert_eq!(listed, names);
    let later: Vec<_> = reliable.list_with_offset(None, &names[9]).map_ok(|m| m.location).try_collect().await.unwrap();
    assert_eq!(later, names[10..]);
    assert!(store.log().iter().any(|i| i.operation == Operation::List));
}

#[tokio::test]
async fn an_object_that_changes_while_it_is_read_is_not_patched_together() {
    let inner = Arc::new(InMemory::new());
    let store = Faulty::new(inner.clone(), 6);
    let sleep: Sleep = Arc::new(move |_| {
        let inner = inner.clone();
        Box::pin(async move { drop(inner.put(&at(1), vec![2; 1000].into()).await) })
    });
    let reliable = Reliable::with_sleep(Arc::new(store.clone()), Retries::default(), sleep);
    store.put(&at(1), vec![1; 1000].into()).await.unwrap();
    store.set(Faults { get: Rates { short: 1.0, ..Rates::default() }, ..Faults::default() });
    let result = reliable.get(&at(1)).await.unwrap();
    assert!(matches!(result.bytes().await, Err(Error::Precondition { .. })));
}

#[tokio::test]
async fn under_faults_of_all_kinds_a_repository_keeps_what_it_is_given() {
    for seed in 0..20 {
        let store = faulty(seed);
        let (reliable, _) = reliable(&store, 40);
        let repository = Repository::over(reliable, "memory");
        store.set(Faults { get: Rates { flipped: 0.0, ..Faults::everywhere(0.4).get }, ..Faults::everywhere(0.4) });
        let mut objects = Vec::new();
        for n in 0..30u32 {
            let bytes = Bytes::from(format!("object {n} ").repeat(50));
            objects.push((repository.put_new(&format!("objects/{n}"), bytes.clone()).await.unwrap(), bytes));
            let taken = repository.put_new(&format!("objects/{n}"), "other".into()).await.unwrap_err();
            assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
        }
        for (object, bytes) in &objects {
            assert_eq!(repository.get_checked(object).await.unwrap(), bytes);
        }
        let names: Vec<_> = repository.list("objects").try_collect().await.unwrap();
        assert_eq!(names.len(), 30);
        for n in 0..30 {
            repository.delete(&format!("objects/{n}")).await.unwrap();
        }
        store.set(Faults::default());
        assert_eq!(repository.list("objects").count().await, 0);
    }
}

#[tokio::test]
async fn wrong_bytes_are_read_once_more_before_they_count_as_damage() {
    let store = faulty(7);
    let repository = Repository::over(Arc::new(store.clone()), "memory");
    let bytes = Bytes::from_static(b"a few bytes");
    let object = repository.put_new("objects/1", bytes.clone()).await.unwrap();
    store.set(Faults { get: Rates { flipped: 0.3, ..Rates::default() }, ..Faults::default() });
    let (mut right, mut damaged) = (0, 0);
    for _ in 0..200 {
        match repository.get_checked(&object).await {
            Ok(read) => {
                assert_eq!(read, bytes);
                right += 1;
            }
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Damaged);
                damaged += 1;
            }
        }
    }
    let flipped = store.log().len();
    // Only two wrong readings in a row are damage.
    assert!(damaged > 0 && right > 140 && flipped > 2 * damaged, "{right} {damaged} {flipped}");
    store.set(Faults::default());
    store.put(&Path::from("objects/1"), "a bad bytes".into()).await.unwrap();
    let before = store.operations();
    assert_eq!(repository.get_checked(&object).await.unwrap_err().kind(), ErrorKind::Damaged);
    assert_eq!(store.operations() - before, 2);
    assert_eq!(object.digest, Digest::of(&bytes));
}
