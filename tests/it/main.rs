//! The integration tests: one binary. Each file is one concern; `common` runs the real `regrow` on real files
//! with the real model.

mod common;
mod resume;
