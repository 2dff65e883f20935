//! Everything a verb works with: the pipeline, where relative paths start, models, events, cancellation.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::ObjectStore;

use crate::cancel::Cancel;
use crate::chunk::{Chunker, ChunkingRules, SPLITTER_VERSION};
use crate::corpus::{Corpus, EXTRACTOR_VERSION};
use crate::embed::{Engine, Role};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use crate::model::{Dtype, ModelCard, ModelContext, ModelStore};
use crate::pipeline::{ChunkingSettings, CorpusSettings, Pipeline, ReplicaSettings, StoreSettings};
use crate::repository::{Locking, Repository, Unlock};
use crate::secret::{Secret, SecretRef};
use crate::targets::Target;
use crate::targets::memory::MemoryTarget;
use crate::validate::QueryEmbedder;

/// Looks up a variable of the environment: the library itself reads none.
pub type Variables = dyn Fn(&str) -> Option<String> + Send + Sync;

/// The surroundings of a run. Clones share the target, so that one process opens it once.
#[derive(Clone)]
pub struct Workspace {
    /// The pipeline.
    pub pipeline: Pipeline,
    /// Directory that relative paths of the pipeline start from.
    pub base: PathBuf,
    /// Where models come from and are kept.
    pub models: Arc<ModelStore>,
    /// Where progress goes.
    pub events: Events,
    /// How the run is stopped.
    pub cancel: Cancel,
    /// How long to wait for another run that holds the repository.
    pub lock_wait: std::time::Duration,
    /// Settings and credentials of object stores, keys as `object_store` names them (`aws_region`); never logged.
    pub store_options: Vec<(String, String)>,
    /// Looks up an environment variable that a model card names for the key of its service.
    pub variables: Arc<Variables>,
    /// A replica that is used instead of the pipeline's repository: its name, or a URL.
    pub replica: Option<String>,
    /// An engine that is open already; otherwise the pipeline's model is opened when it is needed.
    pub engine: Option<Arc<Engine>>,
    /// The clock: when a snapshot says it was taken.
    pub now: Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>,
    opened: Arc<std::sync::Mutex<Option<Arc<dyn Target>>>>,
    unlock: Arc<tokio::sync::OnceCell<Unlock>>,
    given: Option<Repository>,
    corpus_store: Option<Arc<dyn ObjectStore>>,
    repository_store: Option<Arc<dyn ObjectStore>>,
}

impl Workspace {
    /// A workspace that reports nothing and is never cancelled, until its fields say otherwise.
    pub fn new(pipeline: Pipeline, base: PathBuf, models: ModelStore) -> Self {
        Self {
            pipeline,
            base,
            models: Arc::new(models),
            events: Events::silent(),
            cancel: Cancel::default(),
            lock_wait: std::time::Duration::ZERO,
            store_options: Vec::new(),
            variables: Arc::new(|_| None),
            replica: None,
            engine: None,
            now: Arc::new(jiff::Timestamp::now),
            opened: Arc::default(),
            unlock: Arc::default(),
            given: None,
            corpus_store: None,
            repository_store: None,
        }
    }

    /// Reads documents from this store, from its root, instead of opening the pipeline's.
    #[must_use]
    pub fn with_corpus_store(self, store: Arc<dyn ObjectStore>) -> Self {
        Self { corpus_store: Some(store), ..self }
    }

    /// Keeps the repository in this store, at its root, instead of opening the pipeline's.
    #[must_use]
    pub fn with_repository_store(self, store: Arc<dyn ObjectStore>) -> Self {
        Self { repository_store: Some(store), ..self }
    }

    /// The pipeline's repository, or the replica that was chosen instead. Where it cannot be opened, the error says which
    /// other one could serve.
    pub async fn repository(&self) -> Result<Repository> {
        if let Some(repository) = &self.given {
            return Ok(repository.clone());
        }
        if let Some(store) = &self.repository_store {
            let repository =
                Repository::over(store.clone(), &self.pipeline.repository.url).unlock(&self.unlock().await?).await?;
            return Ok(repository.with_locking(self.locking()));
        }
        let place = self.chosen()?;
        match self.open_repository(&place).await {
            Ok(repository) => Ok(repository),
            Err(e) => Err(self.suggest_replicas(e).await),
        }
    }

    /// Opens the repository that is at a place, with the pipeline's key: replicas have the same.
    pub(crate) async fn open_repository(&self, place: &ReplicaSettings) -> Result<Repository> {
        let unlock = self.unlock().await?;
        let repository = Repository::open(&place.url, &self.base, &self.options(&place.store)?, &unlock).await?;
        Ok(repository.with_locking(self.locking()))
    }

    /// The pipeline's repository, created when there is none.
    pub(crate) async fn create_repository(&self) -> Result<Repository> {
        if let Some(repository) = &self.given {
            return Ok(repository.clone());
        }
        self.refuse_replica()?;
        let settings = &self.pipeline.repository;
        if let Some(store) = &self.repository_store {
            let repository = Repository::over(store.clone(), &settings.url).create(&self.unlock().await?).await?;
            return Ok(repository.with_locking(self.locking()));
        }
        let unlock = self.unlock().await?;
        let repository =
            Repository::open_or_create(&settings.url, &self.base, &self.options(&settings.store)?, &unlock).await?;
        Ok(repository.with_locking(self.locking()))
    }

    fn locking(&self) -> Locking {
        Locking { wait: self.lock_wait, cancel: self.cancel.clone(), ..Locking::default() }
    }

    /// The pipeline's repository without its keys: enough for names and stored bytes.
    pub async fn locked_repository(&self) -> Result<Repository> {
        let settings = &self.pipeline.repository;
        Repository::open_locked(&settings.url, &self.base, &self.options(&settings.store)?).await
    }

    /// What opens the pipeline's repository. A key command runs once, however often the repository is opened.
    pub async fn unlock(&self) -> Result<Unlock> {
        let settings = self.pipeline.repository.encryption.clone();
        let resolve = async {
            let passphrase = self.secret(settings.passphrase).await?;
            let key = self.secret(settings.key).await?;
            Ok(Unlock::new(passphrase, key))
        };
        self.unlock.get_or_try_init(|| resolve).await.cloned()
    }

    /// A secret that is given by reference.
    pub async fn secret(&self, reference: Option<SecretRef>) -> Result<Option<Secret>> {
        let Some(reference) = reference else { return Ok(None) };
        let (variables, base) = (self.variables.clone(), self.base.clone());
        tokio::task::spawn_blocking(move || reference.resolve(&*variables, &base).map(Some)).await?
    }

    /// The corpus that the settings describe.
    pub fn corpus(&self, settings: &CorpusSettings) -> Result<Corpus> {
        if let Some(store) = &self.corpus_store {
            return Corpus::with_store(settings, store.clone(), object_store::path::Path::default());
        }
        Corpus::open_with(settings, &self.base, self.options(&settings.store)?)
    }

    /// Options of an object store: the surroundings' own, then those of the pipeline, secrets resolved.
    pub fn options(&self, settings: &StoreSettings) -> Result<Vec<(String, String)>> {
        let mut options = self.store_options.clone();
        for (key, value) in settings {
            let value = match value.parse::<SecretRef>() {
                Ok(secret) => secret.resolve(&*self.variables, &self.base)?.reveal().to_owned(),
                Err(_) => value.clone(),
            };
            options.push((key.clone(), value));
        }
        Ok(options)
    }

    /// The pipeline's target.
    pub fn target(&self) -> Result<Arc<dyn Target>> {
        let mut opened = self.opened.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(target) = opened.as_ref() {
            return Ok(target.clone());
        }
        let target = crate::targets::open(&self.pipeline.target, &self.base, &*self.variables, &self.events)?;
        *opened = Some(target.clone());
        Ok(target)
    }

    /// Uses this target instead of opening the pipeline's.
    #[must_use]
    pub fn with_target(self, target: Arc<dyn Target>) -> Self {
        *self.opened.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(target);
        self
    }

    /// Uses this repository, which is open, instead of the pipeline's.
    #[must_use]
    pub fn with_repository(&self, repository: Repository) -> Self {
        Self { given: Some(repository), ..self.clone() }
    }

    /// The same with a target of its own, in memory, that nothing is written to: the pipeline's is not opened.
    pub(crate) fn detached(&self) -> Self {
        let target: Arc<dyn Target> = Arc::new(MemoryTarget::new());
        Self { opened: Arc::new(std::sync::Mutex::new(Some(target))), ..self.clone() }
    }

    /// Opens the pipeline's model, fetching its files when they are not cached. Where the pipeline
    /// leaves the number format open, the first that is `recorded` is taken; and when none is, the
    /// machine's own choice.
    pub async fn engine(&self, recorded: &(dyn Fn(&ModelContext) -> bool + Sync)) -> Result<Arc<Engine>> {
        if let Some(engine) = &self.engine {
            return Ok(engine.clone());
        }
        let mut settings = self.pipeline.model.clone();
        let card = self.model_card()?;
        let source = self.model_source();
        let files = self.models.get(&card, source.as_deref(), &self.events).await?;
        if let Some(service) = &card.service {
            let key = service.key_variable.as_deref().and_then(|name| (self.variables)(name));
            return Ok(Arc::new(tokio::task::spawn_blocking(move || Engine::connect(&files, &settings, key)).await??));
        }
        if settings.dtype.is_none() {
            for dtype in Dtype::ALL {
                if recorded(&files.shortened(dtype, settings.dimension)?) {
                    settings.dtype = Some(dtype);
                    break;
                }
            }
        }
        let engine = tokio::task::spawn_blocking(move || Engine::open(&files, &settings)).await??;
        Ok(Arc::new(engine))
    }

    /// The card of the pipeline's model.
    pub fn model_card(&self) -> Result<ModelCard> {
        ModelCard::find(&self.model_name(&self.pipeline.model.name))
    }

    /// Where the pipeline says that the model's files are, if it does: a URL or an absolute path.
    pub fn model_source(&self) -> Option<String> {
        self.pipeline.model.source.as_deref().map(|s| self.resolve(s))
    }

    /// A card's name as it is; a card's file relative to the pipeline's directory.
    fn model_name(&self, name: &str) -> String {
        if name.ends_with(".toml") { self.base.join(name).display().to_string() } else { name.to_owned() }
    }

    /// A path relative to the pipeline's directory, or a URL as it is.
    fn resolve(&self, source: &str) -> String {
        if source.contains("://") { source.to_owned() } else { self.base.join(source).display().to_string() }
    }
}

/// The rules that the settings ask for with this model; a chunk with its prefix and special tokens must fit the model.
pub(crate) fn chunking_rules(settings: &ChunkingSettings, engine: &Engine) -> Result<ChunkingRules> {
    let context = engine.context();
    let prefix = engine.tokenizer().encode(&context.document_prefix)?.len() as u32;
    let most = context.max_tokens.saturating_sub(prefix);
    let size = if settings.size == 0 { most } else { settings.size };
    if size > most || size == 0 {
        return Err(Error::new(ErrorKind::Configuration, "the chunk size does not fit the model")
            .with("chunking.size", settings.size)
            .with("largest", most)
            .with("model", &context.name)
            .guidance(format!(
                "the model takes {} tokens, {prefix} of them for prefix and special tokens; set chunking.size to at most {most}",
                context.max_tokens
            )));
    }
    Ok(ChunkingRules {
        splitter_version: SPLITTER_VERSION,
        extractor_version: EXTRACTOR_VERSION,
        unit: "tokens".to_owned(),
        size,
        overlap: settings.overlap,
        tokenizer: engine.tokenizer().digest(),
    })
}

/// The chunker of recorded rules; refused when this build or this model would cut differently.
pub(crate) fn chunker(rules: &ChunkingRules, engine: &Engine) -> Result<Chunker> {
    if rules.extractor_version != EXTRACTOR_VERSION {
        return Err(Error::new(ErrorKind::Configuration, "the snapshot's text was extracted by another version")
            .with("recorded", rules.extractor_version)
            .with("here", EXTRACTOR_VERSION)
            .guidance("use the regrow version that took the snapshot, or take a new snapshot"));
    }
    Chunker::new(rules.clone(), engine.tokenizer().clone())
}

/// Refuses a model that is not the recorded one, naming what differs.
pub(crate) fn check_model(recorded: &ModelContext, here: &ModelContext) -> Result<()> {
    if recorded.fingerprint()? == here.fingerprint()? {
        return Ok(());
    }
    Err(Error::new(ErrorKind::ModelMismatch, "this is not the model of the snapshot")
        .with("recorded", &recorded.name)
        .with("here", &here.name)
        .with("differences", recorded.differences(here)?.join("; "))
        .guidance("set the pipeline's [model] to the recorded one, or take a new snapshot with this one"))
}

/// The embedding engine as validation uses it.
pub(crate) struct EngineQueries(pub(crate) Arc<Engine>);

impl QueryEmbedder for EngineQueries {
    fn embed(&self, is_query: bool, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        let role = if is_query { Role::Query } else { Role::Document };
        let embedded = self.0.embed(role, texts, &|| false)?;
        Ok(embedded.embeddings.rows().map(<[f32]>::to_vec).collect())
    }
}
