//! Documents read and cut into chunks, several at a time, as snapshot and restore both need them.

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use futures::stream::{BoxStream, Fuse};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::cancel::Cancel;
use crate::chunk::{Chunk, Chunker};
use crate::corpus::{Corpus, Document, SourceObject};
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
    pub(crate) fn cut(chunker: &Chunker, mut object: SourceObject, document: Document) -> Result<Self> {
        if document.version.is_some() {
            object.version.clone_from(&document.version);
        }
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
}

/// Busy time of the two stages.
#[derive(Debug, Default)]
pub(crate) struct IngestTimes {
    pub(crate) read: Busy,
    pub(crate) chunk: Busy,
}

/// Documents are cut in batches of about this many bytes of text.
const BATCH_BYTES: usize = 128 << 10;
const BATCH_DOCUMENTS: usize = 64;

/// Reads and cuts the documents of `objects`, in no particular order. An `Err` ends the stream; it is for
/// failures that are not a document's own.
pub(crate) fn ingest(
    corpus: Arc<Corpus>,
    chunker: Arc<Chunker>,
    objects: BoxStream<'static, Result<SourceObject>>,
    cancel: Cancel,
    times: Arc<IngestTimes>,
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

    async fn object(&self, object: SourceObject) -> Result<()> {
        let mut documents = self.corpus.read(&object);
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let mut cutting = JoinSet::new();
        loop {
            let start = Instant::now();
            let next = documents.next().await;
            self.times.read.since(start);
            match next {
                None => break,
                Some(Ok(document)) => {
                    bytes += document.text.len();
                    batch.push(document);
                }
                Some(Err(error)) if error.kind() == ErrorKind::BadDocument => {
                    self.send(Ingested::Bad { object: object.clone(), error }).await?;
                }
                Some(Err(error)) => return Err(error),
            }
            if bytes >= BATCH_BYTES || batch.len() >= BATCH_DOCUMENTS {
                self.cancel.check()?;
                self.cut(&mut cutting, &object, std::mem::take(&mut batch)).await;
                bytes = 0;
            }
        }
        self.cut(&mut cutting, &object, batch).await;
        while let Some(cut) = cutting.join_next().await {
            cut?;
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
        cutting.spawn_blocking(move || {
            let _permit = permit;
            for document in batch {
                let start = Instant::now();
                let cut = ChunkedDocument::cut(&chunker, source.clone(), document);
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
