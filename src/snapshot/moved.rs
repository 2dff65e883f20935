//! What changed between the previous snapshot and what was read, and under which ids a new document's text was
//! known before.

use std::collections::HashMap;

use serde::Serialize;

use crate::aside::{Aside, PARTITIONS};
use crate::cancel::Cancel;
use crate::diff::DocumentState;
use crate::error::Result;
use crate::ids::Digest;
use crate::repository::{DocumentRow, InventoryReader, Manifest, Repository};

/// How the documents compare with those of the previous snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// As they were, whether they were read or not.
    pub documents_unchanged: u64,
    /// Read from the corpus.
    pub documents_read: u64,
    /// Under an id that the previous snapshot does not have.
    pub documents_added: u64,
    /// Those of them whose text was known under another id: their vectors are found again.
    pub documents_moved: u64,
    /// With other bytes, text or metadata.
    pub documents_changed: u64,
    /// Not there any more.
    pub documents_removed: u64,
}

/// Earlier ids recorded per document.
const MOVED_FROM: usize = 4;
/// New texts that are looked for in the previous snapshot: about 100 bytes of memory each. Documents beyond are
/// embedded anew if they were moved.
const NEW_TEXTS: usize = 1 << 20;

/// Ids under which a text was known.
#[derive(Default)]
struct Earlier {
    /// In the previous snapshot.
    last: Vec<String>,
    /// Before it.
    older: Vec<String>,
}

/// Where the texts of new documents were before.
#[derive(Default)]
pub(super) struct Moves {
    earlier: HashMap<Digest, Earlier>,
    /// New texts that were not looked for.
    pub(super) passed_over: u64,
}

/// Compares what was read with the documents that were not kept; then looks for new texts in the whole of the
/// previous snapshot, since a document may have been copied as well as moved.
pub(super) async fn find_moves(
    repository: &Repository,
    previous: &Manifest,
    old: &mut Aside<DocumentState>,
    read: &mut Aside<DocumentRow>,
    cancel: &Cancel,
) -> Result<(Changes, Moves)> {
    let mut changes = Changes { documents_read: read.len(), ..Changes::default() };
    let mut moves = Moves::default();
    let mut added = Vec::new();
    for partition in 0..PARTITIONS {
        cancel.check()?;
        let mut before: HashMap<String, DocumentState> =
            old.rows(partition)?.into_iter().map(|state| (state.document_id.clone(), state)).collect();
        let mut rows = read.rows(partition)?;
        // As the inventory keeps them.
        rows.sort_by(|a, b| (&a.document_id, &a.object.path, a.line).cmp(&(&b.document_id, &b.object.path, b.line)));
        rows.dedup_by(|a, b| a.document_id == b.document_id);
        for row in rows {
            let state = before.remove(&row.document_id);
            match &state {
                Some(state) if state.is(&row) => changes.documents_unchanged += 1,
                Some(_) => changes.documents_changed += 1,
                None => changes.documents_added += 1,
            }
            if row.chunks > 0 && state.as_ref().is_none_or(|state| state.text_digest != row.text_digest) {
                if moves.earlier.len() < NEW_TEXTS || moves.earlier.contains_key(&row.text_digest) {
                    moves.earlier.entry(row.text_digest).or_default();
                    if state.is_none() {
                        added.push(row.text_digest);
                    }
                } else {
                    moves.passed_over += 1;
                }
            }
        }
        changes.documents_removed += before.len() as u64;
    }
    if moves.earlier.is_empty() {
        return Ok((changes, moves));
    }
    let mut reader = InventoryReader::new(repository, previous);
    for bucket in 0..1u32 << previous.buckets.bits {
        cancel.check()?;
        for row in reader.brief(bucket).await? {
            if let Some(earlier) = moves.earlier.get_mut(&row.text_digest)
                && earlier.last.len() < MOVED_FROM
            {
                earlier.last.push(row.document_id);
                let room = MOVED_FROM.saturating_sub(earlier.older.len());
                earlier.older.extend(row.moved_from.into_iter().take(room));
            }
        }
    }
    moves.earlier.retain(|_, earlier| !earlier.last.is_empty());
    changes.documents_moved = added.iter().filter(|text| moves.earlier.contains_key(*text)).count() as u64;
    Ok((changes, moves))
}

impl Moves {
    /// Fills in `moved_from` of documents that were read, given the previous state of those that had the same ids.
    pub(super) fn annotate(&self, rows: &mut [DocumentRow], old: Vec<DocumentState>) {
        let before: HashMap<String, DocumentState> =
            old.into_iter().map(|state| (state.document_id.clone(), state)).collect();
        for row in rows {
            let state = before.get(&row.document_id);
            let mut ids: Vec<String> = Vec::new();
            if row.chunks > 0
                && state.is_none_or(|state| state.text_digest != row.text_digest)
                && let Some(earlier) = self.earlier.get(&row.text_digest)
            {
                ids.extend(earlier.last.iter().chain(&earlier.older).cloned());
            }
            // The chunks that a changed document still has are where they were.
            ids.extend(state.iter().flat_map(|state| state.moved_from.iter().cloned()));
            for id in ids {
                if row.moved_from.len() < MOVED_FROM && id != row.document_id && !row.moved_from.contains(&id) {
                    row.moved_from.push(id);
                }
            }
        }
    }
}
