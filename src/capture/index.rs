//! The index: what is captured, and where its blobs are.

use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeBinaryArray, FixedSizeBinaryBuilder, Int64Array, ListArray, RecordBatch,
    StringArray, StructArray, UInt32Array, UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use super::table::{self, Table, TableWriter, column, damaged, digest_at};
use crate::error::{Error, Result};
use crate::ids::Digest;
use crate::repository::{Captured, ObjectRef, Repository, path};

/// Bits of the partitions of an index: one row group each. It does not follow the inventory's number of buckets, so
/// that an index object is the same when that number changes.
pub(crate) const PARTITION_BITS: u8 = 8;
pub(super) const PARTITIONS: u32 = 1 << PARTITION_BITS;

/// Where a blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobAt {
    /// Digest of its bytes.
    pub blob: Digest,
    /// Number of bytes.
    pub bytes: u64,
    /// Pack, counted in the manifest from 0.
    pub pack: u32,
    /// Row in the pack, from 0.
    pub row: u32,
}

/// An object (mode `copy`) or a document (mode `text`) that is captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedObject {
    /// The object's path, or the document's id.
    pub id: String,
    /// The object's path.
    pub path: String,
    /// Line or row of a record (mode `text`).
    pub line: Option<u64>,
    /// Number of captured bytes.
    pub bytes: u64,
    /// Last modification of the object, in microseconds since 1970.
    pub modified: i64,
    /// Digest of the captured bytes.
    pub digest: Digest,
    /// The blobs that they consist of, in order.
    pub blobs: Vec<BlobAt>,
}

impl CapturedObject {
    /// Whether its digest is that of its only blob.
    fn is_its_blob(&self) -> bool {
        matches!(self.blobs.as_slice(), [one] if one.blob == self.digest)
    }
}

fn blob_fields() -> Fields {
    Fields::from(vec![
        Field::new("blob", DataType::FixedSizeBinary(32), false),
        Field::new("bytes", DataType::UInt64, false),
        Field::new("pack", DataType::UInt32, false),
        Field::new("row", DataType::UInt32, false),
    ])
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("path", DataType::Utf8, true),
        Field::new("line", DataType::UInt64, true),
        Field::new("bytes", DataType::UInt64, false),
        Field::new("modified", DataType::Int64, false),
        Field::new("digest", DataType::FixedSizeBinary(32), true),
        Field::new_list("blobs", Field::new("item", DataType::Struct(blob_fields()), false), false),
        Field::new("bucket", DataType::UInt32, false),
    ]))
});

fn digests<'a>(values: impl Iterator<Item = Option<&'a Digest>>) -> Result<ArrayRef> {
    let mut builder = FixedSizeBinaryBuilder::new(32);
    for digest in values {
        match digest {
            Some(digest) => builder.append_value(digest.as_bytes())?,
            None => builder.append_null(),
        }
    }
    Ok(Arc::new(builder.finish()))
}

fn to_batch(rows: &[CapturedObject], partition: u32) -> Result<RecordBatch> {
    let blobs = || rows.iter().flat_map(|r| &r.blobs);
    let inner: Vec<ArrayRef> = vec![
        digests(blobs().map(|b| Some(&b.blob)))?,
        Arc::new(UInt64Array::from_iter_values(blobs().map(|b| b.bytes))),
        Arc::new(UInt32Array::from_iter_values(blobs().map(|b| b.pack))),
        Arc::new(UInt32Array::from_iter_values(blobs().map(|b| b.row))),
    ];
    let items = StructArray::try_new_with_length(blob_fields(), inner, None, blobs().count())?;
    let item = Arc::new(Field::new("item", DataType::Struct(blob_fields()), false));
    let offsets = OffsetBuffer::from_lengths(rows.iter().map(|r| r.blobs.len()));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.id))),
        Arc::new(StringArray::from_iter(rows.iter().map(|r| Some(&r.path).filter(|path| **path != r.id)))),
        Arc::new(UInt64Array::from_iter(rows.iter().map(|r| r.line))),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|r| r.bytes))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.modified))),
        // The digest of a single blob is there already.
        digests(rows.iter().map(|r| (!r.is_its_blob()).then_some(&r.digest)))?,
        Arc::new(ListArray::try_new(item, offsets, Arc::new(items), None)?),
        Arc::new(UInt32Array::from_value(partition, rows.len())),
    ];
    Ok(RecordBatch::try_new(SCHEMA.clone(), columns)?)
}

fn from_batch(batch: &RecordBatch) -> Result<Vec<CapturedObject>> {
    let (ids, paths) = (column::<StringArray>(batch, "id")?, column::<StringArray>(batch, "path")?);
    let (lines, bytes) = (column::<UInt64Array>(batch, "line")?, column::<UInt64Array>(batch, "bytes")?);
    let modified = column::<Int64Array>(batch, "modified")?;
    let digests = column::<FixedSizeBinaryArray>(batch, "digest")?;
    let lists = column::<ListArray>(batch, "blobs")?;
    let mut rows = Vec::with_capacity(batch.num_rows());
    for i in 0..batch.num_rows() {
        let list = lists.value(i);
        let items = list.as_struct_opt().ok_or_else(|| damaged("the blobs of an index are no structs"))?;
        let field = |at: usize| items.columns().get(at).map(AsRef::as_ref).ok_or_else(|| damaged("a field is missing"));
        let blobs: &FixedSizeBinaryArray =
            field(0)?.as_fixed_size_binary_opt().ok_or_else(|| damaged("a field has another type"))?;
        let number = |at: usize| {
            field(at)?.as_any().downcast_ref::<UInt32Array>().ok_or_else(|| damaged("a field has another type"))
        };
        let sizes =
            field(1)?.as_any().downcast_ref::<UInt64Array>().ok_or_else(|| damaged("a field has another type"))?;
        let (packs, at) = (number(2)?, number(3)?);
        let blobs: Vec<BlobAt> = (0..items.len())
            .map(|b| {
                Ok(BlobAt { blob: digest_at(blobs, b)?, bytes: sizes.value(b), pack: packs.value(b), row: at.value(b) })
            })
            .collect::<Result<_>>()?;
        let digest = match blobs.as_slice() {
            [one] if digests.is_null(i) => one.blob,
            _ => digest_at(digests, i)?,
        };
        rows.push(CapturedObject {
            id: ids.value(i).to_owned(),
            path: if paths.is_null(i) { ids.value(i) } else { paths.value(i) }.to_owned(),
            line: (!lines.is_null(i)).then(|| lines.value(i)),
            bytes: bytes.value(i),
            modified: modified.value(i),
            digest,
            blobs,
        });
    }
    Ok(rows)
}

/// Rows that an index object should hold at most.
const OBJECT_ROWS: u64 = 100_000;

/// Writes an index partition by partition. Its objects hold fixed ranges of partitions, so that one in which nothing
/// has changed is the same object.
pub(super) struct IndexWriter<'a> {
    repository: &'a Repository,
    /// Partitions per object.
    span: u32,
    objects: Vec<ObjectRef>,
    open: Option<(TableWriter, u32, u32, u64)>,
}

impl<'a> IndexWriter<'a> {
    /// An index of about `rows` rows.
    pub(super) fn new(repository: &'a Repository, rows: u64) -> Self {
        let objects = rows.div_ceil(OBJECT_ROWS).max(1).next_power_of_two().min(u64::from(PARTITIONS));
        Self { repository, span: PARTITIONS / objects as u32, objects: Vec::new(), open: None }
    }

    /// Adds the rows of a partition, sorted by id; partitions come in ascending order.
    pub(super) async fn partition(&mut self, partition: u32, rows: &[CapturedObject]) -> Result<()> {
        if self.open.as_ref().is_some_and(|(_, first, ..)| first / self.span != partition / self.span) {
            self.close().await?;
        }
        if rows.is_empty() {
            return Ok(());
        }
        let (mut writer, first, count) = match self.open.take() {
            Some((writer, first, _, count)) => (writer, first, count),
            None => {
                let (plain, random) = (["id", "blobs.list.item.row"], ["digest", "blobs.list.item.blob"]);
                (table::writer(self.repository, path::CAPTURED, SCHEMA.clone(), &plain, &random)?, partition, 0)
            }
        };
        writer.write(&to_batch(rows, partition)?)?;
        self.open = Some((writer, first, partition, count + rows.len() as u64));
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        let Some((writer, first, last, rows)) = self.open.take() else { return Ok(()) };
        let mut object = self.repository.put_content(path::CAPTURED, "parquet", writer.finish()?).await?;
        object.rows = Some(rows);
        object.buckets = Some((first, last));
        self.objects.push(object);
        Ok(())
    }

    /// Closes the last object; returns all of them.
    pub(super) async fn finish(mut self) -> Result<Vec<ObjectRef>> {
        self.close().await?;
        Ok(self.objects)
    }
}

/// Reads an index partition by partition, holding one of its objects at a time.
pub struct IndexReader<'a> {
    repository: &'a Repository,
    objects: &'a [ObjectRef],
    loaded: Option<(usize, Table, Vec<u32>)>,
}

impl<'a> IndexReader<'a> {
    /// The index of a snapshot.
    pub fn new(repository: &'a Repository, captured: &'a Captured) -> Self {
        Self::over(repository, &captured.index)
    }

    pub(super) fn over(repository: &'a Repository, objects: &'a [ObjectRef]) -> Self {
        Self { repository, objects, loaded: None }
    }

    /// Number of partitions: rows are in that of their id's hash.
    pub fn partitions() -> u32 {
        PARTITIONS
    }

    /// The rows of one partition, sorted by id; cheapest in ascending order.
    ///
    /// # Errors
    /// `Damaged` when the object that holds it is missing or not what was written.
    pub async fn partition(&mut self, partition: u32) -> Result<Vec<CapturedObject>> {
        let holds = |o: &ObjectRef| o.buckets.is_some_and(|(a, b)| (a..=b).contains(&partition));
        let Some(index) = self.objects.iter().position(holds) else { return Ok(Vec::new()) };
        let object = &self.objects[index];
        let at_fault = |e: Error| e.with("object", &object.path);
        if self.loaded.as_ref().is_none_or(|(loaded, ..)| *loaded != index) {
            let bytes = self.repository.get_checked(object).await?;
            let table = Table::open(self.repository, path::CAPTURED, bytes, &SCHEMA).map_err(at_fault)?;
            self.loaded = Some((index, table, Vec::new()));
        }
        let Some((_, table, numbers)) = &mut self.loaded else { return Ok(Vec::new()) };
        let groups = table.groups().count();
        // Row groups are in the order of their partitions: those before the one that is wanted are looked into once.
        for group in 0..groups {
            if numbers.get(group).is_some_and(|number| *number != partition) {
                continue;
            }
            let batch = table.group(group).map_err(at_fault)?;
            let bucket = column::<UInt32Array>(&batch, "bucket").map_err(at_fault)?;
            if bucket.is_empty() {
                return Err(at_fault(damaged("a row group is empty")));
            }
            let number = bucket.value(0);
            if numbers.len() == group {
                numbers.push(number);
            }
            if number == partition {
                return from_batch(&batch).map_err(at_fault);
            }
            if number > partition {
                break;
            }
        }
        Ok(Vec::new())
    }
}
