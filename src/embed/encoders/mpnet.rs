//! MPNet: BERT whose scores also depend on the distance between tokens.

use std::sync::Arc;

use serde_json::{Value, json};

use super::bert::{Places, Shape};
use super::network::{Network, Numbering, Pack};
use super::{Names, number, require, size};
use crate::embed::Weights;
use crate::error::Result;
use crate::model::ModelContext;

/// From this distance on, all are alike.
const FARTHEST: f64 = 128.0;

pub(super) fn load<P: Pack>(
    config: &Value,
    weights: &Weights,
    context: &ModelContext,
    pack: &P,
) -> Result<Network<P::Linear>> {
    require(config, "hidden_act", &[json!("gelu")])?;
    let hidden = size(config, "hidden_size")?;
    let names = Names::new(weights, &["", "mpnet."]);
    let epsilon = number(config, "layer_norm_eps", 1e-12) as f32;
    let shape =
        Shape { hidden, heads: size(config, "num_attention_heads")?, inner: size(config, "intermediate_size")? };
    let buckets = size(config, "relative_attention_num_buckets")?;
    let table = names.get("encoder.relative_attention_bias.weight", &[buckets, shape.heads])?;
    let distances = Arc::new(by_distance(&table, buckets, shape.heads, context.max_tokens as usize));
    let layers = (0..size(config, "num_hidden_layers")?)
        .map(|i| {
            let at = format!("encoder.layer.{i}");
            let norm = |rest: &str| names.norm(&format!("{at}.{rest}"), hidden, epsilon);
            let places = Places {
                qkv: ["q", "k", "v"].map(|part| format!("{at}.attention.attn.{part}")),
                output: format!("{at}.attention.attn.o"),
                up: format!("{at}.intermediate.dense"),
                down: format!("{at}.output.dense"),
            };
            let mut layer =
                shape.layer(&names, pack, &places, [norm("attention.LayerNorm")?, norm("output.LayerNorm")?])?;
            layer.scores.distances = Some(Arc::clone(&distances));
            Ok(layer)
        })
        .collect::<Result<_>>()?;
    let embedding =
        names.embedding(config, hidden, Numbering::After(number(config, "pad_token_id", 1.0) as u32), epsilon)?;
    Ok(Network::norm_last(hidden, embedding, layers))
}

/// `[buckets][heads]` → `[heads][2 · most + 1]` by key − query, as T5 puts distances in buckets:
/// one half for keys behind the query and one for those before it; in each, the nearer half of the
/// buckets hold one distance, the others logarithmically more.
fn by_distance(table: &[f32], buckets: usize, heads: usize, most: usize) -> Vec<f32> {
    let half = buckets / 2;
    let exact = half / 2;
    let bucket = |distance: usize| match distance {
        d if d < exact => d,
        d => {
            // As the reference computes it, in 32 bits: a bucket's edge must fall the same way.
            let scale = (half - exact) as f64 / (FARTHEST / exact as f64).ln();
            let far = ((d as f32 / exact as f32).ln() * scale as f32) as usize;
            (exact + far).min(half - 1)
        }
    };
    let mut out = Vec::with_capacity(heads * (2 * most + 1));
    for head in 0..heads {
        for place in 0..=2 * most {
            let index = match place.checked_sub(most) {
                None | Some(0) => bucket(most - place),
                Some(after) => half + bucket(after),
            };
            out.push(table[index * heads + head]);
        }
    }
    out
}
