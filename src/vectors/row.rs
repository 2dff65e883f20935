//! One row of a part.

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::error::Result;
use crate::ids::{ChunkId, Digest};
use crate::targets::{Point, field};

/// A chunk with its vector and everything that goes into a point's payload.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorRow {
    /// Chunk id.
    pub chunk_id: ChunkId,
    /// Id of the document.
    pub document_id: String,
    /// Position in the document, from 0.
    pub ordinal: u32,
    /// First byte of the span in the document's text.
    pub start: u64,
    /// One past the last byte of the span.
    pub end: u64,
    /// The chunk's text.
    pub text: String,
    /// The document's title.
    pub title: Option<String>,
    /// The document's tenant.
    pub tenant: Option<String>,
    /// The document's acl.
    pub acl: Vec<String>,
    /// The document's metadata.
    pub metadata: Map<String, Value>,
    /// blake3 of the chunk's text.
    pub chunk_digest: Digest,
    /// The vector.
    pub vector: Vec<f32>,
}

impl VectorRow {
    /// The payload a target stores; optional fields are absent rather than null.
    pub fn payload(&self) -> Map<String, Value> {
        let mut payload = Map::new();
        payload.insert(field::DOCUMENT_ID.into(), self.document_id.clone().into());
        payload.insert(field::ORDINAL.into(), self.ordinal.into());
        payload.insert(field::START.into(), self.start.into());
        payload.insert(field::END.into(), self.end.into());
        payload.insert(field::TEXT.into(), self.text.clone().into());
        if let Some(title) = &self.title {
            payload.insert(field::TITLE.into(), title.clone().into());
        }
        if let Some(tenant) = &self.tenant {
            payload.insert(field::TENANT.into(), tenant.clone().into());
        }
        if !self.acl.is_empty() {
            payload.insert(field::ACL.into(), self.acl.clone().into());
        }
        if !self.metadata.is_empty() {
            payload.insert(field::METADATA.into(), Value::Object(self.metadata.clone()));
        }
        payload.insert(field::CHUNK_DIGEST.into(), self.chunk_digest.to_string().into());
        payload
    }

    /// The point a target stores.
    pub fn into_point(self) -> Point {
        Point { id: self.chunk_id, payload: self.payload(), vector: self.vector }
    }
}

/// Something that yields the rows of a vector set part by part; no more than one part is held at a time.
#[async_trait]
pub trait VectorSource: Send + Sync {
    /// Number of parts.
    fn parts(&self) -> usize;
    /// Total number of rows.
    fn rows(&self) -> u64;
    /// The rows of one part.
    async fn read(&self, part: usize) -> Result<Vec<VectorRow>>;
}
