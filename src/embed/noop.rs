//! No network: deterministic pseudo-random unit vectors, for measuring everything else.

use std::sync::Arc;

use super::{Embedder, Embeddings, TokenBatch};
use crate::error::Result;
use crate::ids::Digest;
use crate::model::ModelContext;

/// Makes a vector of the hash of a text's token ids.
#[derive(Debug, Clone)]
pub(super) struct Noop {
    context: Arc<ModelContext>,
}

impl Noop {
    pub(super) fn new(context: Arc<ModelContext>) -> Self {
        Self { context }
    }
}

impl Embedder for Noop {
    fn context(&self) -> &ModelContext {
        &self.context
    }

    fn embed(&mut self, batch: &TokenBatch) -> Result<Embeddings> {
        let dimension = self.context.dimension as usize;
        let mut data = Vec::with_capacity(dimension * batch.lengths.len());
        for ids in batch.texts() {
            let mut hasher = blake3::Hasher::new();
            for id in ids {
                hasher.update(&id.to_le_bytes());
            }
            let mut state = Digest::from_hasher(&hasher).prefix();
            let start = data.len();
            let mut squares = 0.0_f32;
            for _ in 0..dimension {
                // SplitMix64: every state gives a different, well mixed number.
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = state;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                let x = ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0 + f32::EPSILON;
                squares += x * x;
                data.push(x);
            }
            let scale = 1.0 / squares.sqrt();
            data[start..].iter_mut().for_each(|x| *x *= scale);
        }
        Ok(Embeddings { dimension, data })
    }
}
