//! The inventory: one row per document, in bucket order, one Parquet row group per bucket.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, FixedSizeBinaryArray, FixedSizeBinaryBuilder, Int64Array, ListArray, ListBuilder, RecordBatch,
    StringArray, StringBuilder, UInt32Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};

use super::file_seal::{FileSeal, FileWriterSeal};
use super::layout::path;
use super::manifest::{Manifest, ObjectRef};
use super::seal::guarded;
use super::store::Repository;
use crate::corpus::{Document, SourceObject};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Digest, fingerprint};

/// What the inventory knows of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentRow {
    /// Document id.
    pub document_id: String,
    /// The object that holds it.
    pub object: SourceObject,
    /// Line or row in a record file, from 1; `None` when the document is the whole object.
    pub line: Option<u64>,
    /// Size of the document as stored.
    pub bytes: u64,
    /// Digest of the document as stored.
    pub digest: Digest,
    /// Digest of the text that is chunked.
    pub text_digest: Digest,
    /// Digest of title, tenant, acl and metadata.
    pub payload_digest: Digest,
    /// Tenant.
    pub tenant: Option<String>,
    /// Acl.
    pub acl: Vec<String>,
    /// Metadata as JSON text.
    pub metadata: String,
    /// Number of chunks.
    pub chunks: u32,
    /// Tokens in the chunks.
    pub tokens: u64,
    /// Digest over spans and digests of the chunks: proves that a restore cut the same ones.
    pub chunk_digest: Digest,
    /// Ids under which documents with the same text were known before, newest first: their vectors are this one's.
    #[serde(default)]
    pub moved_from: Vec<String>,
}

/// What comparing two inventories needs of a document: a row without what is only carried along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentBrief {
    /// Document id.
    pub document_id: String,
    /// The object that holds it.
    pub object: SourceObject,
    /// Line or row in a record file, from 1; `None` when the document is the whole object.
    pub line: Option<u64>,
    /// Size of the document as stored.
    pub bytes: u64,
    /// Digest of the document as stored.
    pub digest: Digest,
    /// Digest of the text that is chunked.
    pub text_digest: Digest,
    /// Digest of title, tenant, acl and metadata.
    pub payload_digest: Digest,
    /// Number of chunks.
    pub chunks: u32,
    /// Tokens in the chunks.
    pub tokens: u64,
    /// Ids under which documents with the same text were known before, newest first.
    pub moved_from: Vec<String>,
}

/// Columns of a [`DocumentBrief`], and the bucket that finds them.
const BRIEF: [&str; 15] = [
    "document_id",
    "path",
    "line",
    "object_bytes",
    "modified",
    "etag",
    "version",
    "bytes",
    "digest",
    "text_digest",
    "payload_digest",
    "chunks",
    "tokens",
    "moved_from",
    "bucket",
];

/// Digest of everything besides the text that a document's points carry.
pub fn payload_digest(document: &Document) -> Result<Digest> {
    fingerprint("document-payload/1", &(&document.title, &document.tenant, &document.acl, &document.metadata))
}

fn schema() -> SchemaRef {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let digest = |name: &str| Field::new(name, DataType::FixedSizeBinary(32), false);
    Arc::new(Schema::new(vec![
        text("document_id", false),
        text("path", false),
        Field::new("line", DataType::UInt64, true),
        Field::new("object_bytes", DataType::UInt64, false),
        Field::new("modified", DataType::Int64, false),
        text("etag", true),
        text("version", true),
        Field::new("bytes", DataType::UInt64, false),
        digest("digest"),
        digest("text_digest"),
        digest("payload_digest"),
        text("tenant", true),
        Field::new_list("acl", Field::new("item", DataType::Utf8, true), false),
        text("metadata", false),
        Field::new("chunks", DataType::UInt32, false),
        Field::new("tokens", DataType::UInt64, false),
        digest("chunk_digest"),
        Field::new_list("moved_from", Field::new("item", DataType::Utf8, true), false),
        Field::new("bucket", DataType::UInt32, false),
    ]))
}

fn digests<'a>(values: impl Iterator<Item = &'a Digest>) -> Result<ArrayRef> {
    let mut builder = FixedSizeBinaryBuilder::new(32);
    for digest in values {
        builder.append_value(digest.as_bytes())?;
    }
    Ok(Arc::new(builder.finish()))
}

fn lists<'a>(values: impl Iterator<Item = &'a Vec<String>>) -> ArrayRef {
    let mut builder = ListBuilder::new(StringBuilder::new());
    for entries in values {
        entries.iter().for_each(|entry| builder.values().append_value(entry));
        builder.append(true);
    }
    Arc::new(builder.finish())
}

fn list_at(column: &ListArray, row: usize) -> Result<Vec<String>> {
    let entries = column.value(row);
    let entries = entries
        .as_any()
        .downcast_ref::<StringArray>()
        .ok_or_else(|| Error::new(ErrorKind::Damaged, "a list of the inventory is not text"))?;
    Ok(entries.iter().flatten().map(str::to_owned).collect())
}

fn to_batch(rows: &[DocumentRow], bucket: u32) -> Result<RecordBatch> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.document_id))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.object.path))),
        Arc::new(UInt64Array::from_iter(rows.iter().map(|r| r.line))),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|r| r.object.size))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.object.modified))),
        Arc::new(StringArray::from_iter(rows.iter().map(|r| r.object.etag.as_ref()))),
        Arc::new(StringArray::from_iter(rows.iter().map(|r| r.object.version.as_ref()))),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|r| r.bytes))),
        digests(rows.iter().map(|r| &r.digest))?,
        digests(rows.iter().map(|r| &r.text_digest))?,
        digests(rows.iter().map(|r| &r.payload_digest))?,
        Arc::new(StringArray::from_iter(rows.iter().map(|r| r.tenant.as_ref()))),
        lists(rows.iter().map(|r| &r.acl)),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.metadata))),
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|r| r.chunks))),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|r| r.tokens))),
        digests(rows.iter().map(|r| &r.chunk_digest))?,
        lists(rows.iter().map(|r| &r.moved_from)),
        Arc::new(UInt32Array::from_value(bucket, rows.len())),
    ];
    Ok(RecordBatch::try_new(schema(), columns)?)
}

fn column<'a, T: 'static>(batch: &'a RecordBatch, name: &str) -> Result<&'a T> {
    batch.column_by_name(name).and_then(|c| c.as_any().downcast_ref::<T>()).ok_or_else(|| {
        Error::new(ErrorKind::Damaged, "the inventory lacks a column or has it in another type").with("column", name)
    })
}

fn digest_at(column: &FixedSizeBinaryArray, row: usize) -> Result<Digest> {
    let bytes = column.value(row).try_into();
    Ok(Digest::from_bytes(bytes.map_err(|_| Error::new(ErrorKind::Damaged, "a digest has the wrong length"))?))
}

fn briefs(batch: &RecordBatch) -> Result<Vec<DocumentBrief>> {
    let text = |name| column::<StringArray>(batch, name);
    let optional = |c: &StringArray, i| (!c.is_null(i)).then(|| c.value(i).to_owned());
    let (ids, paths, lines) = (text("document_id")?, text("path")?, column::<UInt64Array>(batch, "line")?);
    let (sizes, modified) = (column::<UInt64Array>(batch, "object_bytes")?, column::<Int64Array>(batch, "modified")?);
    let (etags, versions) = (text("etag")?, text("version")?);
    let bytes = column::<UInt64Array>(batch, "bytes")?;
    let digests = column::<FixedSizeBinaryArray>(batch, "digest")?;
    let text_digests = column::<FixedSizeBinaryArray>(batch, "text_digest")?;
    let payload_digests = column::<FixedSizeBinaryArray>(batch, "payload_digest")?;
    // Format 1 has no such column.
    let moved = batch.column_by_name("moved_from").map(|_| column::<ListArray>(batch, "moved_from")).transpose()?;
    let (chunks, tokens) = (column::<UInt32Array>(batch, "chunks")?, column::<UInt64Array>(batch, "tokens")?);
    let mut rows = Vec::with_capacity(batch.num_rows());
    for i in 0..batch.num_rows() {
        rows.push(DocumentBrief {
            document_id: ids.value(i).to_owned(),
            object: SourceObject {
                path: paths.value(i).to_owned(),
                size: sizes.value(i),
                modified: modified.value(i),
                etag: optional(etags, i),
                version: optional(versions, i),
            },
            line: (!lines.is_null(i)).then(|| lines.value(i)),
            bytes: bytes.value(i),
            digest: digest_at(digests, i)?,
            text_digest: digest_at(text_digests, i)?,
            payload_digest: digest_at(payload_digests, i)?,
            chunks: chunks.value(i),
            tokens: tokens.value(i),
            moved_from: moved.map(|column| list_at(column, i)).transpose()?.unwrap_or_default(),
        });
    }
    Ok(rows)
}

fn from_batch(batch: &RecordBatch) -> Result<Vec<DocumentRow>> {
    let text = |name| column::<StringArray>(batch, name);
    let (tenants, metadata) = (text("tenant")?, text("metadata")?);
    let acl = column::<ListArray>(batch, "acl")?;
    let chunk_digests = column::<FixedSizeBinaryArray>(batch, "chunk_digest")?;
    let mut rows = Vec::with_capacity(batch.num_rows());
    for (i, brief) in briefs(batch)?.into_iter().enumerate() {
        rows.push(DocumentRow {
            document_id: brief.document_id,
            object: brief.object,
            line: brief.line,
            bytes: brief.bytes,
            digest: brief.digest,
            text_digest: brief.text_digest,
            payload_digest: brief.payload_digest,
            tenant: (!tenants.is_null(i)).then(|| tenants.value(i).to_owned()),
            acl: list_at(acl, i)?,
            metadata: metadata.value(i).to_owned(),
            chunks: brief.chunks,
            tokens: brief.tokens,
            chunk_digest: digest_at(chunk_digests, i)?,
            moved_from: brief.moved_from,
        });
    }
    Ok(rows)
}

/// An inventory object holds a fixed group of 2^2 buckets, so that the next snapshot shares the objects of the
/// groups in which nothing changed.
pub(crate) const GROUP_BITS: u8 = 2;
/// Size at which an object is closed before its group is complete.
const OBJECT_BYTES: usize = 32 << 20;
/// Buckets after which it is closed in any case: an encrypted file has at most 32,767 row groups.
const ROW_GROUPS: u32 = 16_384;

/// Writes an inventory bucket by bucket, in ascending order.
pub struct InventoryWriter<'a> {
    repository: &'a Repository,
    objects: Vec<ObjectRef>,
    open: Option<(ArrowWriter<Vec<u8>>, u32, u32, u64)>,
    seal: Option<FileWriterSeal>,
}

impl<'a> InventoryWriter<'a> {
    /// An inventory for a snapshot that is being taken.
    pub fn new(repository: &'a Repository) -> Self {
        Self { repository, objects: Vec::new(), open: None, seal: None }
    }

    /// Adds the documents of one bucket, sorted by id.
    pub async fn bucket(&mut self, bucket: u32, rows: &[DocumentRow]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        if self.open.as_ref().is_some_and(|(_, first, ..)| first >> GROUP_BITS != bucket >> GROUP_BITS) {
            self.close().await?;
        }
        let (mut writer, first, mut count) = match self.open.take() {
            Some((writer, first, _, count)) => (writer, first, count),
            None => {
                let mut properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
                    .set_max_row_group_row_count(None);
                let seal = self.repository.file_seal(path::INVENTORIES)?.begin()?;
                if let Some(encryption) = seal.properties() {
                    properties = properties.with_file_encryption_properties(encryption);
                }
                self.seal = Some(seal);
                (ArrowWriter::try_new(Vec::new(), schema(), Some(properties.build()))?, bucket, 0)
            }
        };
        writer.write(&to_batch(rows, bucket)?)?;
        writer.flush()?;
        count += rows.len() as u64;
        let written = writer.bytes_written();
        self.open = Some((writer, first, bucket, count));
        if written >= OBJECT_BYTES || bucket - first >= ROW_GROUPS {
            self.close().await?;
        }
        Ok(())
    }

    /// Takes an object of an earlier inventory as it is, in place of its buckets.
    pub(crate) async fn share(&mut self, object: ObjectRef) -> Result<()> {
        self.close().await?;
        self.objects.push(object);
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        let Some((writer, first, last, rows)) = self.open.take() else { return Ok(()) };
        let bytes = match self.seal.take() {
            Some(seal) => seal.finish(writer.into_inner()?)?,
            None => writer.into_inner()?.into(),
        };
        let mut object = self.repository.put_content(path::INVENTORIES, "parquet", bytes).await?;
        object.rows = Some(rows);
        object.buckets = Some((first, last));
        self.objects.push(object);
        Ok(())
    }

    /// Closes the last object; returns all of them.
    pub async fn finish(mut self) -> Result<Vec<ObjectRef>> {
        self.close().await?;
        Ok(self.objects)
    }
}

/// Reads an inventory bucket by bucket, holding one object at a time.
pub struct InventoryReader<'a> {
    repository: &'a Repository,
    objects: &'a [ObjectRef],
    loaded: Option<(usize, Bytes)>,
}

impl<'a> InventoryReader<'a> {
    /// The inventory of a snapshot.
    pub fn new(repository: &'a Repository, manifest: &'a Manifest) -> Self {
        Self::over(repository, &manifest.inventory)
    }

    /// Some objects of an inventory.
    pub(crate) fn over(repository: &'a Repository, objects: &'a [ObjectRef]) -> Self {
        Self { repository, objects, loaded: None }
    }

    /// The documents of one bucket; cheapest in ascending order.
    pub async fn bucket(&mut self, bucket: u32) -> Result<Vec<DocumentRow>> {
        self.read(bucket, None, from_batch).await
    }

    /// As [`Self::bucket`], without reading the columns that a comparison does not need.
    pub async fn brief(&mut self, bucket: u32) -> Result<Vec<DocumentBrief>> {
        self.read(bucket, Some(&BRIEF), briefs).await
    }

    async fn read<T>(
        &mut self,
        bucket: u32,
        columns: Option<&[&str]>,
        rows_of: fn(&RecordBatch) -> Result<Vec<T>>,
    ) -> Result<Vec<T>> {
        let Some(index) = self.objects.iter().position(|o| o.buckets.is_some_and(|(a, b)| (a..=b).contains(&bucket)))
        else {
            return Ok(Vec::new());
        };
        let bytes = match &self.loaded {
            Some((i, bytes)) if *i == index => bytes.clone(),
            _ => {
                let bytes = self.repository.get_checked(&self.objects[index]).await?;
                self.loaded = Some((index, bytes.clone()));
                bytes
            }
        };
        let seal = self.repository.file_seal(path::INVENTORIES)?;
        guarded(|| read_columns(&seal, bytes, bucket, columns, rows_of))
            .map_err(|e| e.with("object", &self.objects[index].path))
    }
}

/// The documents of one bucket from the bytes of its object.
#[cfg(test)]
pub(super) fn read_bucket(seal: &FileSeal, bytes: Bytes, bucket: u32) -> Result<Vec<DocumentRow>> {
    read_columns(seal, bytes, bucket, None, from_batch)
}

fn read_columns<T>(
    seal: &FileSeal,
    bytes: Bytes,
    bucket: u32,
    columns: Option<&[&str]>,
    rows_of: fn(&RecordBatch) -> Result<Vec<T>>,
) -> Result<Vec<T>> {
    let builder = seal.reader(bytes)?;
    // One row group per bucket: the bucket column's statistics find it.
    let position = builder.schema().index_of("bucket")?;
    let leaf = builder
        .parquet_schema()
        .columns()
        .iter()
        .position(|c| c.path().parts().first().is_some_and(|p| p == "bucket"))
        .unwrap_or(position);
    let groups: Vec<usize> = (0..builder.metadata().num_row_groups())
        .filter(|&g| {
            use parquet::file::statistics::Statistics;
            match builder.metadata().row_group(g).column(leaf).statistics() {
                Some(Statistics::Int32(s)) => s.min_opt().is_none_or(|min| *min as u32 == bucket),
                _ => true,
            }
        })
        .collect();
    let mask = match columns {
        Some(columns) => ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied()),
        None => ProjectionMask::all(),
    };
    let builder = builder.with_projection(mask);
    let reader = builder.with_row_groups(groups).with_batch_size(8192).build()?;
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch?;
        if column::<UInt32Array>(&batch, "bucket")?.values().first() == Some(&bucket) {
            rows.extend(rows_of(&batch)?);
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(i: u32) -> DocumentRow {
        DocumentRow {
            document_id: format!("d{i:04}"),
            object: SourceObject {
                path: format!("a/{i}.md"),
                size: u64::from(i),
                modified: -5,
                etag: i.is_multiple_of(2).then(|| "e".to_owned()),
                version: None,
            },
            line: i.is_multiple_of(3).then_some(u64::from(i)),
            bytes: 7,
            digest: Digest::of(&i.to_le_bytes()),
            text_digest: Digest::of(b"t"),
            payload_digest: Digest::of(b"p"),
            tenant: i.is_multiple_of(5).then(|| "é".to_owned()),
            acl: (0..i % 4).map(|k| format!("g{k}")).collect(),
            metadata: "{\"a\":1}".to_owned(),
            chunks: i,
            tokens: 9,
            chunk_digest: Digest::of(b"c"),
            moved_from: (0..i % 3).map(|k| format!("old{k}")).collect(),
        }
    }

    #[tokio::test]
    async fn buckets_come_back_as_written() {
        let repository = Repository::over(Arc::new(object_store::memory::InMemory::new()), "memory");
        let mut writer = InventoryWriter::new(&repository);
        let rows: Vec<_> = (0..50).map(row).collect();
        writer.bucket(1, &rows[..20]).await.unwrap();
        writer.bucket(2, &[]).await.unwrap();
        writer.bucket(4, &rows[20..]).await.unwrap();
        let objects = writer.finish().await.unwrap();
        // Buckets 0 to 3 and 4 to 7 are groups.
        assert_eq!(objects.iter().map(|o| o.buckets).collect::<Vec<_>>(), [Some((1, 1)), Some((4, 4))]);
        let mut reader = InventoryReader { repository: &repository, objects: &objects, loaded: None };
        assert_eq!(reader.bucket(4).await.unwrap(), rows[20..]);
        assert_eq!(reader.bucket(1).await.unwrap(), rows[..20]);
        let briefs = reader.brief(4).await.unwrap();
        assert_eq!(briefs.len(), 30);
        for (brief, row) in briefs.iter().zip(&rows[20..]) {
            assert_eq!((&brief.document_id, &brief.object, brief.line), (&row.document_id, &row.object, row.line));
            assert_eq!((brief.digest, brief.text_digest), (row.digest, row.text_digest));
            assert_eq!((brief.chunks, &brief.moved_from), (row.chunks, &row.moved_from));
        }
        assert!(reader.bucket(0).await.unwrap().is_empty());
        assert!(reader.bucket(2).await.unwrap().is_empty());
    }
}
