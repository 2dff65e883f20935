//! Targets: the vector databases regrow writes to and reads from.
//!
//! One folder per database with the same file names in each; one conformance suite for all.

pub mod bench;
pub(crate) mod checks;
pub mod chroma;
#[doc(hidden)]
pub mod conformance;
mod connect;
mod contract;
#[cfg(feature = "edge")]
pub mod embedded;
mod filter;
mod grpc;
mod http;
pub(crate) mod load;
pub mod memory;
pub mod pgvector;
pub mod qdrant;
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
use crate::workspace::Variables;

/// Directory of the embedded database where the pipeline names none, relative to the pipeline file.
pub const DEFAULT_PATH: &str = "database";

/// Opens the target of a pipeline. A relative path is relative to `base`, the pipeline file's directory; `variables` looks
/// up environment variables that references to secrets name. Blocks while a file is read or a command gives a secret; a
/// server is connected to by the first call.
///
/// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) when this binary was built without the target;
/// [`ErrorKind::Target`](crate::ErrorKind::Target) when it cannot be opened.
pub fn open(settings: &TargetSettings, base: &Path, variables: &Variables, events: &Events) -> Result<Arc<dyn Target>> {
    match settings.kind {
        TargetKind::Memory => Ok(Arc::new(memory::MemoryTarget::new())),
        TargetKind::Embedded => open_embedded(&base.join(settings.path.as_deref().unwrap_or(DEFAULT_PATH)), events),
        TargetKind::Qdrant
        | TargetKind::Pgvector
        | TargetKind::Weaviate
        | TargetKind::Milvus
        | TargetKind::Chroma
        | TargetKind::Pinecone => open_server(settings, base, variables, events),
    }
}

/// A server, with tries for what may succeed later.
fn open_server(
    settings: &TargetSettings,
    base: &Path,
    variables: &Variables,
    events: &Events,
) -> Result<Arc<dyn Target>> {
    let connection = connect::Connection::resolve(settings, base, variables)?;
    let wrap = |target: Arc<dyn Target>| -> Arc<dyn Target> {
        Arc::new(wrappers::Retry::new(target, wrappers::RetryPolicy::default(), events.clone()))
    };
    match settings.kind {
        TargetKind::Pgvector => {
            Ok(wrap(Arc::new(pgvector::PgvectorTarget::new(&connection, settings, events.clone())?)))
        }
        TargetKind::Chroma => Ok(wrap(Arc::new(chroma::ChromaTarget::connect(connection, settings)?))),
        TargetKind::Qdrant => Ok(wrap(Arc::new(qdrant::QdrantTarget::connect(connection, settings)?))),
        // Each target has its line here, as its folder arrives.
        kind => Err(crate::Error::new(crate::ErrorKind::Configuration, "this regrow was built without this target")
            .with("target", kind.name())
            .with("server", connection.place())
            .guidance("choose another target.kind")),
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
