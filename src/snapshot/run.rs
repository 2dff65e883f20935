//! Taking a snapshot.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::base::{self, Now};
use super::canary::{CanaryPicker, Kept as KeptCanaries, read_canaries};
use super::cannot_restore::cannot_restore;
use super::intake::Intake;
use super::listing::{Listed, Listing, Sent, list, stream_of};
use super::moved::{Changes, find_moves};
use super::report::SnapshotReport;
use super::select::{Keep, Selected, select};
use super::target::{live, unreached};
use super::write::{Previous, write_inventory};
use crate::capture::{CaptureTotals, CaptureWriter};
use crate::chunk::{Chunker, ChunkingRules};
use crate::corpus::{Corpus, SourceObject};
use crate::embed::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Stage};
use crate::ids::{Digest, timed_id};
use crate::ingest::{IngestTimes, Ingested, ingest};
use crate::measure::{Seconds, peak_rss_bytes};
use crate::pipeline::{CaptureMode, CorpusSettings, StoreSettings};
use crate::repository::{
    Buckets, Captured, CorpusRecord, Counts, FORMAT_VERSION, Lock, LockKind, Manifest, ObjectRef, Repository,
    SkippedDocument, bucket_bits,
};
use crate::workspace::{Workspace, chunker, chunking_rules};

/// How a snapshot is taken.
#[derive(Debug, Clone, Default)]
pub struct SnapshotOptions {
    /// Leave the live collection alone: no schema, no golden-query baseline.
    pub skip_target: bool,
    /// Read every document, whatever size, time and tag say.
    pub rehash: bool,
    /// Words to find the snapshot by: letters, digits and `-_.:`, at most 64 of them.
    pub tags: Vec<String>,
}

/// Skipped documents that the report names; all of them are in the repository.
const NAMED: usize = 50;

/// Takes a snapshot: reads what is new or changed since the previous one, writes inventory and canaries, and last
/// the manifest.
///
/// # Errors
/// `Configuration` for a tag that is none; `BadDocument` where bad documents fail the run; what the corpus, the model
/// and the repository fail with; `Locked`, retryable, while a prune removes objects from the repository.
pub async fn snapshot(workspace: &Workspace, options: &SnapshotOptions) -> Result<SnapshotReport> {
    // Before anything is made: a corpus that is not there must not leave an empty repository.
    workspace.corpus(&workspace.pipeline.corpus)?;
    let repository = workspace.create_repository().await?;
    let lock = repository.lock(LockKind::Shared, "snapshot", &workspace.events).await?;
    let outcome = locked(workspace, options, repository, &lock).await;
    lock.release().await;
    outcome
}

async fn locked(
    workspace: &Workspace,
    options: &SnapshotOptions,
    repository: Repository,
    lock: &Lock,
) -> Result<SnapshotReport> {
    let started = Instant::now();
    let created = (workspace.now)();
    let tags = tags(&options.tags)?;
    let pipeline = &workspace.pipeline;
    let events = &workspace.events;
    let corpus = Arc::new(workspace.corpus(&pipeline.corpus)?);
    let previous = match Manifest::find(&repository, "latest", Some(&pipeline.name)).await {
        Ok(manifest) => Some(manifest),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => {
            events.warn(format!("the previous snapshot is passed over: {e}"));
            None
        }
    };
    let engine = workspace.engine(&|context| previous.as_ref().is_some_and(|p| p.model.dtype == context.dtype)).await?;
    let rules = chunking_rules(&pipeline.chunking, &engine)?;
    let run = Run {
        workspace,
        corpus,
        repository,
        rules_fingerprint: rules.fingerprint()?,
        model_fingerprint: engine.context().fingerprint()?,
        cutter: Arc::new(chunker(&rules, &engine)?),
        rules,
        engine,
        previous,
        capture: pipeline.capture.mode,
        times: Arc::default(),
        sent: Arc::default(),
    };
    let taken = run.take(options.rehash).await?;
    run.commit(created, tags, options.skip_target, taken, started, lock).await
}

/// Checks tags; the same one twice counts once.
fn tags(given: &[String]) -> Result<Vec<String>> {
    let mut tags: Vec<String> = Vec::new();
    for tag in given {
        let fits = (1..=64).contains(&tag.len())
            && tag.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':'));
        if !fits {
            return Err(Error::new(ErrorKind::Configuration, "this is no tag")
                .with("tag", tag)
                .guidance("a tag has 1 to 64 letters, digits and `-_.:`; several are given one by one"));
        }
        if !tags.contains(tag) {
            tags.push(tag.clone());
        }
    }
    Ok(tags)
}

/// What one run works with.
struct Run<'a> {
    workspace: &'a Workspace,
    corpus: Arc<Corpus>,
    repository: Repository,
    engine: Arc<Engine>,
    rules: ChunkingRules,
    rules_fingerprint: Digest,
    model_fingerprint: Digest,
    cutter: Arc<Chunker>,
    previous: Option<Manifest>,
    capture: CaptureMode,
    times: Arc<IngestTimes>,
    sent: Arc<Sent>,
}

/// What goes into the manifest, and what the report says besides.
struct Taken {
    listing: Listing,
    counts: Counts,
    bits: u8,
    inventory: Vec<ObjectRef>,
    canaries: ObjectRef,
    skipped: Option<ObjectRef>,
    captured: Option<Captured>,
    captured_totals: Option<CaptureTotals>,
    cannot_restore: Vec<String>,
    reread: u64,
    vanished: u64,
    changes: Changes,
    named: Vec<SkippedDocument>,
    write_seconds: f64,
}

/// What a snapshot is built on.
enum Base<'a> {
    /// The previous one: its documents may be taken over.
    Previous(&'a Manifest, Vec<SkippedDocument>, KeptCanaries),
    /// Nothing: every document is read. Whether packs of the previous snapshot are shared as they are, or only after
    /// their bytes have been compared with their digests.
    Corpus { trusted: bool },
}

impl Run<'_> {
    async fn base(&self, rehash: bool) -> Result<Base<'_>> {
        let Some(previous) = &self.previous else { return Ok(Base::Corpus { trusted: true }) };
        let events = &self.workspace.events;
        if rehash {
            return Ok(Base::Corpus { trusted: false });
        }
        let now = Now {
            corpus: &self.workspace.pipeline.corpus,
            rules: self.rules_fingerprint,
            model: self.model_fingerprint,
            capture: self.capture,
        };
        if let Some(why) = base::differs(previous, &now) {
            events.note(format!("every document is read, because since snapshot {} {why}", previous.id));
            return Ok(Base::Corpus { trusted: true });
        }
        let needed = async {
            base::check_objects(&self.repository, previous).await?;
            let canaries = KeptCanaries::new(read_canaries(&self.repository, previous).await?);
            Ok::<_, Error>(Base::Previous(previous, base::skipped(&self.repository, previous).await?, canaries))
        };
        match needed.await {
            Ok(base) => Ok(base),
            Err(e) if e.kind() == ErrorKind::Damaged => {
                events.warn(format!("the previous snapshot is damaged, so every document is read: {e}"));
                Ok(Base::Corpus { trusted: false })
            }
            Err(e) => Err(e),
        }
    }

    /// Lists the corpus, reads what must be read, and stores everything but the manifest.
    async fn take(&self, rehash: bool) -> Result<Taken> {
        let workspace = self.workspace;
        let events = &workspace.events;
        let base = self.base(rehash).await?;
        events.start(Stage::Read, None, "documents");
        let reading = Instant::now();
        let shared_listing = Arc::new(std::sync::Mutex::new(Listing::default()));
        let mut lister = None;
        let capture;
        // The documents of the previous snapshot, where it can be read at all.
        let mut selected = None;
        let objects;
        if let Base::Previous(previous, skipped, canaries) = base {
            let mut listed = Listed::new(&self.corpus, &workspace.cancel).await?;
            if base::is_unchanged(previous, &listed.listing, !listed.bad.is_empty(), &skipped) {
                events.finish(Stage::Read, reading.elapsed().as_secs_f64());
                return Ok(self.unchanged(previous, listed.listing, skipped));
            }
            if let Ok(mut listing) = shared_listing.lock() {
                *listing = listed.listing.clone();
            }
            capture = CaptureWriter::begin(&self.repository, self.capture, self.previous.as_ref(), true)?;
            let keep = Keep::Unchanged { listed: &mut listed, skipped, canaries, capture: capture.clone() };
            selected = self.selected(previous, keep).await?;
            objects = match &mut selected {
                Some(selected) => {
                    let to_read = std::mem::replace(&mut selected.to_read, crate::aside::Aside::new(0)?);
                    stream_of(listed.bad, Vec::new(), to_read, self.sent.clone())
                }
                None => listed.all(self.sent.clone()),
            };
        } else {
            if let Some(previous) = &self.previous {
                selected = self.selected(previous, Keep::Nothing).await?;
            }
            let trusted = !matches!(base, Base::Corpus { trusted: false });
            capture = CaptureWriter::begin(&self.repository, self.capture, self.previous.as_ref(), trusted)?;
            let (stream, task) = list(self.corpus.clone(), shared_listing.clone(), self.sent.clone());
            (objects, lister) = (stream, Some(task));
        }

        let kept = selected.as_ref().map(|s| (s.counts.clone(), s.skipped.clone())).unwrap_or_default();
        let kept_documents = kept.0.documents;
        let mut intake = Intake::new(workspace.pipeline.corpus.on_bad_document, kept.0, kept.1)?;
        let mut canaries = CanaryPicker::default();
        if let Some(selected) = &mut selected {
            canaries.keep(selected.canaries.rows());
        }
        events.progress(Stage::Read, kept_documents);
        intake.versioned &= selected.as_ref().is_none_or(|s| s.versioned);
        self.read(objects, &mut intake, &mut canaries, capture.as_ref()).await?;
        if let Some(lister) = lister {
            lister.await?;
        }
        workspace.cancel.check()?;
        if let Some(selected) = &mut selected
            && canaries.too_few(intake.counts.chunks)
        {
            self.more_canaries(selected.canaries.spare(), &mut canaries).await?;
        }
        events.finish(Stage::Read, reading.elapsed().as_secs_f64());
        let mut listing = shared_listing.lock().map(|l| l.clone()).unwrap_or_default();
        if intake.vanished > 0 || self.times.moved_on.load(Ordering::Relaxed) {
            // What is listed is not what was read: should it come back as it was listed, it must be looked at.
            listing.newest = None;
        }
        self.store(intake, canaries, selected, kept_documents, listing, capture.as_deref()).await
    }

    /// Nothing is new: everything is shared with the previous snapshot.
    fn unchanged(&self, previous: &Manifest, listing: Listing, skipped: Vec<SkippedDocument>) -> Taken {
        self.workspace.events.progress(Stage::Read, previous.counts.documents);
        Taken {
            listing,
            counts: previous.counts.clone(),
            bits: previous.buckets.bits,
            inventory: previous.inventory.clone(),
            canaries: previous.canaries.clone(),
            skipped: previous.skipped.clone(),
            captured: previous.captured.clone(),
            captured_totals: previous.captured.as_ref().map(|c| CaptureTotals {
                objects: c.objects,
                bytes: c.bytes,
                ..CaptureTotals::default()
            }),
            cannot_restore: previous.cannot_restore.clone(),
            reread: 0,
            vanished: 0,
            changes: Changes { documents_unchanged: previous.counts.documents, ..Changes::default() },
            named: skipped,
            write_seconds: 0.0,
        }
    }

    /// Goes through the previous documents; `None` when they cannot be read.
    async fn selected(&self, previous: &Manifest, keep: Keep<'_>) -> Result<Option<Selected>> {
        match select(&self.repository, previous, keep, &self.workspace.cancel).await {
            Ok(selected) => Ok(Some(selected)),
            Err(e) if e.kind() == ErrorKind::Damaged => {
                let warning = format!("the previous snapshot is damaged, so every document is read: {e}");
                self.workspace.events.warn(warning);
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    async fn read(
        &self,
        objects: BoxStream<'static, Result<SourceObject>>,
        intake: &mut Intake,
        canaries: &mut CanaryPicker,
        capture: Option<&Arc<CaptureWriter>>,
    ) -> Result<()> {
        let (events, cancel) = (&self.workspace.events, self.workspace.cancel.clone());
        let (corpus, cutter, capture) = (self.corpus.clone(), self.cutter.clone(), capture.cloned());
        let mut documents = ingest(corpus, cutter, objects, cancel, self.times.clone(), capture);
        while let Some(item) = documents.recv().await {
            match item? {
                Ingested::Document(document) => {
                    intake.document(&document)?;
                    canaries.offer(&document);
                    events.progress(Stage::Read, 1);
                }
                Ingested::Bad { object, error } => {
                    let SkippedDocument { path, line, reason } = intake.bad(&object, error)?;
                    events.send(Event::DocumentSkipped { uri: path, line, reason });
                }
                Ingested::Again { object } => {
                    events.note(format!("{} changed while it was read", object.path));
                    canaries.forget(&object.path);
                    intake.voided.add(object);
                }
                Ingested::Vanished { object } => {
                    // It was not there at the snapshot's point in time, or not any more at its end: either is true.
                    intake.vanished += 1;
                    if intake.vanished <= NAMED as u64 {
                        events.note(format!("{} was deleted before it was read", object.path));
                    }
                }
            }
        }
        intake.rows.seal()?;
        intake.drop_voided()
    }

    /// Reads unchanged documents for canaries, until there are enough. One that cannot be read is passed over.
    async fn more_canaries(&self, objects: Vec<SourceObject>, canaries: &mut CanaryPicker) -> Result<()> {
        for object in objects {
            self.sent.add(&object);
            let objects = stream::once(std::future::ready(Ok(object))).boxed();
            let (cutter, cancel) = (self.cutter.clone(), self.workspace.cancel.clone());
            let mut documents = ingest(self.corpus.clone(), cutter, objects, cancel, self.times.clone(), None);
            while let Some(item) = documents.recv().await {
                if let Ingested::Document(document) = item? {
                    canaries.offer(&document);
                }
            }
            if !canaries.too_few(u64::MAX) {
                break;
            }
        }
        Ok(())
    }

    async fn store(
        &self,
        mut intake: Intake,
        canaries: CanaryPicker,
        mut selected: Option<Selected>,
        kept_documents: u64,
        listing: Listing,
        capture: Option<&CaptureWriter>,
    ) -> Result<Taken> {
        let (repository, events, cancel) = (&self.repository, &self.workspace.events, &self.workspace.cancel);
        let writing = Instant::now();
        let read = intake.rows.len();
        let mut changes = Changes { documents_read: read, ..Changes::default() };
        let mut moves = super::moved::Moves::default();
        if let (Some(previous), Some(selected)) = (&self.previous, &mut selected) {
            (changes, moves) = find_moves(repository, previous, &mut selected.old, &mut intake.rows, cancel).await?;
            changes.documents_unchanged += kept_documents;
            if moves.passed_over > 0 {
                events.note(format!(
                    "{} new documents were not looked for in the previous snapshot: should they have been moved, \
                     they are embedded again",
                    moves.passed_over
                ));
            }
        }
        let bits = bucket_bits(intake.counts.chunks, self.previous.as_ref().map(|m| m.buckets.bits));
        let named = intake.skipped.len();
        let previous = match (&self.previous, &mut selected) {
            (Some(manifest), Some(selected)) => Some(Previous { manifest, selected, moves: &moves }),
            _ => None,
        };
        let inventory = write_inventory(repository, &mut intake, bits, previous, cancel).await?;
        if selected.is_none() {
            changes.documents_added = intake.counts.documents;
        }
        for SkippedDocument { path, line, reason } in intake.skipped[named..].iter().cloned() {
            events.send(Event::DocumentSkipped { uri: path, line, reason });
        }
        let earlier = self.previous.as_ref().map(|p| &p.canaries);
        let canaries = canaries.store(repository, self.engine.clone(), &self.rules_fingerprint, earlier).await?;
        let skipped = intake.store_skipped(repository).await?;
        let (captured, captured_totals) = match capture {
            Some(capture) => capture.finish().await.map(|(captured, totals)| (Some(captured), Some(totals)))?,
            None => (None, None),
        };
        Ok(Taken {
            listing,
            counts: intake.counts,
            bits,
            inventory,
            canaries,
            skipped,
            captured,
            captured_totals,
            cannot_restore: cannot_restore(self.capture, intake.versioned),
            reread: intake.voided.objects,
            vanished: intake.vanished,
            changes,
            named: intake.skipped,
            write_seconds: writing.elapsed().as_secs_f64(),
        })
    }

    /// Writes the manifest: before that nothing shows that there was a snapshot.
    async fn commit(
        &self,
        created: jiff::Timestamp,
        tags: Vec<String>,
        skip_target: bool,
        taken: Taken,
        started: Instant,
        lock: &Lock,
    ) -> Result<SnapshotReport> {
        let (workspace, engine) = (self.workspace, &self.engine);
        let pipeline = &workspace.pipeline;
        let (target, golden_baseline) =
            if skip_target { (unreached(workspace), None) } else { live(workspace, engine).await? };
        workspace.cancel.check()?;
        let id = timed_id(created);
        let manifest = Manifest {
            format: FORMAT_VERSION,
            id: id.clone(),
            created,
            completed: (workspace.now)(),
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            pipeline: pipeline.name.clone(),
            corpus: CorpusRecord {
                settings: CorpusSettings { store: StoreSettings::new(), ..pipeline.corpus.clone() },
                capture: self.capture,
                objects: taken.listing.objects,
                listing: taken.listing.digest(),
                newest: taken.listing.newest,
                reread: taken.reread,
            },
            rules: self.rules.clone(),
            rules_fingerprint: self.rules_fingerprint,
            model: engine.context().clone(),
            model_fingerprint: self.model_fingerprint,
            model_card: pipeline.model.name.clone(),
            counts: taken.counts,
            buckets: Buckets { bits: taken.bits },
            inventory: taken.inventory,
            canaries: taken.canaries,
            skipped: taken.skipped,
            target,
            golden_baseline,
            cannot_restore: taken.cannot_restore,
            previous: self.previous.as_ref().map(|m| m.id.clone()),
            tags,
            captured: taken.captured,
        };
        lock.commit(&self.repository, &manifest).await?;
        let counts = manifest.counts;
        Ok(SnapshotReport {
            verb: "snapshot",
            ok: true,
            exit_code: 0,
            snapshot: id,
            previous: manifest.previous,
            tags: manifest.tags,
            repository: self.repository.url().to_owned(),
            corpus: self.corpus.url().to_owned(),
            objects: taken.listing.objects,
            objects_read: self.sent.objects.load(Ordering::Relaxed),
            bytes_read: self.sent.bytes.load(Ordering::Relaxed),
            documents: counts.documents,
            changes: taken.changes,
            documents_skipped: counts.documents_skipped,
            skipped: taken.named.into_iter().take(NAMED).collect(),
            chunks: counts.chunks,
            tokens: counts.tokens,
            bytes: counts.bytes,
            capture: self.capture,
            captured: taken.captured_totals,
            objects_reread: taken.reread,
            objects_vanished: taken.vanished,
            buckets: 1 << taken.bits,
            canaries: manifest.canaries.rows.unwrap_or(0),
            golden_queries: manifest.golden_baseline.as_ref().map_or(0, |b| b.queries.len() as u64),
            model_fingerprint: self.model_fingerprint,
            rules_fingerprint: self.rules_fingerprint,
            seconds: Seconds {
                total: started.elapsed().as_secs_f64(),
                read: self.times.read.seconds(),
                chunk: self.times.chunk.seconds(),
                write: taken.write_seconds,
                ..Seconds::default()
            },
            peak_rss_bytes: peak_rss_bytes(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_words() {
        let given = |tags: &[&str]| super::tags(&tags.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        assert_eq!(given(&["nightly", "v1.2:a_b-c", "nightly"]).unwrap(), ["nightly", "v1.2:a_b-c"]);
        for wrong in ["", "two words", "a,b", "é", &"x".repeat(65)] {
            assert_eq!(given(&[wrong]).unwrap_err().kind(), ErrorKind::Configuration, "{wrong}");
        }
    }
}
