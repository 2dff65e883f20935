//! The conformance suite over the real databases: see `tests/servers/README.md`.

use regrow::targets::conformance::{self, Case};

use crate::chroma::Chroma;

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
