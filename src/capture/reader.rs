//! Captured bytes, read back.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;

use super::index::{BlobAt, CapturedObject};
use super::pack::Pack;
use super::table::damaged;
use crate::error::{Error, Result};
use crate::ids::Digest;
use crate::repository::{Captured, ObjectRef, Repository};

/// Packs that are held open: a large object lies in its own pack and perhaps in older ones that it shares.
const HELD: usize = 4;

/// The packs of a snapshot. Cheap to clone; all clones share the packs that are open. Its functions block.
#[derive(Clone)]
pub(crate) struct CapturedReader(Arc<Inner>);

struct Inner {
    repository: Repository,
    packs: Vec<ObjectRef>,
    handle: Handle,
    open: Mutex<VecDeque<(u32, std::result::Result<Pack, Failed>)>>,
}

/// A pack that cannot be had, and why.
#[derive(Clone)]
struct Failed {
    object: String,
    why: String,
}

impl Failed {
    fn error(&self) -> Error {
        damaged("a pack is missing or damaged").with("object", &self.object).because(self.why.clone())
    }
}

impl CapturedReader {
    /// The packs that a snapshot lists. To be called within a runtime.
    pub(crate) fn new(repository: &Repository, captured: &Captured) -> Self {
        Self(Arc::new(Inner {
            repository: repository.clone(),
            packs: captured.packs.clone(),
            handle: Handle::current(),
            open: Mutex::default(),
        }))
    }

    /// Shows a blob. Cheapest pack after pack and row after row.
    ///
    /// # Errors
    /// `Damaged` when the pack is missing or damaged, or does not hold it; errors of the repository.
    fn blob<T>(&self, at: &BlobAt, show: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let held = match open.iter().position(|(number, _)| *number == at.pack) {
            Some(held) => held,
            None => {
                let pack = self.pack(at.pack)?;
                if open.len() >= HELD {
                    open.pop_front();
                }
                open.push_back((at.pack, pack));
                open.len() - 1
            }
        };
        let pack = match &mut open[held].1 {
            Ok(pack) => pack,
            Err(failed) => return Err(failed.error()),
        };
        let name = || self.0.packs.get(at.pack as usize).map(|p| p.path.clone()).unwrap_or_default();
        let (blob, bytes) = pack.blob(at.row).map_err(|e| e.with("object", name()))?;
        if blob != at.blob || bytes.len() as u64 != at.bytes {
            return Err(damaged("a pack holds another blob than its index says").with("object", name()));
        }
        Ok(show(bytes))
    }

    fn pack(&self, number: u32) -> Result<std::result::Result<Pack, Failed>> {
        let Some(object) = self.0.packs.get(number as usize) else {
            return Err(damaged("an index names a pack that is not listed").with("pack", number));
        };
        let read = self.0.handle.block_on(self.0.repository.get_checked(object));
        match read.and_then(|bytes| Pack::open(&self.0.repository, bytes)) {
            Ok(pack) => Ok(Ok(pack)),
            Err(e) if e.kind() == crate::error::ErrorKind::Damaged => {
                let why = std::iter::once(e.to_string()).chain(e.causes()).collect::<Vec<_>>().join(": ");
                Ok(Err(Failed { object: object.path.clone(), why }))
            }
            Err(e) => Err(e),
        }
    }

    /// All bytes of what is captured.
    ///
    /// # Errors
    /// As for its blobs; `Damaged` also when they are together not what was captured.
    pub(crate) fn bytes(&self, object: &CapturedObject) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(usize::try_from(object.bytes).unwrap_or(0).min(1 << 28));
        for at in &object.blobs {
            self.blob(at, |blob| bytes.extend_from_slice(blob))?;
        }
        // The only blob of an object was checked already.
        if bytes.len() as u64 != object.bytes
            || (object.blobs.len() != 1 && Digest::of(&bytes) != object.digest)
            || (object.blobs.len() == 1 && object.blobs[0].blob != object.digest)
        {
            return Err(damaged("captured bytes are not what was captured").with("file", &object.path));
        }
        Ok(bytes)
    }

    /// The bytes as a stream, for objects of any size. What goes wrong is also left in the second value, because a
    /// reader's own error has no kind.
    pub(crate) fn stream(&self, object: &CapturedObject) -> (Box<dyn BufRead + Send>, Arc<Mutex<Option<Error>>>) {
        let failed = Arc::<Mutex<Option<Error>>>::default();
        let stream = BlobStream {
            reader: self.clone(),
            blobs: object.blobs.clone().into_iter(),
            current: Vec::new(),
            at: 0,
            failed: failed.clone(),
        };
        (Box::new(stream), failed)
    }
}

struct BlobStream {
    reader: CapturedReader,
    blobs: std::vec::IntoIter<BlobAt>,
    current: Vec<u8>,
    at: usize,
    failed: Arc<Mutex<Option<Error>>>,
}

impl BufRead for BlobStream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at >= self.current.len() {
            let Some(next) = self.blobs.next() else { return Ok(&[]) };
            let (current, at) = (&mut self.current, &mut self.at);
            let read = self.reader.blob(&next, |blob| {
                current.clear();
                current.extend_from_slice(blob);
                *at = 0;
            });
            if let Err(e) = read {
                let text = e.to_string();
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
                // Nothing after this may look like the rest of the object.
                self.blobs = Vec::new().into_iter();
                return Err(io::Error::other(text));
            }
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, n: usize) {
        self.at += n;
    }
}

impl Read for BlobStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}
