//! Building the index: in a thread of its own, after the load, over all cores.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use qdrant_edge::{CreateIndex, EdgeShard, FieldIndexOperations, UpdateOperation};

use super::collection::Collection;
use super::{engine, files, filter};
use crate::error::{Error, ErrorKind, Result};
use crate::targets::filter as conditions;
use crate::targets::types::IndexState;

/// The last index build of this process.
#[derive(Debug, Default)]
pub(super) enum Job {
    /// None was started.
    #[default]
    None,
    /// It goes on.
    Running,
    /// It ended well: what the engine left without a graph needs none.
    Done,
    /// It failed.
    Failed(ErrorKind, String),
}

fn job(collection: &Collection) -> MutexGuard<'_, Job> {
    collection.job.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a build unless one is running. Writes wait until it has ended; reads go on.
pub(super) fn start(collection: &Arc<Collection>) -> Result<()> {
    let mut running = job(collection);
    if matches!(*running, Job::Running) {
        return Ok(());
    }
    let shared = collection.clone();
    let outcome = collection.job.clone();
    // The directory stays this process's while the build goes on, also when the target is dropped.
    let lock = collection.lock.upgrade();
    let spawned = std::thread::Builder::new().name("regrow-index".to_owned()).spawn(move || {
        let result = build(&shared);
        if shared.is_deleted() {
            // The engine may have made directories under the old name; the next open removes them otherwise.
            let _ = files::remove(&shared.dir);
        }
        // Whoever waits for the outcome may open the directory again at once.
        drop(shared);
        drop(lock);
        *outcome.lock().unwrap_or_else(PoisonError::into_inner) = match result {
            Ok(()) => Job::Done,
            Err(e) => {
                let causes: String = e.causes().iter().map(|cause| format!(": {cause}")).collect();
                Job::Failed(e.kind(), format!("{e}{causes}"))
            }
        };
    });
    spawned.map_err(|e| Error::new(ErrorKind::Target, "cannot start a thread to build the index").because(e))?;
    *running = Job::Running;
    Ok(())
}

fn build(collection: &Collection) -> Result<()> {
    let mut since_open = collection.lock_writer();
    // The engine builds beside what is there, then removes what was.
    engine::room(&collection.dir, "building the index", collection.options.reserve_bytes)?;
    collection.with_shard(|shard| {
        engine::flush(&collection.dir, shard)?;
        let before = files::segments(&collection.shard_dir())?;
        collection.edit(|file| file.building = Some(before))?;
        index_payload(collection, shard)?;
        engine::call(&collection.dir, "building the index", || shard.optimize())?;
        engine::flush(&collection.dir, shard)?;
        collection.edit(|file| {
            file.building = None;
            file.payload_indexed = true;
        })
    })?;
    collection.written.store(false, Ordering::Release);
    // Gives back what the build held in memory.
    collection.reopen(&mut since_open, true)
}

/// Makes the payload indexes. Not before the load: the engine keeps those of a segment that is written to in
/// memory, about 1 KB per point. Before the graph: its links follow them, so that filtered searches find their way.
fn index_payload(collection: &Collection, shard: &EdgeShard) -> Result<()> {
    for (name, kind) in &collection.file().payload_indexes {
        let operation = FieldIndexOperations::CreateIndex(CreateIndex {
            field_name: filter::json_path(&conditions::path(name)?)?,
            field_schema: Some(filter::schema(name, *kind)),
        });
        engine::call(&collection.dir, "creating a payload index", || {
            shard.update(UpdateOperation::FieldIndexOperation(operation))
        })?;
    }
    Ok(())
}

/// How far the build is.
pub(super) fn state(collection: &Collection) -> Result<IndexState> {
    let total = collection.count(&[])?;
    let dimension = collection.file().dimension as u64;
    let indexed = collection
        .with_shard(|shard| {
            engine::call(&collection.dir, "reading a collection", || Ok(shard.info().indexed_vectors_count as u64))
        })?
        .min(total);
    let clean = !collection.written.load(Ordering::Acquire);
    let without_graph = (total - indexed) * dimension * 4;
    let done = match &*job(collection) {
        Job::Running => false,
        Job::Failed(kind, why) => {
            return Err(Error::new(*kind, "building the index failed")
                .with("collection", collection.name())
                .with("reason", why)
                .guidance("start the index build again"));
        }
        Job::Done if clean => true,
        Job::Done | Job::None => total == 0 || (clean && without_graph < engine::PLAIN_BYTES),
    };
    Ok(IndexState { done, indexed, total })
}
