//! The integration tests: one binary. Each file is one concern; `common` runs the real `regrow` on real files
//! with the real model.

mod bad_input;
mod capture;
mod chroma;
mod common;
mod damage;
mod encryption;
mod formats;
mod full_disk;
mod fuzz;
mod huge_listing;
mod incremental;
mod interrupt;
mod pgvector;
mod pipelines;
#[cfg(feature = "edge")]
mod qdrant;
mod random_ops;
mod records;
mod replicas;
mod reports;
mod resume;
mod retention;
mod servers;
mod service;
mod store_faults;
mod stores;
mod targets;
