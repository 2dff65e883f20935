//! Networks of candle-transformers: Nomic-BERT, ModernBERT and Qwen3, one text at a time, so that
//! neither padding nor a mask can touch a vector.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{modernbert, nomic_bert, qwen3};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{failed, require};
use crate::embed::pooling::pool;
use crate::embed::{Embedder, Embeddings, TokenBatch, Weights};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Architecture, ModelContext};

/// A network with its weights, shared by all workers.
pub(super) enum Network {
    Nomic(nomic_bert::NomicBertModel),
    Modern(modernbert::ModernBert),
    Qwen3(qwen3::Model),
}

impl Network {
    pub(super) fn load(config: &Value, weights: &Weights, architecture: Architecture) -> Result<Self> {
        let off = [json!(false), Value::Null];
        // The layout of rotary positions in newer configuration files is another one.
        require(config, "rope_parameters", &[Value::Null])?;
        require(config, "rope_scaling", &[Value::Null])?;
        match architecture {
            Architecture::NomicBert => {
                require(config, "activation_function", &[json!("swiglu")])?;
                require(config, "rotary_scaling_factor", &[Value::Null])?;
                require(config, "rotary_emb_scale_base", &[Value::Null])?;
                for key in ["causal", "use_rms_norm", "parallel_block"] {
                    require(config, key, &off)?;
                }
                let parsed = parse(config)?;
                let network = nomic_bert::NomicBertModel::load(builder(weights, "", config)?, &parsed);
                Ok(Self::Nomic(network.map_err(unfit)?))
            }
            Architecture::ModernBert => {
                require(config, "hidden_activation", &[json!("gelu")])?;
                for key in ["attention_bias", "mlp_bias", "norm_bias"] {
                    require(config, key, &off)?;
                }
                let mut config = config.clone();
                if let (Some(epsilon), Some(object)) = (config.get("norm_eps").cloned(), config.as_object_mut()) {
                    object.insert("layer_norm_eps".to_owned(), epsilon);
                }
                let network = modernbert::ModernBert::load(builder(weights, "model.", &config)?, &parse(&config)?);
                Ok(Self::Modern(network.map_err(unfit)?))
            }
            Architecture::Qwen3 => {
                require(config, "hidden_act", &[json!("silu")])?;
                require(config, "use_sliding_window", &off)?;
                let network = qwen3::Model::new(&parse(config)?, builder(weights, "model.", config)?);
                Ok(Self::Qwen3(network.map_err(unfit)?))
            }
            other => {
                Err(Error::new(ErrorKind::Unexpected, "not a wrapped network")
                    .with("architecture", format!("{other:?}")))
            }
        }
    }

    /// The last layer's rows of one text.
    fn forward(&self, ids: &[u32]) -> candle_core::Result<Vec<f32>> {
        let input = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        let rows = match self {
            Self::Nomic(network) => network.forward(&input, None, None)?,
            Self::Modern(network) => network.forward(&input, &input.ones_like()?)?,
            // The network keeps keys and values from call to call and its reset is private: a copy
            // starts empty, and shares the weights.
            Self::Qwen3(network) => network.clone().forward(&input, 0)?,
        };
        rows.flatten_all()?.to_vec1()
    }
}

fn parse<T: DeserializeOwned>(config: &Value) -> Result<T> {
    serde_path_to_error::deserialize(config).map_err(|e| {
        Error::new(ErrorKind::ModelMismatch, "the model's configuration lacks what its encoder needs")
            .with("key", e.path().to_string())
            .because(e.into_inner())
    })
}

fn unfit(e: candle_core::Error) -> Error {
    Error::new(ErrorKind::ModelMismatch, "the weights do not fit the model's configuration").because(e)
}

/// All tensors, under names that begin with `prefix` whether or not the file's do.
fn builder(weights: &Weights, prefix: &str, config: &Value) -> Result<VarBuilder<'static>> {
    // A language model's head is never used; it can be as large as the embeddings.
    let tied = config.get("tie_word_embeddings").is_some();
    let tensors = weights
        .names()
        .into_iter()
        .filter(|name| !(tied && name.starts_with("lm_head.")))
        .map(|name| {
            let tensor = weights.tensor(&name)?;
            let name = if name.starts_with(prefix) { name } else { format!("{prefix}{name}") };
            Ok((name, tensor))
        })
        .collect::<Result<HashMap<_, _>>>()?;
    Ok(VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu))
}

/// One worker's encoder.
pub(super) struct Wrapped {
    network: Arc<Network>,
    context: Arc<ModelContext>,
}

impl Wrapped {
    pub(super) fn new(network: &Arc<Network>, context: &Arc<ModelContext>) -> Self {
        Self { network: Arc::clone(network), context: Arc::clone(context) }
    }
}

impl Embedder for Wrapped {
    fn context(&self) -> &ModelContext {
        &self.context
    }

    fn embed(&mut self, batch: &TokenBatch) -> Result<Embeddings> {
        let dimension = self.context.dimension as usize;
        let mut data = Vec::with_capacity(dimension * batch.lengths.len());
        for ids in batch.texts() {
            let rows = self.network.forward(ids).map_err(failed)?;
            pool(&rows, dimension, self.context.pooling, self.context.normalize, &mut data)?;
        }
        Ok(Embeddings { dimension, data })
    }
}
