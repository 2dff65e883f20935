//! The conformance suite: one function per rule of the contract, the same for every target.
//!
//! A target passes when [`run_all`] returns. Rules panic like tests do. To add a target, write an [`Opener`]: a function
//! from a [`Place`] will do where nothing is to be awaited.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "these are assertions about targets; a rule that does not hold panics"
)]

mod data;
mod large;
mod life;
mod reads;
mod writes;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use tokio::sync::Mutex;

pub use self::data::{Sample, marker, sample, spec, unit_vector, wait_for_index};
pub use self::large::a_large_collection_holds;
use super::contract::Target;
use super::types::CollectionSpec;

/// Where the target of a case keeps its data, and nobody else does.
pub struct Place {
    /// A directory, for targets in process.
    pub directory: PathBuf,
    /// A name that nothing else has, for servers: `t` and 12 lower-case hexadecimal digits. A database, schema or
    /// prefix of this name holds what the case makes.
    pub name: String,
}

/// Opens targets.
#[async_trait]
pub trait Opener: Send + Sync {
    /// The target at a place; called again on the same place, it finds the data there.
    async fn open(&self, place: &Place) -> Arc<dyn Target>;

    /// Creates an empty collection as another tool would: without regrow's marker. False where there is no other tool.
    async fn create_foreign(&self, _: &Place, _: &CollectionSpec) -> bool {
        false
    }
}

#[async_trait]
impl<F: Fn(&Place) -> Arc<dyn Target> + Send + Sync> Opener for F {
    async fn open(&self, place: &Place) -> Arc<dyn Target> {
        self(place)
    }
}

/// Opens targets, shared by the cases.
pub type Open = Arc<dyn Opener>;

/// What a rule works on: a target in a place of its own.
pub struct Case {
    open: Open,
    target: Mutex<Option<Arc<dyn Target>>>,
    place: Place,
    /// Last, so that the target is closed before its directory goes.
    _directory: tempfile::TempDir,
}

impl Case {
    /// A fresh place.
    pub fn new(open: Open) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let name = format!("t{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let place = Place { directory: directory.path().to_owned(), name };
        Self { place, open, target: Mutex::new(None), _directory: directory }
    }

    /// The target, opened at the first call.
    pub async fn target(&self) -> Arc<dyn Target> {
        let mut target = self.target.lock().await;
        match &*target {
            Some(target) => target.clone(),
            None => target.insert(self.open.open(&self.place).await).clone(),
        }
    }

    /// Where the target keeps its data.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Closes the target and opens it again. All other handles must be gone.
    pub async fn reopened(&self) -> Arc<dyn Target> {
        self.target.lock().await.take();
        self.target().await
    }

    /// A collection without regrow's marker; false where there can be none.
    pub async fn create_foreign(&self, spec: &CollectionSpec) -> bool {
        self.open.create_foreign(&self.place, spec).await
    }
}

/// A rule of the contract.
pub type Rule = for<'a> fn(&'a Case) -> BoxFuture<'a, ()>;

/// Hands all rules, as `module::name`, to a macro: the one list of them.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_rules {
    ($each:ident) => {
        $each! {
            life::a_collection_lives,
            life::names_are_taken_once,
            life::bad_specifications_are_refused,
            life::a_stale_handle_writes_nothing,
            life::names_may_be_any_text,
            life::promotion_switches_all_reads,
            life::production_is_not_deleted,
            life::everything_survives_reopening,
            life::the_server_says_what_it_is,
            life::promotion_goes_back,
            life::a_description_makes_the_same_again,
            life::what_others_made_is_left_alone,
            life::the_model_is_on_the_collection,
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
    };
}

macro_rules! rules {
    ($($module:ident::$rule:ident),* $(,)?) => {
        /// All rules by name.
        pub const RULES: &[(&str, Rule)] = &[$((stringify!($rule), |case| Box::pin($module::$rule(case)))),*];
        $(pub use self::$module::$rule;)*
    };
}

conformance_rules!(rules);

/// Runs every rule, each in a place of its own.
pub async fn run_all(open: Open) {
    for (_, rule) in RULES {
        rule(&Case::new(open.clone())).await;
    }
}
