//! What copying will do, and what it did.

use serde::Serialize;
use serde_json::{Value, json};

use crate::error::Error;
use crate::verify::DamagedObject;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyMode {
    /// Copy what is missing.
    #[default]
    Copy,
    /// Say what would be copied.
    DryRun,
    /// Say how far each replica is behind.
    Check,
}

/// What became of one replica.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ReplicaReport {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// True when it has all that was to be there, as far as was looked.
    pub ok: bool,
    /// The repository was made by this run.
    pub created: bool,
    /// Why the replica was given up: kind, message, causes, next step.
    pub error: Option<Value>,
    /// Snapshots that were there.
    pub snapshots_there: u64,
    /// Snapshots that were not.
    pub snapshots_missing: Vec<String>,
    /// Snapshots that this run completed.
    pub snapshots_copied: Vec<String>,
    /// Seconds between the newest snapshot of the source and the newest one that was here; `None` where none was.
    pub behind_seconds: Option<f64>,
    /// Vector sets that were there.
    pub vector_sets_there: u64,
    /// Vector sets that were not.
    pub vector_sets_missing: u64,
    /// Vector sets that this run completed.
    pub vector_sets_copied: u64,
    /// Records of drills that this run copied.
    pub drills_copied: u64,
    /// Objects that were there, by name and size.
    pub objects_there: u64,
    /// Objects left by a copy that did not finish: they are read again before they count.
    pub objects_unproven: u64,
    /// Objects that were missing.
    pub objects_missing: u64,
    /// Their bytes.
    pub bytes_missing: u64,
    /// Objects that this run wrote.
    pub objects_copied: u64,
    /// Their bytes.
    pub bytes_copied: u64,
    /// Objects of the replica that are damaged. They are left alone: `repair --repository NAME` mends them.
    pub damaged: Vec<DamagedObject>,
    /// Snapshots and vector sets that were not completed, and why.
    pub withheld: Vec<String>,
    /// Key slots that the source does not have any more, and that still open the replica.
    pub extra_keys: Vec<String>,
}

/// Report of `regrow copy`.
#[derive(Debug, Clone, Serialize)]
pub struct CopyReport {
    /// Always `copy`.
    pub verb: &'static str,
    /// True when every replica has everything.
    pub ok: bool,
    /// Process exit code: 0; that of the first replica's error; 30 where something is damaged, or a checked replica is behind.
    pub exit_code: u8,
    /// What was asked for.
    pub mode: CopyMode,
    /// The repository that was read.
    pub source: String,
    /// Snapshots that were to be copied.
    pub snapshots: u64,
    /// Vector sets that were to be copied.
    pub vector_sets: u64,
    /// Objects of the source that are damaged, and so were not copied.
    pub damaged: Vec<DamagedObject>,
    /// The replicas.
    pub replicas: Vec<ReplicaReport>,
    /// Bytes read from the source.
    pub bytes_read: u64,
    /// Bytes written to all replicas.
    pub bytes_copied: u64,
    /// Seconds from start to end.
    pub seconds: f64,
}

/// An error as part of a report.
pub(crate) fn error_value(error: &Error) -> Value {
    json!({
        "kind": error.kind().name(), "message": error.to_string(), "causes": error.causes(), "next": error.next_step(),
    })
}
