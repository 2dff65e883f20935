//! Captures the bytes of an object while they are read.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::blobs::Shared;
use super::cut::{Cutter, LARGEST};
use super::index::{BlobAt, CapturedObject};
use crate::corpus::{SourceObject, Tap};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;

/// Pieces of one large object that are compressed at the same time.
const AHEAD: usize = 4;

/// Captures the bytes of one object.
pub(super) struct ObjectTap {
    shared: Arc<Shared>,
    cutter: Option<Cutter>,
    /// Over all bytes that were cut off so far.
    whole: blake3::Hasher,
    total: u64,
    pending: VecDeque<JoinHandle<Result<BlobAt>>>,
    blobs: Vec<BlobAt>,
}

impl ObjectTap {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            cutter: Some(Cutter::default()),
            whole: blake3::Hasher::new(),
            total: 0,
            pending: VecDeque::new(),
            blobs: Vec::new(),
        }
    }

    /// A piece of a large object: it is compressed on another thread while more is read.
    fn piece(&mut self, piece: &[u8]) -> Result<()> {
        self.whole.update(piece);
        while self.pending.len() >= AHEAD {
            self.wait()?;
        }
        let (shared, piece) = (self.shared.clone(), piece.to_vec());
        self.pending.push_back(tokio::task::spawn_blocking(move || shared.add(&piece)));
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        if let Some(oldest) = self.pending.pop_front() {
            self.blobs.push(Handle::current().block_on(oldest)??);
        }
        Ok(())
    }
}

impl Tap for ObjectTap {
    fn bytes(&mut self, part: &[u8]) -> Result<()> {
        self.total += part.len() as u64;
        let Some(mut cutter) = self.cutter.take() else { return Ok(()) };
        let pushed = cutter.push(part, &mut |piece: &[u8]| self.piece(piece));
        self.cutter = Some(cutter);
        pushed
    }

    fn end(&mut self, object: &SourceObject) -> Result<()> {
        if self.total != object.size {
            return Err(Error::new(ErrorKind::Storage, "an object has another size than its store says")
                .with("file", &object.path)
                .with("bytes", object.size)
                .with("read", self.total)
                .transient());
        }
        let Some(cutter) = self.cutter.take() else { return Ok(()) };
        let digest = if self.total <= LARGEST as u64 {
            let (shared, blobs) = (&self.shared, &mut self.blobs);
            cutter.finish(&mut |blob: &[u8]| shared.add(blob).map(|at| blobs.push(at)))?;
            self.blobs.first().map_or_else(|| Digest::of(b""), |at| at.blob)
        } else {
            cutter.finish(&mut |piece: &[u8]| self.piece(piece))?;
            while !self.pending.is_empty() {
                self.wait()?;
            }
            Digest::from_hasher(&self.whole)
        };
        self.shared.row(CapturedObject {
            id: object.path.clone(),
            path: object.path.clone(),
            line: None,
            bytes: self.total,
            modified: object.modified,
            digest,
            blobs: std::mem::take(&mut self.blobs),
        })
    }
}
