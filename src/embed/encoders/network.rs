//! What all encoders have in common: a description of a transformer, and its computation.
//!
//! An architecture's file reads its configuration and weights into a [`Network`]; the computation
//! knows no architecture. The tokens of all texts of a batch are the rows of one matrix, without
//! padding, so that every linear layer is one product; attention runs text by text.

use std::sync::Arc;

use crate::embed::kernels::{Activation, Heads, Norm, Reach};
use crate::error::{Error, ErrorKind, Result};

/// Turns weights into what an executor multiplies with.
pub(super) trait Pack {
    /// A packed weight matrix.
    type Linear;
    /// Packs `[outputs][inputs]` row-major weights and a bias.
    fn linear(&self, weights: &[f32], outputs: usize, inputs: usize, bias: Option<&[f32]>) -> Result<Self::Linear>;
    /// Packs a gate and the values it multiplies, each `[outputs][inputs]`.
    fn gated(&self, gate: &[f32], up: &[f32], outputs: usize, inputs: usize) -> Result<Self::Linear>;
}

/// A transformer encoder with its weights.
#[derive(Debug)]
pub(super) struct Network<L> {
    pub(super) hidden: usize,
    pub(super) embedding: Embedding,
    pub(super) layers: Vec<Layer<L>>,
    /// Whether a block's norm comes before it, or after its sum with the block's input.
    pub(super) norm_first: bool,
    /// Over the last layer's rows.
    pub(super) last_norm: Option<Norm>,
    /// Linear layers that a text's pooled vector goes through.
    pub(super) projections: Vec<L>,
}

impl<L> Network<L> {
    /// With norms after each block's sum.
    pub(super) fn norm_last(hidden: usize, embedding: Embedding, layers: Vec<Layer<L>>) -> Self {
        Self { hidden, embedding, layers, norm_first: false, last_norm: None, projections: Vec::new() }
    }

    /// With norms before each block, and one over the last rows.
    pub(super) fn norm_first(hidden: usize, embedding: Embedding, layers: Vec<Layer<L>>, last: Norm) -> Self {
        Self { norm_first: true, last_norm: Some(last), ..Self::norm_last(hidden, embedding, layers) }
    }
}

/// From token ids to the first layer's rows.
#[derive(Debug)]
pub(super) struct Embedding {
    /// `[vocabulary][hidden]`, token-type embeddings added.
    pub(super) words: Vec<f32>,
    /// `[positions][hidden]`.
    pub(super) positions: Option<Vec<f32>>,
    /// How tokens are numbered.
    pub(super) numbering: Numbering,
    pub(super) norm: Option<Norm>,
}

/// The position of a text's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Numbering {
    /// 0, 1, 2 …
    FromZero,
    /// From this id on, of padding tokens, which keep it themselves and are not counted.
    After(u32),
}

impl Numbering {
    /// Positions of a text's tokens.
    pub(super) fn positions(self, text: &[u32]) -> impl Iterator<Item = u32> + '_ {
        text.iter().scan(0, move |next, &id| {
            Some(match self {
                Self::FromZero => {
                    *next += 1;
                    *next - 1
                }
                Self::After(padding) if id == padding => padding,
                Self::After(padding) => {
                    *next += 1;
                    padding + *next
                }
            })
        })
    }
}

/// One layer: attention, then a feed-forward network, each added to its input.
#[derive(Debug)]
pub(super) struct Layer<L> {
    pub(super) scores: Scores,
    pub(super) attention_norm: Option<Norm>,
    /// Queries, keys and values of all heads.
    pub(super) qkv: L,
    pub(super) output: L,
    pub(super) mlp_norm: Option<Norm>,
    pub(super) up: L,
    pub(super) inner: usize,
    pub(super) activation: Activation,
    pub(super) down: L,
    /// Norms of what attention and the feed-forward network give, before it is added.
    pub(super) sandwich: Option<(Norm, Norm)>,
}

/// How a layer's queries meet its keys.
#[derive(Debug)]
pub(super) struct Scores {
    pub(super) heads: Heads,
    pub(super) reach: Reach,
    /// Factor of the scores, where it is not in the weights already.
    pub(super) query_scale: f32,
    /// Norms of each head's queries and keys.
    pub(super) head_norms: Option<(Norm, Norm)>,
    pub(super) rotary: Option<Arc<Rotary>>,
    /// Added to scores by head and distance, `[heads][2 · most + 1]`.
    pub(super) distances: Option<Arc<Vec<f32>>>,
}

impl Scores {
    /// Over the whole text, of queries as they come.
    pub(super) fn new(heads: Heads) -> Self {
        Self { heads, reach: Reach::All, query_scale: 1.0, head_norms: None, rotary: None, distances: None }
    }

    /// With rotary positions, and queries scaled by 1/√width.
    pub(super) fn rotary(heads: Heads, rotary: &Arc<Rotary>) -> Self {
        let query_scale = 1.0 / (heads.width as f32).sqrt();
        Self { query_scale, rotary: Some(Arc::clone(rotary)), ..Self::new(heads) }
    }
}

/// Rotary positions: pairs `(x[i], x[i + d/2])` turn by `position · base^(-2i/d)`.
#[derive(Debug)]
pub(super) struct Rotary {
    half: usize,
    /// `[positions][half]`.
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl Rotary {
    /// For heads of `width` columns and texts of at most `positions` tokens.
    pub(super) fn new(width: usize, base: f64, positions: usize) -> Self {
        Self::scaled(width, base, 1.0, positions)
    }

    /// The same with all angles multiplied by `factor`.
    pub(super) fn scaled(width: usize, base: f64, factor: f64, positions: usize) -> Self {
        let half = width / 2;
        let (mut cosines, mut sines) = (Vec::with_capacity(positions * half), Vec::with_capacity(positions * half));
        for position in 0..positions {
            for i in 0..half {
                let angle = factor * position as f64 * base.powf(-2.0 * i as f64 / width as f64);
                cosines.push(angle.cos() as f32);
                sines.push(angle.sin() as f32);
            }
        }
        Self { half, cosines, sines }
    }

    /// Cosines and sines, `[positions][half]`, and `half`.
    pub(super) fn tables(&self) -> (&[f32], &[f32], usize) {
        (&self.cosines, &self.sines, self.half)
    }

    /// Cosines and sines of a position.
    pub(super) fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let here = position * self.half..(position + 1) * self.half;
        (&self.cosines[here.clone()], &self.sines[here])
    }

    /// Turns one head's numbers.
    pub(super) fn turn(&self, head: &mut [f32], position: usize) {
        let (cosines, sines) = self.at(position);
        let (first, second) = head.split_at_mut(self.half);
        for (((x, y), c), s) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
            (*x, *y) = (*x * c - *y * s, *y * c + *x * s);
        }
    }
}

impl Embedding {
    /// Of words alone: positions come in later, by rotation.
    pub(super) fn of_words(words: Vec<f32>, norm: Option<Norm>) -> Self {
        Self { words, positions: None, numbering: Numbering::FromZero, norm }
    }

    /// Writes the sum of the word's and the position's embedding.
    ///
    /// # Errors
    /// `ModelMismatch` for an id or position that the model has no row for.
    pub(super) fn write(&self, id: u32, position: u32, row: &mut [f32]) -> Result<()> {
        let h = row.len();
        let find = |table: &'_ [f32], i: u32, what: &str| {
            let start = i as usize * h;
            table.get(start..start + h).map(|_| start).ok_or_else(|| {
                Error::new(ErrorKind::ModelMismatch, format!("the model has no {what} for a token"))
                    .with("index", i)
                    .guidance("tokenizer, configuration and weights must be of one model")
            })
        };
        let word = find(&self.words, id, "embedding")?;
        row.copy_from_slice(&self.words[word..word + h]);
        if let Some(positions) = &self.positions {
            let place = find(positions, position, "position")?;
            row.iter_mut().zip(&positions[place..place + h]).for_each(|(x, p)| *x += p);
        }
        Ok(())
    }
}
