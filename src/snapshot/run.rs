//! Taking a snapshot.

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::task::JoinHandle;

use super::canary::CanaryPicker;
use super::report::SnapshotReport;
use crate::corpus::{Corpus, SourceObject};
use crate::embed::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Stage};
use crate::ids::{Digest, timed_id};
use crate::ingest::{ChunkedDocument, IngestTimes, Ingested, ingest};
use crate::measure::{Seconds, peak_rss_bytes};
use crate::pipeline::{CaptureMode, CorpusSettings, OnBadDocument, StoreSettings, TargetKind};
use crate::repository::{
    Buckets, CorpusRecord, Counts, DocumentRow, FORMAT_VERSION, InventoryWriter, Manifest, ObjectRef, Repository,
    SkippedDocument, TargetRecord, bucket_bits, bucket_of, path, payload_digest,
};
use crate::spill::Spill;
use crate::validate::{GoldenBaseline, load_golden, record_baseline};
use crate::workspace::{EngineQueries, Workspace, chunker, chunking_rules};

/// How a snapshot is taken.
#[derive(Debug, Clone, Default)]
pub struct SnapshotOptions {
    /// Leave the live collection alone: no schema, no golden-query baseline.
    pub skip_target: bool,
}

/// Bits of the partitions that rows are put aside in while the number of buckets is not known yet.
const SPILL_BITS: u8 = 8;
/// Skipped documents that the report names; all of them are in the repository.
const NAMED: usize = 50;

/// Takes a snapshot: reads the whole corpus, writes inventory and canaries, and last the manifest.
pub async fn snapshot(workspace: &Workspace, options: &SnapshotOptions) -> Result<SnapshotReport> {
    let started = Instant::now();
    let created = (workspace.now)();
    let pipeline = &workspace.pipeline;
    let events = &workspace.events;
    let corpus = Arc::new(workspace.corpus(&pipeline.corpus)?);
    let repository = workspace.create_repository().await?;
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
    let rules_fingerprint = rules.fingerprint()?;
    let cutter = Arc::new(chunker(&rules, &engine)?);

    let times = Arc::new(IngestTimes::default());
    let mut intake = Intake::new(pipeline.corpus.on_bad_document)?;
    let listing = Arc::new(std::sync::Mutex::new(Listing::default()));
    events.start(Stage::Read, None, "documents");
    let reading = Instant::now();
    let (objects, lister) = list(corpus.clone(), listing.clone());
    let mut documents = ingest(corpus.clone(), cutter, objects, workspace.cancel.clone(), times.clone());
    while let Some(item) = documents.recv().await {
        match item? {
            Ingested::Document(document) => {
                intake.document(&document)?;
                events.progress(Stage::Read, 1);
            }
            Ingested::Bad { object, error } => {
                let skipped = intake.bad(&object, error)?;
                events.send(Event::DocumentSkipped { uri: skipped.path, line: skipped.line, reason: skipped.reason });
            }
        }
    }
    lister.await?;
    workspace.cancel.check()?;
    events.finish(Stage::Read, reading.elapsed().as_secs_f64());
    let listing = listing.lock().map(|l| l.clone()).unwrap_or_default();

    let writing = Instant::now();
    let id = timed_id(created);
    let bits = bucket_bits(intake.counts.chunks, previous.as_ref().map(|m| m.buckets.bits));
    let named = intake.skipped.len();
    let inventory = intake.inventory(&repository, bits).await?;
    for SkippedDocument { path, line, reason } in intake.skipped[named..].iter().cloned() {
        events.send(Event::DocumentSkipped { uri: path, line, reason });
    }
    let canaries = std::mem::take(&mut intake.canaries);
    let canaries = canaries.store(&repository, engine.clone(), &rules_fingerprint).await?;
    let skipped = intake.store_skipped(&repository).await?;
    let (target, golden_baseline) =
        if options.skip_target { (unreached(workspace), None) } else { live(workspace, &engine).await? };
    workspace.cancel.check()?;
    let manifest = Manifest {
        format: FORMAT_VERSION,
        id: id.clone(),
        created,
        completed: (workspace.now)(),
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        pipeline: pipeline.name.clone(),
        corpus: CorpusRecord {
            settings: CorpusSettings { store: StoreSettings::new(), ..pipeline.corpus.clone() },
            capture: CaptureMode::Reference,
            objects: listing.objects,
            listing: listing.digest(),
            newest: None,
            reread: 0,
        },
        rules,
        rules_fingerprint,
        model: engine.context().clone(),
        model_fingerprint: engine.context().fingerprint()?,
        model_card: pipeline.model.name.clone(),
        counts: intake.counts.clone(),
        buckets: Buckets { bits },
        inventory,
        canaries: canaries.clone(),
        skipped,
        target,
        golden_baseline,
        cannot_restore: vec![
            "the documents themselves: this snapshot refers to the corpus, which must keep them".to_owned(),
            "access keys and passwords of the target: they are never recorded".to_owned(),
        ],
        previous: previous.as_ref().map(|m| m.id.clone()),
        tags: Vec::new(),
        captured: None,
    };
    manifest.commit(&repository).await?;
    Ok(SnapshotReport {
        verb: "snapshot",
        ok: true,
        exit_code: 0,
        snapshot: id,
        previous: previous.map(|m| m.id),
        repository: repository.url().to_owned(),
        corpus: corpus.url().to_owned(),
        objects: listing.objects,
        documents: intake.counts.documents,
        documents_skipped: intake.counts.documents_skipped,
        skipped: intake.skipped.into_iter().take(NAMED).collect(),
        chunks: intake.counts.chunks,
        tokens: intake.counts.tokens,
        bytes: intake.counts.bytes,
        buckets: 1 << bits,
        canaries: canaries.rows.unwrap_or(0),
        golden_queries: manifest.golden_baseline.as_ref().map_or(0, |b| b.queries.len() as u64),
        model_fingerprint: manifest.model_fingerprint,
        rules_fingerprint,
        seconds: Seconds {
            total: started.elapsed().as_secs_f64(),
            read: times.read.seconds(),
            chunk: times.chunk.seconds(),
            write: writing.elapsed().as_secs_f64(),
            ..Seconds::default()
        },
        peak_rss_bytes: peak_rss_bytes(),
    })
}

/// Number of objects and a sum of their states that does not depend on their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listing {
    pub(crate) objects: u64,
    sum: u128,
}

impl Listing {
    pub(crate) fn add(&mut self, object: &SourceObject) {
        self.objects += 1;
        let state = (&object.path, object.size, object.modified, &object.etag, &object.version);
        let text = serde_json::to_vec(&state).unwrap_or_default();
        let mut half = [0; 16];
        half.copy_from_slice(&Digest::of(&text).as_bytes()[..16]);
        self.sum = self.sum.wrapping_add(u128::from_be_bytes(half));
    }

    pub(crate) fn digest(&self) -> String {
        format!("{:032x}", self.sum)
    }
}

/// The corpus's objects as a stream of its own, noting each in `listing`; the task tells whether it came to its end.
fn list(
    corpus: Arc<Corpus>,
    listing: Arc<std::sync::Mutex<Listing>>,
) -> (BoxStream<'static, Result<SourceObject>>, JoinHandle<()>) {
    let (tx, rx) = tokio::sync::mpsc::channel(256);
    let lister = tokio::spawn(async move {
        let mut objects = corpus.list();
        while let Some(object) = objects.next().await {
            if let (Ok(object), Ok(mut listing)) = (&object, listing.lock()) {
                listing.add(object);
            }
            if tx.send(object).await.is_err() {
                return;
            }
        }
    });
    (futures::stream::unfold(rx, async |mut rx| rx.recv().await.map(|item| (item, rx))).boxed(), lister)
}

/// What has come in so far.
struct Intake {
    on_bad: OnBadDocument,
    rows: Spill<DocumentRow>,
    counts: Counts,
    canaries: CanaryPicker,
    skipped: Vec<SkippedDocument>,
}

impl Intake {
    fn new(on_bad: OnBadDocument) -> Result<Self> {
        Ok(Self {
            on_bad,
            rows: Spill::new(1 << SPILL_BITS)?,
            counts: Counts::default(),
            canaries: CanaryPicker::default(),
            skipped: Vec::new(),
        })
    }

    fn document(&mut self, chunked: &ChunkedDocument) -> Result<()> {
        let document = &chunked.document;
        let row = DocumentRow {
            document_id: document.id.clone(),
            object: chunked.object.clone(),
            line: document.line,
            bytes: document.bytes,
            digest: document.digest,
            text_digest: document.text_digest,
            payload_digest: payload_digest(document)?,
            tenant: document.tenant.clone(),
            acl: document.acl.clone(),
            metadata: serde_json::to_string(&document.metadata).unwrap_or_default(),
            chunks: chunked.chunks.len() as u32,
            tokens: chunked.tokens(),
            chunk_digest: chunked.digest,
            moved_from: Vec::new(),
        };
        self.rows.push(bucket_of(&row.document_id, SPILL_BITS) as usize, &row)?;
        self.counts.documents += 1;
        self.counts.chunks += u64::from(row.chunks);
        self.counts.tokens += row.tokens;
        self.counts.bytes += row.bytes;
        self.canaries.offer(chunked);
        Ok(())
    }

    /// Counts and names a bad document, or stops the run, as the pipeline says.
    fn bad(&mut self, object: &SourceObject, error: Error) -> Result<SkippedDocument> {
        if self.on_bad == OnBadDocument::Fail {
            return Err(error.guidance(
                "repair or exclude it, or set corpus.on_bad_document = \"skip\" to leave such documents out by name",
            ));
        }
        let line = error.context_value("line").or(error.context_value("row")).and_then(|l| l.parse().ok());
        let mut reason = error.message().to_owned();
        if let Some(cause) = error.causes().first() {
            reason = format!("{reason}: {cause}");
        }
        let skipped = SkippedDocument { path: object.path.clone(), line, reason };
        self.counts.documents_skipped += 1;
        self.skipped.push(skipped.clone());
        Ok(skipped)
    }

    /// Writes the inventory bucket by bucket. A document id that occurs twice is a bad document.
    async fn inventory(&mut self, repository: &Repository, bits: u8) -> Result<Vec<ObjectRef>> {
        let mut writer = InventoryWriter::new(repository);
        let mut bucket = (0, Vec::new());
        for partition in 0..1usize << SPILL_BITS {
            let mut rows = self.rows.take(partition)?;
            rows.sort_by(|a, b| {
                bucket_of(&a.document_id, bits)
                    .cmp(&bucket_of(&b.document_id, bits))
                    .then_with(|| a.document_id.cmp(&b.document_id))
                    .then_with(|| (&a.object.path, a.line).cmp(&(&b.object.path, b.line)))
            });
            for row in self.without_duplicates(rows)? {
                let number = bucket_of(&row.document_id, bits);
                if number != bucket.0 {
                    close(&mut writer, std::mem::replace(&mut bucket, (number, Vec::new()))).await?;
                }
                bucket.1.push(row);
            }
        }
        close(&mut writer, bucket).await?;
        writer.finish().await
    }

    fn without_duplicates(&mut self, rows: Vec<DocumentRow>) -> Result<Vec<DocumentRow>> {
        let mut kept: Vec<DocumentRow> = Vec::with_capacity(rows.len());
        for row in rows {
            let Some(first) = kept.last().filter(|first| first.document_id == row.document_id) else {
                kept.push(row);
                continue;
            };
            let mut error = Error::new(ErrorKind::BadDocument, "this document id occurs twice")
                .with("file", &row.object.path)
                .with("id", &row.document_id)
                .with("first", format!("{}:{}", first.object.path, first.line.unwrap_or(1)));
            if let Some(line) = row.line {
                error = error.with("line", line);
            }
            self.bad(&row.object, error)?;
            self.counts.documents -= 1;
            self.counts.chunks -= u64::from(row.chunks);
            self.counts.tokens -= row.tokens;
            self.counts.bytes -= row.bytes;
        }
        Ok(kept)
    }

    async fn store_skipped(&self, repository: &Repository) -> Result<Option<ObjectRef>> {
        if self.skipped.is_empty() {
            return Ok(None);
        }
        let mut text = String::new();
        for skipped in &self.skipped {
            text.push_str(&serde_json::to_string(skipped).unwrap_or_default());
            text.push('\n');
        }
        repository.put_content(path::SKIPPED, "jsonl", text.into_bytes().into()).await.map(Some)
    }
}

/// Writes one bucket; with few bits it came from several partitions, each sorted for itself.
async fn close(writer: &mut InventoryWriter<'_>, (bucket, mut rows): (u32, Vec<DocumentRow>)) -> Result<()> {
    rows.sort_by(|a, b| a.document_id.cmp(&b.document_id));
    writer.bucket(bucket, &rows).await
}

/// The target's configuration as the pipeline has it, when the live collection is not looked at.
fn unreached(workspace: &Workspace) -> TargetRecord {
    let target = &workspace.pipeline.target;
    TargetRecord {
        kind: target.kind.name().to_owned(),
        collection: workspace.pipeline.collection().to_owned(),
        index: target.index.clone(),
        payload_indexes: target.payload_indexes.clone(),
        live_count: None,
        live_collection: None,
    }
}

/// The live collection's state and what golden queries find in it, where there is one.
async fn live(workspace: &Workspace, engine: &Arc<Engine>) -> Result<(TargetRecord, Option<GoldenBaseline>)> {
    let mut record = unreached(workspace);
    if workspace.pipeline.target.kind == TargetKind::Memory {
        return Ok((record, None));
    }
    let described = match workspace.target() {
        Ok(target) => match target.describe(workspace.pipeline.collection()).await {
            Ok(Some(info)) => Some((target, info)),
            Ok(None) => None,
            Err(e) => return Ok(unreachable(workspace, record, &e)),
        },
        Err(e) if e.kind() == ErrorKind::Target => return Ok(unreachable(workspace, record, &e)),
        Err(e) => return Err(e),
    };
    let Some((target, info)) = described else { return Ok((record, None)) };
    record.index = info.index.clone();
    record.live_count = Some(info.count);
    record.live_collection = Some(info.name.clone());
    let Some(golden) = &workspace.pipeline.validation.golden else { return Ok((record, None)) };
    let queries = load_golden(&workspace.base.join(golden))?;
    let same_model = match &info.marker {
        Some(marker) => marker.model_fingerprint == engine.context().fingerprint()?,
        None => info.dimension == engine.context().dimension as usize,
    };
    if !same_model {
        workspace.events.warn("no golden-query baseline: the live collection was made with another model");
        return Ok((record, None));
    }
    let settings = &workspace.pipeline.validation;
    let baseline =
        record_baseline(target.as_ref(), &info.name, &EngineQueries(engine.clone()), &queries, settings.k).await?;
    Ok((record, Some(baseline)))
}

fn unreachable(workspace: &Workspace, record: TargetRecord, error: &Error) -> (TargetRecord, Option<GoldenBaseline>) {
    workspace.events.warn(format!("the live collection could not be read, so its state is not recorded: {error}"));
    (record, None)
}
