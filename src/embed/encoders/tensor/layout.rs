//! How texts of different length lie in the rows of one matrix.
//!
//! Padded: texts of similar length, each filled up to the longest, because candle's products of many
//! matrices take one shape. Packed, where flash attention is built in: no padding at all.

use std::ops::Range;

use candle_core::{D, DType, Tensor};

use super::{TensorNetwork, Tensors, failed};
use crate::embed::kernels::Reach;
use crate::error::{Error, ErrorKind, Result};
use crate::model::Pooling;

/// Added to scores that do not count: e to this is 0, and it is a number in every format.
const NEVER: f32 = -30_000.0;
/// Most bytes of one layer's scores.
const SCORES: usize = 1 << 30;
/// A text this much shorter than the longest of its group begins another one.
const SHORTEST: f64 = 0.8;
/// Rows that a group has at least, whatever the lengths: fewer leave a device idle.
const ROWS: usize = 4096;

/// A group of texts, ready for the layers.
pub(super) struct Layout {
    pub(super) ids: Tensor,
    pub(super) positions: Option<Tensor>,
    pub(super) texts: usize,
    pub(super) longest: usize,
    lengths: Vec<usize>,
    /// Rows at which texts begin, and the number of rows, where they are packed.
    pub(super) starts: Option<Tensor>,
    /// Cosines and sines of each row of a text (of all texts where they are packed).
    pub(super) rotary: Vec<(Tensor, Tensor)>,
    /// Added to scores by head, query and key.
    pub(super) distances: Vec<Tensor>,
    /// What is added to scores that each reach does not include.
    pub(super) masks: Vec<(Reach, Tensor)>,
}

/// Whether attention needs no padding.
pub(super) fn packed(network: &TensorNetwork) -> bool {
    cfg!(feature = "flash-attn")
        && network.tensors.device.is_cuda()
        && network.tensors.dtype != DType::F32
        && network.distances.is_empty()
        && network.layers.iter().all(|l| l.scores.heads.width % 8 == 0 && l.scores.heads.width <= 256)
}

/// Texts that go through the layers together.
pub(super) fn groups(lengths: &[u32], network: &TensorNetwork) -> Vec<Range<usize>> {
    if packed(network) {
        return std::iter::once(0..lengths.len()).collect();
    }
    let heads = network.layers.first().map_or(1, |l| l.scores.heads.queries);
    let bytes = heads * network.tensors.dtype.size_in_bytes();
    let mut groups = Vec::new();
    let (mut start, mut longest) = (0, 0);
    for (i, length) in lengths.iter().map(|l| *l as usize).enumerate() {
        let most = longest.max(length);
        let texts = i - start + 1;
        let uneven = (length as f64) < SHORTEST * longest as f64 && (texts - 1) * longest >= ROWS;
        if i > start && (uneven || texts * most * most * bytes > SCORES) {
            groups.push(start..i);
            (start, longest) = (i, length);
        } else {
            longest = most;
        }
    }
    if start < lengths.len() {
        groups.push(start..lengths.len());
    }
    groups
}

impl Layout {
    /// # Errors
    /// `ModelMismatch` for an id or position that the model has no row for.
    pub(super) fn new(network: &TensorNetwork, texts: &[&[u32]]) -> Result<Self> {
        let packed = packed(network);
        let lengths: Vec<usize> = texts.iter().map(|t| t.len()).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let (mut ids, mut places) = (Vec::new(), Vec::new());
        let known = network.positions.as_ref().map_or(Ok(usize::MAX), |p| p.dim(0)).map_err(failed)?;
        for text in texts {
            let first = ids.len();
            for (id, position) in text.iter().zip(network.numbering.positions(text)) {
                // A device does not notice an index that is too large.
                for (index, rows, what) in [(*id, network.vocabulary, "embedding"), (position, known, "position")] {
                    if index as usize >= rows {
                        return Err(Error::new(
                            ErrorKind::ModelMismatch,
                            format!("the model has no {what} for a token"),
                        )
                        .with("index", index)
                        .guidance("tokenizer, configuration and weights must be of one model"));
                    }
                }
                ids.push(*id);
                places.push(position);
            }
            if !packed {
                // Any known token will do: nothing looks at it.
                ids.resize(first + longest, text[0]);
                places.resize(first + longest, places[first]);
            }
        }
        let put = |numbers: &[u32]| Tensor::from_slice(numbers, numbers.len(), &network.tensors.device);
        let build = || -> candle_core::Result<Self> {
            let mut layout = Self {
                ids: put(&ids)?,
                positions: network.positions.as_ref().map(|_| put(&places)).transpose()?,
                texts: texts.len(),
                longest,
                lengths,
                starts: None,
                rotary: Vec::new(),
                distances: Vec::new(),
                masks: Vec::new(),
            };
            if packed {
                let mut starts = vec![0];
                starts.extend(layout.lengths.iter().scan(0, |sum, l| {
                    *sum += *l as u32;
                    Some(*sum)
                }));
                layout.starts = Some(put(&starts)?);
                let within: Vec<u32> = layout.lengths.iter().flat_map(|l| 0..*l as u32).collect();
                let within = put(&within)?;
                for (cosines, sines) in &network.rotary {
                    layout.rotary.push((cosines.index_select(&within, 0)?, sines.index_select(&within, 0)?));
                }
            } else {
                for (cosines, sines) in &network.rotary {
                    layout.rotary.push((cosines.narrow(0, 0, longest)?, sines.narrow(0, 0, longest)?));
                }
                for table in &network.distances {
                    layout.distances.push(by_place(table, longest)?);
                }
                layout.add_masks(network)?;
            }
            Ok(layout)
        };
        build().map_err(failed)
    }

    fn add_masks(&mut self, network: &TensorNetwork) -> candle_core::Result<()> {
        let Tensors { device, dtype, .. } = &network.tensors;
        let n = self.longest;
        let even = self.lengths.iter().all(|l| *l == n);
        for reach in network.layers.iter().map(|l| l.scores.reach) {
            if self.masks.iter().any(|(r, _)| *r == reach) {
                continue;
            }
            let mask = match reach {
                Reach::All if even => continue,
                // Filling comes behind every token, so that no query sees it.
                Reach::All => {
                    let row = |length: &usize| (0..n).map(|key| if key < *length { 0.0 } else { NEVER }).collect();
                    let rows: Vec<f32> = self.lengths.iter().flat_map(|l| -> Vec<f32> { row(l) }).collect();
                    Tensor::from_slice(&rows, (self.texts, 1, 1, n), device)?
                }
                Reach::Before | Reach::Near(_) => {
                    let seen = |query, key: usize, length| {
                        let (from, to) = reach.of(query, length);
                        key >= from && key < to
                    };
                    let of = |length: usize| -> Vec<f32> {
                        let number = |i: usize| if seen(i / n, i % n, length) { 0.0 } else { NEVER };
                        (0..n * n).map(number).collect()
                    };
                    match reach {
                        Reach::Near(_) if !even => {
                            let all: Vec<f32> = self.lengths.iter().flat_map(|l| of(*l)).collect();
                            Tensor::from_slice(&all, (self.texts, 1, n, n), device)?
                        }
                        _ => Tensor::from_slice(&of(n), (1, 1, n, n), device)?,
                    }
                }
            };
            self.masks.push((reach, mask.to_dtype(*dtype)?));
        }
        Ok(())
    }

    /// One row of 32-bit floats per text.
    pub(super) fn pool(&self, x: &Tensor, pooling: Pooling) -> candle_core::Result<Tensor> {
        let begins = |i: usize| match self.starts {
            Some(_) => self.lengths[..i].iter().sum(),
            None => i * self.longest,
        };
        let put = |rows: Vec<u32>| Tensor::from_slice(&rows, rows.len(), x.device());
        match pooling {
            Pooling::Cls => x.index_select(&put((0..self.texts).map(|i| begins(i) as u32).collect())?, 0),
            Pooling::LastToken => {
                let last = self.lengths.iter().enumerate().map(|(i, l)| (begins(i) + l - 1) as u32);
                x.index_select(&put(last.collect())?, 0)
            }
            Pooling::Mean => {
                // Filled up, so that one product with a matrix of weights adds each text's rows.
                let filled = match self.starts {
                    None => x.clone(),
                    Some(_) => {
                        let rows = (0..self.texts).flat_map(|i| {
                            let (begin, length) = (begins(i), self.lengths[i]);
                            (0..self.longest).map(move |k| (begin + k.min(length - 1)) as u32)
                        });
                        x.index_select(&put(rows.collect())?, 0)?
                    }
                };
                let weights: Vec<f32> = self
                    .lengths
                    .iter()
                    .flat_map(|l| (0..self.longest).map(|k| if k < *l { 1.0 / *l as f32 } else { 0.0 }))
                    .collect();
                let weights = Tensor::from_slice(&weights, (self.texts, 1, self.longest), x.device())?;
                let rows = filled.to_dtype(DType::F32)?.reshape((self.texts, self.longest, x.dim(D::Minus1)?))?;
                weights.matmul(&rows)?.squeeze(1)
            }
        }
    }
}

/// `[heads][2 · most + 1]` by key − query → `[1][heads][n][n]` by query and key.
fn by_place(table: &Tensor, n: usize) -> candle_core::Result<Tensor> {
    let (heads, width) = table.dims2()?;
    let most = width / 2;
    let index: Vec<u32> = (0..n * n).map(|i| (most + i % n - i / n) as u32).collect();
    let index = Tensor::from_slice(&index, n * n, table.device())?;
    table.index_select(&index, 1)?.reshape((1, heads, n, n))
}
