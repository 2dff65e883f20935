//! Vector sets: the Parquet output of a rebuild, one file per part.

mod row;

pub use row::{VectorRow, VectorSource};
