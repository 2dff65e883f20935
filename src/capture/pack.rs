//! Packs: many blobs in one Parquet file that any reader can open.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, BinaryArray, FixedSizeBinaryArray, RecordBatch, UInt64Array};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;

use super::table::{self, Table, TableWriter, damaged};
use crate::error::Result;
use crate::ids::Digest;
use crate::repository::{Repository, path};

/// Stored bytes at which a pack is closed.
pub(super) const FULL: usize = 32 << 20;
/// Bytes of blobs at which a row group is closed: what must be read and unpacked to have one blob.
const GROUP: usize = 1 << 20;
/// Blobs in a row group, where they are tiny.
const GROUP_ROWS: usize = 16 << 10;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("blob", DataType::FixedSizeBinary(32), false),
        Field::new("bytes", DataType::UInt64, false),
        Field::new("content", DataType::Binary, false),
    ]))
});

/// A pack that is being filled.
pub(super) struct PackBuilder {
    writer: TableWriter,
    blobs: Vec<u8>,
    ends: Vec<i32>,
    content: Vec<u8>,
    /// Rows that are there.
    pub(super) rows: u32,
}

impl PackBuilder {
    /// An empty pack for this repository.
    pub(super) fn new(repository: &Repository) -> Result<Self> {
        Ok(Self {
            writer: table::writer(repository, path::DOCUMENTS, SCHEMA.clone(), &["content"], &["blob", "bytes"])?,
            blobs: Vec::new(),
            ends: Vec::new(),
            content: Vec::new(),
            rows: 0,
        })
    }

    /// Adds a blob; its row. Compresses when a row group is full.
    pub(super) fn push(&mut self, blob: &Digest, bytes: &[u8]) -> Result<u32> {
        self.blobs.extend_from_slice(blob.as_bytes());
        self.content.extend_from_slice(bytes);
        // A row group holds at most a group and the largest blob.
        self.ends.push(self.content.len() as i32);
        let row = self.rows;
        self.rows += 1;
        if self.content.len() >= GROUP || self.ends.len() >= GROUP_ROWS {
            self.flush()?;
        }
        Ok(row)
    }

    fn flush(&mut self) -> Result<()> {
        if self.ends.is_empty() {
            return Ok(());
        }
        let lengths = self.ends.iter().scan(0, |before, end| Some(*end - std::mem::replace(before, *end)));
        let lengths: Vec<usize> = lengths.map(|n| n as usize).collect();
        let sizes = UInt64Array::from_iter_values(lengths.iter().map(|n| *n as u64));
        let offsets = OffsetBuffer::from_lengths(lengths);
        // Handing the buffer over saves a copy; a fresh one of the same size follows.
        let room = self.content.capacity();
        let content = std::mem::replace(&mut self.content, Vec::with_capacity(room));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(FixedSizeBinaryArray::try_new(32, Buffer::from_vec(std::mem::take(&mut self.blobs)), None)?),
            Arc::new(sizes),
            Arc::new(BinaryArray::try_new(offsets, Buffer::from_vec(content), None)?),
        ];
        self.ends.clear();
        self.writer.write(&RecordBatch::try_new(SCHEMA.clone(), columns)?)
    }

    /// Whether it should be closed.
    pub(super) fn is_full(&self) -> bool {
        self.writer.bytes_written() >= FULL
    }

    /// The file, and the number of blobs in it.
    pub(super) fn finish(mut self) -> Result<(Bytes, u64)> {
        self.flush()?;
        Ok((self.writer.finish()?, u64::from(self.rows)))
    }
}

/// An open pack. Holds the file, and the row group that was looked into last.
pub(super) struct Pack {
    table: Table,
    /// First row of each row group, and the number of rows at the end.
    starts: Vec<u64>,
    group: Option<(usize, RecordBatch)>,
}

impl Pack {
    /// Opens the bytes of a pack.
    ///
    /// # Errors
    /// `Damaged` when it is no pack.
    pub(super) fn open(repository: &Repository, bytes: Bytes) -> Result<Self> {
        let table = Table::open(repository, path::DOCUMENTS, bytes, &SCHEMA)?;
        let mut starts = vec![0];
        for rows in table.groups() {
            starts.push(starts.last().unwrap_or(&0) + rows);
        }
        Ok(Self { table, starts, group: None })
    }

    /// Number of blobs.
    pub(super) fn rows(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// The blob in a row, and its bytes; cheapest row after row.
    ///
    /// # Errors
    /// `Damaged` when there is no such row, or its bytes are not those of the blob that is said to be there.
    pub(super) fn blob(&mut self, row: u32) -> Result<(Digest, &[u8])> {
        let row = u64::from(row);
        if row >= self.rows() {
            return Err(damaged("a pack has fewer blobs than it should").with("row", row).with("rows", self.rows()));
        }
        let group = self.starts.partition_point(|start| *start <= row) - 1;
        if self.group.as_ref().is_none_or(|(open, _)| *open != group) {
            self.group = Some((group, self.table.group(group)?));
        }
        let Some((_, batch)) = &self.group else { return Err(damaged("a row group is missing")) };
        let at = usize::try_from(row - self.starts[group]).unwrap_or(usize::MAX);
        if at >= batch.num_rows() {
            return Err(damaged("a row group has fewer rows than it should"));
        }
        let blob = table::digest_at(table::column(batch, "blob")?, at)?;
        let bytes = table::column::<BinaryArray>(batch, "content")?.value(at);
        if Digest::of(bytes) != blob {
            return Err(damaged("a blob is not what was written").with("blob", blob.short()).with("row", row));
        }
        Ok((blob, bytes))
    }
}
