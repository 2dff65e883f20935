//! What would be lost now: the corpus's listing beside the latest snapshot.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::compare::{Compared, Verdict, compare};
use super::corpus::recorded_corpus;
use crate::corpus::SourceObject;
use crate::error::Result;
use crate::repository::{DocumentBrief, Manifest, Repository};
use crate::snapshot::{Listed, skipped};
use crate::workspace::Workspace;

/// How the corpus differs from a snapshot, by the states of objects alone: nothing is read.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Exposure {
    /// Objects that the snapshot does not have.
    pub added: u64,
    /// Objects with another size or modification time.
    pub changed: u64,
    /// Objects that are gone.
    pub vanished: u64,
    /// Objects of the recorded size and time whose entity tag (of a file: inode and change time) is another: a change
    /// of rights or of bytes; `regrow diff --corpus` reads them and tells.
    pub suspect: u64,
    /// Documents in the changed objects, as the snapshot has them.
    pub documents_changed: u64,
    /// Documents in the objects that are gone.
    pub documents_vanished: u64,
    /// Bytes of the added and changed objects as they are now: what exists nowhere but in the corpus.
    pub bytes: u64,
    /// When the oldest change was made that no snapshot has. A vanished object does not tell when it went.
    pub oldest_unsaved: Option<jiff::Timestamp>,
    /// Its age.
    pub oldest_unsaved_seconds: Option<f64>,
    /// The first few of each, by path.
    pub examples: Vec<String>,
}

/// Paths shown per kind of difference.
const EXAMPLES: usize = 5;

/// Compares the corpus's listing with a snapshot. An equal listing needs no more than the listing; otherwise the
/// inventory is gone through, holding one bucket and an entry per record file.
pub async fn exposure(workspace: &Workspace, repository: &Repository, manifest: &Manifest) -> Result<Exposure> {
    let corpus = recorded_corpus(workspace, manifest)?;
    let mut listed = Listed::new(&corpus, &workspace.cancel).await?;
    if listed.listing.is(&manifest.corpus) {
        return Ok(Exposure::default());
    }
    let left_out = skipped(repository, manifest).await?.into_iter().map(|s| s.path).collect();
    let mut states = States { left_out, ..States::default() };
    compare(repository, manifest, Some(&mut listed), &workspace.cancel, &mut states).await?;
    let mut found = states.found;
    found.examples = states.examples.concat();
    if let Some(oldest) = states.oldest {
        // A file with an old time may have been put there since: the change is no older than the snapshot.
        let oldest = jiff::Timestamp::from_microsecond(oldest).unwrap_or_default().max(manifest.created);
        found.oldest_unsaved = Some(oldest);
        found.oldest_unsaved_seconds = Some(jiff::Timestamp::now().duration_since(oldest).as_secs_f64().max(0.0));
    }
    Ok(found)
}

#[derive(Default)]
struct States {
    found: Exposure,
    left_out: HashSet<String>,
    /// Record files met, each of which counts once.
    records: BTreeMap<String, ()>,
    oldest: Option<i64>,
    /// Added, changed, vanished.
    examples: [Vec<String>; 3],
}

impl States {
    fn unsaved(&mut self, object: &SourceObject) {
        self.found.bytes += object.size;
        self.oldest = Some(self.oldest.map_or(object.modified, |oldest| oldest.min(object.modified)));
    }

    fn example(&mut self, kind: usize, path: &str) {
        let examples = &mut self.examples[kind];
        if examples.len() < EXAMPLES {
            examples.push(format!("{}: {path}", ["added", "changed", "vanished"][kind]));
        }
    }
}

impl Compared for States {
    fn known(&mut self, _: (u32, usize), row: DocumentBrief, now: Option<(&SourceObject, Verdict)>) -> Result<()> {
        if matches!(now, Some((_, Verdict::Same))) {
            return Ok(());
        }
        let first = row.line.is_none() || self.records.insert(row.object.path.clone(), ()).is_none();
        match now {
            None => {
                self.found.documents_vanished += 1;
                if first {
                    self.found.vanished += 1;
                    self.example(2, &row.object.path);
                }
            }
            Some((object, Verdict::Differs)) => {
                self.found.documents_changed += 1;
                if first {
                    self.found.changed += 1;
                    self.unsaved(object);
                    self.example(1, &object.path);
                }
            }
            Some(_) => self.found.suspect += u64::from(first),
        }
        Ok(())
    }

    fn unknown(&mut self, object: SourceObject) -> Result<()> {
        // What the snapshot left out by name is known, too.
        if !self.left_out.contains(&object.path) {
            self.found.added += 1;
            self.unsaved(&object);
            self.example(0, &object.path);
        }
        Ok(())
    }
}
