//! What a snapshot did.

use serde::Serialize;

use super::moved::Changes;
use crate::capture::CaptureTotals;
use crate::ids::Digest;
use crate::measure::Seconds;
use crate::pipeline::CaptureMode;
use crate::repository::SkippedDocument;

/// Report of `regrow snapshot`.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotReport {
    /// Always `snapshot`.
    pub verb: &'static str,
    /// True when the snapshot is committed.
    pub ok: bool,
    /// Process exit code.
    pub exit_code: u8,
    /// Snapshot id.
    pub snapshot: String,
    /// The snapshot before it, of the same pipeline.
    pub previous: Option<String>,
    /// Words given to it.
    pub tags: Vec<String>,
    /// Repository.
    pub repository: String,
    /// Corpus.
    pub corpus: String,
    /// Objects listed.
    pub objects: u64,
    /// Objects read; the others are as the previous snapshot found them.
    pub objects_read: u64,
    /// Their size in bytes.
    pub bytes_read: u64,
    /// Documents in the inventory.
    pub documents: u64,
    /// How they compare with the previous snapshot.
    #[serde(flatten)]
    pub changes: Changes,
    /// Documents left out as bad.
    pub documents_skipped: u64,
    /// The first of them, by name.
    pub skipped: Vec<SkippedDocument>,
    /// Chunks.
    pub chunks: u64,
    /// Tokens in the chunks.
    pub tokens: u64,
    /// Bytes of the documents.
    pub bytes: u64,
    /// How documents are kept.
    pub capture: CaptureMode,
    /// What was captured; `None` in the mode `reference`.
    pub captured: Option<CaptureTotals>,
    /// Objects that changed while they were read, and were read again.
    pub objects_reread: u64,
    /// Objects that were deleted after they were listed and before they were read.
    pub objects_vanished: u64,
    /// Buckets that documents are spread over.
    pub buckets: u32,
    /// Canaries stored.
    pub canaries: u64,
    /// Golden queries whose results in the live collection were recorded.
    pub golden_queries: u64,
    /// Fingerprint of the model context.
    pub model_fingerprint: Digest,
    /// Fingerprint of the chunking rules.
    pub rules_fingerprint: Digest,
    /// Time per stage.
    pub seconds: Seconds,
    /// Most resident memory, in bytes.
    pub peak_rss_bytes: u64,
}
