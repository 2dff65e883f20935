//! The corpus: where documents come from, text from bytes, what is wrong with a document.
//!
//! [`Corpus::list`] yields the source objects, [`Corpus::read`] the documents of one object.
//! A document that cannot be read is an [`ErrorKind::BadDocument`](crate::ErrorKind::BadDocument)
//! error in that stream, naming the object and the line; the documents after it still come.

mod document;

pub use document::{Document, SourceObject, TextFormat};
