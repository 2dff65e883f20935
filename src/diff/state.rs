//! What is put aside of a document to compare it with another state of itself.

use super::report::Tally;
use crate::aside::{
    Packed, put_digest, put_number, put_text, put_texts, take_digest, take_number, take_text, take_texts,
};
use crate::ids::Digest;
use crate::repository::{DocumentBrief, DocumentRow};

/// A document's digests and counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DocumentState {
    pub(crate) document_id: String,
    pub(crate) bytes: u64,
    pub(crate) digest: Digest,
    pub(crate) text_digest: Digest,
    pub(crate) payload_digest: Digest,
    pub(crate) chunks: u64,
    pub(crate) tokens: u64,
    pub(crate) moved_from: Vec<String>,
}

impl From<DocumentBrief> for DocumentState {
    fn from(row: DocumentBrief) -> Self {
        Self {
            document_id: row.document_id,
            bytes: row.bytes,
            digest: row.digest,
            text_digest: row.text_digest,
            payload_digest: row.payload_digest,
            chunks: row.chunks.into(),
            tokens: row.tokens,
            moved_from: row.moved_from,
        }
    }
}

impl DocumentState {
    pub(super) fn tally(&self) -> Tally {
        Tally { documents: 1, chunks: self.chunks, tokens: self.tokens, bytes: self.bytes }
    }

    /// Whether a document read again is what it was; where it lies and when it was written may have changed.
    pub(crate) fn is(&self, row: &DocumentRow) -> bool {
        self.digest == row.digest && self.text_digest == row.text_digest && self.payload_digest == row.payload_digest
    }
}

impl Packed for DocumentState {
    fn pack(&self, out: &mut Vec<u8>) {
        put_text(&self.document_id, out);
        put_number(self.bytes, out);
        for digest in [&self.digest, &self.text_digest, &self.payload_digest] {
            put_digest(digest, out);
        }
        put_number(self.chunks, out);
        put_number(self.tokens, out);
        put_texts(&self.moved_from, out);
    }

    fn unpack(from: &mut &[u8]) -> Option<Self> {
        Some(Self {
            document_id: take_text(from)?,
            bytes: take_number(from)?,
            digest: take_digest(from)?,
            text_digest: take_digest(from)?,
            payload_digest: take_digest(from)?,
            chunks: take_number(from)?,
            tokens: take_number(from)?,
            moved_from: take_texts(from)?,
        })
    }
}
