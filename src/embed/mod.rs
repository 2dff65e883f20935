//! Text → vectors: tokens, batching, encoders.

mod tokens;

pub use tokens::Tokenizer;

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
    /// Computes the vectors of a batch.
    fn embed(&mut self, batch: &TokenBatch) -> Result<Embeddings>;
}
