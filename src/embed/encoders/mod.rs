//! One architecture per file, and what they share: [`network`] and its computation.

mod bert;
mod cpu;
mod distil;
mod gemma3;
mod gte;
mod modern;
mod mpnet;
mod network;
mod nomic;
mod qwen3;
mod tensor;

use std::sync::Arc;

use serde_json::Value;

use super::bench::Shape as BenchShape;
use super::device::Place;
use super::kernels::Norm;
use super::{Embedder, Weights};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Architecture, ModelContext, ModelFiles};
use cpu::{CpuEncoder, Formats};
use network::{Embedding, Network, Numbering, Pack};
pub(super) use tensor::peak;
use tensor::{TensorEncoder, Tensors};

/// One encoder per worker: on the CPU `workers` of them, which share the weights; else one per device.
pub(super) fn open(
    files: &ModelFiles,
    context: &Arc<ModelContext>,
    workers: usize,
    place: &Place,
) -> Result<Vec<Box<dyn Embedder>>> {
    if matches!(context.architecture, Architecture::Service | Architecture::Noop) {
        return Err(Error::new(ErrorKind::Configuration, "this model has no network here").with("model", &context.name));
    }
    let config = files.config()?;
    let weights = files.tensors()?;
    encoders(Load { config: &config, weights: &weights, context }, context, workers, place)
}

/// A network with random weights, for measuring.
pub(super) fn synthetic(
    shape: BenchShape,
    vocabulary: usize,
    context: &Arc<ModelContext>,
    workers: usize,
    place: &Place,
) -> Result<Vec<Box<dyn Embedder>>> {
    let positions = context.max_tokens as usize;
    encoders(Random { shape, vocabulary, positions }, context, workers, place)
}

/// Makes a network for any executor.
trait Build {
    fn network<P: Pack>(&self, pack: &P) -> Result<Network<P::Linear>>;
}

fn encoders(
    build: impl Build,
    context: &Arc<ModelContext>,
    workers: usize,
    place: &Place,
) -> Result<Vec<Box<dyn Embedder>>> {
    match place {
        Place::Cpu(cpu) => {
            let formats = Formats::new(*cpu, context.dtype)?;
            let network = Arc::new(build.network(&formats)?);
            Ok((0..workers).map(|_| Box::new(CpuEncoder::new(&network, context, formats)) as _).collect())
        }
        Place::Devices(devices) => devices
            .iter()
            .map(|device| {
                let tensors = Tensors::new(device, context.dtype)?;
                let encoder = TensorEncoder::new(build.network(&tensors)?, context, &tensors)?;
                Ok(Box::new(encoder) as Box<dyn Embedder>)
            })
            .collect(),
    }
}

/// A network from a model's files.
struct Load<'a> {
    config: &'a Value,
    weights: &'a Weights,
    context: &'a ModelContext,
}

impl Build for Load<'_> {
    fn network<P: Pack>(&self, pack: &P) -> Result<Network<P::Linear>> {
        let Self { config, weights, context } = *self;
        match context.architecture {
            Architecture::Bert | Architecture::XlmRoberta => bert::load(config, weights, context, pack),
            Architecture::DistilBert => distil::load(config, weights, pack),
            Architecture::Mpnet => mpnet::load(config, weights, context, pack),
            Architecture::NomicBert => nomic::load(config, weights, context, pack),
            Architecture::ModernBert => modern::load(config, weights, context, pack),
            Architecture::Gte => gte::load(config, weights, context, pack),
            Architecture::Qwen3 => qwen3::load(config, weights, context, pack),
            Architecture::Gemma3 => gemma3::load(config, weights, context, pack),
            Architecture::Service | Architecture::Noop => unreachable!("refused by `open`"),
        }
    }
}

/// A network of noise.
struct Random {
    shape: BenchShape,
    vocabulary: usize,
    positions: usize,
}

impl Build for Random {
    fn network<P: Pack>(&self, pack: &P) -> Result<Network<P::Linear>> {
        bert::random(self.shape, self.vocabulary, self.positions, pack)
    }
}

/// Tensors of a checkpoint whose names may all begin with a prefix.
struct Names<'a> {
    weights: &'a Weights,
    prefixes: &'a [&'a str],
}

impl<'a> Names<'a> {
    /// The first prefix is the one that errors name.
    fn new(weights: &'a Weights, prefixes: &'a [&'a str]) -> Self {
        Self { weights, prefixes }
    }

    fn full(&self, rest: &str) -> String {
        let name = |prefix: &&str| format!("{prefix}{rest}");
        self.prefixes.iter().map(name).find(|n| self.weights.has(n)).unwrap_or_else(|| name(&self.prefixes[0]))
    }

    fn has(&self, rest: &str) -> bool {
        self.weights.has(&self.full(rest))
    }

    /// A tensor of this shape.
    fn get(&self, rest: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.weights.get(&self.full(rest), shape)
    }

    /// Layer norm with weight and bias, under today's names or TensorFlow's.
    fn norm(&self, at: &str, width: usize, epsilon: f32) -> Result<Norm> {
        let either = |new: &str, old: &str| {
            let old = format!("{at}.{old}");
            self.get(&if self.has(&old) { old } else { format!("{at}.{new}") }, &[width])
        };
        let (gamma, beta) = (either("weight", "gamma")?, either("bias", "beta")?);
        Ok(Norm { gamma, beta: Some(beta), epsilon, centred: true })
    }

    /// Word embeddings, with those of the first token type added where there are types.
    fn words(&self, config: &Value, hidden: usize) -> Result<Vec<f32>> {
        let mut words = self.get("embeddings.word_embeddings.weight", &[size(config, "vocab_size")?, hidden])?;
        if let Ok(types) = size(config, "type_vocab_size") {
            let types = self.get("embeddings.token_type_embeddings.weight", &[types, hidden])?;
            for row in words.chunks_exact_mut(hidden) {
                row.iter_mut().zip(&types).for_each(|(x, t)| *x += t);
            }
        }
        Ok(words)
    }

    /// Words and learned positions, as BERT and its next of kin have them.
    fn embedding(&self, config: &Value, hidden: usize, numbering: Numbering, epsilon: f32) -> Result<Embedding> {
        let positions = [size(config, "max_position_embeddings")?, hidden];
        Ok(Embedding {
            words: self.words(config, hidden)?,
            positions: Some(self.get("embeddings.position_embeddings.weight", &positions)?),
            numbering,
            norm: Some(self.norm("embeddings.LayerNorm", hidden, epsilon)?),
        })
    }

    /// Columns of a head.
    fn divide(&self, hidden: usize, heads: usize) -> Result<usize> {
        let width = hidden / heads;
        if hidden.is_multiple_of(heads) && width.is_multiple_of(2) {
            return Ok(width);
        }
        Err(Error::new(ErrorKind::ModelMismatch, "the hidden size does not divide into heads of an even width")
            .with("hidden_size", hidden)
            .with("num_attention_heads", heads))
    }
}

/// Refuses a network that is not computed rightly here.
fn require(config: &Value, key: &'static str, right: &[Value]) -> Result<()> {
    let found = config.get(key).unwrap_or(&Value::Null);
    if right.contains(found) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::ModelMismatch, "the model needs something that its encoder does not compute")
        .with("key", key)
        .with("expected", right.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "))
        .with("found", found)
        .guidance("use another model: its vectors would be wrong here"))
}

/// A number of the configuration, or what it is where it is not said.
fn number(config: &Value, key: &str, default: f64) -> f64 {
    config.get(key).and_then(Value::as_f64).unwrap_or(default)
}

/// A positive whole number of the configuration.
fn size(config: &Value, key: &'static str) -> Result<usize> {
    config.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0).ok_or_else(|| {
        Error::new(ErrorKind::ModelMismatch, "the model's configuration lacks a number").with("key", key)
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
