//! Parquet: one document per row, read in batches of the columns that are needed.

use arrow::array::{
    Array, AsArray, FixedSizeListArray, GenericListArray, MapArray, OffsetSizeTrait, RecordBatch, StructArray,
};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Fields, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::StreamExt;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use serde_json::{Map, Number, Value};
use tokio::runtime::Handle;

use super::super::place;
use super::{Sink, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::guard::guarded;

/// Uncompressed bytes of a batch, by the average of the file.
const BATCH_BYTES: u64 = 8 << 20;
const BATCH_ROWS: u64 = 1024;

pub(super) fn read(
    source: &Source<'_>,
    reader: Box<dyn AsyncFileReader>,
    handle: &Handle,
    sink: &mut Sink<'_>,
) -> Result<()> {
    guarded(ErrorKind::BadDocument, || read_rows(source, reader, handle, sink))
        .map_err(|e| if e.context_value("file").is_none() { e.with("file", &source.object.path) } else { e })
}

fn read_rows(
    source: &Source<'_>,
    reader: Box<dyn AsyncFileReader>,
    handle: &Handle,
    sink: &mut Sink<'_>,
) -> Result<()> {
    let failed = |e| damaged(source, e);
    let builder = handle.block_on(ParquetRecordBatchStreamBuilder::new(reader)).map_err(failed)?;
    let schema = builder.schema().clone();
    let has = || schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ");
    if let Some(column) = source.columns().find(|c| !holds(schema.fields(), c)) {
        return Err(source.no_column(column, &has()));
    }
    let all = source.settings.metadata.iter().any(|key| key == "*");
    let needed: Vec<usize> = schema
        .fields()
        .iter()
        .enumerate()
        .filter(|(_, field)| {
            all || source.columns().any(|c| c == field.name() || root(schema.fields(), c) == field.name())
        })
        .map(|(i, _)| i)
        .collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), needed);
    let rows = batch_rows(builder.metadata());
    let mut batches = builder.with_projection(mask).with_batch_size(rows).build().map_err(failed)?;
    let mut row = 0;
    while let Some(batch) = handle.block_on(batches.next()) {
        let batch = batch.map_err(failed)?;
        for at in 0..batch.num_rows() {
            row += 1;
            let item = record(&batch, at).and_then(|(record, bytes)| {
                if bytes > source.max_bytes {
                    return Err(Error::new(ErrorKind::BadDocument, "the record is larger than allowed")
                        .with("most", source.max_bytes)
                        .guidance("raise `corpus.max_document_bytes`, or take the record out of the file"));
                }
                source.document(record, row, bytes)
            });
            sink.push(item.map_err(|e| e.with("file", &source.object.path).with("row", row)));
            if sink.closed {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Rows that make a batch of bounded size.
fn batch_rows(metadata: &ParquetMetaData) -> usize {
    let (rows, bytes) = metadata.row_groups().iter().fold((0_u64, 0_u64), |(rows, bytes), group| {
        let of = |n: i64| u64::try_from(n).unwrap_or(0);
        (rows + of(group.num_rows()), bytes + of(group.total_byte_size()))
    });
    let average = (bytes / rows.max(1)).max(1);
    usize::try_from((BATCH_BYTES / average).clamp(1, BATCH_ROWS)).unwrap_or(1)
}

/// A Parquet file that cannot be read is a bad document, unless it is the store that failed.
fn damaged(source: &Source<'_>, e: ParquetError) -> Error {
    let path = &source.object.path;
    match e {
        ParquetError::External(inner) => match inner.downcast::<object_store::Error>() {
            Ok(e) => place::failed(path, *e),
            Err(inner) => bad(path).because(inner),
        },
        e => bad(path).because(e),
    }
}

fn bad(path: &str) -> Error {
    Error::new(ErrorKind::BadDocument, "the Parquet file cannot be read")
        .with("file", path)
        .guidance("the file is damaged or not Parquet: write it again, or leave it out with `corpus.exclude`")
}

/// The top-level column that a field is in.
fn root<'k>(fields: &Fields, key: &'k str) -> &'k str {
    if fields.find(key).is_some() { key } else { key.split_once('.').map_or(key, |(first, _)| first) }
}

fn holds(fields: &Fields, key: &str) -> bool {
    if fields.find(key).is_some() {
        return true;
    }
    let Some((first, rest)) = key.split_once('.') else { return false };
    match fields.find(first).map(|(_, field)| field.data_type()) {
        Some(DataType::Struct(inner)) => holds(inner, rest),
        // Keys of a map are not in the schema.
        Some(DataType::Map(..)) => true,
        _ => false,
    }
}

/// A row as JSON, and roughly its size.
fn record(batch: &RecordBatch, row: usize) -> Result<(Map<String, Value>, u64)> {
    let mut out = Map::new();
    let mut bytes = 0;
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let value = json(column, row).map_err(|e| e.with("column", field.name()))?;
        bytes += size(&value);
        out.insert(field.name().clone(), value);
    }
    Ok((out, bytes))
}

fn size(value: &Value) -> u64 {
    match value {
        Value::String(s) => s.len() as u64,
        Value::Array(list) => list.iter().map(size).sum(),
        Value::Object(map) => map.iter().map(|(k, v)| k.len() as u64 + size(v)).sum(),
        _ => 8,
    }
}

/// One value as JSON. Numbers, booleans, lists, structs and maps keep their type; times, decimals and
/// intervals become text, and so do the floating-point values that JSON does not have; bytes become hexadecimal.
fn json(array: &dyn Array, row: usize) -> Result<Value> {
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    macro_rules! number {
        ($($kind:ty),*) => {
            $(if *array.data_type() == <$kind as ArrowPrimitiveType>::DATA_TYPE {
                return Ok(array.as_primitive::<$kind>().value(row).into());
            })*
        };
    }
    number!(Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type);
    Ok(match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => array.as_boolean().value(row).into(),
        DataType::Utf8 => array.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).into(),
        DataType::Utf8View => array.as_string_view().value(row).into(),
        DataType::Float16 => float(array.as_primitive::<Float16Type>().value(row).into()),
        // The shortest text that reads back the same, not the digits of the nearest double.
        DataType::Float32 => {
            let value = array.as_primitive::<Float32Type>().value(row);
            float(value.to_string().parse().unwrap_or(f64::from(value)))
        }
        DataType::Float64 => float(array.as_primitive::<Float64Type>().value(row)),
        DataType::Timestamp(unit, zone) => timestamp(array, row, *unit, zone.is_some())?,
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let key = json(dictionary.keys(), row)?.as_u64().and_then(|key| usize::try_from(key).ok());
            match key {
                Some(key) => json(dictionary.values(), key)?,
                None => Value::Null,
            }
        }
        DataType::List(_) => list(array.as_list::<i32>(), row)?,
        DataType::LargeList(_) => list(array.as_list::<i64>(), row)?,
        DataType::FixedSizeList(..) => {
            let list: &FixedSizeListArray = array.as_fixed_size_list();
            items(&list.value(row))?
        }
        DataType::Struct(_) => object(array.as_struct(), row)?,
        DataType::Map(..) => map(array.as_map(), row)?,
        _ => {
            let options = FormatOptions::default();
            let text = ArrayFormatter::try_new(array, &options)
                .and_then(|f| f.value(row).try_to_string())
                .map_err(|e| Error::new(ErrorKind::BadDocument, "a value cannot be read").because(e))?;
            Value::String(text)
        }
    })
}

/// RFC 3339 in UTC; without `Z` when the column has no time zone.
fn timestamp(array: &dyn Array, row: usize, unit: TimeUnit, zoned: bool) -> Result<Value> {
    let (value, in_nanoseconds) = match unit {
        TimeUnit::Second => (array.as_primitive::<TimestampSecondType>().value(row), 1_000_000_000),
        TimeUnit::Millisecond => (array.as_primitive::<TimestampMillisecondType>().value(row), 1_000_000),
        TimeUnit::Microsecond => (array.as_primitive::<TimestampMicrosecondType>().value(row), 1_000),
        TimeUnit::Nanosecond => (array.as_primitive::<TimestampNanosecondType>().value(row), 1),
    };
    let time = jiff::Timestamp::from_nanosecond(i128::from(value) * in_nanoseconds)
        .map_err(|e| Error::new(ErrorKind::BadDocument, "a time is out of range").because(e))?
        .to_string();
    Ok(Value::String(if zoned { time } else { time.trim_end_matches('Z').to_owned() }))
}

fn float(value: f64) -> Value {
    Number::from_f64(value).map_or_else(|| Value::String(value.to_string()), Value::Number)
}

fn list<O: OffsetSizeTrait>(list: &GenericListArray<O>, row: usize) -> Result<Value> {
    items(&list.value(row))
}

fn items(values: &dyn Array) -> Result<Value> {
    (0..values.len()).map(|i| json(values, i)).collect::<Result<Vec<_>>>().map(Value::Array)
}

fn object(array: &StructArray, row: usize) -> Result<Value> {
    let names = array.fields().iter().map(|f| f.name().clone());
    names
        .zip(array.columns())
        .map(|(name, column)| Ok((name, json(column, row)?)))
        .collect::<Result<_>>()
        .map(Value::Object)
}

fn map(array: &MapArray, row: usize) -> Result<Value> {
    let entries = array.value(row);
    let (keys, values) = (entries.column(0), entries.column(1));
    let key = |i| {
        json(keys, i).map(|key| match key {
            Value::String(s) => s,
            other => other.to_string(),
        })
    };
    (0..entries.len()).map(|i| Ok((key(i)?, json(values, i)?))).collect::<Result<_>>().map(Value::Object)
}
