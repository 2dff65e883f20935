//! Corpus and repository on every kind of store: what object_store promises, what a repository needs beyond that, the
//! whole line with the binary, and the usual mistakes, against real servers.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, integration, path::Path as ObjectPath};
use regrow::corpus::Corpus;
use regrow::error::{Error, ErrorKind};
use regrow::ids::Digest;
use regrow::pipeline::CorpusSettings;
use regrow::repository::{Repository, Unlock};
use regrow::store;

use crate::common::{Project, Run};
use crate::servers::{Kind, Server};

type Options = Vec<(String, String)>;

fn connect(url: &str, options: &Options) -> Arc<dyn ObjectStore> {
    store::connect(url, Path::new("/"), options).unwrap_or_else(|e| panic!("{url}: {e} {:?}", e.causes()))
}

async fn repository(url: &str, options: &Options) -> Result<Repository, Error> {
    Repository::open_or_create(url, Path::new("/"), options, &Unlock::default()).await
}

/// object_store's own conformance suite, each part below a prefix of its own; without the parts that this server
/// fails and regrow does not need.
async fn object_store_conforms(kind: Kind, base: &str, options: &Options, versions: bool) {
    let at = |name: &str| connect(&format!("{base}/{name}"), options);
    // Azurite lists from the beginning, whatever it is asked to begin after.
    if kind != Kind::Azurite {
        integration::put_get_delete_list(&at("put_get_delete_list")).await;
        integration::list_with_offset_exclusivity(&at("offset")).await;
    }
    // Google's objects always have a generation, but earlier ones are kept only in buckets with versions.
    if kind != Kind::Gcs || versions {
        integration::get_opts(at("get_opts").as_ref()).await;
    }
    // MinIO creates an object that should have had a certain tag, and regrow only ever creates.
    if kind != Kind::Minio {
        integration::put_opts(at("put_opts").as_ref(), true).await;
    }
    integration::list_uses_directories_correctly(&at("directories")).await;
    integration::list_with_delimiter(&at("delimiter")).await;
    // object_store 0.13 mixes up the two ways of copying in Google's store; regrow copies nothing within a store.
    if kind != Kind::Gcs {
        integration::rename_and_copy(&at("rename")).await;
    }
    integration::multipart_out_of_order(at("out_of_order").as_ref()).await;
    if versions {
        let store = at("versions");
        let path = ObjectPath::from("x");
        let first = store.put(&path, "first".into()).await.unwrap();
        store.put(&path, "second".into()).await.unwrap();
        let options = object_store::GetOptions { version: first.version, ..Default::default() };
        assert_eq!(store.get_opts(&path, options).await.unwrap().bytes().await.unwrap().as_ref(), b"first");
    }
}

/// What a repository needs.
async fn repository_conforms(url: &str, options: &Options) {
    let opened = repository(url, options).await.unwrap_or_else(|e| panic!("{url}: {e} {:?}", e.causes()));
    // Opening it again is not creating it again.
    let again = repository(url, options).await.unwrap();

    // Exactly one of many writers wins, also when all write the same.
    for same in [false, true] {
        let name = format!("races/{same}.json");
        let writers = (0..16).map(|i| {
            let (repository, name) = (if i % 2 == 0 { opened.clone() } else { again.clone() }, name.clone());
            let bytes = if same { Bytes::from_static(b"all alike") } else { Bytes::from(format!("writer {i}")) };
            tokio::spawn(async move { repository.put_new(&name, bytes).await.map(|object| object.digest) })
        });
        let mut won = Vec::new();
        for ended in futures::future::join_all(writers).await {
            match ended.unwrap() {
                Ok(digest) => won.push(digest),
                Err(e) => assert_eq!(e.kind(), ErrorKind::AlreadyExists, "{e} {:?}", e.causes()),
            }
        }
        assert_eq!(won.len(), 1, "same: {same}");
        assert_eq!(won[0], Digest::of(&opened.get(&name).await.unwrap()));
    }

    // Written, listed, read, damaged, deleted.
    let object = opened.put_new("a/b/c.json", Bytes::from_static(b"contents")).await.unwrap();
    assert_eq!(opened.get_checked(&object).await.unwrap().as_ref(), b"contents");
    let listed: Vec<_> = opened.list("a").try_collect().await.unwrap();
    assert_eq!(listed.iter().map(|(name, size, _)| (name.as_str(), *size)).collect::<Vec<_>>(), [("a/b/c.json", 8)]);
    assert_eq!(opened.get_optional("a/none").await.unwrap(), None);
    assert_eq!(opened.get("a/none").await.unwrap_err().kind(), ErrorKind::NotFound);
    let raw = connect(url, options);
    raw.put(&ObjectPath::from("a/b/c.json"), "c0ntents".into()).await.unwrap();
    assert_eq!(opened.get_checked(&object).await.unwrap_err().kind(), ErrorKind::Damaged);
    opened.delete("a/b/c.json").await.unwrap();
    opened.delete("a/b/c.json").await.unwrap();
    assert_eq!(opened.get_optional("a/b/c.json").await.unwrap(), None);

    // A large one; a second writer of it is refused and changes nothing.
    let large =
        Bytes::from((0..(33 << 20)).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>());
    let object = opened.put_new("large.bin", large.clone()).await.unwrap();
    assert_eq!(opened.get_checked(&object).await.unwrap(), large);
    let other = Bytes::from(vec![7; 33 << 20]);
    assert_eq!(opened.put_new("large.bin", other).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(opened.get_checked(&object).await.unwrap(), large);
    opened.delete("large.bin").await.unwrap();

    // Many objects: more than one page of a listing on the smaller stores is not needed, but order and number are.
    futures::stream::iter(0..60)
        .map(|i| opened.put_new(Box::leak(format!("many/{i:03}").into_boxed_str()), Bytes::from(vec![1; i])))
        .buffer_unordered(16)
        .try_collect::<Vec<_>>()
        .await
        .unwrap();
    let names: BTreeSet<_> = opened.list("many").map_ok(|(name, ..)| name).try_collect().await.unwrap();
    assert_eq!(names.len(), 60);
}

/// Two writers of a large object at once: one wins as a whole.
async fn large_objects_are_not_replaced(url: &str, options: &Options) {
    let opened = repository(url, options).await.unwrap();
    let two = [3, 4].map(|byte| {
        let (repository, bytes) = (opened.clone(), Bytes::from(vec![byte; 33 << 20]));
        tokio::spawn(async move { repository.put_new("both.bin", bytes).await.map(|object| object.digest) })
    });
    let ended = futures::future::join_all(two).await;
    let won: Vec<_> = ended.into_iter().filter_map(|e| e.unwrap().ok()).collect();
    assert_eq!(won, [Digest::of(&opened.get("both.bin").await.unwrap())]);
    opened.delete("both.bin").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let none = Options::new();
    integration::put_get_delete_list(&connect(&at("a"), &none)).await;
    integration::put_opts(connect(&at("b"), &none).as_ref(), false).await;
    integration::list_with_delimiter(&connect(&format!("file://{}", at("c")), &none)).await;
    let repository = at("repository");
    repository_conforms(&repository, &none).await;
    large_objects_are_not_replaced(&repository, &none).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    let store = connect("memory:///", &Options::new());
    integration::put_get_delete_list(&store).await;
    integration::put_opts(store.as_ref(), true).await;
    // A second writer of a repository in memory: over the same store.
    let one = Repository::over(store.clone(), "memory");
    one.put_new("x", Bytes::from_static(b"1")).await.unwrap();
    let two = Repository::over(store, "memory");
    assert_eq!(two.put_new("x", Bytes::from_static(b"1")).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
}

/// A pipeline with corpus and repository on the server, its documents written there.
struct Line {
    project: Project,
    environment: String,
}

impl Line {
    async fn new(server: &Server, corpus: &str, repository: &str) -> Option<Self> {
        let project = Project::new()?;
        let (table, environment) = server.settings();
        let text = format!(
            "name = \"test\"\n[corpus]\nurl = \"{}\"\n[[corpus.records]]\ninclude = [\"*.jsonl\"]\nid = \"id\"\ntext = [\"text\"]\n\
             [corpus.store]\n{table}[repository]\nurl = \"{}\"\n[repository.store]\n{table}[target]\nkind = \"embedded\"\npath = \"database\"\n",
            server.url(corpus, "docs"),
            server.url(repository, "deep/repo"),
        );
        project.write("regrow.toml", text);
        let environment = environment.iter().map(|(k, v)| format!("{k}='{v}' ")).collect();
        let line = Self { project, environment };
        let store = line.corpus(server, corpus);
        for (name, text) in [
            ("alpha.md", "# Alpha\n\nThe first document tells of backups and how they are tested.\n"),
            ("folder/beta.txt", "The second document tells of restores, drills and objectives.\n"),
            (
                "records.jsonl",
                "{\"id\":\"r1\",\"text\":\"a record about retention\"}\n{\"id\":\"r2\",\"text\":\"a record about keys\"}\n",
            ),
        ] {
            store.put(&ObjectPath::from(name), PutPayload::from_static(text.as_bytes())).await.unwrap();
        }
        Some(line)
    }

    fn corpus(&self, server: &Server, bucket: &str) -> Arc<dyn ObjectStore> {
        connect(&server.url(bucket, "docs"), &server.options())
    }

    fn run(&self, arguments: &str) -> Run {
        let run = self.project.shell(&format!("{}\"$REGROW\" {arguments} --json", self.environment));
        for secret in ["regrow-secret", "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6"] {
            assert!(!run.stdout.contains(secret) && !run.stderr.contains(secret), "{}", run.stdout);
        }
        run
    }
}

/// The whole line with corpus and repository on the store.
async fn line_runs(server: &Server, corpus: &str, repository: &str) {
    let Some(line) = Line::new(server, corpus, repository).await else { return };
    let doctor = line.run("doctor").ok();
    for name in [
        "corpus list",
        "repository list",
        "repository write",
        "repository create",
        "repository read",
        "repository delete",
    ] {
        let check = doctor["checks"].as_array().unwrap().iter().find(|c| c["name"] == name);
        assert_eq!(check.map(|c| &c["outcome"]), Some(&"pass".into()), "{name}: {doctor}");
    }
    let snapshot = line.run("snapshot").ok();
    assert_eq!(snapshot["documents"], 4, "{snapshot}");
    line.run("verify").ok();
    let restored = line.run("restore").ok();
    assert_eq!(restored["documents"], 4, "{restored}");
    let query = line.run("query 'how are restores tested'").ok();
    assert!(!query["hits"].as_array().unwrap().is_empty());
    // Nothing of the doctor's stays behind.
    let raw = connect(&server.url(repository, "deep/repo"), &server.options());
    assert!(raw.list(Some(&ObjectPath::from("doctor"))).next().await.is_none());
}

/// The corpus reads the version that an object names, tells which one it read, and falls back to what is there.
async fn versions_are_read(server: &Server, bucket: &str) {
    let store = connect(&server.url(bucket, "read"), &server.options());
    let settings: CorpusSettings = serde_json::from_value(serde_json::json!({
        "url": server.url(bucket, "read"), "records": [{"include": ["*.jsonl"], "id": "id", "text": ["text"]}],
    }))
    .unwrap();
    let corpus = Corpus::open_with(&settings, Path::new("/"), server.options()).unwrap();
    for name in ["a.txt", "b.jsonl"] {
        let text = |n: u32| format!("{{\"id\":\"1\",\"text\":\"version {n}\"}}\n");
        let path = ObjectPath::from(name);
        store.put(&path, text(1).into()).await.unwrap();
        let mut object = corpus.head(name).await.unwrap().unwrap();
        assert!(object.version.is_some(), "{name}: the answer says which version it is");
        let first: Vec<_> = corpus.read(&object).try_collect().await.unwrap();
        store.put(&path, text(22).into()).await.unwrap();
        let again: Vec<_> = corpus.read(&object).try_collect().await.unwrap();
        assert_eq!(again[0].text, first[0].text, "{name}");
        let pinned = corpus.pinned(&object).await.unwrap().unwrap();
        assert_eq!((pinned.size, &pinned.version), (object.size, &object.version));
        store.delete(&path).await.unwrap();
        assert_eq!(corpus.pinned(&object).await.unwrap().unwrap().size, object.size, "{name}: deleted since");
        assert_eq!(corpus.head(name).await.unwrap(), None);
        store.put(&path, text(333).into()).await.unwrap();
        object.version = None;
        assert_ne!(
            corpus.pinned(&object).await.unwrap().unwrap().size,
            object.size,
            "{name}: no version, as it is now"
        );
    }
}

/// Documents that are overwritten or deleted after a snapshot are restored as they were.
async fn versions_are_restored(server: &Server, corpus: &str, repository: &str) {
    let Some(line) = Line::new(server, corpus, repository).await else { return };
    line.run("snapshot").ok();
    let store = line.corpus(server, corpus);
    for name in ["alpha.md", "records.jsonl"] {
        store
            .put(&ObjectPath::from(name), "overwritten since, and much longer than it was before".into())
            .await
            .unwrap();
    }
    store.delete(&ObjectPath::from("folder/beta.txt")).await.unwrap();
    let restored = line.run("restore").ok();
    assert_eq!(restored["documents"], 4, "{restored}");
    assert_eq!(restored["differences"].as_array().map_or(0, Vec::len), 0, "{restored}");
    let payloads = tokio::task::block_in_place(|| line.project.payloads());
    let texts: Vec<String> = payloads.iter().map(|p| p["text"].as_str().unwrap().to_owned()).collect();
    for part in ["how they are tested", "drills and objectives", "about retention", "about keys"] {
        assert!(texts.iter().any(|t| t.contains(part)), "{part}: {texts:?}");
    }
    assert!(!texts.iter().any(|t| t.contains("overwritten")));
}

#[tokio::test(flavor = "multi_thread")]
async fn moto() {
    let Some(server) = Server::start(Kind::Moto) else { return };
    for bucket in ["conform", "repo", "docs"] {
        server.bucket(bucket).await;
    }
    object_store_conforms(server.kind, "s3://conform", &server.options(), false).await;
    repository_conforms("s3://repo/inner", &server.options()).await;
    // Not in parts: moto ignores the condition of the request that completes an upload.
    line_runs(&server, "docs", "repo").await;
    server.versioned("versions").await;
    versions_are_read(&server, "versions").await;
    versions_are_restored(&server, "versions", "repo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn minio() {
    let Some(server) = Server::start(Kind::Minio) else { return };
    for bucket in ["conform", "repo", "docs"] {
        server.bucket(bucket).await;
    }
    object_store_conforms(server.kind, "s3://conform", &server.options(), false).await;
    repository_conforms("s3://repo/inner", &server.options()).await;
    large_objects_are_not_replaced("s3://repo/inner", &server.options()).await;
    line_runs(&server, "docs", "repo").await;
    server.versioned("versions").await;
    object_store_conforms(server.kind, "s3://versions/conform", &server.options(), true).await;
    versions_are_read(&server, "versions").await;
    versions_are_restored(&server, "versions", "docs").await;
    mistakes(&server).await;
    locked(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azurite() {
    let Some(server) = Server::start(Kind::Azurite) else { return };
    for bucket in ["conform", "repo", "docs"] {
        server.bucket(bucket).await;
    }
    object_store_conforms(server.kind, "az://conform", &server.options(), false).await;
    repository_conforms("az://repo/inner", &server.options()).await;
    large_objects_are_not_replaced("az://repo/inner", &server.options()).await;
    line_runs(&server, "docs", "repo").await;
    let e = refused("az://missing/x", &server.options()).await;
    assert_eq!(e.kind(), ErrorKind::NotFound, "{e} {:?}", e.causes());
    let wrong = server.options_with(&[("account_key", "AAAA")]);
    assert_eq!(refused("az://repo/x", &wrong).await.kind(), ErrorKind::Denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn gcs() {
    let Some(server) = Server::start(Kind::Gcs) else { return };
    for bucket in ["conform", "repo", "docs"] {
        server.bucket(bucket).await;
    }
    object_store_conforms(server.kind, "gs://conform", &server.options(), false).await;
    for (name, run) in [("stream", true), ("attributes", false)] {
        let store = connect(&format!("gs://conform/{name}"), &server.options());
        if run { integration::stream_get(&store).await } else { integration::put_get_attributes(store.as_ref()).await }
    }
    repository_conforms("gs://repo/inner", &server.options()).await;
    large_objects_are_not_replaced("gs://repo/inner", &server.options()).await;
    line_runs(&server, "docs", "repo").await;
    server.versioned("versions").await;
    object_store_conforms(server.kind, "gs://versions/conform", &server.options(), true).await;
    versions_are_read(&server, "versions").await;
    versions_are_restored(&server, "versions", "repo").await;
    assert_eq!(refused("gs://missing/x", &server.options()).await.kind(), ErrorKind::NotFound);
}

/// Why a repository cannot be opened there.
async fn refused(url: &str, options: &Options) -> Error {
    repository(url, options).await.expect_err(url)
}

/// The usual mistakes, each with its own error.
async fn mistakes(server: &Server) {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (port, secure) = (server.port, format!("https://127.0.0.1:{}", server.port));
    for (what, url, changes, kind, next) in [
        ("region", "s3://repo/x", vec![("region", "us-east-1")], ErrorKind::Configuration, "eu-west-1"),
        ("key", "s3://repo/x", vec![("access_key_id", "nobody")], ErrorKind::Denied, "key and secret"),
        ("secret", "s3://repo/x", vec![("secret_access_key", "wrong-wrong")], ErrorKind::Denied, "key and secret"),
        ("bucket", "s3://missing/x", vec![], ErrorKind::NotFound, "does not create buckets"),
        (
            "refused",
            "s3://repo/x",
            vec![("endpoint", &*format!("http://127.0.0.1:{closed}"))],
            ErrorKind::Storage,
            "endpoint",
        ),
        ("name", "s3://repo/x", vec![("endpoint", "http://nowhere.invalid:9000")], ErrorKind::Storage, "DNS"),
        ("tls", "s3://repo/x", vec![("endpoint", &*secure)], ErrorKind::Configuration, "http://"),
        (
            "style",
            "s3://repo/x",
            vec![("endpoint", &*format!("http://repo.localhost:{port}")), ("virtual_hosted_style_request", "false")],
            ErrorKind::Configuration,
            "settings",
        ),
        ("anonymous", "s3://repo/x", vec![("skip_signature", "true")], ErrorKind::Denied, "read"),
    ] {
        let e = refused(url, &server.options_with(&changes)).await;
        let all = format!("{e} {e:?} {:?}", e.causes());
        assert_eq!(e.kind(), kind, "{what}: {all}");
        assert!(e.next_step().unwrap().contains(next), "{what}: {:?} {all}", e.next_step());
        assert!(!all.contains("regrow-secret") && !all.contains("Signature="), "{what}: {all}");
    }
    let unreachable = server.options_with(&[("endpoint", &format!("http://127.0.0.1:{closed}"))]);
    assert!(refused("s3://repo/x", &unreachable).await.retryable());

    // Somebody who may only read.
    let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":["*"]},"Action":["s3:GetObject"],"Resource":["arn:aws:s3:::repo/*"]}]}"#;
    server.send("PUT", "repo?policy=", &[], policy).await;
    let anonymous = server.options_with(&[("skip_signature", "true")]);
    let reader = repository("s3://repo/inner", &anonymous).await.unwrap();
    let denied = |e: Error, verb: &str| {
        assert_eq!(e.kind(), ErrorKind::Denied, "{e}");
        assert!(e.message().contains(verb), "{e}");
        assert!(!e.retryable());
    };
    denied(reader.list("a").try_collect::<Vec<_>>().await.unwrap_err(), "list");
    denied(reader.put_new("x", Bytes::from_static(b"x")).await.unwrap_err(), "write");
    denied(reader.delete("repository.json").await.unwrap_err(), "delete");

    // The same through the corpus, and as the binary tells it.
    let Some(line) = Line::new(server, "docs", "repo").await else { return };
    let failed = line.run("snapshot --set corpus.store.region=us-east-1").failed(2);
    assert_eq!(failed["error"]["kind"], "configuration", "{failed}");
    assert!(failed["error"]["next"].as_str().unwrap().contains("eu-west-1"), "{failed}");
    let failed = line.run("snapshot --set corpus.url=s3://missing/x").failed(2);
    assert_eq!(failed["error"]["kind"], "not_found", "{failed}");
    let report = line.run("doctor --set repository.store.access_key_id=env:TEST_SECRET_ACCESS_KEY").failed(2);
    let checks = report["checks"].as_array().unwrap();
    let repository = checks.iter().find(|c| c["name"] == "repository list").unwrap();
    assert_eq!(repository["outcome"], "fail", "{report}");
    assert!(repository["reason"].as_str().unwrap().contains("credentials"), "{report}");
    let failed = line.run("snapshot --set repository.store.reigon=x").failed(2);
    assert_eq!(failed["error"]["context"]["key"], "repository.store.reigon", "{failed}");
}

/// Versions under object lock are kept by the store, and the refusal says so.
async fn locked(server: &Server) {
    server.send("PUT", "locked", &[("x-amz-bucket-object-lock-enabled", "true")], "").await;
    let rule = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>COMPLIANCE</Mode>\
                <Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
    server.send("PUT", "locked?object-lock=", &[("content-md5", &md5_of(rule))], rule).await;
    let url = "s3://locked/repo";
    let opened = repository(url, &server.options()).await.unwrap();
    let object = opened.put_new("kept.json", Bytes::from_static(b"kept")).await.unwrap();
    // A plain delete only hides the version: the bytes stay.
    let raw = connect(url, &server.options());
    let location = ObjectPath::from("kept.json");
    let version = raw.head(&location).await.unwrap().version.expect("a version");
    opened.delete("kept.json").await.unwrap();
    assert_eq!(opened.get_optional("kept.json").await.unwrap(), None);
    let options = object_store::GetOptions { version: Some(version), ..Default::default() };
    let bytes = raw.get_opts(&location, options).await.unwrap().bytes().await.unwrap();
    assert_eq!(Digest::of(&bytes), object.digest);
}

/// Content-MD5 of a request that S3 wants one for; by `md5sum`, which every machine that runs these tests has.
fn md5_of(text: &str) -> String {
    use base64::Engine;
    use std::io::Write;
    let mut child = std::process::Command::new("md5sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("md5sum");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let hex = String::from_utf8_lossy(&output.stdout);
    let bytes: Vec<u8> = (0..16).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[test]
fn a_directory_that_may_not_be_written_is_denied() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let read_only = directory.path().join("repo");
    std::fs::create_dir(&read_only).unwrap();
    std::fs::set_permissions(&read_only, std::fs::Permissions::from_mode(0o555)).unwrap();
    // Root may write anywhere.
    let root = std::fs::write(read_only.join("x"), "x").is_ok();
    if root {
        eprintln!("skipped: this user may write anywhere; run the tests as another user");
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let e = runtime.block_on(refused(read_only.to_str().unwrap(), &Options::new()));
    assert_eq!((e.kind(), e.retryable()), (ErrorKind::Denied, false), "{e} {:?}", e.causes());
}
