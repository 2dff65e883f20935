//! Corpora of records: JSONL, CSV and Parquet keep their fields and types, filters hold, and an append embeds only
//! what is new.

use std::fs::File;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
    TimestampMillisecondArray,
};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use crate::common::Project;
use crate::project_or_skip;

/// Adds the reading of record files with this pattern to the pipeline.
fn records(project: &Project, include: &str, more: &str) {
    let mut pipeline = std::fs::read_to_string(project.path("regrow.toml")).unwrap();
    pipeline += &format!(
        "\n[[corpus.records]]\ninclude = [\"{include}\"]\nid = \"id\"\ntext = [\"text\"]\ntitle = \"title\"\n\
         tenant = \"tenant\"\nacl = \"acl\"\n{more}\n"
    );
    project.write("regrow.toml", pipeline);
}

fn restore(project: &Project) -> Value {
    project.run(&["snapshot", "--json"]).ok();
    project.run(&["restore", "--json"]).ok()
}

/// Document ids that a query finds, sorted.
fn found(project: &Project, arguments: &[&str]) -> Vec<String> {
    let report = project.run(&[&["query", "-k", "100", "--json"][..], arguments].concat()).ok();
    let mut ids: Vec<String> =
        report["hits"].as_array().unwrap().iter().map(|h| h["document_id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

const METADATA: &str = "metadata = [\"*\"]";

#[test]
fn jsonl_records_keep_their_types() {
    let project = project_or_skip!();
    records(&project, "**/*.jsonl", METADATA);
    let metadata = json!({
        "year": 2026, "large": 9_007_199_254_740_993_u64, "price": 0.1, "tiny": 1e-300, "draft": false, "none": null,
        "tags": ["a", "b"], "nested": {"deep": {"n": -7}}, "when": "2026-01-02T03:04:05Z", "text with spaces": "é漢😀",
    });
    let mut first = json!({
        "id": "r1", "text": "Ships wait for the tide.", "title": "Harbour", "tenant": "acme", "acl": ["staff", "crew"],
    });
    first.as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
    let second = json!({"id": 2, "text": "Flour and yeast.", "title": null, "tenant": 7, "acl": "staff, guests"});
    let third = json!({"id": "r3", "text": "Distant stars."});
    project.write("docs/sub/r.jsonl", format!("{first}\r\n\n{second}\n{third}"));
    let report = restore(&project);
    assert_eq!((&report["documents"], &report["chunks"]), (&3.into(), &3.into()));

    let payloads = project.payloads();
    let of = |id: &str| payloads.iter().find(|p| p["document_id"] == format!("sub/r.jsonl#{id}")).unwrap();
    let r1 = of("r1");
    assert_eq!(r1["metadata"], metadata);
    assert_eq!((&r1["title"], &r1["tenant"]), (&"Harbour".into(), &"acme".into()));
    assert_eq!((&r1["acl"], &r1["text"]), (&json!(["staff", "crew"]), &"Ships wait for the tide.".into()));
    assert_eq!((&r1["ordinal"], &r1["start"], &r1["end"]), (&0.into(), &0.into(), &24.into()));
    let r2 = of("2");
    assert_eq!((&r2["tenant"], &r2["acl"]), (&"7".into(), &json!(["staff", "guests"])));
    assert!(r2.get("title").is_none_or(Value::is_null), "{r2}");
    let r3 = of("r3");
    assert!(r3.get("tenant").is_none_or(Value::is_null), "{r3}");

    let hits = project.run(&["query", "tides", "-k", "1", "--json"]).ok();
    assert_eq!(hits["hits"][0]["document_id"], "sub/r.jsonl#r1");
    assert_eq!((&hits["hits"][0]["metadata"], &hits["hits"][0]["title"]), (&metadata, &"Harbour".into()));
}

#[test]
fn a_query_never_leaves_its_tenant_or_acl() {
    let project = project_or_skip!();
    records(&project, "**/*.jsonl", METADATA);
    let mut lines = String::new();
    for i in 0..40 {
        let (tenant, lang) = (["acme", "globex", "initech", "acme2"][i % 4], ["en", "de"][i / 4 % 2]);
        let acl: &[&str] = [&["staff"][..], &["staff", "boss"], &["boss"], &[], &["guest"]][i % 5];
        let record = json!({
            "id": i, "text": format!("The tide table of harbour number {i}."), "tenant": tenant, "acl": acl, "lang": lang,
            "year": 2000 + i, "open": i % 2 == 0, "place": {"city": (["Kiel", "Brest"][i % 2])},
        });
        lines += &format!("{record}\n");
    }
    project.write("docs/r.jsonl", lines);
    restore(&project);
    let ids = |wanted: &dyn Fn(usize) -> bool| {
        let mut ids: Vec<String> = (0..40).filter(|i| wanted(*i)).map(|i| format!("r.jsonl#{i}")).collect();
        ids.sort();
        ids
    };
    for more in [&[][..], &["--exact"]] {
        let ask = |arguments: &[&str]| found(&project, &[&["tide table"][..], arguments, more].concat());
        assert_eq!(ask(&[]), ids(&|_| true));
        assert_eq!(ask(&["--tenant", "acme"]), ids(&|i| i % 4 == 0));
        assert_eq!(ask(&["--tenant", "globex"]), ids(&|i| i % 4 == 1));
        assert!(ask(&["--tenant", "ACME"]).is_empty());
        assert!(ask(&["--tenant", ""]).is_empty());
        assert_eq!(ask(&["--acl", "boss"]), ids(&|i| matches!(i % 5, 1 | 2)));
        assert_eq!(ask(&["--acl", "guest", "--acl", "boss"]), ids(&|i| matches!(i % 5, 1 | 2 | 4)));
        assert_eq!(ask(&["--acl", "staff", "--tenant", "acme"]), ids(&|i| i % 4 == 0 && matches!(i % 5, 0 | 1)));
        assert_eq!(ask(&["--where", "metadata.lang=de"]), ids(&|i| i / 4 % 2 == 1));
        assert_eq!(ask(&["--where", "metadata.year=2003"]), ids(&|i| i == 3));
        assert_eq!(ask(&["--where", "metadata.open=true"]), ids(&|i| i % 2 == 0));
        assert_eq!(ask(&["--where", "metadata.place.city=Kiel"]), ids(&|i| i % 2 == 0));
        assert_eq!(
            ask(&["--where", "metadata.lang=de", "--where", "metadata.open=false", "--tenant", "globex"]),
            ids(&|i| i / 4 % 2 == 1 && i % 2 == 1 && i % 4 == 1)
        );
        assert_eq!(ask(&["--where", "document_id=r.jsonl#9"]), ids(&|i| i == 9));
        assert!(ask(&["--where", "metadata.nothing=1"]).is_empty());
    }
}

#[test]
fn payload_indexes_do_not_change_what_is_found() {
    let project = project_or_skip!();
    records(&project, "**/*.jsonl", METADATA);
    let lines: String = (0..20)
        .map(|i| {
            format!(
                "{}\n",
                json!({"id": i, "text": format!("Harbour {i}"), "year": 2000 + i, "lang": (["en", "de"][i % 2])})
            )
        })
        .collect();
    project.write("docs/r.jsonl", lines);
    restore(&project);
    let conditions = ["metadata.year=2004", "metadata.lang=de", "metadata.lang=fr"];
    let plain = conditions.map(|c| found(&project, &["harbour", "--where", c]));
    assert_eq!([plain[0].len(), plain[1].len(), plain[2].len()], [1, 10, 0]);
    let set = [
        "--set",
        "target.payload_indexes.\"metadata.year\"=integer",
        "--set",
        "target.payload_indexes.\"metadata.lang\"=keyword",
    ];
    let report = project.run(&[&["restore", "--json"][..], &set].concat()).ok();
    assert_eq!(report["chunks_embedded"], 0);
    assert_eq!(report["target"]["reused"], false, "another configuration is another collection");
    assert_eq!(conditions.map(|c| found(&project, &["harbour", "--where", c])), plain);
}

#[test]
fn csv_records_are_text() {
    let project = project_or_skip!();
    records(&project, "**/*.csv", "metadata = [\"year\", \"lang\"]\ndelimiter = \";\"");
    project.write(
        "docs/r.csv",
        "id;text;title;tenant;acl;year;lang;unused\n\
         1;\"Ships; tides,\nand \"\"harbours\"\".\";Harbour;acme;staff, crew;2026;en;x\n\
         2;Flour and yeast.;;globex;;;de;y\n",
    );
    let report = restore(&project);
    assert_eq!(report["documents"], 2);
    let payloads = project.payloads();
    assert_eq!(payloads[0]["text"], "Ships; tides,\nand \"harbours\".");
    assert_eq!((&payloads[0]["title"], &payloads[0]["tenant"]), (&"Harbour".into(), &"acme".into()));
    assert_eq!(
        (&payloads[0]["acl"], &payloads[0]["metadata"]),
        (&json!(["staff", "crew"]), &json!({"year": "2026", "lang": "en"}))
    );
    assert!(payloads[1].get("title").is_none_or(Value::is_null), "{}", payloads[1]);
    assert_eq!((&payloads[1]["document_id"], &payloads[1]["tenant"]), (&"r.csv#2".into(), &"globex".into()));
    assert_eq!(found(&project, &["ships", "--tenant", "acme"]), ["r.csv#1"]);
    assert_eq!(found(&project, &["ships", "--where", "metadata.lang=de"]), ["r.csv#2"]);
    // A number in quotes asks for text.
    assert_eq!(found(&project, &["ships", "--where", "metadata.year=\"2026\""]), ["r.csv#1"]);
}

fn write_parquet(project: &Project, relative: &str) {
    let mut acl = ListBuilder::new(StringBuilder::new());
    for principals in [&["staff", "a, b"][..], &[], &["guest"]] {
        for principal in principals {
            acl.values().append_value(principal);
        }
        acl.append(true);
    }
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![10, 20, 30]))),
        ("text", Arc::new(StringArray::from(vec!["Ships and tides.", "Flour and yeast.", "Distant stars."]))),
        ("title", Arc::new(StringArray::from(vec![Some("Harbour"), None, Some("Stars")]))),
        ("tenant", Arc::new(StringArray::from(vec!["acme", "globex", "acme"]))),
        ("acl", Arc::new(acl.finish())),
        ("year", Arc::new(Int64Array::from(vec![Some(2024), Some(i64::MAX), None]))),
        ("price", Arc::new(Float64Array::from(vec![0.1, -2.5, 1e300]))),
        ("open", Arc::new(BooleanArray::from(vec![true, false, true]))),
        ("seen", Arc::new(TimestampMillisecondArray::from(vec![0, 1_500, 1_767_323_045_000]).with_timezone("UTC"))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(project.path(relative)).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn parquet_records_keep_their_types() {
    let project = project_or_skip!();
    records(&project, "**/*.parquet", METADATA);
    write_parquet(&project, "docs/r.parquet");
    let report = restore(&project);
    assert_eq!(report["documents"], 3);
    let payloads = project.payloads();
    assert_eq!(payloads[0]["document_id"], "r.parquet#10");
    assert_eq!(
        payloads[0]["metadata"],
        json!({"year": 2024, "price": 0.1, "open": true, "seen": "1970-01-01T00:00:00Z"})
    );
    assert_eq!(payloads[0]["acl"], json!(["staff", "a, b"]));
    assert_eq!(
        payloads[1]["metadata"],
        json!({"year": i64::MAX, "price": -2.5, "open": false, "seen": "1970-01-01T00:00:01.5Z"})
    );
    assert!(payloads[1].get("title").is_none_or(Value::is_null), "{}", payloads[1]);
    assert_eq!((&payloads[2]["metadata"]["year"], &payloads[2]["metadata"]["price"]), (&Value::Null, &json!(1e300)));
    assert_eq!(found(&project, &["ships", "--tenant", "acme"]), ["r.parquet#10", "r.parquet#30"]);
    assert_eq!(found(&project, &["ships", "--acl", "a, b"]), ["r.parquet#10"]);
    assert_eq!(found(&project, &["ships", "--where", "metadata.open=false"]), ["r.parquet#20"]);
    assert_eq!(found(&project, &["ships", &format!("--where=metadata.year={}", i64::MAX)]), ["r.parquet#20"]);
}

#[test]
fn an_appended_record_embeds_only_itself_and_the_older_snapshot_stays_restorable() {
    let project = project_or_skip!();
    records(&project, "**/*.jsonl", METADATA);
    let line = |i: usize, text: &str| format!("{}\n", json!({"id": i, "text": text, "year": 2000 + i}));
    let mut lines: String = (0..5).map(|i| line(i, &format!("Harbour number {i} has tides."))).collect();
    project.write("docs/r.jsonl", &lines);
    let first = restore(&project);
    assert_eq!((&first["documents"], &first["chunks_embedded"]), (&5.into(), &5.into()));

    lines += &line(5, "A telescope gathers light.");
    project.write("docs/r.jsonl", &lines);
    let second = restore(&project);
    assert_eq!((&second["documents"], &second["chunks"]), (&6.into(), &6.into()));
    assert_eq!((&second["chunks_embedded"], &second["chunks_reused"]), (&1.into(), &5.into()), "{second}");
    assert_eq!(found(&project, &["telescope"]).len(), 6);

    // From the parts that are there, and from nothing.
    let older = first["snapshot"].as_str().unwrap();
    let again = project.run(&["restore", "-s", older, "--json"]).ok();
    assert_eq!((&again["chunks_embedded"], &again["target"]["count"]), (&0.into(), &5.into()));
    assert_eq!(again["vector_set"], first["vector_set"]);
    for folder in [".regrow/database", ".regrow/repository/vectors", ".regrow/repository/vector-sets"] {
        std::fs::remove_dir_all(project.path(folder)).unwrap();
    }
    let again = project.run(&["restore", "-s", older, "--json"]).ok();
    assert_eq!((&again["chunks_embedded"], &again["target"]["count"]), (&5.into(), &5.into()), "{again}");
    assert_eq!(again["vector_set"], first["vector_set"]);
    assert!(again["differences"].as_array().unwrap().is_empty());
    assert!(!found(&project, &["telescope"]).contains(&"r.jsonl#5".to_owned()));

    // A record that went away or changed is missed by name.
    std::fs::remove_dir_all(project.path(".regrow/repository/vectors")).unwrap();
    project.write(
        "docs/r.jsonl",
        lines.replace("Harbour number 3", "Harbour number three").replace(&line(1, "Harbour number 1 has tides."), ""),
    );
    let document = project.run(&["restore", "--fresh", "-s", older, "--json"]).failed(10);
    assert_eq!(document["error"]["kind"], "corpus_differs");
    let named = document["error"]["context"]["document"].to_string();
    assert!(named.contains("r.jsonl#1 (vanished") && named.contains("r.jsonl#3 (changed"), "{document}");
    let report = project.run(&["restore", "--fresh", "-s", older, "--on-changed", "skip", "--json"]).ok();
    assert_eq!((&report["documents"], &report["documents_skipped"]), (&3.into(), &2.into()));
}

#[test]
fn front_matter_paths_and_records_share_one_corpus() {
    let project = project_or_skip!();
    records(&project, "**/*.jsonl", METADATA);
    project.write(
        "docs/acme/guide/a.md",
        "---\ntitle: Guide\nacl: [staff]\nyear: 2026\n---\n# Heading\n\nShips and tides.\n",
    );
    project.write("docs/globex/guide/b.html", "<html><title>Page</title><body><p>Flour &amp; yeast.</p></body></html>");
    project.write(
        "docs/acme/log/r.jsonl",
        "{\"id\":1,\"text\":\"Distant stars.\"}\n{\"id\":2,\"text\":\"Light.\",\"tenant\":\"own\"}\n",
    );
    project.write("docs/globex/empty.txt", "");
    project.run(&["snapshot", "--json", "--set", "corpus.path_metadata={tenant}/{kind}/**"]).ok();
    let report = project.run(&["restore", "--json"]).ok();
    // An empty document is a document without chunks.
    assert_eq!((&report["documents"], &report["chunks"]), (&5.into(), &4.into()), "{report}");
    let payloads = project.payloads();
    let by = |id: &str| payloads.iter().find(|p| p["document_id"] == id).unwrap_or_else(|| panic!("no {id}"));
    let a = by("acme/guide/a.md");
    assert_eq!((&a["tenant"], &a["title"], &a["acl"]), (&"acme".into(), &"Guide".into(), &json!(["staff"])));
    assert_eq!(a["metadata"], json!({"kind": "guide", "year": 2026}));
    let b = by("globex/guide/b.html");
    assert_eq!((&b["tenant"], &b["title"]), (&"globex".into(), &"Page".into()));
    assert!(b["text"].as_str().unwrap().contains("Flour & yeast."), "{b}");
    assert_eq!(by("acme/log/r.jsonl#1")["tenant"], "acme");
    assert_eq!(by("acme/log/r.jsonl#2")["tenant"], "own");
    let mut acme = found(&project, &["stars", "--tenant", "acme"]);
    acme.sort();
    assert_eq!(acme, ["acme/guide/a.md", "acme/log/r.jsonl#1"]);
}
