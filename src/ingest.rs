//! Documents read and cut into chunks, several at a time, as snapshot and restore both need them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::{BoxStream, Fuse};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::cancel::Cancel;
use crate::capture::CaptureWriter;
use crate::chunk::{Chunk, Chunker};
use crate::corpus::{Corpus, Document, Ended, Reading, SourceObject};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::measure::{Busy, cores};

/// A document with its chunks.
pub(crate) struct ChunkedDocument {
    pub(crate) object: SourceObject,
    pub(crate) document: Document,
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) digest: Digest,
}

impl ChunkedDocument {
    /// Cuts a document.
    pub(crate) fn cut(chunker: &Chunker, object: SourceObject, document: Document) -> Result<Self> {
        let chunks = chunker.chunk(&document.text, document.format).map_err(|e| {
            let e = e.with("file", &document.path);
            match document.line {
                Some(line) => e.with("line", line),
                None => e,
            }
        })?;
        let digest = chunk_digest(&document.text, &chunks);
        Ok(Self { object, document, chunks, digest })
    }

    pub(crate) fn tokens(&self) -> u64 {
        self.chunks.iter().map(|c| u64::from(c.tokens)).sum()
    }
}

/// Digest over the spans and the texts of a document's chunks.
fn chunk_digest(text: &str, chunks: &[Chunk]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for chunk in chunks {
        hasher.update(&(chunk.start as u64).to_le_bytes());
        hasher.update(&(chunk.end as u64).to_le_bytes());
        hasher.update(Digest::of(&text.as_bytes()[chunk.start..chunk.end]).as_bytes());
    }
    Digest::from_hasher(&hasher)
}

/// Whether an object is as it was listed. (Some stores name the version only when it is opened.)
fn same_state(listed: &SourceObject, opened: &SourceObject) -> bool {
    let tags = listed.etag.is_none() || opened.etag.is_none() || listed.etag == opened.etag;
    tags && (listed.size, listed.modified) == (opened.size, opened.modified)
}

/// What came of one document.
pub(crate) enum Ingested {
    /// It was read and cut.
    Document(Box<ChunkedDocument>),
    /// It is bad: unreadable, undecodable, malformed.
    Bad {
        /// The object that holds it.
        object: SourceObject,
        /// Why, with file and line.
        error: Error,
    },
    /// The object changed while it was read, and is read again: documents of exactly this state, which have come
    /// already if it is a record file, do not count. See [`Voided`].
    Again {
        /// The object as it was opened.
        object: SourceObject,
    },
    /// The object was deleted between listing and reading: it is no document, and no bad one.
    Vanished {
        /// The object as it was listed.
        object: SourceObject,
    },
}

/// States of record files that changed while they were read: their documents do not count.
#[derive(Debug, Default)]
pub(crate) struct Voided {
    states: HashMap<String, Vec<SourceObject>>,
    /// Objects that were read again.
    pub(crate) objects: u64,
}

impl Voided {
    /// Notes what an [`Ingested::Again`] says. One small entry per object that changed.
    pub(crate) fn add(&mut self, object: SourceObject) {
        let states = self.states.entry(object.path.clone()).or_default();
        self.objects += u64::from(states.is_empty());
        states.push(object);
    }

    /// Whether a document of this object, in this state, does not count.
    pub(crate) fn holds(&self, object: &SourceObject) -> bool {
        self.states.get(&object.path).is_some_and(|states| states.contains(object))
    }
}

/// Busy time of the two stages, and whether the objects were what the listing says.
#[derive(Debug, Default)]
pub(crate) struct IngestTimes {
    pub(crate) read: Busy,
    pub(crate) chunk: Busy,
    /// An object was in another state when it was opened than when it was listed.
    pub(crate) moved_on: AtomicBool,
}

/// Documents are cut in batches of about this many bytes of text.
const BATCH_BYTES: usize = 128 << 10;
const BATCH_DOCUMENTS: usize = 64;

/// How often an object that changes while it is read is read again, and how long is waited before that.
const AGAIN: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(200), Duration::from_millis(800)];
/// Bad records of one object that are held until it is known whether the object changed meanwhile.
const HELD: usize = 1000;

/// Reads and cuts the documents of `objects`, in no particular order. An `Err` ends the stream; it is for
/// failures that are not a document's own. Objects and documents also go to `capture`, where there is one.
pub(crate) fn ingest(
    corpus: Arc<Corpus>,
    chunker: Arc<Chunker>,
    objects: BoxStream<'static, Result<SourceObject>>,
    cancel: Cancel,
    times: Arc<IngestTimes>,
    capture: Option<Arc<CaptureWriter>>,
) -> mpsc::Receiver<Result<Ingested>> {
    let (tx, rx) = mpsc::channel(64);
    let objects = Arc::new(Mutex::new(objects.fuse()));
    // One record file must keep every core busy, so cutting has its own limit, apart from the readers'.
    let cutters = Arc::new(Semaphore::new(cores()));
    let mut workers = JoinSet::new();
    for _ in 0..cores() + 1 {
        let worker = Worker {
            corpus: corpus.clone(),
            chunker: chunker.clone(),
            cancel: cancel.clone(),
            times: times.clone(),
            cutters: cutters.clone(),
            tx: tx.clone(),
            capture: capture.clone(),
        };
        let objects = objects.clone();
        workers.spawn(async move { worker.work(&objects).await });
    }
    // A worker that fails or panics must end the stream with an error: documents never go missing silently.
    tokio::spawn(async move {
        while let Some(ended) = workers.join_next().await {
            if let Err(e) = ended.map_err(Error::from).flatten() {
                // The receiver is gone only when the run has failed already.
                drop(tx.send(Err(e)).await);
            }
        }
    });
    rx
}

struct Worker {
    corpus: Arc<Corpus>,
    chunker: Arc<Chunker>,
    cancel: Cancel,
    times: Arc<IngestTimes>,
    cutters: Arc<Semaphore>,
    tx: mpsc::Sender<Result<Ingested>>,
    capture: Option<Arc<CaptureWriter>>,
}

impl Worker {
    async fn work(&self, objects: &Mutex<Fuse<BoxStream<'static, Result<SourceObject>>>>) -> Result<()> {
        loop {
            self.cancel.check()?;
            let Some(object) = objects.lock().await.next().await else { return Ok(()) };
            let object = match object {
                Ok(object) => object,
                // An entry that cannot be listed is a bad document; anything else ends the run.
                Err(error) if error.kind() == ErrorKind::BadDocument => {
                    let path = error.context_value("file").unwrap_or_default().to_owned();
                    let object = SourceObject { path, size: 0, modified: 0, etag: None, version: None };
                    self.send(Ingested::Bad { object, error }).await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.object(object).await?;
            if self.tx.is_closed() {
                return Ok(());
            }
        }
    }

    /// Reads one object; again when it changed meanwhile.
    async fn object(&self, listed: SourceObject) -> Result<()> {
        let mut waits = AGAIN.iter();
        loop {
            let (state, ended) = self.attempt(&listed).await?;
            match ended {
                Ended::Whole => return Ok(()),
                Ended::Vanished => return self.send(Ingested::Vanished { object: listed }).await,
                Ended::Changed => {}
            }
            if let Some(capture) = &self.capture {
                capture.again(&listed.path);
            }
            self.send(Ingested::Again { object: state }).await?;
            let Some(wait) = waits.next() else { break };
            self.cancel.check()?;
            tokio::time::sleep(*wait).await;
        }
        let error = Error::new(ErrorKind::BadDocument, "the object keeps changing while it is read")
            .with("file", &listed.path)
            .with("attempts", AGAIN.len() + 1)
            .guidance("take the snapshot when nothing writes to it, or of a copy of the corpus that is at rest");
        self.send(Ingested::Bad { object: listed, error }).await
    }

    /// Reads an object once: the state it was opened in, and how that ended. Every document has been cut and sent
    /// when this returns.
    async fn attempt(&self, listed: &SourceObject) -> Result<(SourceObject, Ended)> {
        let mut readings = self.corpus.read_with(listed, self.capture.as_ref().and_then(|c| c.tap()));
        let (mut object, mut ended) = (listed.clone(), Ended::Whole);
        let (mut batch, mut bytes, mut bad) = (Vec::new(), 0, Vec::new());
        let mut cutting = JoinSet::new();
        loop {
            let start = Instant::now();
            let next = readings.next().await;
            self.times.read.since(start);
            match next {
                None => break,
                Some(Ok(Reading::Opened(state))) => {
                    if !same_state(listed, &state) {
                        self.times.moved_on.store(true, Ordering::Relaxed);
                    }
                    object = state;
                }
                Some(Ok(Reading::Document(document))) => {
                    bytes += document.text.len();
                    batch.push(document);
                }
                Some(Ok(Reading::Ended(how))) => ended = how,
                Some(Err(error)) if error.kind() == ErrorKind::BadDocument => bad.push(error),
                Some(Err(error)) => return Err(error),
            }
            if bytes >= BATCH_BYTES || batch.len() >= BATCH_DOCUMENTS {
                self.cancel.check()?;
                self.cut(&mut cutting, &object, std::mem::take(&mut batch)).await;
                bytes = 0;
            }
            if bad.len() >= HELD {
                // Half written records would not come in such numbers.
                self.bad(&object, &mut bad).await?;
            }
        }
        if ended == Ended::Whole {
            self.cut(&mut cutting, &object, batch).await;
        }
        while let Some(cut) = cutting.join_next().await {
            cut?;
        }
        // Of an object that changed meanwhile, a bad record may only have been a half written one.
        if ended == Ended::Whole {
            self.bad(&object, &mut bad).await?;
        }
        Ok((object, ended))
    }

    async fn bad(&self, object: &SourceObject, errors: &mut Vec<Error>) -> Result<()> {
        for error in errors.drain(..) {
            self.send(Ingested::Bad { object: object.clone(), error }).await?;
        }
        Ok(())
    }

    /// Cuts a batch in the background; what comes of it goes to the receiver.
    async fn cut(&self, cutting: &mut JoinSet<()>, object: &SourceObject, batch: Vec<Document>) {
        if batch.is_empty() {
            return;
        }
        let permit = self.cutters.clone().acquire_owned().await;
        let (chunker, times, source, tx) = (self.chunker.clone(), self.times.clone(), object.clone(), self.tx.clone());
        let capture = self.capture.clone();
        cutting.spawn_blocking(move || {
            let _permit = permit;
            for document in batch {
                let start = Instant::now();
                let captured = capture.as_ref().map_or(Ok(()), |c| c.document(&source, &document));
                let cut = captured.and_then(|()| ChunkedDocument::cut(&chunker, source.clone(), document));
                times.chunk.since(start);
                let item = match cut {
                    Ok(document) => Ok(Ingested::Document(Box::new(document))),
                    Err(error) if error.kind() == ErrorKind::BadDocument => {
                        Ok(Ingested::Bad { object: source.clone(), error })
                    }
                    Err(error) => Err(error),
                };
                if tx.blocking_send(item).is_err() {
                    return;
                }
            }
        });
    }

    async fn send(&self, item: Ingested) -> Result<()> {
        self.tx.send(Ok(item)).await.map_err(|_| Error::new(ErrorKind::Cancelled, "stopped"))
    }
}
