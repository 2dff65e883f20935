//! One object, read so that what changes in the meantime is noticed, its bytes shown to whoever keeps a copy.
//!
//! A file's size, times and inode before and after must agree. A store answers one request with one version of an
//! object, and says which; a Parquet file in a store takes many requests, each of which asks for the same version.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::document::{Document, SourceObject};
use super::parse::{DocumentParser, bad_is_an_item, each_part, spooled};
use super::place::{self, Place, StoreReader};
use super::walk;
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::RecordFormat;

/// What a reading of one object tells, in this order: opened, documents, ended.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are documents")]
pub(crate) enum Reading {
    /// The object as it was opened; the documents that follow are of this state.
    Opened(SourceObject),
    /// One of its documents.
    Document(Document),
    /// It came to its end.
    Ended(Ended),
}

/// How a reading came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The object is as it was opened: its documents count.
    Whole,
    /// It changed meanwhile: nothing that was read of it counts.
    Changed,
    /// It was not there.
    Vanished,
}

/// Sees the bytes of one object as they are read, from the first to the last.
pub(crate) trait Tap: Send {
    /// The next bytes.
    fn bytes(&mut self, part: &[u8]) -> Result<()>;
    /// All bytes were seen, and the object is as it was opened. Without this call, what was seen does not count.
    fn end(&mut self, object: &SourceObject) -> Result<()>;
}

/// Time stamps of file systems move in steps of up to about ten milliseconds: a file that was changed less than
/// this ago can change again without showing it.
const SETTLE: Duration = Duration::from_millis(25);

/// The bytes of an object that is open.
enum Bytes {
    File(File),
    Store(StoreReader),
}

impl Place {
    /// Opens an object; `None` when it is not there. Blocking.
    fn opened(&self, object: &SourceObject, handle: &Handle) -> Result<Option<(SourceObject, Bytes)>> {
        let path = &object.path;
        match self {
            Self::Directory(root) => {
                let outside = || Error::new(ErrorKind::BadDocument, "not a path of the corpus").with("file", path);
                let name = Self::file(root, path).ok_or_else(outside)?;
                let failed = |e| walk::unreadable("a file of the corpus cannot be read", path, e);
                let file = match File::open(&name) {
                    Ok(file) => file,
                    Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                        // A link that leads nowhere is there.
                        return if std::fs::symlink_metadata(&name).is_ok() { Err(failed(e)) } else { Ok(None) };
                    }
                    Err(e) => return Err(failed(e)),
                };
                settle(&file.metadata().map_err(failed)?);
                let meta = file.metadata().map_err(failed)?;
                if !meta.is_file() {
                    return Err(failed(io::ErrorKind::InvalidInput.into()));
                }
                Ok(Some((walk::describe(path.clone(), &meta), Bytes::File(file))))
            }
            Self::Store { store, prefix } => {
                match StoreReader::open(store, prefix, Self::location(prefix, path)?, object, handle) {
                    Ok((reader, state)) => Ok(Some((state, Bytes::Store(reader)))),
                    Err(object_store::Error::NotFound { .. }) => Ok(None),
                    Err(e) => Err(place::failed(path, e)),
                }
            }
        }
    }
}

/// Waits until a change from now on would show.
fn settle(meta: &std::fs::Metadata) {
    #[cfg(unix)]
    let changed = {
        use std::os::unix::fs::MetadataExt;
        let nanoseconds = u64::try_from(meta.ctime_nsec()).unwrap_or(0);
        u64::try_from(meta.ctime())
            .ok()
            .map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s) + Duration::from_nanos(nanoseconds))
    };
    #[cfg(not(unix))]
    let changed = meta.modified().ok();
    let age = changed.and_then(|c| SystemTime::now().duration_since(c).ok());
    if let Some(left) = age.and_then(|age| SETTLE.checked_sub(age)) {
        std::thread::sleep(left);
    }
}

/// A reader that shows what is taken from it.
struct Tee<'a> {
    inner: &'a mut (dyn BufRead + Send),
    tap: &'a mut dyn Tap,
    failed: Option<Error>,
}

impl BufRead for Tee<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        if n > 0 && self.failed.is_none() {
            // The bytes are in the buffer already: this reads nothing.
            let shown = match self.inner.fill_buf() {
                Ok(part) => self.tap.bytes(&part[..n.min(part.len())]),
                Err(e) => Err(e.into()),
            };
            self.failed = shown.err();
        }
        self.inner.consume(n);
    }
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

/// Reads one object into `out`. Blocking.
pub(super) fn read(
    place: &Place,
    parser: &DocumentParser,
    listed: &SourceObject,
    mut tap: Option<Box<dyn Tap>>,
    out: &mpsc::Sender<Vec<Result<Reading>>>,
) -> Result<()> {
    let handle = Handle::current();
    // Nobody listens any more: nothing is lost.
    let send = |item| drop(out.blocking_send(vec![item]));
    let records = parser.records(&listed.path)?;
    if records.is_none() && listed.size > parser.max_bytes() {
        return bad_is_an_item(Err(parser.too_large(&listed.path, listed.size)), out);
    }
    if let (Some((settings, RecordFormat::Parquet)), None, Place::Store { .. }) = (&records, &tap, place) {
        return read_ranges(place, parser, listed, settings, &handle, out);
    }
    let opened = match place.opened(listed, &handle) {
        Ok(opened) => opened,
        Err(e) => return bad_is_an_item(Err(e), out),
    };
    let Some((state, bytes)) = opened else {
        send(Ok(Reading::Ended(Ended::Vanished)));
        return Ok(());
    };
    // Of a single document everything is sent at once: most objects are small.
    let mut items = vec![Ok(Reading::Opened(state.clone()))];
    if records.is_some() {
        drop(out.blocking_send(std::mem::take(&mut items)));
    }
    let (file, mut reader): (Option<File>, Box<dyn BufRead + Send>) = match bytes {
        Bytes::File(file) => {
            let again = file.try_clone().map_err(|e| place::read_failed(&listed.path, e))?;
            // What is appended meanwhile is not of this state; a file that never stops growing must still end.
            let buffer = state.size.clamp(512, 128 << 10) as usize;
            (Some(file), Box::new(BufReader::with_capacity(buffer, again.take(state.size))))
        }
        Bytes::Store(reader) => (None, Box::new(reader)),
    };
    let unchanged = || match &file {
        None => Ok(true),
        Some(file) => match file.metadata() {
            Ok(meta) => Ok(walk::describe(listed.path.clone(), &meta) == state),
            Err(e) => Err(place::read_failed(&listed.path, e)),
        },
    };
    // Whether the tap saw every byte.
    let mut complete = false;
    let ended: Result<Option<Vec<u8>>> = match records {
        None => {
            let bytes = whole(parser, &state, &mut *reader, tap.as_deref_mut());
            complete = bytes.is_ok();
            bytes.map(Some)
        }
        Some((settings, RecordFormat::Parquet)) => {
            let mut seen = |part: &[u8]| tap.as_mut().map_or(Ok(()), |tap| tap.bytes(part));
            let input = match &file {
                Some(file) => (|| {
                    let mut file = file.try_clone()?;
                    each_part(&mut *reader, &mut seen)?;
                    file.rewind()?;
                    Ok(file)
                })(),
                None => spooled(&mut *reader, &mut seen),
            };
            complete = input.is_ok();
            input.and_then(|input| {
                let input = Box::new(tokio::fs::File::from_std(input));
                parser.read_parquet(&state, settings, input, &handle, out).map(|()| None)
            })
        }
        Some((settings, format)) => match tap.as_deref_mut() {
            None => parser.read_records(&state, settings, format, &mut *reader, out).map(|()| None),
            Some(tap) => {
                let mut tee = Tee { inner: &mut *reader, tap, failed: None };
                let read = parser.read_records(&state, settings, format, &mut tee, out);
                // Also what a file that is bad as a whole has left.
                let rest = each_part(&mut tee, &mut |_| Ok(()));
                complete = tee.failed.is_none() && rest.is_ok();
                match tee.failed {
                    Some(e) => Err(e),
                    None => read.and(rest).map(|()| None),
                }
            }
        },
    };
    if !unchanged()? {
        items.push(Ok(Reading::Ended(Ended::Changed)));
        drop(out.blocking_send(items));
        return Ok(());
    }
    // A document or record file that turns out to be bad is kept like any other.
    if let Some(tap) = tap.as_mut().filter(|_| complete) {
        tap.end(&state)?;
    }
    match ended.and_then(|bytes| bytes.map(|bytes| parser.document(&listed.path, &bytes)).transpose()) {
        Ok(document) => items.extend(document.map(|document| Ok(Reading::Document(document)))),
        Err(e) if e.kind() == ErrorKind::BadDocument => items.push(Err(e)),
        Err(e) => return Err(e),
    }
    items.push(Ok(Reading::Ended(Ended::Whole)));
    drop(out.blocking_send(items));
    Ok(())
}

/// The bytes of an object that is one document; one byte more than allowed where it is too large.
fn whole(
    parser: &DocumentParser,
    state: &SourceObject,
    reader: &mut (dyn BufRead + Send),
    tap: Option<&mut (dyn Tap + '_)>,
) -> Result<Vec<u8>> {
    let most = parser.max_bytes();
    if state.size > most {
        return Err(parser.too_large(&state.path, state.size));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(state.size).unwrap_or(0));
    let read = reader.take(most.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|e| place::read_failed(&state.path, e))?;
    if bytes.len() as u64 > most {
        return Err(parser.too_large(&state.path, bytes.len() as u64));
    }
    if let Some(tap) = tap {
        tap.bytes(&bytes)?;
    }
    Ok(bytes)
}

/// A Parquet file in a store, without reading all of it: every request asks for the version that was found first.
fn read_ranges(
    place: &Place,
    parser: &DocumentParser,
    listed: &SourceObject,
    settings: &crate::pipeline::RecordSettings,
    handle: &Handle,
    out: &mpsc::Sender<Vec<Result<Reading>>>,
) -> Result<()> {
    let send = |item| drop(out.blocking_send(vec![item]));
    // A version that is named cannot change; it also is not what a look at the path finds later.
    let state = match &listed.version {
        Some(_) => Some(listed.clone()),
        None => handle.block_on(place.head(&listed.path))?,
    };
    let Some(state) = state else {
        send(Ok(Reading::Ended(Ended::Vanished)));
        return Ok(());
    };
    send(Ok(Reading::Opened(state.clone())));
    let ended = parser.read_parquet(&state, settings, place.parquet(&state)?, handle, out);
    let now = match &state.version {
        Some(_) => Some(state.clone()),
        None => handle.block_on(place.head(&listed.path))?,
    };
    if now.is_none_or(|now| now != state) {
        send(Ok(Reading::Ended(Ended::Changed)));
        return Ok(());
    }
    bad_is_an_item(ended, out)?;
    send(Ok(Reading::Ended(Ended::Whole)));
    Ok(())
}
