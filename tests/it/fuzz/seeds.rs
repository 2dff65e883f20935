//! Bytes that are right, to begin with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float32Array, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder, TimestampSecondArray,
};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

pub fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Every file below a folder whose name ends like this.
pub fn files(folder: &str, ending: &str) -> Vec<Vec<u8>> {
    fn walk(at: &Path, ending: &str, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(at).unwrap_or_else(|e| panic!("{}: {e}", at.display())).flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, ending, found);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(folder), ending, &mut found);
    found.sort();
    assert!(!found.is_empty(), "nothing in {folder} ends with {ending}");
    found.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

pub fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|t| t.as_bytes().to_vec()).collect()
}

/// Parquet files of records, in several encodings.
pub fn parquet() -> Vec<Vec<u8>> {
    let mut acl = ListBuilder::new(StringBuilder::new());
    for i in 0..40 {
        acl.values().append_value(format!("group {}", i % 3));
        acl.append(i % 5 > 0);
    }
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(0..40))),
        ("text", Arc::new(StringArray::from_iter_values((0..40).map(|i| format!("Harbour {i} has tides and ships."))))),
        ("tenant", Arc::new(StringArray::from_iter((0..40).map(|i| (i % 2 == 0).then_some("acme"))))),
        ("acl", Arc::new(acl.finish())),
        ("price", Arc::new(Float32Array::from_iter_values((0..40).map(|i| i as f32 / 3.0)))),
        ("time", Arc::new(TimestampSecondArray::from_iter_values(0..40))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    [
        WriterProperties::builder().build(),
        WriterProperties::builder().set_dictionary_enabled(false).set_compression(Compression::SNAPPY).build(),
        WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap()))
            .set_max_row_group_row_count(Some(7))
            .build(),
    ]
    .into_iter()
    .map(|properties| {
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.into_inner().unwrap()
    })
    .collect()
}
