//! BERT and XLM-RoBERTa on packed sequences.
//!
//! The tokens of all texts of a batch are the rows of one matrix, without padding, so that every
//! linear layer is one matrix product. Attention runs text by text on strided views of the
//! query-key-value matrix. Everything between the products is one pass in place.
//!
//! Two biases vanish: the key's adds the same number to all scores of a query, which softmax
//! removes; the value's passes through attention unchanged (its rows sum to 1), so it is folded
//! into the output's bias. 1/√d is folded into the query's weights and bias.

use std::sync::Arc;

use candle_core::{CpuStorage, Device, IndexOp, InplaceOp1, InplaceOp2, Layout, Storage, Tensor};
use serde_json::{Value, json};

use super::{failed, require, size};
use crate::embed::kernels::{Cpu, Norm};
use crate::embed::pooling::pool;
use crate::embed::{Embedder, Embeddings, TokenBatch, Weights};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Architecture, ModelContext};

/// Tokens that go through the layers together: enough for the matrix products to run at speed,
/// few enough that a layer's activations stay near the core.
const MICRO_BATCH: usize = 1024;
/// Most attention scores held at once, in numbers: long texts are taken in blocks of queries.
const SCORES: usize = 4 << 20;

/// The weights, shared by all workers.
#[derive(Debug)]
pub(super) struct Model {
    hidden: usize,
    heads: usize,
    words: Vec<f32>,
    /// Position and token-type embeddings, added up.
    positions: Vec<f32>,
    /// XLM-RoBERTa counts positions from the padding index on, and leaves padding tokens out.
    padding: Option<u32>,
    embedding_norm: Norm,
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    qkv: Tensor,
    query_bias: Vec<f32>,
    output: Tensor,
    output_bias: Vec<f32>,
    attention_norm: Norm,
    up: Tensor,
    up_bias: Vec<f32>,
    down: Tensor,
    down_bias: Vec<f32>,
    norm: Norm,
}

/// Reads a tensor of this shape.
type Get<'a> = dyn Fn(&str, &[usize]) -> Result<Vec<f32>> + 'a;

impl Model {
    pub(super) fn load(config: &Value, weights: &Weights, context: &ModelContext) -> Result<Self> {
        require(config, "hidden_act", &[json!("gelu")])?;
        require(config, "position_embedding_type", &[json!("absolute"), Value::Null])?;
        require(config, "is_decoder", &[json!(false), Value::Null])?;
        let hidden = size(config, "hidden_size")?;
        let heads = size(config, "num_attention_heads")?;
        let inner = size(config, "intermediate_size")?;
        if !hidden.is_multiple_of(heads) {
            return Err(Error::new(ErrorKind::ModelMismatch, "hidden_size is not a multiple of num_attention_heads"));
        }
        let epsilon = config.get("layer_norm_eps").and_then(Value::as_f64).unwrap_or(1e-12) as f32;
        let name = |rest: &str| {
            let prefixed = ["", "bert.", "roberta."].map(|p| format!("{p}{rest}"));
            prefixed.iter().find(|n| weights.has(n)).unwrap_or(&prefixed[0]).clone()
        };
        let get = |rest: &str, shape: &[usize]| weights.get(&name(rest), shape);
        let norm = |at: &str| -> Result<Norm> {
            // Old checkpoints use TensorFlow's names.
            let either = |new: &str, old: &str| {
                let old = format!("{at}.{old}");
                get(&if weights.has(&name(&old)) { old } else { format!("{at}.{new}") }, &[hidden])
            };
            Ok(Norm { gamma: either("weight", "gamma")?, beta: either("bias", "beta")?, epsilon })
        };
        let mut positions =
            get("embeddings.position_embeddings.weight", &[size(config, "max_position_embeddings")?, hidden])?;
        let types = get("embeddings.token_type_embeddings.weight", &[size(config, "type_vocab_size")?, hidden])?;
        for row in positions.chunks_exact_mut(hidden) {
            row.iter_mut().zip(&types).for_each(|(x, t)| *x += t);
        }
        let layers = (0..size(config, "num_hidden_layers")?)
            .map(|i| Layer::load(&get, &norm, &format!("encoder.layer.{i}"), hidden, heads, inner))
            .collect::<Result<_>>()?;
        Ok(Self {
            hidden,
            heads,
            words: get("embeddings.word_embeddings.weight", &[size(config, "vocab_size")?, hidden])?,
            positions,
            padding: match context.architecture {
                Architecture::XlmRoberta => Some(size(config, "pad_token_id")? as u32),
                _ => None,
            },
            embedding_norm: norm("embeddings.LayerNorm")?,
            layers,
        })
    }

    /// The last layer's rows of all tokens.
    fn forward(&self, ids: &[u32], lengths: &[u32], cpu: Cpu) -> Result<Tensor> {
        let mut x = self.embed(ids, lengths, cpu)?;
        for layer in &self.layers {
            x = layer.forward(x, lengths, self.heads, cpu).map_err(failed)?;
        }
        Ok(x)
    }

    fn embed(&self, ids: &[u32], lengths: &[u32], cpu: Cpu) -> Result<Tensor> {
        let h = self.hidden;
        let row = |table: &'_ [f32], i: usize, what: &str| match table.get(i * h..(i + 1) * h) {
            Some(_) => Ok(i * h),
            None => Err(Error::new(ErrorKind::ModelMismatch, format!("the model has no {what} for a token"))
                .with("index", i)
                .guidance("tokenizer, configuration and weights must be of one model")),
        };
        let (mut x, mut place) = (Vec::with_capacity(ids.len() * h), Vec::with_capacity(ids.len() * h));
        let mut rest = ids;
        for length in lengths {
            let (text, after) = rest.split_at(*length as usize);
            rest = after;
            let mut next = 0;
            for &id in text {
                let position = match self.padding {
                    Some(padding) if id == padding => padding,
                    Some(padding) => {
                        next += 1;
                        padding + next
                    }
                    None => {
                        next += 1;
                        next - 1
                    }
                };
                let (w, p) =
                    (row(&self.words, id as usize, "embedding")?, row(&self.positions, position as usize, "position")?);
                x.extend_from_slice(&self.words[w..w + h]);
                place.extend_from_slice(&self.positions[p..p + h]);
            }
        }
        cpu.residual_norm(&mut x, &place, &vec![0.0; h], &self.embedding_norm);
        Tensor::from_vec(x, (ids.len(), h), &Device::Cpu).map_err(failed)
    }
}

impl Layer {
    fn load(
        get: &Get<'_>,
        norm: &dyn Fn(&str) -> Result<Norm>,
        at: &str,
        hidden: usize,
        heads: usize,
        inner: usize,
    ) -> Result<Self> {
        let scale = 1.0 / ((hidden / heads) as f32).sqrt();
        let part = |what: &str, rest: &str| format!("{at}.attention.self.{what}.{rest}");
        let square = [hidden, hidden];
        let mut qkv = get(&part("query", "weight"), &square)?;
        qkv.iter_mut().for_each(|x| *x *= scale);
        qkv.extend(get(&part("key", "weight"), &square)?);
        qkv.extend(get(&part("value", "weight"), &square)?);
        let mut query_bias = get(&part("query", "bias"), &[hidden])?;
        query_bias.iter_mut().for_each(|x| *x *= scale);
        let value_bias = get(&part("value", "bias"), &[hidden])?;
        let output = get(&format!("{at}.attention.output.dense.weight"), &square)?;
        let mut output_bias = get(&format!("{at}.attention.output.dense.bias"), &[hidden])?;
        for (bias, row) in output_bias.iter_mut().zip(output.chunks_exact(hidden)) {
            let passed: f64 = row.iter().zip(&value_bias).map(|(w, b)| f64::from(*w) * f64::from(*b)).sum();
            *bias = (f64::from(*bias) + passed) as f32;
        }
        Ok(Self {
            qkv: linear(qkv, 3 * hidden, hidden)?,
            query_bias,
            output: linear(output, hidden, hidden)?,
            output_bias,
            attention_norm: norm(&format!("{at}.attention.output.LayerNorm"))?,
            up: linear(get(&format!("{at}.intermediate.dense.weight"), &[inner, hidden])?, inner, hidden)?,
            up_bias: get(&format!("{at}.intermediate.dense.bias"), &[inner])?,
            down: linear(get(&format!("{at}.output.dense.weight"), &[hidden, inner])?, hidden, inner)?,
            down_bias: get(&format!("{at}.output.dense.bias"), &[hidden])?,
            norm: norm(&format!("{at}.output.LayerNorm"))?,
        })
    }

    fn forward(&self, x: Tensor, lengths: &[u32], heads: usize, cpu: Cpu) -> candle_core::Result<Tensor> {
        let qkv = x.matmul(&self.qkv)?;
        let width = qkv.dim(1)?;
        in_place(&qkv, |data| cpu.add_bias(data, width, &self.query_bias))?;
        let attended = attention(&qkv, lengths, heads, cpu, SCORES)?;
        let y = attended.matmul(&self.output)?;
        in_place_with(&y, &x, |y, x| cpu.residual_norm(y, x, &self.output_bias, &self.attention_norm))?;
        let inner = y.matmul(&self.up)?;
        in_place(&inner, |data| cpu.bias_gelu(data, &self.up_bias))?;
        let z = inner.matmul(&self.down)?;
        in_place_with(&z, &y, |z, y| cpu.residual_norm(z, y, &self.down_bias, &self.norm))?;
        Ok(z)
    }
}

/// A weight matrix `[outputs, inputs]` as stored, ready to be multiplied from the right. Turned
/// round once here, it packs faster in every product: 5 % of the whole.
fn linear(values: Vec<f32>, outputs: usize, inputs: usize) -> Result<Tensor> {
    Tensor::from_vec(values, (outputs, inputs), &Device::Cpu).and_then(|w| w.t()?.contiguous()).map_err(failed)
}

/// Attention of every text over its own tokens: `[tokens, 3 * hidden]` → `[tokens, hidden]`,
/// with at most `most` scores at once (but one query's at least).
fn attention(qkv: &Tensor, lengths: &[u32], heads: usize, cpu: Cpu, most: usize) -> candle_core::Result<Tensor> {
    let (tokens, width) = qkv.dims2()?;
    let (hidden, head) = (width / 3, width / 3 / heads);
    let parts = qkv.reshape((tokens, 3, heads, head))?;
    let mut out = vec![0.0; tokens * hidden];
    let mut start = 0;
    for length in lengths.iter().map(|l| *l as usize) {
        let text = parts.narrow(0, start, length)?;
        let q = text.i((.., 0))?.transpose(0, 1)?;
        let k = text.i((.., 1))?.permute((1, 2, 0))?;
        let v = text.i((.., 2))?.transpose(0, 1)?;
        let block = (most / (heads * length)).clamp(1, length);
        for from in (0..length).step_by(block) {
            let rows = block.min(length - from);
            let scores = q.narrow(1, from, rows)?.matmul(&k)?;
            in_place(&scores, |data| cpu.softmax(data, length))?;
            let mixed = scores.matmul(&v)?;
            with_slice(&mixed, |mixed| {
                for (h, of_head) in mixed.chunks_exact(rows * head).enumerate() {
                    for (i, values) in of_head.chunks_exact(head).enumerate() {
                        let at = (start + from + i) * hidden + h * head;
                        out[at..at + head].copy_from_slice(values);
                    }
                }
            })?;
        }
        start += length;
    }
    Tensor::from_vec(out, (tokens, hidden), &Device::Cpu)
}

/// Runs `f` on the values of a tensor that nobody else uses.
fn in_place(tensor: &Tensor, f: impl Fn(&mut [f32])) -> candle_core::Result<()> {
    tensor.inplace_op1(&InPlace(f))
}

/// Runs `f` on the values of a tensor that nobody else uses, and those of another.
fn in_place_with(tensor: &Tensor, other: &Tensor, f: impl Fn(&mut [f32], &[f32])) -> candle_core::Result<()> {
    tensor.inplace_op2(other, &InPlace(f))
}

struct InPlace<F>(F);

impl<F: Fn(&mut [f32])> InplaceOp1 for InPlace<F> {
    fn name(&self) -> &'static str {
        "in place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        (self.0)(slice_mut(storage, layout)?);
        Ok(())
    }
}

impl<F: Fn(&mut [f32], &[f32])> InplaceOp2 for InPlace<F> {
    fn name(&self) -> &'static str {
        "in place with another"
    }

    fn cpu_fwd(&self, s1: &mut CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> candle_core::Result<()> {
        (self.0)(slice_mut(s1, l1)?, slice(s2, l2)?);
        Ok(())
    }
}

fn slice_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> candle_core::Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((from, to))) => Ok(&mut values[from..to]),
        _ => candle_core::bail!("the encoder works on contiguous 32-bit floats"),
    }
}

fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((from, to))) => Ok(&values[from..to]),
        _ => candle_core::bail!("the encoder works on contiguous 32-bit floats"),
    }
}

/// Shows the values of a contiguous tensor without a copy.
fn with_slice<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> candle_core::Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(f(slice(storage, layout)?)),
        _ => candle_core::bail!("the encoder works on the CPU"),
    }
}

/// One worker's encoder.
pub(super) struct Bert {
    model: Arc<Model>,
    context: Arc<ModelContext>,
    cpu: Cpu,
}

impl Bert {
    pub(super) fn new(model: &Arc<Model>, context: &Arc<ModelContext>) -> Self {
        Self { model: Arc::clone(model), context: Arc::clone(context), cpu: Cpu::detect() }
    }
}

impl Embedder for Bert {
    fn context(&self) -> &ModelContext {
        &self.context
    }

    fn embed(&mut self, batch: &TokenBatch) -> Result<Embeddings> {
        let hidden = self.model.hidden;
        let mut data = Vec::with_capacity(batch.lengths.len() * hidden);
        let (mut ids, mut lengths) = (batch.ids.as_slice(), batch.lengths.as_slice());
        while !lengths.is_empty() {
            let (mut texts, mut tokens) = (0, 0);
            for length in lengths.iter().map(|l| *l as usize) {
                if texts > 0 && tokens + length > MICRO_BATCH {
                    break;
                }
                texts += 1;
                tokens += length;
            }
            let (here, later) = lengths.split_at(texts);
            let (now, then) = ids.split_at(tokens);
            let rows = self.model.forward(now, here, self.cpu)?;
            with_slice(&rows, |mut rows| {
                here.iter().try_for_each(|length| {
                    let (text, rest) = rows.split_at(*length as usize * hidden);
                    rows = rest;
                    pool(text, hidden, self.context.pooling, self.context.normalize, &mut data)
                })
            })
            .map_err(failed)??;
            (lengths, ids) = (later, then);
        }
        Ok(Embeddings { dimension: hidden, data })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against attention written out in f64, with blocks of any size.
        #[test]
        fn attention_is_softmax_of_scores_times_values(
            lengths in prop::collection::vec(1_u32..20, 1..4), heads in 1_usize..4, head in 1_usize..9,
            most in 1_usize..2000, seed in 1_u32..1000,
        ) {
            let (tokens, hidden) = (lengths.iter().sum::<u32>() as usize, heads * head);
            let values: Vec<f32> = (0..tokens * 3 * hidden).map(|i| ((i as f32 + 1.0) * seed as f32 * 0.37).sin()).collect();
            let qkv = Tensor::from_slice(&values, (tokens, 3 * hidden), &Device::Cpu).unwrap();
            let out = attention(&qkv, &lengths, heads, Cpu::detect(), most).unwrap().to_vec2::<f32>().unwrap();
            let at = |token: usize, part: usize, h: usize, i: usize| {
                f64::from(values[token * 3 * hidden + part * hidden + h * head + i])
            };
            let mut start = 0;
            for length in lengths.iter().map(|l| *l as usize) {
                for (q, h) in (start..start + length).flat_map(|q| (0..heads).map(move |h| (q, h))) {
                    let scores: Vec<f64> = (start..start + length)
                        .map(|k| (0..head).map(|i| at(q, 0, h, i) * at(k, 1, h, i)).sum::<f64>().exp())
                        .collect();
                    let sum: f64 = scores.iter().sum();
                    for i in 0..head {
                        let expected: f64 =
                            scores.iter().enumerate().map(|(k, s)| s / sum * at(start + k, 2, h, i)).sum();
                        prop_assert!((expected - f64::from(out[q][h * head + i])).abs() < 1e-5);
                    }
                }
                start += length;
            }
        }
    }
}
