//! Documents from bytes, wherever the bytes come from: the corpus, or the repository's own copy.

use std::io::{self, BufRead, Read, Seek, Write};
use std::sync::Arc;

use encoding_rs::Encoding;
use futures::StreamExt;
use futures::stream::BoxStream;
use parquet::arrow::async_reader::AsyncFileReader;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::document::{Document, SourceObject};
use super::read::Reading;
use super::select::{PathPattern, Selection};
use super::{READ_AHEAD, blocking, decode, extract, place, records};
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::{CorpusSettings, RecordFormat, RecordSettings};

/// How the bytes of an object become documents; needs no place to read from. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DocumentParser(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    selection: Selection,
    encoding: Option<&'static Encoding>,
    pattern: Option<PathPattern>,
    max_bytes: u64,
}

impl DocumentParser {
    /// The parser that these settings describe.
    ///
    /// # Errors
    /// `Configuration` when a glob, pattern or encoding cannot be read.
    pub fn new(settings: &CorpusSettings) -> Result<Self> {
        for entry in &settings.records {
            records::check(entry)?;
        }
        Ok(Self(Arc::new(Inner {
            selection: Selection::new(settings)?,
            encoding: settings.encoding.as_deref().map(decode::by_label).transpose()?,
            pattern: settings.path_metadata.as_deref().map(PathPattern::new).transpose()?,
            max_bytes: settings.max_document_bytes,
        })))
    }

    /// Whether the object at `path` holds records, rather than one document.
    pub fn holds_records(&self, path: &str) -> bool {
        self.0.selection.records(path).is_some()
    }

    /// The one document that the bytes of a whole object are.
    ///
    /// # Errors
    /// `BadDocument` when it cannot be decoded, is malformed or too large.
    pub fn document(&self, path: &str, bytes: &[u8]) -> Result<Document> {
        if bytes.len() as u64 > self.0.max_bytes {
            return Err(self.too_large(path, bytes.len() as u64));
        }
        extract::file(path, bytes, self.0.encoding, self.0.pattern.as_ref()).map_err(|e| e.with("file", path))
    }

    /// The documents of an object whose bytes `reader` gives, in order. As with [`super::Corpus::read`], an error of the
    /// kind `BadDocument` is about one document. Holds one document, or a batch of small records; a Parquet file is
    /// put into a temporary file, because it is not read front to back.
    pub fn documents(
        &self,
        object: &SourceObject,
        mut reader: Box<dyn BufRead + Send>,
    ) -> BoxStream<'static, Result<Document>> {
        let (parser, object) = (self.clone(), object.clone());
        let readings = blocking(READ_AHEAD, move |out| {
            let handle = Handle::current();
            let ended = match parser.records(&object.path)? {
                None => parser.whole(&object, &mut *reader).map(|document| {
                    // Nobody listens any more: nothing is lost.
                    drop(out.blocking_send(vec![Ok(Reading::Document(document))]));
                }),
                Some((settings, RecordFormat::Parquet)) => {
                    let file = spooled(&mut *reader, &mut |_| Ok(())).map_err(|e| e.with("file", &object.path))?;
                    let file = Box::new(tokio::fs::File::from_std(file));
                    parser.read_parquet(&object, settings, file, &handle, &out)
                }
                Some((settings, format)) => parser.read_records(&object, settings, format, &mut *reader, &out),
            };
            bad_is_an_item(ended, &out)
        });
        documents_only(readings)
    }

    /// How records of the object at `path` are read; `None` when it is one document.
    pub(super) fn records(&self, path: &str) -> Result<Option<(&RecordSettings, RecordFormat)>> {
        let Some(settings) = self.0.selection.records(path) else { return Ok(None) };
        Ok(Some((settings, records::format(settings, path)?)))
    }

    pub(super) fn selection(&self) -> &Selection {
        &self.0.selection
    }

    pub(super) fn max_bytes(&self) -> u64 {
        self.0.max_bytes
    }

    pub(super) fn too_large(&self, path: &str, bytes: u64) -> Error {
        Error::new(ErrorKind::BadDocument, "the document is larger than allowed")
            .with("file", path)
            .with("bytes", bytes)
            .with("most", self.0.max_bytes)
            .guidance("raise `corpus.max_document_bytes`, or leave the document out with `corpus.exclude`")
    }

    fn whole(&self, object: &SourceObject, reader: &mut (dyn BufRead + Send)) -> Result<Document> {
        let mut bytes = Vec::new();
        reader
            .take(self.0.max_bytes.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|e| place::read_failed(&object.path, e))?;
        self.document(&object.path, &bytes)
    }

    fn source<'a>(&'a self, object: &'a SourceObject, settings: &'a RecordSettings) -> records::Source<'a> {
        records::Source {
            object,
            settings,
            encoding: self.0.encoding,
            pattern: self.0.pattern.as_ref(),
            max_bytes: self.0.max_bytes,
        }
    }

    pub(super) fn read_records(
        &self,
        object: &SourceObject,
        settings: &RecordSettings,
        format: RecordFormat,
        reader: &mut (dyn BufRead + Send),
        out: &mpsc::Sender<Vec<Result<Reading>>>,
    ) -> Result<()> {
        let mut sink = records::Sink::new(out);
        let ended = records::read(&self.source(object, settings), format, reader, &mut sink);
        sink.flush();
        ended
    }

    pub(super) fn read_parquet(
        &self,
        object: &SourceObject,
        settings: &RecordSettings,
        reader: Box<dyn AsyncFileReader>,
        handle: &Handle,
        out: &mpsc::Sender<Vec<Result<Reading>>>,
    ) -> Result<()> {
        let mut sink = records::Sink::new(out);
        let ended = records::read_parquet(&self.source(object, settings), reader, handle, &mut sink);
        sink.flush();
        ended
    }
}

/// An object that is bad as a whole is an item like any other; every other error ends the stream.
pub(super) fn bad_is_an_item(ended: Result<()>, out: &mpsc::Sender<Vec<Result<Reading>>>) -> Result<()> {
    match ended {
        Err(e) if e.kind() == ErrorKind::BadDocument => {
            drop(out.blocking_send(vec![Err(e)]));
            Ok(())
        }
        other => other,
    }
}

/// The documents among the readings.
pub(super) fn documents_only(readings: BoxStream<'static, Result<Reading>>) -> BoxStream<'static, Result<Document>> {
    readings
        .filter_map(|item| {
            std::future::ready(match item {
                Ok(Reading::Document(document)) => Some(Ok(document)),
                Ok(_) => None,
                Err(e) => Some(Err(e)),
            })
        })
        .boxed()
}

/// Bytes handed over at once.
const STEP: usize = 256 << 10;

/// All bytes of `reader` in a temporary file without a name, at its beginning; each part is shown to `seen` first.
pub(super) fn spooled(
    reader: &mut (dyn BufRead + Send),
    seen: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<std::fs::File> {
    let mut file = tempfile::tempfile()?;
    each_part(reader, &mut |part| {
        seen(part)?;
        Ok(file.write_all(part)?)
    })?;
    file.rewind()?;
    Ok(file)
}

/// Shows everything that `reader` still has.
pub(super) fn each_part(reader: &mut (dyn BufRead + Send), seen: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    loop {
        let part = match reader.fill_buf() {
            Ok(part) => &part[..part.len().min(STEP)],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e.into()),
        };
        if part.is_empty() {
            return Ok(());
        }
        seen(part)?;
        let used = part.len();
        reader.consume(used);
    }
}
