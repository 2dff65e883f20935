//! `regrow prune`: removes what nothing refers to, in two phases.
//!
//! **Mark**: every object that nothing refers to is written down with the store's time. **Sweep**, in a later run: under
//! the exclusive lock references are read again, and an object goes if it was marked at least the grace ago, nothing
//! refers to it now, and it has not been written since it was marked. All times are the store's.
//!
//! # Why nothing goes that is needed
//!
//! Whoever writes (snapshot, restore, drill, copy, repair) holds a shared lock from before its first look at what is
//! there until after its commit. The sweep holds the exclusive lock, so during it nobody writes or relies on an object
//! that is not yet referred to, and references that are read under it are complete. That covers the snapshot that finds
//! an object with its contents there already (`put_content`), unreferenced and long marked, and only refers to it: either
//! it holds its lock, then there is no sweep between its look and its commit; or the sweep came first, then the object is
//! gone when it looks, and it writes it again.
//!
//! A lock can be lost: removed by hand, or ignored because its machine slept. Then [`Lock::still_held`] fails before the
//! commit, and nothing was committed. It is asked once more after the commit of a manifest, which is taken back when the
//! lock was lost in between. Whoever does not know locks (an older regrow) writes objects that are younger than the
//! grace: they were not marked, or not for long enough.
//!
//! A vector set that is recorded is whole, needed or not: records go before their parts, and while a record stays, so do
//! the parts that it names, however long they are marked (a restore that ends after its snapshot was forgotten writes a
//! new record over old parts).
//!
//! References err to the safe side. A manifest that cannot be read may need anything: then no content, no vectors and
//! nothing of its folder goes. An error that may pass (the store cannot be reached) ends the run. Objects in folders that
//! this version does not know are never touched.
//!
//! # Interruptions
//!
//! Objects are removed one by one, and each was unneeded, so that a kill at any point leaves a repository in which every
//! snapshot is whole. The mark is committed by its last object, and older ones are removed after that: an interruption
//! leaves one or two, of which the newest counts.
//!
//! # Stores that refuse
//!
//! What cannot be deleted (object lock, append-only) is counted as protected, stays marked, and is tried again by the
//! next run. After a row of refusals without a success the rest is not tried.

use futures::TryStreamExt;
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::catalog::describe;
use super::forget::store_time;
use super::marks::{MarkWriter, Marks, remove_others};
use super::references::{ReferenceReader, References};
use super::span::span_text;
use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result, refused};
use crate::event::Events;
use crate::repository::{Lock, LockKind, Repository, path};

/// How a prune is done.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// Only say what would be marked and removed.
    pub dry_run: bool,
    /// How long an object stays after it was first seen without a reference.
    pub grace: SignedDuration,
}

/// Grace where nothing else is said.
pub const DEFAULT_GRACE: SignedDuration = SignedDuration::from_secs(24 * 3600);

impl Default for PruneOptions {
    fn default() -> Self {
        Self { dry_run: false, grace: DEFAULT_GRACE }
    }
}

/// A number of objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

/// Report of `regrow prune`.
#[derive(Debug, Clone, Serialize)]
pub struct PruneReport {
    /// Always `prune`.
    pub verb: &'static str,
    /// False when something cannot be read, so that not everything could be judged.
    pub ok: bool,
    /// Process exit code.
    pub exit_code: u8,
    /// Repository.
    pub repository: String,
    /// Nothing was changed: `removed` and `marked` say what would be.
    pub dry_run: bool,
    /// How long an object stays after it was marked.
    pub grace: String,
    /// Snapshots whose references were read.
    pub snapshots: u64,
    /// Everything in the repository.
    pub total: Amount,
    /// Seen without a reference for the first time.
    pub marked: Amount,
    /// Marked, and waiting for the grace to pass; those just marked among them.
    pub waiting: Amount,
    /// Removed.
    pub removed: Amount,
    /// Due, but the store refuses to delete them.
    pub protected: Amount,
    /// When the first of those that wait may go, by the store's clock.
    pub next: Option<Timestamp>,
    /// What cannot be read, and what stays for its sake.
    pub refused: Vec<String>,
    /// The first few objects that went, or would go.
    pub examples: Vec<String>,
}

const EXAMPLES: usize = 10;
/// Objects removed between two looks at the lock.
const BATCH: usize = 500;
/// Deletions at once, and the number of refusals without a success after which no further deletion is tried.
const REFUSALS: u64 = 16;

/// An object without a reference.
struct Loose {
    object: String,
    bytes: u64,
    modified: Timestamp,
    since: Option<Timestamp>,
}

/// Marks what nothing refers to, and removes what was marked long enough ago.
///
/// # Errors
/// [`ErrorKind::Locked`] while another run works on the repository and something could be removed; what is unreferenced
/// has been marked then.
pub async fn prune(
    repository: &Repository,
    options: &PruneOptions,
    events: &Events,
    cancel: &Cancel,
) -> Result<PruneReport> {
    let lock = if options.dry_run {
        repository.lock_to_read("prune --dry-run", events).await?
    } else {
        repository.lock(LockKind::Maintenance, "prune", events).await?
    };
    let run = Run { repository, options, events, cancel, lock: &lock };
    let outcome = run.run().await;
    lock.release().await;
    outcome
}

struct Run<'a> {
    repository: &'a Repository,
    options: &'a PruneOptions,
    events: &'a Events,
    cancel: &'a Cancel,
    /// Keeps other prunes and forgets away.
    lock: &'a Lock,
}

impl Run<'_> {
    async fn run(&self) -> Result<PruneReport> {
        let mut reader = ReferenceReader::new(self.repository, self.cancel);
        let mut references = reader.read().await?;
        let marks = Marks::newest(self.repository, self.events).await?;
        let now = store_time(self.lock, self.events).await?;
        self.hold_parts(&reader, &mut references, &marks, now).await?;
        let mut report = self.survey(&references, &marks, now).await?;
        if self.options.dry_run {
            return Ok(report);
        }
        if report.removed.objects == 0 {
            // Nothing is due. A mark is written if it would say anything else than the one before.
            let same = report.marked.objects == 0 && report.waiting.objects == marks.len();
            let keep = if same { marks.id().map(str::to_owned) } else { self.mark(&references, &marks, now).await? };
            remove_others(self.repository, keep.as_deref()).await?;
            return Ok(report);
        }
        let exclusive = self.repository.lock_beside(LockKind::Exclusive, "prune", Some(self.lock), self.events).await;
        let exclusive = match exclusive {
            Ok(lock) => lock,
            Err(e) => {
                if e.kind() == ErrorKind::Locked && report.marked.objects > 0 {
                    let keep = self.mark(&references, &marks, now).await?;
                    remove_others(self.repository, keep.as_deref()).await?;
                }
                return Err(e);
            }
        };
        let swept = self.sweep(&mut reader, &marks, now, &exclusive, &mut report).await;
        exclusive.release().await;
        swept.map(|()| report)
    }

    fn report(&self, references: &References) -> PruneReport {
        let ok = references.refused.is_empty();
        PruneReport {
            verb: "prune",
            ok,
            exit_code: if ok { 0 } else { ErrorKind::Damaged.exit_code() },
            repository: self.repository.url().to_owned(),
            dry_run: self.options.dry_run,
            grace: span_text(self.options.grace),
            snapshots: references.snapshots,
            total: Amount::default(),
            marked: Amount::default(),
            waiting: Amount::default(),
            removed: Amount::default(),
            protected: Amount::default(),
            next: None,
            refused: references.refused.clone(),
            examples: Vec::new(),
        }
    }

    fn due(&self, since: Option<Timestamp>, now: Timestamp) -> bool {
        since.is_some_and(|since| now.duration_since(since) >= self.options.grace)
    }

    /// Parts are kept as long as the record of their set is not due: a restore that ends after its snapshot was forgotten
    /// writes a new record over parts that were marked long ago.
    async fn hold_parts(
        &self,
        reader: &ReferenceReader<'_>,
        references: &mut References,
        marks: &Marks,
        now: Timestamp,
    ) -> Result<()> {
        let mut records = self.repository.list(path::VECTOR_SETS);
        while let Some((object, _, modified)) = records.try_next().await? {
            self.cancel.check()?;
            if references.removable(&object) && !self.due(marks.since(&object, modified), now) {
                reader.hold(references, &object).await?;
            }
        }
        Ok(())
    }

    /// Counts, and changes nothing: what is due is reported as removed.
    async fn survey(&self, references: &References, marks: &Marks, now: Timestamp) -> Result<PruneReport> {
        let mut report = self.report(references);
        let mut objects = self.repository.list("");
        while let Some((object, bytes, modified)) = objects.try_next().await? {
            self.cancel.check()?;
            report.total.add(bytes);
            if !references.removable(&object) {
                continue;
            }
            let since = marks.since(&object, modified);
            if self.due(since, now) && !references.held(&object) {
                report.removed.add(bytes);
                if report.examples.len() < EXAMPLES {
                    report.examples.push(object);
                }
            } else {
                self.waits(&mut report, bytes, since, now);
            }
        }
        Ok(report)
    }

    fn waits(&self, report: &mut PruneReport, bytes: u64, since: Option<Timestamp>, now: Timestamp) {
        report.waiting.add(bytes);
        if since.is_none() {
            report.marked.add(bytes);
        }
        // What is due and waits for another object goes with that one.
        let until = since.unwrap_or(now).checked_add(self.options.grace).unwrap_or(Timestamp::MAX);
        if self.due(since, now) {
            return;
        }
        report.next = Some(report.next.map_or(until, |next| next.min(until)));
    }

    /// Writes down what nothing refers to, due or not; returns the mark's id.
    async fn mark(&self, references: &References, marks: &Marks, now: Timestamp) -> Result<Option<String>> {
        let mut writer = MarkWriter::new(self.repository);
        let mut objects = self.repository.list("");
        while let Some((object, bytes, modified)) = objects.try_next().await? {
            self.cancel.check()?;
            if references.removable(&object) {
                let since = marks.since(&object, modified).filter(|since| *since <= now);
                writer.push(object, bytes, modified, since).await?;
            }
        }
        self.lock.still_held().await?;
        writer.finish().await
    }

    /// Removes what is due, and marks the rest.
    async fn sweep(
        &self,
        reader: &mut ReferenceReader<'_>,
        marks: &Marks,
        now: Timestamp,
        exclusive: &Lock,
        report: &mut PruneReport,
    ) -> Result<()> {
        let mut references = reader.read().await?;
        *report = self.report(&references);
        let mut writer = MarkWriter::new(self.repository);
        let mut refusals = 0;
        // Records of vector sets go before their parts, and where a record stays, so do the parts.
        for records in [true, false] {
            let mut batch = Vec::new();
            let mut objects = self.repository.list(if records { path::VECTOR_SETS } else { "" });
            loop {
                let next = objects.try_next().await?;
                let ended = next.is_none();
                if let Some((object, bytes, modified)) = next
                    && records == object.starts_with(path::VECTOR_SETS)
                {
                    report.total.add(bytes);
                    if references.removable(&object) {
                        let since = marks.since(&object, modified);
                        if self.due(since, now) && !references.held(&object) {
                            batch.push(Loose { object, bytes, modified, since });
                        } else {
                            if records {
                                reader.hold(&mut references, &object).await?;
                            }
                            self.waits(report, bytes, since, now);
                            writer.push(object, bytes, modified, since).await?;
                        }
                    }
                }
                if batch.len() == BATCH || (ended && !batch.is_empty()) {
                    self.cancel.check()?;
                    exclusive.still_held().await?;
                    for left in self.remove(std::mem::take(&mut batch), report, &mut refusals).await? {
                        if records {
                            reader.hold(&mut references, &left.object).await?;
                        }
                        writer.push(left.object, left.bytes, left.modified, left.since).await?;
                    }
                }
                if ended {
                    break;
                }
            }
        }
        if report.protected.objects > 0 {
            let Amount { objects, bytes } = report.protected;
            self.events
                .warn(format!("the store protects {objects} objects ({bytes} bytes) against deletion: they stay"));
        }
        let keep = writer.finish().await?;
        remove_others(self.repository, keep.as_deref()).await?;
        self.repository.unlock_stale(self.events).await;
        Ok(())
    }

    async fn delete(&self, loose: Loose) -> (Loose, Result<()>) {
        let outcome = self.repository.delete(&loose.object).await;
        if outcome.is_ok() && loose.object.matches('/').count() > 1 {
            self.repository.remove_empty_folder(&loose.object).await;
        }
        (loose, outcome)
    }

    /// Deletes a batch; returns what the store refused to delete.
    async fn remove(&self, batch: Vec<Loose>, report: &mut PruneReport, refusals: &mut u64) -> Result<Vec<Loose>> {
        let mut left = Vec::new();
        let mut batch = batch.into_iter();
        loop {
            // A few at a time, so that a store that refuses is not asked thousands of times.
            let some: Vec<Loose> = batch.by_ref().take(REFUSALS as usize).collect();
            if some.is_empty() {
                return Ok(left);
            }
            if *refusals >= REFUSALS && report.removed.objects == 0 {
                some.iter().for_each(|loose| report.protected.add(loose.bytes));
                left.extend(some);
                continue;
            }
            for (loose, outcome) in join_all(some.into_iter().map(|loose| self.delete(loose))).await {
                match outcome {
                    Ok(()) => {
                        report.removed.add(loose.bytes);
                        if report.examples.len() < EXAMPLES {
                            report.examples.push(loose.object);
                        }
                    }
                    Err(e) if protects(&e) => {
                        *refusals += 1;
                        report.protected.add(loose.bytes);
                        left.push(loose);
                    }
                    Err(e) => return Err(e.with("removed", describe_amount(report.removed))),
                }
            }
        }
    }
}

fn describe_amount(amount: Amount) -> String {
    format!("{} objects before it", amount.objects)
}

/// Whether the store will not delete an object: no permission, or a lock on the object, which Azure calls a conflict.
fn protects(error: &Error) -> bool {
    refused(error) || error.kind() == ErrorKind::AlreadyExists
}

impl Repository {
    /// Removes locks whose holders have gone; what fails is left to the next run.
    async fn unlock_stale(&self, events: &Events) {
        if let Err(e) = self.remove_locks(false).await {
            events.warn(format!("stale locks could not be removed: {}", describe(&e)));
        }
    }
}

#[cfg(test)]
#[path = "prune_tests.rs"]
mod tests;
