//! Targets: the vector databases regrow writes to and reads from.
//!
//! One folder per database with the same file names in each; one conformance suite for all.

mod contract;
mod types;

pub use contract::{OwnedCollection, Target};
pub use types::*;
