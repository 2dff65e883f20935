//! Computing a network with candle on a device, one worker per device.
//!
//! The tokens of a batch are the rows of one matrix. How texts lie in it, and what attention makes
//! of that, is [`layout`]'s; the rest is one operation of the device for all rows.

mod attention;
mod layout;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::ops::{layer_norm, rms_norm, silu};

use super::network::{Embedding, Layer, Network, Numbering, Pack, Rotary, Scores};
use crate::embed::kernels::{Activation, Heads, Norm, Reach};
use crate::embed::pooling::pool;
use crate::embed::{Embedder, Embeddings, TokenBatch};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Dtype, ModelContext, Pooling};
use layout::Layout;

/// Where tensors are, and in which format.
#[derive(Debug, Clone)]
pub(super) struct Tensors {
    device: Device,
    /// Operands of products.
    dtype: DType,
    /// What layers add to: 8 bits of precision would not do for a sum over all layers.
    sums: DType,
}

impl Tensors {
    /// # Errors
    /// `Configuration` for a precision that no device computes in.
    pub(super) fn new(device: &Device, dtype: Dtype) -> Result<Self> {
        let dtype = match dtype {
            Dtype::F32 => DType::F32,
            Dtype::Bf16 => DType::BF16,
            Dtype::F16 => DType::F16,
            Dtype::Int8 => {
                return Err(Error::new(ErrorKind::Configuration, "GPUs compute in f32, bf16 or f16 here, not in int8")
                    .guidance("set `dtype` in the pipeline's [model] to one of these, or use `--device cpu`"));
            }
        };
        let sums = if dtype == DType::BF16 { DType::F32 } else { dtype };
        Ok(Self { device: device.clone(), dtype, sums })
    }

    fn put(&self, numbers: &[f32], shape: &[usize]) -> Result<Tensor> {
        self.put_as(self.dtype, numbers, shape)
    }

    fn put_as(&self, dtype: DType, numbers: &[f32], shape: &[usize]) -> Result<Tensor> {
        // Rounded here, so that half as much travels.
        let tensor = Tensor::from_slice(numbers, shape, &Device::Cpu).and_then(|t| t.to_dtype(dtype));
        tensor.and_then(|t| t.to_device(&self.device)).map_err(failed)
    }

    fn norm(&self, dtype: DType, norm: &Norm) -> Result<TensorNorm> {
        let width = [norm.gamma.len()];
        let beta = match (&norm.beta, norm.centred) {
            (Some(beta), true) => Some(self.put_as(dtype, beta, &width)?),
            (None, true) => Some(self.put_as(dtype, &vec![0.0; norm.gamma.len()], &width)?),
            (None, false) => None,
            (Some(_), false) => return Err(Error::new(ErrorKind::Unexpected, "an RMS norm has no shift")),
        };
        Ok(TensorNorm { gamma: self.put_as(dtype, &norm.gamma, &width)?, beta, epsilon: norm.epsilon })
    }
}

impl Pack for Tensors {
    type Linear = TensorLinear;

    fn linear(&self, weights: &[f32], outputs: usize, inputs: usize, bias: Option<&[f32]>) -> Result<TensorLinear> {
        let bias = bias.map(|b| self.put(b, &[outputs])).transpose()?;
        Ok(TensorLinear { weights: self.put(weights, &[outputs, inputs])?, bias, gated: false })
    }

    fn gated(&self, gate: &[f32], up: &[f32], outputs: usize, inputs: usize) -> Result<TensorLinear> {
        let both = [gate, up].concat();
        Ok(TensorLinear { weights: self.put(&both, &[2 * outputs, inputs])?, bias: None, gated: true })
    }
}

/// What a failing device says.
fn failed(e: candle_core::Error) -> Error {
    Error::new(ErrorKind::Unexpected, "the device failed while embedding")
        .because(e)
        .guidance("if its memory is too small, lower `batch_tokens` in the pipeline's [model]; or use `--device cpu`")
}

/// A weight matrix on a device.
#[derive(Debug)]
pub(super) struct TensorLinear {
    /// `[outputs][inputs]`; twice the outputs where gated, the gate first.
    weights: Tensor,
    bias: Option<Tensor>,
    gated: bool,
}

impl TensorLinear {
    fn product(&self, x: &Tensor, activation: Activation) -> candle_core::Result<Tensor> {
        let mut y = x.matmul(&self.weights.t()?)?;
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(bias)?;
        }
        if !self.gated {
            return activate(&y, activation);
        }
        let half = y.dim(1)? / 2;
        activate(&y.narrow(1, 0, half)?, activation)? * y.narrow(1, half, half)?
    }
}

fn activate(y: &Tensor, activation: Activation) -> candle_core::Result<Tensor> {
    match activation {
        Activation::None => Ok(y.clone()),
        Activation::Gelu => y.gelu_erf(),
        Activation::Silu => silu(y),
        Activation::GeluTanh => y.gelu(),
    }
}

#[derive(Debug)]
struct TensorNorm {
    gamma: Tensor,
    /// Of a layer norm; an RMS norm has none.
    beta: Option<Tensor>,
    epsilon: f32,
}

impl TensorNorm {
    fn of(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match &self.beta {
            Some(beta) => layer_norm(x, &self.gamma, beta, self.epsilon),
            None => rms_norm(x, &self.gamma, self.epsilon),
        }
    }
}

/// `norm(x)`, or `x` where there is none.
fn normed(x: &Tensor, norm: Option<&TensorNorm>) -> candle_core::Result<Tensor> {
    norm.map_or_else(|| Ok(x.clone()), |norm| norm.of(x))
}

/// How queries meet keys, with tables by their place in [`TensorNetwork`].
#[derive(Debug)]
struct TensorScores {
    heads: Heads,
    reach: Reach,
    query_scale: f32,
    head_norms: Option<(TensorNorm, TensorNorm)>,
    rotary: Option<usize>,
    distances: Option<usize>,
}

#[derive(Debug)]
struct TensorLayer {
    scores: TensorScores,
    attention_norm: Option<TensorNorm>,
    qkv: TensorLinear,
    output: TensorLinear,
    mlp_norm: Option<TensorNorm>,
    up: TensorLinear,
    activation: Activation,
    down: TensorLinear,
    sandwich: Option<(TensorNorm, TensorNorm)>,
}

/// A network on a device.
#[derive(Debug)]
struct TensorNetwork {
    tensors: Tensors,
    vocabulary: usize,
    words: Tensor,
    positions: Option<Tensor>,
    numbering: Numbering,
    embedding_norm: Option<TensorNorm>,
    layers: Vec<TensorLayer>,
    norm_first: bool,
    last_norm: Option<TensorNorm>,
    projections: Vec<TensorLinear>,
    /// Cosines and sines, `[positions][width / 2]`.
    rotary: Vec<(Tensor, Tensor)>,
    /// Added to scores, `[heads][2 · most + 1]`.
    distances: Vec<Tensor>,
}

impl TensorNetwork {
    fn new(network: Network<TensorLinear>, tensors: &Tensors) -> Result<Self> {
        let norm = |norm: Option<&Norm>| norm.map(|n| tensors.norm(tensors.sums, n)).transpose();
        let (mut rotaries, mut tables) = (Vec::<Arc<Rotary>>::new(), Vec::<Arc<Vec<f32>>>::new());
        let (mut rotary, mut distances) = (Vec::new(), Vec::new());
        let mut layers = Vec::new();
        for layer in network.layers {
            let Layer { scores, attention_norm, qkv, output, mlp_norm, up, activation, down, sandwich, .. } = layer;
            let Scores { heads, reach, query_scale, head_norms, rotary: turns, distances: table } = scores;
            let turns = turns.map(|r| place(&mut rotaries, r));
            let table = table.map(|t| place(&mut tables, t));
            let head_norms = both(tensors, tensors.dtype, head_norms.as_ref())?;
            layers.push(TensorLayer {
                scores: TensorScores { heads, reach, query_scale, head_norms, rotary: turns, distances: table },
                attention_norm: norm(attention_norm.as_ref())?,
                qkv,
                output,
                mlp_norm: norm(mlp_norm.as_ref())?,
                up,
                activation,
                down,
                sandwich: both(tensors, tensors.sums, sandwich.as_ref())?,
            });
        }
        for turns in &rotaries {
            let (cosines, sines, half) = turns.tables();
            let shape = [cosines.len() / half, half];
            rotary.push((tensors.put(cosines, &shape)?, tensors.put(sines, &shape)?));
        }
        for table in &tables {
            let heads = layers.first().map_or(1, |l| l.scores.heads.queries);
            distances.push(tensors.put(table, &[heads, table.len() / heads])?);
        }
        let Embedding { words, positions, numbering, norm: embedding_norm } = network.embedding;
        let hidden = network.hidden;
        Ok(Self {
            tensors: tensors.clone(),
            vocabulary: words.len() / hidden,
            words: tensors.put_as(tensors.sums, &words, &[words.len() / hidden, hidden])?,
            positions: positions.map(|p| tensors.put_as(tensors.sums, &p, &[p.len() / hidden, hidden])).transpose()?,
            numbering,
            embedding_norm: norm(embedding_norm.as_ref())?,
            layers,
            norm_first: network.norm_first,
            last_norm: norm(network.last_norm.as_ref())?,
            projections: network.projections,
            rotary,
            distances,
        })
    }

    /// The last layer's rows.
    fn forward(&self, layout: &Layout) -> candle_core::Result<Tensor> {
        let Tensors { dtype, sums, .. } = self.tensors;
        let mut x = self.words.index_select(&layout.ids, 0)?;
        if let (Some(positions), Some(places)) = (&self.positions, &layout.positions) {
            x = (x + positions.index_select(places, 0)?)?;
        }
        x = normed(&x, self.embedding_norm.as_ref())?;
        for layer in &self.layers {
            let (before, after) = match self.norm_first {
                true => ([layer.attention_norm.as_ref(), layer.mlp_norm.as_ref()], [None, None]),
                false => ([None, None], [layer.attention_norm.as_ref(), layer.mlp_norm.as_ref()]),
            };
            let operand = normed(&x, before[0])?.to_dtype(dtype)?;
            let qkv = layer.qkv.product(&operand, Activation::None)?;
            let attended = layout.attention(&layer.scores, &qkv)?;
            let output = layer.output.product(&attended, Activation::None)?.to_dtype(sums)?;
            let (after_attention, after_mlp) =
                layer.sandwich.as_ref().map_or((None, None), |(a, m)| (Some(a), Some(m)));
            x = normed(&(x + normed(&output, after_attention)?)?, after[0])?;
            let operand = normed(&x, before[1])?.to_dtype(dtype)?;
            let inner = layer.up.product(&operand, layer.activation)?;
            let output = layer.down.product(&inner, Activation::None)?.to_dtype(sums)?;
            x = normed(&(x + normed(&output, after_mlp)?)?, after[1])?;
        }
        normed(&x, self.last_norm.as_ref())
    }

    /// Pooled vectors through the network's last linear layers.
    fn project(&self, mut rows: Tensor) -> candle_core::Result<Tensor> {
        for weights in &self.projections {
            rows = weights.product(&rows.to_dtype(self.tensors.dtype)?, Activation::None)?;
        }
        Ok(rows)
    }
}

fn both(tensors: &Tensors, dtype: DType, norms: Option<&(Norm, Norm)>) -> Result<Option<(TensorNorm, TensorNorm)>> {
    norms.map(|(a, b)| Ok((tensors.norm(dtype, a)?, tensors.norm(dtype, b)?))).transpose()
}

/// The place of a shared table in a list, which it joins if it is new.
fn place<T>(list: &mut Vec<Arc<T>>, table: Arc<T>) -> usize {
    list.iter().position(|t| Arc::ptr_eq(t, &table)).unwrap_or_else(|| {
        list.push(table);
        list.len() - 1
    })
}

/// One device's encoder.
pub(super) struct TensorEncoder {
    network: TensorNetwork,
    context: Arc<ModelContext>,
}

impl TensorEncoder {
    pub(super) fn new(network: Network<TensorLinear>, context: &Arc<ModelContext>, tensors: &Tensors) -> Result<Self> {
        Ok(Self { network: TensorNetwork::new(network, tensors)?, context: Arc::clone(context) })
    }
}

impl Embedder for TensorEncoder {
    fn context(&self) -> &ModelContext {
        &self.context
    }

    fn operations(&self, tokens: usize) -> f64 {
        let size = |l: &TensorLinear| l.weights.elem_count();
        let layers = self.network.layers.iter().map(|l| {
            let linear = size(&l.qkv) + size(&l.output) + size(&l.up) + size(&l.down);
            2 * linear + 4 * tokens * l.scores.heads.queries * l.scores.heads.width
        });
        (layers.sum::<usize>() * tokens) as f64
    }

    fn embed(&mut self, batch: &TokenBatch) -> Result<Embeddings> {
        let dimension = self.context.dimension as usize;
        let mut data = Vec::with_capacity(batch.lengths.len() * dimension);
        let texts: Vec<&[u32]> = batch.texts().collect();
        for group in layout::groups(&batch.lengths, &self.network) {
            let layout = Layout::new(&self.network, &texts[group])?;
            let rows = self.network.forward(&layout).and_then(|x| layout.pool(&x, self.context.pooling));
            let rows = rows.and_then(|r| self.network.project(r)?.to_dtype(DType::F32)?.to_vec2::<f32>());
            for row in &rows.map_err(failed)? {
                pool(std::iter::once(row.as_slice()), dimension, Pooling::Cls, self.context.normalize, &mut data)?;
            }
        }
        Ok(Embeddings { dimension, data })
    }
}

/// What the devices together reach in products of large matrices, in 10⁹ operations per second.
pub(in crate::embed) fn peak(devices: &[Device], dtype: Dtype) -> Result<f64> {
    const ROUNDS: u32 = 20;
    let one = |device: &Device| -> Result<f64> {
        // Large enough to fill a device; on the CPU, which serves tests, a smaller one takes as long.
        let n = if device.is_cpu() { 512 } else { 8192 };
        let tensors = Tensors::new(device, dtype)?;
        let (a, b) = (tensors.put(&vec![0.5; n * n], &[n, n])?, tensors.put(&vec![0.25; n * n], &[n, n])?);
        let multiply = |rounds: u32| -> candle_core::Result<f64> {
            device.synchronize()?;
            let start = std::time::Instant::now();
            for _ in 0..rounds {
                a.matmul(&b)?;
            }
            device.synchronize()?;
            Ok(start.elapsed().as_secs_f64())
        };
        multiply(2).map_err(failed)?;
        let seconds = multiply(ROUNDS).map_err(failed)?;
        Ok(f64::from(ROUNDS) * 2.0 * (n as f64).powi(3) / seconds / 1e9)
    };
    devices.iter().map(one).sum()
}
