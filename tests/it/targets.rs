//! The conformance suite over the real databases: see `tests/servers/README.md`.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use regrow::ids::Digest;
use regrow::targets::Target;
use regrow::targets::chroma::{ChromaOptions, ChromaTarget};
use regrow::targets::conformance::{self, Case, Open};

use crate::servers::{Running, answers};

/// One server for all tests of this process, which ends with it.
fn chroma() -> Option<u16> {
    static SERVER: OnceLock<Option<Running>> = OnceLock::new();
    let server = SERVER.get_or_init(|| Running::start("chroma", 1, |port| answers(port, "/api/v2/heartbeat")));
    server.as_ref().map(|s| s.ports[0])
}

fn chroma_options(port: u16, database: &str) -> ChromaOptions {
    ChromaOptions { url: format!("http://127.0.0.1:{port}"), database: database.to_owned(), ..ChromaOptions::default() }
}

/// A database of its own per directory.
fn chroma_case() -> Option<Open> {
    let port = chroma()?;
    Some(Arc::new(move |path: &Path| {
        let database = Digest::of(path.as_os_str().as_encoded_bytes()).short();
        Arc::new(ChromaTarget::new(&chroma_options(port, &database)).unwrap()) as Arc<dyn Target>
    }))
}

macro_rules! conformance {
    ($($rule:ident),* $(,)?) => {
        mod conforms {
            use super::{Case, chroma_case, conformance};

            mod chroma {
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $rule() {
                        if let Some(open) = super::chroma_case() {
                            super::conformance::$rule(&super::Case::new(open)).await;
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
