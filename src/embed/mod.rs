//! Text → vectors: tokens, batching, encoders.

pub mod bench;
mod device;
mod encoders;
mod engine;
mod kernels;
mod noop;
mod pooling;
mod service;
mod tokens;
mod weights;

pub use device::Device;
pub use engine::{Embedded, Engine, Role, place_of};
pub(crate) use service::retry_after;
pub use tokens::{Locality, Tokenizer};
pub use weights::Weights;

use crate::error::Result;
use crate::model::ModelContext;

/// Tokens of several texts, packed without padding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenBatch {
    /// Token ids of all texts, one after the other, special tokens included.
    pub ids: Vec<u32>,
    /// Tokens of each text, in order; their sum is `ids.len()`.
    pub lengths: Vec<u32>,
}

impl TokenBatch {
    /// The token ids of each text, in order.
    pub fn texts(&self) -> impl Iterator<Item = &[u32]> {
        let mut rest = self.ids.as_slice();
        self.lengths.iter().map(move |length| {
            let (text, after) = rest.split_at(*length as usize);
            rest = after;
            text
        })
    }
}

/// Vectors, row-major: `data.len() == rows * dimension`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Embeddings {
    /// Length of one vector.
    pub dimension: usize,
    /// All vectors, one after the other.
    pub data: Vec<f32>,
}

impl Embeddings {
    /// The vectors in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.data.chunks_exact(self.dimension.max(1))
    }
}

/// Turns tokens into vectors; synchronous, one per worker, so it may keep scratch memory.
///
/// Contract: one vector per text in the order of the batch; a text's vector does not depend on
/// the other texts of its batch (beyond the last bits of rounding).
pub trait Embedder: Send {
    /// What determines the vectors.
    fn context(&self) -> &ModelContext;
    /// Multiplications and additions of the products for a text of so many tokens; 0 when nobody counts.
    fn operations(&self, _tokens: usize) -> f64 {
        0.0
    }
    /// Computes the vectors of a batch.
    fn embed(&mut self, batch: &TokenBatch) -> Result<Embeddings>;
}
