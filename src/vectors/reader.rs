//! The bytes of a part → rows, proven to be what was written.

use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::schema::{PART_FORMAT, content_digest, from_batch};
use super::{PartName, VectorRow};
use crate::error::{Error, ErrorKind, Result};
use crate::guard::guarded;

/// Decodes a part and checks its name and content digest; [`ErrorKind::Damaged`] when it is not what was written.
pub fn read_part(name: &PartName, bytes: Bytes) -> Result<Vec<VectorRow>> {
    guarded(ErrorKind::Damaged, || decode(name, bytes)).map_err(|e| match e.kind() {
        ErrorKind::Damaged => Error::new(ErrorKind::Damaged, "a part is damaged")
            .with("part", name)
            .guidance("the next restore computes it again; `regrow verify` lists everything that is damaged")
            .because(e),
        _ => e.with("part", name),
    })
}

fn decode(name: &PartName, bytes: Bytes) -> Result<Vec<VectorRow>> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?.with_batch_size(8192);
    let pairs = builder.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
    let value = |key: &str| {
        let key = format!("regrow.{key}");
        pairs.iter().find(|p| p.key == key).and_then(|p| p.value.clone()).unwrap_or_default()
    };
    let format: u32 = value("format").parse().unwrap_or(0);
    if format > PART_FORMAT {
        return Err(Error::new(ErrorKind::Configuration, "the part was written by a newer regrow")
            .with("format", format)
            .with("readable", PART_FORMAT));
    }
    if value("part") != name.to_string() {
        return Err(Error::new(ErrorKind::Damaged, "it holds another part").with("found", value("part")));
    }
    let mut rows = Vec::new();
    for batch in builder.build()? {
        from_batch(&batch?, &mut rows)?;
    }
    let (found, recorded) = (content_digest(&rows).to_hex().to_string(), value("content"));
    if found != recorded {
        return Err(Error::new(ErrorKind::Damaged, "its contents are not what was written")
            .with("expected", recorded)
            .with("found", found));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{ChunkId, Digest};
    use crate::vectors::{PartKey, write_part};

    fn name() -> PartName {
        PartName { bits: 3, bucket: 5, key: PartKey(Digest::of(b"key")) }
    }

    fn rows() -> impl Strategy<Value = Vec<VectorRow>> {
        let row = (
            ".{0,20}",
            any::<u32>(),
            ".{0,200}",
            proptest::option::of(".{0,9}"),
            proptest::collection::vec(".{0,5}", 0..3),
            proptest::collection::vec(any::<f32>().prop_filter("comparable", |f| !f.is_nan()), 4),
            any::<i64>(),
        );
        proptest::collection::vec(row, 0..40).prop_map(|rows| {
            rows.into_iter()
                .map(|(id, ordinal, text, tenant, acl, vector, number)| VectorRow {
                    chunk_id: ChunkId::new(&id, ordinal, &Digest::of(text.as_bytes())),
                    document_id: id,
                    ordinal,
                    start: 1,
                    end: 1 + text.len() as u64,
                    chunk_digest: Digest::of(text.as_bytes()),
                    text,
                    title: tenant.clone(),
                    tenant,
                    acl,
                    metadata: [("n".to_owned(), number.into())].into_iter().collect(),
                    vector,
                })
                .collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn parts_round_trip(rows in rows()) {
            let d = Digest::of(b"m");
            let bytes = write_part(&name(), &rows, 4, &d, &d).unwrap();
            prop_assert_eq!(read_part(&name(), bytes).unwrap(), rows);
        }

        #[test]
        fn any_flipped_bit_is_noticed_or_harmless(rows in rows(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let d = Digest::of(b"m");
            let bytes = write_part(&name(), &rows, 4, &d, &d).unwrap();
            let mut damaged = bytes.to_vec();
            let at = at.index(damaged.len());
            damaged[at] ^= 1 << bit;
            // A flip in unused statistics may go unseen; the rows never differ silently.
            let outcome = std::panic::catch_unwind(|| read_part(&name(), damaged.into()));
            if let Ok(Ok(read)) = outcome {
                prop_assert_eq!(read, rows);
            }
        }

        #[test]
        fn any_truncation_is_noticed(rows in rows(), keep in any::<prop::sample::Index>()) {
            let d = Digest::of(b"m");
            let bytes = write_part(&name(), &rows, 4, &d, &d).unwrap();
            let keep = keep.index(bytes.len());
            prop_assert!(read_part(&name(), bytes.slice(..keep)).is_err());
        }
    }

    #[test]
    fn another_parts_bytes_are_refused() {
        let d = Digest::of(b"m");
        let bytes = write_part(&name(), &[], 4, &d, &d).unwrap();
        let other = PartName { bucket: 6, ..name() };
        assert_eq!(read_part(&other, bytes).unwrap_err().kind(), ErrorKind::Damaged);
    }
}
