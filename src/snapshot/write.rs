//! The inventory: rows kept from the previous one and rows that were read, merged bucket by bucket.

use std::collections::HashMap;

use super::base::is_shared;
use super::intake::Intake;
use super::moved::Moves;
use super::select::{KeptRows, Selected};
use crate::aside::{ASIDE_BITS, Aside};
use crate::cancel::Cancel;
use crate::diff::DocumentState;
use crate::error::Result;
use crate::repository::{
    DocumentRow, GROUP_BITS, InventoryReader, InventoryWriter, Manifest, ObjectRef, Repository, bucket_of,
};

/// The previous snapshot as far as it goes into this one.
pub(super) struct Previous<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) selected: &'a mut Selected,
    pub(super) moves: &'a Moves,
}

/// Writes the inventory. Objects of the previous one in whose buckets nothing changed are shared. A document id that
/// occurs twice is a bad document.
pub(super) async fn write_inventory(
    repository: &Repository,
    intake: &mut Intake,
    bits: u8,
    previous: Option<Previous<'_>>,
    cancel: &Cancel,
) -> Result<Vec<ObjectRef>> {
    let mut writer = InventoryWriter::new(repository);
    let mut rows = std::mem::replace(&mut intake.rows, Aside::new(0)?);
    let (mut kept, mut old, manifest, moves) = match previous {
        Some(p) => (Some(&p.selected.kept), Some(&mut p.selected.old), Some(p.manifest), Some(p.moves)),
        None => (None, None, None, None),
    };
    // Other numbers of buckets nest: what is handled at once is a bucket of the coarser one.
    let previous_bits = manifest.map_or(bits, |m| m.buckets.bits);
    let unit_bits = bits.min(previous_bits);
    if kept.is_some_and(|kept| kept.values().all(KeptRows::none)) {
        kept = None;
    }
    let mut reader = manifest.map(|m| InventoryReader::new(repository, m));
    let mut read = ReadRows { rows: &mut rows, bits: unit_bits, loaded: None, units: HashMap::new() };
    let group = 1u32 << GROUP_BITS.min(bits);
    let mut unit = 0;
    while unit < 1u32 << unit_bits {
        cancel.check()?;
        if let (Some(manifest), Some(kept)) = (manifest, kept)
            && previous_bits == bits
            && unit.is_multiple_of(group)
            && !intake.touches(bits.saturating_sub(GROUP_BITS), unit / group)
            && let Some(objects) = unchanged(manifest, kept, unit, unit + group - 1)
        {
            for object in objects {
                writer.share(object.clone()).await?;
            }
            unit += group;
            continue;
        }
        let mut rows = read.take(unit, old.as_deref_mut(), moves)?;
        if let (Some(kept), Some(reader)) = (kept, &mut reader) {
            let each = 1u32 << (previous_bits - unit_bits);
            for bucket in unit * each..(unit + 1) * each {
                let Some(kept) = kept.get(&bucket).filter(|kept| !kept.none()) else { continue };
                let found = reader.bucket(bucket).await?;
                rows.extend(found.into_iter().enumerate().filter(|(i, _)| kept.has(*i)).map(|(_, row)| row));
            }
        }
        let mut buckets: HashMap<u32, Vec<DocumentRow>> = HashMap::new();
        for row in rows {
            buckets.entry(bucket_of(&row.document_id, bits)).or_default().push(row);
        }
        let mut numbers: Vec<u32> = buckets.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            let mut rows = buckets.remove(&number).unwrap_or_default();
            rows.sort_by(|a, b| {
                (&a.document_id, &a.object.path, a.line).cmp(&(&b.document_id, &b.object.path, b.line))
            });
            writer.bucket(number, &intake.without_duplicates(rows)?).await?;
        }
        unit += 1;
    }
    writer.finish().await
}

/// The objects of the previous inventory that hold exactly these buckets, if all of their documents are kept.
fn unchanged<'a>(
    manifest: &'a Manifest,
    kept: &HashMap<u32, KeptRows>,
    first: u32,
    last: u32,
) -> Option<Vec<&'a ObjectRef>> {
    if (first..=last).any(|bucket| kept.get(&bucket).is_some_and(|kept| !kept.all())) {
        return None;
    }
    let mut objects = Vec::new();
    for object in &manifest.inventory {
        let (from, to) = object.buckets?;
        if to < first || from > last {
            continue;
        }
        if from < first || to > last || !is_shared(object) {
            return None;
        }
        objects.push(object);
    }
    Some(objects)
}

/// Rows that were read, by bucket, from their partitions.
struct ReadRows<'a> {
    rows: &'a mut Aside<DocumentRow>,
    bits: u8,
    loaded: Option<usize>,
    units: HashMap<u32, Vec<DocumentRow>>,
}

impl ReadRows<'_> {
    fn take(
        &mut self,
        unit: u32,
        mut old: Option<&mut Aside<DocumentState>>,
        moves: Option<&Moves>,
    ) -> Result<Vec<DocumentRow>> {
        let mut load = |partition: usize| {
            let mut rows = self.rows.rows(partition)?;
            if let (Some(moves), false) = (moves, rows.is_empty()) {
                let old = old.as_mut().map(|old| old.rows(partition)).transpose()?.unwrap_or_default();
                moves.annotate(&mut rows, old);
            }
            Ok::<_, crate::error::Error>(rows)
        };
        let Some(more) = self.bits.checked_sub(ASIDE_BITS) else {
            let each = 1usize << (ASIDE_BITS - self.bits);
            let mut rows = Vec::new();
            for partition in unit as usize * each..(unit as usize + 1) * each {
                rows.extend(load(partition)?);
            }
            return Ok(rows);
        };
        let partition = (unit >> more) as usize;
        if self.loaded != Some(partition) {
            self.units.clear();
            for row in load(partition)? {
                self.units.entry(bucket_of(&row.document_id, self.bits)).or_default().push(row);
            }
            self.loaded = Some(partition);
        }
        Ok(self.units.remove(&unit).unwrap_or_default())
    }
}
