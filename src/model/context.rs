//! The model context: everything that determines a vector.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Digest, fingerprint};

/// Network architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// BERT (MiniLM, BGE, E5, GTE).
    Bert,
    /// XLM-RoBERTa (multilingual E5, BGE-M3 dense).
    XlmRoberta,
    /// DistilBERT.
    DistilBert,
    /// MPNet (all-mpnet-base-v2): scores by distance.
    Mpnet,
    /// Nomic-BERT: rotary positions, SwiGLU.
    NomicBert,
    /// ModernBERT.
    ModernBert,
    /// GTE v1.5: rotary positions, GEGLU.
    Gte,
    /// Qwen3: decoder, last-token pooling.
    Qwen3,
    /// Gemma 3 as EmbeddingGemma uses it.
    Gemma3,
    /// No network here: a service computes the vectors.
    Service,
    /// No network: deterministic pseudo-random vectors, for measuring everything else.
    Noop,
}

/// How token vectors become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Mean over the tokens.
    Mean,
    /// The first token.
    Cls,
    /// The last token.
    LastToken,
}

/// Number format of the computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
    /// 16-bit floats.
    F16,
    /// 8-bit integers in linear layers, bfloat16 in attention: fast, and not exact.
    Int8,
}

impl Dtype {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::F32, Self::Bf16, Self::F16, Self::Int8];
    /// Every format that the CPU computes in.
    pub const CPU: [Self; 3] = [Self::F32, Self::Bf16, Self::Int8];
    /// Every format that GPUs compute in.
    pub const GPU: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// Its name in pipelines and snapshots.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        }
    }

    /// Least cosine of two vectors of one text in this format, computed on any two machines.
    pub fn least_cosine(self) -> f64 {
        match self {
            Self::F32 => 0.9999,
            Self::Bf16 | Self::F16 => 0.999,
            Self::Int8 => 0.99,
        }
    }
}

/// Distance of the vector space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Cosine similarity, higher is closer.
    Cosine,
    /// Dot product, higher is closer.
    Dot,
    /// Euclidean distance, lower is closer.
    Euclidean,
}

/// Everything that determines a vector; part of every snapshot and written on every collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelContext {
    /// Card name, for people: not part of the fingerprint.
    pub name: String,
    /// Digest of the weights file (of the digests of the shards, when there are several).
    pub weights: Digest,
    /// Digest of the tokenizer's file.
    pub tokenizer: Digest,
    /// Digest of the architecture's configuration file.
    pub config: Digest,
    /// Network architecture.
    pub architecture: Architecture,
    /// Pooling.
    pub pooling: Pooling,
    /// Whether vectors are scaled to length 1.
    pub normalize: bool,
    /// Text put before every query.
    pub query_prefix: String,
    /// Text put before every chunk.
    pub document_prefix: String,
    /// Most tokens the model takes, special tokens included.
    pub max_tokens: u32,
    /// Number format of the computation.
    pub dtype: Dtype,
    /// Length of a vector.
    pub dimension: u32,
    /// Distance.
    pub metric: Metric,
}

impl ModelContext {
    /// The fingerprint that names the vector space.
    pub fn fingerprint(&self) -> Result<Digest> {
        let mut nameless = self.clone();
        nameless.name.clear();
        fingerprint("model-context/1", &nameless)
    }

    /// The fields in which two contexts differ, as `field: theirs, here ours`.
    pub fn differences(&self, other: &Self) -> Result<Vec<String>> {
        let json = |c: &Self| {
            serde_json::to_value(c)
                .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot write a model context").because(e))
        };
        let (a, b) = (json(self)?, json(other)?);
        let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return Ok(Vec::new()) };
        Ok(a.iter()
            .filter(|(k, v)| *k != "name" && b.get(*k) != Some(v))
            .map(|(k, v)| format!("{k}: {v} recorded, {} here", b.get(k).cloned().unwrap_or_default()))
            .collect())
    }
}
