//! The integration tests: one binary. Each file is one concern; `common` runs the real `regrow` on real files
//! with the real model.

mod bad_input;
mod common;
mod damage;
mod formats;
mod full_disk;
mod fuzz;
mod huge_listing;
mod interrupt;
mod pipelines;
mod random_ops;
mod records;
mod reports;
mod resume;
mod service;
