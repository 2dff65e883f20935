//! The first pass over the vector set: digest, samples, tenants, principals.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::ValidationInput;
use super::sample::{BottomK, IdSums, Keyed};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Events, Stage};
use crate::ids::ChunkId;
use crate::vectors::VectorRow;

/// Tenants, and principals, whose counts and isolation are checked; more are sampled.
pub(super) const MAX_GROUPS: usize = 20;
/// Vectors kept of each of them.
const VECTORS_PER_GROUP: usize = 3;

/// What the first pass found.
pub(super) struct Survey {
    pub(super) keyed: Keyed,
    pub(super) rows: u64,
    pub(super) ids: IdSums,
    /// Documents that have a chunk.
    pub(super) documents: u64,
    /// Vectors of another length than the model's, with an example.
    pub(super) wrong_dimension: (u64, Option<(ChunkId, usize)>),
    /// Vectors with a value that is not finite, with an example.
    pub(super) not_finite: (u64, Option<ChunkId>),
    /// Chunks for comparing point by point.
    pub(super) sample: Vec<VectorRow>,
    /// Vectors that recall's queries are made of.
    pub(super) query_seeds: Vec<Vec<f32>>,
    pub(super) tenants: Groups,
    pub(super) principals: Groups,
    /// Documents expected by golden queries that have a chunk.
    pub(super) golden_present: BTreeSet<String>,
}

impl Survey {
    pub(super) async fn take(input: &ValidationInput<'_>, events: &Events) -> Result<Self> {
        let keyed = Keyed::new(input.seed);
        let dimension = input.context.dimension as usize;
        let wanted: HashSet<&str> =
            input.golden.iter().flat_map(|g| g.expected.iter().map(|e| e.document.as_str())).collect();
        let mut ids = IdSums::new();
        let (mut rows, mut documents) = (0, 0);
        let (mut wrong_dimension, mut not_finite) = ((0, None), (0, None));
        let mut sample = BottomK::new(input.settings.sample);
        // One more than queries: each query is made of two neighbours in this list.
        let seeds = if input.settings.recall_queries == 0 { 0 } else { input.settings.recall_queries + 1 };
        let mut query_seeds = BottomK::new(seeds);
        let (mut tenants, mut principals) = (Collector::new(&keyed), Collector::new(&keyed));
        let mut golden_present = BTreeSet::new();

        for part in 0..input.source.parts() {
            let batch = input.source.read(part).await?;
            super::busy(|| {
                // A document's chunks lie in one part, so a set per part counts documents exactly.
                let mut in_part = HashSet::new();
                for row in &batch {
                    let lanes = keyed.id(&row.chunk_id);
                    ids.add(&lanes);
                    if in_part.insert(row.document_id.as_str())
                        && let Some(id) = wanted.get(row.document_id.as_str())
                    {
                        golden_present.insert((*id).to_owned());
                    }
                    if row.vector.len() != dimension {
                        wrong_dimension.0 += 1;
                        wrong_dimension.1.get_or_insert((row.chunk_id, row.vector.len()));
                    } else if row.vector.iter().any(|v| !v.is_finite()) {
                        not_finite.0 += 1;
                        not_finite.1.get_or_insert(row.chunk_id);
                    } else {
                        query_seeds.offer(lanes[1], || row.vector.clone());
                    }
                    sample.offer(lanes[0], || row.clone());
                    if let Some(tenant) = &row.tenant {
                        tenants.add(tenant, lanes[2], &row.vector);
                    }
                    let once: BTreeSet<&String> = row.acl.iter().collect();
                    for principal in once {
                        principals.add(principal, lanes[2], &row.vector);
                    }
                }
                rows += batch.len() as u64;
                documents += in_part.len() as u64;
            });
            events.progress(Stage::Validate, batch.len() as u64);
            tokio::task::yield_now().await;
        }
        if rows != input.source.rows() {
            return Err(Error::new(ErrorKind::Damaged, "the vector set holds another number of rows than it says")
                .with("rows", rows)
                .with("recorded", input.source.rows())
                .guidance("`regrow verify` says which part is damaged; the next restore computes it again"));
        }
        let (tenants, principals) = (tenants.finish(), principals.finish());
        Ok(Self {
            keyed,
            rows,
            ids,
            documents,
            wrong_dimension,
            not_finite,
            sample: sample.into_vec(),
            query_seeds: query_seeds.into_vec(),
            tenants,
            principals,
            golden_present,
        })
    }
}

/// Tenants or principals with their exact number of chunks and a few vectors.
#[derive(Default)]
pub(super) struct Groups {
    pub(super) groups: Vec<Group>,
    /// More exist than are listed.
    pub(super) more: bool,
}

pub(super) struct Group {
    pub(super) name: String,
    pub(super) count: u64,
    pub(super) vectors: Vec<Vec<f32>>,
}

struct Kept {
    count: u64,
    vectors: BottomK<Vec<f32>>,
}

/// Collects the [`MAX_GROUPS`] names with the smallest hashes. Their counts are exact: the bound only ever
/// falls, so a name that is kept at the end was kept from its first row on.
struct Collector<'a> {
    keyed: &'a Keyed,
    /// By hash and name: number of chunks, sampled vectors.
    kept: BTreeMap<(u64, String), Kept>,
    more: bool,
}

impl<'a> Collector<'a> {
    fn new(keyed: &'a Keyed) -> Self {
        Self { keyed, kept: BTreeMap::new(), more: false }
    }

    fn add(&mut self, name: &str, hash: u64, vector: &[f32]) {
        let key = (self.keyed.hash(name.as_bytes())[0], name.to_owned());
        if !self.kept.contains_key(&key) && self.kept.len() == MAX_GROUPS {
            self.more = true;
            match self.kept.last_key_value() {
                Some((last, _)) if key < *last => self.kept.pop_last(),
                _ => return,
            };
        }
        let kept = self.kept.entry(key).or_insert_with(|| Kept { count: 0, vectors: BottomK::new(VECTORS_PER_GROUP) });
        kept.count += 1;
        kept.vectors.offer(hash, || vector.to_vec());
    }

    fn finish(self) -> Groups {
        let mut groups: Vec<Group> = self
            .kept
            .into_iter()
            .map(|((_, name), kept)| Group { name, count: kept.count, vectors: kept.vectors.into_vec() })
            .collect();
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        Groups { groups, more: self.more }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn counts_of_kept_groups_are_exact(rows in proptest::collection::vec(0u8..60, 0..400)) {
            let keyed = Keyed::new(7);
            let mut collector = Collector::new(&keyed);
            for (i, tenant) in rows.iter().enumerate() {
                collector.add(&format!("t{tenant}"), i as u64, &[1.0]);
            }
            let groups = collector.finish();
            let distinct: BTreeSet<_> = rows.iter().collect();
            prop_assert_eq!(groups.groups.len(), distinct.len().min(MAX_GROUPS));
            prop_assert_eq!(groups.more, distinct.len() > MAX_GROUPS);
            for group in groups.groups {
                let naive = rows.iter().filter(|t| format!("t{t}") == group.name).count();
                prop_assert_eq!(group.count, naive as u64);
                prop_assert_eq!(group.vectors.len(), naive.min(VECTORS_PER_GROUP));
            }
        }
    }
}
