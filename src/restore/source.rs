//! First stage of a restore: documents of one bucket, read again, checked against the inventory and cut.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures::StreamExt;
use rayon::prelude::*;

use super::OnChanged;
use super::captured::{Lost, read_captured};
use super::corpus_check::{CorpusDifference, Differences};
use super::plan::{PartPlan, Prepared};
use crate::corpus::{Document, SourceObject};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Stage;
use crate::ids::{ChunkId, Digest};
use crate::ingest::{ChunkedDocument, IngestTimes, Ingested, ingest};
use crate::repository::{DocumentRow, InventoryReader, bucket_of, payload_digest};
use crate::spill::Spill;
use crate::vectors::{PartName, VectorRow};

/// The rows of one part, still without vectors.
pub(super) struct Bucket {
    pub(super) name: PartName,
    pub(super) rows: Vec<VectorRow>,
    /// By document id: the ids under which its text was known before.
    pub(super) moved: HashMap<String, Vec<String>>,
}

/// Record files are read once, front to back, and their records put aside by group of buckets: reading
/// each bucket's records from the file would read the file once per bucket.
const GROUP_BITS: u8 = 8;

/// Yields the buckets that must be computed.
pub(super) struct BucketSource<'a> {
    prepared: &'a Prepared,
    inventory: InventoryReader<'a>,
    pub(super) times: Arc<IngestTimes>,
    spill: Option<Spill<Document>>,
    group: Option<(u32, HashMap<u32, Vec<Document>>)>,
    /// Objects whose captured copies are damaged, and how: small while little is damaged.
    lost: BTreeMap<String, Lost>,
    pub(super) differences: Differences,
    /// Documents whose chunks were found to be the recorded ones.
    pub(super) documents_cut: u64,
}

impl<'a> BucketSource<'a> {
    pub(super) fn new(prepared: &'a Prepared, times: Arc<IngestTimes>) -> Self {
        Self {
            inventory: InventoryReader::new(&prepared.repository, &prepared.manifest),
            prepared,
            times,
            spill: None,
            group: None,
            lost: BTreeMap::new(),
            differences: Differences::default(),
            documents_cut: 0,
        }
    }

    fn bits(&self) -> u8 {
        self.prepared.manifest.buckets.bits
    }

    fn group_of(&self, bucket: u32) -> u32 {
        bucket >> self.bits().saturating_sub(GROUP_BITS)
    }

    /// Reads what is not read bucket by bucket, and puts its documents aside: all documents that are captured, else
    /// those of record files. False when some are lost and the restore may not go on without them; they are in
    /// `differences`.
    pub(super) async fn put_aside(&mut self, parts: &[PartPlan]) -> Result<bool> {
        if !self.prepared.from_captured {
            return self.put_records_aside(parts).await.map(|()| true);
        }
        self.spill = None;
        self.group = None;
        if parts.is_empty() {
            return Ok(true);
        }
        let bits = self.bits();
        let wanted: BTreeSet<u32> = parts.iter().map(|p| p.bucket).collect();
        let mut spill = Spill::new(1 << bits.min(GROUP_BITS))?;
        let mut aside = |document: &Document| {
            let bucket = bucket_of(&document.id, bits);
            if wanted.contains(&bucket) { spill.push(self.group_of(bucket) as usize, document) } else { Ok(()) }
        };
        self.lost = read_captured(self.prepared, &wanted, &self.times, &mut aside).await?;
        self.spill = Some(spill);
        if self.lost.is_empty() || self.prepared.options.on_changed == OnChanged::Skip {
            return Ok(true);
        }
        // Known now rather than after hours of embedding.
        for part in parts {
            for row in self.inventory.bucket(part.bucket).await? {
                if let Some(lost) = self.lost.get(&row.object.path).filter(|lost| !lost.replaced) {
                    self.differences.add(CorpusDifference::new(&row, "lost", lost.why.clone()));
                }
            }
        }
        Ok(self.differences.count == 0)
    }

    /// Reads all record files that hold documents of `parts` and puts their records aside.
    async fn put_records_aside(&mut self, parts: &[PartPlan]) -> Result<()> {
        let mut objects: BTreeMap<String, SourceObject> = BTreeMap::new();
        for part in parts {
            for row in self.inventory.bucket(part.bucket).await?.into_iter().filter(|r| r.line.is_some()) {
                objects.entry(row.object.path.clone()).or_insert(row.object);
            }
        }
        self.spill = None;
        self.group = None;
        if objects.is_empty() {
            return Ok(());
        }
        let wanted: BTreeSet<u32> = parts.iter().map(|p| p.bucket).collect();
        let mut spill = Spill::new(1 << self.bits().min(GROUP_BITS))?;
        let corpus = self.prepared.corpus()?;
        for object in objects.into_values() {
            self.prepared.workspace.cancel.check()?;
            // The file may have grown since the snapshot; its records prove themselves one by one.
            let Some(object) = corpus.pinned(&object).await? else { continue };
            let mut documents = corpus.read(&object);
            loop {
                let start = std::time::Instant::now();
                let Some(document) = documents.next().await else { break };
                self.times.read.since(start);
                let document = match document {
                    Ok(document) => document,
                    // A bad record is missed below if the snapshot has it, and no matter if not.
                    Err(e) if e.kind() == ErrorKind::BadDocument => continue,
                    Err(e) => return Err(e),
                };
                let bucket = bucket_of(&document.id, self.bits());
                if wanted.contains(&bucket) {
                    spill.push(self.group_of(bucket) as usize, &document)?;
                }
            }
        }
        self.spill = Some(spill);
        Ok(())
    }

    /// The records of one bucket that were put aside.
    fn records(&mut self, bucket: u32) -> Result<Vec<Document>> {
        let (group, bits) = (self.group_of(bucket), self.bits());
        let Some(spill) = &mut self.spill else { return Ok(Vec::new()) };
        if self.group.as_ref().is_none_or(|(current, _)| *current != group) {
            let mut buckets: HashMap<u32, Vec<Document>> = HashMap::new();
            for document in spill.take(group as usize)? {
                buckets.entry(bucket_of(&document.id, bits)).or_default().push(document);
            }
            self.group = Some((group, buckets));
        }
        Ok(self.group.as_mut().and_then(|(_, buckets)| buckets.remove(&bucket)).unwrap_or_default())
    }

    /// Reads, checks and cuts the documents of one part. `None` when a document differs and the restore
    /// may not go on without it; what differs is in `differences`.
    pub(super) async fn bucket(&mut self, part: &PartPlan) -> Result<Option<Bucket>> {
        let rows = self.inventory.bucket(part.bucket).await?;
        let mut found: HashMap<String, ChunkedDocument> = HashMap::with_capacity(rows.len());
        let mut bad: HashMap<String, String> = HashMap::new();
        if !self.prepared.from_captured {
            self.read_files(&rows, &mut found, &mut bad).await?;
        }
        if self.prepared.from_captured || rows.iter().any(|r| r.line.is_some()) {
            self.cut_records(part.bucket, &rows, &mut found, &mut bad).await?;
        }
        let before = self.differences.count;
        let mut kept: Vec<(DocumentRow, ChunkedDocument)> = Vec::with_capacity(rows.len());
        for row in rows {
            match (found.remove(&row.document_id), bad.remove(&row.document_id)) {
                (Some(chunked), _) => {
                    if let Some(reason) = difference(&row, &chunked)? {
                        let lost = self.lost.get(&row.object.path);
                        let (what, reason) = match lost {
                            Some(Lost { why, .. }) => {
                                ("lost", format!("{why}; the corpus has another version: {reason}"))
                            }
                            None => ("changed", reason),
                        };
                        self.differences.add(CorpusDifference::new(&row, what, reason));
                    } else {
                        check_chunks(&row, &chunked)?;
                        self.documents_cut += 1;
                        kept.push((row, chunked));
                    }
                }
                (None, Some(reason)) => self.differences.add(CorpusDifference::new(&row, "unreadable", reason)),
                (None, None) => {
                    let (what, reason) = match self.lost.get(&row.object.path) {
                        Some(lost) => ("lost", lost.why.as_str()),
                        None if self.prepared.from_captured => ("lost", "the snapshot's index of copies lacks it"),
                        None => ("vanished", "it is not in the corpus any more"),
                    };
                    self.differences.add(CorpusDifference::new(&row, what, reason));
                }
            }
        }
        let differs = self.differences.count > before;
        if differs && self.prepared.options.on_changed == OnChanged::Fail {
            return Ok(None);
        }
        Ok(Some(self.assemble(part, kept, differs)))
    }

    async fn read_files(
        &self,
        rows: &[DocumentRow],
        found: &mut HashMap<String, ChunkedDocument>,
        bad: &mut HashMap<String, String>,
    ) -> Result<()> {
        let objects: Vec<_> = rows.iter().filter(|r| r.line.is_none()).map(|r| Ok(r.object.clone())).collect();
        let corpus = self.prepared.corpus()?;
        let mut documents = ingest(
            corpus.clone(),
            self.prepared.chunker.clone(),
            futures::stream::iter(objects).boxed(),
            self.prepared.workspace.cancel.clone(),
            self.times.clone(),
            None,
        );
        while let Some(item) = documents.recv().await {
            match item {
                Ok(Ingested::Document(document)) => {
                    self.prepared.workspace.events.progress(Stage::Read, 1);
                    found.insert(document.document.id.clone(), *document);
                }
                Ok(Ingested::Bad { object, error }) => {
                    // One that is gone is not there to be bad: it is named as vanished.
                    if !matches!(corpus.head(&object.path).await, Ok(None)) {
                        bad.insert(object.path, error.to_string());
                    }
                }
                // Named below: as vanished, or by how its last reading ended.
                Ok(Ingested::Again { .. } | Ingested::Vanished { .. }) => {}
                // Gone between the check and now: named with the other differences.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    async fn cut_records(
        &mut self,
        bucket: u32,
        rows: &[DocumentRow],
        found: &mut HashMap<String, ChunkedDocument>,
        bad: &mut HashMap<String, String>,
    ) -> Result<()> {
        let mut objects: HashMap<String, SourceObject> =
            rows.iter().map(|r| (r.document_id.clone(), r.object.clone())).collect();
        // Records that are new since the snapshot are not in the inventory; neither is a second record with the same id.
        let records: Vec<_> = self
            .records(bucket)?
            .into_iter()
            .filter_map(|document| Some((objects.remove(&document.id)?, document)))
            .collect();
        let (chunker, times) = (self.prepared.chunker.clone(), self.times.clone());
        let cut: Vec<_> = tokio::task::spawn_blocking(move || {
            records
                .into_par_iter()
                .map(|(object, document)| {
                    let start = std::time::Instant::now();
                    let id = document.id.clone();
                    let cut = ChunkedDocument::cut(&chunker, object, document);
                    times.chunk.since(start);
                    (id, cut)
                })
                .collect()
        })
        .await?;
        self.prepared.workspace.events.progress(Stage::Read, cut.len() as u64);
        for (id, cut) in cut {
            match cut {
                Ok(cut) => drop(found.insert(id, cut)),
                Err(e) if e.kind() == ErrorKind::BadDocument => drop(bad.insert(id, e.to_string())),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Documents in id order, chunks in order. Without the differing documents the part has another key.
    fn assemble(&self, part: &PartPlan, kept: Vec<(DocumentRow, ChunkedDocument)>, differs: bool) -> Bucket {
        let manifest = &self.prepared.manifest;
        let mut name = part.name;
        if differs {
            let rows = kept.iter().map(|(row, _)| row);
            name = PartName::of(&self.prepared.repository, manifest, name.bucket, rows);
        }
        let mut bucket = Bucket { name, rows: Vec::new(), moved: HashMap::new() };
        for (row, chunked) in kept {
            if !row.moved_from.is_empty() {
                bucket.moved.insert(row.document_id, row.moved_from);
            }
            push_rows(chunked, &mut bucket.rows);
        }
        bucket
    }
}

fn push_rows(chunked: ChunkedDocument, rows: &mut Vec<VectorRow>) {
    let document = chunked.document;
    for chunk in &chunked.chunks {
        let text = &document.text[chunk.start..chunk.end];
        let digest = Digest::of(text.as_bytes());
        rows.push(VectorRow {
            chunk_id: ChunkId::new(&document.id, chunk.ordinal, &digest),
            document_id: document.id.clone(),
            ordinal: chunk.ordinal,
            start: chunk.start as u64,
            end: chunk.end as u64,
            text: text.to_owned(),
            title: document.title.clone(),
            tenant: document.tenant.clone(),
            acl: document.acl.clone(),
            metadata: document.metadata.clone(),
            chunk_digest: digest,
            vector: Vec::new(),
        });
    }
}

/// Why the document is not the recorded one, if it is not.
fn difference(row: &DocumentRow, chunked: &ChunkedDocument) -> Result<Option<String>> {
    let document = &chunked.document;
    if document.digest != row.digest {
        return Ok(Some(format!("digest {} recorded, {} now", row.digest.short(), document.digest.short())));
    }
    if document.text_digest != row.text_digest {
        return Ok(Some("the same bytes gave another text".to_owned()));
    }
    if payload_digest(document)? != row.payload_digest {
        return Ok(Some("title, tenant, acl or metadata differ".to_owned()));
    }
    Ok(None)
}

/// The same text must be cut into the same chunks: anything else would silently change the collection.
fn check_chunks(row: &DocumentRow, chunked: &ChunkedDocument) -> Result<()> {
    if chunked.digest == row.chunk_digest && chunked.chunks.len() as u64 == u64::from(row.chunks) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::ValidationFailed, "a document was cut into other chunks than the snapshot recorded")
        .with("document", &row.document_id)
        .with("recorded", format!("{} chunks, {}", row.chunks, row.chunk_digest.short()))
        .with("here", format!("{} chunks, {}", chunked.chunks.len(), chunked.digest.short()))
        .guidance("use the regrow version that took the snapshot, or take a new snapshot"))
}
