//! Settings of stores, and the replicas.

use std::collections::BTreeSet;
use std::path::Path;

use super::places::{Place, place};
use super::{Findings, is_name};
use crate::pipeline::settings::*;
use crate::store::StoreKind;

impl Pipeline {
    /// Settings of stores, and the replicas.
    pub(super) fn check_stores(&self, base: &Path, f: &mut Findings) {
        store("corpus.store", &self.corpus.url, &self.corpus.store, f);
        store("repository.store", &self.repository.url, &self.repository.store, f);
        // Findings about the URL itself are there already.
        let own = place("repository.url", &self.repository.url, base, &[], &mut Findings::default());
        let mut places: Vec<(String, Option<Place>)> = vec![("the repository".to_owned(), own)];
        let mut names = BTreeSet::new();
        for (i, replica) in self.repository.replicas.iter().enumerate() {
            let key = |name: &str| format!("repository.replicas.{i}.{name}");
            f.require(
                is_name(&replica.name),
                key("name"),
                "this is not a usable name",
                "use 1 to 128 letters, digits, `-`, `_` and `.`, and begin with a letter or digit",
            );
            if !names.insert(&replica.name) {
                f.problem(key("name"), format!("two replicas are named `{}`", replica.name), "give each its own name");
            }
            let found = place(&key("url"), &replica.url, base, &[], f);
            store(&key("store"), &replica.url, &replica.store, f);
            for (other, at) in &places {
                if let (Some(found), Some(at)) = (&found, at)
                    && (found.inside(at).is_some() || at.inside(found).is_some())
                    // The same address may be two places: at two endpoints.
                    && (matches!(found, Place::Local(_)) || endpoints_agree(self, i, other))
                {
                    f.problem(
                        key("url"),
                        format!("the replica lies in {other}, or that lies in it"),
                        "a replica protects only in a place of its own: another disk, bucket, account or provider",
                    );
                }
            }
            places.push((format!("the replica `{}`", replica.name), found));
        }
    }
}

/// Whether a replica has the same endpoint as the place named `other`.
fn endpoints_agree(pipeline: &Pipeline, replica: usize, other: &str) -> bool {
    let repository = &pipeline.repository;
    let endpoint = |store: &StoreSettings| store.get("endpoint").or_else(|| store.get("base_url")).cloned();
    let other = repository
        .replicas
        .iter()
        .find(|r| format!("the replica `{}`", r.name) == other)
        .map_or(&repository.store, |r| &r.store);
    endpoint(&repository.replicas[replica].store) == endpoint(other)
}

/// Settings of the store at `url`.
fn store(key: &str, url: &str, settings: &StoreSettings, f: &mut Findings) {
    // A scheme that no store has is a finding about the URL.
    let Some(kind) = StoreKind::of(url) else { return };
    if matches!(kind, StoreKind::Directory | StoreKind::Memory) && !settings.is_empty() {
        f.warnings.push(format!("{key}: a directory uses no settings of a store"));
    }
    for (name, what, next) in crate::store::check(kind, settings.iter()) {
        f.problem(format!("{key}.{name}"), what, next);
    }
}
