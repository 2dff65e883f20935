//! Which model exactly: cards, context, files.

mod context;

pub use context::{Architecture, Dtype, Metric, ModelContext, Pooling};
