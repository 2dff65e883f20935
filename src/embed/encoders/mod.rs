//! One network per file.

mod bert;
mod wrapped;

use std::sync::Arc;

use serde_json::Value;

use super::{Embedder, Weights};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Architecture, ModelContext, ModelFiles};

/// Loads the weights once and makes one encoder per worker; they share the weights.
pub(super) fn open(files: &ModelFiles, context: &Arc<ModelContext>, workers: usize) -> Result<Vec<Box<dyn Embedder>>> {
    let config = files.config()?;
    let weights = Weights::open(&files.weights())?;
    match context.architecture {
        Architecture::Bert | Architecture::XlmRoberta => {
            let model = Arc::new(bert::Model::load(&config, &weights, context)?);
            Ok((0..workers).map(|_| Box::new(bert::Bert::new(&model, context)) as Box<dyn Embedder>).collect())
        }
        Architecture::NomicBert | Architecture::ModernBert | Architecture::Qwen3 => {
            let model = Arc::new(wrapped::Network::load(&config, &weights, context.architecture)?);
            Ok((0..workers).map(|_| Box::new(wrapped::Wrapped::new(&model, context)) as Box<dyn Embedder>).collect())
        }
        Architecture::Noop => Err(Error::new(ErrorKind::Configuration, "the no-op model has no files")),
    }
}

/// A computation in candle failed.
fn failed(e: candle_core::Error) -> Error {
    Error::new(ErrorKind::Unexpected, "a computation of the encoder failed").because(e)
}

/// Refuses a network that is not computed rightly here.
fn require(config: &Value, key: &'static str, right: &[Value]) -> Result<()> {
    let found = config.get(key).unwrap_or(&Value::Null);
    if right.contains(found) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::ModelMismatch, "the model needs something that its encoder does not compute")
        .with("key", key)
        .with("expected", right.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "))
        .with("found", found)
        .guidance("use another model: its vectors would be wrong here"))
}

/// A number of the configuration.
fn size(config: &Value, key: &'static str) -> Result<usize> {
    config.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0).ok_or_else(|| {
        Error::new(ErrorKind::ModelMismatch, "the model's configuration lacks a number").with("key", key)
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
