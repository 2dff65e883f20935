//! Blobs on their way into packs: what is known already, the packs that are open, the task that stores full ones.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Instant;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::index::{BlobAt, CapturedObject, IndexReader, PARTITION_BITS, PARTITIONS};
use super::pack::{FULL, Pack, PackBuilder};
use super::writer::{CaptureTotals, Entry};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::measure::{Busy, cores};
use crate::repository::{Captured, ObjectRef, Repository, bucket_of, path};
use crate::spill::Spill;

/// Blobs that are remembered, so that the same bytes are stored once: about 50 bytes each. Beyond this, only what the
/// previous snapshot has under the same path is shared.
const KNOWN: usize = 8 << 20;
/// Packs that are filled at the same time, at most.
const OPEN: usize = 8;
/// Packs that are being stored at the same time.
const STORING: usize = 2;
/// Small packs there may be before some are merged, how many are merged in one run, and what is small.
const SMALL_PACKS: usize = 64;
const SMALL: u64 = FULL as u64 / 4;

/// Where blobs are, pack and row, by the first half of their digest.
type Known = HashMap<[u8; 16], (u32, u32)>;

pub(super) struct Shared {
    pub(super) repository: Repository,
    pub(super) previous: Captured,
    trusted: bool,
    slots: Vec<Mutex<Option<(u32, PackBuilder)>>>,
    known: OnceLock<Mutex<Known>>,
    loading: Mutex<()>,
    /// New packs; they are counted on from the previous snapshot's.
    pub(super) packs: Mutex<Vec<Option<ObjectRef>>>,
    store: Mutex<Option<Store>>,
    pub(super) entries: Mutex<Spill<Entry>>,
    pub(super) counts: Mutex<Counts>,
    pub(super) busy: Busy,
}

/// The task that stores packs, and the way to it.
pub(super) struct Store {
    packs: mpsc::Sender<(u32, Bytes, u64)>,
    task: JoinHandle<Result<Vec<(u32, ObjectRef)>>>,
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) rows: u64,
    pub(super) totals: CaptureTotals,
    /// How often objects changed while they were read.
    pub(super) again: HashMap<String, u32>,
    /// Record files whose documents are kept (mode `text`): their rows are in all partitions.
    pub(super) kept_files: HashSet<String>,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    pub(super) fn start(repository: Repository) -> Self {
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
    pub(super) fn new(repository: &Repository, previous: Captured, trusted: bool) -> Result<Self> {
        Ok(Self {
            repository: repository.clone(),
            previous,
            trusted,
            slots: (0..cores().clamp(1, OPEN)).map(|_| Mutex::new(None)).collect(),
            known: OnceLock::new(),
            loading: Mutex::new(()),
            packs: Mutex::default(),
            store: Mutex::new(Some(Store::start(repository.clone()))),
            entries: Mutex::new(Spill::new(PARTITIONS as usize)?),
            counts: Mutex::default(),
            busy: Busy::default(),
        })
    }

    pub(super) fn row(&self, row: CapturedObject) -> Result<()> {
        let time = {
            let mut counts = locked(&self.counts);
            counts.rows += 1;
            counts.again.get(&row.path).copied().unwrap_or(0)
        };
        let partition = bucket_of(&row.id, PARTITION_BITS) as usize;
        locked(&self.entries).push(partition, &Entry::Row(time, row))
    }

    /// Where these bytes are; stores them if they are new. Blocking.
    pub(super) fn add(&self, bytes: &[u8]) -> Result<BlobAt> {
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
    pub(super) async fn close(self: &Arc<Self>) -> Result<()> {
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

    /// Which of the previous snapshot's packs are there, in their full size, and right where that is asked for: what
    /// only another pack holds is stored again.
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
        if !self.trusted {
            for (pack, there) in packs.iter().zip(&mut there).filter(|(_, there)| **there) {
                match self.repository.get_checked(pack).await {
                    Ok(_) => {}
                    Err(e) if e.kind() == ErrorKind::Damaged => *there = false,
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(there)
    }

    /// Where there are many small packs, puts the blobs of the smallest into new ones: where each blob was and is.
    pub(super) async fn merge(self: &Arc<Self>) -> Result<HashMap<(u32, u32), (u32, u32)>> {
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
