//! What a repair will do, and what it did.

use std::time::Instant;

use serde::Serialize;

use crate::error::ErrorKind;
use crate::verify::{DamagedObject, ObjectKind, Problem};

/// How an object is mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// It is taken from a replica.
    Replica,
    /// The part is right; records that say otherwise are written again.
    Record,
    /// The part is computed again from the corpus.
    Compute,
    /// The record of the vector set is written again from the parts that follow from a snapshot.
    Rebuild,
    /// It cannot be mended.
    Nothing,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is what would be done.
    Planned,
    /// It was done.
    Done,
    /// It was tried in vain, or there was nothing to try.
    Failed,
}

/// One damaged object and what is done about it.
#[derive(Debug, Clone, Serialize)]
pub struct RepairAction {
    /// Its path.
    pub object: String,
    /// What it is.
    pub kind: ObjectKind,
    /// What is wrong with it.
    pub what: Problem,
    /// The same for people.
    pub problem: String,
    /// Snapshots and vector sets that need it.
    pub hurts: Vec<String>,
    /// How it is mended.
    pub how: How,
    /// The replica that it is taken from.
    pub replica: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it failed; what that costs; what to do next.
    pub detail: Option<String>,
}

impl RepairAction {
    pub(super) fn new(damaged: DamagedObject, how: How, replica: Option<String>) -> Self {
        let DamagedObject { object, kind, what, problem, hurts, .. } = damaged;
        Self { object, kind, what, problem, hurts, how, replica, outcome: Outcome::Planned, detail: None }
    }

    /// It failed, for this reason.
    pub(super) fn failed(mut self, why: String) -> Self {
        self.outcome = Outcome::Failed;
        self.detail = Some(why);
        self
    }

    /// It was done.
    pub(super) fn done(mut self) -> Self {
        self.outcome = Outcome::Done;
        self
    }
}

/// Report of `regrow repair`.
#[derive(Debug, Clone, Serialize)]
pub struct RepairReport {
    /// Always `repair`.
    pub verb: &'static str,
    /// True when nothing that was found is damaged any more; of a dry run: when all can be mended.
    pub ok: bool,
    /// Process exit code: 0 or 30.
    pub exit_code: u8,
    /// Repository.
    pub repository: String,
    /// Nothing was done.
    pub dry_run: bool,
    /// Damaged objects that were found.
    pub damaged: u64,
    /// What is done about each.
    pub actions: Vec<RepairAction>,
    /// What is still damaged of all that was touched, read again at the end.
    pub remaining: Vec<DamagedObject>,
    /// Bytes taken from replicas.
    pub bytes_copied: u64,
    /// Chunks that were embedded again.
    pub chunks_embedded: u64,
    /// Seconds from start to end.
    pub seconds: f64,
}

impl RepairReport {
    pub(super) fn new(repository: &str, dry_run: bool) -> Self {
        Self {
            verb: "repair",
            ok: true,
            exit_code: 0,
            repository: repository.to_owned(),
            dry_run,
            damaged: 0,
            actions: Vec::new(),
            remaining: Vec::new(),
            bytes_copied: 0,
            chunks_embedded: 0,
            seconds: 0.0,
        }
    }

    pub(super) fn finish(mut self, started: Instant) -> Self {
        self.ok = self.remaining.is_empty() && self.actions.iter().all(|action| action.outcome != Outcome::Failed);
        self.exit_code = if self.ok { 0 } else { ErrorKind::ValidationFailed.exit_code() };
        self.seconds = started.elapsed().as_secs_f64();
        self
    }
}
