//! Vector sets: the Parquet output of a rebuild, one file per part.
//!
//! A part holds the chunks of one bucket of documents. Its name says what it is computed from
//! ([`PartKey`]), so a part that is there need not be computed again; its footer holds a digest of its
//! contents, so a damaged one is noticed before it is used.

mod part;
mod reader;
mod reuse;
mod row;
mod schema;
mod set;
mod writer;

pub use part::{PartInput, PartKey, PartName};
pub use reader::read_part;
pub(crate) use reuse::{MovedDocument, ReuseIndex};
pub use row::{VectorRow, VectorSource};
pub use schema::{PART_FORMAT, part_schema};
pub use set::{PartRef, StoredVectorSet, VectorSetRecord};
pub use writer::write_part;
