//! Columns of a part, and the conversion between rows and columns.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, FixedSizeListArray, Float32Array, ListArray, ListBuilder, RecordBatch, StringArray, StringBuilder,
    UInt32Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::{Map, Value};

use super::row::VectorRow;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::ChunkId;

/// Version of the part format.
pub const PART_FORMAT: u32 = 1;

/// The columns of a part; `vector` is a fixed-size list of `dimension` 32-bit floats. Ids and digests are
/// text, metadata is JSON text, so that any Parquet reader shows them as they are.
pub fn part_schema(dimension: usize) -> SchemaRef {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    Arc::new(Schema::new(vec![
        text("chunk_id", false),
        text("document_id", false),
        Field::new("ordinal", DataType::UInt32, false),
        Field::new("start", DataType::UInt64, false),
        Field::new("end", DataType::UInt64, false),
        text("text", false),
        text("title", true),
        text("tenant", true),
        Field::new_list("acl", Field::new("item", DataType::Utf8, true), false),
        text("metadata", false),
        text("chunk_digest", false),
        Field::new_fixed_size_list("vector", Field::new("item", DataType::Float32, false), dimension as i32, false),
    ]))
}

pub(super) fn to_batch(rows: &[VectorRow], dimension: usize) -> Result<RecordBatch> {
    let mut acl = ListBuilder::new(StringBuilder::new());
    let mut vectors = Vec::with_capacity(rows.len() * dimension);
    for row in rows {
        for entry in &row.acl {
            acl.values().append_value(entry);
        }
        acl.append(true);
        if row.vector.len() != dimension {
            return Err(Error::new(ErrorKind::ModelMismatch, "a vector has the wrong dimension")
                .with("chunk", row.chunk_id)
                .with("expected", dimension)
                .with("found", row.vector.len()));
        }
        vectors.extend_from_slice(&row.vector);
    }
    let metadata = |row: &VectorRow| serde_json::to_string(&row.metadata).unwrap_or_else(|_| "{}".to_owned());
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.chunk_id.to_string()))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.document_id))),
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|r| r.ordinal))),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|r| r.start))),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|r| r.end))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.text))),
        Arc::new(StringArray::from_iter(rows.iter().map(|r| r.title.as_ref()))),
        Arc::new(StringArray::from_iter(rows.iter().map(|r| r.tenant.as_ref()))),
        Arc::new(acl.finish()),
        Arc::new(StringArray::from_iter_values(rows.iter().map(metadata))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.chunk_digest.to_string()))),
        Arc::new(FixedSizeListArray::try_new(item, dimension as i32, Arc::new(Float32Array::from(vectors)), None)?),
    ];
    Ok(RecordBatch::try_new(part_schema(dimension), columns)?)
}

fn column<'a, T: 'static>(batch: &'a RecordBatch, name: &str) -> Result<&'a T> {
    batch.column_by_name(name).and_then(|c| c.as_any().downcast_ref::<T>()).ok_or_else(|| {
        Error::new(ErrorKind::Damaged, "the part lacks a column or has it in another type").with("column", name)
    })
}

pub(super) fn from_batch(batch: &RecordBatch, out: &mut Vec<VectorRow>) -> Result<()> {
    let text = |name| column::<StringArray>(batch, name);
    let (ids, documents) = (text("chunk_id")?, text("document_id")?);
    let ordinals = column::<UInt32Array>(batch, "ordinal")?;
    let (starts, ends) = (column::<UInt64Array>(batch, "start")?, column::<UInt64Array>(batch, "end")?);
    let (texts, titles, tenants) = (text("text")?, text("title")?, text("tenant")?);
    let acls = column::<ListArray>(batch, "acl")?;
    let (metadata, digests) = (text("metadata")?, text("chunk_digest")?);
    let vectors = column::<FixedSizeListArray>(batch, "vector")?;
    let floats = vectors
        .values()
        .as_any()
        .downcast_ref::<Float32Array>()
        .ok_or_else(|| Error::new(ErrorKind::Damaged, "the part's vectors are not 32-bit floats"))?;
    let dimension = vectors.value_length() as usize;
    let optional = |c: &StringArray, i| (!c.is_null(i)).then(|| c.value(i).to_owned());
    out.reserve(batch.num_rows());
    for i in 0..batch.num_rows() {
        let bad = |what: &'static str| {
            Error::new(ErrorKind::Damaged, "a row of the part is unreadable").with("column", what).with("row", i)
        };
        let acl = acls.value(i);
        let acl = acl.as_any().downcast_ref::<StringArray>().ok_or_else(|| bad("acl"))?;
        let metadata: Map<String, Value> = serde_json::from_str(metadata.value(i)).map_err(|_| bad("metadata"))?;
        out.push(VectorRow {
            chunk_id: ChunkId(ids.value(i).parse().map_err(|_| bad("chunk_id"))?),
            document_id: documents.value(i).to_owned(),
            ordinal: ordinals.value(i),
            start: starts.value(i),
            end: ends.value(i),
            text: texts.value(i).to_owned(),
            title: optional(titles, i),
            tenant: optional(tenants, i),
            acl: acl.iter().flatten().map(str::to_owned).collect(),
            metadata,
            chunk_digest: digests.value(i).parse().map_err(|_| bad("chunk_digest"))?,
            vector: floats.values()[i * dimension..(i + 1) * dimension].to_vec(),
        });
    }
    Ok(())
}

/// Digest over everything in the rows; kept in the part's footer.
pub(super) fn content_digest(rows: &[VectorRow]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let mut text = |s: &str| {
        hasher.update(&(s.len() as u64).to_le_bytes());
        hasher.update(s.as_bytes());
    };
    for row in rows {
        text(&row.document_id);
        text(&row.text);
        text(row.title.as_deref().unwrap_or("\u{0}"));
        text(row.tenant.as_deref().unwrap_or("\u{0}"));
        text(&row.acl.join("\u{0}"));
        text(&serde_json::to_string(&row.metadata).unwrap_or_default());
    }
    for row in rows {
        hasher.update(row.chunk_id.0.as_bytes());
        hasher.update(row.chunk_digest.as_bytes());
        hasher.update(&row.ordinal.to_le_bytes());
        hasher.update(&row.start.to_le_bytes());
        hasher.update(&row.end.to_le_bytes());
        hasher.update(bytemuck::cast_slice(&row.vector));
    }
    hasher.finalize()
}
