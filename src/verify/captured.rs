//! The index of captured documents against the packs that it refers to.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, ListArray, StructArray, UInt32Array, UInt64Array};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::error::{Error, ErrorKind, Result};
use crate::repository::Captured;

/// What one object of an index uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Uses {
    /// Pack → the last of its rows that is used.
    pub(super) packs: BTreeMap<u32, u32>,
    /// Objects or documents in it.
    pub(super) objects: u64,
    /// Their bytes.
    pub(super) bytes: u64,
}

/// Reads what an index object uses: packs, rows and sizes, nothing else.
pub(super) fn uses(bytes: Bytes) -> Result<Uses> {
    let wrong = |what: &str| Error::new(ErrorKind::Damaged, what);
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), ["bytes", "blobs"]);
    let mut uses = Uses::default();
    for batch in builder.with_projection(mask).with_batch_size(8192).build()? {
        let batch = batch?;
        let sizes = batch.column_by_name("bytes").and_then(|c| c.as_any().downcast_ref::<UInt64Array>());
        let sizes = sizes.ok_or_else(|| wrong("the index has no sizes"))?;
        uses.objects += batch.num_rows() as u64;
        uses.bytes += sizes.iter().flatten().sum::<u64>();
        let blobs = batch.column_by_name("blobs").and_then(|c| c.as_any().downcast_ref::<ListArray>());
        let blobs = blobs.and_then(|list| list.values().as_any().downcast_ref::<StructArray>());
        let blobs = blobs.ok_or_else(|| wrong("the index has no blobs"))?;
        let field = |name: &str| blobs.column_by_name(name).and_then(|c| c.as_any().downcast_ref::<UInt32Array>());
        let (Some(packs), Some(rows)) = (field("pack"), field("row")) else {
            return Err(wrong("the blobs of the index have no pack or no row"));
        };
        let lengths = blobs.column_by_name("bytes").and_then(|c| c.as_primitive_opt::<arrow::datatypes::UInt64Type>());
        let lengths = lengths.ok_or_else(|| wrong("the blobs of the index have no size"))?;
        if lengths.iter().flatten().sum::<u64>() != sizes.iter().flatten().sum::<u64>() {
            return Err(wrong("the blobs of the index are not as long as what consists of them"));
        }
        for (pack, row) in packs.iter().flatten().zip(rows.iter().flatten()) {
            let last = uses.packs.entry(pack).or_default();
            *last = row.max(*last);
        }
    }
    Ok(uses)
}

/// What is wrong between a snapshot's index and its packs.
pub(super) fn compare(captured: &Captured, index: &[&Uses]) -> Option<String> {
    let objects: u64 = index.iter().map(|uses| uses.objects).sum();
    let bytes: u64 = index.iter().map(|uses| uses.bytes).sum();
    if (objects, bytes) != (captured.objects, captured.bytes) {
        return Some(format!(
            "{} captured objects and {} bytes recorded, {objects} and {bytes} in the index",
            captured.objects, captured.bytes
        ));
    }
    for (pack, row) in index.iter().flat_map(|uses| &uses.packs) {
        match captured.packs.get(*pack as usize).map(|object| object.rows) {
            None => return Some(format!("the index refers to pack {pack}, of {}", captured.packs.len())),
            Some(Some(rows)) if u64::from(*row) >= rows => {
                return Some(format!("the index refers to row {row} of pack {pack}, which has {rows}"));
            }
            Some(_) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{DataType, Field, Fields, Schema};
    use parquet::arrow::ArrowWriter;

    use super::*;
    use crate::ids::Digest;
    use crate::repository::ObjectRef;

    type Blobs<'a> = &'a [(u32, u32, u64)];

    /// An index of objects, each with its size and blobs of (pack, row, bytes).
    fn index(objects: &[(u64, Blobs<'_>)]) -> Bytes {
        let fields = Fields::from(vec![
            Field::new("bytes", DataType::UInt64, false),
            Field::new("pack", DataType::UInt32, false),
            Field::new("row", DataType::UInt32, false),
        ]);
        let blobs: Vec<_> = objects.iter().flat_map(|(_, blobs)| blobs.iter().copied()).collect();
        let inner: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from_iter_values(blobs.iter().map(|b| b.2))),
            Arc::new(UInt32Array::from_iter_values(blobs.iter().map(|b| b.0))),
            Arc::new(UInt32Array::from_iter_values(blobs.iter().map(|b| b.1))),
        ];
        let item = Arc::new(Field::new("item", DataType::Struct(fields.clone()), false));
        let structs = StructArray::try_new_with_length(fields, inner, None, blobs.len()).unwrap();
        let offsets = OffsetBuffer::from_lengths(objects.iter().map(|(_, blobs)| blobs.len()));
        let list = ListArray::try_new(item.clone(), offsets, Arc::new(structs), None).unwrap();
        let schema = Arc::new(Schema::new(vec![
            Field::new("id", DataType::Utf8, false),
            Field::new("bytes", DataType::UInt64, false),
            Field::new("blobs", DataType::List(item), false),
        ]));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(objects.iter().map(|_| "x"))),
            Arc::new(UInt64Array::from_iter_values(objects.iter().map(|o| o.0))),
            Arc::new(list),
        ];
        let mut writer = ArrowWriter::try_new(Vec::new(), schema.clone(), None).unwrap();
        writer.write(&RecordBatch::try_new(schema, columns).unwrap()).unwrap();
        writer.into_inner().unwrap().into()
    }

    fn captured(rows: &[u64], objects: u64, bytes: u64) -> Captured {
        let pack = |rows: &u64| ObjectRef {
            path: "documents/p".to_owned(),
            bytes: 1,
            digest: Digest::of(b"p"),
            rows: Some(*rows),
            buckets: None,
        };
        Captured { index: Vec::new(), packs: rows.iter().map(pack).collect(), objects, bytes }
    }

    #[test]
    fn blobs_must_be_in_packs_that_are_listed_and_long_enough() {
        let found = uses(index(&[(7, &[(0, 2, 3), (1, 0, 4)]), (0, &[]), (5, &[(1, 4, 5)])])).unwrap();
        assert_eq!((found.objects, found.bytes), (3, 12));
        assert_eq!(found.packs, BTreeMap::from([(0, 2), (1, 4)]));
        assert_eq!(compare(&captured(&[3, 5], 3, 12), &[&found]), None);
        for (bad, what) in [
            (captured(&[3], 3, 12), "pack 1"),
            (captured(&[3, 4], 3, 12), "row 4"),
            (captured(&[2, 5], 3, 12), "row 2"),
            (captured(&[3, 5], 4, 12), "captured objects"),
            (captured(&[3, 5], 3, 13), "bytes"),
        ] {
            assert!(compare(&bad, &[&found]).is_some_and(|problem| problem.contains(what)), "{what}");
        }
        assert!(uses(index(&[(8, &[(0, 0, 7)])])).is_err());
        assert!(uses(Bytes::from_static(b"PAR1")).is_err());
    }
}
