//! What has been read so far: rows put aside, counts, bad documents.

use crate::aside::{Aside, PARTITIONS, partition_of};
use crate::corpus::SourceObject;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::{ChunkedDocument, Voided};
use crate::pipeline::OnBadDocument;
use crate::repository::{Counts, DocumentRow, ObjectRef, Repository, SkippedDocument, bucket_of, path, payload_digest};

/// Bits of the hash by which it is known where documents were read at all.
const TOUCHED_BITS: u8 = 16;

pub(super) struct Intake {
    on_bad: OnBadDocument,
    pub(super) rows: Aside<DocumentRow>,
    pub(super) counts: Counts,
    pub(super) skipped: Vec<SkippedDocument>,
    touched: Vec<u64>,
    /// What changed while it was read; its first documents may be among the rows.
    pub(super) voided: Voided,
    /// Objects that were deleted before they were read.
    pub(super) vanished: u64,
    /// Whether every document so far has a version that can be asked for later.
    pub(super) versioned: bool,
}

impl Intake {
    /// Begins with what is kept of the previous snapshot.
    pub(super) fn new(on_bad: OnBadDocument, counts: Counts, skipped: Vec<SkippedDocument>) -> Result<Self> {
        Ok(Self {
            on_bad,
            rows: Aside::new(PARTITIONS)?,
            counts,
            skipped,
            touched: vec![0; (1 << TOUCHED_BITS) / 64],
            voided: Voided::default(),
            vanished: 0,
            versioned: true,
        })
    }

    pub(super) fn document(&mut self, chunked: &ChunkedDocument) -> Result<()> {
        let document = &chunked.document;
        self.versioned &= chunked.object.version.is_some();
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
        self.rows.push(partition_of(&row.document_id), &row)?;
        let prefix = bucket_of(&row.document_id, TOUCHED_BITS) as usize;
        self.touched[prefix / 64] |= 1 << (prefix % 64);
        self.counts.documents += 1;
        self.counts.chunks += u64::from(row.chunks);
        self.counts.tokens += row.tokens;
        self.counts.bytes += row.bytes;
        Ok(())
    }

    /// Whether a document was read whose hash begins with these bits; with more than are noted it may say yes wrongly.
    pub(super) fn touches(&self, bits: u8, prefix: u32) -> bool {
        let (first, last) = match TOUCHED_BITS.checked_sub(bits) {
            Some(more) => (prefix << more, (prefix << more) + (1 << more) - 1),
            None => (prefix >> (bits - TOUCHED_BITS), prefix >> (bits - TOUCHED_BITS)),
        };
        (first..=last).any(|p| self.touched[p as usize / 64] >> (p % 64) & 1 == 1)
    }

    /// Counts and names a bad document, or stops the run, as the pipeline says.
    pub(super) fn bad(&mut self, object: &SourceObject, error: Error) -> Result<SkippedDocument> {
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

    /// Of documents sorted by id, the first with each id: another one is a bad document.
    pub(super) fn without_duplicates(&mut self, rows: Vec<DocumentRow>) -> Result<Vec<DocumentRow>> {
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
            self.uncount(&row);
        }
        Ok(kept)
    }

    fn uncount(&mut self, row: &DocumentRow) {
        self.counts.documents -= 1;
        self.counts.chunks -= u64::from(row.chunks);
        self.counts.tokens -= row.tokens;
        self.counts.bytes -= row.bytes;
    }

    /// Takes out the documents of objects in a state in which they changed while they were read.
    pub(super) fn drop_voided(&mut self) -> Result<()> {
        if self.voided.objects == 0 {
            return Ok(());
        }
        let mut kept = Aside::new(PARTITIONS)?;
        for partition in 0..PARTITIONS {
            for row in self.rows.rows(partition)? {
                if self.voided.holds(&row.object) {
                    self.uncount(&row);
                } else {
                    kept.push(partition, &row)?;
                }
            }
        }
        kept.seal()?;
        self.rows = kept;
        Ok(())
    }

    /// Stores the list of documents left out, sorted, so that the same ones give the same object.
    pub(super) async fn store_skipped(&mut self, repository: &Repository) -> Result<Option<ObjectRef>> {
        if self.skipped.is_empty() {
            return Ok(None);
        }
        self.skipped.sort_by(|a, b| (&a.path, a.line, &a.reason).cmp(&(&b.path, b.line, &b.reason)));
        let mut text = String::new();
        for skipped in &self.skipped {
            text.push_str(&serde_json::to_string(skipped).unwrap_or_default());
            text.push('\n');
        }
        repository.put_sealed_content(path::SKIPPED, "jsonl", text.into_bytes().into()).await.map(Some)
    }
}
