//! The corpus: where documents come from, text from bytes, what is wrong with a document.
//!
//! [`Corpus::list`] yields the source objects, [`Corpus::read`] the documents of one object.
//! A document that cannot be read is an [`ErrorKind::BadDocument`]
//! error in that stream, naming the object and the line; the documents after it still come.
//!
//! Text is decoded strictly (byte order mark, configured encoding, what an HTML page declares, UTF-8,
//! detection); its line ends are kept, so that spans are offsets into the decoded text.

mod decode;
mod document;
mod extract;
mod front_matter;
mod html;
mod markdown;
mod place;
mod records;
mod select;
mod walk;

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use encoding_rs::Encoding;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::ObjectStore;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use document::{Document, SourceObject, TextFormat};
pub(crate) use select::{PathPattern, Selection};

use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::{CorpusSettings, RecordSettings};
use place::Place;

/// Version of the text extraction: what text a document's bytes give. Any change that can alter the
/// text of a document (HTML to Markdown, front matter, encodings) must raise it.
pub const EXTRACTOR_VERSION: u32 = 1;

/// Batches of objects that a listing may be ahead of its consumer.
const LIST_AHEAD: usize = 4;
/// Batches of documents that a reading may be ahead.
const READ_AHEAD: usize = 1;

/// A corpus that is open for reading; cheap to clone.
#[derive(Debug, Clone)]
pub struct Corpus(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    place: Place,
    url: String,
    selection: Selection,
    encoding: Option<&'static Encoding>,
    pattern: Option<PathPattern>,
    max_bytes: u64,
}

impl Corpus {
    /// Opens the corpus of a pipeline; a relative directory is relative to `base`.
    ///
    /// # Errors
    /// `Configuration` when the directory is missing, the URL cannot be opened, or a glob, pattern or
    /// encoding cannot be read.
    pub fn open(settings: &CorpusSettings, base: &Path) -> Result<Self> {
        Self::open_with(settings, base, Vec::new())
    }

    /// As [`Corpus::open`], with options for the object store such as `aws_access_key_id`: the library
    /// does not look into the environment by itself. Options that the store does not know are ignored.
    ///
    /// # Errors
    /// As [`Corpus::open`].
    pub fn open_with(settings: &CorpusSettings, base: &Path, options: Vec<(String, String)>) -> Result<Self> {
        let (place, url) = place::open(&settings.url, base, &options)?;
        Self::new(settings, place, url)
    }

    /// A corpus in a store that is open already, below `prefix`.
    ///
    /// # Errors
    /// `Configuration` when a glob, pattern or encoding cannot be read.
    pub fn with_store(
        settings: &CorpusSettings,
        store: Arc<dyn ObjectStore>,
        prefix: object_store::path::Path,
    ) -> Result<Self> {
        Self::new(settings, Place::Store { store, prefix }, place::display(&settings.url))
    }

    fn new(settings: &CorpusSettings, place: Place, url: String) -> Result<Self> {
        for entry in &settings.records {
            records::check(entry)?;
        }
        Ok(Self(Arc::new(Inner {
            place,
            url,
            selection: Selection::new(settings)?,
            encoding: settings.encoding.as_deref().map(decode::by_label).transpose()?,
            pattern: settings.path_metadata.as_deref().map(PathPattern::new).transpose()?,
            max_bytes: settings.max_document_bytes,
        })))
    }

    /// The location, for people: passwords and signatures are left out.
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// All selected objects, in no particular order.
    ///
    /// A directory that cannot be read, a link that leads nowhere and a name that is not UTF-8 are
    /// `BadDocument` errors; the listing goes on after them. An error of an object store ends it.
    pub fn list(&self) -> BoxStream<'_, Result<SourceObject>> {
        match &self.0.place {
            Place::Directory(_) => {
                let inner = self.0.clone();
                blocking(LIST_AHEAD, move |out| {
                    if let Place::Directory(root) = &inner.place {
                        walk::walk(root, &inner.selection, &mut |items| out.blocking_send(items).is_ok());
                    }
                    Ok(())
                })
            }
            Place::Store { store, prefix } => Place::list_store(store.as_ref(), prefix)
                .filter(|item| {
                    let taken = item.as_ref().map_or(true, |object| self.0.selection.takes(&object.path));
                    std::future::ready(taken)
                })
                .boxed(),
        }
    }

    /// The documents of one object, in order: one, or one per record.
    ///
    /// An error of the kind `BadDocument` is about one document and the stream goes on after it; any
    /// other ends the stream. Holds one document, or a batch of small records.
    pub fn read(&self, object: &SourceObject) -> BoxStream<'_, Result<Document>> {
        let (inner, object) = (self.0.clone(), object.clone());
        blocking(READ_AHEAD, move |out| {
            let handle = Handle::current();
            match inner.selection.records(&object.path) {
                Some(settings) => inner.read_records(&object, settings, &handle, &out),
                None => {
                    let item = inner.read_file(&object, &handle);
                    match item {
                        Err(e) if e.kind() != ErrorKind::BadDocument => return Err(e),
                        // Nobody listens any more: nothing is lost.
                        item => drop(out.blocking_send(vec![item])),
                    }
                    Ok(())
                }
            }
        })
    }

    /// The object at `path` as it is now; `None` when it is gone.
    ///
    /// # Errors
    /// `BadDocument` when it cannot be looked at, `Storage` when the store fails.
    pub async fn head(&self, path: &str) -> Result<Option<SourceObject>> {
        self.0.place.head(path).await
    }

    /// The object in the version that it names, where the store keeps that; otherwise as it is now, as [`Corpus::head`].
    ///
    /// # Errors
    /// As [`Corpus::head`].
    pub async fn pinned(&self, object: &SourceObject) -> Result<Option<SourceObject>> {
        self.0.place.pinned(object).await
    }

    /// Whether the object at `path` holds records, rather than one document.
    pub fn holds_records(&self, path: &str) -> bool {
        self.0.selection.records(path).is_some()
    }
}

impl Inner {
    fn read_file(&self, object: &SourceObject, handle: &Handle) -> Result<Document> {
        let path = object.path.as_str();
        let too_large = |size: u64| {
            Error::new(ErrorKind::BadDocument, "the document is larger than allowed")
                .with("file", path)
                .with("bytes", size)
                .with("most", self.max_bytes)
                .guidance("raise `corpus.max_document_bytes`, or leave the document out with `corpus.exclude`")
        };
        if object.size > self.max_bytes {
            return Err(too_large(object.size));
        }
        let mut bytes = Vec::new();
        // It may have grown since it was listed.
        let (reader, read) = self.place.reader(object, handle)?;
        reader
            .take(self.max_bytes.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|e| place::read_failed(path, e))?;
        if bytes.len() as u64 > self.max_bytes {
            return Err(too_large(bytes.len() as u64));
        }
        let document =
            extract::file(path, &bytes, self.encoding, self.pattern.as_ref()).map_err(|e| e.with("file", path))?;
        Ok(Document { version: read.version, ..document })
    }

    fn read_records(
        &self,
        object: &SourceObject,
        settings: &RecordSettings,
        handle: &Handle,
        out: &mpsc::Sender<Vec<Result<Document>>>,
    ) -> Result<()> {
        let source = records::Source {
            object,
            settings,
            encoding: self.encoding,
            pattern: self.pattern.as_ref(),
            max_bytes: self.max_bytes,
        };
        let mut sink = records::Sink::new(out);
        let ended = records::read(&source, &self.place, handle, &mut sink);
        sink.flush();
        match ended {
            // The file as a whole is bad: an item like any other.
            Err(e) if e.kind() == ErrorKind::BadDocument => {
                drop(out.blocking_send(vec![Err(e)]));
                Ok(())
            }
            other => other,
        }
    }
}

/// Runs `work` on a blocking thread; what it sends is the stream, its own error the last item.
fn blocking<T: Send + 'static>(
    ahead: usize,
    work: impl FnOnce(mpsc::Sender<Vec<Result<T>>>) -> Result<()> + Send + 'static,
) -> BoxStream<'static, Result<T>> {
    struct State<T> {
        receiver: mpsc::Receiver<Vec<Result<T>>>,
        ready: std::vec::IntoIter<Result<T>>,
        task: Option<JoinHandle<Result<()>>>,
    }
    let start = async move {
        let (sender, receiver) = mpsc::channel(ahead);
        let task = Some(tokio::task::spawn_blocking(move || work(sender)));
        State { receiver, ready: Vec::new().into_iter(), task }
    };
    stream::once(start)
        .flat_map(|state| {
            stream::unfold(state, |mut state| async move {
                loop {
                    if let Some(item) = state.ready.next() {
                        return Some((item, state));
                    }
                    if let Some(batch) = state.receiver.recv().await {
                        state.ready = batch.into_iter();
                        continue;
                    }
                    return match state.task.take()?.await {
                        Ok(Ok(())) => None,
                        Ok(Err(e)) => Some((Err(e), state)),
                        Err(e) => Some((Err(e.into()), state)),
                    };
                }
            })
        })
        .boxed()
}

#[cfg(test)]
mod tests;
