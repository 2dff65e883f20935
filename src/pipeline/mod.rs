//! A pipeline: one TOML file that says which corpus, chunking, model, repository and target.

mod settings;

pub use settings::*;
