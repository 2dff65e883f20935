//! Which documents of the previous snapshot are kept as they are, and which objects must be read.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::base::{is_racy, racy_from};
use super::canary::Kept as KeptCanaries;
use super::listing::Listed;
use crate::aside::{Aside, PARTITIONS, partition_of};
use crate::cancel::Cancel;
use crate::capture::CaptureWriter;
use crate::corpus::SourceObject;
use crate::diff::{Compared, DocumentState, Verdict, compare};
use crate::error::{Error, ErrorKind, Result};
use crate::repository::{Counts, DocumentBrief, Manifest, Repository, SkippedDocument};

/// What was decided about the previous snapshot's documents.
pub(super) struct Selected {
    /// By bucket of the previous snapshot: which of its rows are kept.
    pub(super) kept: HashMap<u32, KeptRows>,
    /// What the kept documents add up to.
    pub(super) counts: Counts,
    /// Documents that are not kept: changed, gone, or to be looked at again.
    pub(super) old: Aside<DocumentState>,
    /// Objects to be read.
    pub(super) to_read: Aside<SourceObject>,
    /// Bad records of unchanged objects: they stay left out.
    pub(super) skipped: Vec<SkippedDocument>,
    pub(super) canaries: KeptCanaries,
    /// Whether every kept document has a version that can be asked for later.
    pub(super) versioned: bool,
}

/// Which rows of one bucket are kept, one bit each.
#[derive(Default)]
pub(super) struct KeptRows {
    words: Vec<u64>,
    /// Rows of the bucket that are not kept.
    dropped: u64,
}

impl KeptRows {
    fn keep(&mut self, index: usize) {
        if self.words.len() <= index / 64 {
            self.words.resize(index / 64 + 1, 0);
        }
        self.words[index / 64] |= 1 << (index % 64);
    }

    pub(super) fn has(&self, index: usize) -> bool {
        self.words.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    pub(super) fn all(&self) -> bool {
        self.dropped == 0
    }

    pub(super) fn none(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }
}

/// How documents are taken over: with `Nothing` all is read again, and the previous documents only tell what moved.
pub(super) enum Keep<'a> {
    Nothing,
    Unchanged {
        listed: &'a mut Listed,
        skipped: Vec<SkippedDocument>,
        canaries: KeptCanaries,
        /// Keeps its own copies of what is kept.
        capture: Option<Arc<CaptureWriter>>,
    },
}

/// Goes through the previous snapshot's documents.
pub(super) async fn select(
    repository: &Repository,
    previous: &Manifest,
    keep: Keep<'_>,
    cancel: &Cancel,
) -> Result<Selected> {
    let (listed, skipped, canaries, capture) = match keep {
        Keep::Nothing => (None, Vec::new(), KeptCanaries::default(), None),
        Keep::Unchanged { listed, skipped, canaries, capture } => (Some(listed), skipped, canaries, capture),
    };
    let mut select = Select {
        racy_from: racy_from(previous),
        // What could not be read as a whole may be readable by now.
        again: skipped.iter().filter(|s| s.line.is_none()).map(|s| s.path.clone()).collect(),
        records: BTreeMap::new(),
        selected: Selected {
            kept: HashMap::new(),
            counts: Counts::default(),
            old: Aside::new(PARTITIONS)?,
            to_read: Aside::new(PARTITIONS)?,
            skipped: Vec::new(),
            canaries,
            versioned: true,
        },
        capture,
    };
    compare(repository, previous, listed, cancel, &mut select).await?;
    let Select { mut selected, records, .. } = select;
    // A record that is bad in a file that has not changed is still bad.
    selected.skipped = skipped;
    selected.skipped.retain(|s| s.line.is_some() && records.get(&s.path).copied().unwrap_or(false));
    selected.counts.documents_skipped = selected.skipped.len() as u64;
    selected.old.seal()?;
    selected.to_read.seal()?;
    Ok(selected)
}

struct Select {
    racy_from: i64,
    again: HashSet<String>,
    /// Record files met so far, and whether their documents are kept.
    records: BTreeMap<String, bool>,
    selected: Selected,
    capture: Option<Arc<CaptureWriter>>,
}

impl Select {
    /// Every object whose documents are kept without reading it passes here once.
    fn keep_object(&mut self, object: &SourceObject, records: bool) -> Result<()> {
        self.capture.as_ref().map_or(Ok(()), |capture| capture.keep(&object.path, records))
    }

    /// Every object that must be read passes here once.
    fn read_object(&mut self, object: &SourceObject) -> Result<()> {
        self.selected.to_read.push(partition_of(&object.path), object)
    }

    fn is_kept(&self, row: &DocumentBrief, now: &SourceObject, verdict: Verdict) -> bool {
        verdict == Verdict::Same
            && !is_racy(&row.object, now, self.racy_from)
            && !self.again.contains(row.object.path.as_str())
    }

    /// Decides once per object: an object's documents are all kept or all read.
    fn decide(&mut self, row: &DocumentBrief, now: &SourceObject, verdict: Verdict) -> Result<bool> {
        let keep = self.is_kept(row, now, verdict);
        if row.line.is_some() {
            match self.records.get(&row.object.path) {
                Some(known) if *known == keep => return Ok(keep),
                Some(_) => {
                    return Err(Error::new(ErrorKind::Damaged, "the records of one file have different states")
                        .with("file", &row.object.path));
                }
                None => drop(self.records.insert(row.object.path.clone(), keep)),
            }
        }
        if keep {
            self.keep_object(now, row.line.is_some())?;
        } else {
            self.read_object(now)?;
        }
        Ok(keep)
    }
}

impl Compared for Select {
    fn known(
        &mut self,
        (bucket, index): (u32, usize),
        row: DocumentBrief,
        now: Option<(&SourceObject, Verdict)>,
    ) -> Result<()> {
        let keep = match now {
            Some((now, verdict)) => self.decide(&row, now, verdict)?,
            None => false,
        };
        let selected = &mut self.selected;
        let kept = selected.kept.entry(bucket).or_default();
        if keep {
            kept.keep(index);
            selected.counts.documents += 1;
            selected.counts.chunks += u64::from(row.chunks);
            selected.counts.tokens += row.tokens;
            selected.counts.bytes += row.bytes;
            selected.versioned &= row.object.version.is_some();
            selected.canaries.document(&row);
        } else {
            kept.dropped += 1;
            selected.old.push(partition_of(&row.document_id), &row.into())?;
        }
        Ok(())
    }

    fn unknown(&mut self, object: SourceObject) -> Result<()> {
        self.read_object(&object)
    }
}
