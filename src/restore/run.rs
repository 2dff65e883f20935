//! Running a restore.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::collection::{Destination, adopt, destination, forget};
use super::compute::{ComputeTotals, embed, store, stored};
use super::corpus_check::{Differences, check_corpus};
use super::load::{build_index, check_count, load_part};
use super::plan::{PartPlan, Prepared, RestorePlan};
use super::report::{RestoreReport, TargetReport};
use super::source::BucketSource;
use super::{OnChanged, RestoreOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Stage;
use crate::ingest::IngestTimes;
use crate::measure::{Busy, Seconds, peak_rss_bytes};
use crate::repository::{FORMAT_VERSION, InventoryReader, Manifest, Repository, bucket_of};
use crate::targets::{CollectionState, Filter, OwnedCollection};
use crate::validate::{Check, DocumentLookup, ValidationInput, Verdict, load_golden, validate};
use crate::vectors::{PartRef, StoredVectorSet, VectorSetRecord};
use crate::workspace::{EngineQueries, Workspace};

/// Plans and runs a restore.
pub async fn restore(workspace: &Workspace, options: RestoreOptions) -> Result<RestoreReport> {
    let started = Instant::now();
    let repository = workspace.repository().await?;
    let lock = Arc::new(repository.lock_to_read("restore", &workspace.events).await?);
    let outcome = async {
        let workspace = match lock.is_absent() {
            true => &workspace.with_repository(repository.over_scratch()?),
            false => workspace,
        };
        let prepared = Prepared::open(workspace, options).await?.under(lock.clone());
        let plan = prepared.plan().await?;
        run(&prepared, &plan, started).await
    };
    let outcome = outcome.await;
    lock.release().await;
    outcome
}

/// What the streaming stages produced.
struct Streamed {
    parts: Vec<PartRef>,
    parts_reused: u64,
    parts_loaded: u64,
    documents_cut: u64,
    differences: Differences,
}

/// Runs a planned restore; `started` is when the clock of its RTO began.
///
/// A failing check is not an error: the report says so with `ok: false` and exit code 30.
pub async fn run(prepared: &Prepared, plan: &RestorePlan, started: Instant) -> Result<RestoreReport> {
    let key = prepared.restore_key(plan)?;
    if prepared.options.on_changed == OnChanged::Fail {
        let differences = check_corpus(prepared, plan).await?;
        if differences.count > 0 {
            return Err(differences.error(&plan.snapshot));
        }
    }
    let totals = Arc::new(ComputeTotals::default());
    let times = Arc::new(IngestTimes::default());
    let load_time = Busy::default();
    let mut parts_to_do = plan.part_plans.clone();
    let mut fresh = prepared.options.fresh;
    loop {
        let target = destination(prepared, plan, key, fresh).await?;
        let streamed = stream(prepared, &parts_to_do, &target, &totals, &times, &load_time).await?;
        if streamed.differences.count > 0 && prepared.options.on_changed == OnChanged::Fail {
            // What was loaded is useless without the rest; the finished parts stay in the repository.
            forget(prepared, &target.collection).await?;
            if !target.ready {
                prepared.target.delete(target.collection).await?;
            }
            return Err(streamed.differences.error(&plan.snapshot));
        }
        let rows = streamed.parts.iter().map(|p| p.rows).sum();
        let mut index_seconds = 0.0;
        if !target.ready {
            check_count(prepared, &target.collection, rows).await?;
        }
        if prepared.options.load_only {
            let seconds = seconds(started, &times, &totals, &load_time);
            return conclude(prepared, plan, target, streamed, Verdict::default(), &totals, seconds).await;
        }
        if !target.ready {
            index_seconds = build_index(prepared, &target.collection).await?;
        }
        let validating = Instant::now();
        let verdict = verdict(prepared, plan, &target.collection, &streamed).await?;
        let validate_seconds = validating.elapsed().as_secs_f64();
        if target.ready && !verdict.passed() {
            prepared.workspace.events.warn(format!(
                "{} was complete but does not pass its checks any more: a new collection is built",
                target.collection.name()
            ));
            fresh = true;
            // Everything has been computed by now.
            parts_to_do.iter_mut().for_each(|p| p.stored = true);
            continue;
        }
        let seconds = Seconds {
            index: index_seconds,
            validate: validate_seconds,
            ..seconds(started, &times, &totals, &load_time)
        };
        return conclude(prepared, plan, target, streamed, verdict, &totals, seconds).await;
    }
}

/// Time so far, index and validation apart.
fn seconds(started: Instant, times: &IngestTimes, totals: &ComputeTotals, load: &Busy) -> Seconds {
    Seconds {
        total: started.elapsed().as_secs_f64(),
        read: times.read.seconds(),
        chunk: times.chunk.seconds(),
        embed: totals.embed.seconds(),
        write: totals.write.seconds(),
        load: load.seconds(),
        ..Seconds::default()
    }
}

/// The four streaming stages at once: source → embed → store → load, with stored parts joining at load.
async fn stream(
    prepared: &Prepared,
    parts: &[PartPlan],
    target: &Destination,
    totals: &Arc<ComputeTotals>,
    times: &Arc<IngestTimes>,
    load_time: &Busy,
) -> Result<Streamed> {
    let events = &prepared.workspace.events;
    let cancel = &prepared.workspace.cancel;
    let (there, missing): (Vec<PartPlan>, Vec<PartPlan>) = parts.iter().cloned().partition(|p| p.stored);
    let (to_embed, mut from_source) = mpsc::channel(1);
    let (to_store, mut from_embed) = mpsc::channel(1);
    let (to_load, mut from_store) = mpsc::channel(1);
    let (damaged_tx, damaged_rx) = oneshot::channel();
    let started = Instant::now();
    if !missing.is_empty() {
        events.start(Stage::Read, Some(missing.iter().map(|p| p.documents).sum()), "documents");
        events.start(Stage::Embed, Some(missing.iter().map(|p| p.chunks).sum()), "chunks");
    }
    if !target.ready {
        events.start(Stage::Load, Some(parts.iter().map(|p| p.chunks).sum()), "points");
    }

    let mut source = BucketSource::new(prepared, times.clone());
    let read = async {
        let to_embed = to_embed;
        let mut round = missing;
        let mut damaged_rx = Some(damaged_rx);
        loop {
            let round_parts = if source.put_aside(&round).await? { round.as_slice() } else { &[] };
            for part in round_parts {
                cancel.check()?;
                if let Some(bucket) = source.bucket(part).await?
                    && to_embed.send(bucket).await.is_err()
                {
                    return Ok(());
                }
            }
            // Stored parts that turned out to be damaged are computed after the others.
            let Some(rx) = damaged_rx.take() else { break };
            round = rx.await.unwrap_or_default();
        }
        events.finish(Stage::Read, started.elapsed().as_secs_f64());
        Ok(())
    };
    let embed = async {
        let to_store = to_store;
        while let Some(mut bucket) = from_source.recv().await {
            embed(prepared, totals, &mut bucket).await?;
            if to_store.send(bucket).await.is_err() {
                return Ok(());
            }
        }
        events.finish(Stage::Embed, started.elapsed().as_secs_f64());
        Ok(())
    };
    let to_load_stored = to_load.clone();
    let store = async {
        let to_load = to_load;
        while let Some(bucket) = from_embed.recv().await {
            // A part without rows is left out: nothing to store, nothing to load.
            if bucket.rows.is_empty() {
                continue;
            }
            let part = store(prepared, totals, bucket).await?;
            if to_load.send(part).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    };
    let feed = async {
        let to_load = to_load_stored;
        let mut damaged = Vec::new();
        let mut reused = 0;
        for part in &there {
            cancel.check()?;
            match stored(prepared, part.name).await? {
                Some(found) => {
                    reused += 1;
                    totals.chunks_reused.fetch_add(found.0.rows, Ordering::Relaxed);
                    if to_load.send(found).await.is_err() {
                        break;
                    }
                }
                None => damaged.push(part.clone()),
            }
        }
        drop(damaged_tx.send(damaged));
        Ok(reused)
    };
    let load = async {
        let (mut parts, mut loaded) = (Vec::new(), 0);
        while let Some((part, rows)) = from_store.recv().await {
            let file = part.object.path.rsplit('/').next().unwrap_or_default();
            if !target.ready {
                if target.receipts.contains_key(file) {
                    events.progress(Stage::Load, part.rows);
                } else {
                    let start = Instant::now();
                    load_part(prepared, &target.collection, &part, rows).await?;
                    load_time.since(start);
                    loaded += 1;
                }
            }
            parts.push(part);
        }
        if !target.ready {
            events.finish(Stage::Load, started.elapsed().as_secs_f64());
        }
        Ok::<_, Error>((parts, loaded))
    };
    let ((), (), (), parts_reused, (mut parts, parts_loaded)) = tokio::try_join!(read, embed, store, feed, load)?;
    parts.sort_by_key(|p| p.bucket);
    Ok(Streamed {
        parts,
        parts_reused,
        parts_loaded,
        documents_cut: source.documents_cut,
        differences: source.differences,
    })
}

/// All checks: those that only the restore itself can make, then those of `validate`.
async fn verdict(
    prepared: &Prepared,
    plan: &RestorePlan,
    collection: &OwnedCollection,
    streamed: &Streamed,
) -> Result<Verdict> {
    let workspace = &prepared.workspace;
    let settings = &workspace.pipeline.validation;
    let golden = match &settings.golden {
        Some(file) => load_golden(&workspace.base.join(file))?,
        None => Vec::new(),
    };
    let source = StoredVectorSet::new(&prepared.repository, &streamed.parts)?;
    let documents = plan.counts.documents;
    let lookup = InventoryLookup { repository: &prepared.repository, manifest: &prepared.manifest };
    let input = ValidationInput {
        target: prepared.target.as_ref(),
        collection: collection.name(),
        source: &source,
        settings,
        embedder: &EngineQueries(prepared.engine.clone()),
        context: &prepared.manifest.model,
        payload_indexes: &workspace.pipeline.payload_indexes(),
        golden: &golden,
        baseline: prepared.manifest.golden_baseline.as_ref(),
        expected_documents: documents - streamed.differences.count,
        documents: Some(&lookup),
        seed: prepared.manifest.inventory.iter().fold(0, |seed, o| seed ^ o.digest.prefix()),
    };
    let verdict = validate(&input, &workspace.events).await?;
    let recut = serde_json::json!({ "documents_recut": streamed.documents_cut });
    let chunk_digests = if streamed.documents_cut == 0 {
        Check::skipped("chunk_digests", "every part was in the repository already: nothing was cut again")
    } else {
        // A document that is cut differently stops the restore, so reaching this point proves the rest.
        let expected = serde_json::json!({ "documents": documents });
        Check::pass("chunk_digests", recut, expected, "documents of computed parts were cut into the recorded chunks")
    };
    Ok(verdict.after(vec![plan.canaries.clone(), chunk_digests]))
}

/// Says why a golden document was not found: because the snapshot never had it?
struct InventoryLookup<'a> {
    repository: &'a Repository,
    manifest: &'a Manifest,
}

#[async_trait]
impl DocumentLookup for InventoryLookup<'_> {
    async fn present(&self, ids: &BTreeSet<String>) -> Result<BTreeSet<String>> {
        let bits = self.manifest.buckets.bits;
        let buckets: BTreeSet<u32> = ids.iter().map(|id| bucket_of(id, bits)).collect();
        let mut reader = InventoryReader::new(self.repository, self.manifest);
        let mut present = BTreeSet::new();
        for bucket in buckets {
            let rows = reader.bucket(bucket).await?;
            present.extend(rows.into_iter().map(|row| row.document_id).filter(|id| ids.contains(id)));
        }
        Ok(present)
    }
}

/// Marks the collection, commits the vector set, promotes, reports.
async fn conclude(
    prepared: &Prepared,
    plan: &RestorePlan,
    target: Destination,
    streamed: Streamed,
    verdict: Verdict,
    totals: &ComputeTotals,
    seconds: Seconds,
) -> Result<RestoreReport> {
    let manifest = &prepared.manifest;
    let drill = prepared.options.scratch.is_some();
    let load_only = prepared.options.load_only;
    let passed = load_only || verdict.passed();
    let rows: u64 = streamed.parts.iter().map(|p| p.rows).sum();
    let mut promoted = None;
    let mut previous = None;
    let mut collection = target.collection;
    let state = if passed { CollectionState::Ready } else { CollectionState::Failed };
    if !target.ready && !load_only {
        let marker = crate::targets::Marker { state, ..collection.marker().clone() };
        collection = prepared.target.mark(&collection, marker).await?;
        forget(prepared, &collection).await?;
    }
    let names = streamed.parts.iter().map(PartRef::name).collect::<Result<Vec<_>>>()?;
    let (model, rules) = (&manifest.model_fingerprint, &manifest.rules_fingerprint);
    let id = VectorSetRecord::id(&prepared.repository, model, rules, names.into_iter())?;
    if !drill {
        let record = VectorSetRecord {
            format: FORMAT_VERSION,
            id: id.clone(),
            created: jiff::Timestamp::now(),
            snapshot: manifest.id.clone(),
            model: manifest.model.clone(),
            model_fingerprint: manifest.model_fingerprint,
            rules: manifest.rules.clone(),
            rules_fingerprint: manifest.rules_fingerprint,
            bits: manifest.buckets.bits,
            parts: streamed.parts.clone(),
            rows,
        };
        if let Some(lock) = &prepared.lock {
            lock.still_held().await?;
        }
        record.commit(&prepared.repository).await?;
        if passed && prepared.options.promote && !load_only {
            if prepared.options.adopt {
                adopt(prepared).await?;
            }
            let before = prepared.target.promote(&plan.collection, &collection).await?;
            previous = before.filter(|name| name != collection.name());
            promoted = Some(plan.collection.clone());
            if let (true, Some(name)) = (prepared.options.drop_previous, &previous) {
                let deleted = async { prepared.target.delete(prepared.target.open_owned(name).await?).await };
                match deleted.await {
                    Ok(()) => prepared.workspace.events.note(format!("deleted {name}, which was served before")),
                    // The restore itself is done; its report must not be lost over this.
                    Err(e) => prepared.workspace.events.warn(format!("{name} could not be deleted: {e}")),
                }
            }
        }
    }
    let count = prepared.target.count(collection.name(), &Filter::default()).await?;
    let changed = streamed.differences.count;
    Ok(RestoreReport {
        verb: if drill { "drill" } else { "restore" },
        ok: passed,
        exit_code: if passed { 0 } else { ErrorKind::ValidationFailed.exit_code() },
        snapshot: manifest.id.clone(),
        documents: manifest.counts.documents - changed,
        documents_skipped: manifest.counts.documents_skipped + changed,
        differences: streamed.differences.named,
        chunks: rows,
        chunks_embedded: totals.chunks_embedded.load(Ordering::Relaxed),
        chunks_reused: totals.chunks_reused.load(Ordering::Relaxed),
        tokens: totals.tokens.load(Ordering::Relaxed),
        parts: streamed.parts.len() as u64,
        parts_reused: streamed.parts_reused,
        parts_loaded: streamed.parts_loaded,
        vector_set: id,
        seconds,
        peak_rss_bytes: peak_rss_bytes(),
        target: TargetReport {
            kind: prepared.target.kind(),
            collection: collection.name().to_owned(),
            promoted,
            previous,
            count,
            reused: target.ready,
        },
        unsupported: plan.unsupported.clone(),
        checks: verdict.checks,
        latency: serde_json::to_value(&verdict.latency).unwrap_or_default(),
    })
}
