//! Rows → the bytes of a part.

use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use super::schema::{PART_FORMAT, content_digest, part_schema, to_batch};
use super::{PartName, VectorRow};
use crate::error::Result;
use crate::ids::Digest;
use crate::repository::FileSeal;

/// Rows per row group: a reader that streams holds about this many.
const ROW_GROUP: usize = 8192;

/// Encodes the rows of a part as Parquet: zstd, byte-stream-split for the vectors, and the part's name,
/// fingerprints and content digest in the footer's key/value metadata. `seal` says how it is encrypted.
pub fn write_part(
    name: &PartName,
    rows: &[VectorRow],
    dimension: usize,
    model: &Digest,
    rules: &Digest,
    seal: &FileSeal,
) -> Result<Bytes> {
    let vector = ColumnPath::new(vec!["vector".into(), "list".into(), "item".into()]);
    let unique = |name: &str| ColumnPath::new(vec![name.into()]);
    let pair = |key: &str, value: String| KeyValue::new(format!("regrow.{key}"), value);
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_max_row_group_row_count(Some(ROW_GROUP))
        .set_created_by(format!("regrow {}", env!("CARGO_PKG_VERSION")))
        .set_column_dictionary_enabled(vector.clone(), false)
        .set_column_encoding(vector, Encoding::BYTE_STREAM_SPLIT)
        .set_key_value_metadata(Some(vec![
            pair("format", PART_FORMAT.to_string()),
            pair("part", name.to_string()),
            pair("model_fingerprint", model.to_string()),
            pair("rules_fingerprint", rules.to_string()),
            pair("content", content_digest(rows).to_hex().to_string()),
        ]));
    let seal = seal.begin()?;
    if let Some(encryption) = seal.properties() {
        properties = properties.with_file_encryption_properties(encryption);
    }
    for column in ["chunk_id", "text", "chunk_digest", "start", "end"] {
        properties = properties.set_column_dictionary_enabled(unique(column), false);
    }
    let mut writer = ArrowWriter::try_new(Vec::new(), part_schema(dimension), Some(properties.build()))?;
    for rows in rows.chunks(ROW_GROUP) {
        writer.write(&to_batch(rows, dimension)?)?;
    }
    seal.finish(writer.into_inner()?)
}
