//! Flags, environment and pipeline file, resolved once. Only here is the environment read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use regrow::cancel::Cancel;
use regrow::event::Events;
use regrow::model::{FetchOptions, ModelStore};
use regrow::pipeline::Pipeline;
use regrow::retention::parse_span;
use regrow::{Error, ErrorKind, Result, Workspace};

use super::args::Global;
use super::args::{LogFormat, SnapshotChoice};
use super::progress::{Progress, Style};
use super::terminal::Terminal;

/// Prefix of environment variables that set keys of the pipeline: `REGROW__CORPUS__URL` is `corpus.url`.
const PREFIX: &str = "REGROW__";

/// What the process was told.
pub(crate) struct Settings {
    pub(crate) global: Global,
    pub(crate) events: Events,
    pub(crate) cancel: Cancel,
    progress: Arc<Progress>,
    cache: PathBuf,
    fetch: FetchOptions,
}

impl Settings {
    pub(crate) fn resolve(global: Global, terminal: &Terminal, cancel: Cancel) -> Result<Self> {
        let cache = match &global.cache_dir {
            Some(directory) => directory.clone(),
            None => default_cache()?,
        };
        let mut fetch = FetchOptions { offline: global.offline, ..FetchOptions::default() };
        if let Some(endpoint) = variable("HF_ENDPOINT") {
            fetch.hub_endpoint = endpoint;
        }
        fetch.hub_token = variable("HF_TOKEN");
        fetch.store_options = store_options();
        let style = Style::choose(terminal, global.log_format == LogFormat::Json, global.quiet);
        let progress = Arc::new(Progress::new(style, terminal));
        let events = Events::new(progress.clone());
        Ok(Self { global, events, cancel, progress, cache, fetch })
    }

    pub(crate) fn models(&self) -> ModelStore {
        ModelStore::new(self.cache.clone(), self.fetch.clone())
    }

    /// Takes the bars off the screen before the result is printed.
    pub(crate) fn end_progress(&self) {
        self.progress.close();
    }

    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    /// The pipeline file with environment and flags applied, checked.
    pub(crate) fn workspace(&self) -> Result<Workspace> {
        let path = &self.global.pipeline;
        if !path.exists() {
            return Err(Error::new(ErrorKind::Configuration, "there is no pipeline file")
                .with("file", path.display())
                .guidance("`regrow init` writes one; --pipeline FILE names another"));
        }
        let (pipeline, base) = Pipeline::load(path)?;
        self.workspace_of(pipeline, base)
    }

    /// The same, reading from the replica that a snapshot was chosen from.
    pub(crate) fn workspace_from(&self, choice: &SnapshotChoice) -> Result<Workspace> {
        let mut workspace = self.workspace()?;
        if let Some(from) = &choice.from {
            workspace.replica = Some(from.clone());
        }
        Ok(workspace)
    }

    /// A pipeline that was made here.
    pub(crate) fn workspace_of(&self, mut pipeline: Pipeline, base: PathBuf) -> Result<Workspace> {
        let mut variables: Vec<(String, String)> =
            std::env::vars().filter(|(name, _)| name.starts_with(PREFIX)).collect();
        variables.sort();
        for (name, value) in variables {
            let key = name[PREFIX.len()..].to_lowercase().replace("__", ".");
            pipeline.set(&key, &value).map_err(|e| e.with("variable", &name))?;
        }
        for set in &self.global.sets {
            let (key, value) = set.split_once('=').ok_or_else(|| {
                Error::new(ErrorKind::Configuration, "--set takes KEY=VALUE")
                    .with("given", set)
                    .guidance("for example --set corpus.url=docs")
            })?;
            pipeline.set(key.trim(), value.trim())?;
        }
        if let Some(device) = self.global.device {
            pipeline.model.device = device;
        }
        for warning in pipeline.validate(&base)? {
            self.events.warn(warning);
        }
        let mut workspace = Workspace::new(pipeline, base, self.models());
        workspace.replica = self.global.repository.clone();
        workspace.events = self.events.clone();
        workspace.cancel = self.cancel.clone();
        workspace.lock_wait =
            parse_span(&self.global.lock_wait).map_err(|e| e.with("option", "--lock-wait"))?.unsigned_abs();
        workspace.store_options = self.fetch.store_options.clone();
        workspace.variables = std::sync::Arc::new(|name| std::env::var(name).ok());
        Ok(workspace)
    }
}

/// Settings of object stores from the variables that their own tools read.
fn store_options() -> Vec<(String, String)> {
    std::env::vars()
        .filter(|(name, _)| ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|prefix| name.starts_with(prefix)))
        .map(|(name, value)| (name.to_lowercase(), value))
        .collect()
}

pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn default_cache() -> Result<PathBuf> {
    let home = variable("HOME").or_else(|| variable("USERPROFILE")).map(PathBuf::from);
    let base = variable("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("LOCALAPPDATA").map(PathBuf::from).or_else(|| home.map(|home| home.join(".cache"))));
    base.map(|base| base.join("regrow")).ok_or_else(|| {
        Error::new(ErrorKind::Configuration, "there is no place for the model cache")
            .guidance("set REGROW_CACHE or pass --cache-dir")
    })
}
