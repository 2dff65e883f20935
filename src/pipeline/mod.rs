//! A pipeline: one TOML file that says which corpus, chunking, model, repository and target.

mod check;
mod load;
mod schema;
mod settings;
mod template;

pub use settings::*;
