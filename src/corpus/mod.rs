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
mod parse;
mod place;
mod read;
mod records;
mod select;
mod walk;

use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::ObjectStore;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use document::{Document, SourceObject, TextFormat};
pub use parse::DocumentParser;
pub(crate) use read::{Ended, Reading, Tap};
pub(crate) use select::{PathPattern, Selection, globs};

use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::CorpusSettings;
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
    parser: DocumentParser,
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
        Ok(Self(Arc::new(Inner { place, url, parser: DocumentParser::new(settings)? })))
    }

    /// A location as it may be shown to people: without passwords and signatures.
    pub fn display_url(url: &str) -> String {
        place::display(url)
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
                        let found = &mut |items| out.blocking_send(items).is_ok();
                        walk::walk(root, inner.parser.selection(), found);
                    }
                    Ok(())
                })
            }
            Place::Store { store, prefix } => Place::list_store(store.as_ref(), prefix)
                .filter(|item| {
                    let taken = item.as_ref().map_or(true, |object| self.0.parser.selection().takes(&object.path));
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
        let path = object.path.clone();
        let readings = self.read_with(object, None).map(move |item| match item {
            Ok(Reading::Ended(Ended::Vanished)) => Err(Error::new(ErrorKind::BadDocument, "the object is gone")
                .with("file", &path)
                .guidance("the corpus changed while it was read: run the same command again")),
            Ok(Reading::Ended(Ended::Changed)) => {
                Err(Error::new(ErrorKind::BadDocument, "the object changed while it was read")
                    .with("file", &path)
                    .guidance("run the same command again"))
            }
            other => other,
        });
        parse::documents_only(readings.boxed())
    }

    /// As [`Corpus::read`], telling also in which state the object was read, and whether it was still in that state
    /// afterwards. `tap` sees the object's bytes.
    pub(crate) fn read_with(
        &self,
        object: &SourceObject,
        tap: Option<Box<dyn Tap>>,
    ) -> BoxStream<'static, Result<Reading>> {
        let (inner, object) = (self.0.clone(), object.clone());
        blocking(READ_AHEAD, move |out| read::read(&inner.place, &inner.parser, &object, tap, &out))
    }

    /// How its bytes become documents.
    pub fn parser(&self) -> &DocumentParser {
        &self.0.parser
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
        self.0.parser.holds_records(path)
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
mod read_tests;
#[cfg(test)]
mod tests;
