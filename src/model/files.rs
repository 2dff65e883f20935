//! The files of a model on this machine: verified, and fitting their card.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::card::{CONFIG, CardFile, ModelCard, TOKENIZER};
use super::context::{Architecture, Dtype, ModelContext};
use super::pins::Pins;
use crate::embed::{Tokenizer, Weights};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;

/// Size and digest of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    /// Size in bytes.
    pub bytes: u64,
    /// blake3.
    pub blake3: Digest,
}

/// A model's files, verified when this value was made.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    /// The card they belong to.
    pub card: ModelCard,
    /// The directory that holds them.
    pub directory: PathBuf,
    /// Size and digest of every file of the card, by name.
    pub digests: BTreeMap<String, FileDigest>,
}

impl ModelFiles {
    /// Verifies the card's files in `directory` against every digest the card knows, and the
    /// network's configuration against the card. Reads every byte once.
    ///
    /// # Errors
    /// `ModelMismatch` for a missing, truncated, changed or unfitting file.
    pub fn open(card: &ModelCard, directory: &Path) -> Result<Self> {
        Self::open_pinned(card, directory, &Pins::default())
    }

    /// As [`Self::open`], and against digests recorded at the first fetch.
    pub(crate) fn open_pinned(card: &ModelCard, directory: &Path, pins: &Pins) -> Result<Self> {
        let mut digests = BTreeMap::new();
        for file in &card.files {
            let expected = Expected::new(file, pins);
            digests.insert(file.name.clone(), expected.verify(&directory.join(&file.name))?);
        }
        let files = Self { card: card.clone(), directory: directory.to_owned(), digests };
        files.check()?;
        Ok(files)
    }

    /// Path of one of the card's files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Paths of the weights files in order of name.
    pub fn weights(&self) -> Vec<PathBuf> {
        self.card.weights().iter().map(|w| self.path(&w.name)).collect()
    }

    /// The tensors of all weights files. Names of those in a folder begin with it.
    ///
    /// # Errors
    /// `ModelMismatch` for a file that is not a weights file or is truncated.
    pub fn tensors(&self) -> Result<Weights> {
        let names: Vec<&str> = self.card.weights().iter().map(|w| w.name.as_str()).collect();
        Weights::open(&self.directory, &names)
    }

    /// Everything that determines a vector of `dimension` numbers; the card's own when absent.
    ///
    /// # Errors
    /// `Configuration` for a dimension that the model does not make.
    pub fn shortened(&self, dtype: Dtype, dimension: Option<u32>) -> Result<ModelContext> {
        let mut context = self.context(dtype)?;
        let Some(wanted) = dimension.filter(|d| *d != context.dimension) else { return Ok(context) };
        let bad = |what: &str, next: String| {
            Error::new(ErrorKind::Configuration, what)
                .with("model.dimension", wanted)
                .with("model", &self.card.name)
                .guidance(next)
        };
        if wanted == 0 || wanted > context.dimension {
            return Err(bad("the model makes no vectors of this length", format!("give 1 to {}", context.dimension)));
        }
        if !self.card.matryoshka {
            return Err(bad(
                "the model's vectors cannot be shortened",
                "leave `model.dimension` out, or say `matryoshka = true` in a card of your own if the model was trained for it"
                    .to_owned(),
            ));
        }
        context.dimension = wanted;
        Ok(context)
    }

    /// Everything that determines a vector made with these files.
    ///
    /// # Errors
    /// `Unexpected` only for a value whose card and digests do not belong together.
    pub fn context(&self, dtype: Dtype) -> Result<ModelContext> {
        let digest = |name: &str| {
            self.digests.get(name).map(|d| d.blake3).ok_or_else(|| {
                Error::new(ErrorKind::Unexpected, "a file of the model has no digest").with("file", name)
            })
        };
        if let Some(service) = &self.card.service {
            // A service does not show its weights: its name for them is all there is, and canaries.
            let weights = Digest::of(format!("regrow service model 1: {}", service.model).as_bytes());
            return Ok(self.described(weights, digest(TOKENIZER)?, weights, Dtype::F32));
        }
        let weights = self.card.weights();
        let weights = match weights.as_slice() {
            [one] => digest(&one.name)?,
            shards => {
                let mut hasher = blake3::Hasher::new();
                for shard in shards {
                    hasher.update(digest(&shard.name)?.as_bytes());
                }
                Digest::from_hasher(&hasher)
            }
        };
        Ok(self.described(weights, digest(TOKENIZER)?, digest(CONFIG)?, dtype))
    }

    fn described(&self, weights: Digest, tokenizer: Digest, config: Digest, dtype: Dtype) -> ModelContext {
        let card = &self.card;
        ModelContext {
            name: card.name.clone(),
            weights,
            tokenizer,
            config,
            architecture: card.architecture,
            pooling: card.pooling,
            normalize: card.normalize,
            query_prefix: card.query_prefix.clone(),
            document_prefix: card.document_prefix.clone(),
            max_tokens: card.max_tokens,
            dtype,
            dimension: card.dimension,
            metric: card.metric,
        }
    }

    /// The model's tokenizer, with truncation and padding off.
    ///
    /// # Errors
    /// `ModelMismatch` when the file is not a tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::open(&self.path(TOKENIZER))
    }

    /// The network's configuration.
    ///
    /// # Errors
    /// `ModelMismatch` when the file is not JSON.
    pub fn config(&self) -> Result<serde_json::Value> {
        let path = self.path(CONFIG);
        let bytes = std::fs::read(&path).map_err(|e| Error::from(e).with("file", path.display()))?;
        serde_json::from_slice(&bytes).map_err(|e| {
            Error::new(ErrorKind::ModelMismatch, "the model's configuration is not JSON")
                .with("file", path.display())
                .because(e)
        })
    }

    /// Whether configuration, tokenizer and weights fit the card and each other.
    pub(crate) fn check(&self) -> Result<()> {
        if self.card.architecture == Architecture::Service {
            return self.tokenizer().map(drop);
        }
        let config = self.config()?;
        let card = &self.card;
        let wrong = |what: &str, expected: String, found: String| {
            Error::new(ErrorKind::ModelMismatch, format!("the model's {what} is not what its card says"))
                .with("file", self.path(CONFIG).display())
                .with("expected", expected)
                .with("found", found)
                .guidance(format!("these files are not {}; use the card of the model they belong to", card.name))
        };
        let number = |keys: &[&str]| keys.iter().find_map(|k| config.get(*k)?.as_u64());
        let types: &[&str] = match card.architecture {
            Architecture::Bert => &["bert"],
            Architecture::XlmRoberta => &["xlm-roberta"],
            Architecture::DistilBert => &["distilbert"],
            Architecture::Mpnet => &["mpnet"],
            Architecture::Gte => &["new"],
            Architecture::NomicBert => &["nomic_bert"],
            Architecture::ModernBert => &["modernbert"],
            Architecture::Qwen3 => &["qwen3"],
            Architecture::Gemma3 => &["gemma3_text"],
            Architecture::Service | Architecture::Noop => &[],
        };
        let found = config.get("model_type").and_then(|t| t.as_str()).unwrap_or("none");
        if !types.contains(&found) {
            return Err(wrong("architecture", types.join(" or "), found.to_owned()));
        }
        let hidden = number(&["hidden_size", "n_embd", "dim"]);
        if hidden != Some(u64::from(card.dimension)) {
            return Err(wrong("dimension", card.dimension.to_string(), shown(hidden)));
        }
        let positions = number(&["max_position_embeddings", "n_positions"]).map(|p| match card.architecture {
            // Positions start after the padding index.
            Architecture::XlmRoberta | Architecture::Mpnet => {
                p.saturating_sub(number(&["pad_token_id"]).unwrap_or(1) + 1)
            }
            _ => p,
        });
        if positions.is_none_or(|p| p < u64::from(card.max_tokens)) {
            return Err(wrong("number of positions", format!("at least {}", card.max_tokens), shown(positions)));
        }
        let tokens = self.tokenizer()?.vocabulary() as u64;
        let vocabulary = number(&["vocab_size"]);
        if vocabulary.is_none_or(|v| v < tokens) {
            return Err(wrong("vocabulary", format!("at least {tokens}, as the tokenizer has"), shown(vocabulary)));
        }
        // Readable weights of another network must not be taken, and least of all pinned.
        let table = match card.architecture {
            Architecture::Bert
            | Architecture::XlmRoberta
            | Architecture::DistilBert
            | Architecture::Mpnet
            | Architecture::NomicBert
            | Architecture::Gte => "word_embeddings.weight",
            Architecture::ModernBert => "tok_embeddings.weight",
            Architecture::Qwen3 | Architecture::Gemma3 => "embed_tokens.weight",
            Architecture::Service | Architecture::Noop => return Ok(()),
        };
        let wanted = vec![vocabulary.unwrap_or(0) as usize, card.dimension as usize];
        let found = self.tensors()?.shapes(table);
        if found.iter().any(|(_, shape)| *shape == wanted) {
            return Ok(());
        }
        let found: Vec<String> = found.iter().map(|(name, shape)| format!("{name} {shape:?}")).collect();
        Err(Error::new(ErrorKind::ModelMismatch, "the weights are another network's")
            .with("file", self.weights().first().map(|p| p.display().to_string()).unwrap_or_default())
            .with("expected", format!("{table} {wanted:?}"))
            .with("found", if found.is_empty() { "none".to_owned() } else { found.join(", ") })
            .guidance(format!("these files are not {}; use the card of the model they belong to", card.name)))
    }
}

fn shown(value: Option<u64>) -> String {
    value.map_or_else(|| "none".to_owned(), |v| v.to_string())
}

/// What a file must be, from the card and from the pins.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    name: String,
    pub(crate) bytes: Option<u64>,
    blake3: Option<Digest>,
    sha256: Option<Digest>,
}

impl Expected {
    pub(crate) fn new(file: &CardFile, pins: &Pins) -> Self {
        let pin = pins.files.get(&file.name);
        Self {
            name: file.name.clone(),
            bytes: file.bytes.or(pin.map(|p| p.bytes)),
            blake3: file.blake3.or(pin.map(|p| p.blake3)),
            sha256: file.sha256,
        }
    }

    /// Hashes the file at `path` and compares.
    fn verify(&self, path: &Path) -> Result<FileDigest> {
        let at = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => Error::new(ErrorKind::ModelMismatch, "a file of the model is missing")
                .with("file", path.display())
                .guidance(format!("put {} of the same model there", self.name))
                .because(e),
            _ => Error::from(e).with("file", path.display()),
        };
        let mut file = File::open(path).map_err(at)?;
        let found = file.metadata().map_err(at)?.len();
        self.check_bytes(found, path)?;
        // blake3 alone decides where it is known: it is many times faster.
        let mut hashes = Hashes::new(self.blake3.is_none() && self.sha256.is_some());
        let mut block = vec![0; 4 << 20];
        loop {
            let n = file.read(&mut block).map_err(at)?;
            if n == 0 {
                break;
            }
            hashes.update(&block[..n]);
        }
        self.check(hashes, path)
    }

    fn check_bytes(&self, found: u64, path: &Path) -> Result<()> {
        match self.bytes {
            Some(expected) if expected != found => Err(self.wrong(
                if found < expected { "a file of the model is truncated" } else { "a file of the model is too long" },
                path,
                format!("{expected} bytes"),
                format!("{found} bytes"),
            )),
            _ => Ok(()),
        }
    }

    /// Compares what was hashed; `path` is for the error.
    pub(crate) fn check(&self, hashes: Hashes, path: &Path) -> Result<FileDigest> {
        self.check_bytes(hashes.bytes, path)?;
        let found = FileDigest { bytes: hashes.bytes, blake3: Digest::from_hasher(&hashes.blake3) };
        if let Some(expected) = self.blake3
            && expected != found.blake3
        {
            let (e, f) = (format!("blake3 {expected}"), format!("blake3 {}", found.blake3));
            return Err(self.wrong("a file of the model is not the expected one", path, e, f));
        }
        if let (Some(expected), Some(hasher)) = (self.sha256, hashes.sha256) {
            let sha256 = Digest::from_bytes(hasher.finalize().into());
            if expected != sha256 {
                let (e, f) = (format!("sha256 {expected}"), format!("sha256 {sha256}"));
                return Err(self.wrong("a file of the model is not the expected one", path, e, f));
            }
        }
        Ok(found)
    }

    fn wrong(&self, what: &str, path: &Path, expected: String, found: String) -> Error {
        Error::new(ErrorKind::ModelMismatch, what)
            .with("file", path.display())
            .with("expected", expected)
            .with("found", found)
            .guidance(format!(
                "get {} again from its publisher, or give a directory with the right files as `model.source`",
                self.name
            ))
    }

    /// Whether sha256 must be computed besides blake3 when the file is fetched.
    pub(crate) fn hashes(&self) -> Hashes {
        Hashes::new(self.sha256.is_some())
    }
}

/// The digests of a file while it is read or written.
pub(crate) struct Hashes {
    pub(crate) bytes: u64,
    blake3: blake3::Hasher,
    sha256: Option<sha2::Sha256>,
}

impl Hashes {
    fn new(sha256: bool) -> Self {
        Self { bytes: 0, blake3: blake3::Hasher::new(), sha256: sha256.then(sha2::Sha256::new) }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        // Below this size, spreading over threads costs more than it saves.
        if bytes.len() >= 1 << 20 {
            self.blake3.update_rayon(bytes);
        } else {
            self.blake3.update(bytes);
        }
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
    }
}
