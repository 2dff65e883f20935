//! ModernBERT: norms before each block, rotary positions, a gated feed-forward network, and
//! attention that reaches over the whole text in every n-th layer only.

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
    require(config, "hidden_activation", &[json!("gelu")])?;
    for key in ["attention_bias", "mlp_bias", "norm_bias"] {
        require(config, key, &[json!(false), Value::Null])?;
    }
    // The layout of rotary positions in newer configuration files is another one.
    for key in ["rope_parameters", "rope_scaling"] {
        require(config, key, &[Value::Null])?;
    }
    let (hidden, heads) = (size(config, "hidden_size")?, size(config, "num_attention_heads")?);
    let inner = size(config, "intermediate_size")?;
    let names = Names::new(weights, &["", "model."]);
    let width = names.divide(hidden, heads)?;
    let epsilon = number(config, "norm_eps", number(config, "layer_norm_eps", 1e-5)) as f32;
    let norm = |at: &str| -> Result<Norm> {
        Ok(Norm { gamma: names.get(&format!("{at}.weight"), &[hidden])?, beta: None, epsilon, centred: true })
    };
    let base = |key: &'static str| {
        config.get(key).and_then(Value::as_f64).filter(|b| *b > 0.0).ok_or_else(|| {
            Error::new(ErrorKind::ModelMismatch, "the model's configuration lacks a number").with("key", key)
        })
    };
    let rotary = |key| base(key).map(|b| Arc::new(Rotary::new(width, b, context.max_tokens as usize)));
    let (global, local) = (rotary("global_rope_theta")?, rotary("local_rope_theta")?);
    let (every, near) = (size(config, "global_attn_every_n_layers")?, size(config, "local_attention")? / 2);
    let layers = (0..size(config, "num_hidden_layers")?)
        .map(|i| {
            let at = format!("layers.{i}");
            let get = |rest: &str, shape: &[usize]| names.get(&format!("{at}.{rest}"), shape);
            let whole = i.is_multiple_of(every);
            let both = get("mlp.Wi.weight", &[2 * inner, hidden])?;
            let (gate, up) = both.split_at(inner * hidden);
            Ok(Layer {
                scores: Scores {
                    reach: if whole { Reach::All } else { Reach::Near(near) },
                    ..Scores::rotary(
                        Heads { queries: heads, shared: heads, width },
                        if whole { &global } else { &local },
                    )
                },
                // The embedding's norm serves the first layer.
                attention_norm: (i > 0).then(|| norm(&format!("{at}.attn_norm"))).transpose()?,
                qkv: pack.linear(&get("attn.Wqkv.weight", &[3 * hidden, hidden])?, 3 * hidden, hidden, None)?,
                output: pack.linear(&get("attn.Wo.weight", &[hidden, hidden])?, hidden, hidden, None)?,
                mlp_norm: Some(norm(&format!("{at}.mlp_norm"))?),
                up: pack.gated(gate, up, inner, hidden)?,
                inner,
                activation: Activation::Gelu,
                down: pack.linear(&get("mlp.Wo.weight", &[hidden, inner])?, hidden, inner, None)?,
                sandwich: None,
            })
        })
        .collect::<Result<_>>()?;
    let words = names.get("embeddings.tok_embeddings.weight", &[size(config, "vocab_size")?, hidden])?;
    let embedding = Embedding::of_words(words, Some(norm("embeddings.norm")?));
    Ok(Network::norm_first(hidden, embedding, layers, norm("final_norm")?))
}
