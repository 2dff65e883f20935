//! Wrappers: the same trait around any target, instead of options inside every target.
//!
//! Order matters: `Retry` outermost, then `Limit`, so that waiting for another try holds no place.
#![deny(clippy::missing_trait_methods)]

pub mod dry_run;
pub mod limit;
pub mod retry;
pub mod unreliable;

pub use dry_run::{DryRun, Planned};
pub use limit::Limit;
pub use retry::{Retry, RetryPolicy};
pub use unreliable::Unreliable;
