//! Bytes cut into blobs.

use fastcdc::v2020::{FastCDC, Normalization};

/// Largest blob: what is not larger is one blob, and no piece of anything larger is.
pub(super) const LARGEST: usize = 4 << 20;
/// Smallest piece of something larger, its last piece apart.
const SMALLEST: usize = 1 << 20;
/// Usual size of a piece.
const USUAL: usize = 2 << 20;

/// Cuts a stream of bytes into blobs. The same bytes give the same blobs, however they arrive; where only some bytes
/// differ, blobs away from them are the same. Holds up to three of the largest blobs.
#[derive(Default)]
pub(super) struct Cutter {
    held: Vec<u8>,
    cut: bool,
}

impl Cutter {
    /// Takes further bytes; calls `blob` with what is a whole blob by now.
    pub(super) fn push<E>(&mut self, mut part: &[u8], blob: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        while !part.is_empty() {
            // Room for two, so that what remains is moved once per blob at most.
            let (now, later) = part.split_at(part.len().min((3 * LARGEST).saturating_sub(self.held.len())));
            self.held.extend_from_slice(now);
            part = later;
            if self.held.len() >= 3 * LARGEST {
                self.take(LARGEST, blob)?;
            }
        }
        Ok(())
    }

    /// The end of the bytes: calls `blob` with what is left. Nothing at all has no blobs.
    pub(super) fn finish<E>(mut self, blob: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        if self.held.is_empty() {
            return Ok(());
        }
        if !self.cut && self.held.len() <= LARGEST {
            return blob(&self.held);
        }
        self.take(1, blob)
    }

    /// Cuts blobs while at least `ahead` bytes are there: a cut looks at no more than the largest blob.
    fn take<E>(&mut self, ahead: usize, blob: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.cut = true;
        let cutter = FastCDC::with_level(&self.held, SMALLEST, USUAL, LARGEST, Normalization::Level2);
        let mut at = 0;
        while self.held.len() - at >= ahead {
            let (_, end) = cutter.cut(at, self.held.len() - at);
            blob(&self.held[at..end])?;
            at = end;
        }
        drop(cutter);
        self.held.drain(..at);
        Ok(())
    }
}
