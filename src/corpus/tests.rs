use std::fs;
use std::io::Write;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, DictionaryArray, Float32Array, Int64Array, ListBuilder, StringArray, StringBuilder,
    StructArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int32Type};
use arrow::record_batch::RecordBatch;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::{Value, json};

use super::*;

fn settings(toml: &str) -> CorpusSettings {
    toml::from_str(&format!("url = 'corpus'\n{toml}")).unwrap()
}

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("corpus")).unwrap();
        let fixture = Self { dir };
        for (path, bytes) in files {
            let file = fixture.path(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, bytes).unwrap();
        }
        fixture
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join("corpus").join(path)
    }

    fn open(&self, toml: &str) -> Corpus {
        Corpus::open(&settings(toml), self.dir.path()).unwrap()
    }
}

async fn paths(corpus: &Corpus) -> Vec<String> {
    let mut paths: Vec<String> = corpus.list().map_ok(|o| o.path).try_collect().await.unwrap();
    paths.sort();
    paths
}

async fn all(corpus: &Corpus, path: &str) -> Vec<Result<Document>> {
    let object = corpus.head(path).await.unwrap().unwrap();
    corpus.read(&object).collect().await
}

/// Ids of the good ones; message, place and kind of the bad ones.
fn outline(items: &[Result<Document>]) -> Vec<String> {
    items
        .iter()
        .map(|item| match item {
            Ok(d) => d.id.clone(),
            Err(e) => {
                assert!(e.context_value("file").is_some(), "{e}");
                let at = e.context_value("line").or(e.context_value("row")).unwrap_or("-");
                format!("{} {at}: {}", e.kind().name(), e.message())
            }
        })
        .collect()
}

#[tokio::test]
async fn a_directory_is_listed_and_read() {
    let f = Fixture::new(&[
        ("a.md", b"# A\n"),
        ("sub/b%20 c#1.txt", b"odd name"),
        ("sub/d#2", b"no extension"),
        ("e.png", b"x"),
        (".hidden/f.md", b"x"),
        ("drafts/g.md", b"x"),
        ("naïve ~\\\n.md", b"x"),
    ]);
    let corpus = f.open("exclude = ['drafts']");
    assert_eq!(paths(&corpus).await, ["a.md", "naïve ~\\\n.md", "sub/b%20 c#1.txt"]);
    for path in paths(&corpus).await {
        let documents = all(&corpus, &path).await;
        assert_eq!(documents[0].as_ref().unwrap().path, path);
    }
    assert_eq!(paths(&f.open("include = ['d#*']")).await, ["sub/d#2"]);
    assert!(!corpus.holds_records("a.md"));
    assert_eq!(corpus.head("gone.md").await.unwrap(), None);
    assert_eq!(corpus.head("../corpus/a.md").await.unwrap(), None);
    let object = corpus.head("a.md").await.unwrap().unwrap();
    assert!(object.size == 4 && object.modified > 1_500_000_000_000_000);
    fs::remove_file(f.path("a.md")).unwrap();
    let items: Vec<_> = corpus.read(&object).collect().await;
    assert_eq!(outline(&items), ["bad_document -: the object is gone"]);
}

#[cfg(unix)]
#[tokio::test]
async fn links_are_followed_and_problems_named() {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    let f = Fixture::new(&[("a/b/x.md", b"x"), ("a/c.md", b"c")]);
    symlink(f.path("a"), f.path("a/b/loop")).unwrap();
    symlink(f.path("a/c.md"), f.path("link.md")).unwrap();
    symlink(f.path("a/b"), f.path("dir")).unwrap();
    symlink(f.path("nowhere"), f.path("broken.md")).unwrap();
    symlink(f.path("nowhere"), f.path("unmounted")).unwrap();
    symlink(f.path("self.md"), f.path("self.md")).unwrap();
    symlink(f.path("nowhere"), f.path("broken.png")).unwrap();
    fs::write(f.path("a").join(std::ffi::OsStr::from_bytes(b"\xFF.md")), b"x").unwrap();
    let corpus = f.open("");
    let items: Vec<_> = corpus.list().collect().await;
    let mut good: Vec<_> = items.iter().filter_map(|i| i.as_ref().ok()).map(|o| o.path.as_str()).collect();
    good.sort_unstable();
    // `dir/loop` leads to `a`, which `dir` itself is not in: its content is listed once more, then it ends.
    assert!(good.starts_with(&["a/b/x.md", "a/c.md"]) && good.ends_with(&["dir/x.md", "link.md"]), "{good:?}");
    let mut bad: Vec<_> =
        items.iter().filter_map(|i| i.as_ref().err()).map(|e| e.context_value("file").unwrap()).collect();
    bad.sort_unstable();
    bad.dedup();
    assert_eq!(bad, ["a/\u{FFFD}.md", "broken.md", "dir/loop/\u{FFFD}.md", "self.md", "unmounted"]);
}

#[cfg(unix)]
#[tokio::test]
async fn what_may_not_be_read_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let f = Fixture::new(&[("a.md", b"x"), ("locked/b.md", b"x"), ("c.md", b"x")]);
    let mode = |path: &str, mode| fs::set_permissions(f.path(path), fs::Permissions::from_mode(mode)).unwrap();
    mode("locked", 0);
    mode("a.md", 0);
    if fs::read(f.path("a.md")).is_ok() {
        println!("skipped: this user may read everything");
        mode("locked", 0o755);
        return;
    }
    let corpus = f.open("");
    let items: Vec<_> = corpus.list().collect().await;
    let bad: Vec<_> = items.iter().filter_map(|i| i.as_ref().err()).collect();
    assert_eq!((items.len(), bad.len()), (3, 1));
    assert_eq!((bad[0].kind(), bad[0].context_value("file")), (ErrorKind::BadDocument, Some("locked")));
    assert_eq!(outline(&all(&corpus, "a.md").await), ["bad_document -: a file of the corpus cannot be read"]);
    mode("locked", 0o755);
}

#[tokio::test]
async fn a_missing_corpus_is_a_configuration_error() {
    let dir = tempfile::tempdir().unwrap();
    let open = |url: &str| {
        let mut s = settings("");
        s.url = url.to_owned();
        Corpus::open(&s, dir.path()).unwrap_err()
    };
    let e = open("nowhere");
    assert_eq!(e.kind(), ErrorKind::Configuration);
    assert!(e.next_step().is_some() && e.context_value("path").is_some());
    assert_eq!(open("").kind(), ErrorKind::Configuration);
    assert_eq!(open("ftp://host/x").kind(), ErrorKind::Configuration);
    fs::write(dir.path().join("file"), b"x").unwrap();
    assert_eq!(open("file").kind(), ErrorKind::Configuration);
    let e = open("https://user:secret@host.example:x/p?sig=secret");
    assert!(!format!("{e}{:?}", e.causes()).contains("secret"), "{e}");
}

#[test]
fn names_for_people_hold_no_secrets() {
    assert_eq!(place::display("s3://bucket/prefix"), "s3://bucket/prefix");
    assert_eq!(place::display("az://container@account/p?sv=1&sig=secret"), "az://container@account/p");
    assert_eq!(place::display("https://me:pw@host/p#x"), "https://host/p");
    assert_eq!(place::display("some/dir"), "some/dir");
}

#[tokio::test]
async fn documents_that_are_too_large_or_binary_are_bad() {
    let f = Fixture::new(&[
        ("a.md", b"0123456789"),
        ("b.md", b"0123456789x"),
        ("c.txt", b"a\0b"),
        ("d.md", b"---\na: [\n---\n"),
    ]);
    let corpus = f.open("max_document_bytes = 10");
    assert_eq!(outline(&all(&corpus, "a.md").await), ["a.md"]);
    assert_eq!(outline(&all(&corpus, "b.md").await), ["bad_document -: the document is larger than allowed"]);
    assert_eq!(outline(&all(&corpus, "c.txt").await), ["bad_document -: the file is binary, not text"]);
    let corpus = f.open("");
    assert!(outline(&all(&corpus, "d.md").await)[0].starts_with("bad_document "));
}

const ENTRY: &str = "max_document_bytes = 120\n[[records]]\ninclude = ['*.jsonl', '*.csv', '*.parquet']\nid = 'id'\n\
    text = ['title', 'body']\ntitle = 'title'\ntenant = 'org'\nacl = 'acl'\nmetadata = ['*']\n";

#[tokio::test]
async fn jsonl_goes_on_after_bad_lines() {
    let long = format!("{{\"id\": 9, \"body\": \"{}\"}}\n", "x".repeat(300_000));
    let lines = [
        "\u{FEFF}{\"id\": \"a\", \"title\": \"T\", \"body\": \"B\", \"org\": \"o\", \"acl\": [\"x\", 1], \"n\": {\"k\": [1.5, null]}}\r\n",
        "\r\n",
        "{\"id\": 7, \"body\": \"seven\", \"acl\": \"p, q\"}\n",
        "{not json}\n",
        "[1]\n",
        "{\"body\": \"no id\"}\n",
        "{\"id\": \"\", \"body\": \"x\"}\n",
        "{\"id\": 1.5, \"body\": \"x\"}\n",
        "{\"id\": \"c\", \"body\": null}\n",
        "{\"id\": \"d\", \"body\": {}}\n",
        &long,
        "{\"id\": \"bad utf8\n",
        "{\"id\": \"e\", \"body\": \"\"}",
    ];
    let mut bytes = lines.concat().into_bytes();
    let at = bytes.windows(8).position(|w| w == b"bad utf8").unwrap();
    bytes[at] = 0xFF;
    let f = Fixture::new(&[("x/r.jsonl", &bytes)]);
    let corpus = f.open(ENTRY);
    assert!(corpus.holds_records("x/r.jsonl"));
    let items = all(&corpus, "x/r.jsonl").await;
    assert_eq!(
        outline(&items),
        [
            "x/r.jsonl#a",
            "x/r.jsonl#7",
            "bad_document 4: the line is not a JSON object",
            "bad_document 5: the line is not a JSON object",
            "bad_document 6: the record has no id",
            "bad_document 7: the record's id is empty",
            "bad_document 8: a field has the wrong type",
            "bad_document 9: the record has no text",
            "bad_document 10: a field has the wrong type",
            "bad_document 11: the record is larger than allowed",
            "bad_document 12: the text is malformed in its encoding",
            "x/r.jsonl#e",
        ]
    );
    let d = items[0].as_ref().unwrap();
    assert_eq!(
        (d.text.as_str(), d.title.as_deref(), d.tenant.as_deref(), d.line),
        ("T\n\nB", Some("T"), Some("o"), Some(1))
    );
    assert_eq!(d.acl, ["x", "1"]);
    assert_eq!(Value::Object(d.metadata.clone()), json!({"n": {"k": [1.5, null]}}));
    assert_eq!(items[1].as_ref().unwrap().acl, ["p", "q"]);
    assert_eq!(items[11].as_ref().unwrap().text, "");
}

#[tokio::test]
async fn digests_see_every_field_and_nothing_else() {
    let line = |extra: &str| format!("{{\"id\": \"a\", \"body\": \"B\"{extra}}}\n");
    let read = async |text: String| {
        let f = Fixture::new(&[("r.jsonl", text.as_bytes())]);
        all(&f.open(ENTRY), "r.jsonl").await.remove(0).unwrap()
    };
    let plain = read(line("")).await;
    assert_eq!(plain.digest, read(format!("\n{}", line("").replace(": ", ":"))).await.digest);
    for extra in [", \"org\": \"o\"", ", \"acl\": \"x\"", ", \"m\": 1", ", \"title\": \"T\""] {
        let other = read(line(extra)).await;
        assert_ne!(plain.digest, other.digest, "{extra}");
        assert_eq!(plain.text_digest == other.text_digest, !extra.contains("title"), "{extra}");
    }
}

#[tokio::test]
async fn csv_knows_lines_and_goes_on() {
    let text = format!(
        "\u{FEFF}id;title;body;org;acl;n\r\n1;T;\"two\r\nlines; \"\"quoted\"\"\";o;a,b;5\r\n\r\n2;T;ragged\r\n3;T;x;o;;y;z;z;z;z\r\n4;;{};;;\r\n5;;last;;;",
        "long ".repeat(50_000)
    );
    let f = Fixture::new(&[("r.csv", text.as_bytes()), ("short.csv", b"id;body\n1;x\n"), ("empty.csv", b"")]);
    let corpus = f.open(&format!("{ENTRY}delimiter = ';'\n"));
    let items = all(&corpus, "r.csv").await;
    assert_eq!(
        outline(&items),
        [
            "r.csv#1",
            "bad_document 5: the record has another number of fields than the header",
            "bad_document 6: the record has another number of fields than the header",
            "bad_document 7: the record is larger than allowed",
            "r.csv#5",
        ]
    );
    let d = items[0].as_ref().unwrap();
    assert_eq!((d.text.as_str(), d.line), ("T\n\ntwo\r\nlines; \"quoted\"", Some(2)));
    assert_eq!((d.acl.as_slice(), &d.metadata["n"]), (["a".to_owned(), "b".to_owned()].as_slice(), &json!("5")));
    assert_eq!((items[4].as_ref().unwrap().line, items[4].as_ref().unwrap().title.clone()), (Some(8), None));
    let items = all(&corpus, "short.csv").await;
    let e = items[0].as_ref().unwrap_err();
    assert_eq!((e.kind(), e.context_value("column"), items.len()), (ErrorKind::Configuration, Some("title"), 1));
    assert!(all(&corpus, "empty.csv").await.is_empty());
}

#[tokio::test]
async fn records_may_be_in_a_configured_encoding() {
    let f = Fixture::new(&[("r.csv", b"id,body\n1,\xFCber\n2,\x81\n"), ("r.jsonl", b"\xFF\xFE{\0")]);
    let entry = "[[records]]\ninclude = ['*']\nid = 'id'\ntext = ['body']\n";
    let items = all(&f.open(&format!("encoding = 'windows-1252'\n{entry}")), "r.csv").await;
    assert_eq!(items[0].as_ref().unwrap().text, "über");
    let items = all(&f.open(entry), "r.csv").await;
    assert_eq!(outline(&items)[0], "bad_document 2: the text is malformed in its encoding");
    assert_eq!(outline(&all(&f.open(entry), "r.jsonl").await), ["bad_document -: the record file is in UTF-16"]);
    let items = all(&f.open(&format!("encoding = 'utf-16le'\n{entry}")), "r.csv").await;
    assert_eq!(items[0].as_ref().unwrap_err().kind(), ErrorKind::Configuration);
}

fn parquet_file() -> Vec<u8> {
    let ids: DictionaryArray<Int32Type> = vec![Some("a"), None, Some("c")].into_iter().collect();
    let mut acl = ListBuilder::new(StringBuilder::new());
    acl.append_value([Some("x"), Some("y")]);
    acl.append_null();
    acl.append_value([] as [Option<&str>; 0]);
    let inner: ArrayRef = Arc::new(Float32Array::from(vec![0.1, f32::INFINITY, 2.0]));
    let nested = StructArray::from(vec![(Arc::new(Field::new("f", DataType::Float32, true)), inner)]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(ids)),
        ("body", Arc::new(arrow::array::LargeStringArray::from(vec![Some("A"), Some("B"), Some("C")]))),
        ("title", Arc::new(arrow::array::StringViewArray::from(vec![None, Some("T"), Some("T")]))),
        ("org", Arc::new(Int64Array::from(vec![1, 2, 3]))),
        ("acl", Arc::new(acl.finish())),
        ("ok", Arc::new(BooleanArray::from(vec![true, false, true]))),
        ("when", Arc::new(TimestampMicrosecondArray::from(vec![0, 1, 2]).with_timezone("UTC"))),
        ("deep", Arc::new(nested)),
        ("text", Arc::new(StringArray::from(vec!["1", "2", "3"]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ::parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

fn check_parquet(items: &[Result<Document>]) {
    assert_eq!(outline(items), ["r.parquet#a", "bad_document 2: the record has no id", "r.parquet#c"]);
    let d = items[0].as_ref().unwrap();
    assert_eq!((d.text.as_str(), d.title.as_deref(), d.tenant.as_deref(), d.line), ("A", None, Some("1"), Some(1)));
    assert_eq!(d.acl, ["x", "y"]);
    let metadata = json!({"ok": true, "when": "1970-01-01T00:00:00Z", "deep": {"f": 0.1}, "text": "1"});
    assert_eq!(Value::Object(d.metadata.clone()), metadata);
}

#[tokio::test]
async fn parquet_rows_keep_their_types() {
    let bytes = parquet_file();
    let f = Fixture::new(&[("r.parquet", &bytes), ("cut.parquet", &bytes[..bytes.len() / 2])]);
    let corpus = f.open(ENTRY);
    check_parquet(&all(&corpus, "r.parquet").await);
    assert_eq!(outline(&all(&corpus, "cut.parquet").await), ["bad_document -: the Parquet file cannot be read"]);
    let narrow = f.open("[[records]]\ninclude = ['*.parquet']\nid = 'id'\ntext = ['body']\nmetadata = ['deep.f']");
    let items = all(&narrow, "r.parquet").await;
    assert_eq!(Value::Object(items[2].as_ref().unwrap().metadata.clone()), json!({"deep.f": 2.0}));
    let wrong = f.open("[[records]]\ninclude = ['*.parquet']\nid = 'id'\ntext = ['deep.g']");
    let e = all(&wrong, "r.parquet").await.remove(0).unwrap_err();
    assert_eq!((e.kind(), e.context_value("column")), (ErrorKind::Configuration, Some("deep.g")));
}

#[tokio::test]
async fn an_object_store_works_like_a_directory() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let long = "x".repeat(100);
    let lines: String = (0..50_000).map(|i| format!("{{\"id\": {i}, \"body\": \"{long}\"}}\n")).collect();
    for (path, bytes) in [
        ("p/a.md", b"# A".to_vec()),
        ("p/s/r.jsonl", lines.into_bytes()),
        ("p/r.parquet", parquet_file()),
        ("pq/b.md", vec![]),
        ("p/.h/c.md", vec![]),
    ] {
        store.put(&path.into(), bytes.into()).await.unwrap();
    }
    let mut s = settings(ENTRY);
    s.max_document_bytes = 1000;
    let corpus = Corpus::with_store(&s, store.clone(), "p".into()).unwrap();
    assert_eq!(paths(&corpus).await, ["a.md", "r.parquet", "s/r.jsonl"]);
    assert_eq!(all(&corpus, "a.md").await[0].as_ref().unwrap().title.as_deref(), Some("A"));
    check_parquet(&all(&corpus, "r.parquet").await);
    let items = all(&corpus, "s/r.jsonl").await;
    assert_eq!((items.len(), items[49_999].as_ref().unwrap().line), (50_000, Some(50_000)));
    assert_eq!(corpus.head("x.md").await.unwrap(), None);
    // A consumer that stops early stops the reading.
    let object = corpus.head("s/r.jsonl").await.unwrap().unwrap();
    let first: Vec<_> = corpus.read(&object).take(3).collect().await;
    assert_eq!(first.len(), 3);
    let gone = corpus.head("a.md").await.unwrap().unwrap();
    store.delete(&"p/a.md".into()).await.unwrap();
    let items: Vec<_> = corpus.read(&gone).collect().await;
    assert_eq!(outline(&items), ["bad_document -: the object is gone"]);
}

#[tokio::test]
async fn a_growing_file_is_held_to_the_limit() {
    let f = Fixture::new(&[("a.md", b"x")]);
    let corpus = f.open("max_document_bytes = 10");
    let object = corpus.head("a.md").await.unwrap().unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(f.path("a.md")).unwrap();
    file.write_all(&[b'x'; 100]).unwrap();
    let items: Vec<_> = corpus.read(&object).collect().await;
    assert_eq!(outline(&items), ["bad_document -: the document is larger than allowed"]);
}
