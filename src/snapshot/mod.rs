//! `regrow snapshot`: corpus → inventory → manifest.
//!
//! A snapshot builds on the previous one of its pipeline: documents of objects whose state has not changed are taken
//! over without being read. `base` says when that may be, `select` which documents and objects these are, `moved` where
//! new texts were before, `write` merges both into the inventory.

mod base;
mod canary;
mod cannot_restore;
mod intake;
mod listing;
mod moved;
mod report;
mod run;
mod select;
mod target;
#[cfg(test)]
pub(crate) mod tests;
mod write;

pub(crate) use base::skipped;
pub(crate) use canary::read_canaries;
pub(crate) use listing::Listed;
pub use moved::Changes;
pub use report::SnapshotReport;
pub use run::{SnapshotOptions, snapshot};
