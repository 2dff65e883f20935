//! DistilBERT: BERT without token types, under other names.

use serde_json::{Value, json};

use super::bert::{Places, Shape};
use super::network::{Network, Numbering, Pack};
use super::{Names, require, size};
use crate::embed::Weights;
use crate::error::Result;

pub(super) fn load<P: Pack>(config: &Value, weights: &Weights, pack: &P) -> Result<Network<P::Linear>> {
    require(config, "activation", &[json!("gelu")])?;
    const EPSILON: f32 = 1e-12;
    let hidden = size(config, "dim")?;
    let names = Names::new(weights, &["", "distilbert."]);
    let shape = Shape { hidden, heads: size(config, "n_heads")?, inner: size(config, "hidden_dim")? };
    let layers = (0..size(config, "n_layers")?)
        .map(|i| {
            let at = format!("transformer.layer.{i}");
            let norm = |rest: &str| names.norm(&format!("{at}.{rest}"), hidden, EPSILON);
            let places = Places {
                qkv: ["q_lin", "k_lin", "v_lin"].map(|part| format!("{at}.attention.{part}")),
                output: format!("{at}.attention.out_lin"),
                up: format!("{at}.ffn.lin1"),
                down: format!("{at}.ffn.lin2"),
            };
            shape.layer(&names, pack, &places, [norm("sa_layer_norm")?, norm("output_layer_norm")?])
        })
        .collect::<Result<_>>()?;
    let embedding = names.embedding(config, hidden, Numbering::FromZero, EPSILON)?;
    Ok(Network::norm_last(hidden, embedding, layers))
}
