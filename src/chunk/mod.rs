//! How a document is cut into chunks, reproducibly.

mod rules;

pub use rules::{Chunk, ChunkingRules, SPLITTER_VERSION};
