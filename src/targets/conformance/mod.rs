//! The conformance suite: one function per rule of the contract, the same for every target.
//!
//! A target passes when [`run_all`] returns. Rules panic like tests do. To add a target, write one function
//! that opens it in a directory.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "these are assertions about targets; a rule that does not hold panics"
)]

mod data;
mod life;
mod reads;
mod writes;

use std::path::Path;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;

pub use self::data::{Sample, marker, sample, spec, unit_vector, wait_for_index};
use super::contract::Target;

/// Opens a target whose data is in a directory; called again on the same directory, it finds the data there.
pub type Open = Arc<dyn Fn(&Path) -> Arc<dyn Target> + Send + Sync>;

/// What a rule works on: a target in a directory of its own.
pub struct Case {
    open: Open,
    target: Mutex<Option<Arc<dyn Target>>>,
    /// Last, so that the target is closed before its directory goes.
    directory: tempfile::TempDir,
}

impl Case {
    /// A fresh directory.
    pub fn new(open: Open) -> Self {
        Self { directory: tempfile::tempdir().unwrap(), open, target: Mutex::new(None) }
    }

    /// The target, opened at the first call.
    pub fn target(&self) -> Arc<dyn Target> {
        self.target.lock().unwrap().get_or_insert_with(|| (self.open)(self.directory.path())).clone()
    }

    /// Closes the target and opens it again. All other handles must be gone.
    pub fn reopened(&self) -> Arc<dyn Target> {
        self.target.lock().unwrap().take();
        self.target()
    }
}

/// A rule of the contract.
pub type Rule = for<'a> fn(&'a Case) -> BoxFuture<'a, ()>;

macro_rules! rules {
    ($($module:ident::$rule:ident),* $(,)?) => {
        /// All rules by name.
        pub const RULES: &[(&str, Rule)] = &[$((stringify!($rule), |case| Box::pin($module::$rule(case)))),*];
        $(pub use self::$module::$rule;)*
    };
}

rules! {
    life::a_collection_lives,
    life::names_are_taken_once,
    life::bad_specifications_are_refused,
    life::a_stale_handle_writes_nothing,
    life::names_may_be_any_text,
    life::promotion_switches_all_reads,
    life::production_is_not_deleted,
    life::everything_survives_reopening,
    writes::writing_twice_is_writing_once,
    writes::overwriting_replaces_vector_and_payload,
    writes::bad_points_are_refused_by_id,
    writes::vectors_come_back_bit_for_bit,
    writes::payloads_keep_types,
    writes::huge_payloads_are_kept,
    writes::concurrent_writes_all_land,
    writes::writes_after_the_index_are_found,
    reads::an_empty_collection_can_be_used,
    reads::missing_ids_are_left_out,
    reads::scrolling_is_complete,
    reads::exact_search_is_exact,
    reads::ties_come_in_id_order,
    reads::filters_mean_what_they_say,
    reads::a_tenant_sees_only_its_own,
    reads::bad_queries_are_refused,
}

/// Runs every rule, each in a directory of its own.
pub async fn run_all(open: Open) {
    for (_, rule) in RULES {
        rule(&Case::new(open.clone())).await;
    }
}
