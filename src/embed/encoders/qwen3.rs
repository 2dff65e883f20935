//! Qwen3: a decoder with rotary positions, norms of heads, and keys shared by several queries.

use std::sync::Arc;

use serde_json::{Value, json};

use super::network::{Embedding, Layer, Network, Pack, Rotary, Scores};
use super::{Names, number, require, size};
use crate::embed::Weights;
use crate::embed::kernels::{Activation, Heads, Norm, Reach};
use crate::error::{Error, ErrorKind, Result};
use crate::model::ModelContext;

pub(super) fn load<P: Pack>(
    config: &Value,
    weights: &Weights,
    context: &ModelContext,
    pack: &P,
) -> Result<Network<P::Linear>> {
    require(config, "hidden_act", &[json!("silu")])?;
    for key in ["use_sliding_window", "attention_bias"] {
        require(config, key, &[json!(false), Value::Null])?;
    }
    for key in ["rope_parameters", "rope_scaling"] {
        require(config, key, &[Value::Null])?;
    }
    let hidden = size(config, "hidden_size")?;
    let (queries, shared) = (size(config, "num_attention_heads")?, size(config, "num_key_value_heads")?);
    let (width, inner) = (size(config, "head_dim")?, size(config, "intermediate_size")?);
    if !queries.is_multiple_of(shared) || !width.is_multiple_of(2) {
        return Err(Error::new(ErrorKind::ModelMismatch, "heads do not share keys evenly, or have an odd width")
            .with("num_attention_heads", queries)
            .with("num_key_value_heads", shared)
            .with("head_dim", width));
    }
    let names = Names::new(weights, &["", "model."]);
    let epsilon = number(config, "rms_norm_eps", 1e-6) as f32;
    let norm = |at: &str, width: usize| -> Result<Norm> {
        Ok(Norm { gamma: names.get(&format!("{at}.weight"), &[width])?, beta: None, epsilon, centred: false })
    };
    let rotary = Arc::new(Rotary::new(width, number(config, "rope_theta", 1e6), context.max_tokens as usize));
    let layers = (0..size(config, "num_hidden_layers")?)
        .map(|i| {
            let at = format!("layers.{i}");
            let get = |rest: &str, shape: &[usize]| names.get(&format!("{at}.{rest}.weight"), shape);
            let mut qkv = get("self_attn.q_proj", &[queries * width, hidden])?;
            qkv.extend(get("self_attn.k_proj", &[shared * width, hidden])?);
            qkv.extend(get("self_attn.v_proj", &[shared * width, hidden])?);
            let heads = Heads { queries, shared, width };
            Ok(Layer {
                scores: Scores {
                    reach: Reach::Before,
                    head_norms: Some((
                        norm(&format!("{at}.self_attn.q_norm"), width)?,
                        norm(&format!("{at}.self_attn.k_norm"), width)?,
                    )),
                    ..Scores::rotary(heads, &rotary)
                },
                attention_norm: Some(norm(&format!("{at}.input_layernorm"), hidden)?),
                qkv: pack.linear(&qkv, heads.columns(), hidden, None)?,
                output: pack.linear(
                    &get("self_attn.o_proj", &[hidden, queries * width])?,
                    hidden,
                    queries * width,
                    None,
                )?,
                mlp_norm: Some(norm(&format!("{at}.post_attention_layernorm"), hidden)?),
                up: pack.gated(
                    &get("mlp.gate_proj", &[inner, hidden])?,
                    &get("mlp.up_proj", &[inner, hidden])?,
                    inner,
                    hidden,
                )?,
                inner,
                activation: Activation::Silu,
                down: pack.linear(&get("mlp.down_proj", &[hidden, inner])?, hidden, inner, None)?,
                sandwich: None,
            })
        })
        .collect::<Result<_>>()?;
    let words = names.get("embed_tokens.weight", &[size(config, "vocab_size")?, hidden])?;
    Ok(Network::norm_first(hidden, Embedding::of_words(words, None), layers, norm("norm", hidden)?))
}
