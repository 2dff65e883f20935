//! Nomic-BERT: BERT with rotary positions, a gated feed-forward network and no biases in it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::network::{Embedding, Layer, Network, Pack, Rotary, Scores};
use super::{Names, number, require, size};
use crate::embed::Weights;
use crate::embed::kernels::{Activation, Heads};
use crate::error::Result;
use crate::model::ModelContext;

pub(super) fn load<P: Pack>(
    config: &Value,
    weights: &Weights,
    context: &ModelContext,
    pack: &P,
) -> Result<Network<P::Linear>> {
    let off = [json!(false), Value::Null];
    require(config, "activation_function", &[json!("swiglu")])?;
    for key in ["rotary_scaling_factor", "rotary_emb_scale_base", "rope_parameters", "rope_scaling"] {
        require(config, key, &[Value::Null])?;
    }
    for key in ["causal", "use_rms_norm", "parallel_block", "prenorm", "rotary_emb_interleaved"] {
        require(config, key, &off)?;
    }
    for key in ["qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"] {
        require(config, key, &off)?;
    }
    require(config, "rotary_emb_fraction", &[json!(1.0), json!(1), Value::Null])?;
    let (hidden, heads, inner) = (size(config, "n_embd")?, size(config, "n_head")?, size(config, "n_inner")?);
    let names = Names::new(weights, &["", "nomic_bert."]);
    let width = names.divide(hidden, heads)?;
    let epsilon = number(config, "layer_norm_epsilon", 1e-12) as f32;
    let rotary = Arc::new(Rotary::new(width, number(config, "rotary_emb_base", 1000.0), context.max_tokens as usize));
    let layers = (0..size(config, "n_layer")?)
        .map(|i| {
            let at = format!("encoder.layers.{i}");
            let get = |rest: &str, shape: &[usize]| names.get(&format!("{at}.{rest}"), shape);
            Ok(Layer {
                scores: Scores::rotary(Heads { queries: heads, shared: heads, width }, &rotary),
                attention_norm: Some(names.norm(&format!("{at}.norm1"), hidden, epsilon)?),
                qkv: pack.linear(&get("attn.Wqkv.weight", &[3 * hidden, hidden])?, 3 * hidden, hidden, None)?,
                output: pack.linear(&get("attn.out_proj.weight", &[hidden, hidden])?, hidden, hidden, None)?,
                mlp_norm: Some(names.norm(&format!("{at}.norm2"), hidden, epsilon)?),
                up: pack.gated(
                    &get("mlp.fc12.weight", &[inner, hidden])?,
                    &get("mlp.fc11.weight", &[inner, hidden])?,
                    inner,
                    hidden,
                )?,
                inner,
                activation: Activation::Silu,
                down: pack.linear(&get("mlp.fc2.weight", &[hidden, inner])?, hidden, inner, None)?,
                sandwich: None,
            })
        })
        .collect::<Result<_>>()?;
    Ok(Network::norm_last(
        hidden,
        Embedding::of_words(names.words(config, hidden)?, Some(names.norm("emb_ln", hidden, epsilon)?)),
        layers,
    ))
}
