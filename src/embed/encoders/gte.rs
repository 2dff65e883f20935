//! GTE v1.5: BERT with rotary positions and a gated feed-forward network.

use std::sync::Arc;

use serde_json::{Value, json};

use super::network::{Embedding, Layer, Network, Pack, Rotary, Scores};
use super::{Names, number, require, size};
use crate::embed::Weights;
use crate::embed::kernels::{Activation, Heads};
use crate::error::{Error, ErrorKind, Result};
use crate::model::ModelContext;

pub(super) fn load<P: Pack>(
    config: &Value,
    weights: &Weights,
    context: &ModelContext,
    pack: &P,
) -> Result<Network<P::Linear>> {
    let off = [json!(false), Value::Null];
    require(config, "hidden_act", &[json!("gelu")])?;
    require(config, "position_embedding_type", &[json!("rope")])?;
    require(config, "layer_norm_type", &[json!("layer_norm"), Value::Null])?;
    for key in ["logn_attention_scale", "logn_attention_clip1"] {
        require(config, key, &off)?;
    }
    let (hidden, heads) = (size(config, "hidden_size")?, size(config, "num_attention_heads")?);
    let inner = size(config, "intermediate_size")?;
    let names = Names::new(weights, &["", "new."]);
    let width = names.divide(hidden, heads)?;
    let epsilon = number(config, "layer_norm_eps", 1e-12) as f32;
    let rotary = Arc::new(rotary(config, width, context.max_tokens as usize)?);
    let layers = (0..size(config, "num_hidden_layers")?)
        .map(|i| {
            let at = format!("encoder.layer.{i}");
            let get = |rest: &str, shape: &[usize]| names.get(&format!("{at}.{rest}"), shape);
            let linear = |rest: &str, outputs: usize, inputs: usize| {
                let bias = get(&format!("{rest}.bias"), &[outputs])?;
                pack.linear(&get(&format!("{rest}.weight"), &[outputs, inputs])?, outputs, inputs, Some(&bias))
            };
            let both = get("mlp.up_gate_proj.weight", &[2 * inner, hidden])?;
            let (up, gate) = both.split_at(inner * hidden);
            Ok(Layer {
                scores: Scores::rotary(Heads { queries: heads, shared: heads, width }, &rotary),
                attention_norm: Some(names.norm(&format!("{at}.attn_ln"), hidden, epsilon)?),
                qkv: linear("attention.qkv_proj", 3 * hidden, hidden)?,
                output: linear("attention.o_proj", hidden, hidden)?,
                mlp_norm: Some(names.norm(&format!("{at}.mlp_ln"), hidden, epsilon)?),
                up: pack.gated(gate, up, inner, hidden)?,
                inner,
                activation: Activation::Gelu,
                down: linear("mlp.down_proj", hidden, inner)?,
                sandwich: None,
            })
        })
        .collect::<Result<_>>()?;
    Ok(Network::norm_last(
        hidden,
        Embedding::of_words(names.words(config, hidden)?, Some(names.norm("embeddings.LayerNorm", hidden, epsilon)?)),
        layers,
    ))
}

/// Positions, stretched as the configuration says: with a factor f the base becomes f · base, and
/// all angles become smaller by f^(2/d).
fn rotary(config: &Value, width: usize, positions: usize) -> Result<Rotary> {
    let base = number(config, "rope_theta", 10_000.0);
    match config.get("rope_scaling").unwrap_or(&Value::Null) {
        Value::Null => Ok(Rotary::new(width, base, positions)),
        scaling if scaling["type"] == "ntk" && scaling.get("mixed_b").is_none_or(Value::is_null) => {
            let factor = number(scaling, "factor", 1.0);
            Ok(Rotary::scaled(width, base * factor, factor.powf(-2.0 / width as f64), positions))
        }
        other => Err(Error::new(ErrorKind::ModelMismatch, "the model stretches positions in a way not computed here")
            .with("rope_scaling", other)
            .guidance("use another model: its vectors would be wrong here")),
    }
}
