//! The record of a drill: one JSON document in the repository.

use futures::TryStreamExt;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::measure::Machine;
use crate::repository::{Repository, path};
use crate::restore::RestoreReport;
use crate::workspace::Workspace;

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

/// The record of a drill that ended in an error: no verdict could be made.
#[derive(Debug, Serialize)]
pub(super) struct DrillFailure {
    verb: &'static str,
    ok: bool,
    exit_code: u8,
    drill: String,
    pipeline: String,
    started: jiff::Timestamp,
    seconds: serde_json::Value,
    error: serde_json::Value,
    cleaned_up: bool,
    machine: Machine,
    tool_version: &'static str,
}

impl DrillFailure {
    pub(super) fn new(
        workspace: &Workspace,
        drill: String,
        started: jiff::Timestamp,
        seconds: f64,
        error: &Error,
        cleaned_up: bool,
    ) -> Self {
        Self {
            verb: "drill",
            ok: false,
            exit_code: error.exit_code(),
            drill,
            pipeline: workspace.pipeline.name.clone(),
            started,
            seconds: serde_json::json!({ "total": seconds }),
            error: serde_json::json!({
                "kind": error.kind().name(), "message": error.to_string(), "causes": error.causes(),
            }),
            cleaned_up,
            machine: Machine::here(),
            tool_version: env!("CARGO_PKG_VERSION"),
        }
    }

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
        records.push(repository.get_json(&name).await?);
    }
    Ok(records)
}
