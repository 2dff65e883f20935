//! The conformance suite over the real databases: see `tests/servers/README.md`.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use regrow::model::Metric;
use regrow::targets::chroma::{ChromaOptions, ChromaTarget};
use regrow::targets::conformance::{self, Case, Opener, Place};
use regrow::targets::{CollectionSpec, Filter, Target};
use serde_json::{Value, json};

use crate::servers::{Running, answers};

/// One server for all tests of this process, which ends with it.
fn chroma() -> Option<u16> {
    static SERVER: OnceLock<Option<Running>> = OnceLock::new();
    let server = SERVER.get_or_init(|| Running::start("chroma", 1, |port| answers(port, "/api/v2/heartbeat")));
    server.as_ref().map(|s| s.ports[0])
}

/// A database of its own per case.
struct Chroma(u16);

impl Chroma {
    fn running() -> Option<Self> {
        chroma().map(Self)
    }

    fn connect(&self, database: &str) -> ChromaTarget {
        let url = format!("http://127.0.0.1:{}", self.0).parse().unwrap();
        ChromaTarget::new(&ChromaOptions { database: database.to_owned(), ..ChromaOptions::new(url) }).unwrap()
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

macro_rules! conformance {
    ($($rule:ident),* $(,)?) => {
        mod conforms {
            use std::sync::Arc;

            use super::{Case, Chroma, conformance};

            mod chroma {
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $rule() {
                        if let Some(open) = super::Chroma::running() {
                            super::conformance::$rule(&super::Case::new(super::Arc::new(open))).await;
                        }
                    }
                )*
            }
        }

        #[test]
        fn no_rule_is_forgotten() {
            let here = [$(stringify!($rule)),*];
            let all: Vec<&str> = conformance::RULES.iter().map(|(name, _)| *name).collect();
            assert_eq!(here.as_slice(), all);
        }
    };
}

conformance! {
    a_collection_lives,
    names_are_taken_once,
    bad_specifications_are_refused,
    a_stale_handle_writes_nothing,
    names_may_be_any_text,
    promotion_switches_all_reads,
    production_is_not_deleted,
    everything_survives_reopening,
    the_server_says_what_it_is,
    promotion_goes_back,
    a_description_makes_the_same_again,
    what_others_made_is_left_alone,
    the_model_is_on_the_collection,
    writing_twice_is_writing_once,
    overwriting_replaces_vector_and_payload,
    bad_points_are_refused_by_id,
    vectors_come_back_bit_for_bit,
    payloads_keep_types,
    huge_payloads_are_kept,
    concurrent_writes_all_land,
    writes_after_the_index_are_found,
    an_empty_collection_can_be_used,
    missing_ids_are_left_out,
    scrolling_is_complete,
    exact_search_is_exact,
    ties_come_in_id_order,
    filters_mean_what_they_say,
    a_tenant_sees_only_its_own,
    bad_queries_are_refused,
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
