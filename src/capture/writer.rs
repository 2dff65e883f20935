//! Capturing: blobs into packs as they are read, on the threads that read them, and at the end the index.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::blobs::{Shared, locked};
use super::cut::Cutter;
use super::index::{CapturedObject, IndexReader, IndexWriter, PARTITION_BITS, PARTITIONS};
use super::tap::ObjectTap;
use crate::corpus::{Document, SourceObject, Tap};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::pipeline::CaptureMode;
use crate::repository::{Captured, Manifest, ObjectRef, Repository, bucket_of};

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
pub(super) enum Entry {
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

impl CaptureWriter {
    /// Begins to capture; nothing in the mode `reference`. What `previous` holds in the same mode is not stored again:
    /// what its packs of the right size hold where it is `trusted`, and otherwise what those hold whose bytes are right.
    /// To be called within a runtime.
    pub(crate) fn begin(
        repository: &Repository,
        mode: CaptureMode,
        previous: Option<&Manifest>,
        trusted: bool,
    ) -> Result<Option<Arc<Self>>> {
        if mode == CaptureMode::Reference {
            return Ok(None);
        }
        let previous = previous.filter(|m| m.corpus.capture == mode).and_then(|m| m.captured.clone());
        Self::after(repository, mode, previous.unwrap_or_default(), trusted).map(|this| Some(Arc::new(this)))
    }

    /// Begins to capture; what `previous` holds in the same mode is not stored again.
    pub(super) fn after(repository: &Repository, mode: CaptureMode, previous: Captured, trusted: bool) -> Result<Self> {
        Ok(Self { shared: Arc::new(Shared::new(repository, previous, trusted)?), mode })
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
