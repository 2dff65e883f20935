//! `regrow restore`: manifest → chunks → vectors → parts → collection → index → verdict → promote.
//!
//! ```text
//!  source (read, check digests, cut, check chunks) → embed → write part ┐
//!  stored parts (read, check) ──────────────────────────────────────────┴→ load → index → validate → promote
//! ```
//!
//! The four stages run at once with one bucket in each; channels of one element between them bound the
//! memory, whatever the size of the corpus.

mod captured;
mod collection;
mod compute;
mod corpus_check;
mod load;
mod parts;
mod plan;
mod report;
mod rollback;
mod run;
mod source;

pub use corpus_check::CorpusDifference;
pub(crate) use parts::{Computed, compute_parts};
pub(crate) use plan::parts_of;
pub use plan::{PartPlan, Prepared, RestorePlan};
pub use report::{RestoreReport, TargetReport};
pub use rollback::{KeptCollection, Rollback, RollbackReport, rollback};
pub use run::{restore, run};

use crate::error::{Error, ErrorKind, Result};
use crate::repository::{Manifest, path};

/// What to do when a document is not what the snapshot recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnChanged {
    /// Finish the parts that are not affected, load nothing as production, and fail with the list.
    #[default]
    Fail,
    /// Restore without these documents, name and count them.
    Skip,
}

/// Where a restore takes the documents from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DocumentSource {
    /// The snapshot's own copies where it has them, else the corpus.
    #[default]
    Auto,
    /// The corpus.
    Corpus,
    /// The snapshot's own copies.
    Captured,
}

impl DocumentSource {
    /// Whether the documents of this snapshot come from its own copies.
    fn is_captured(self, manifest: &Manifest) -> Result<bool> {
        match (self, &manifest.captured) {
            (Self::Auto, captured) => Ok(captured.is_some()),
            (Self::Corpus, _) => Ok(false),
            (Self::Captured, Some(_)) => Ok(true),
            (Self::Captured, None) => {
                Err(Error::new(ErrorKind::Configuration, "this snapshot holds no copies of the documents")
                    .with("snapshot", &manifest.id)
                    .guidance("restore it from the corpus; capture.mode = \"copy\" makes the next snapshot hold them"))
            }
        }
    }
}

/// How a restore is done.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// `latest`, a snapshot id or the beginning of one.
    pub snapshot: String,
    /// What to do about documents that changed.
    pub on_changed: OnChanged,
    /// Where the documents come from.
    pub documents: DocumentSource,
    /// Use parts and vectors that are in the repository.
    pub reuse: bool,
    /// Build a new collection even if one with the same content is there.
    pub fresh: bool,
    /// Point the production name at the collection after a passing validation.
    pub promote: bool,
    /// Where the production name is a collection that regrow did not make, take it over and rename it.
    pub adopt: bool,
    /// Delete the collection that the production name pointed at before, if regrow made it.
    pub drop_previous: bool,
    /// Stop when every point is loaded: no index, no verdict, no promotion. For measurements.
    pub load_only: bool,
    /// Set for drills: the name of the scratch collection.
    pub scratch: Option<String>,
    /// Folder of the repository for parts: `vectors`, or a drill's own.
    pub parts_root: String,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self {
            snapshot: "latest".to_owned(),
            on_changed: OnChanged::Fail,
            documents: DocumentSource::Auto,
            reuse: true,
            fresh: false,
            promote: true,
            adopt: false,
            drop_previous: false,
            load_only: false,
            scratch: None,
            parts_root: path::VECTORS.to_owned(),
        }
    }
}
