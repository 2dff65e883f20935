//! Chunking rules: everything that determines the spans of a document's chunks.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::ids::{Digest, fingerprint};

/// Version of the splitter's algorithm. Any change that can move a span must raise it.
pub const SPLITTER_VERSION: u32 = 1;

/// The rules by which documents are cut; part of every snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkingRules {
    /// Version of the splitter, [`SPLITTER_VERSION`] when they were made.
    pub splitter_version: u32,
    /// Version of the text extraction (HTML to Markdown, front matter, encodings).
    pub extractor_version: u32,
    /// Unit of `size` and `overlap`: always `tokens`, special tokens not counted.
    pub unit: String,
    /// Most tokens in a chunk.
    pub size: u32,
    /// Most tokens that a chunk shares with the one before it.
    pub overlap: u32,
    /// Digest of the tokenizer's file.
    pub tokenizer: Digest,
}

impl ChunkingRules {
    /// The fingerprint that names these rules.
    pub fn fingerprint(&self) -> Result<Digest> {
        fingerprint("chunking-rules/1", self)
    }
}

/// A contiguous span of a document's text that gets one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Position in the document, from 0.
    pub ordinal: u32,
    /// First byte of the span.
    pub start: usize,
    /// One past the last byte of the span.
    pub end: usize,
    /// Tokens in the span, special tokens not counted.
    pub tokens: u32,
}
