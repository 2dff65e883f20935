//! Documents from a snapshot's own copies: every pack is read once, front to back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use futures::StreamExt;
use rayon::prelude::*;

use super::plan::Prepared;
use crate::capture::{CapturedObject, CapturedReader, PackOrder};
use crate::corpus::{Document, DocumentParser, SourceObject};
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::IngestTimes;
use crate::pipeline::CaptureMode;
use crate::repository::bucket_of;

/// Bytes and number of objects whose documents are extracted at a time, on all cores.
const BATCH_BYTES: u64 = 16 << 20;
const BATCH_OBJECTS: usize = 512;

/// An object whose copy is damaged.
pub(super) struct Lost {
    /// How, and why the corpus could not help.
    pub(super) why: String,
    /// The corpus gave it instead; whether it is still the same, its digests will say.
    pub(super) replaced: bool,
}

type Aside<'a> = dyn FnMut(&Document) -> Result<()> + Send + 'a;

/// Hands every captured document that may be in one of the buckets to `aside`. Where a copy is damaged, the corpus is
/// asked for the object; its documents prove themselves by their digests later. Objects that were damaged are
/// returned, with the reason.
pub(super) async fn read_captured(
    prepared: &Prepared,
    buckets: &BTreeSet<u32>,
    times: &IngestTimes,
    aside: &mut Aside<'_>,
) -> Result<BTreeMap<String, Lost>> {
    let manifest = &prepared.manifest;
    let Some(captured) = &manifest.captured else { return Ok(BTreeMap::new()) };
    let (mode, bits) = (manifest.corpus.capture, manifest.buckets.bits);
    let parser = &prepared.parser;
    let mut wanted = |object: &CapturedObject| {
        // The documents of a record file may be in any bucket.
        (mode == CaptureMode::Copy && parser.holds_records(&object.path))
            || buckets.contains(&bucket_of(&object.id, bits))
    };
    let mut order = PackOrder::new(&prepared.repository, captured, &mut wanted).await?;
    let reader = CapturedReader::new(&prepared.repository, captured);
    let mut lost = BTreeMap::new();
    while let Some(objects) = order.next()? {
        let (streamed, whole): (Vec<_>, Vec<_>) =
            objects.into_iter().partition(|o| mode == CaptureMode::Copy && parser.holds_records(&o.path));
        let mut whole = whole.into_iter().peekable();
        while whole.peek().is_some() {
            prepared.workspace.cancel.check()?;
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while let Some(object) = whole.next_if(|_| bytes < BATCH_BYTES && batch.len() < BATCH_OBJECTS) {
                bytes += object.bytes;
                batch.push(object);
            }
            let start = Instant::now();
            let (reader, parser) = (reader.clone(), parser.clone());
            let documents = tokio::task::spawn_blocking(move || extracted(&reader, &parser, mode, batch)).await?;
            times.read.since(start);
            for (path, document) in documents {
                match document {
                    Ok(document) => aside(&document)?,
                    Err(e) => note(prepared, &mut lost, path, e)?,
                }
            }
        }
        for object in streamed {
            prepared.workspace.cancel.check()?;
            let start = Instant::now();
            if let Err(e) = records(&reader, parser, &object, aside).await {
                note(prepared, &mut lost, object.path, e)?;
            }
            times.read.since(start);
        }
    }
    from_corpus(prepared, &mut lost, aside).await?;
    Ok(lost)
}

/// The documents of objects that are one document each, in any order. Blocking.
fn extracted(
    reader: &CapturedReader,
    parser: &DocumentParser,
    mode: CaptureMode,
    objects: Vec<CapturedObject>,
) -> Vec<(String, Result<Document>)> {
    // Packs are read in order; what is done with their contents goes to all cores.
    let contents: Vec<_> = objects.into_iter().map(|o| (reader.bytes(&o), o)).collect();
    contents
        .into_par_iter()
        .map(|(bytes, object)| {
            let document = bytes.and_then(|bytes| match mode {
                CaptureMode::Text => stored(&object, &bytes),
                _ => parser.document(&object.path, &bytes),
            });
            (object.path, document)
        })
        .collect()
}

/// A document that was captured as it is.
fn stored(object: &CapturedObject, bytes: &[u8]) -> Result<Document> {
    let damaged = || Error::new(ErrorKind::Damaged, "a captured document is damaged").with("document", &object.id);
    let document: Document = serde_json::from_slice(bytes).map_err(|e| damaged().because(e))?;
    if document.id != object.id {
        return Err(damaged().with("found", document.id));
    }
    Ok(document)
}

/// The documents of a captured record file.
async fn records(
    reader: &CapturedReader,
    parser: &DocumentParser,
    object: &CapturedObject,
    aside: &mut Aside<'_>,
) -> Result<()> {
    let source = SourceObject {
        path: object.path.clone(),
        size: object.bytes,
        modified: object.modified,
        etag: None,
        version: None,
    };
    let (stream, failed) = reader.stream(object);
    let mut documents = parser.documents(&source, stream);
    let mut ended = Ok(());
    while let Some(document) = documents.next().await {
        match document {
            Ok(document) => aside(&document)?,
            // A bad record is missed later if the snapshot has it, and no matter if not.
            Err(e) if e.kind() == ErrorKind::BadDocument => {}
            Err(e) => ended = Err(e),
        }
    }
    // The reader's own failure says more than what it led to.
    let failed = failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    failed.map_or(ended, Err)
}

/// Notes an object that cannot be had from the copies; an error that is not its own ends the restore.
fn note(prepared: &Prepared, lost: &mut BTreeMap<String, Lost>, path: String, e: Error) -> Result<()> {
    match e.kind() {
        ErrorKind::Damaged => {
            let why = std::iter::once(e.to_string()).chain(e.causes()).collect::<Vec<_>>().join(": ");
            if lost.is_empty() {
                prepared.workspace.events.warn(format!("captured documents are damaged: {why}"));
            }
            lost.entry(path).or_insert(Lost { why, replaced: false });
            Ok(())
        }
        // The snapshot left it out by name: its bytes are captured like any others.
        ErrorKind::BadDocument => Ok(()),
        _ => Err(e),
    }
}

impl Lost {
    fn add(&mut self, why: &str) {
        self.why = format!("{}; {why}", self.why);
    }
}

/// Asks the corpus for objects whose copies are damaged. What it does not have stays lost.
async fn from_corpus(prepared: &Prepared, lost: &mut BTreeMap<String, Lost>, aside: &mut Aside<'_>) -> Result<()> {
    if lost.is_empty() {
        return Ok(());
    }
    let corpus = match prepared.corpus() {
        Ok(corpus) => corpus,
        Err(e) => {
            lost.values_mut().for_each(|lost| lost.add(&format!("nor can the corpus be opened: {e}")));
            return Ok(());
        }
    };
    for (path, lost) in lost {
        prepared.workspace.cancel.check()?;
        let object = match corpus.head(path).await {
            Ok(Some(object)) => object,
            Ok(None) => {
                lost.add("it is not in the corpus any more");
                continue;
            }
            Err(e) => {
                lost.add(&format!("nor can the corpus be read: {e}"));
                continue;
            }
        };
        lost.replaced = true;
        let mut documents = corpus.read(&object);
        while let Some(document) = documents.next().await {
            match document {
                Ok(document) => aside(&document)?,
                Err(e) => lost.add(&format!("nor can the corpus be read: {e}")),
            }
        }
    }
    Ok(())
}
