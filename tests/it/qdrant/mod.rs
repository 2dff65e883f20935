//! Qdrant: the conformance suite, faults, kills, and the whole way from a corpus to a search. Against the double in
//! `double`, or against the real server whose program `REGROW_QDRANT_SERVER` names.

mod double;
mod faults;
mod server;

use std::sync::Arc;

use async_trait::async_trait;
use regrow::ErrorKind;
use regrow::event::Events;
use regrow::model::Metric;
use regrow::pipeline::FieldType;
use regrow::targets::conformance::{self, Case, Opener, Place, Sample, sample, spec, unit_vector, wait_for_index};
use regrow::targets::qdrant::QdrantTarget;
use regrow::targets::wrappers::{Retry, RetryPolicy, Unreliable};
use regrow::targets::{CollectionSpec, Filter, Point, SearchRequest, Target};
use serde_json::{Map, Value, json};

use self::server::{Served, options};
use crate::project_or_skip;

/// Not a test of its own: where the double runs, in a process of its own.
#[test]
fn serves() {
    if let Ok(text) = std::env::var(server::DOUBLE) {
        double::serve(double::Settings::read(&text));
    }
}

/// A server per case: Qdrant has no databases.
struct Qdrant {
    server: Served,
    unreliable: bool,
}

impl Qdrant {
    fn new() -> Arc<Self> {
        Arc::new(Self { server: Served::start(), unreliable: false })
    }

    fn target(&self) -> QdrantTarget {
        QdrantTarget::new(&options(self.server.port)).unwrap()
    }
}

#[async_trait]
impl Opener for Qdrant {
    async fn open(&self, _: &Place) -> Arc<dyn Target> {
        let target: Arc<dyn Target> = Arc::new(self.target());
        if !self.unreliable {
            return target;
        }
        let policy = RetryPolicy { attempts: 3, ..RetryPolicy::default() };
        let retry = Retry::new(Arc::new(Unreliable::new(target, 2, 7)), policy, Events::silent());
        Arc::new(retry.with_clock(|_| Box::pin(async {}), || 0.5))
    }

    async fn create_foreign(&self, _: &Place, spec: &CollectionSpec) -> bool {
        server::create_foreign(self.server.port, spec).await;
        true
    }
}

macro_rules! conformance {
    ($($module:ident::$rule:ident),* $(,)?) => {
        mod conforms {
            use super::*;

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $rule() {
                    conformance::$rule(&Case::new(Qdrant::new())).await;
                }
            )*
        }
    };
}

regrow::conformance_rules!(conformance);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_collection_in_qdrant_holds() {
    let count = std::env::var("REGROW_LARGE").ok().and_then(|n| n.parse().ok()).unwrap_or(5000);
    conformance::a_large_collection_holds(&Case::new(Qdrant::new()), count).await;
}

/// Every operation fails twice, and is tried again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreliable_qdrant_passes() {
    let open = || Arc::new(Qdrant { server: Served::start(), unreliable: true });
    conformance::a_collection_lives(&Case::new(open())).await;
    conformance::concurrent_writes_all_land(&Case::new(open())).await;
    conformance::promotion_goes_back(&Case::new(open())).await;
    conformance::overwriting_replaces_vector_and_payload(&Case::new(open())).await;
}

fn own(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn points(range: std::ops::Range<u64>, dimension: usize) -> Vec<Point> {
    range.map(|n| sample(n, dimension)).collect()
}

/// Everything that `[target.qdrant]` says, and what a snapshot recorded, is on the collection, before and after the load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_are_kept() {
    let qdrant = Qdrant::new();
    let target = qdrant.target();
    let mut wanted = spec("one", 8, Metric::Cosine);
    wanted.index.m = 24;
    wanted.index.threads = 1;
    wanted.index.ef_search = 77;
    wanted.payload_indexes.insert("metadata.key with spaces".to_owned(), FieldType::Keyword);
    wanted.own = own(json!({
        "shards": 3, "vector_name": "text", "on_disk": true, "hnsw_on_disk": true, "payload_on_disk": false,
        "quantization": "scalar", "quantization_in_memory": true, "quantile": 0.75,
        "full_scan_threshold": 7777, "payload_m": 8, "optimizer_threads": 2, "max_optimization_threads": 1,
        "optimizers": {"indexing_threshold": 1234, "deleted_threshold": 0.25, "flush_interval_sec": 3},
        "wal": {"wal_capacity_mb": 16},
        "strict_mode": {"enabled": true, "max_query_limit": 1000},
        "payload_index_parameters": {"metadata.year": {"lookup": true, "range": true, "on_disk": true}},
        "other_payload_indexes": {"metadata.uuid": {"type": "uuid", "on_disk": true}},
    }));
    assert_eq!(target.unsupported(&wanted).await.unwrap(), Vec::<String>::new());
    let owned = target.create(&wanted).await.unwrap();
    let described = target.describe("one").await.unwrap().unwrap();
    assert_eq!((&described.index, &described.payload_indexes), (&wanted.index, &wanted.payload_indexes));
    for (key, value) in &wanted.own {
        match (described.own.get(key), value) {
            // What it is set to while the index is built is nothing of the collection.
            (None, _) => assert_eq!(key, "optimizer_threads"),
            (Some(Value::Object(fields)), Value::Object(wanted)) => {
                for (field, value) in wanted {
                    assert_eq!(fields.get(field), Some(value), "{key}.{field}");
                }
            }
            (found, value) => assert_eq!(found, Some(value), "{key}"),
        }
    }
    assert_eq!(described.own["payload_index_parameters"]["tenant"], json!({"is_tenant": true}));

    let config = || async { server::config(qdrant.server.port, "one").await };
    let threads = |config: &qdrant_client::qdrant::CollectionConfig| {
        config.optimizer_config.as_ref().and_then(|o| o.max_optimization_threads.as_ref().and_then(|t| t.variant))
    };
    use qdrant_client::qdrant::max_optimization_threads::Variant;
    let loading = config().await;
    assert_eq!(loading.optimizer_config.as_ref().unwrap().indexing_threshold, Some(0), "nothing is indexed meanwhile");
    assert!(loading.strict_mode_config.is_none_or(|strict| strict.enabled != Some(true)), "no limit stops the load");
    target.write(&owned, points(0..500, 8)).await.unwrap();
    target.flush(&owned).await.unwrap();
    target.start_index(&owned).await.unwrap();
    let building = config().await;
    assert_eq!(building.optimizer_config.as_ref().unwrap().indexing_threshold, Some(1234));
    assert_eq!(threads(&building), Some(Variant::Value(2)), "as many as the pipeline says");
    assert_eq!(wait_for_index(&target, &owned).await.indexed, 500);
    let served = config().await;
    assert_eq!(threads(&served), Some(Variant::Value(1)), "as before");
    assert_eq!(served.strict_mode_config.as_ref().unwrap().max_query_limit, Some(1000));
    assert!(!served.metadata.contains_key("regrow_after_load"));
    let mut after = target.describe("one").await.unwrap().unwrap();
    // The limit for others lets nobody ask for so many tenants; the double does not enforce it.
    assert_eq!((after.tenants.count, after.count), ((!Served::is_real()).then_some(3), 500));
    (after.count, after.tenants) = (described.count, described.tenants.clone());
    assert_eq!(after, described);

    let request = SearchRequest { vector: unit_vector(7, 8), limit: 3, filter: Filter::default(), exact: false };
    assert_eq!(target.search("one", &request).await.unwrap()[0].id, Sample::id(7));
    assert_eq!(target.fetch("one", &[Sample::id(7)]).await.unwrap(), [sample(7, 8)]);
}

/// The plan says what is not taken over, and what is wrong is refused before anything is made.
#[tokio::test]
async fn what_cannot_be_made_is_said() {
    let qdrant = Qdrant::new();
    let target = qdrant.target();
    let mut wanted = spec("one", 8, Metric::Dot);
    wanted.own = own(json!({"other_vectors": ["image"], "custom_sharding": true, "optimizers": {"strange": 1}}));
    wanted.roles = vec![regrow::targets::Role { name: "reader".to_owned(), grants: vec!["r".to_owned()] }];
    let said = target.unsupported(&wanted).await.unwrap().join("\n");
    for word in ["image", "custom sharding", "optimizers.strange", "reader"] {
        assert!(said.contains(word), "{said}");
    }
    target.create(&wanted).await.unwrap();
    for wrong in [json!({"quantization": "magic"}), json!({"shards": -1}), json!({"datatype": "Float99"})] {
        let wanted = CollectionSpec { own: own(wrong), ..spec("two", 8, Metric::Dot) };
        assert_eq!(target.unsupported(&wanted).await.unwrap_err().kind(), ErrorKind::Configuration);
        assert_eq!(target.create(&wanted).await.unwrap_err().kind(), ErrorKind::Configuration);
    }
    let huge = spec("two", 65_537, Metric::Dot);
    assert_eq!(target.create(&huge).await.unwrap_err().kind(), ErrorKind::Configuration);
    assert_eq!(target.list().await.unwrap(), ["one"]);
}

/// Killed while a collection was made: nothing shows it, and it is made again.
#[tokio::test]
async fn an_interrupted_creation_is_not_there() {
    let qdrant = Qdrant::new();
    let target = qdrant.target();
    server::begin(qdrant.server.port, "one", uuid::Uuid::new_v4()).await;
    assert_eq!(target.list().await.unwrap(), Vec::<String>::new());
    assert_eq!(target.describe("one").await.unwrap(), None);
    assert_eq!(target.open_owned("one").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(target.count("one", &Filter::default()).await.unwrap_err().kind(), ErrorKind::NotFound);
    let owned = target.create(&spec("one", 8, Metric::Dot)).await.unwrap();
    target.write(&owned, points(0..10, 8)).await.unwrap();
    assert_eq!(target.count("one", &Filter::default()).await.unwrap(), 10);
}

/// A large collection gets graphs, and is done when all segments that are to have one do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn graphs_are_waited_for() {
    let qdrant = Qdrant::new();
    let target = qdrant.target();
    let mut wanted = spec("one", 32, Metric::Cosine);
    // Kilobytes: 3,000 vectors of 32 values are 375.
    wanted.own = own(json!({"shards": 2, "optimizers": {"indexing_threshold": 50}}));
    let owned = target.create(&wanted).await.unwrap();
    for from in (0..3000).step_by(250) {
        target.write(&owned, points(from..from + 250, 32)).await.unwrap();
    }
    target.flush(&owned).await.unwrap();
    assert_eq!(server::info(qdrant.server.port, "one").await.indexed_vectors_count, Some(0));
    assert!(!target.index_state(&owned).await.unwrap().done);
    wait_for_index(&target, &owned).await;
    let info = server::info(qdrant.server.port, "one").await;
    assert!(info.indexed_vectors_count.unwrap() >= 2000, "{info:?}");
    assert_eq!(info.status(), qdrant_client::qdrant::CollectionStatus::Green);
    // After a restart too; and a change starts what is left.
    let qdrant = Qdrant { server: Arc::into_inner(qdrant).unwrap().server.killed_and_started(), unreliable: false };
    let target = qdrant.target();
    let owned = target.open_owned("one").await.unwrap();
    assert!(wait_for_index(&target, &owned).await.done);
    assert_eq!(target.count("one", &Filter::default()).await.unwrap(), 3000);
}

/// The pipeline that `init` writes, with only its target changed.
#[test]
fn a_restore_into_qdrant_is_searched() {
    let project = project_or_skip!();
    let server = Served::start();
    assert!(project.real_documents("src/targets/qdrant") > 5);
    let settings = std::fs::read_to_string(project.path("regrow.toml")).unwrap();
    let target = format!("kind = \"qdrant\"\nurl = \"http://127.0.0.1:{}\"", server.port);
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
