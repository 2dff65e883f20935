//! `regrow diff`: what differs between two snapshots, or between a snapshot and the corpus as it is now.
//!
//! Both sides are taken bucket by bucket and documents matched by id; what has no counterpart is put aside by the
//! digest of its text, so that a moved document is told from a new one. Memory holds one bucket.

mod compare;
mod corpus;
mod exposure;
mod report;
mod settings;
mod snapshots;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use compare::{Compared, Verdict, compare};
pub(crate) use state::DocumentState;

pub use exposure::{Exposure, exposure};
pub use report::{DiffReport, Difference, DifferenceKind, Embedding, Side, Tally};

use crate::error::{Error, ErrorKind, Result};
use crate::repository::{Manifest, Repository};
use crate::workspace::Workspace;

/// What is compared, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiffOptions {
    /// `latest`, a snapshot id or the beginning of one. When absent: the last but one, and with `corpus` the latest.
    pub from: Option<String>,
    /// The same; the latest when absent.
    pub to: Option<String>,
    /// Compare with the corpus as it is now, rather than with another snapshot.
    pub corpus: bool,
    /// Read every document of the corpus, and say which texts changed.
    pub rehash: bool,
    /// Differences of each kind that are named; all are counted.
    pub limit: usize,
}

impl Default for DiffOptions {
    fn default() -> Self {
        Self { from: None, to: None, corpus: false, rehash: false, limit: 20 }
    }
}

/// Compares two snapshots of the repository, or a snapshot and the corpus.
///
/// # Errors
/// `NotFound` when there is no such snapshot or only one; `Damaged` when an inventory is; what the corpus fails with.
pub async fn diff(workspace: &Workspace, options: &DiffOptions) -> Result<DiffReport> {
    let repository = workspace.repository().await?;
    let name = Some(workspace.pipeline.name.as_str());
    if options.corpus {
        let wanted = options.from.as_deref().unwrap_or("latest");
        let manifest = Manifest::find(&repository, wanted, name).await?;
        return corpus::diff_corpus(workspace, &repository, &manifest, options).await;
    }
    let to = Manifest::find(&repository, options.to.as_deref().unwrap_or("latest"), name).await?;
    let from = match &options.from {
        Some(wanted) => Manifest::find(&repository, wanted, name).await?,
        None => before(&repository, &to).await?,
    };
    snapshots::diff_snapshots(workspace, &repository, &from, &to, options).await
}

/// The snapshot of the same pipeline before this one.
async fn before(repository: &Repository, to: &Manifest) -> Result<Manifest> {
    for id in Manifest::ids(repository).await?.into_iter().rev().filter(|id| *id < to.id) {
        let manifest = Manifest::read(repository, &id).await?;
        if manifest.pipeline == to.pipeline {
            return Ok(manifest);
        }
    }
    Err(Error::new(ErrorKind::NotFound, "there is no snapshot before this one")
        .with("snapshot", &to.id)
        .guidance("name two snapshots (`regrow list`), or compare with the corpus: `regrow diff --corpus`"))
}
