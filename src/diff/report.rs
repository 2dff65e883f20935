//! What a comparison found, counted and named as it comes.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::state::DocumentState;
use crate::aside::{Aside, PARTITIONS};
use crate::error::Result;
use crate::ids::Digest;
use crate::workspace::Workspace;

/// How a document differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// The same text was known under another id that is gone: its vectors are found again.
    Moved,
    /// Its text changed.
    Text,
    /// Title, tenant, acl or metadata changed, the text did not: nothing is embedded.
    Payload,
    /// Only its bytes changed: neither text nor payload.
    Bytes,
    /// The state of its object changed; what in it, only reading it would tell (`--rehash`).
    Changed,
    /// It cannot be read now.
    Unreadable,
}

/// Documents and what they add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Documents; of record files that were not read, the files.
    pub documents: u64,
    /// Chunks.
    pub chunks: u64,
    /// Tokens.
    pub tokens: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.documents += other.documents;
        self.chunks += other.chunks;
        self.tokens += other.tokens;
        self.bytes += other.bytes;
    }
}

/// One document that differs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Difference {
    /// Document id; of an object that was not read, its path.
    pub document_id: String,
    /// How.
    pub kind: DifferenceKind,
    /// The id before, when it was moved.
    pub moved_from: Option<String>,
    /// Size in bytes; of a removed document, what it had.
    pub bytes: u64,
    /// Chunks, where they are known.
    pub chunks: u64,
    /// Tokens, where they are known.
    pub tokens: u64,
}

/// One side of the comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    /// Snapshot id; `None` for the corpus.
    pub snapshot: Option<String>,
    /// Its point in time.
    pub created: jiff::Timestamp,
    /// What it holds; of the corpus, as far as that is known without reading it.
    pub total: Tally,
}

/// What embedding the difference takes at most: vectors of chunks that a changed document still has are reused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Embedding {
    /// Chunks.
    pub chunks: u64,
    /// Tokens.
    pub tokens: u64,
    /// US dollars at the model's service, where its card has a price.
    pub usd: Option<f64>,
    /// Estimated from sizes, because documents were not read and cut.
    pub estimated: bool,
}

/// Report of `regrow diff`.
#[derive(Debug, Clone, Serialize)]
pub struct DiffReport {
    /// Always `diff`.
    pub verb: &'static str,
    /// Always true: differences are no failure.
    pub ok: bool,
    /// Always 0.
    pub exit_code: u8,
    /// The earlier side.
    pub from: Side,
    /// The later side.
    pub to: Side,
    /// Documents that are the same.
    pub unchanged: u64,
    /// Documents that differ, by kind.
    pub differences: BTreeMap<DifferenceKind, Tally>,
    /// Change in chunks.
    pub chunks_change: i64,
    /// Change in tokens.
    pub tokens_change: i64,
    /// Change in bytes.
    pub bytes_change: i64,
    /// What embedding would take.
    pub embed: Embedding,
    /// Settings, rules, model and target that differ: `key: before → after`.
    pub settings: Vec<String>,
    /// The first of each kind, by id.
    pub named: Vec<Difference>,
    /// Documents that were read to find this out.
    pub documents_read: u64,
}

/// Matches two states of documents and counts what differs.
pub(super) struct Matcher {
    limit: usize,
    /// Documents that were matched and are the same.
    pub(super) same: u64,
    /// Change in chunks, tokens and bytes.
    pub(super) change: [i64; 3],
    pub(super) tallies: BTreeMap<DifferenceKind, Tally>,
    named: BTreeMap<DifferenceKind, Vec<Difference>>,
    /// Documents without a counterpart of the same id, by the digest of their text.
    added: Aside<DocumentState>,
    removed: Aside<DocumentState>,
}

fn by_text(digest: &Digest) -> usize {
    usize::from(digest.as_bytes()[0]) % PARTITIONS
}

impl Matcher {
    pub(super) fn new(limit: usize) -> Result<Self> {
        Ok(Self {
            limit,
            same: 0,
            change: [0; 3],
            tallies: BTreeMap::new(),
            named: BTreeMap::new(),
            added: Aside::new(PARTITIONS)?,
            removed: Aside::new(PARTITIONS)?,
        })
    }

    /// Counts one difference from what was there `before`, and perhaps names it.
    pub(super) fn count(&mut self, difference: Difference, before: Tally) {
        let gone = difference.kind == DifferenceKind::Removed;
        let tally = self.tallies.entry(difference.kind).or_default();
        tally.documents += 1;
        tally.chunks += difference.chunks;
        tally.tokens += difference.tokens;
        tally.bytes += difference.bytes;
        let after = |n: u64| if gone { 0 } else { n };
        self.change[0] += change(before.chunks, after(difference.chunks));
        self.change[1] += change(before.tokens, after(difference.tokens));
        self.change[2] += change(before.bytes, after(difference.bytes));
        let named = self.named.entry(difference.kind).or_default();
        if named.len() < self.limit {
            named.push(difference);
        }
    }

    fn found(&mut self, kind: DifferenceKind, state: DocumentState, before: Option<DocumentState>) {
        let old = match (&before, kind) {
            (_, DifferenceKind::Removed) => state.tally(),
            (Some(before), _) => before.tally(),
            (None, _) => Tally::default(),
        };
        let moved_from = before.filter(|_| kind == DifferenceKind::Moved).map(|before| before.document_id);
        let DocumentState { document_id, bytes, chunks, tokens, .. } = state;
        self.count(Difference { document_id, kind, moved_from, bytes, chunks, tokens }, old);
    }

    /// All documents of both sides whose ids have the same hash prefix.
    pub(super) fn documents(&mut self, old: Vec<DocumentState>, new: Vec<DocumentState>) -> Result<()> {
        let mut old: HashMap<String, DocumentState> =
            old.into_iter().map(|state| (state.document_id.clone(), state)).collect();
        for state in new {
            let Some(before) = old.remove(&state.document_id) else {
                self.added.push(by_text(&state.text_digest), &state)?;
                continue;
            };
            let kind = if before.text_digest != state.text_digest {
                DifferenceKind::Text
            } else if before.payload_digest != state.payload_digest {
                DifferenceKind::Payload
            } else if before.digest != state.digest {
                DifferenceKind::Bytes
            } else {
                self.same += 1;
                continue;
            };
            self.found(kind, state, Some(before));
        }
        let mut gone: Vec<_> = old.into_values().collect();
        gone.sort_by(|a, b| a.document_id.cmp(&b.document_id));
        for state in gone {
            self.removed.push(by_text(&state.text_digest), &state)?;
        }
        Ok(())
    }

    /// Tells moved documents from added and removed ones.
    pub(super) fn finish(&mut self) -> Result<Vec<Difference>> {
        self.added.seal()?;
        self.removed.seal()?;
        for partition in 0..PARTITIONS {
            let mut gone: HashMap<Digest, Vec<DocumentState>> = HashMap::new();
            let mut removed = self.removed.rows(partition)?;
            // The last is taken first.
            removed.sort_by(|a, b| b.document_id.cmp(&a.document_id));
            for state in removed {
                gone.entry(state.text_digest).or_default().push(state);
            }
            let mut added = self.added.rows(partition)?;
            added.sort_by(|a, b| a.document_id.cmp(&b.document_id));
            for state in added {
                // Two documents without text are not the same one.
                let before = gone.get_mut(&state.text_digest).filter(|_| state.bytes > 0).and_then(Vec::pop);
                let kind = if before.is_some() { DifferenceKind::Moved } else { DifferenceKind::Added };
                self.found(kind, state, before);
            }
            let mut gone: Vec<_> = gone.into_values().flatten().collect();
            gone.sort_by(|a, b| a.document_id.cmp(&b.document_id));
            for state in gone {
                self.found(DifferenceKind::Removed, state, None);
            }
        }
        let mut named: Vec<Difference> = Vec::new();
        for mut differences in std::mem::take(&mut self.named).into_values() {
            differences.sort();
            named.append(&mut differences);
        }
        Ok(named)
    }

    pub(super) fn tally(&self, kind: DifferenceKind) -> Tally {
        self.tallies.get(&kind).copied().unwrap_or_default()
    }
}

/// The difference of two counts.
pub(super) fn change(from: u64, to: u64) -> i64 {
    i64::try_from(i128::from(to) - i128::from(from)).unwrap_or(if to > from { i64::MAX } else { i64::MIN })
}

/// What the model's service charges for so many tokens, where the pipeline's card has a price.
pub(super) fn price(workspace: &Workspace, tokens: u64) -> Option<f64> {
    let card = workspace.model_card().ok()?;
    card.service?.usd_per_million_tokens.map(|price| price * tokens as f64 / 1e6)
}
