//! The target in memory: exact, gone when the process ends. For tests and measurements.

mod collection;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;

use self::collection::Collection;
use super::contract::{OwnedCollection, Target};
use super::types::*;
use super::{checks, filter};
use crate::error::Result;
use crate::ids::ChunkId;

/// Collections in memory. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct MemoryTarget {
    state: Arc<RwLock<State>>,
}

#[derive(Debug, Default)]
struct State {
    collections: BTreeMap<String, Collection>,
    aliases: BTreeMap<String, String>,
}

impl State {
    fn physical<'a>(&'a self, name: &'a str) -> &'a str {
        self.aliases.get(name).map_or(name, String::as_str)
    }

    fn read(&self, name: &str) -> Result<&Collection> {
        self.collections.get(self.physical(name)).ok_or_else(|| checks::not_found(name))
    }

    fn owned(&mut self, held: &OwnedCollection) -> Result<&mut Collection> {
        let collection = self.collections.get_mut(held.name()).ok_or_else(|| checks::not_found(held.name()))?;
        checks::same_instance(held.name(), held.marker().instance, collection.marker()?.instance)?;
        Ok(collection)
    }

    fn aliases_of(&self, physical: &str) -> Vec<String> {
        self.aliases.iter().filter(|(_, p)| *p == physical).map(|(a, _)| a.clone()).collect()
    }
}

impl MemoryTarget {
    /// No collections.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a collection as another tool would: without regrow's marker. For tests of what must not be touched.
    pub fn create_foreign(&self, spec: &CollectionSpec) -> Result<()> {
        self.insert(spec, None)
    }

    fn insert(&self, spec: &CollectionSpec, marker: Option<Marker>) -> Result<()> {
        checks::spec(spec)?;
        self.with_mut(|state| {
            if state.collections.contains_key(&spec.name) {
                return Err(checks::taken(&spec.name, "a collection"));
            }
            if state.aliases.contains_key(&spec.name) {
                return Err(checks::taken(&spec.name, "a production name"));
            }
            state.collections.insert(spec.name.clone(), Collection::new(spec.clone(), marker));
            Ok(())
        })
    }

    fn with<R>(&self, f: impl FnOnce(&State) -> R) -> R {
        f(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn with_mut<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Target for MemoryTarget {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { rename: true, persistent: false, max_batch_points: 4096, ..Capabilities::local() }
    }

    async fn server(&self) -> Result<ServerInfo> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(ServerInfo { name: "memory".to_owned(), version, details: BTreeMap::new() })
    }

    async fn unsupported(&self, spec: &CollectionSpec) -> Result<Vec<String>> {
        checks::spec(spec)?;
        Ok(Vec::new())
    }

    async fn list(&self) -> Result<Vec<String>> {
        Ok(self.with(|state| state.collections.keys().cloned().collect()))
    }

    async fn describe(&self, name: &str) -> Result<Option<CollectionInfo>> {
        Ok(self.with(|state| {
            let physical = state.physical(name);
            state.collections.get(physical).map(|c| c.info(state.aliases_of(physical)))
        }))
    }

    async fn create(&self, spec: &CollectionSpec) -> Result<OwnedCollection> {
        self.insert(spec, Some(spec.marker.clone()))?;
        Ok(OwnedCollection::attest(spec.name.clone(), spec.marker.clone()))
    }

    async fn open_owned(&self, name: &str) -> Result<OwnedCollection> {
        self.with(|state| {
            let collection = state.read(name)?;
            Ok(OwnedCollection::attest(state.physical(name).to_owned(), collection.marker()?.clone()))
        })
    }

    async fn adopt(&self, name: &str, marker: Marker) -> Result<OwnedCollection> {
        self.with_mut(|state| {
            let physical = state.physical(name).to_owned();
            let collection = state.collections.get_mut(&physical).ok_or_else(|| checks::not_found(name))?;
            if collection.is_owned() {
                return Err(checks::owned_already(name));
            }
            collection.set_marker(marker.clone());
            Ok(OwnedCollection::attest(physical, marker))
        })
    }

    async fn mark(&self, collection: &OwnedCollection, marker: Marker) -> Result<OwnedCollection> {
        checks::same_instance(collection.name(), collection.marker().instance, marker.instance)?;
        self.with_mut(|state| {
            state.owned(collection)?.set_marker(marker.clone());
            Ok(OwnedCollection::attest(collection.name().to_owned(), marker))
        })
    }

    async fn write(&self, collection: &OwnedCollection, points: Vec<Point>) -> Result<WriteOutcome> {
        self.with_mut(|state| Ok(state.owned(collection)?.write(points)))
    }

    async fn flush(&self, collection: &OwnedCollection) -> Result<()> {
        self.with_mut(|state| state.owned(collection).map(|_| ()))
    }

    async fn start_index(&self, collection: &OwnedCollection) -> Result<()> {
        self.with_mut(|state| {
            state.owned(collection)?.start_index();
            Ok(())
        })
    }

    async fn index_state(&self, collection: &OwnedCollection) -> Result<IndexState> {
        self.with_mut(|state| Ok(state.owned(collection)?.index_state()))
    }

    async fn count(&self, name: &str, filter: &Filter) -> Result<u64> {
        let filter = filter::check(filter)?;
        self.with(|state| Ok(state.read(name)?.count(&filter)))
    }

    async fn fetch(&self, name: &str, ids: &[ChunkId]) -> Result<Vec<Point>> {
        self.with(|state| Ok(state.read(name)?.fetch(ids)))
    }

    async fn scroll(&self, name: &str, after: Option<ChunkId>, limit: usize) -> Result<ScrollPage> {
        self.with(|state| Ok(state.read(name)?.scroll(after, limit)))
    }

    async fn search(&self, name: &str, request: &SearchRequest) -> Result<Vec<ScoredPoint>> {
        let filter = filter::check(&request.filter)?;
        self.with(|state| state.read(name)?.search(name, &request.vector, request.limit, &filter))
    }

    async fn promote(&self, alias: &str, collection: &OwnedCollection) -> Result<Option<String>> {
        checks::name("production name", alias)?;
        self.with_mut(|state| {
            state.owned(collection)?;
            if let Some(physical) = state.collections.get(alias) {
                if !physical.is_owned() || alias == collection.name() {
                    return Err(checks::alias_is_physical(alias));
                }
                let moved = format!("{alias}-before-{}", &collection.marker().instance.simple().to_string()[..8]);
                if state.collections.contains_key(&moved) || state.aliases.contains_key(&moved) {
                    return Err(checks::taken(&moved, "a collection"));
                }
                if let Some(mut before) = state.collections.remove(alias) {
                    before.rename(&moved);
                    state.collections.insert(moved.clone(), before);
                }
                state.aliases.values_mut().filter(|p| *p == alias).for_each(|p| moved.clone_into(p));
                state.aliases.insert(alias.to_owned(), collection.name().to_owned());
                return Ok(Some(moved));
            }
            Ok(state.aliases.insert(alias.to_owned(), collection.name().to_owned()))
        })
    }

    async fn delete(&self, collection: OwnedCollection) -> Result<()> {
        self.with_mut(|state| {
            state.owned(&collection)?;
            let aliases = state.aliases_of(collection.name());
            if !aliases.is_empty() {
                return Err(checks::in_production(collection.name(), &aliases));
            }
            state.collections.remove(collection.name());
            Ok(())
        })
    }
}
