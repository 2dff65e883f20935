//! Capturing: blobs into packs as they are read, on the threads that read them, and at the end the index.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Instant;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::cut::{Cutter, LARGEST};
use super::index::{BlobAt, CapturedObject, IndexReader, IndexWriter, PARTITION_BITS, PARTITIONS};
use super::pack::{FULL, Pack, PackBuilder};
use crate::corpus::{Document, SourceObject, Tap};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::measure::{Busy, cores};
use crate::pipeline::CaptureMode;
use crate::repository::{Captured, Manifest, ObjectRef, Repository, bucket_of, path};
use crate::spill::Spill;

/// Blobs that are remembered, so that the same bytes are stored once: about 50 bytes each. Beyond this, only what the
/// previous snapshot has under the same path is shared.
const KNOWN: usize = 8 << 20;
/// Packs that are filled at the same time, at most.
const OPEN: usize = 8;
/// Packs that are being stored at the same time.
const STORING: usize = 2;
/// Pieces of one large object that are compressed at the same time.
const AHEAD: usize = 4;
/// Small packs there may be before some are merged, how many are merged in one run, and what is small.
const SMALL_PACKS: usize = 64;
const SMALL: u64 = FULL as u64 / 4;

/// Where blobs are, pack and row, by the first half of their digest.
type Known = HashMap<[u8; 16], (u32, u32)>;

/// What was captured.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CaptureTotals {
    /// Objects (mode `copy`) or documents (mode `text`) in the index.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that were new.
    pub new_blobs: u64,
    /// Bytes of these, before compression.
    pub new_bytes: u64,
    /// Packs that were stored.
    pub new_packs: u64,
    /// Their size: what this snapshot's documents have added to the repository.
    pub stored_bytes: u64,
    /// Small packs whose blobs were merged into larger ones.
    pub merged_packs: u64,
    /// Seconds that all threads together spent on hashing, compressing, sealing and handing over what was captured.
    /// Reading is not among them: cutting needs the same bytes.
    pub busy_seconds: f64,
}

/// What is put aside until the index is written.
#[derive(Serialize, Deserialize)]
enum Entry {
    /// A row, and how often its object had changed while it was read.
    Row(u32, CapturedObject),
    /// A path whose rows are those of the previous snapshot.
    Keep(String),
}

/// Captures the documents of one snapshot. Shared by all who read; blocks where it compresses or waits.
pub(crate) struct CaptureWriter {
    shared: Arc<Shared>,
    mode: CaptureMode,
}

struct Shared {
    repository: Repository,
    previous: Captured,
    slots: Vec<Mutex<Option<(u32, PackBuilder)>>>,
    known: OnceLock<Mutex<Known>>,
    loading: Mutex<()>,
    /// New packs; they are counted on from the previous snapshot's.
    packs: Mutex<Vec<Option<ObjectRef>>>,
    store: Mutex<Option<Store>>,
    entries: Mutex<Spill<Entry>>,
    counts: Mutex<Counts>,
    busy: Busy,
}

/// The task that stores packs, and the way to it.
struct Store {
    packs: mpsc::Sender<(u32, Bytes, u64)>,
    task: JoinHandle<Result<Vec<(u32, ObjectRef)>>>,
}

#[derive(Default)]
struct Counts {
    rows: u64,
    totals: CaptureTotals,
    /// How often objects changed while they were read.
    again: HashMap<String, u32>,
    /// Record files whose documents are kept (mode `text`): their rows are in all partitions.
    kept_files: HashSet<String>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CaptureWriter {
    /// Begins to capture; nothing in the mode `reference`. What `previous` holds in the same mode is not stored again.
    /// To be called within a runtime.
    pub(crate) fn begin(
        repository: &Repository,
        mode: CaptureMode,
        previous: Option<&Manifest>,
    ) -> Result<Option<Arc<Self>>> {
        if mode == CaptureMode::Reference {
            return Ok(None);
        }
        let previous = previous.filter(|m| m.corpus.capture == mode).and_then(|m| m.captured.clone());
        Self::after(repository, mode, previous.unwrap_or_default()).map(|this| Some(Arc::new(this)))
    }

    /// Begins to capture; what `previous` holds in the same mode is not stored again.
    pub(super) fn after(repository: &Repository, mode: CaptureMode, previous: Captured) -> Result<Self> {
        Ok(Self {
            shared: Arc::new(Shared {
                repository: repository.clone(),
                previous,
                slots: (0..cores().clamp(1, OPEN)).map(|_| Mutex::new(None)).collect(),
                known: OnceLock::new(),
                loading: Mutex::new(()),
                packs: Mutex::default(),
                store: Mutex::new(Some(Store::start(repository.clone()))),
                entries: Mutex::new(Spill::new(PARTITIONS as usize)?),
                counts: Mutex::default(),
                busy: Busy::default(),
            }),
            mode,
        })
    }

    /// What is to see the bytes of one object, in the mode `copy`.
    pub(crate) fn tap(&self) -> Option<Box<dyn Tap>> {
        (self.mode == CaptureMode::Copy).then(|| Box::new(ObjectTap::new(self.shared.clone())) as Box<dyn Tap>)
    }

    /// Captures a document, in the mode `text`. Call it on a blocking thread.
    pub(crate) fn document(&self, object: &SourceObject, document: &Document) -> Result<()> {
        if self.mode != CaptureMode::Text {
            return Ok(());
        }
        let bytes = document_bytes(document)?;
        let mut blobs = Vec::with_capacity(1);
        let mut cutter = Cutter::default();
        let mut add = |blob: &[u8]| self.shared.add(blob).map(|at| blobs.push(at));
        cutter.push(&bytes, &mut add)?;
        cutter.finish(&mut add)?;
        let digest = match blobs.as_slice() {
            [one] => one.blob,
            _ => Digest::of(&bytes),
        };
        self.shared.row(CapturedObject {
            id: document.id.clone(),
            path: document.path.clone(),
            line: document.line,
            bytes: bytes.len() as u64,
            modified: object.modified,
            digest,
            blobs,
        })
    }

    /// The object at `path` changed while it was read: what was captured of it so far does not count.
    pub(crate) fn again(&self, path: &str) {
        *locked(&self.shared.counts).again.entry(path.to_owned()).or_default() += 1;
    }

    /// The object at `path` is what it was in the previous snapshot: its rows are kept, and nothing is read.
    /// `records` says whether it is a record file. The previous snapshot must have captured it in the same mode.
    pub(crate) fn keep(&self, path: &str, records: bool) -> Result<()> {
        if records && self.mode == CaptureMode::Text {
            locked(&self.shared.counts).kept_files.insert(path.to_owned());
            return Ok(());
        }
        locked(&self.shared.counts).rows += 1;
        let partition = bucket_of(path, PARTITION_BITS) as usize;
        locked(&self.shared.entries).push(partition, &Entry::Keep(path.to_owned()))
    }

    /// Whether there is something to keep: the previous snapshot captured its documents in this mode. Where it did not,
    /// every object must be read.
    #[cfg(test)]
    pub(crate) fn has_previous(&self) -> bool {
        !self.shared.previous.index.is_empty()
    }

    /// Stores what is left and writes the index.
    ///
    /// # Errors
    /// `Damaged` when a path that was to be kept is not in the previous snapshot's index; errors of the repository.
    pub(crate) async fn finish(&self) -> Result<(Captured, CaptureTotals)> {
        let merged = self.shared.merge().await?;
        let start = Instant::now();
        self.shared.close().await?;
        self.shared.busy.since(start);
        let (captured, mut totals) = self.index(&merged).await?;
        totals.busy_seconds = self.shared.busy.seconds();
        Ok((captured, totals))
    }

    async fn index(&self, merged: &HashMap<(u32, u32), (u32, u32)>) -> Result<(Captured, CaptureTotals)> {
        let shared = &self.shared;
        let (mut totals, again, kept_files, rows) = {
            let mut counts = locked(&shared.counts);
            let kept_files = std::mem::take(&mut counts.kept_files);
            let before: u64 = shared.previous.index.iter().filter_map(|o| o.rows).sum();
            let rows = if kept_files.is_empty() { counts.rows } else { before.max(counts.rows) };
            (counts.totals.clone(), std::mem::take(&mut counts.again), kept_files, rows)
        };
        let mut packs: Vec<ObjectRef> = shared.previous.packs.clone();
        for pack in locked(&shared.packs).iter() {
            let stored = || Error::new(ErrorKind::Unexpected, "a pack was not stored");
            packs.push(pack.clone().ok_or_else(stored)?);
        }
        let mut used = vec![false; packs.len()];
        let mut previous = IndexReader::over(&shared.repository, &shared.previous.index);
        let mut writer = IndexWriter::new(&shared.repository, rows);
        for partition in 0..PARTITIONS {
            let entries = locked(&shared.entries).take(partition as usize)?;
            let (mut rows, mut kept) = (Vec::new(), HashSet::new());
            for entry in entries {
                match entry {
                    Entry::Row(time, row) if again.get(&row.path).copied().unwrap_or(0) == time => rows.push(row),
                    Entry::Row(..) => {}
                    Entry::Keep(path) => drop(kept.insert(path)),
                }
            }
            if !kept.is_empty() || !kept_files.is_empty() {
                for row in previous.partition(partition).await? {
                    let of_file = row.line.is_some() && kept_files.contains(&row.path);
                    if of_file || (row.line.is_none() && kept.remove(&row.path)) {
                        rows.push(row);
                    }
                }
            }
            if let Some(path) = kept.iter().next() {
                return Err(Error::new(
                    ErrorKind::Damaged,
                    "the previous snapshot did not capture an unchanged object",
                )
                .with("file", path)
                .guidance("take the snapshot with --rehash, which reads every object again"));
            }
            rows.sort_by(|a, b| (&a.id, &a.path, a.line).cmp(&(&b.id, &b.path, b.line)));
            rows.dedup_by(|b, a| a.id == b.id);
            for row in &mut rows {
                totals.objects += 1;
                totals.bytes += row.bytes;
                for blob in &mut row.blobs {
                    if let Some((pack, row)) = merged.get(&(blob.pack, blob.row)) {
                        (blob.pack, blob.row) = (*pack, *row);
                    }
                    *used
                        .get_mut(blob.pack as usize)
                        .ok_or_else(|| super::table::damaged("an index names a pack that is not listed"))? = true;
                }
            }
            writer.partition(partition, &rows).await?;
        }
        let mut index = writer.finish().await?;
        if used.contains(&false) {
            let (numbers, kept) = without_unused(&used, packs);
            packs = kept;
            index = renumber(&shared.repository, &index, &numbers).await?;
        }
        Ok((Captured { index, packs, objects: totals.objects, bytes: totals.bytes }, totals))
    }
}

/// The packs that are used, and the new number of each: those at the end move into the places of unused ones, so that
/// few rows change.
fn without_unused(used: &[bool], packs: Vec<ObjectRef>) -> (Vec<u32>, Vec<ObjectRef>) {
    let count = used.iter().filter(|used| **used).count();
    let mut numbers: Vec<u32> = (0..used.len() as u32).collect();
    let mut free = (0..count).filter(|at| !used[*at]);
    let mut kept: Vec<ObjectRef> = packs[..count].to_vec();
    for at in (count..used.len()).filter(|at| used[*at]) {
        if let Some(place) = free.next() {
            kept[place] = packs[at].clone();
            numbers[at] = place as u32;
        }
    }
    (numbers, kept)
}

/// The same index with other pack numbers; objects in which none changes stay as they are.
async fn renumber(repository: &Repository, index: &[ObjectRef], numbers: &[u32]) -> Result<Vec<ObjectRef>> {
    let rows = index.iter().filter_map(|o| o.rows).sum();
    let mut reader = IndexReader::over(repository, index);
    let mut writer = IndexWriter::new(repository, rows);
    for partition in 0..PARTITIONS {
        let mut rows = reader.partition(partition).await?;
        for blob in rows.iter_mut().flat_map(|row| &mut row.blobs) {
            blob.pack = numbers.get(blob.pack as usize).copied().unwrap_or(blob.pack);
        }
        writer.partition(partition, &rows).await?;
    }
    writer.finish().await
}

/// The canonical JSON of a document: what is captured in the mode `text`.
pub(super) fn document_bytes(document: &Document) -> Result<Vec<u8>> {
    serde_json::to_value(document)
        .and_then(|mut value| {
            // A dependency may turn on serde_json's insertion order for the whole binary.
            value.sort_all_objects();
            serde_json::to_vec(&value)
        })
        .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot write a document as JSON").because(e))
}

impl Store {
    fn start(repository: Repository) -> Self {
        let (packs, receiver) = mpsc::channel::<(u32, Bytes, u64)>(1);
        let task = tokio::spawn(async move {
            futures::stream::unfold(receiver, async |mut rx| rx.recv().await.map(|item| (item, rx)))
                .map(|(number, bytes, rows)| {
                    let repository = repository.clone();
                    async move {
                        let mut object = repository.put_content(path::DOCUMENTS, "parquet", bytes).await?;
                        object.rows = Some(rows);
                        Ok((number, object))
                    }
                })
                .buffer_unordered(STORING)
                .try_collect()
                .await
        });
        Self { packs, task }
    }
}

impl Shared {
    fn row(&self, row: CapturedObject) -> Result<()> {
        let time = {
            let mut counts = locked(&self.counts);
            counts.rows += 1;
            counts.again.get(&row.path).copied().unwrap_or(0)
        };
        let partition = bucket_of(&row.id, PARTITION_BITS) as usize;
        locked(&self.entries).push(partition, &Entry::Row(time, row))
    }

    /// Where these bytes are; stores them if they are new. Blocking.
    fn add(&self, bytes: &[u8]) -> Result<BlobAt> {
        let known = self.known()?;
        let start = Instant::now();
        let added = self.add_to(known, Digest::of(bytes), bytes);
        self.busy.since(start);
        added
    }

    fn add_to(&self, known: &Mutex<Known>, blob: Digest, bytes: &[u8]) -> Result<BlobAt> {
        let at = |(pack, row)| BlobAt { blob, bytes: bytes.len() as u64, pack, row };
        let key = key(&blob);
        if let Some(place) = locked(known).get(&key) {
            return Ok(at(*place));
        }
        let place = self.push(&blob, bytes)?;
        let mut known = locked(known);
        if known.len() < KNOWN {
            // Two that came at the same moment are both stored; either will do.
            known.insert(key, place);
        }
        drop(known);
        let mut counts = locked(&self.counts);
        counts.totals.new_blobs += 1;
        counts.totals.new_bytes += bytes.len() as u64;
        Ok(at(place))
    }

    /// Puts a blob into a pack that is open. Blocking.
    fn push(&self, blob: &Digest, bytes: &[u8]) -> Result<(u32, u32)> {
        let mut slot = self.slot();
        let (number, builder) = match &mut *slot {
            Some(open) => open,
            None => {
                let mut packs = locked(&self.packs);
                packs.push(None);
                let number = (self.previous.packs.len() + packs.len() - 1) as u32;
                slot.insert((number, PackBuilder::new(&self.repository)?))
            }
        };
        let place = (*number, builder.push(blob, bytes)?);
        if builder.is_full()
            && let Some((number, builder)) = slot.take()
        {
            drop(slot);
            self.store(number, builder)?;
        }
        Ok(place)
    }

    /// The first pack that nobody else is writing to: while there is little to do, one pack is filled.
    fn slot(&self) -> MutexGuard<'_, Option<(u32, PackBuilder)>> {
        for slot in &self.slots {
            match slot.try_lock() {
                Ok(guard) => return guard,
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        locked(&self.slots[self.slots.len() - 1])
    }

    /// Hands a full pack to the task that stores it; waits while others are being stored. Blocking.
    fn store(&self, number: u32, builder: PackBuilder) -> Result<()> {
        let (bytes, rows) = builder.finish()?;
        let sender = locked(&self.store).as_ref().map(|store| store.packs.clone());
        let sent = sender.is_some_and(|sender| sender.blocking_send((number, bytes, rows)).is_ok());
        if sent { Ok(()) } else { Err(self.failure()) }
    }

    /// Why packs cannot be stored any more.
    fn failure(&self) -> Error {
        let stopped = || Error::new(ErrorKind::Cancelled, "stopped");
        let Some(store) = locked(&self.store).take() else { return stopped() };
        drop(store.packs);
        match Handle::current().block_on(store.task) {
            Ok(Err(e)) => e,
            Ok(Ok(_)) => stopped(),
            Err(e) => e.into(),
        }
    }

    /// Closes the open packs and waits until all are stored.
    async fn close(self: &Arc<Self>) -> Result<()> {
        let shared = self.clone();
        tokio::task::spawn_blocking(move || {
            for slot in &shared.slots {
                if let Some((number, builder)) = locked(slot).take() {
                    shared.store(number, builder)?;
                }
            }
            Ok::<_, Error>(())
        })
        .await??;
        let store = locked(&self.store).take();
        let Some(store) = store else { return Err(Error::new(ErrorKind::Cancelled, "stopped")) };
        drop(store.packs);
        let stored = store.task.await??;
        let (mut packs, mut counts) = (locked(&self.packs), locked(&self.counts));
        for (number, object) in stored {
            counts.totals.new_packs += 1;
            counts.totals.stored_bytes += object.bytes;
            packs[number as usize - self.previous.packs.len()] = Some(object);
        }
        Ok(())
    }

    /// The blobs that are stored, by the first half of their digest. Those of the previous snapshot are read when the
    /// first is asked for: a snapshot in which nothing is new does not need them.
    fn known(&self) -> Result<&Mutex<Known>> {
        if let Some(known) = self.known.get() {
            return Ok(known);
        }
        let _loading = locked(&self.loading);
        if let Some(known) = self.known.get() {
            return Ok(known);
        }
        let load = async {
            let mut known = HashMap::new();
            let there = self.there().await?;
            let mut reader = IndexReader::over(&self.repository, &self.previous.index);
            for partition in 0..PARTITIONS {
                for blob in reader.partition(partition).await?.iter().flat_map(|row| &row.blobs) {
                    if known.len() < KNOWN && there.get(blob.pack as usize) == Some(&true) {
                        known.insert(key(&blob.blob), (blob.pack, blob.row));
                    }
                }
            }
            Ok::<_, Error>(known)
        };
        let known = match Handle::current().block_on(load) {
            Ok(known) => known,
            // Nothing of a damaged index is shared; what this snapshot needs is stored again.
            Err(e) if e.kind() == ErrorKind::Damaged => HashMap::new(),
            Err(e) => return Err(e),
        };
        Ok(self.known.get_or_init(|| Mutex::new(known)))
    }

    /// Which of the previous snapshot's packs are there, in their full size: what only a missing pack holds is stored
    /// again. (Whether their bytes are right is for `verify` to say.)
    async fn there(&self) -> Result<Vec<bool>> {
        let packs = &self.previous.packs;
        let numbers: HashMap<&str, usize> = packs.iter().enumerate().map(|(i, p)| (p.path.as_str(), i)).collect();
        let mut there = vec![false; packs.len()];
        if packs.is_empty() {
            return Ok(there);
        }
        let mut listed = self.repository.list(path::DOCUMENTS);
        while let Some((name, size, _)) = listed.try_next().await? {
            if let Some(number) = numbers.get(name.as_str()) {
                there[*number] = size == packs[*number].bytes;
            }
        }
        Ok(there)
    }

    /// Where there are many small packs, puts the blobs of the smallest into new ones: where each blob was and is.
    async fn merge(self: &Arc<Self>) -> Result<HashMap<(u32, u32), (u32, u32)>> {
        let mut moved = HashMap::new();
        let packs = &self.previous.packs;
        let mut small: Vec<u32> = (0..packs.len() as u32).filter(|n| packs[*n as usize].bytes < SMALL).collect();
        if small.len() <= SMALL_PACKS {
            return Ok(moved);
        }
        small.sort_by_key(|number| packs[*number as usize].bytes);
        small.truncate(SMALL_PACKS);
        small.sort_unstable();
        for number in small {
            let bytes = match self.repository.get_checked(&packs[number as usize]).await {
                Ok(bytes) => bytes,
                // A damaged pack stays where `verify` names it.
                Err(e) if e.kind() == ErrorKind::Damaged => continue,
                Err(e) => return Err(e),
            };
            let shared = self.clone();
            let rows = tokio::task::spawn_blocking(move || {
                let mut pack = Pack::open(&shared.repository, bytes)?;
                let rows = u32::try_from(pack.rows()).unwrap_or(u32::MAX);
                (0..rows)
                    .map(|row| {
                        let (blob, bytes) = pack.blob(row)?;
                        Ok(((number, row), shared.push(&blob, bytes)?))
                    })
                    .collect::<Result<Vec<_>>>()
            })
            .await??;
            moved.extend(rows);
            locked(&self.counts).totals.merged_packs += 1;
        }
        Ok(moved)
    }
}

/// Half of a digest: enough that nobody finds two blobs with the same.
fn key(blob: &Digest) -> [u8; 16] {
    let mut key = [0; 16];
    key.copy_from_slice(&blob.as_bytes()[..16]);
    key
}

/// Captures the bytes of one object.
struct ObjectTap {
    shared: Arc<Shared>,
    cutter: Option<Cutter>,
    /// Over all bytes that were cut off so far.
    whole: blake3::Hasher,
    total: u64,
    pending: VecDeque<JoinHandle<Result<BlobAt>>>,
    blobs: Vec<BlobAt>,
}

impl ObjectTap {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            cutter: Some(Cutter::default()),
            whole: blake3::Hasher::new(),
            total: 0,
            pending: VecDeque::new(),
            blobs: Vec::new(),
        }
    }

    /// A piece of a large object: it is compressed on another thread while more is read.
    fn piece(&mut self, piece: &[u8]) -> Result<()> {
        self.whole.update(piece);
        while self.pending.len() >= AHEAD {
            self.wait()?;
        }
        let (shared, piece) = (self.shared.clone(), piece.to_vec());
        self.pending.push_back(tokio::task::spawn_blocking(move || shared.add(&piece)));
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        if let Some(oldest) = self.pending.pop_front() {
            self.blobs.push(Handle::current().block_on(oldest)??);
        }
        Ok(())
    }
}

impl Tap for ObjectTap {
    fn bytes(&mut self, part: &[u8]) -> Result<()> {
        self.total += part.len() as u64;
        let Some(mut cutter) = self.cutter.take() else { return Ok(()) };
        let pushed = cutter.push(part, &mut |piece: &[u8]| self.piece(piece));
        self.cutter = Some(cutter);
        pushed
    }

    fn end(&mut self, object: &SourceObject) -> Result<()> {
        if self.total != object.size {
            return Err(Error::new(ErrorKind::Storage, "an object has another size than its store says")
                .with("file", &object.path)
                .with("bytes", object.size)
                .with("read", self.total)
                .transient());
        }
        let Some(cutter) = self.cutter.take() else { return Ok(()) };
        let digest = if self.total <= LARGEST as u64 {
            let (shared, blobs) = (&self.shared, &mut self.blobs);
            cutter.finish(&mut |blob: &[u8]| shared.add(blob).map(|at| blobs.push(at)))?;
            self.blobs.first().map_or_else(|| Digest::of(b""), |at| at.blob)
        } else {
            cutter.finish(&mut |piece: &[u8]| self.piece(piece))?;
            while !self.pending.is_empty() {
                self.wait()?;
            }
            Digest::from_hasher(&self.whole)
        };
        self.shared.row(CapturedObject {
            id: object.path.clone(),
            path: object.path.clone(),
            line: None,
            bytes: self.total,
            modified: object.modified,
            digest,
            blobs: std::mem::take(&mut self.blobs),
        })
    }
}
