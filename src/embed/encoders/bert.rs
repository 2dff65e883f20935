//! BERT and XLM-RoBERTa: absolute positions, norms after each block's sum. 1/√d is folded into the
//! query's weights and bias.

use serde_json::{Value, json};

use super::network::{Embedding, Layer, Network, Numbering, Pack, Scores};
use super::{Names, require, size};
use crate::embed::Weights;
use crate::embed::bench::Shape as BenchShape;
use crate::embed::kernels::{Activation, Heads, Norm};
use crate::error::Result;
use crate::model::{Architecture, ModelContext};

pub(super) fn load<P: Pack>(
    config: &Value,
    weights: &Weights,
    context: &ModelContext,
    pack: &P,
) -> Result<Network<P::Linear>> {
    require(config, "hidden_act", &[json!("gelu")])?;
    require(config, "position_embedding_type", &[json!("absolute"), Value::Null])?;
    require(config, "is_decoder", &[json!(false), Value::Null])?;
    let hidden = size(config, "hidden_size")?;
    let names = Names::new(weights, &["", "bert.", "roberta."]);
    let epsilon = config.get("layer_norm_eps").and_then(Value::as_f64).unwrap_or(1e-12) as f32;
    let norm = |at: &str| names.norm(at, hidden, epsilon);
    let shape =
        Shape { hidden, heads: size(config, "num_attention_heads")?, inner: size(config, "intermediate_size")? };
    let layers = (0..size(config, "num_hidden_layers")?)
        .map(|i| {
            let at = format!("encoder.layer.{i}");
            shape.layer(
                &names,
                pack,
                &Places {
                    qkv: ["query", "key", "value"].map(|part| format!("{at}.attention.self.{part}")),
                    output: format!("{at}.attention.output.dense"),
                    up: format!("{at}.intermediate.dense"),
                    down: format!("{at}.output.dense"),
                },
                [norm(&format!("{at}.attention.output.LayerNorm"))?, norm(&format!("{at}.output.LayerNorm"))?],
            )
        })
        .collect::<Result<_>>()?;
    let numbering = match context.architecture {
        Architecture::XlmRoberta => Numbering::After(size(config, "pad_token_id")? as u32),
        _ => Numbering::FromZero,
    };
    let embedding = names.embedding(config, hidden, numbering, epsilon)?;
    Ok(Network::norm_last(hidden, embedding, layers))
}

/// The sizes of a layer with as many key heads as query heads.
pub(super) struct Shape {
    pub(super) hidden: usize,
    pub(super) heads: usize,
    pub(super) inner: usize,
}

/// Where a layer's matrices are, each with `.weight` and `.bias`.
pub(super) struct Places {
    pub(super) qkv: [String; 3],
    pub(super) output: String,
    pub(super) up: String,
    pub(super) down: String,
}

impl Shape {
    /// A layer of BERT and its next of kin: exact GELU, a bias everywhere.
    pub(super) fn layer<P: Pack>(
        &self,
        names: &Names<'_>,
        pack: &P,
        at: &Places,
        [attention_norm, mlp_norm]: [Norm; 2],
    ) -> Result<Layer<P::Linear>> {
        let Self { hidden, heads, inner } = *self;
        let width = names.divide(hidden, heads)?;
        let scale = 1.0 / (width as f32).sqrt();
        let (mut qkv, mut biases) = (Vec::new(), Vec::new());
        for (part, factor) in at.qkv.iter().zip([scale, 1.0, 1.0]) {
            let (weights, bias) = (
                names.get(&format!("{part}.weight"), &[hidden, hidden])?,
                names.get(&format!("{part}.bias"), &[hidden])?,
            );
            qkv.extend(weights.into_iter().map(|x| x * factor));
            biases.extend(bias.into_iter().map(|x| x * factor));
        }
        let linear = |at: &str, outputs: usize, inputs: usize| {
            let weights = names.get(&format!("{at}.weight"), &[outputs, inputs])?;
            pack.linear(&weights, outputs, inputs, Some(&names.get(&format!("{at}.bias"), &[outputs])?))
        };
        Ok(Layer {
            scores: Scores::new(Heads { queries: heads, shared: heads, width }),
            attention_norm: Some(attention_norm),
            qkv: pack.linear(&qkv, 3 * hidden, hidden, Some(&biases))?,
            output: linear(&at.output, hidden, hidden)?,
            mlp_norm: Some(mlp_norm),
            up: linear(&at.up, inner, hidden)?,
            inner,
            activation: Activation::Gelu,
            down: linear(&at.down, hidden, inner)?,
            sandwich: None,
        })
    }
}

/// A network of this shape whose weights are noise of the size that trained ones have.
pub(super) fn random<P: Pack>(
    shape: BenchShape,
    vocabulary: usize,
    positions: usize,
    pack: &P,
) -> Result<Network<P::Linear>> {
    let BenchShape { layers, hidden, heads, inner, .. } = shape;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = |n: usize| -> Vec<f32> {
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * 0.05
            })
            .collect()
    };
    let norm = || Norm { gamma: vec![1.0; hidden], beta: Some(vec![0.0; hidden]), epsilon: 1e-12, centred: true };
    let width = hidden / heads;
    let layers = (0..layers)
        .map(|_| {
            let mut linear = |outputs: usize, inputs: usize| {
                pack.linear(&noise(outputs * inputs), outputs, inputs, Some(&vec![0.0; outputs]))
            };
            Ok(Layer {
                scores: Scores::new(Heads { queries: heads, shared: heads, width }),
                attention_norm: Some(norm()),
                qkv: linear(3 * hidden, hidden)?,
                output: linear(hidden, hidden)?,
                mlp_norm: Some(norm()),
                up: linear(inner, hidden)?,
                inner,
                activation: Activation::Gelu,
                down: linear(hidden, inner)?,
                sandwich: None,
            })
        })
        .collect::<Result<_>>()?;
    let embedding = Embedding {
        words: noise(vocabulary * hidden),
        positions: Some(noise(positions * hidden)),
        numbering: Numbering::FromZero,
        norm: Some(norm()),
    };
    Ok(Network::norm_last(hidden, embedding, layers))
}
