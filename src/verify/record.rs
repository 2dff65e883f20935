//! What `regrow verify` leaves behind, so that `status` can tell when the repository was last read.

use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use super::report::VerifyReport;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::timed_id;
use crate::repository::{Repository, path};

/// `verifications/<id>.json`: one verification of the whole repository. Readers must expect further keys.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VerificationRecord {
    /// Id; sorts by time.
    pub id: String,
    /// When it began.
    pub started: jiff::Timestamp,
    /// Nothing damaged was found.
    pub ok: bool,
    /// `quick`, `subset` or `full`: how much was read.
    pub level: String,
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Objects looked at.
    pub objects: u64,
    /// Objects that were damaged or missing.
    pub damaged: u64,
    /// Version of regrow.
    pub tool_version: String,
}

/// Records a verification.
///
/// # Errors
/// `Denied` where the repository cannot be written; what the store fails with.
pub async fn record(repository: &Repository, report: &VerifyReport, started: jiff::Timestamp) -> Result<String> {
    let level = serde_json::to_value(report.level).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
    let record = VerificationRecord {
        id: timed_id(started),
        started,
        ok: report.ok,
        level,
        snapshots: report.snapshots,
        objects: report.objects,
        damaged: report.damaged.len() as u64,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    repository.put_json(&format!("{}/{}.json", path::VERIFICATIONS, record.id), &record).await?;
    Ok(record.id)
}

/// The newest record, if there is one.
///
/// # Errors
/// `Damaged` when it cannot be read.
pub async fn last_verification(repository: &Repository) -> Result<Option<VerificationRecord>> {
    let names: Vec<String> = repository.list(path::VERIFICATIONS).map_ok(|(name, ..)| name).try_collect().await?;
    match names.into_iter().max() {
        Some(name) => repository.get_json_optional(&name).await,
        None => Ok(None),
    }
}

/// Whether a failure to record is only that the repository cannot be written.
pub fn cannot_be_recorded(error: &Error) -> bool {
    crate::error::refused(error) || error.kind() == ErrorKind::StorageFull
}
