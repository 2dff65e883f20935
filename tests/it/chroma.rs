//! Chroma beyond the conformance suite: faults, kills, and the whole way from a corpus to a search.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use regrow::ErrorKind;
use regrow::event::Events;
use regrow::model::Metric;
use regrow::secret::Secret;
use regrow::targets::chroma::{ChromaOptions, ChromaTarget};
use regrow::targets::conformance::{self, Case, Opener, Place};
use regrow::targets::wrappers::{Retry, RetryPolicy};
use regrow::targets::{CollectionSpec, Filter, Target};
use serde_json::{Value, json};

use crate::project_or_skip;
use crate::servers::{Proxy, Running, Trouble, answers};

/// One server for all tests of this process, which ends with it.
fn chroma() -> Option<u16> {
    static SERVER: OnceLock<Option<Running>> = OnceLock::new();
    let server = SERVER.get_or_init(|| Running::start("chroma", 1, is_ready));
    server.as_ref().map(|s| s.ports[0])
}

fn is_ready(port: u16) -> bool {
    answers(port, "/api/v2/heartbeat")
}

fn options(port: u16) -> ChromaOptions {
    ChromaOptions {
        timeout: Duration::from_secs(30),
        ..ChromaOptions::new(format!("http://127.0.0.1:{port}").parse().unwrap())
    }
}

/// A database of its own per case.
pub struct Chroma(u16);

impl Chroma {
    /// `None`, after a visible line, when it is not installed.
    pub fn running() -> Option<Self> {
        chroma().map(Self)
    }

    fn connect(&self, database: &str) -> ChromaTarget {
        ChromaTarget::new(&ChromaOptions { database: database.to_owned(), ..options(self.0) }).unwrap()
    }

    /// As another tool would.
    async fn send(&self, method: &str, database: &str, path: &str, body: &Value) -> (u16, Value) {
        let url = format!("http://127.0.0.1:{}/api/v2/tenants/default_tenant/databases{database}{path}", self.0);
        let request = reqwest::Client::new().request(method.parse().unwrap(), url).body(body.to_string());
        let answer = request.header("content-type", "application/json").send().await.unwrap();
        (answer.status().as_u16(), serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
    }
}

#[async_trait]
impl Opener for Chroma {
    async fn open(&self, place: &Place) -> Arc<dyn Target> {
        Arc::new(self.connect(&place.name))
    }

    async fn create_foreign(&self, place: &Place, spec: &CollectionSpec) -> bool {
        self.send("POST", "", "", &json!({"name": place.name})).await;
        let configuration = json!({"hnsw": {"space": "ip"}});
        let body = json!({"name": spec.name, "configuration": configuration, "metadata": {"theirs": 1}});
        self.send("POST", &format!("/{}", place.name), "/collections", &body).await.0 == 200
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_collection_in_chroma_holds() {
    let Some(open) = Chroma::running() else { return };
    let count = std::env::var("REGROW_LARGE").ok().and_then(|n| n.parse().ok()).unwrap_or(5000);
    conformance::a_large_collection_holds(&Case::new(Arc::new(open)), count).await;
}

/// Killed after the old collection gave the name up: reads find the new one, and promoting again finishes.
#[tokio::test]
async fn chroma_finishes_an_interrupted_promotion() {
    let Some(server) = Chroma::running() else { return };
    for again in ["one", "two"] {
        let database = format!("interrupted-{again}");
        let target = server.connect(&database);
        let one = target.create(&conformance::spec("one", 4, Metric::Dot)).await.unwrap();
        let two = target.create(&conformance::spec("two", 4, Metric::Dot)).await.unwrap();
        target.write(&two, vec![conformance::sample(1, 4)]).await.unwrap();
        target.promote("live", &one).await.unwrap();

        // The first two of the three requests of a promotion.
        let path = format!("/{database}");
        let (_, mut held) = server.send("GET", &path, "/collections/two", &json!({})).await;
        held["metadata"]["regrow_taking"] = json!({"alias": "live", "previous": "one"}).to_string().into();
        let two_is = format!("/collections/{}", held["id"].as_str().unwrap());
        assert_eq!(server.send("PUT", &path, &two_is, &json!({"new_metadata": held["metadata"]})).await.0, 200);
        assert_eq!(target.describe("live").await.unwrap().unwrap().name, "one", "nothing has happened yet");
        let (_, old) = server.send("GET", &path, "/collections/live", &json!({})).await;
        let one_is = format!("/collections/{}", old["id"].as_str().unwrap());
        assert_eq!(server.send("PUT", &path, &one_is, &json!({"new_name": "one"})).await.0, 200);

        let fresh = server.connect(&database);
        let info = fresh.describe("live").await.unwrap().unwrap();
        assert_eq!(
            (info.name.as_str(), info.count, info.aliases.as_slice()),
            ("two", 1, ["live".to_owned()].as_slice())
        );
        assert_eq!(fresh.count("live", &Filter::default()).await.unwrap(), 1);
        assert!(fresh.delete(fresh.open_owned("two").await.unwrap()).await.is_err(), "it is in production");

        let held = fresh.open_owned(again).await.unwrap();
        let before = fresh.promote("live", &held).await.unwrap();
        assert_eq!(before.as_deref(), Some(if again == "two" { "one" } else { "two" }));
        assert_eq!(fresh.describe("live").await.unwrap().unwrap().name, again);
        assert_eq!(server.send("GET", &path, "/collections/live", &json!({})).await.0, 200, "other clients find it");
        assert_eq!(fresh.list().await.unwrap(), ["one", "two"]);
        let other = fresh.open_owned(if again == "two" { "one" } else { "two" }).await.unwrap();
        fresh.delete(other).await.unwrap();
    }
}

fn answer(status: &'static str, headers: &str, body: Value) -> Trouble {
    Trouble::Instead(status, headers.to_owned(), body.to_string())
}

#[tokio::test]
async fn chroma_errors_say_what_is_wrong() {
    let Some(server) = Chroma::running() else { return };
    let proxy = Proxy::to(server.0);
    let told = |said: &str| json!({"error": "E", "message": said});
    let wrong = [
        (answer("401 Unauthorized", "", told("no")), ErrorKind::Denied, false),
        (answer("403 Forbidden", "", told("no")), ErrorKind::Denied, false),
        (answer("404 Not Found", "", json!("nginx")), ErrorKind::Target, false),
        (answer("429 Too Many Requests", "retry-after: 0\r\n", told("quota")), ErrorKind::Target, true),
        (answer("503 Service Unavailable", "", told("later")), ErrorKind::Target, true),
        (answer("507 Insufficient Storage", "", told("full")), ErrorKind::StorageFull, false),
        (answer("200 OK", "", json!({"hello": "world"})), ErrorKind::Target, false),
        (answer("200 OK", "", json!("0.5.3")), ErrorKind::Target, false),
        (Trouble::Cut(1), ErrorKind::Target, true),
    ];
    for (trouble, kind, retryable) in wrong {
        let secret = Secret::new("t0p-s3cret");
        let target = ChromaTarget::new(&ChromaOptions { token: Some(secret), ..options(proxy.port) }).unwrap();
        let shown = format!("{trouble:?}");
        proxy.once("GET /api/v2/version", &[trouble]);
        let error = target.server().await.unwrap_err();
        assert_eq!((error.kind(), error.retryable()), (kind, retryable), "{shown}: {error:?}");
        assert_eq!(proxy.left(), 0);
        assert!(!format!("{error:?} {error} {target:?}").contains("s3cret"));
        // It was not the connection's fault.
        target.server().await.unwrap();
    }
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let patience =
        ChromaOptions { timeout: Duration::from_millis(200), ..options(silent.local_addr().unwrap().port()) };
    let error = ChromaTarget::new(&patience).unwrap().list().await.unwrap_err();
    assert!(error.retryable() && error.message().contains("in time"), "{error:?}");
    drop(silent);
    let error = ChromaTarget::new(&patience).unwrap().list().await.unwrap_err();
    assert!(error.retryable() && error.message().contains("reached"), "{error:?}");
    for url in ["ftp://host", "http://user:pass@host", "http://host?x=1"] {
        let error = ChromaTarget::new(&ChromaOptions::new(url.parse().unwrap())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(!format!("{error:?}").contains("pass@"));
    }
}

/// Answers that are lost or cut, batches that are too large, and records that the server does not want.
#[tokio::test]
async fn chroma_writes_get_into_trouble_and_out_again() {
    let Some(server) = Chroma::running() else { return };
    let proxy = Proxy::to(server.0);
    let target = ChromaTarget::new(&ChromaOptions { database: "trouble".to_owned(), ..options(proxy.port) }).unwrap();
    let policy = RetryPolicy { attempts: 4, first_wait: Duration::ZERO, longest_wait: Duration::ZERO };
    let retry = Retry::new(Arc::new(target.clone()), policy, Events::silent());
    let database = "/api/v2/tenants/default_tenant/databases/trouble/collections";
    let create: &'static str = Box::leak(format!("POST {database} ").into_boxed_str());
    proxy.once(create, &[answer("500 Internal Server Error", "", json!({})), Trouble::AnswerLost]);
    // The database is made by the try that reaches the server.
    let owned = retry.create(&conformance::spec("one", 4, Metric::Dot)).await.unwrap();
    let (_, held) = server.send("GET", "/trouble", "/collections/one", &json!({})).await;
    let upsert: &'static str =
        Box::leak(format!("POST {database}/{}/upsert", held["id"].as_str().unwrap()).into_boxed_str());
    let points = |range: std::ops::Range<u64>| range.map(|n| conformance::sample(n, 4)).collect::<Vec<_>>();

    proxy.once(upsert, &[Trouble::AnswerLost, answer("503 Service Unavailable", "", json!({}))]);
    assert_eq!(retry.write(&owned, points(0..100)).await.unwrap().written, 100);
    let large = || answer("413 Payload Too Large", "", json!({"message": "too large"}));
    proxy.once(upsert, &[large(), large(), large()]);
    assert_eq!(retry.write(&owned, points(100..200)).await.unwrap().written, 100);
    // 100, 50, 25, 12, 6, 3 and 1 record: only the last is at fault.
    let bad = || answer("422 Unprocessable Entity", "", json!({"message": "Invalid metadata"}));
    proxy.once(upsert, &std::iter::repeat_with(bad).take(7).collect::<Vec<_>>());
    let outcome = retry.write(&owned, points(200..300)).await.unwrap();
    assert_eq!(outcome.refused, [(conformance::Sample::id(200), "Invalid metadata".to_owned())]);
    assert_eq!((outcome.written, proxy.left()), (99, 0));
    assert_eq!(target.count("one", &Filter::default()).await.unwrap(), 299);

    let error = {
        proxy.once(upsert, &[answer("401 Unauthorized", "", json!({}))]);
        retry.write(&owned, points(400..401)).await.unwrap_err()
    };
    assert_eq!(error.kind(), ErrorKind::Denied);
}

/// The server is killed while points are written, and comes back: nothing confirmed is lost, nothing is there twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chroma_is_killed_and_comes_back() {
    let Some(mut running) = Running::start("chroma", 1, is_ready) else { return };
    let target = Arc::new(ChromaTarget::new(&options(running.ports[0])).unwrap());
    let owned = target.create(&conformance::spec("one", 16, Metric::Cosine)).await.unwrap();
    target.promote("live", &owned).await.unwrap();
    let policy =
        RetryPolicy { attempts: 100, first_wait: Duration::from_millis(100), longest_wait: Duration::from_millis(500) };
    let (sender, mut confirmed) = tokio::sync::mpsc::channel(1);
    let retry = Retry::new(target.clone(), policy, Events::silent());
    let writing = owned.clone();
    let writer = tokio::spawn(async move {
        for batch in 0..30_u64 {
            let points = (batch * 100..batch * 100 + 100).map(|n| conformance::sample(n, 16)).collect();
            assert_eq!(retry.write(&writing, points).await.unwrap().written, 100);
            sender.send(batch).await.unwrap();
        }
    });
    while let Some(batch) = confirmed.recv().await {
        if batch == 5 || batch == 17 {
            running = tokio::task::spawn_blocking(move || running.killed_and_started()).await.unwrap();
        }
    }
    writer.await.unwrap();
    let mut expected: Vec<_> = (0..3000).map(|n| conformance::sample(n, 16)).collect();
    expected.sort_by_key(|p| p.id);
    let fresh = ChromaTarget::new(&options(running.ports[0])).unwrap();
    assert_eq!(fresh.count("live", &Filter::default()).await.unwrap(), 3000);
    let page = fresh.scroll("live", None, 3001).await.unwrap();
    assert!(page.points == expected && page.next.is_none());
    conformance::wait_for_index(&fresh, &owned).await;
    drop(running);
}

/// The pipeline that `init` writes, with only its target changed.
#[test]
fn a_restore_into_chroma_is_searched() {
    let Some(server) = Chroma::running() else { return };
    let project = project_or_skip!();
    assert!(project.real_documents("src/targets/chroma") > 5);
    let settings = std::fs::read_to_string(project.path("regrow.toml")).unwrap();
    let target = format!("kind = \"chroma\"\nurl = \"http://127.0.0.1:{}\"\ndatabase = \"whole-way\"", server.0);
    let changed = settings.replace("kind = \"embedded\"", &target).replace("\npath = \".regrow/database\"\n", "\n");
    assert_ne!(changed, settings);
    project.write("regrow.toml", changed);
    project.run(&["snapshot", "--json"]).ok();
    let report = project.run(&["restore", "--json"]).ok();
    assert_eq!(project.payloads().len() as u64, report["chunks"].as_u64().unwrap());
    let drill = project.run(&["drill", "--json"]).ok();
    assert_eq!(drill["ok"], true, "{drill}");
    // Another snapshot, another collection, in the same place of production.
    let before = project.payloads().len();
    project.write("docs/new.txt", "A document about the weather in Lisbon.");
    project.run(&["snapshot", "--json"]).ok();
    project.run(&["restore", "--json"]).ok();
    assert_eq!(project.payloads().len(), before + 1);
    let found = project.run(&["query", "what is the weather like in Portugal", "--json"]).ok();
    assert_eq!(found["hits"][0]["document_id"], "new.txt", "{found}");
}
