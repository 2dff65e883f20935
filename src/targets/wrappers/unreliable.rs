//! Makes the first calls of each operation fail: for tests of everything that has to live with failures.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{ChunkId, Digest};
use crate::targets::contract::{OwnedCollection, Target};
use crate::targets::types::*;

/// The first `failures` calls of each operation fail, some before and some after their effect, as the seed says.
///
/// An operation is a method with its arguments, so that every batch, page and query fails, not only the first.
pub struct Unreliable {
    inner: Arc<dyn Target>,
    failures: u32,
    seed: u64,
    calls: Mutex<HashMap<u64, u32>>,
}

/// When a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Never,
    Before,
    After,
}

impl Unreliable {
    /// Makes the first `failures` calls of each operation fail.
    pub fn new(inner: Arc<dyn Target>, failures: u32, seed: u64) -> Self {
        Self { inner, failures, seed, calls: Mutex::new(HashMap::new()) }
    }

    fn fault(&self, method: &'static str, arguments: &str) -> Fault {
        let key = Digest::of(format!("{} {method} {arguments}", self.seed).as_bytes()).prefix();
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let call = calls.entry(key).or_default();
        *call += 1;
        if *call > self.failures {
            return Fault::Never;
        }
        let coin = Digest::of(format!("{key} {call}").as_bytes()).prefix();
        if coin.is_multiple_of(2) { Fault::Before } else { Fault::After }
    }

    async fn call<R>(
        &self,
        method: &'static str,
        arguments: String,
        effect: impl Future<Output = Result<R>> + Send,
    ) -> Result<R> {
        let failure = |when: &str| {
            Err(Error::new(ErrorKind::Target, format!("{method} was made to fail {when} its effect")).transient())
        };
        match self.fault(method, &arguments) {
            Fault::Never => effect.await,
            Fault::Before => failure("before"),
            Fault::After => {
                // A call that fails by itself tells more than a made-up failure.
                effect.await?;
                failure("after")
            }
        }
    }
}

fn of(collection: &OwnedCollection) -> String {
    format!("{} {}", collection.name(), collection.marker().instance)
}

#[async_trait]
impl Target for Unreliable {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn server(&self) -> Result<ServerInfo> {
        self.call("server", String::new(), self.inner.server()).await
    }

    async fn unsupported(&self, spec: &CollectionSpec) -> Result<Vec<String>> {
        self.call("unsupported", spec.name.clone(), self.inner.unsupported(spec)).await
    }

    async fn list(&self) -> Result<Vec<String>> {
        self.call("list", String::new(), self.inner.list()).await
    }

    async fn describe(&self, name: &str) -> Result<Option<CollectionInfo>> {
        self.call("describe", name.to_owned(), self.inner.describe(name)).await
    }

    async fn create(&self, spec: &CollectionSpec) -> Result<OwnedCollection> {
        self.call("create", format!("{} {}", spec.name, spec.marker.instance), self.inner.create(spec)).await
    }

    async fn open_owned(&self, name: &str) -> Result<OwnedCollection> {
        self.call("open_owned", name.to_owned(), self.inner.open_owned(name)).await
    }

    async fn adopt(&self, name: &str, marker: Marker) -> Result<OwnedCollection> {
        self.call("adopt", format!("{name} {}", marker.instance), self.inner.adopt(name, marker)).await
    }

    async fn mark(&self, collection: &OwnedCollection, marker: Marker) -> Result<OwnedCollection> {
        self.call("mark", format!("{} {marker:?}", of(collection)), self.inner.mark(collection, marker)).await
    }

    async fn write(&self, collection: &OwnedCollection, points: Vec<Point>) -> Result<WriteOutcome> {
        let first = points.first().map(|p| p.id);
        let arguments = format!("{} {first:?} {}", of(collection), points.len());
        self.call("write", arguments, self.inner.write(collection, points)).await
    }

    async fn write_shared(&self, collection: &OwnedCollection, points: Arc<Vec<Point>>) -> Result<WriteOutcome> {
        let first = points.first().map(|p| p.id);
        let arguments = format!("{} {first:?} {}", of(collection), points.len());
        self.call("write", arguments, self.inner.write_shared(collection, points)).await
    }

    async fn flush(&self, collection: &OwnedCollection) -> Result<()> {
        self.call("flush", of(collection), self.inner.flush(collection)).await
    }

    async fn start_index(&self, collection: &OwnedCollection) -> Result<()> {
        self.call("start_index", of(collection), self.inner.start_index(collection)).await
    }

    async fn index_state(&self, collection: &OwnedCollection) -> Result<IndexState> {
        self.call("index_state", of(collection), self.inner.index_state(collection)).await
    }

    async fn count(&self, name: &str, filter: &Filter) -> Result<u64> {
        self.call("count", format!("{name} {filter:?}"), self.inner.count(name, filter)).await
    }

    async fn fetch(&self, name: &str, ids: &[ChunkId]) -> Result<Vec<Point>> {
        self.call("fetch", format!("{name} {:?} {}", ids.first(), ids.len()), self.inner.fetch(name, ids)).await
    }

    async fn scroll(&self, name: &str, after: Option<ChunkId>, limit: usize) -> Result<ScrollPage> {
        self.call("scroll", format!("{name} {after:?} {limit}"), self.inner.scroll(name, after, limit)).await
    }

    async fn search(&self, name: &str, request: &SearchRequest) -> Result<Vec<ScoredPoint>> {
        let arguments = format!("{name} {} {} {:?}", request.limit, request.exact, request.filter);
        self.call("search", arguments, self.inner.search(name, request)).await
    }

    async fn promote(&self, alias: &str, collection: &OwnedCollection) -> Result<Option<String>> {
        self.call("promote", format!("{alias} {}", of(collection)), self.inner.promote(alias, collection)).await
    }

    async fn delete(&self, collection: OwnedCollection) -> Result<()> {
        self.call("delete", of(&collection), self.inner.delete(collection)).await
    }
}
