//! Which model exactly: cards, context, files.

mod builtin;
mod card;
mod context;
mod files;
mod pins;
mod sources;
mod staging;
mod store;

pub use card::{CardFile, ModelCard, Service, Source};
pub use context::{Architecture, Dtype, Metric, ModelContext, Pooling};
pub use files::{FileDigest, ModelFiles};
pub use store::{DEFAULT_HUB, FetchOptions, ModelStore};
