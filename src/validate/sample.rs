//! Sampling and set digests by keyed hash: independent of order, bounded in memory.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::ids::ChunkId;

/// Hashes ids under a seed.
#[derive(Clone)]
pub(super) struct Keyed([u8; 32]);

/// The keyed hash of an id as four numbers; each is uniform and independent of the others.
pub(super) type Lanes = [u64; 4];

impl Keyed {
    pub(super) fn new(seed: u64) -> Self {
        Self(blake3::derive_key("regrow validation sampling 1", &seed.to_be_bytes()))
    }

    pub(super) fn hash(&self, bytes: &[u8]) -> Lanes {
        let digest = blake3::keyed_hash(&self.0, bytes);
        let mut lanes = [0; 4];
        for (lane, bytes) in lanes.iter_mut().zip(digest.as_bytes().chunks_exact(8)) {
            let mut eight = [0; 8];
            eight.copy_from_slice(bytes);
            *lane = u64::from_be_bytes(eight);
        }
        lanes
    }

    pub(super) fn id(&self, id: &ChunkId) -> Lanes {
        self.hash(id.0.as_bytes())
    }
}

/// The `k` items with the smallest hashes: a uniform sample without replacement that does not depend on the
/// order in which items come (bottom-k sampling; Cohen and Kaplan, *Summarizing Data using Bottom-k Sketches*, 2007).
pub(super) struct BottomK<T> {
    k: usize,
    heap: BinaryHeap<Ranked<T>>,
}

struct Ranked<T> {
    hash: u64,
    item: T,
}

impl<T> PartialEq for Ranked<T> {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}
impl<T> Eq for Ranked<T> {}
impl<T> PartialOrd for Ranked<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Ranked<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.hash.cmp(&other.hash)
    }
}

impl<T> BottomK<T> {
    pub(super) fn new(k: usize) -> Self {
        Self { k, heap: BinaryHeap::new() }
    }

    /// Offers an item; `make` is called only when it is taken.
    pub(super) fn offer(&mut self, hash: u64, make: impl FnOnce() -> T) {
        if self.heap.len() >= self.k {
            match self.heap.peek() {
                Some(worst) if hash < worst.hash => self.heap.pop(),
                _ => return,
            };
        }
        self.heap.push(Ranked { hash, item: make() });
    }

    /// The items by hash.
    pub(super) fn into_vec(self) -> Vec<T> {
        self.heap.into_sorted_vec().into_iter().map(|r| r.item).collect()
    }
}

/// Buckets of an [`IdSums`].
pub(super) const BUCKETS: usize = 4096;

/// A digest of a set of ids that does not depend on their order: per bucket, the number of ids and the sum of
/// their keyed hashes modulo 2^64 in four lanes. Equal sums mean equal sets but for a chance of about 2^-256;
/// sums instead of exclusive-or so that an id that comes twice does not cancel out. Unequal buckets say where to look.
#[derive(Clone, PartialEq)]
pub(super) struct IdSums {
    buckets: Vec<(u64, Lanes)>,
}

impl IdSums {
    pub(super) fn new() -> Self {
        Self { buckets: vec![(0, [0; 4]); BUCKETS] }
    }

    pub(super) fn bucket(lanes: &Lanes) -> usize {
        (lanes[3] % BUCKETS as u64) as usize
    }

    pub(super) fn add(&mut self, lanes: &Lanes) {
        let (count, sums) = &mut self.buckets[Self::bucket(lanes)];
        *count += 1;
        for (sum, lane) in sums.iter_mut().zip(lanes) {
            *sum = sum.wrapping_add(*lane);
        }
    }

    /// Buckets that differ, each with the larger number of ids.
    pub(super) fn differing(&self, other: &Self) -> Vec<(usize, u64)> {
        let pairs = self.buckets.iter().zip(&other.buckets).enumerate();
        pairs.filter(|(_, (a, b))| a != b).map(|(i, (a, b))| (i, a.0.max(b.0))).collect()
    }

    /// One number for people: 16 hexadecimal digits.
    pub(super) fn short(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (count, sums) in &self.buckets {
            hasher.update(&count.to_be_bytes());
            for sum in sums {
                hasher.update(&sum.to_be_bytes());
            }
        }
        hasher.finalize().to_hex()[..16].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: u64) -> ChunkId {
        ChunkId(uuid::Uuid::from_u64_pair(n, !n))
    }

    proptest! {
        #[test]
        fn a_sample_is_the_smallest_hashes_in_any_order(mut hashes in proptest::collection::vec(any::<u64>(), 0..50), k in 0usize..20, turn in 0usize..50) {
            let draw = |hashes: &[u64]| {
                let mut sample = BottomK::new(k);
                for h in hashes {
                    sample.offer(*h, || *h);
                }
                sample.into_vec()
            };
            let first = draw(&hashes);
            if !hashes.is_empty() {
                let turn = turn % hashes.len();
                hashes.rotate_left(turn);
            }
            prop_assert_eq!(&draw(&hashes), &first);
            hashes.sort_unstable();
            hashes.truncate(k);
            prop_assert_eq!(first, hashes);
        }

        #[test]
        fn sums_are_equal_exactly_for_equal_sets(mut ids in proptest::collection::vec(any::<u64>(), 1..60), at in any::<prop::sample::Index>()) {
            let keyed = Keyed::new(1);
            let sums = |ids: &[u64]| {
                let mut sums = IdSums::new();
                ids.iter().for_each(|n| sums.add(&keyed.id(&id(*n))));
                sums
            };
            let whole = sums(&ids);
            ids.reverse();
            prop_assert!(sums(&ids) == whole);
            let twice = ids[at.index(ids.len())];
            ids.push(twice);
            ids.push(twice);
            prop_assert!(sums(&ids) != whole);
            ids.truncate(ids.len() - 2);
            let gone = ids.swap_remove(at.index(ids.len()));
            let differing = sums(&ids).differing(&whole);
            prop_assert_eq!(differing.len(), 1);
            prop_assert_eq!(differing[0].0, IdSums::bucket(&keyed.id(&id(gone))));
        }
    }
}
