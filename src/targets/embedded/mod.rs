//! The embedded target: Qdrant's engine in process, in a directory of its own.
//!
//! - **Load, then index.** Points go into a segment without graph; [`Target::start_index`] builds one HNSW
//!   graph over all of them on all cores. Until then search is exact. Writes wait for a running build.
//! - **Durability.** What was written before [`Target::flush`] survives a kill; of the rest, writing the same
//!   points again makes it whole. An interrupted index build starts again.
//! - **Memory.** Vectors, payloads and graph are in memory-mapped files. While loading, the shard is closed and
//!   opened again every [`EmbeddedOptions::reopen_bytes`], so that the pages touched do not add up.
//! - **Cosine.** The engine normalises. A vector whose squared length is within 1e-6 of 1 comes back bit for bit.
//! - **One process.** A second one gets an error that names the directory; clones share the open shards.

mod collection;
mod engine;
mod files;
mod filter;
mod index;
mod points;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::collection::Collection;
use self::files::{CollectionFile, DirectoryLock};
use super::contract::{OwnedCollection, Target};
use super::types::*;
use super::{checks, filter as conditions};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::event::Events;
use crate::ids::ChunkId;
use async_trait::async_trait;

/// Version of the engine, as Cargo.toml pins it.
const ENGINE: &str = "0.7.2";

/// How the embedded database uses memory and disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddedOptions {
    /// Bytes written after which a shard is closed and opened again, to give memory back.
    pub reopen_bytes: u64,
    /// Bytes that must stay free on the device; below, writing and indexing are refused as
    /// [`ErrorKind::StorageFull`].
    pub reserve_bytes: u64,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self { reopen_bytes: 256 << 20, reserve_bytes: 128 << 20 }
    }
}

/// The embedded database in one directory. Clones share it.
#[derive(Debug, Clone)]
pub struct EmbeddedTarget {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    options: EmbeddedOptions,
    events: Events,
    lock: Arc<DirectoryLock>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    collections: BTreeMap<String, Arc<Collection>>,
    aliases: BTreeMap<String, String>,
}

impl State {
    fn physical<'a>(&'a self, name: &'a str) -> &'a str {
        self.aliases.get(name).map_or(name, String::as_str)
    }

    fn aliases_of(&self, physical: &str) -> Vec<String> {
        self.aliases.iter().filter(|(_, p)| *p == physical).map(|(a, _)| a.clone()).collect()
    }

    fn owned(&self, held: &OwnedCollection) -> Result<&Arc<Collection>> {
        let collection = self.collections.get(held.name()).ok_or_else(|| checks::not_found(held.name()))?;
        checks::same_instance(held.name(), held.marker().instance, collection.file().marker.instance)?;
        Ok(collection)
    }
}

impl EmbeddedTarget {
    /// Opens the database in `path`, making the directory if it is not there.
    ///
    /// [`ErrorKind::Target`] when another process has it open or its files cannot be used. A collection whose
    /// `collection.json` is damaged is left alone and reported as a warning.
    pub fn open(path: &Path, options: EmbeddedOptions, events: Events) -> Result<Self> {
        let collections_dir = path.join(files::COLLECTIONS);
        std::fs::create_dir_all(&collections_dir)
            .map_err(|e| files::io(e, "making the directory of the embedded database", &collections_dir))?;
        let lock = Arc::new(DirectoryLock::take(path)?);
        files::remove_leftovers(path)?;
        files::remove_leftovers(&collections_dir)?;
        let mut state = State { aliases: files::load_aliases(path)?, ..State::default() };
        for name in files::names(&collections_dir)? {
            let dir = collections_dir.join(&name);
            if !dir.is_dir() {
                continue;
            }
            if files::is_remainder(&dir)? {
                files::remove(&dir)?;
                continue;
            }
            files::remove_leftovers(&dir)?;
            match CollectionFile::load(&dir) {
                Ok(file) => {
                    let name = file.name.clone();
                    let collection = Collection::new(dir, file, options, events.clone(), &lock);
                    state.collections.insert(name, Arc::new(collection));
                }
                Err(e) => events.warn(format!("left alone: {e}")),
            }
        }
        let inner = Inner { root: path.to_owned(), options, events, lock, state: Mutex::new(state) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.inner.root
    }

    /// Runs blocking work on a thread for it.
    async fn blocking<R: Send + 'static>(&self, f: impl FnOnce(&Inner) -> Result<R> + Send + 'static) -> Result<R> {
        let inner = self.inner.clone();
        tokio::task::spawn_blocking(move || f(&inner)).await?
    }

    /// Blocking work on one collection, by physical or production name.
    async fn reading<R: Send + 'static>(
        &self,
        name: &str,
        f: impl FnOnce(&Collection) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let name = name.to_owned();
        self.blocking(move |inner| {
            let collection = {
                let state = inner.state();
                let found = state.collections.get(state.physical(&name));
                found.ok_or_else(|| checks::not_found(&name))?.clone()
            };
            f(&collection)
        })
        .await
    }

    /// Blocking work on an owned collection.
    async fn owning<R: Send + 'static>(
        &self,
        held: &OwnedCollection,
        f: impl FnOnce(&Arc<Collection>) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let held = held.clone();
        self.blocking(move |inner| {
            let collection = inner.state().owned(&held)?.clone();
            f(&collection)
        })
        .await
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create(&self, spec: &CollectionSpec) -> Result<OwnedCollection> {
        let mut state = self.state();
        if state.collections.contains_key(&spec.name) {
            return Err(checks::taken(&spec.name, "a collection"));
        }
        if state.aliases.contains_key(&spec.name) {
            return Err(checks::taken(&spec.name, "a production name"));
        }
        let parent = self.root.join(files::COLLECTIONS);
        engine::room(&parent, "creating a collection", self.options.reserve_bytes)?;
        // Built under a hidden name: until the rename there is no collection.
        let building = parent.join(files::hidden("new"));
        let dir = parent.join(files::directory_name(&spec.name, spec.marker.instance));
        let file = CollectionFile::new(spec);
        let made = build(&building, &file).and_then(|()| {
            std::fs::rename(&building, &dir)
                .and_then(|()| files::sync_directory(&parent))
                .map_err(|e| files::io(e, "creating a collection", &dir))
        });
        if let Err(e) = made {
            // The next open removes it too.
            let _ = files::remove(&building);
            return Err(e.with("collection", &spec.name));
        }
        let collection = Collection::new(dir, file, self.options, self.events.clone(), &self.lock);
        state.collections.insert(spec.name.clone(), Arc::new(collection));
        Ok(OwnedCollection::attest(spec.name.clone(), spec.marker.clone()))
    }

    fn delete(&self, held: &OwnedCollection) -> Result<()> {
        let parent = self.root.join(files::COLLECTIONS);
        let old = parent.join(files::hidden("old"));
        {
            let mut state = self.state();
            let collection = state.owned(held)?.clone();
            let aliases = state.aliases_of(held.name());
            if !aliases.is_empty() {
                return Err(checks::in_production(held.name(), &aliases));
            }
            collection.retire(&old)?;
            state.collections.remove(held.name());
        }
        files::sync_directory(&parent).map_err(|e| files::io(e, "deleting a collection", &parent))?;
        files::remove(&old)
    }
}

/// Makes the whole directory of a new collection, durable.
fn build(dir: &Path, file: &CollectionFile) -> Result<()> {
    let shard_dir = dir.join(files::SHARD);
    std::fs::create_dir_all(&shard_dir).map_err(|e| files::io(e, "creating a collection", &shard_dir))?;
    let shard = engine::create(dir, file)?;
    for name in file.payload_indexes.keys() {
        // A field that cannot be addressed is refused now, not when the index is built.
        filter::json_path(&conditions::path(name)?)?;
    }
    engine::close(dir, shard)?;
    file.save(dir)
}

#[async_trait]
impl Target for EmbeddedTarget {
    fn kind(&self) -> &'static str {
        "embedded"
    }

    fn capabilities(&self) -> Capabilities {
        // The engine applies one operation at a time to a shard.
        Capabilities { write_concurrency: 1, max_batch_points: 1024, ..Capabilities::local() }
    }

    async fn server(&self) -> Result<ServerInfo> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let details = BTreeMap::from([("qdrant-edge".to_owned(), ENGINE.to_owned())]);
        Ok(ServerInfo { name: "embedded".to_owned(), version, details })
    }

    async fn unsupported(&self, spec: &CollectionSpec) -> Result<Vec<String>> {
        checks::spec(spec)?;
        let mut out = Vec::new();
        out.extend(spec.own.keys().map(|key| format!("{key}: the embedded database has no such parameter")));
        out.extend(
            spec.roles.iter().map(|role| format!("the rights of {}: the embedded database has no roles", role.name)),
        );
        Ok(out)
    }

    async fn list(&self) -> Result<Vec<String>> {
        Ok(self.inner.state().collections.keys().cloned().collect())
    }

    async fn describe(&self, name: &str) -> Result<Option<CollectionInfo>> {
        let name = name.to_owned();
        self.blocking(move |inner| {
            let (collection, aliases) = {
                let state = inner.state();
                let physical = state.physical(&name);
                let Some(collection) = state.collections.get(physical) else { return Ok(None) };
                (collection.clone(), state.aliases_of(physical))
            };
            collection.info(aliases).map(Some)
        })
        .await
    }

    async fn create(&self, spec: &CollectionSpec) -> Result<OwnedCollection> {
        checks::spec(spec)?;
        let spec = spec.clone();
        self.blocking(move |inner| inner.create(&spec)).await
    }

    async fn open_owned(&self, name: &str) -> Result<OwnedCollection> {
        self.reading(name, |collection| {
            // The marker is in `collection.json`, so that a collection whose vectors are damaged can be deleted.
            let file = collection.file();
            Ok(OwnedCollection::attest(file.name, file.marker))
        })
        .await
    }

    async fn adopt(&self, name: &str, _: Marker) -> Result<OwnedCollection> {
        // There are no others: a collection is its marker and its points.
        let owned = self.open_owned(name).await?;
        Err(checks::owned_already(owned.name()))
    }

    async fn mark(&self, collection: &OwnedCollection, marker: Marker) -> Result<OwnedCollection> {
        checks::same_instance(collection.name(), collection.marker().instance, marker.instance)?;
        let name = collection.name().to_owned();
        self.owning(collection, move |collection| {
            collection.edit(|file| file.marker = marker.clone())?;
            Ok(OwnedCollection::attest(name, marker))
        })
        .await
    }

    async fn write(&self, collection: &OwnedCollection, points: Vec<Point>) -> Result<WriteOutcome> {
        self.owning(collection, move |collection| collection.write(points)).await
    }

    async fn flush(&self, collection: &OwnedCollection) -> Result<()> {
        self.owning(collection, |collection| collection.flush()).await
    }

    async fn start_index(&self, collection: &OwnedCollection) -> Result<()> {
        self.owning(collection, index::start).await
    }

    async fn index_state(&self, collection: &OwnedCollection) -> Result<IndexState> {
        self.owning(collection, |collection| index::state(collection)).await
    }

    async fn count(&self, name: &str, filter: &Filter) -> Result<u64> {
        let filter = conditions::check(filter)?;
        self.reading(name, move |collection| collection.count(&filter)).await
    }

    async fn fetch(&self, name: &str, ids: &[ChunkId]) -> Result<Vec<Point>> {
        let ids = ids.to_vec();
        self.reading(name, move |collection| collection.fetch(&ids)).await
    }

    async fn scroll(&self, name: &str, after: Option<ChunkId>, limit: usize) -> Result<ScrollPage> {
        self.reading(name, move |collection| collection.scroll(after, limit)).await
    }

    async fn search(&self, name: &str, request: &SearchRequest) -> Result<Vec<ScoredPoint>> {
        let filter = conditions::check(&request.filter)?;
        let (request, asked) = (request.clone(), name.to_owned());
        self.reading(name, move |collection| collection.search(&asked, &request, &filter)).await
    }

    async fn promote(&self, alias: &str, collection: &OwnedCollection) -> Result<Option<String>> {
        checks::name("production name", alias)?;
        let (alias, held) = (alias.to_owned(), collection.clone());
        self.blocking(move |inner| {
            let mut state = inner.state();
            if state.collections.contains_key(&alias) {
                return Err(checks::alias_is_physical(&alias));
            }
            state.owned(&held)?;
            let mut aliases = state.aliases.clone();
            let previous = aliases.insert(alias, held.name().to_owned());
            files::save_aliases(&inner.root, &aliases)?;
            state.aliases = aliases;
            Ok(previous)
        })
        .await
    }

    async fn delete(&self, collection: OwnedCollection) -> Result<()> {
        self.blocking(move |inner| inner.delete(&collection)).await
    }
}
