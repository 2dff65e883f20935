//! The engine behind calls that return regrow's errors: its panics are caught, a full disk is recognised
//! before the engine's memory-mapped files meet it, and its shard is opened and closed in one place.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use qdrant_edge::{
    Distance, EdgeConfig, EdgeOptimizersConfig, EdgeShard, EdgeVectorParams, HnswIndexConfig, OperationResult,
    WalOptions,
};

use super::files::{self, CollectionFile};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Metric;

/// Vectors of a segment together smaller than this get no graph: searching them all is as fast.
pub(super) const PLAIN_BYTES: u64 = 1024;

/// The engine's plain search over fewer bytes of vectors than this beats its graph, with a filter too.
const FULL_SCAN_KB: usize = 1000;

/// The engine's write-ahead log grows in files of this size; each is mapped into memory while it is open.
const LOG_FILE_BYTES: usize = 16 << 20;

fn config(file: &CollectionFile) -> EdgeConfig {
    let threads = match file.index.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let params = EdgeVectorParams::builder(
        file.dimension,
        match file.metric {
            Metric::Cosine => Distance::Cosine,
            Metric::Dot => Distance::Dot,
            Metric::Euclidean => Distance::Euclid,
        },
    )
    .on_disk(true)
    .build();
    let hnsw = HnswIndexConfig {
        m: file.index.m as usize,
        ef_construct: file.index.ef_construct as usize,
        full_scan_threshold: FULL_SCAN_KB,
        max_indexing_threads: threads,
        on_disk: Some(true),
        ..HnswIndexConfig::default()
    };
    // Nothing is indexed or merged before `optimize` is called, so these rule the index build only:
    // whatever was loaded becomes one graph.
    let optimizers = EdgeOptimizersConfig {
        default_segment_number: Some(2),
        max_segment_size: Some(usize::MAX >> 12),
        indexing_threshold: Some(1),
        ..EdgeOptimizersConfig::default()
    };
    let log = WalOptions { segment_capacity: LOG_FILE_BYTES, ..WalOptions::default() };
    EdgeConfig::builder()
        .on_disk_payload(true)
        .vector("", params)
        .hnsw_config(hnsw)
        .optimizers(optimizers)
        .wal_options(log)
        .build()
}

/// Makes the shard of a new collection.
pub(super) fn create(dir: &Path, file: &CollectionFile) -> Result<EdgeShard> {
    call(dir, "creating a collection", || EdgeShard::new(&dir.join(files::SHARD), config(file)))
}

/// Opens the shard of a collection.
pub(super) fn load(dir: &Path, file: &CollectionFile) -> Result<EdgeShard> {
    call(dir, "opening a collection", || EdgeShard::load(&dir.join(files::SHARD), Some(config(file)))).map_err(|e| {
        if e.kind() == ErrorKind::StorageFull {
            return e;
        }
        e.with("collection", &file.name).guidance(
            "the collection's files are damaged; it can be rebuilt from its vector set: delete it and restore again",
        )
    })
}

/// Flushes and closes a shard. The engine flushes when a shard is dropped, and panics if it cannot.
pub(super) fn close(dir: &Path, shard: EdgeShard) -> Result<()> {
    call(dir, "closing a collection", move || {
        drop(shard);
        Ok(())
    })
}

/// Makes everything written before durable.
pub(super) fn flush(dir: &Path, shard: &EdgeShard) -> Result<()> {
    call(dir, "flushing a collection", || {
        shard.flush();
        Ok(())
    })
}

/// Runs the engine.
pub(super) fn call<R>(dir: &Path, doing: &str, f: impl FnOnce() -> OperationResult<R>) -> Result<R> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(result)) => Ok(result),
        // The engine's own backtrace is of no use to the reader.
        Ok(Err(e)) => Err(failed(dir, doing, e.to_string())),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Err(failed(dir, doing, text.unwrap_or_else(|| "the engine panicked".to_owned())))
        }
    }
}

/// The engine's errors are texts, so a full disk is told by the disk.
fn failed(dir: &Path, doing: &str, cause: String) -> Error {
    match room(dir, doing, LOG_FILE_BYTES as u64) {
        Err(full) => full.because(cause),
        Ok(()) => Error::new(ErrorKind::Target, format!("{doing} failed in the embedded engine"))
            .with("path", dir.display())
            .guidance("if it happens again, delete the collection and restore it from its vector set")
            .because(cause),
    }
}

/// An error when the device has less than `bytes` left. The engine writes through memory maps, and a
/// full disk under one of those ends the process, so it has to be seen beforehand.
pub(super) fn room(dir: &Path, doing: &str, bytes: u64) -> Result<()> {
    let Ok(available) = fs4::available_space(dir) else {
        // A file system that does not say: nothing to decide on.
        return Ok(());
    };
    if available >= bytes {
        return Ok(());
    }
    Err(Error::new(ErrorKind::StorageFull, format!("{doing} needs more room than the device has left"))
        .with("path", dir.display())
        .with("needed_bytes", bytes)
        .with("available_bytes", available)
        .guidance("free some room and run the same command again: it continues where it stopped"))
}
