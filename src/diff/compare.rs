//! The documents of a snapshot beside the corpus's listing: what an incremental snapshot, `diff` and `status` see.
//!
//! Both are taken in order of the hash of ids, so that memory holds a share of the listing and one bucket.

use std::collections::{BTreeSet, HashMap};

use crate::aside::{ASIDE_BITS, PARTITIONS, partition_of};
use crate::cancel::Cancel;
use crate::corpus::SourceObject;
use crate::error::Result;
use crate::repository::{DocumentBrief, InventoryReader, Manifest, Repository};
use crate::snapshot::Listed;

/// How an object's state compares with the recorded one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing that the store tells has changed.
    Same,
    /// Size and modification time are the recorded ones, the entity tag (of a file: its inode and change time) or
    /// the version is not: only the bytes can tell.
    Suspect,
    /// Size or modification time differ.
    Differs,
}

/// Compares the states of one object at two times. A tag or version counts where both have one.
pub(crate) fn verdict(recorded: &SourceObject, now: &SourceObject) -> Verdict {
    if recorded.size != now.size || recorded.modified != now.modified {
        return Verdict::Differs;
    }
    let other = |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some() && a != b;
    if other(&recorded.etag, &now.etag) || other(&recorded.version, &now.version) {
        return Verdict::Suspect;
    }
    Verdict::Same
}

/// Takes what a comparison finds.
pub(crate) trait Compared {
    /// A document of the snapshot, at `index` of its bucket; with the object as it is listed now, unless it is gone.
    fn known(&mut self, at: (u32, usize), row: DocumentBrief, now: Option<(&SourceObject, Verdict)>) -> Result<()>;

    /// An object of which the snapshot has no document.
    fn unknown(&mut self, object: SourceObject) -> Result<()>;
}

/// Goes through a snapshot's documents and the listing once. Without a listing every document is gone.
pub(crate) async fn compare(
    repository: &Repository,
    manifest: &Manifest,
    mut listed: Option<&mut Listed>,
    cancel: &Cancel,
    to: &mut impl Compared,
) -> Result<()> {
    let bits = manifest.buckets.bits;
    let mut reader = InventoryReader::new(repository, manifest);
    let mut records_met = BTreeSet::new();
    // Of a bucket that spans several partitions: its rows by partition.
    let mut waiting: Vec<Vec<(usize, DocumentBrief)>> = Vec::new();
    for partition in 0..PARTITIONS {
        cancel.check()?;
        let mut files: HashMap<String, (SourceObject, bool)> = match &mut listed {
            Some(listed) => listed.files.rows(partition)?.into_iter().map(|o| (o.path.clone(), (o, false))).collect(),
            None => HashMap::new(),
        };
        let records = listed.as_deref().map(|listed| &listed.records);
        let mut take = |bucket: u32, index: usize, row: DocumentBrief| {
            let now = match (row.line, records) {
                (Some(_), Some(records)) => match records.get_key_value(&row.object.path) {
                    Some((path, object)) => {
                        if !records_met.contains(path.as_str()) {
                            records_met.insert(path.clone());
                        }
                        Some(object)
                    }
                    None => None,
                },
                _ => files.get_mut(&row.object.path).map(|(object, met)| {
                    *met = true;
                    &*object
                }),
            };
            let now = now.map(|object| (object, verdict(&row.object, object)));
            to.known((bucket, index), row, now)
        };
        if bits >= ASIDE_BITS {
            let each = 1u32 << (bits - ASIDE_BITS);
            for bucket in partition as u32 * each..(partition as u32 + 1) * each {
                for (index, row) in reader.brief(bucket).await?.into_iter().enumerate() {
                    take(bucket, index, row)?;
                }
            }
        } else {
            let spans = PARTITIONS >> bits;
            let bucket = (partition / spans) as u32;
            if partition % spans == 0 {
                waiting = (0..spans).map(|_| Vec::new()).collect();
                for (index, row) in reader.brief(bucket).await?.into_iter().enumerate() {
                    waiting[partition_of(&row.document_id) % spans].push((index, row));
                }
            }
            for (index, row) in std::mem::take(&mut waiting[partition % spans]) {
                take(bucket, index, row)?;
            }
        }
        let mut unmet: Vec<_> = files.into_values().filter(|(_, met)| !met).map(|(object, _)| object).collect();
        unmet.sort_by(|a, b| a.path.cmp(&b.path));
        for object in unmet {
            to.unknown(object)?;
        }
    }
    if let Some(listed) = listed {
        for (path, object) in &listed.records {
            if !records_met.contains(path) {
                to.unknown(object.clone())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_counts_where_both_have_one() {
        let state = |size, modified, etag: Option<&str>, version: Option<&str>| SourceObject {
            path: "a.md".into(),
            size,
            modified,
            etag: etag.map(str::to_owned),
            version: version.map(str::to_owned),
        };
        let old = state(5, 7, Some("e"), None);
        assert_eq!(verdict(&old, &old), Verdict::Same);
        assert_eq!(verdict(&old, &state(5, 7, None, Some("v"))), Verdict::Same);
        assert_eq!(verdict(&old, &state(5, 7, Some("f"), None)), Verdict::Suspect);
        assert_eq!(verdict(&state(5, 7, None, Some("v")), &state(5, 7, None, Some("w"))), Verdict::Suspect);
        assert_eq!(verdict(&old, &state(6, 7, Some("e"), None)), Verdict::Differs);
        assert_eq!(verdict(&old, &state(5, 8, Some("e"), None)), Verdict::Differs);
    }
}
