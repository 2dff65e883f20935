//! The repository's own copy of the documents.
//!
//! In the mode `copy` the bytes of every object of the corpus are captured, in the mode `text` every document as it was
//! extracted. What is captured is a sequence of blobs: up to 4 MiB are one blob, more is cut by content, so that a
//! record file that grew shares all but its end with what it was. A blob is named by the digest of its bytes and is
//! stored once, in a pack; packs hold many blobs, compressed in groups of about a megabyte, so that one blob can be had
//! without the whole pack. An index says which objects (or documents) there are and where their blobs are.
//!
//! Order of writing: packs, then the index, then the manifest, which alone makes them visible. Packs and index objects
//! are named by the digest of their bytes; nothing is ever overwritten.

mod blobs;
mod cut;
mod extract;
mod index;
mod order;
mod pack;
mod reader;
mod table;
mod tap;
mod writer;

#[cfg(test)]
mod tests;

pub use extract::{ExtractOptions, ExtractReport, extract};
pub use index::{BlobAt, CapturedObject, IndexReader};
pub(crate) use order::PackOrder;
pub(crate) use reader::CapturedReader;
pub use writer::CaptureTotals;
pub(crate) use writer::CaptureWriter;
