//! What a restore did.

use serde::Serialize;

use super::CorpusDifference;
use crate::measure::Seconds;
use crate::validate::Check;

/// Where the vectors went.
#[derive(Debug, Clone, Serialize)]
pub struct TargetReport {
    /// Target kind.
    pub kind: &'static str,
    /// Physical name of the collection.
    pub collection: String,
    /// Production name, when it points at the collection now.
    pub promoted: Option<String>,
    /// The collection it pointed at before.
    pub previous: Option<String>,
    /// Exact number of points.
    pub count: u64,
    /// The collection was there already, complete.
    pub reused: bool,
}

/// Report of `regrow restore`, and the middle of a drill's.
#[derive(Debug, Clone, Serialize)]
pub struct RestoreReport {
    /// `restore` or `drill`.
    pub verb: &'static str,
    /// True when every check passed.
    pub ok: bool,
    /// Process exit code.
    pub exit_code: u8,
    /// Snapshot.
    pub snapshot: String,
    /// Documents restored.
    pub documents: u64,
    /// Documents left out: bad ones at snapshot time, and changed ones where the restore was told to go on.
    pub documents_skipped: u64,
    /// Those that changed since the snapshot (the first thousand).
    pub differences: Vec<CorpusDifference>,
    /// Chunks in the vector set.
    pub chunks: u64,
    /// Chunks whose vector was computed in this run.
    pub chunks_embedded: u64,
    /// Chunks whose vector was there already, in whole parts or by chunk digest.
    pub chunks_reused: u64,
    /// Tokens embedded in this run, special tokens included.
    pub tokens: u64,
    /// Parts in the vector set.
    pub parts: u64,
    /// Parts that were there already.
    pub parts_reused: u64,
    /// Parts loaded into the collection in this run.
    pub parts_loaded: u64,
    /// Id of the vector set.
    pub vector_set: String,
    /// Time per stage.
    pub seconds: Seconds,
    /// Most resident memory, in bytes.
    pub peak_rss_bytes: u64,
    /// Where the vectors went.
    pub target: TargetReport,
    /// What the target cannot express of the collection as it was, or as the pipeline wants it.
    pub unsupported: Vec<String>,
    /// The verdict's checks.
    pub checks: Vec<Check>,
    /// Search latency seen while validating.
    pub latency: serde_json::Value,
}
