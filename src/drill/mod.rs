//! `regrow drill`: a restore into a scratch collection, measured, validated, recorded, then deleted.

mod record;
mod run;

pub use record::{DrillReport, Objective, history};
pub use run::{DrillOptions, drill};
