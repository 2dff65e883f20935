//! What goes, and when: rules for snapshots, `forget`, and `prune`.
//!
//! `forget` removes manifests: with its manifest a snapshot is gone, and what it needed is not. `prune` removes what
//! nothing refers to any more, after a grace. Either can be interrupted anywhere and run again.

mod catalog;
mod forget;
mod marks;
mod policy;
mod prune;
mod references;
mod span;
#[cfg(test)]
mod world;

pub use forget::{ForgetOptions, ForgetReport, Kept, Removed, Unreadable, forget};
pub use policy::{Decision, Group, Interval, Rule, SnapshotInfo, decide, preset, rules, within};
pub use prune::{Amount, DEFAULT_GRACE, PruneOptions, PruneReport, prune};
pub use span::{parse_span, span_text};
