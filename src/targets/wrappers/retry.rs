//! Tries again what may succeed later.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use uuid::Uuid;

use crate::error::{ErrorKind, Result};
use crate::event::Events;
use crate::ids::ChunkId;
use crate::targets::contract::{OwnedCollection, Target};
use crate::targets::types::*;

/// How often and how long to wait.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Calls in all, the first included; at least one.
    pub attempts: u32,
    /// Longest wait before the second call; doubles with every further one.
    pub first_wait: Duration,
    /// No wait is longer.
    pub longest_wait: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 6, first_wait: Duration::from_millis(500), longest_wait: Duration::from_secs(30) }
    }
}

impl RetryPolicy {
    /// The wait after the `failed`th call, from 1; `random` lies in `0.0..1.0`. Full jitter: anything from
    /// nothing to the bound, so that workers which failed together do not come back together.
    pub fn wait(&self, failed: u32, random: f64) -> Duration {
        let bound =
            self.first_wait.saturating_mul(2_u32.saturating_pow(failed.saturating_sub(1))).min(self.longest_wait);
        bound.mul_f64(random.clamp(0.0, 1.0))
    }
}

type Sleep = Arc<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>;
type Random = Arc<dyn Fn() -> f64 + Send + Sync>;

/// Tries again on errors that are [`retryable`](crate::Error::retryable), and on no others.
///
/// A call that failed may have had its effect: a repeated `create` that finds its own collection, and a repeated
/// `delete` that finds nothing, have succeeded; `promote` returns what the production name pointed at before the
/// first call.
#[derive(Clone)]
pub struct Retry {
    inner: Arc<dyn Target>,
    policy: RetryPolicy,
    sleep: Sleep,
    random: Random,
    events: Events,
}

impl Retry {
    /// Retries by `policy`; each further call is a warning in `events`.
    pub fn new(inner: Arc<dyn Target>, policy: RetryPolicy, events: Events) -> Self {
        Self {
            inner,
            policy,
            sleep: Arc::new(|wait| Box::pin(tokio::time::sleep(wait))),
            // The standard library has no other source of randomness.
            random: Arc::new(|| f64::from(Uuid::new_v4().as_fields().0) / (f64::from(u32::MAX) + 1.0)),
            events,
        }
    }

    /// With another clock and another randomness (in `0.0..1.0`).
    #[must_use]
    pub fn with_clock(
        mut self,
        sleep: impl Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync + 'static,
        random: impl Fn() -> f64 + Send + Sync + 'static,
    ) -> Self {
        self.sleep = Arc::new(sleep);
        self.random = Arc::new(random);
        self
    }

    /// Calls `f` with the number of the call, from 1, until it succeeds or there is no point in going on.
    async fn run<'a, R>(
        &'a self,
        what: &'static str,
        mut f: impl FnMut(u32) -> BoxFuture<'a, Result<R>> + Send,
    ) -> Result<R> {
        let attempts = self.policy.attempts.max(1);
        let mut call = 1;
        loop {
            match f(call).await {
                Ok(result) => return Ok(result),
                Err(e) if e.retryable() && call < attempts => {
                    let wait = self.policy.wait(call, (self.random)());
                    self.events.warn(format!(
                        "{what} failed (call {call} of {attempts}), trying again in {:.1} s: {e}",
                        wait.as_secs_f64()
                    ));
                    (self.sleep)(wait).await;
                    call += 1;
                }
                Err(e) if call > 1 => return Err(e.with("calls", call)),
                Err(e) => return Err(e),
            }
        }
    }
}

impl Retry {
    /// The name that a collection has now.
    async fn renamed(&self, before: &CollectionInfo) -> Result<Option<String>> {
        let Some(marker) = &before.marker else { return Ok(None) };
        for name in self.list().await? {
            // Others' collections are passed over.
            let Ok(owned) = self.open_owned(&name).await else { continue };
            if owned.marker().instance == marker.instance {
                return Ok(Some(owned.name().to_owned()));
            }
        }
        Ok(None)
    }
}

#[async_trait]
impl Target for Retry {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn server(&self) -> Result<ServerInfo> {
        self.run("server", |_| self.inner.server()).await
    }

    async fn unsupported(&self, spec: &CollectionSpec) -> Result<Vec<String>> {
        self.run("unsupported", |_| {
            let spec = spec.clone();
            Box::pin(async move { self.inner.unsupported(&spec).await })
        })
        .await
    }

    async fn list(&self) -> Result<Vec<String>> {
        self.run("list", |_| self.inner.list()).await
    }

    async fn describe(&self, name: &str) -> Result<Option<CollectionInfo>> {
        self.run("describe", |_| {
            let name = name.to_owned();
            Box::pin(async move { self.inner.describe(&name).await })
        })
        .await
    }

    async fn create(&self, spec: &CollectionSpec) -> Result<OwnedCollection> {
        self.run("create", |call| {
            let spec = spec.clone();
            Box::pin(async move {
                match self.inner.create(&spec).await {
                    Err(e) if call > 1 && e.kind() == ErrorKind::AlreadyExists => {
                        match self.open_owned(&spec.name).await {
                            Ok(found) if found.marker().instance == spec.marker.instance => Ok(found),
                            Ok(_) | Err(_) => Err(e),
                        }
                    }
                    result => result,
                }
            })
        })
        .await
    }

    async fn open_owned(&self, name: &str) -> Result<OwnedCollection> {
        self.run("open", |_| {
            let name = name.to_owned();
            Box::pin(async move { self.inner.open_owned(&name).await })
        })
        .await
    }

    async fn adopt(&self, name: &str, marker: Marker) -> Result<OwnedCollection> {
        self.run("adopt", |call| {
            let (name, marker) = (name.to_owned(), marker.clone());
            Box::pin(async move {
                match self.inner.adopt(&name, marker.clone()).await {
                    Err(e) if call > 1 && e.kind() == ErrorKind::AlreadyExists => match self.open_owned(&name).await {
                        Ok(found) if found.marker().instance == marker.instance => Ok(found),
                        Ok(_) | Err(_) => Err(e),
                    },
                    result => result,
                }
            })
        })
        .await
    }

    async fn mark(&self, collection: &OwnedCollection, marker: Marker) -> Result<OwnedCollection> {
        self.run("mark", |_| {
            let (collection, marker) = (collection.clone(), marker.clone());
            Box::pin(async move { self.inner.mark(&collection, marker).await })
        })
        .await
    }

    async fn write(&self, collection: &OwnedCollection, points: Vec<Point>) -> Result<WriteOutcome> {
        self.write_shared(collection, Arc::new(points)).await
    }

    async fn write_shared(&self, collection: &OwnedCollection, points: Arc<Vec<Point>>) -> Result<WriteOutcome> {
        let outcome = self
            .run("write", |_| {
                let (collection, points) = (collection.clone(), points.clone());
                Box::pin(async move { self.inner.write_shared(&collection, points).await })
            })
            .await;
        // Thousands of small texts are freed beside the next writes.
        drop(tokio::task::spawn_blocking(move || drop(points)));
        outcome
    }

    async fn flush(&self, collection: &OwnedCollection) -> Result<()> {
        self.run("flush", |_| {
            let collection = collection.clone();
            Box::pin(async move { self.inner.flush(&collection).await })
        })
        .await
    }

    async fn start_index(&self, collection: &OwnedCollection) -> Result<()> {
        self.run("start index", |_| {
            let collection = collection.clone();
            Box::pin(async move { self.inner.start_index(&collection).await })
        })
        .await
    }

    async fn index_state(&self, collection: &OwnedCollection) -> Result<IndexState> {
        self.run("index state", |_| {
            let collection = collection.clone();
            Box::pin(async move { self.inner.index_state(&collection).await })
        })
        .await
    }

    async fn count(&self, name: &str, filter: &Filter) -> Result<u64> {
        self.run("count", |_| {
            let (name, filter) = (name.to_owned(), filter.clone());
            Box::pin(async move { self.inner.count(&name, &filter).await })
        })
        .await
    }

    async fn fetch(&self, name: &str, ids: &[ChunkId]) -> Result<Vec<Point>> {
        let ids: Arc<[ChunkId]> = ids.into();
        self.run("fetch", |_| {
            let (name, ids) = (name.to_owned(), ids.clone());
            Box::pin(async move { self.inner.fetch(&name, &ids).await })
        })
        .await
    }

    async fn scroll(&self, name: &str, after: Option<ChunkId>, limit: usize) -> Result<ScrollPage> {
        self.run("scroll", |_| {
            let name = name.to_owned();
            Box::pin(async move { self.inner.scroll(&name, after, limit).await })
        })
        .await
    }

    async fn search(&self, name: &str, request: &SearchRequest) -> Result<Vec<ScoredPoint>> {
        self.run("search", |_| {
            let (name, request) = (name.to_owned(), request.clone());
            Box::pin(async move { self.inner.search(&name, &request).await })
        })
        .await
    }

    async fn promote(&self, alias: &str, collection: &OwnedCollection) -> Result<Option<String>> {
        // A repeated promote would report the first one's effect.
        let before = self.describe(alias).await?;
        self.run("promote", |call| {
            let (alias, collection, before) = (alias.to_owned(), collection.clone(), before.clone());
            Box::pin(async move {
                let previous = self.inner.promote(&alias, &collection).await?;
                Ok(match before {
                    // It had the production name itself: the first call has renamed it, maybe.
                    Some(before) if call > 1 && before.name == alias => self.renamed(&before).await?.or(previous),
                    before if call > 1 => before.map(|info| info.name),
                    _ => previous,
                })
            })
        })
        .await
    }

    async fn delete(&self, collection: OwnedCollection) -> Result<()> {
        self.run("delete", |call| {
            let collection = collection.clone();
            Box::pin(async move {
                match self.inner.delete(collection).await {
                    Err(e) if call > 1 && e.kind() == ErrorKind::NotFound => Ok(()),
                    result => result,
                }
            })
        })
        .await
    }
}
