//! `regrow snapshot`: corpus → inventory → manifest.

mod canary;
mod report;
mod run;

pub(crate) use canary::read_canaries;
pub use report::SnapshotReport;
pub(crate) use run::Listing;
pub use run::{SnapshotOptions, snapshot};
