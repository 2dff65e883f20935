//! Computing a network on the CPU, one worker's share.

use std::sync::Arc;

use super::network::{Layer, Network, Pack, Scores};
use crate::embed::kernels::{Activation, Attention, Cpu, Format, Linear, Norm, Out, Rows, Scratch};
use crate::embed::pooling::pool;
use crate::embed::{Embedder, Embeddings, TokenBatch};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Dtype, ModelContext, Pooling};

/// Tokens that go through the layers together: enough that packed weights are used often once
/// they are near, few enough that a layer's activations stay in the second-level cache.
const MICRO_BATCH: usize = 256;

/// How numbers are held and multiplied on a machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Formats {
    cpu: Cpu,
    /// Operands of linear layers.
    linear: Format,
    /// Operands of attention.
    attention: Format,
}

impl Formats {
    /// # Errors
    /// `Configuration` for a precision that no CPU kernel computes in.
    pub(super) fn new(cpu: Cpu, dtype: Dtype) -> Result<Self> {
        let (linear, attention) = match dtype {
            Dtype::F32 => (Format::F32, Format::F32),
            Dtype::Bf16 => (cpu.bf16(), cpu.bf16()),
            Dtype::Int8 => (Format::Int8, cpu.bf16()),
            Dtype::F16 => {
                return Err(Error::new(ErrorKind::Configuration, "CPUs compute in f32, bf16 or int8 here, not in f16")
                    .guidance("set `dtype` in the pipeline's [model] to one of these"));
            }
        };
        Ok(Self { cpu, linear, attention })
    }
}

impl Pack for Formats {
    type Linear = Linear;

    fn linear(&self, weights: &[f32], outputs: usize, inputs: usize, bias: Option<&[f32]>) -> Result<Linear> {
        Ok(Linear::new(self.cpu, self.linear, weights, outputs, inputs, bias))
    }

    fn gated(&self, gate: &[f32], up: &[f32], outputs: usize, inputs: usize) -> Result<Linear> {
        Ok(Linear::gated(self.cpu, self.linear, gate, up, outputs, inputs))
    }
}

/// One worker's encoder.
pub(super) struct CpuEncoder {
    network: Arc<Network<Linear>>,
    context: Arc<ModelContext>,
    formats: Formats,
    memory: Memory,
}

/// Matrices that live from batch to batch.
struct Memory {
    x: Rows,
    operand: Rows,
    /// Before rotation and norms of heads, where a layer has them.
    raw: Rows,
    qkv: Rows,
    attended: Rows,
    attended_operand: Rows,
    /// What a block gives, where it goes through a norm before it is added.
    branch: Rows,
    inner: Rows,
    inner_operand: Rows,
    scratch: Scratch,
}

impl CpuEncoder {
    pub(super) fn new(network: &Arc<Network<Linear>>, context: &Arc<ModelContext>, formats: Formats) -> Self {
        let Formats { linear, attention, .. } = formats;
        let (hidden, layer) = (network.hidden, network.layers.first());
        let (columns, heads, inner) = layer
            .map_or((0, 0, 0), |l| (l.scores.heads.columns(), l.scores.heads.queries * l.scores.heads.width, l.inner));
        // Integers are made of whole rows, so that a row is floats first.
        let whole = if linear == Format::Int8 { Format::F32 } else { linear };
        let memory = Memory {
            x: Rows::new(Format::F32, hidden),
            operand: Rows::new(linear, hidden),
            raw: Rows::new(Format::F32, columns),
            qkv: Rows::new(attention, columns),
            attended: Rows::new(whole, heads),
            attended_operand: Rows::new(linear, heads),
            branch: Rows::new(Format::F32, hidden),
            inner: Rows::new(whole, inner),
            inner_operand: Rows::new(linear, inner),
            scratch: Scratch::default(),
        };
        Self { network: Arc::clone(network), context: Arc::clone(context), formats, memory }
    }

    /// Fills `memory.x` with the last layer's rows of all tokens.
    fn forward(&mut self, ids: &[u32], lengths: &[u32]) -> Result<()> {
        let (network, cpu) = (Arc::clone(&self.network), self.formats.cpu);
        let m = &mut self.memory;
        m.x.reset(ids.len());
        m.operand.reset(ids.len());
        let mut rest = ids;
        let mut row = 0;
        for length in lengths {
            let (text, after) = rest.split_at(*length as usize);
            rest = after;
            for (id, position) in text.iter().zip(network.embedding.numbering.positions(text)) {
                network.embedding.write(*id, position, m.x.row_mut(row))?;
                row += 1;
            }
        }
        if let Some(norm) = &network.embedding.norm {
            let operand = (!network.norm_first).then_some(&mut m.operand);
            cpu.normalise(&mut m.x, norm, false, operand);
        } else if !network.norm_first {
            cpu.convert(&m.x, &mut m.operand);
        }
        for layer in &network.layers {
            m.layer(layer, network.norm_first, lengths, cpu);
        }
        if let Some(norm) = &network.last_norm {
            cpu.normalise(&mut m.x, norm, false, None);
        }
        Ok(())
    }

    /// Pooled vectors through the network's last linear layers.
    fn project(&self, pooled: &[f32]) -> Rows {
        let Formats { cpu, linear, .. } = self.formats;
        let mut rows = Rows::new(Format::F32, self.network.hidden);
        rows.reset(pooled.len() / self.network.hidden);
        for (i, vector) in pooled.chunks_exact(self.network.hidden).enumerate() {
            rows.row_mut(i).copy_from_slice(vector);
        }
        for weights in &self.network.projections {
            let mut operand = Rows::new(linear, rows.width());
            operand.reset(rows.count());
            cpu.convert(&rows, &mut operand);
            let mut out = Rows::new(Format::F32, weights.outputs());
            out.reset(rows.count());
            cpu.product(&operand, weights, Out::Put(&mut out, Activation::None));
            rows = out;
        }
        rows
    }
}

impl Memory {
    fn layer(&mut self, layer: &Layer<Linear>, norm_first: bool, lengths: &[u32], cpu: Cpu) {
        if norm_first {
            self.operand_of(layer.attention_norm.as_ref(), true, cpu);
        }
        self.attend(layer, lengths, cpu);
        let attended = operand(&self.attended, &mut self.attended_operand, cpu);
        let (after_attention, after_mlp) = layer.sandwich.as_ref().map_or((None, None), |(a, m)| (Some(a), Some(m)));
        add(attended, &layer.output, after_attention, &mut self.branch, &mut self.x, cpu);
        let norm = if norm_first { &layer.mlp_norm } else { &layer.attention_norm };
        self.operand_of(norm.as_ref(), norm_first, cpu);
        self.inner.reset(self.x.count());
        cpu.product(&self.operand, &layer.up, Out::Put(&mut self.inner, layer.activation));
        let inner = operand(&self.inner, &mut self.inner_operand, cpu);
        add(inner, &layer.down, after_mlp, &mut self.branch, &mut self.x, cpu);
        if !norm_first {
            self.operand_of(layer.mlp_norm.as_ref(), false, cpu);
        }
    }

    /// The next product's operand: rows through a norm, which themselves stay as they are with `keep`.
    fn operand_of(&mut self, norm: Option<&Norm>, keep: bool, cpu: Cpu) {
        match norm {
            Some(norm) => cpu.normalise(&mut self.x, norm, keep, Some(&mut self.operand)),
            None => cpu.convert(&self.x, &mut self.operand),
        }
    }

    fn attend(&mut self, layer: &Layer<Linear>, lengths: &[u32], cpu: Cpu) {
        let count = self.x.count();
        self.qkv.reset(count);
        self.attended.reset(count);
        let scores = &layer.scores;
        if scores.rotary.is_some() || scores.head_norms.is_some() {
            self.raw.reset(count);
            cpu.product(&self.operand, &layer.qkv, Out::Put(&mut self.raw, Activation::None));
            place(scores, lengths, &mut self.raw);
            cpu.convert(&self.raw, &mut self.qkv);
        } else {
            cpu.product(&self.operand, &layer.qkv, Out::Put(&mut self.qkv, Activation::None));
        }
        let attention = Attention {
            heads: scores.heads,
            reach: scores.reach,
            distances: scores.distances.as_ref().map(|d| d.as_slice()),
        };
        let mut start = 0;
        for length in lengths.iter().map(|l| *l as usize) {
            cpu.attention(attention, &self.qkv, (start, length), &mut self.scratch, &mut self.attended);
            start += length;
        }
    }
}

/// Adds a product to `x`, through a norm where there is one.
fn add(operand: &Rows, weights: &Linear, norm: Option<&Norm>, branch: &mut Rows, x: &mut Rows, cpu: Cpu) {
    let Some(norm) = norm else {
        return cpu.product(operand, weights, Out::Add(x));
    };
    branch.reset(operand.count());
    cpu.product(operand, weights, Out::Put(branch, Activation::None));
    cpu.normalise(branch, norm, false, None);
    for row in 0..x.count() {
        x.row_mut(row).iter_mut().zip(branch.row(row)).for_each(|(x, b)| *x += b);
    }
}

/// Rows in the format of a product's operand: themselves where they have it.
fn operand<'a>(rows: &'a Rows, converted: &'a mut Rows, cpu: Cpu) -> &'a Rows {
    if rows.format() == converted.format() {
        return rows;
    }
    converted.reset(rows.count());
    cpu.convert(rows, converted);
    converted
}

/// Norms, rotates and scales the heads' queries and keys.
fn place(scores: &Scores, lengths: &[u32], rows: &mut Rows) {
    let heads = scores.heads;
    let mut start = 0;
    for length in lengths.iter().map(|l| *l as usize) {
        for position in 0..length {
            let row = &mut rows.row_mut(start + position)[..(heads.queries + heads.shared) * heads.width];
            for (i, head) in row.chunks_exact_mut(heads.width).enumerate() {
                let query = i < heads.queries;
                if let Some((queries, keys)) = &scores.head_norms {
                    let norm = if query { queries } else { keys };
                    let square = head.iter().map(|x| x * x).sum::<f32>() / heads.width as f32;
                    let scale = 1.0 / (square + norm.epsilon).sqrt();
                    head.iter_mut().zip(&norm.gamma).for_each(|(x, g)| *x *= scale * g);
                }
                if let Some(rotary) = &scores.rotary {
                    rotary.turn(head, position);
                }
                if query && scores.query_scale != 1.0 {
                    head.iter_mut().for_each(|x| *x *= scores.query_scale);
                }
            }
        }
        start += length;
    }
}

impl Embedder for CpuEncoder {
    fn context(&self) -> &ModelContext {
        &self.context
    }

    fn operations(&self, tokens: usize) -> f64 {
        let layers = self.network.layers.iter().map(|l| {
            let linear = l.qkv.size() + l.output.size() + l.up.size() + l.down.size();
            2 * linear + 4 * tokens * l.scores.heads.queries * l.scores.heads.width
        });
        (layers.sum::<usize>() * tokens) as f64
    }

    fn embed(&mut self, batch: &TokenBatch) -> Result<Embeddings> {
        let dimension = self.context.dimension as usize;
        let context = Arc::clone(&self.context);
        let mut data = Vec::with_capacity(batch.lengths.len() * dimension);
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
            self.forward(now, here)?;
            let mut start = 0;
            let projected = !self.network.projections.is_empty();
            let mut pooled = Vec::new();
            for length in here.iter().map(|l| *l as usize) {
                let rows = (start..start + length).map(|i| self.memory.x.row(i));
                match projected {
                    true => pool(rows, self.network.hidden, context.pooling, false, &mut pooled)?,
                    false => pool(rows, dimension, context.pooling, context.normalize, &mut data)?,
                }
                start += length;
            }
            if projected {
                let rows = self.project(&pooled);
                for row in (0..rows.count()).map(|i| rows.row(i)) {
                    pool(std::iter::once(row), dimension, Pooling::Cls, context.normalize, &mut data)?;
                }
            }
            (lengths, ids) = (later, then);
        }
        Ok(Embeddings { dimension, data })
    }
}
