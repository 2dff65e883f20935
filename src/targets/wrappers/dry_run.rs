//! Records what would be written, and writes nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde::Serialize;

use crate::error::Result;
use crate::ids::ChunkId;
use crate::targets::checks;
use crate::targets::contract::{OwnedCollection, Target};
use crate::targets::types::*;

/// One thing that would have been done.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Planned {
    /// A collection would have been created.
    Create {
        /// Its physical name.
        collection: String,
    },
    /// A marker would have been written on a collection that has none.
    Adopt {
        /// The collection's physical name.
        collection: String,
    },
    /// A marker would have been replaced.
    Mark {
        /// The collection's physical name.
        collection: String,
        /// The new state.
        state: CollectionState,
    },
    /// Points would have been written; successive writes to one collection are added up.
    Write {
        /// The collection's physical name.
        collection: String,
        /// Points that would have been taken.
        points: u64,
        /// Points that would have been refused.
        refused: u64,
    },
    /// The index would have been built.
    Index {
        /// The collection's physical name.
        collection: String,
    },
    /// A production name would have been switched.
    Promote {
        /// The production name.
        alias: String,
        /// The collection's physical name.
        collection: String,
    },
    /// A collection would have been deleted.
    Delete {
        /// Its physical name.
        collection: String,
    },
}

#[derive(Debug, Default)]
struct Record {
    planned: Vec<Planned>,
    /// Collections that only this record knows, with the points they would hold.
    created: BTreeMap<String, (CollectionSpec, u64)>,
}

/// Reads pass through; writes are checked and recorded, and have no effect. So a collection that was created
/// here does not exist for reads.
pub struct DryRun {
    inner: Arc<dyn Target>,
    record: Mutex<Record>,
}

impl DryRun {
    /// Around `inner`.
    pub fn new(inner: Arc<dyn Target>) -> Self {
        Self { inner, record: Mutex::default() }
    }

    /// What would have been done, in order.
    pub fn planned(&self) -> Vec<Planned> {
        self.record().planned.clone()
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Dimension of an owned collection, here or in the target; an error when it is not what the holder thinks.
    async fn dimension(&self, held: &OwnedCollection) -> Result<usize> {
        let created = self.record().created.get(held.name()).map(|(spec, _)| (spec.dimension, spec.marker.instance));
        if let Some((dimension, instance)) = created {
            checks::same_instance(held.name(), held.marker().instance, instance)?;
            return Ok(dimension);
        }
        let info = self.inner.describe(held.name()).await?.ok_or_else(|| checks::not_found(held.name()))?;
        let marker = info.marker.ok_or_else(|| checks::not_owned(held.name()))?;
        checks::same_instance(held.name(), held.marker().instance, marker.instance)?;
        Ok(info.dimension)
    }
}

#[async_trait]
impl Target for DryRun {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn server(&self) -> Result<ServerInfo> {
        self.inner.server().await
    }

    async fn unsupported(&self, spec: &CollectionSpec) -> Result<Vec<String>> {
        self.inner.unsupported(spec).await
    }

    async fn list(&self) -> Result<Vec<String>> {
        self.inner.list().await
    }

    async fn describe(&self, name: &str) -> Result<Option<CollectionInfo>> {
        self.inner.describe(name).await
    }

    async fn create(&self, spec: &CollectionSpec) -> Result<OwnedCollection> {
        checks::spec(spec)?;
        let there = self.inner.describe(&spec.name).await?;
        let mut record = self.record();
        if there.is_some() || record.created.contains_key(&spec.name) {
            return Err(checks::taken(&spec.name, "a collection or production name"));
        }
        record.planned.push(Planned::Create { collection: spec.name.clone() });
        record.created.insert(spec.name.clone(), (spec.clone(), 0));
        Ok(OwnedCollection::attest(spec.name.clone(), spec.marker.clone()))
    }

    async fn open_owned(&self, name: &str) -> Result<OwnedCollection> {
        let created = self.record().created.get(name).map(|(spec, _)| spec.marker.clone());
        match created {
            Some(marker) => Ok(OwnedCollection::attest(name.to_owned(), marker)),
            None => self.inner.open_owned(name).await,
        }
    }

    async fn adopt(&self, name: &str, marker: Marker) -> Result<OwnedCollection> {
        let info = self.inner.describe(name).await?.ok_or_else(|| checks::not_found(name))?;
        if info.marker.is_some() {
            return Err(checks::owned_already(name));
        }
        self.record().planned.push(Planned::Adopt { collection: info.name.clone() });
        Ok(OwnedCollection::attest(info.name, marker))
    }

    async fn mark(&self, collection: &OwnedCollection, marker: Marker) -> Result<OwnedCollection> {
        checks::same_instance(collection.name(), collection.marker().instance, marker.instance)?;
        self.dimension(collection).await?;
        let mut record = self.record();
        if let Some((spec, _)) = record.created.get_mut(collection.name()) {
            spec.marker = marker.clone();
        }
        record.planned.push(Planned::Mark { collection: collection.name().to_owned(), state: marker.state });
        Ok(OwnedCollection::attest(collection.name().to_owned(), marker))
    }

    async fn write(&self, collection: &OwnedCollection, points: Vec<Point>) -> Result<WriteOutcome> {
        let dimension = self.dimension(collection).await?;
        let (good, refused) = checks::sort_out(points, dimension);
        let outcome = WriteOutcome { written: good.len(), refused };
        let (more, bad) = (outcome.written as u64, outcome.refused.len() as u64);
        let mut record = self.record();
        if let Some((_, held)) = record.created.get_mut(collection.name()) {
            *held += more;
        }
        match record.planned.last_mut() {
            Some(Planned::Write { collection: last, points, refused }) if last == collection.name() => {
                *points += more;
                *refused += bad;
            }
            _ => record.planned.push(Planned::Write {
                collection: collection.name().to_owned(),
                points: more,
                refused: bad,
            }),
        }
        Ok(outcome)
    }

    async fn write_shared(&self, collection: &OwnedCollection, points: Arc<Vec<Point>>) -> Result<WriteOutcome> {
        self.write(collection, Arc::unwrap_or_clone(points)).await
    }

    async fn flush(&self, collection: &OwnedCollection) -> Result<()> {
        self.dimension(collection).await.map(|_| ())
    }

    async fn start_index(&self, collection: &OwnedCollection) -> Result<()> {
        self.dimension(collection).await?;
        self.record().planned.push(Planned::Index { collection: collection.name().to_owned() });
        Ok(())
    }

    async fn index_state(&self, collection: &OwnedCollection) -> Result<IndexState> {
        let created = self.record().created.get(collection.name()).map(|(_, points)| *points);
        match created {
            Some(points) => Ok(IndexState { done: true, indexed: points, total: points }),
            None => self.inner.index_state(collection).await,
        }
    }

    async fn count(&self, name: &str, filter: &Filter) -> Result<u64> {
        self.inner.count(name, filter).await
    }

    async fn fetch(&self, name: &str, ids: &[ChunkId]) -> Result<Vec<Point>> {
        self.inner.fetch(name, ids).await
    }

    async fn scroll(&self, name: &str, after: Option<ChunkId>, limit: usize) -> Result<ScrollPage> {
        self.inner.scroll(name, after, limit).await
    }

    async fn search(&self, name: &str, request: &SearchRequest) -> Result<Vec<ScoredPoint>> {
        self.inner.search(name, request).await
    }

    async fn promote(&self, alias: &str, collection: &OwnedCollection) -> Result<Option<String>> {
        checks::name("production name", alias)?;
        self.dimension(collection).await?;
        let before = self.inner.describe(alias).await?;
        let mut record = self.record();
        if before.as_ref().is_some_and(|info| info.name == alias) || record.created.contains_key(alias) {
            return Err(checks::alias_is_physical(alias));
        }
        record.planned.push(Planned::Promote { alias: alias.to_owned(), collection: collection.name().to_owned() });
        Ok(before.map(|info| info.name))
    }

    async fn delete(&self, collection: OwnedCollection) -> Result<()> {
        self.dimension(&collection).await?;
        if let Some(info) = self.inner.describe(collection.name()).await?
            && !info.aliases.is_empty()
        {
            return Err(checks::in_production(collection.name(), &info.aliases));
        }
        let mut record = self.record();
        record.created.remove(collection.name());
        record.planned.push(Planned::Delete { collection: collection.name().to_owned() });
        Ok(())
    }
}
