//! What is wanted of an index, in the order in which it lies in packs.

use super::index::{CapturedObject, IndexReader, PARTITIONS};
use crate::error::Result;
use crate::repository::{Captured, Repository};
use crate::spill::Spill;

/// Captured objects in the order of their first blob, so that every pack is read once, front to back. Put aside on disk;
/// holds the objects of a few packs at a time.
pub(crate) struct PackOrder {
    spill: Spill<CapturedObject>,
    next: usize,
    groups: usize,
    /// Objects that are wanted.
    pub(crate) objects: u64,
}

impl PackOrder {
    /// Groups of packs, at most.
    const GROUPS: usize = 256;

    /// Reads the index once and takes what is `wanted`.
    pub(crate) async fn new(
        repository: &Repository,
        captured: &Captured,
        wanted: &mut (dyn FnMut(&CapturedObject) -> bool + Send),
    ) -> Result<Self> {
        let groups = captured.packs.len().clamp(1, Self::GROUPS);
        let span = captured.packs.len().div_ceil(groups).max(1);
        let mut this = Self { spill: Spill::new(groups)?, next: 0, groups, objects: 0 };
        let mut reader = IndexReader::new(repository, captured);
        for partition in 0..PARTITIONS {
            for object in reader.partition(partition).await?.into_iter().filter(|o| wanted(o)) {
                // What is empty has no blobs, and may come anywhere.
                let pack = object.blobs.first().map_or(0, |at| at.pack as usize);
                this.spill.push((pack / span).min(groups - 1), &object)?;
                this.objects += 1;
            }
        }
        Ok(this)
    }

    /// The objects of the next few packs; `None` after the last.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<CapturedObject>>> {
        if self.next >= self.groups {
            return Ok(None);
        }
        let mut objects = self.spill.take(self.next)?;
        self.next += 1;
        objects.sort_by_key(|o| o.blobs.first().map(|at| (at.pack, at.row)));
        Ok(Some(objects))
    }
}
