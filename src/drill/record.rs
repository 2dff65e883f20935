//! The record of a drill: one JSON document in the repository.

use futures::TryStreamExt;
use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::measure::Machine;
use crate::repository::{Repository, path};
use crate::restore::RestoreReport;

/// An objective and what was measured against it.
#[derive(Debug, Clone, Serialize)]
pub struct Objective {
    /// `rto_seconds` or `rpo_seconds`.
    pub name: &'static str,
    /// Measured, in seconds.
    pub measured: f64,
    /// Allowed, in seconds; absent when the pipeline sets none.
    pub allowed: Option<f64>,
    /// Whether it was reached; true when none is set.
    pub reached: bool,
}

/// Report of a drill; also its record.
#[derive(Debug, Clone, Serialize)]
pub struct DrillReport {
    /// The restore's report, its fields at the top level; `verb` is `drill`.
    #[serde(flatten)]
    pub restore: RestoreReport,
    /// Drill id; sorts by time.
    pub drill: String,
    /// Pipeline.
    pub pipeline: String,
    /// When it began.
    pub started: jiff::Timestamp,
    /// RTO and RPO.
    pub objectives: Vec<Objective>,
    /// The scratch collection and everything written for it are gone.
    pub cleaned_up: bool,
    /// The machine class.
    pub machine: Machine,
    /// Version of regrow.
    pub tool_version: &'static str,
}

impl DrillReport {
    pub(super) async fn store(&self, repository: &Repository) -> Result<()> {
        repository.put_json(&path::drill(&self.drill), self).await.map(drop)
    }
}

/// Records of earlier drills, oldest first. An unreadable record is an error naming it.
pub async fn history(repository: &Repository) -> Result<Vec<serde_json::Value>> {
    let mut names: Vec<String> = repository.list(path::DRILLS).map_ok(|(name, ..)| name).try_collect().await?;
    // A running drill keeps its parts below the same folder.
    names.retain(|name| name.ends_with(".json") && name.matches('/').count() == 1);
    names.sort();
    let mut records = Vec::with_capacity(names.len());
    for name in names {
        let bytes = repository.get(&name).await?;
        records.push(serde_json::from_slice(&bytes).map_err(|e| {
            Error::new(ErrorKind::Damaged, "the record of a drill is damaged").with("object", &name).because(e)
        })?);
    }
    Ok(records)
}
