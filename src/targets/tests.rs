//! The conformance suite over every target and over the wrappers.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::conformance::{self, Case, Open, Opener, Place};
use super::wrappers::*;
use super::*;
use crate::error::ErrorKind;
use crate::model::Metric;

fn memory(_: &Path) -> Arc<dyn Target> {
    Arc::new(memory::MemoryTarget::new())
}

#[cfg(feature = "edge")]
fn embedded(path: &Path) -> Arc<dyn Target> {
    open_embedded(path, &Events::silent()).unwrap()
}

/// Every operation fails twice, and is tried again without waiting.
fn unreliable(inner: Arc<dyn Target>) -> Arc<dyn Target> {
    let policy = RetryPolicy { attempts: 3, ..RetryPolicy::default() };
    let retry = Retry::new(Arc::new(Unreliable::new(inner, 2, 7)), policy, Events::silent());
    Arc::new(retry.with_clock(|_| Box::pin(async {}), || 0.5))
}

fn unreliable_memory(path: &Path) -> Arc<dyn Target> {
    unreliable(memory(path))
}

#[cfg(feature = "edge")]
fn unreliable_embedded(path: &Path) -> Arc<dyn Target> {
    unreliable(embedded(path))
}

macro_rules! on {
    ($target:ident, $rule:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $target() {
            let open = |place: &Place| super::$target(&place.directory);
            conformance::$rule(&Case::new(Arc::new(open) as Open)).await;
        }
    };
}

macro_rules! conformance {
    ($($module:ident::$rule:ident),* $(,)?) => {
        $(
            mod $rule {
                use super::{Open, Arc, Case, Place, conformance};

                on!(memory, $rule);
                #[cfg(feature = "edge")]
                on!(embedded, $rule);
                on!(unreliable_memory, $rule);
                #[cfg(feature = "edge")]
                on!(unreliable_embedded, $rule);
            }
        )*
    };
}

crate::conformance_rules!(conformance);

#[tokio::test]
async fn a_limit_of_one_passes_the_suite() {
    conformance::run_all(Arc::new(|place: &Place| {
        Arc::new(Limit::new(memory(&place.directory), 1)) as Arc<dyn Target>
    }))
    .await;
}

/// Memory that another tool can use too.
struct Shared(memory::MemoryTarget);

#[async_trait::async_trait]
impl Opener for Shared {
    async fn open(&self, _: &Place) -> Arc<dyn Target> {
        Arc::new(self.0.clone())
    }

    async fn create_foreign(&self, _: &Place, spec: &CollectionSpec) -> bool {
        self.0.create_foreign(spec).unwrap();
        true
    }
}

#[tokio::test]
async fn what_others_made_in_memory_is_left_alone() {
    let open = Arc::new(Shared(memory::MemoryTarget::new()));
    conformance::what_others_made_is_left_alone(&Case::new(open)).await;
}

#[tokio::test]
async fn a_large_collection_in_memory_holds() {
    let open = |place: &Place| memory(&place.directory);
    conformance::a_large_collection_holds(&Case::new(Arc::new(open)), 5000).await;
}

#[test]
fn names_are_fitted_to_the_target() {
    let words = Names { max_bytes: 20, characters: Characters::Words { also: "_", upper: false, digit_first: false } };
    for (name, fitted) in [
        ("docs", "docs"),
        ("My-Docs", "my_docs"),
        ("9docs", "c9docs"),
        ("docs-", "docs_0"),
        ("grün 🌍 x", "gr_n___x"),
        ("a-very-long-name-indeed-1a2b3c4d", "a_very_long_1a2b3c4d"),
    ] {
        assert_eq!(words.fit(name), fitted);
        assert!(words.allow(fitted) && (name == fitted || !words.allow(name)), "{name}");
    }
    let any = Names { max_bytes: 20, characters: Characters::Any };
    for name in ["ö".repeat(40), "🌍".repeat(9), "a\"b'c".into()] {
        assert!(any.allow(&any.fit(&name)), "{name}");
    }
}

#[tokio::test]
async fn clones_in_memory_share() {
    let target = memory::MemoryTarget::new();
    let owned = target.create(&conformance::spec("one", 4, Metric::Dot)).await.unwrap();
    target.clone().write(&owned, vec![conformance::sample(1, 4)]).await.unwrap();
    assert_eq!(target.count("one", &Filter::default()).await.unwrap(), 1);
}

#[tokio::test]
async fn retries_end_and_wait_longer_each_time() {
    let waited = Arc::new(std::sync::Mutex::new(Vec::new()));
    let policy = RetryPolicy { attempts: 5, first_wait: Duration::from_secs(2), longest_wait: Duration::from_secs(10) };
    let inner = Arc::new(Unreliable::new(memory(Path::new("")), 100, 1));
    let record = waited.clone();
    let retry = Retry::new(inner, policy, Events::silent()).with_clock(
        move |wait| {
            record.lock().unwrap().push(wait.as_secs_f64());
            Box::pin(async {})
        },
        || 0.5,
    );
    let error = retry.list().await.unwrap_err();
    assert!(error.retryable());
    assert_eq!(error.context_value("calls"), Some("5"));
    assert_eq!(*waited.lock().unwrap(), [1.0, 2.0, 4.0, 5.0]);
}

#[tokio::test]
async fn other_errors_are_not_retried() {
    let sleeps = Arc::new(AtomicU64::new(0));
    let count = sleeps.clone();
    let retry = Retry::new(memory(Path::new("")), RetryPolicy::default(), Events::silent()).with_clock(
        move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Box::pin(async {})
        },
        || 0.5,
    );
    let error = retry.open_owned("absent").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(sleeps.load(Ordering::Relaxed), 0);
}

#[test]
fn the_default_randomness_spreads() {
    let policy = RetryPolicy { first_wait: Duration::from_secs(8), longest_wait: Duration::from_secs(8), attempts: 2 };
    assert_eq!(policy.wait(1, 0.0), Duration::ZERO);
    assert_eq!(policy.wait(1, 1.0), Duration::from_secs(8));
    assert_eq!(policy.wait(60, 1.0), Duration::from_secs(8));
}

#[tokio::test]
async fn the_unreliable_fail_as_often_as_asked_and_both_ways() {
    let (mut before, mut after) = (0, 0);
    for seed in 0..40 {
        let inner = memory(Path::new(""));
        let target = Unreliable::new(inner.clone(), 1, seed);
        let spec = conformance::spec("one", 4, Metric::Dot);
        let error = target.create(&spec).await.unwrap_err();
        assert!(error.retryable() && error.kind() == ErrorKind::Target);
        match inner.describe("one").await.unwrap() {
            None => {
                before += 1;
                target.create(&spec).await.unwrap();
            }
            Some(_) => {
                after += 1;
                assert_eq!(target.create(&spec).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
            }
        }
    }
    assert!(before > 5 && after > 5, "{before} before, {after} after");
}

#[tokio::test]
async fn a_limit_holds() {
    /// Counts the calls that are under way.
    struct Counting {
        now: AtomicU64,
        most: AtomicU64,
    }
    let counting = Arc::new(Counting { now: AtomicU64::new(0), most: AtomicU64::new(0) });
    let inner = memory(Path::new(""));
    // A retry whose clock counts: each call fails once, waits, and so stays under way for a while.
    let policy = RetryPolicy { attempts: 2, ..RetryPolicy::default() };
    let seen = counting.clone();
    let slow = Retry::new(Arc::new(Unreliable::new(inner, 1, 3)), policy, Events::silent()).with_clock(
        move |_| {
            let seen = seen.clone();
            Box::pin(async move {
                let now = seen.now.fetch_add(1, Ordering::SeqCst) + 1;
                seen.most.fetch_max(now, Ordering::SeqCst);
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                seen.now.fetch_sub(1, Ordering::SeqCst);
            })
        },
        || 0.5,
    );
    let limit = Arc::new(Limit::new(Arc::new(slow), 3));
    let calls: Vec<_> = (0..20)
        .map(|n| {
            let limit = limit.clone();
            tokio::spawn(async move { limit.describe(&format!("c{n}")).await.unwrap() })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(counting.most.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_dry_run_records_and_writes_nothing() {
    let inner = memory(Path::new(""));
    let live = inner.create(&conformance::spec("old", 4, Metric::Dot)).await.unwrap();
    inner.write(&live, vec![conformance::sample(1, 4)]).await.unwrap();
    inner.promote("live", &live).await.unwrap();

    let dry = DryRun::new(inner.clone());
    assert_eq!(
        dry.create(&conformance::spec("old", 4, Metric::Dot)).await.unwrap_err().kind(),
        ErrorKind::AlreadyExists
    );
    let owned = dry.create(&conformance::spec("new", 4, Metric::Dot)).await.unwrap();
    let wrong = Point { vector: vec![1.0], ..conformance::sample(9, 4) };
    let outcome = dry.write(&owned, vec![conformance::sample(1, 4), wrong]).await.unwrap();
    assert_eq!((outcome.written, outcome.refused.len()), (1, 1));
    dry.write(&owned, vec![conformance::sample(2, 4)]).await.unwrap();
    dry.flush(&owned).await.unwrap();
    dry.start_index(&owned).await.unwrap();
    assert_eq!(dry.index_state(&owned).await.unwrap(), IndexState { done: true, indexed: 2, total: 2 });
    let ready = Marker { state: CollectionState::Ready, ..owned.marker().clone() };
    let owned = dry.mark(&owned, ready).await.unwrap();
    assert_eq!(dry.open_owned("new").await.unwrap(), owned);
    assert_eq!(dry.promote("live", &owned).await.unwrap().as_deref(), Some("old"));
    assert!(dry.promote("old", &owned).await.is_err());
    assert!(dry.delete(live).await.is_err(), "in production");
    dry.delete(owned).await.unwrap();

    let collection = || "new".to_owned();
    assert_eq!(
        dry.planned(),
        [
            Planned::Create { collection: collection() },
            Planned::Write { collection: collection(), points: 2, refused: 1 },
            Planned::Index { collection: collection() },
            Planned::Mark { collection: collection(), state: CollectionState::Ready },
            Planned::Promote { alias: "live".to_owned(), collection: collection() },
            Planned::Delete { collection: collection() },
        ]
    );
    assert_eq!(inner.list().await.unwrap(), ["old"]);
    assert_eq!(dry.describe("live").await.unwrap().unwrap().name, "old");
}

#[test]
fn a_pipeline_opens_its_target() {
    let base = tempfile::tempdir().unwrap();
    let settings = |kind: &str| -> TargetSettings { toml::from_str(kind).unwrap() };
    let memory = open(&settings("kind = 'memory'"), base.path(), &|_| None, &Events::silent()).unwrap();
    assert_eq!(memory.kind(), "memory");
    let embedded = |text: &str| open(&settings(text), base.path(), &|_| None, &Events::silent());
    #[cfg(feature = "edge")]
    {
        assert_eq!(embedded("kind = 'embedded'").unwrap().kind(), "embedded");
        assert!(base.path().join(DEFAULT_PATH).is_dir());
        embedded("kind = 'embedded'\npath = 'a/b'").unwrap();
        assert!(base.path().join("a/b/collections").is_dir());
    }
    #[cfg(not(feature = "edge"))]
    assert_eq!(embedded("kind = 'embedded'").map(|_| ()).unwrap_err().kind(), ErrorKind::Configuration);
}
