//! What the repository holds can be read by others: parts are plain Parquet with a documented schema.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Float32Type, UInt32Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::bad_input::three;
use crate::common::Project;

/// A restored project with several kinds of payload, its report and its parts.
fn restored() -> Option<(Project, Value, Vec<PathBuf>)> {
    let project = Project::new()?;
    three(&project);
    let front = "---\ntitle: Glass\ntenant: acme\nacl: [staff, \"team, a\"]\nyear: 2026\n---\nSand melts into glass.\n";
    project.write("docs/glass.md", front);
    project.run(&["snapshot", "--json"]).ok();
    let report = project.run(&["restore", "--json"]).ok();
    let parts = parts(&project.path(".regrow/repository/vectors"));
    assert_eq!(parts.len() as u64, report["parts"].as_u64().unwrap());
    Some((project, report, parts))
}

fn parts(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(parts(&path)),
            path => found.push(path),
        }
    }
    found.sort();
    found
}

#[test]
fn parts_have_the_documented_schema_and_footer() {
    let Some((project, report, parts)) = restored() else { return };
    let manifest = project.run(&["show", "--json"]).ok()["manifest"].clone();
    let mut rows = 0;
    for part in &parts {
        let builder = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(part).unwrap()).unwrap();
        let columns: Vec<(String, DataType, bool)> = builder
            .schema()
            .fields()
            .iter()
            .map(|f| (f.name().clone(), f.data_type().clone(), f.is_nullable()))
            .collect();
        let expected = regrow::vectors::part_schema(384);
        let documented: Vec<_> =
            expected.fields().iter().map(|f| (f.name().clone(), f.data_type().clone(), f.is_nullable())).collect();
        assert_eq!(columns, documented);
        let names: Vec<&str> = columns.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "chunk_id",
                "document_id",
                "ordinal",
                "start",
                "end",
                "text",
                "title",
                "tenant",
                "acl",
                "metadata",
                "chunk_digest",
                "vector"
            ]
        );

        let file = builder.metadata().file_metadata();
        let footer: BTreeMap<String, String> = file
            .key_value_metadata()
            .unwrap()
            .iter()
            .map(|pair| (pair.key.clone(), pair.value.clone().unwrap_or_default()))
            .collect();
        assert_eq!(footer["regrow.format"], "1");
        assert_eq!(footer["regrow.part"], part.file_name().unwrap().to_string_lossy());
        assert_eq!(footer["regrow.model_fingerprint"], manifest["model_fingerprint"].as_str().unwrap());
        assert_eq!(footer["regrow.rules_fingerprint"], manifest["rules_fingerprint"].as_str().unwrap());
        assert_eq!(footer["regrow.content"].len(), 64);
        assert!(file.created_by().unwrap().starts_with("regrow "), "{:?}", file.created_by());
        // The folders repeat the fingerprints.
        let folders: Vec<&str> =
            part.ancestors().skip(1).take(2).map(|f| f.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(folders, [&footer["regrow.rules_fingerprint"], &footer["regrow.model_fingerprint"]]);

        for batch in builder.build().unwrap() {
            let batch = batch.unwrap();
            rows += batch.num_rows();
            let text = |name: &str, row: usize| {
                let column = batch.column_by_name(name).unwrap().as_string::<i32>();
                (!column.is_null(row)).then(|| column.value(row).to_owned())
            };
            let ordinals = batch.column_by_name("ordinal").unwrap().as_primitive::<UInt32Type>();
            let vectors = batch.column_by_name("vector").unwrap().as_fixed_size_list();
            let acls = batch.column_by_name("acl").unwrap().as_list::<i32>();
            for row in 0..batch.num_rows() {
                let vector = vectors.value(row);
                let vector = vector.as_primitive::<Float32Type>().values();
                let length: f32 = vector.iter().map(|x| x * x).sum();
                assert!(vector.len() == 384 && (length - 1.0).abs() < 1e-4, "length {length}");
                let id: uuid::Uuid = text("chunk_id", row).unwrap().parse().unwrap();
                assert_eq!(id.get_version_num(), 5);
                assert_eq!(ordinals.value(row), 0);
                assert_eq!(text("chunk_digest", row).unwrap().len(), 64);
                if text("document_id", row).as_deref() == Some("glass.md") {
                    assert_eq!(text("title", row).as_deref(), Some("Glass"));
                    assert_eq!(text("tenant", row).as_deref(), Some("acme"));
                    assert_eq!(text("text", row).unwrap().trim(), "Sand melts into glass.");
                    assert_eq!(text("metadata", row).unwrap(), "{\"year\":2026}");
                    let acl = acls.value(row);
                    let acl: Vec<_> = acl.as_string::<i32>().iter().flatten().map(str::to_owned).collect();
                    assert_eq!(acl, ["staff", "team, a"]);
                } else {
                    assert_eq!((text("tenant", row), acls.value(row).len()), (None, 0));
                }
            }
        }
    }
    assert_eq!(rows as u64, report["chunks"].as_u64().unwrap());
}

/// Prints `rows first_dimension columns` of the part in `argv[2]`, read by the library in `argv[1]`.
const READ: &str = r#"
import sys
library, path = sys.argv[1:3]
if library == "pyarrow":
    import pyarrow.parquet as pq
    table = pq.read_table(path)
    rows, names, vector = table.num_rows, table.column_names, table["vector"][0].as_py()
    footer = pq.read_metadata(path).metadata
    assert footer[b"regrow.format"] == b"1", footer
elif library == "polars":
    import polars as pl
    table = pl.read_parquet(path)
    rows, names, vector = table.height, table.columns, table["vector"][0]
elif library == "pandas":
    import pandas as pd
    table = pd.read_parquet(path)
    rows, names, vector = len(table), list(table.columns), table["vector"][0]
else:
    import duckdb
    result = duckdb.execute("select * from read_parquet(?)", [path])
    names = [column[0] for column in result.description]
    first, *others = result.fetchall()
    rows, vector = 1 + len(others), first[names.index("vector")]
assert abs(sum(x * x for x in vector) - 1) < 1e-3, vector
print(rows, len(vector), ",".join(names))
"#;

#[test]
fn parts_are_readable_by_other_readers() {
    let Some((_project, report, parts)) = restored() else { return };
    let mut readers = 0;
    for library in ["pyarrow", "pandas", "polars", "duckdb"] {
        let python =
            |code: &str, arguments: &[&str]| Command::new("python3").args(["-c", code]).args(arguments).output();
        let engine = if library == "pandas" { "pandas, pyarrow" } else { library };
        if !python(&format!("import {engine}"), &[]).is_ok_and(|o| o.status.success()) {
            eprintln!("skipped: python3 has no {library}");
            continue;
        }
        readers += 1;
        let mut rows = 0;
        for part in &parts {
            let output = python(READ, &[library, part.to_str().unwrap()]).unwrap();
            assert!(output.status.success(), "{library}: {}", String::from_utf8_lossy(&output.stderr));
            let said = String::from_utf8(output.stdout).unwrap();
            let fields: Vec<&str> = said.split_whitespace().collect();
            rows += fields[0].parse::<u64>().unwrap();
            assert_eq!(fields[1], "384", "{library}");
            assert!(
                fields[2].starts_with("chunk_id,document_id,") && fields[2].ends_with(",vector"),
                "{library}: {said}"
            );
        }
        assert_eq!(rows, report["chunks"].as_u64().unwrap(), "{library}");
    }
    if readers == 0 {
        eprintln!("skipped: python3 with pyarrow, pandas, polars or duckdb is not here");
    }
}
