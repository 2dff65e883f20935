//! Gemma 3 as EmbeddingGemma uses it: attention in both directions, near by in most layers; norms before and after
//! each block; and two linear layers that the pooled vector goes through.

use std::sync::Arc;

use serde_json::{Value, json};

use super::network::{Embedding, Layer, Network, Pack, Rotary, Scores};
use super::{Names, number, require, size};
use crate::embed::Weights;
use crate::embed::kernels::{Activation, Heads, Norm, Reach};
use crate::error::{Error, ErrorKind, Result};
use crate::model::ModelContext;

/// Every so many layers attend to the whole text, where the configuration does not list them.
const EVERY: usize = 6;
/// Folders of the linear layers behind the pooling, as sentence-transformers numbers a model's modules.
const DENSE: [&str; 2] = ["2_Dense/", "3_Dense/"];

pub(super) fn load<P: Pack>(
    config: &Value,
    weights: &Weights,
    context: &ModelContext,
    pack: &P,
) -> Result<Network<P::Linear>> {
    require(config, "hidden_activation", &[json!("gelu_pytorch_tanh")])?;
    require(config, "use_bidirectional_attention", &[json!(true)])?;
    require(config, "attention_bias", &[json!(false), Value::Null])?;
    for key in ["attn_logit_softcapping", "rope_scaling", "rope_parameters"] {
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
    // Weights of norms are stored as what is added to 1.
    let norm = |at: &str, width: usize| -> Result<Norm> {
        let gamma = names.get(&format!("{at}.weight"), &[width])?.into_iter().map(|x| 1.0 + x).collect();
        Ok(Norm { gamma, beta: None, epsilon, centred: false })
    };
    let rotary = |key, base| Arc::new(Rotary::new(width, number(config, key, base), context.max_tokens as usize));
    let (global, local) = (rotary("rope_theta", 1e6), rotary("rope_local_base_freq", 1e4));
    // Half of the window on each side.
    let near = size(config, "sliding_window")? / 2;
    let kinds = config.get("layer_types").and_then(Value::as_array);
    let scale = 1.0 / number(config, "query_pre_attn_scalar", width as f64).sqrt() as f32;
    let heads = Heads { queries, shared, width };
    let layers = (0..size(config, "num_hidden_layers")?)
        .map(|i| {
            let at = format!("layers.{i}");
            let get = |rest: &str, shape: &[usize]| names.get(&format!("{at}.{rest}.weight"), shape);
            let whole = match kinds.and_then(|k| k.get(i)).and_then(Value::as_str) {
                Some("full_attention") => true,
                Some("sliding_attention") => false,
                None if kinds.is_none() => (i + 1).is_multiple_of(EVERY),
                found => {
                    return Err(Error::new(ErrorKind::ModelMismatch, "the configuration does not say what a layer is")
                        .with("key", "layer_types")
                        .with("layer", i)
                        .with("found", found.unwrap_or("none")));
                }
            };
            let mut qkv = get("self_attn.q_proj", &[queries * width, hidden])?;
            qkv.extend(get("self_attn.k_proj", &[shared * width, hidden])?);
            qkv.extend(get("self_attn.v_proj", &[shared * width, hidden])?);
            let output = get("self_attn.o_proj", &[hidden, queries * width])?;
            let (gate, up) = (get("mlp.gate_proj", &[inner, hidden])?, get("mlp.up_proj", &[inner, hidden])?);
            let around = |rest: &str| norm(&format!("{at}.{rest}"), hidden);
            Ok(Layer {
                scores: Scores {
                    reach: if whole { Reach::All } else { Reach::Near(near) },
                    query_scale: scale,
                    head_norms: Some((
                        norm(&format!("{at}.self_attn.q_norm"), width)?,
                        norm(&format!("{at}.self_attn.k_norm"), width)?,
                    )),
                    ..Scores::rotary(heads, if whole { &global } else { &local })
                },
                attention_norm: Some(around("input_layernorm")?),
                qkv: pack.linear(&qkv, heads.columns(), hidden, None)?,
                output: pack.linear(&output, hidden, queries * width, None)?,
                mlp_norm: Some(around("pre_feedforward_layernorm")?),
                up: pack.gated(&gate, &up, inner, hidden)?,
                inner,
                activation: Activation::GeluTanh,
                down: pack.linear(&get("mlp.down_proj", &[hidden, inner])?, hidden, inner, None)?,
                sandwich: Some((around("post_attention_layernorm")?, around("post_feedforward_layernorm")?)),
            })
        })
        .collect::<Result<_>>()?;
    let mut words = names.get("embed_tokens.weight", &[size(config, "vocab_size")?, hidden])?;
    let factor = (hidden as f32).sqrt();
    words.iter_mut().for_each(|x| *x *= factor);
    let mut network = Network::norm_first(hidden, Embedding::of_words(words, None), layers, norm("norm", hidden)?);
    let mut inputs = hidden;
    for folder in DENSE {
        if weights.has(&format!("{folder}linear.bias")) {
            return Err(Error::new(ErrorKind::ModelMismatch, "a linear layer behind the pooling has a bias")
                .with("file", folder)
                .guidance("use another model: its vectors would be wrong here"));
        }
        let (weights, shape) = weights.read(&format!("{folder}linear.weight"))?;
        let outputs = shape.first().copied().unwrap_or(0);
        if shape != [outputs, inputs] {
            return Err(Error::new(ErrorKind::ModelMismatch, "a linear layer behind the pooling does not fit")
                .with("file", folder)
                .with("expected", format!("[outputs, {inputs}]"))
                .with("found", format!("{shape:?}")));
        }
        network.projections.push(pack.linear(&weights, outputs, inputs, None)?);
        inputs = outputs;
    }
    if inputs < context.dimension as usize {
        return Err(Error::new(ErrorKind::ModelMismatch, "the model makes shorter vectors than its card says")
            .with("expected", context.dimension)
            .with("found", inputs));
    }
    Ok(network)
}
