//! One collection of the embedded database: an engine shard and `collection.json`.
//!
//! Durability. The engine writes a log ahead of its segments but does not read it back when it opens a
//! shard, so what survives a kill is what was flushed, and a torn tail is repaired by writing the same
//! points again. The log would grow with every write and stay mapped into memory like the vectors, so
//! the shard is closed and opened again after every so many bytes: memory stays bounded and the log is cut.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use qdrant_edge::{EdgeShard, PointId, PointInsertOperations, PointOperations, UpdateOperation};
use uuid::Uuid;

use super::files::{self, CollectionFile, DirectoryLock};
use super::index::Job;
use super::{EmbeddedOptions, engine, filter, points};
use crate::error::Result;
use crate::event::Events;
use crate::ids::ChunkId;
use crate::targets::checks;
use crate::targets::filter::{Checked, matches_nothing};
use crate::targets::types::*;

/// Points of one engine operation together stay below this, so that the log's files keep their size.
const OPERATION_BYTES: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Collection {
    pub(super) dir: PathBuf,
    pub(super) options: EmbeddedOptions,
    pub(super) events: Events,
    file: RwLock<CollectionFile>,
    /// `None` while it is closed: before the first use and after a failure.
    shard: RwLock<Option<EdgeShard>>,
    /// Held by whatever changes the shard; counts bytes written since the shard was opened.
    writer: Mutex<u64>,
    pub(super) job: Arc<Mutex<Job>>,
    /// Points were written after the last index build.
    pub(super) written: AtomicBool,
    deleted: AtomicBool,
    /// Whoever uses the collection without the target, as an index build does, has to hold this.
    pub(super) lock: Weak<DirectoryLock>,
}

impl Drop for Collection {
    fn drop(&mut self) {
        let shard = self.shard.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(shard) = shard
            && let Err(e) = engine::close(&self.dir, shard)
            && !self.deleted.load(Ordering::Relaxed)
        {
            self.events.warn(format!("{e}: what was written since the last flush may be lost"));
        }
    }
}

impl Collection {
    pub(super) fn new(
        dir: PathBuf,
        file: CollectionFile,
        options: EmbeddedOptions,
        events: Events,
        lock: &Arc<DirectoryLock>,
    ) -> Self {
        let interrupted = file.building.is_some();
        Self {
            dir,
            options,
            events,
            file: RwLock::new(file),
            shard: RwLock::new(None),
            writer: Mutex::new(0),
            job: Arc::default(),
            written: AtomicBool::new(interrupted),
            deleted: AtomicBool::new(false),
            lock: Arc::downgrade(lock),
        }
    }

    pub(super) fn file(&self) -> CollectionFile {
        self.file.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn name(&self) -> String {
        self.file.read().unwrap_or_else(PoisonError::into_inner).name.clone()
    }

    /// Changes `collection.json`, on disk first.
    pub(super) fn edit(&self, change: impl FnOnce(&mut CollectionFile)) -> Result<()> {
        let mut file = self.file.write().unwrap_or_else(PoisonError::into_inner);
        let mut new = file.clone();
        change(&mut new);
        new.save(&self.dir)?;
        *file = new;
        Ok(())
    }

    pub(super) fn shard_dir(&self) -> PathBuf {
        self.dir.join(files::SHARD)
    }

    pub(super) fn lock_writer(&self) -> MutexGuard<'_, u64> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Runs `f` on the open shard, opening it if need be.
    pub(super) fn with_shard<R>(&self, f: impl FnOnce(&EdgeShard) -> Result<R>) -> Result<R> {
        loop {
            if self.is_deleted() {
                return Err(checks::not_found(&self.name()));
            }
            {
                let shard = self.shard.read().unwrap_or_else(PoisonError::into_inner);
                if let Some(shard) = &*shard {
                    return f(shard);
                }
            }
            let mut shard = self.shard.write().unwrap_or_else(PoisonError::into_inner);
            if shard.is_none() {
                *shard = Some(self.load()?);
            }
        }
    }

    /// Opens the shard. After an interrupted index build it is as it was before, or as it was to become.
    fn load(&self) -> Result<EdgeShard> {
        let file = self.file();
        let shard_dir = self.shard_dir();
        files::remove(&files::unfinished_segments(&shard_dir))?;
        let Some(before) = &file.building else {
            return engine::load(&self.dir, &file);
        };
        let now = files::segments(&shard_dir)?;
        if before.iter().all(|segment| now.contains(segment)) {
            // Nothing is written during a build, so segments that came since hold copies only.
            for new in now.iter().filter(|segment| !before.contains(segment)) {
                files::remove(&files::segment(&shard_dir, new))?;
            }
            return engine::load(&self.dir, &file);
        }
        let shard = engine::load(&self.dir, &file)?;
        self.merge_copies(&shard)?;
        Ok(shard)
    }

    /// A kill between adding a finished segment and removing its sources leaves points in both. Writing such
    /// a point again moves it out of the finished one; two segments that both take writes, which only very
    /// small ones do, need it deleted before.
    fn merge_copies(&self, shard: &EdgeShard) -> Result<()> {
        for delete_first in [false, true] {
            let held = engine::call(&self.dir, "reading a collection", || Ok(shard.info().points_count as u64))?;
            let distinct = self.pages(shard, false, |_| Ok(()))?;
            if held == distinct {
                return Ok(());
            }
            self.events.note(format!(
                "collection {}: an interrupted index build left {} points twice; putting that right",
                self.name(),
                held.saturating_sub(distinct)
            ));
            self.pages(shard, true, |points| {
                if delete_first {
                    let ids = points.iter().map(|p| PointId::Uuid(p.id.0)).collect();
                    let operation = UpdateOperation::PointOperation(PointOperations::DeletePoints { ids });
                    engine::call(&self.dir, "writing points", || shard.update(operation))?;
                }
                self.apply(shard, points).map(|_| ())
            })?;
            engine::flush(&self.dir, shard)?;
        }
        Ok(())
    }

    /// Hands every point to `f` in pages, with vector and payload if `all`; returns how many there were.
    fn pages(&self, shard: &EdgeShard, all: bool, f: impl Fn(Vec<Point>) -> Result<()>) -> Result<u64> {
        let (mut count, mut after) = (0, None);
        loop {
            let page = self.page(shard, after, 1024, all)?;
            count += page.points.len() as u64;
            f(page.points)?;
            after = page.next;
            if after.is_none() {
                return Ok(count);
            }
        }
    }

    fn apply(&self, shard: &EdgeShard, points: Vec<Point>) -> Result<u64> {
        let mut total = 0;
        let mut operation = Vec::new();
        let mut bytes = 0;
        let send = |operation: Vec<_>| {
            let operation = PointOperations::UpsertPoints(PointInsertOperations::PointsList(operation));
            engine::call(&self.dir, "writing points", || shard.update(UpdateOperation::PointOperation(operation)))
        };
        for point in points {
            let size = points::size(&point);
            if bytes + size > OPERATION_BYTES && !operation.is_empty() {
                send(std::mem::take(&mut operation))?;
                bytes = 0;
            }
            bytes += size;
            total += size as u64;
            operation.push(points::to_engine(point));
        }
        if !operation.is_empty() {
            send(operation)?;
        }
        Ok(total)
    }

    pub(super) fn write(&self, points: Vec<Point>) -> Result<WriteOutcome> {
        let (good, refused) = checks::sort_out(points, self.file().dimension);
        let written = good.len();
        if written == 0 {
            return Ok(WriteOutcome { written, refused });
        }
        let mut since_open = self.lock_writer();
        // Segments and log each take a copy.
        let needed = 3 * good.iter().map(|p| points::size(p) as u64).sum::<u64>();
        engine::room(&self.dir, "writing points", self.options.reserve_bytes + needed)?;
        self.written.store(true, Ordering::Release);
        let result = self.with_shard(|shard| self.apply(shard, good));
        match result {
            Ok(bytes) => *since_open += bytes,
            Err(e) => {
                // Whatever state the engine is in, the next call starts from what is on disk.
                let _ = self.reopen(&mut since_open, false);
                return Err(e);
            }
        }
        if *since_open >= self.options.reopen_bytes {
            self.reopen(&mut since_open, true)?;
        }
        Ok(WriteOutcome { written, refused })
    }

    pub(super) fn flush(&self) -> Result<()> {
        let mut since_open = self.lock_writer();
        let result = self.with_shard(|shard| engine::flush(&self.dir, shard));
        if result.is_err() {
            let _ = self.reopen(&mut since_open, false);
        }
        result
    }

    /// Closes the shard, which flushes it, and cuts the log; the next use opens it again.
    pub(super) fn reopen(&self, since_open: &mut u64, trim: bool) -> Result<()> {
        // Held to the end: nobody opens the shard before it is closed.
        let mut shard = self.shard.write().unwrap_or_else(PoisonError::into_inner);
        *since_open = 0;
        if let Some(shard) = shard.take() {
            engine::close(&self.dir, shard)?;
        }
        if trim { files::trim_log(&self.shard_dir()) } else { Ok(()) }
    }

    pub(super) fn count(&self, checked: &[Checked]) -> Result<u64> {
        if matches_nothing(checked) {
            return Ok(0);
        }
        let filter = filter::filter(checked)?;
        self.with_shard(|shard| {
            let request = qdrant_edge::CountRequest { filter, exact: true };
            Ok(engine::call(&self.dir, "counting points", || shard.count(request))? as u64)
        })
    }

    pub(super) fn fetch(&self, ids: &[ChunkId]) -> Result<Vec<Point>> {
        let ids: Vec<PointId> = ids.iter().map(|id| PointId::Uuid(id.0)).collect();
        self.with_shard(|shard| {
            let records = engine::call(&self.dir, "fetching points", || {
                shard.retrieve(&ids, Some(true.into()), Some(true.into()))
            })?;
            records.into_iter().map(|record| points::from_engine(&self.dir, record)).collect()
        })
    }

    pub(super) fn scroll(&self, after: Option<ChunkId>, limit: usize) -> Result<ScrollPage> {
        self.with_shard(|shard| self.page(shard, after, limit.max(1), true))
    }

    fn page(&self, shard: &EdgeShard, after: Option<ChunkId>, limit: usize, all: bool) -> Result<ScrollPage> {
        let offset = match after {
            None => None,
            Some(id) => match id.0.as_u128().checked_add(1) {
                // The engine's offset is the first point, ours the last one before.
                Some(next) => Some(PointId::Uuid(Uuid::from_u128(next))),
                None => return Ok(ScrollPage { points: Vec::new(), next: None }),
            },
        };
        let request = qdrant_edge::ScrollRequest {
            offset,
            limit: Some(limit),
            filter: None,
            with_payload: Some(all.into()),
            with_vector: all.into(),
            order_by: None,
        };
        let (records, next) = engine::call(&self.dir, "reading points", || shard.scroll(request))?;
        let points: Vec<Point> =
            records.into_iter().map(|record| points::from_engine(&self.dir, record)).collect::<Result<_>>()?;
        let next = if next.is_some() { points.last().map(|p| p.id) } else { None };
        Ok(ScrollPage { points, next })
    }

    pub(super) fn search(&self, name: &str, request: &SearchRequest, checked: &[Checked]) -> Result<Vec<ScoredPoint>> {
        let file = self.file();
        checks::query(name, &request.vector, file.dimension)?;
        if request.limit == 0 || matches_nothing(checked) {
            return Ok(Vec::new());
        }
        let filter = filter::filter(checked)?;
        let query = points::Query { metric: file.metric, ef: file.index.ef_search as usize, filter };
        self.with_shard(|shard| query.run(&self.dir, shard, request))
    }

    pub(super) fn info(&self, aliases: Vec<String>) -> Result<CollectionInfo> {
        let count = self.count(&[])?;
        let file = self.file();
        let mut payload_indexes = file.payload_indexes;
        if file.payload_indexed {
            // What is really there, not what was asked for.
            let schema = self.with_shard(|shard| {
                engine::call(&self.dir, "reading a collection", || Ok(shard.info().payload_schema))
            })?;
            let mut there = BTreeMap::new();
            for (name, kind) in payload_indexes {
                if schema.contains_key(&filter::json_path(&crate::targets::filter::path(&name)?)?) {
                    there.insert(name, kind);
                }
            }
            payload_indexes = there;
        }
        Ok(CollectionInfo {
            name: file.name,
            aliases,
            dimension: file.dimension,
            metric: file.metric,
            index: file.index,
            payload_indexes,
            count,
            tenants: Tenants { count: None, kept: TenantKeeping::Payload },
            roles: Vec::new(),
            own: serde_json::Map::new(),
            marker: Some(file.marker),
        })
    }

    /// Takes the collection out of use and moves its directory to `to`. A running index build fails by
    /// this and closes the shard itself: nobody has to wait for a graph that nobody wants any more.
    pub(super) fn retire(&self, to: &Path) -> Result<()> {
        let mut shard = self.shard.try_write().ok();
        if let Some(shard) = shard.as_mut().and_then(|shard| shard.take()) {
            // What cannot be flushed is deleted all the same.
            let _ = engine::close(&self.dir, shard);
        }
        std::fs::rename(&self.dir, to).map_err(|e| files::io(e, "deleting a collection", &self.dir))?;
        self.deleted.store(true, Ordering::Release);
        Ok(())
    }
}
