//! Which ids this process has written into a collection that it made: what it has not cannot be there.

use std::sync::{Mutex, PoisonError};

use crate::ids::ChunkId;

/// Ids in one block.
const IDS: usize = 1 << 20;
/// Bits per id, of which [`PROBES`] are set: of a million ids that were not written 600 are taken for written, once per block.
const BITS: usize = 16;
const PROBES: u64 = 8;

/// A set that may say yes for what is not in it, and never no for what is. 2 MiB for each million ids.
#[derive(Debug, Default)]
pub(super) struct Written {
    blocks: Mutex<Vec<Block>>,
}

#[derive(Debug)]
struct Block {
    bits: Vec<u64>,
    ids: usize,
}

/// Places of an id's bits. An id is a digest: its halves are as good as two hashes, but for the version in the first one's last 16 bits.
fn places(id: &ChunkId) -> impl Iterator<Item = usize> {
    let (high, low) = id.0.as_u64_pair();
    let high = high >> 16;
    (0..PROBES).map(move |n| (high.wrapping_add(n.wrapping_mul(low | 1)) % (IDS * BITS) as u64) as usize)
}

impl Written {
    /// Whether an id may have been written.
    pub(super) fn may_hold(&self, id: &ChunkId) -> bool {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.iter().any(|block| places(id).all(|place| block.bits[place / 64] >> (place % 64) & 1 == 1))
    }

    /// Notes ids; before they are sent, because a request that fails may have been carried out.
    pub(super) fn note(&self, ids: impl Iterator<Item = ChunkId>) {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            if blocks.last().is_none_or(|block| block.ids == IDS) {
                blocks.push(Block { bits: vec![0; IDS * BITS / 64], ids: 0 });
            }
            if let Some(block) = blocks.last_mut() {
                places(&id).for_each(|place| block.bits[place / 64] |= 1 << (place % 64));
                block.ids += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Digest;

    fn id(n: u32) -> ChunkId {
        ChunkId::new("document", n, &Digest::of(&n.to_le_bytes()))
    }

    #[test]
    fn what_was_written_is_known_and_hardly_anything_else() {
        let written = Written::default();
        assert!(!written.may_hold(&id(0)));
        let count = IDS as u32 + 50_000;
        written.note((0..count).map(id));
        assert_eq!(written.blocks.lock().unwrap().len(), 2);
        assert!((0..count).step_by(7).all(|n| written.may_hold(&id(n))));
        let wrong = (count..count + 100_000).filter(|n| written.may_hold(&id(*n))).count();
        assert!(wrong < 200, "{wrong}");
    }
}
