//! Targets: the vector databases regrow writes to and reads from.
//!
//! One folder per database with the same file names in each; one conformance suite for all.

mod checks;
pub mod chroma;
#[doc(hidden)]
pub mod conformance;
mod contract;
#[cfg(feature = "edge")]
pub mod embedded;
mod filter;
pub mod memory;
mod score;
#[cfg(test)]
mod tests;
mod types;
pub mod wrappers;

use std::path::Path;
use std::sync::Arc;

pub use contract::{OwnedCollection, Target};
pub use types::*;

use crate::error::Result;
use crate::event::Events;
use crate::pipeline::{TargetKind, TargetSettings};

/// Directory of the embedded database where the pipeline names none, relative to the pipeline file.
pub const DEFAULT_PATH: &str = "database";

/// Opens the target of a pipeline. A relative path is relative to `base`, the pipeline file's directory.
///
/// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) when this binary was built without the target;
/// [`ErrorKind::Target`](crate::ErrorKind::Target) when it cannot be opened.
pub fn open(settings: &TargetSettings, base: &Path, events: &Events) -> Result<Arc<dyn Target>> {
    match settings.kind {
        TargetKind::Memory => Ok(Arc::new(memory::MemoryTarget::new())),
        TargetKind::Embedded => open_embedded(&base.join(settings.path.as_deref().unwrap_or(DEFAULT_PATH)), events),
    }
}

#[cfg(feature = "edge")]
fn open_embedded(path: &Path, events: &Events) -> Result<Arc<dyn Target>> {
    Ok(Arc::new(embedded::EmbeddedTarget::open(path, embedded::EmbeddedOptions::default(), events.clone())?))
}

#[cfg(not(feature = "edge"))]
fn open_embedded(path: &Path, _: &Events) -> Result<Arc<dyn Target>> {
    Err(crate::Error::new(crate::ErrorKind::Configuration, "this regrow was built without the embedded target")
        .with("path", path.display())
        .guidance("build it with `--features edge` (a default feature), or choose another target"))
}
