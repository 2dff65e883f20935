//! regrow rebuilds a vector database from its source corpus.
//!
//! The corpus is the backup; vectors, collection and index are derived. See `ARCHITECTURE.md`.
#![deny(unsafe_code)] // allowed in `embed::kernels` only
#![warn(missing_docs, unreachable_pub)]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro))]

mod aside;
pub mod cancel;
pub mod capture;
pub mod chunk;
pub mod copy;
pub mod corpus;
pub mod diff;
pub mod drill;
pub mod embed;
pub mod error;
pub mod event;
pub mod faults;
mod guard;
pub mod ids;
mod ingest;
pub mod measure;
pub mod model;
pub mod pipeline;
pub mod query;
pub mod repair;
mod replica;
pub mod repository;
pub mod restore;
pub mod retention;
pub mod secret;
pub mod snapshot;
mod spill;
pub mod status;
pub mod store;
pub mod targets;
#[cfg(test)]
mod testing;
pub mod validate;
pub mod vectors;
pub mod verify;
mod workspace;

pub use error::{Error, ErrorKind, Result};
pub use workspace::{Variables, Workspace};
