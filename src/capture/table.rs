//! How packs and indexes become Parquet: the one place that writes and opens such files.

use arrow::array::{Array, FixedSizeBinaryArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::repository::{FileWriterSeal, Repository};

/// Bytes that are set aside for a file that is being written.
const ROOM: usize = 1 << 20;

/// A writer of files for `folder` of this repository. Row groups are closed by the caller. Columns whose values hardly
/// repeat, `plain` and `random`, get neither a dictionary nor statistics, which would repeat their values; `random` ones are
/// not compressed either.
pub(super) fn writer(
    repository: &Repository,
    folder: &str,
    schema: SchemaRef,
    plain: &[&str],
    random: &[&str],
) -> Result<TableWriter> {
    let seal = repository.file_seal(folder)?.begin()?;
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_max_row_group_row_count(None)
        .set_offset_index_disabled(true)
        .set_statistics_enabled(EnabledStatistics::Chunk);
    if let Some(encryption) = seal.properties() {
        properties = properties.with_file_encryption_properties(encryption);
    }
    for name in plain.iter().chain(random) {
        let column = ColumnPath::new(name.split('.').map(str::to_owned).collect());
        if random.contains(name) {
            properties = properties.set_column_compression(column.clone(), Compression::UNCOMPRESSED);
        }
        properties = properties
            .set_column_dictionary_enabled(column.clone(), false)
            .set_column_statistics_enabled(column, EnabledStatistics::None);
    }
    // The types of Parquet say all that is needed; those of Arrow, which may be stored beside them, are not looked at either.
    let options = ArrowWriterOptions::new().with_properties(properties.build()).with_skip_arrow_metadata(true);
    Ok(TableWriter { writer: ArrowWriter::try_new_with_options(Vec::with_capacity(ROOM), schema, options)?, seal })
}

/// A file that is being written, encrypted where the repository is.
pub(super) struct TableWriter {
    writer: ArrowWriter<Vec<u8>>,
    seal: FileWriterSeal,
}

impl TableWriter {
    /// Adds a row group.
    pub(super) fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.writer.write(rows)?;
        Ok(self.writer.flush()?)
    }

    /// Bytes of the closed row groups.
    pub(super) fn bytes_written(&self) -> usize {
        self.writer.bytes_written()
    }

    /// The file.
    pub(super) fn finish(self) -> Result<Bytes> {
        self.seal.finish(self.writer.into_inner()?)
    }
}

/// An open file.
#[derive(Clone)]
pub(super) struct Table {
    bytes: Bytes,
    metadata: ArrowReaderMetadata,
}

impl Table {
    /// Opens a file of `folder`.
    ///
    /// # Errors
    /// `Damaged` when it is no such file.
    pub(super) fn open(repository: &Repository, folder: &str, bytes: Bytes, schema: &SchemaRef) -> Result<Self> {
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = repository.file_seal(folder)?.metadata(&bytes, options)?;
        if metadata.schema().fields() != schema.fields() {
            return Err(damaged("the columns of a Parquet object are not those it should have"));
        }
        Ok(Self { bytes, metadata })
    }

    /// Rows in each row group.
    pub(super) fn groups(&self) -> impl Iterator<Item = u64> + '_ {
        self.metadata.metadata().row_groups().iter().map(|group| u64::try_from(group.num_rows()).unwrap_or(0))
    }

    /// All rows of one row group.
    pub(super) fn group(&self, group: usize) -> Result<RecordBatch> {
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(self.bytes.clone(), self.metadata.clone());
        let rows = self.groups().nth(group).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let reader = builder.with_row_groups(vec![group]).with_batch_size(rows.max(1)).build()?;
        let batches = reader.collect::<Result<Vec<_>, _>>()?;
        Ok(arrow::compute::concat_batches(self.metadata.schema(), &batches)?)
    }
}

pub(super) fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Damaged, what)
}

/// A column by name.
pub(super) fn column<'a, T: 'static>(batch: &'a RecordBatch, name: &str) -> Result<&'a T> {
    batch
        .column_by_name(name)
        .and_then(|c| c.as_any().downcast_ref::<T>())
        .ok_or_else(|| damaged("a Parquet object lacks a column or has it in another type").with("column", name))
}

/// A digest in a column.
pub(super) fn digest_at(column: &FixedSizeBinaryArray, row: usize) -> Result<Digest> {
    if column.is_null(row) {
        return Err(damaged("a digest is missing"));
    }
    let bytes = column.value(row).try_into().map_err(|_| damaged("a digest has the wrong length"))?;
    Ok(Digest::from_bytes(bytes))
}
