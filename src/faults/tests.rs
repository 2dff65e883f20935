use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::{ObjectStoreExt, PutPayload};

use super::*;

fn faulty(seed: u64) -> (Faulty, Arc<InMemory>) {
    let inner = Arc::new(InMemory::new());
    (Faulty::new(inner.clone(), seed), inner)
}

fn at(n: usize) -> Path {
    Path::from(format!("a/{n}"))
}

/// What a fixed sequence of operations comes to.
async fn history(seed: u64) -> Vec<Injected> {
    let (store, _) = faulty(seed);
    store.set(Faults::everywhere(0.3));
    for n in 0..200 {
        drop(store.put(&at(n % 20), PutPayload::from(vec![7; 100])).await);
        if let Ok(result) = store.get(&at(n % 20)).await {
            drop(result.bytes().await);
        }
        drop(store.list(None).collect::<Vec<_>>().await);
        drop(store.delete(&at(n % 7)).await);
        drop(store.copy(&at(n % 20), &at(n % 5)).await);
    }
    store.log()
}

#[tokio::test]
async fn the_seed_alone_decides_what_goes_wrong() {
    let first = history(1).await;
    assert_eq!(first, history(1).await);
    assert_ne!(first, history(2).await);
    let seen = |wanted: fn(&Fault) -> bool| first.iter().any(|i| wanted(&i.fault));
    assert!(seen(|f| matches!(f, Fault::Before)));
    assert!(seen(|f| matches!(f, Fault::After)));
    assert!(seen(|f| matches!(f, Fault::TimeoutBefore)));
    assert!(seen(|f| matches!(f, Fault::TimeoutAfter)));
    assert!(seen(|f| matches!(f, Fault::Throttled)));
    assert!(seen(|f| matches!(f, Fault::Short(_, true))));
    assert!(seen(|f| matches!(f, Fault::Short(_, false))));
    assert!(seen(|f| matches!(f, Fault::Flipped(_))));
    for operation in [Operation::Put, Operation::Get, Operation::List, Operation::Delete, Operation::Copy] {
        assert!(first.iter().any(|i| i.operation == operation), "{operation:?}");
    }
}

#[tokio::test]
async fn before_leaves_nothing_and_after_leaves_all() {
    for (rates, there) in
        [(Rates { before: 1.0, ..Rates::default() }, false), (Rates { after: 1.0, ..Rates::default() }, true)]
    {
        let (store, inner) = faulty(3);
        store.set(Faults { put: rates, ..Faults::default() });
        let error = store.put(&at(1), "x".into()).await.unwrap_err();
        assert!(is_injected(&error));
        assert_eq!(inner.head(&at(1)).await.is_ok(), there);
    }
}

#[tokio::test]
async fn bodies_are_short_or_have_one_wrong_bit() {
    let (store, _) = faulty(4);
    let bytes = Bytes::from((0..=255).collect::<Vec<u8>>());
    store.put(&at(1), bytes.clone().into()).await.unwrap();
    store.set(Faults { get: Rates { flipped: 1.0, ..Rates::default() }, ..Faults::default() });
    let read = store.get(&at(1)).await.unwrap().bytes().await.unwrap();
    let bits: u32 = read.iter().zip(&bytes).map(|(a, b)| (a ^ b).count_ones()).sum();
    assert_eq!((read.len(), bits), (bytes.len(), 1));
    store.set(Faults { get: Rates { short: 1.0, ..Rates::default() }, ..Faults::default() });
    let mut kinds = [0; 2];
    for _ in 0..20 {
        let result = store.get(&at(1)).await.unwrap();
        match result.into_stream().map_ok(|b| b.len()).try_fold(0, |a, b| async move { Ok(a + b) }).await {
            Ok(read) => {
                assert!(read < bytes.len());
                kinds[0] += 1;
            }
            Err(_) => kinds[1] += 1,
        }
    }
    assert!(kinds.iter().all(|n| *n > 0), "{kinds:?}");
}

#[tokio::test]
async fn a_killed_store_stays_dead_until_it_is_revived() {
    let mut last = [0; 2];
    for seed in 0..20 {
        let (store, inner) = faulty(seed);
        store.kill_after(3);
        for n in 1..=5 {
            assert_eq!(store.put(&at(n), "x".into()).await.is_ok(), n < 3);
        }
        assert!(store.is_dead() && store.get(&at(1)).await.is_err() && store.list_with_delimiter(None).await.is_err());
        let count = inner.list(None).count().await;
        last[count - 2] += 1;
        store.revive();
        store.get(&at(1)).await.unwrap();
        assert_eq!(store.operations(), 8);
    }
    assert!(last.iter().all(|n| *n > 0), "of the last operation nothing or all is done: {last:?}");
}

#[tokio::test]
async fn listings_lag() {
    let (store, _) = faulty(5);
    store.put(&at(0), "x".into()).await.unwrap();
    store.set(Faults { lag: 3, ..Faults::default() });
    let names = async || {
        let mut names: Vec<_> = store.list(None).map_ok(|m| m.location.to_string()).try_collect().await.unwrap();
        names.sort();
        names
    };
    store.put(&at(1), "x".into()).await.unwrap();
    store.delete(&at(0)).await.unwrap();
    assert_eq!(names().await, ["a/0"]);
    store.get(&at(1)).await.unwrap();
    store.head(&at(1)).await.unwrap();
    store.head(&at(1)).await.unwrap();
    assert_eq!(names().await, ["a/1"]);
}

#[tokio::test]
async fn without_faults_it_is_a_store_like_any_other() {
    use object_store::integration as suite;
    let (store, _) = faulty(6);
    suite::put_get_delete_list(&store).await;
    suite::get_opts(&store).await;
    suite::put_opts(&store, true).await;
    suite::list_uses_directories_correctly(&store).await;
    suite::list_with_delimiter(&store).await;
    suite::rename_and_copy(&store).await;
    suite::copy_if_not_exists(&store).await;
    suite::copy_rename_nonexistent_object(&store).await;
    suite::stream_get(&store).await;
    suite::multipart_out_of_order(&store).await;
    suite::list_with_offset_exclusivity(&store).await;
}
