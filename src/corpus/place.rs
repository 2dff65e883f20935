//! Where a corpus is: a directory, or a prefix of an object store.

use std::io::{self, BufRead, Read};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use super::document::SourceObject;
use super::walk;
use crate::error::{Error, ErrorKind, Result};
pub(super) use crate::store::display;
use crate::store::{self, Opened};
use bytes::{Buf, Bytes};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use tokio::runtime::Handle;

/// Where the objects are.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Directory(PathBuf),
    Store { store: Arc<dyn ObjectStore>, prefix: Path },
}

/// Opens a place, and its name for people.
pub(super) fn open(text: &str, base: &FilePath, options: &[(String, String)]) -> Result<(Place, String)> {
    let wrong = |what: &str| {
        Error::new(ErrorKind::Configuration, what)
            .with("corpus.url", display(text))
            .guidance("set `corpus.url` to a directory or to a URL such as `s3://bucket/prefix`")
    };
    let directory = match store::open(text, base, options).map_err(|e| e.with("key", "corpus.url"))? {
        Opened::Remote(remote) => {
            return Ok((Place::Store { store: remote.store, prefix: remote.prefix }, display(text)));
        }
        Opened::Directory(directory) => directory,
    };
    match std::fs::metadata(&directory) {
        Ok(meta) if meta.is_dir() => Ok((Place::Directory(directory), display(text))),
        Ok(_) => Err(wrong("the corpus is not a directory").with("path", directory.display())),
        Err(e) => {
            Err(wrong("the corpus directory is missing or cannot be read").with("path", directory.display()).because(e))
        }
    }
}

/// An error of the store about one object: one that is gone is a bad document, all else is the store's.
pub(super) fn failed(path: &str, e: object_store::Error) -> Error {
    if let object_store::Error::NotFound { .. } = e {
        return Error::new(ErrorKind::BadDocument, "the object is gone")
            .with("file", path)
            .guidance("the corpus changed while it was read: run the same command again")
            .because(e);
    }
    if let object_store::Error::Precondition { .. } = e {
        return Error::new(ErrorKind::BadDocument, "the object changed while it was read")
            .with("file", path)
            .guidance("run the same command again when nothing writes it")
            .because(e);
    }
    Error::from(e).with("file", path)
}

impl Place {
    /// The object's location in the store.
    pub(super) fn location(prefix: &Path, path: &str) -> Result<Path> {
        let full = if prefix.as_ref().is_empty() { path.to_owned() } else { format!("{prefix}/{path}") };
        Path::parse(full)
            .map_err(|e| Error::new(ErrorKind::BadDocument, "not a path of the corpus").with("file", path).because(e))
    }

    /// A file's path; `None` when `path` leads out of the directory.
    pub(super) fn file(root: &FilePath, path: &str) -> Option<PathBuf> {
        let inside = path.split('/').all(|s| !s.is_empty() && s != "." && s != "..");
        inside.then(|| root.join(path))
    }

    pub(super) fn source(prefix: &Path, meta: ObjectMeta) -> Option<SourceObject> {
        let full = meta.location.as_ref();
        let path = match prefix.as_ref() {
            "" => full,
            prefix => full.strip_prefix(prefix)?.strip_prefix('/')?,
        };
        Some(SourceObject {
            path: path.to_owned(),
            size: meta.size,
            modified: meta.last_modified.timestamp_micros(),
            etag: meta.e_tag,
            version: meta.version,
        })
    }

    /// Objects of a store; a directory is walked instead.
    pub(super) fn list_store<'a>(store: &'a dyn ObjectStore, prefix: &'a Path) -> BoxStream<'a, Result<SourceObject>> {
        let at = Some(prefix).filter(|p| !p.as_ref().is_empty());
        store
            .list(at)
            .map_err(move |e| Error::from(e).with("prefix", prefix))
            .try_filter_map(move |meta| async move { Ok(Self::source(prefix, meta)) })
            .boxed()
    }

    pub(super) async fn head(&self, path: &str) -> Result<Option<SourceObject>> {
        match self {
            Self::Directory(root) => {
                let Some(file) = Self::file(root, path) else { return Ok(None) };
                match tokio::fs::metadata(&file).await {
                    Ok(meta) if meta.is_file() => Ok(Some(walk::describe(path.to_owned(), &meta))),
                    Ok(_) => Ok(None),
                    Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
                    Err(e) => Err(walk::unreadable("a file of the corpus cannot be read", path, e)),
                }
            }
            Self::Store { store, prefix } => match store.head(&Self::location(prefix, path)?).await {
                Ok(meta) => Ok(Self::source(prefix, meta)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(e) => Err(failed(path, e)),
            },
        }
    }

    /// The object in the version that `object` names, or as it is now when that one is not kept, or none is named.
    pub(super) async fn pinned(&self, object: &SourceObject) -> Result<Option<SourceObject>> {
        let (Self::Store { store, prefix }, Some(version)) = (self, &object.version) else {
            return self.head(&object.path).await;
        };
        let options = GetOptions { head: true, version: Some(version.clone()), ..Default::default() };
        match store.get_opts(&Self::location(prefix, &object.path)?, options).await {
            Ok(got) => Ok(Self::source(prefix, got.meta).map(|found| in_version(found, Some(version)))),
            Err(object_store::Error::NotFound { .. }) => self.head(&object.path).await,
            Err(e) => Err(failed(&object.path, e)),
        }
    }

    fn open_file(&self, root: &FilePath, path: &str) -> Result<std::fs::File> {
        let file = Self::file(root, path)
            .ok_or_else(|| Error::new(ErrorKind::BadDocument, "not a path of the corpus").with("file", path))?;
        std::fs::File::open(file).map_err(|e| walk::unreadable("a file of the corpus cannot be read", path, e))
    }

    /// The object's bytes for the Parquet reader: all ranges are of the same version, where the store has versions.
    pub(super) fn parquet(&self, object: &SourceObject) -> Result<Box<dyn AsyncFileReader>> {
        Ok(match self {
            Self::Directory(root) => Box::new(tokio::fs::File::from_std(self.open_file(root, &object.path)?)),
            Self::Store { store, prefix } => Box::new(StoreRanges {
                store: store.clone(),
                location: Self::location(prefix, &object.path)?,
                size: object.size,
                version: object.version.clone(),
                etag: object.etag.clone().filter(|etag| object.version.is_none() && !etag.starts_with("W/")),
            }),
        })
    }
}

/// Not every store repeats the version that it was asked for.
fn in_version(read: SourceObject, asked: Option<&String>) -> SourceObject {
    SourceObject { version: read.version.or_else(|| asked.cloned()), ..read }
}

/// An error inside an [`io::Error`], back as ours.
pub(super) fn read_failed(path: &str, e: io::Error) -> Error {
    match e.downcast::<object_store::Error>() {
        Ok(e) => failed(path, e),
        Err(e) => walk::unreadable("reading a file of the corpus failed", path, e),
    }
}

/// How often a reader goes on where an answer broke off, without having got anything in between.
const RESUMES: u32 = 3;

/// A store's byte stream as a blocking reader. The client itself resumes an answer that breaks off, but only for some
/// minutes after the request, and what reads here may take its time.
pub(super) struct StoreReader {
    handle: Handle,
    store: Arc<dyn ObjectStore>,
    location: Path,
    version: Option<String>,
    etag: Option<String>,
    /// What is still to come.
    range: Range<u64>,
    resumed: u32,
    stream: BoxStream<'static, object_store::Result<Bytes>>,
    current: Bytes,
}

impl StoreReader {
    /// Opens the object in the version that `object` names, and says what it is that is read: size, etag and version
    /// are those of the bytes. Call it, and the reader, on a blocking thread.
    pub(super) fn open(
        store: &Arc<dyn ObjectStore>,
        prefix: &Path,
        location: Path,
        object: &SourceObject,
        handle: &Handle,
    ) -> object_store::Result<(Self, SourceObject)> {
        let options = GetOptions { version: object.version.clone(), ..Default::default() };
        let got = handle.block_on(store.get_opts(&location, options))?;
        let read = Place::source(prefix, got.meta.clone()).unwrap_or_else(|| object.clone());
        let read = in_version(read, object.version.as_ref());
        let reader = Self {
            handle: handle.clone(),
            store: store.clone(),
            location,
            version: read.version.clone(),
            etag: read.etag.clone(),
            range: got.range.clone(),
            resumed: 0,
            // What has come to its end is asked again by readers that read on.
            stream: got.into_stream().fuse().boxed(),
            current: Bytes::new(),
        };
        Ok((reader, read))
    }

    /// Goes on where the answer broke off, if the object is still the same one.
    fn resume(&mut self, e: object_store::Error) -> object_store::Result<()> {
        let same = self.etag.is_some() || self.version.is_some();
        if !same
            || self.range.is_empty()
            || self.resumed == RESUMES
            || matches!(e, object_store::Error::Precondition { .. })
        {
            return Err(e);
        }
        self.resumed += 1;
        let options = GetOptions {
            range: Some(self.range.clone().into()),
            version: self.version.clone(),
            if_match: self.etag.clone(),
            ..Default::default()
        };
        let got = self.handle.block_on(self.store.get_opts(&self.location, options))?;
        self.stream = got.into_stream().fuse().boxed();
        Ok(())
    }
}

impl BufRead for StoreReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() {
            match self.handle.block_on(self.stream.next()) {
                Some(Ok(bytes)) => {
                    self.range.start += bytes.len() as u64;
                    self.resumed = 0;
                    self.current = bytes;
                }
                Some(Err(e)) => self.resume(e).map_err(io::Error::other)?,
                None => break,
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, n: usize) {
        self.current.advance(n);
    }
}

impl Read for StoreReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

/// Byte ranges of one object of a store.
struct StoreRanges {
    store: Arc<dyn ObjectStore>,
    location: Path,
    size: u64,
    version: Option<String>,
    /// Every range must be of the same contents.
    etag: Option<String>,
}

fn external(e: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(e))
}

impl AsyncFileReader for StoreRanges {
    fn get_bytes(
        &mut self,
        range: std::ops::Range<u64>,
    ) -> futures::future::BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move {
            let options = GetOptions {
                range: Some(range.into()),
                version: self.version.clone(),
                if_match: self.etag.clone(),
                ..Default::default()
            };
            let got = self.store.get_opts(&self.location, options).await.map_err(external)?;
            got.bytes().await.map_err(external)
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> futures::future::BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let size = self.size;
            let reader = ParquetMetaDataReader::new().with_arrow_reader_options(options);
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}
