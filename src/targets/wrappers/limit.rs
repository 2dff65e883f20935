//! Limits how many calls are under way at once.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::{Error, ErrorKind, Result};
use crate::ids::ChunkId;
use crate::targets::contract::{OwnedCollection, Target};
use crate::targets::types::*;

/// At most so many calls at once; others wait in the order they came.
pub struct Limit {
    inner: Arc<dyn Target>,
    places: Semaphore,
    calls: usize,
}

impl Limit {
    /// At most `calls` at once; at least one.
    pub fn new(inner: Arc<dyn Target>, calls: usize) -> Self {
        let calls = calls.clamp(1, Semaphore::MAX_PERMITS);
        Self { inner, places: Semaphore::new(calls), calls }
    }

    async fn place(&self) -> Result<SemaphorePermit<'_>> {
        self.places.acquire().await.map_err(|e| Error::new(ErrorKind::Unexpected, "the limit was closed").because(e))
    }
}

#[async_trait]
impl Target for Limit {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.inner.capabilities();
        capabilities.write_concurrency = capabilities.write_concurrency.min(self.calls);
        capabilities
    }

    async fn server(&self) -> Result<ServerInfo> {
        let _place = self.place().await?;
        self.inner.server().await
    }

    async fn unsupported(&self, spec: &CollectionSpec) -> Result<Vec<String>> {
        let _place = self.place().await?;
        self.inner.unsupported(spec).await
    }

    async fn list(&self) -> Result<Vec<String>> {
        let _place = self.place().await?;
        self.inner.list().await
    }

    async fn describe(&self, name: &str) -> Result<Option<CollectionInfo>> {
        let _place = self.place().await?;
        self.inner.describe(name).await
    }

    async fn create(&self, spec: &CollectionSpec) -> Result<OwnedCollection> {
        let _place = self.place().await?;
        self.inner.create(spec).await
    }

    async fn open_owned(&self, name: &str) -> Result<OwnedCollection> {
        let _place = self.place().await?;
        self.inner.open_owned(name).await
    }

    async fn adopt(&self, name: &str, marker: Marker) -> Result<OwnedCollection> {
        let _place = self.place().await?;
        self.inner.adopt(name, marker).await
    }

    async fn mark(&self, collection: &OwnedCollection, marker: Marker) -> Result<OwnedCollection> {
        let _place = self.place().await?;
        self.inner.mark(collection, marker).await
    }

    async fn write(&self, collection: &OwnedCollection, points: Vec<Point>) -> Result<WriteOutcome> {
        let _place = self.place().await?;
        self.inner.write(collection, points).await
    }

    async fn write_shared(&self, collection: &OwnedCollection, points: Arc<Vec<Point>>) -> Result<WriteOutcome> {
        let _place = self.place().await?;
        self.inner.write_shared(collection, points).await
    }

    async fn flush(&self, collection: &OwnedCollection) -> Result<()> {
        let _place = self.place().await?;
        self.inner.flush(collection).await
    }

    async fn start_index(&self, collection: &OwnedCollection) -> Result<()> {
        let _place = self.place().await?;
        self.inner.start_index(collection).await
    }

    async fn index_state(&self, collection: &OwnedCollection) -> Result<IndexState> {
        let _place = self.place().await?;
        self.inner.index_state(collection).await
    }

    async fn count(&self, name: &str, filter: &Filter) -> Result<u64> {
        let _place = self.place().await?;
        self.inner.count(name, filter).await
    }

    async fn fetch(&self, name: &str, ids: &[ChunkId]) -> Result<Vec<Point>> {
        let _place = self.place().await?;
        self.inner.fetch(name, ids).await
    }

    async fn scroll(&self, name: &str, after: Option<ChunkId>, limit: usize) -> Result<ScrollPage> {
        let _place = self.place().await?;
        self.inner.scroll(name, after, limit).await
    }

    async fn search(&self, name: &str, request: &SearchRequest) -> Result<Vec<ScoredPoint>> {
        let _place = self.place().await?;
        self.inner.search(name, request).await
    }

    async fn promote(&self, alias: &str, collection: &OwnedCollection) -> Result<Option<String>> {
        let _place = self.place().await?;
        self.inner.promote(alias, collection).await
    }

    async fn delete(&self, collection: OwnedCollection) -> Result<()> {
        let _place = self.place().await?;
        self.inner.delete(collection).await
    }
}
