//! Points in the protocol's words, both ways. A point's id is the chunk's: a UUID, whose order in Qdrant is that of its
//! bytes, so a scroll is in the order of chunk ids.
#![expect(deprecated, reason = "servers before 1.17 answer with the fields of before")]

use qdrant_client::qdrant as q;
use qdrant_client::qdrant::point_id::PointIdOptions;
use uuid::Uuid;

use super::payload;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::ChunkId;
use crate::targets::types::*;

pub(super) fn id_of(id: Uuid) -> q::PointId {
    q::PointId { point_id_options: Some(PointIdOptions::Uuid(id.to_string())) }
}

/// About what a point takes in a request.
pub(super) fn size(point: &Point) -> usize {
    fn of(value: &serde_json::Value) -> usize {
        match value {
            serde_json::Value::String(text) => text.len() + 8,
            serde_json::Value::Array(items) => items.iter().map(of).sum::<usize>() + 8,
            serde_json::Value::Object(fields) => fields.iter().map(|(key, v)| key.len() + 8 + of(v)).sum::<usize>() + 8,
            _ => 12,
        }
    }
    64 + 4 * point.vector.len() + point.payload.iter().map(|(key, v)| key.len() + 8 + of(v)).sum::<usize>()
}

/// A point as it is sent.
pub(super) fn to_proto(point: Point, vector_name: Option<&str>) -> q::PointStruct {
    let dense = q::vector::Vector::Dense(q::DenseVector { data: point.vector });
    let vector = q::Vector { vector: Some(dense), ..q::Vector::default() };
    let vectors = match vector_name {
        None => q::vectors::VectorsOptions::Vector(vector),
        Some(name) => {
            q::vectors::VectorsOptions::Vectors(q::NamedVectors { vectors: [(name.to_owned(), vector)].into() })
        }
    };
    q::PointStruct {
        id: Some(id_of(point.id.0)),
        payload: payload::encode(point.payload),
        vectors: Some(q::Vectors { vectors_options: Some(vectors) }),
    }
}

fn foreign(what: &str) -> Error {
    Error::new(ErrorKind::Target, format!("the collection holds {what} that regrow did not write"))
        .guidance("another tool wrote into this collection; remove that point, or restore into a new collection")
}

pub(super) fn chunk_id(id: Option<q::PointId>) -> Result<ChunkId> {
    match id.and_then(|id| id.point_id_options) {
        Some(PointIdOptions::Uuid(text)) => {
            Uuid::parse_str(&text).map(ChunkId).map_err(|e| foreign("a point id").with("id", text).because(e))
        }
        Some(PointIdOptions::Num(number)) => Err(foreign("a point with a number as its id").with("id", number)),
        None => Err(foreign("a point without id")),
    }
}

/// The vector of this name, or the only one.
fn dense(vectors: Option<q::VectorsOutput>, name: Option<&str>) -> Result<Vec<f32>> {
    let vector = match (vectors.and_then(|v| v.vectors_options), name) {
        (Some(q::vectors_output::VectorsOptions::Vector(vector)), None) => vector,
        (Some(q::vectors_output::VectorsOptions::Vectors(mut all)), name) => {
            all.vectors.remove(name.unwrap_or_default()).ok_or_else(|| foreign("a point without this vector"))?
        }
        _ => return Err(foreign("a point without vector")),
    };
    match vector.vector {
        Some(q::vector_output::Vector::Dense(dense)) => Ok(dense.data),
        Some(_) => Err(foreign("another kind of vector")),
        None if vector.indices.is_none() && vector.vectors_count.is_none() => Ok(vector.data),
        None => Err(foreign("another kind of vector")),
    }
}

/// A point with vector and payload.
pub(super) fn from_proto(point: q::RetrievedPoint, vector_name: Option<&str>) -> Result<Point> {
    Ok(Point {
        id: chunk_id(point.id)?,
        vector: dense(point.vectors, vector_name)?,
        payload: payload::decode(point.payload)?,
    })
}

pub(super) fn scored(point: q::ScoredPoint) -> Result<ScoredPoint> {
    Ok(ScoredPoint { id: chunk_id(point.id)?, score: point.score, payload: payload::decode(point.payload)? })
}

pub(super) fn with_payload(enable: bool) -> q::WithPayloadSelector {
    q::WithPayloadSelector { selector_options: Some(q::with_payload_selector::SelectorOptions::Enable(enable)) }
}

/// The one vector that regrow works with, of possibly several.
pub(super) fn with_vector(name: Option<&str>) -> q::WithVectorsSelector {
    let options = match name {
        None => q::with_vectors_selector::SelectorOptions::Enable(true),
        Some(name) => {
            q::with_vectors_selector::SelectorOptions::Include(q::VectorsSelector { names: vec![name.to_owned()] })
        }
    };
    q::WithVectorsSelector { selector_options: Some(options) }
}
