//! What a restore will do.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use serde::Serialize;

use super::RestoreOptions;
use super::collection::{check_production, spec};
use crate::cancel::Cancel;
use crate::chunk::Chunker;
use crate::corpus::{Corpus, DocumentParser};
use crate::embed::{Engine, Role};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Digest, fingerprint};
use crate::pipeline::CorpusSettings;
use crate::repository::{Counts, InventoryReader, Lock, Manifest, Repository};
use crate::snapshot::read_canaries;
use crate::targets::Target;
use crate::validate::{Check, Outcome};
use crate::vectors::{PartName, ReuseIndex, VectorRow, VectorSetRecord};
use crate::workspace::{Workspace, check_model, chunker};

/// Everything a restore needs, opened and checked.
pub struct Prepared {
    pub(super) workspace: Workspace,
    pub(super) options: RestoreOptions,
    pub(super) repository: Repository,
    pub(super) manifest: Arc<Manifest>,
    /// Where the documents come from: true for the snapshot's own copies.
    pub(super) from_captured: bool,
    corpus_settings: CorpusSettings,
    corpus: OnceLock<Arc<Corpus>>,
    pub(super) parser: DocumentParser,
    pub(super) engine: Arc<Engine>,
    pub(super) chunker: Arc<Chunker>,
    pub(super) target: Arc<dyn Target>,
    pub(super) reuse: ReuseIndex,
    pub(super) canaries: Vec<VectorRow>,
    /// Keeps a prune away; asked before the vector set is committed.
    pub(super) lock: Option<Arc<Lock>>,
}

/// One part to be.
#[derive(Debug, Clone, Serialize)]
pub struct PartPlan {
    /// Its bucket.
    pub bucket: u32,
    /// Its name.
    #[serde(serialize_with = "display")]
    pub name: PartName,
    /// Documents in it.
    pub documents: u64,
    /// Chunks in it.
    pub chunks: u64,
    /// Tokens in them.
    pub tokens: u64,
    /// It is in the repository already.
    pub stored: bool,
}

fn display<T: std::fmt::Display, S: serde::Serializer>(value: &T, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(value)
}

/// The plan of a restore; prints for people and serialises as JSON.
#[derive(Debug, Clone, Serialize)]
pub struct RestorePlan {
    /// Always `plan`.
    pub verb: &'static str,
    /// Always true: a plan that cannot be made is an error.
    pub ok: bool,
    /// Always 0.
    pub exit_code: u8,
    /// Snapshot.
    pub snapshot: String,
    /// Its point in time.
    pub created: jiff::Timestamp,
    /// Where the corpus is.
    pub corpus: String,
    /// Where the documents will be read from: `captured`, the snapshot's own copies, or `corpus`.
    pub documents: &'static str,
    /// Repository.
    pub repository: String,
    /// Target kind.
    pub target: &'static str,
    /// Production name of the collection.
    pub collection: String,
    /// Model.
    pub model: String,
    /// What the snapshot holds.
    pub counts: Counts,
    /// Parts.
    pub parts: u64,
    /// Parts that are in the repository already.
    pub parts_stored: u64,
    /// Chunks in parts that must be computed; vectors of unchanged chunks among them are reused.
    pub chunks_to_compute: u64,
    /// Tokens in them.
    pub tokens_to_compute: u64,
    /// Tokens per second that this machine embeds, measured on the canaries.
    pub tokens_per_second: f64,
    /// Seconds that embedding will take at most.
    pub embed_seconds: f64,
    /// US dollars that embedding costs at the model's service at most, where its card has a price.
    pub embed_usd: Option<f64>,
    /// Seconds from start to validation, estimated: embedding overlaps reading, writing and loading;
    /// index and validation follow at about 4,000 points per second.
    pub rto_seconds: f64,
    /// The vector set's id.
    pub vector_set: String,
    /// What the target cannot express of the collection as it was, or as the pipeline wants it.
    pub unsupported: Vec<String>,
    /// What a restore cannot bring back.
    pub cannot_restore: Vec<String>,
    /// The parts.
    #[serde(skip)]
    pub part_plans: Vec<PartPlan>,
    /// The canaries, embedded here and compared with the recorded vectors.
    pub canaries: Check,
}

/// Longest first embedding of the canaries after which they are embedded again to measure.
const AGAIN: f64 = 10.0;

impl Prepared {
    /// Opens everything and checks that this model is the snapshot's.
    pub async fn open(workspace: &Workspace, options: RestoreOptions) -> Result<Self> {
        let repository = workspace.repository().await?;
        let manifest = Manifest::find(&repository, &options.snapshot, Some(&workspace.pipeline.name)).await?;
        let mut settings = manifest.corpus.settings.clone();
        // The corpus may have moved; everything else is read as it was recorded.
        settings.url = workspace.pipeline.corpus.url.clone();
        settings.store = workspace.pipeline.corpus.store.clone();
        let from_captured = options.documents.is_captured(&manifest)?;
        let corpus = OnceLock::new();
        if !from_captured {
            drop(corpus.set(Arc::new(workspace.corpus(&settings)?)));
        }
        let parser = DocumentParser::new(&settings)?;
        let recorded = manifest.model_fingerprint;
        let engine = workspace.engine(&|context| context.fingerprint().is_ok_and(|f| f == recorded)).await?;
        check_model(&manifest.model, engine.context()).map_err(|e| e.with("snapshot", &manifest.id))?;
        let chunker = chunker(&manifest.rules, &engine)?;
        let reuse = if options.reuse {
            ReuseIndex::list(&repository, &manifest.model_fingerprint).await?
        } else {
            ReuseIndex::default()
        };
        let canaries = read_canaries(&repository, &manifest).await?;
        Ok(Self {
            target: workspace.target()?,
            workspace: workspace.clone(),
            from_captured,
            corpus_settings: settings,
            corpus,
            parser,
            chunker: Arc::new(chunker),
            manifest: Arc::new(manifest),
            options,
            repository,
            engine,
            reuse,
            canaries,
            lock: None,
        })
    }

    /// The same under a lock, which whoever took it releases.
    #[must_use]
    pub fn under(self, lock: Arc<Lock>) -> Self {
        Self { lock: Some(lock), ..self }
    }

    /// The corpus. With captured documents it is opened only when some of them are damaged: it may be gone.
    pub(super) fn corpus(&self) -> Result<Arc<Corpus>> {
        if let Some(corpus) = self.corpus.get() {
            return Ok(corpus.clone());
        }
        let corpus = Arc::new(self.workspace.corpus(&self.corpus_settings)?);
        Ok(self.corpus.get_or_init(|| corpus).clone())
    }

    /// The object of a part.
    pub(super) fn object(&self, name: &PartName) -> String {
        let (model, rules) = (&self.manifest.model_fingerprint, &self.manifest.rules_fingerprint);
        let folder = self.repository.parts_folder(&self.options.parts_root, model, rules);
        format!("{folder}/{name}")
    }

    /// Embeds the canaries and compares; also measures this machine's speed in tokens per second.
    async fn canaries(&self) -> Result<(Check, f64)> {
        if self.canaries.is_empty() {
            return Ok((Check::skipped("canaries", "the snapshot has no chunks"), 0.0));
        }
        let engine = self.engine.clone();
        let texts: Vec<String> = self.canaries.iter().map(|c| c.text.clone()).collect();
        let start = Instant::now();
        let embedded = tokio::task::spawn_blocking(move || {
            let texts: Vec<_> = texts.iter().map(String::as_str).collect();
            engine.embed(Role::Document, &texts, &|| false)
        })
        .await??;
        let mut seconds = start.elapsed().as_secs_f64();
        // The first time everything is cold; a second one is what the restore will see. A service is not
        // asked, and paid, twice.
        if seconds < AGAIN && self.engine.price(1).is_none() {
            let (engine, texts) =
                (self.engine.clone(), self.canaries.iter().map(|c| c.text.clone()).collect::<Vec<_>>());
            let start = Instant::now();
            tokio::task::spawn_blocking(move || {
                let texts: Vec<_> = texts.iter().map(String::as_str).collect();
                engine.embed(Role::Document, &texts, &|| false)
            })
            .await??;
            seconds = seconds.min(start.elapsed().as_secs_f64());
        }
        let rate = embedded.tokens as f64 / seconds.max(1e-9);
        let least = self
            .canaries
            .iter()
            .zip(embedded.embeddings.rows())
            .map(|(canary, vector)| cosine(&canary.vector, vector))
            .fold(f64::INFINITY, f64::min);
        let expected = self
            .workspace
            .pipeline
            .validation
            .min_canary_cosine
            .unwrap_or_else(|| self.manifest.model.dtype.least_cosine());
        let measured = serde_json::json!({ "least_cosine": least, "canaries": self.canaries.len() });
        let expected_json = serde_json::json!({ "least_cosine": expected });
        let check = if least >= expected {
            Check::pass("canaries", measured, expected_json, "recorded and recomputed vectors agree")
        } else {
            Check::fail("canaries", measured, expected_json, "this machine embeds the canaries differently")
        };
        Ok((check, rate))
    }

    /// Works out the parts, what is stored of them, and the time it will take.
    pub async fn plan(&self) -> Result<RestorePlan> {
        let (canaries, rate) = self.canaries().await?;
        if canaries.outcome == Outcome::Fail {
            return Err(Error::new(ErrorKind::ModelMismatch, "the canaries come out differently here")
                .with("least cosine", &canaries.measured)
                .with("expected", &canaries.expected)
                .guidance("check the model's files (`regrow models`) and the number format; another machine may embed as recorded"));
        }
        let manifest = &self.manifest;
        check_production(self).await?;
        let wanted = self.workspace.pipeline.collection().to_owned();
        let unsupported = self.target.unsupported(&spec(self, wanted, Digest::of(b"plan"))).await?;
        let mut parts = parts_of(&self.repository, manifest, &self.workspace.cancel).await?;
        parts.iter_mut().for_each(|part| part.stored = self.reuse.contains(&self.object(&part.name)));
        let pending = || parts.iter().filter(|p| !p.stored);
        let tokens: u64 = pending().map(|p| p.tokens).sum();
        let embed_seconds = if rate > 0.0 { tokens as f64 / rate } else { 0.0 };
        Ok(RestorePlan {
            verb: "plan",
            ok: true,
            exit_code: 0,
            snapshot: manifest.id.clone(),
            created: manifest.created,
            corpus: Corpus::display_url(&self.corpus_settings.url),
            documents: if self.from_captured { "captured" } else { "corpus" },
            repository: self.repository.url().to_owned(),
            target: self.target.kind(),
            collection: self.workspace.pipeline.collection().to_owned(),
            model: manifest.model.name.clone(),
            counts: manifest.counts.clone(),
            parts: parts.len() as u64,
            parts_stored: parts.iter().filter(|p| p.stored).count() as u64,
            chunks_to_compute: pending().map(|p| p.chunks).sum(),
            tokens_to_compute: tokens,
            tokens_per_second: rate,
            embed_seconds,
            embed_usd: self.engine.price(tokens),
            rto_seconds: embed_seconds + manifest.counts.chunks as f64 / 4000.0,
            vector_set: VectorSetRecord::id(
                &self.repository,
                &manifest.model_fingerprint,
                &manifest.rules_fingerprint,
                parts.iter().map(|p| p.name),
            )?,
            unsupported,
            cannot_restore: manifest.cannot_restore.clone(),
            part_plans: parts,
            canaries,
        })
    }

    /// What the collection is made from: equal keys mean equal content and configuration.
    pub(super) fn restore_key(&self, plan: &RestorePlan) -> Result<Digest> {
        let target = &self.workspace.pipeline.target;
        let made_from = (
            &plan.vector_set,
            &self.manifest.model.metric,
            &target.index,
            &target.payload_indexes,
            self.options.on_changed,
        );
        let (own, roles) = (self.own(), self.roles());
        if own.is_empty() && roles.is_empty() {
            return fingerprint("restore/1", &made_from);
        }
        fingerprint("restore/2", &(made_from, own, roles))
    }

    /// The target's own parameters: as recorded, where that was a target of the same kind, with the pipeline's over them.
    pub(super) fn own(&self) -> serde_json::Map<String, serde_json::Value> {
        let target = &self.workspace.pipeline.target;
        let mut own = match self.manifest.target.kind == target.kind.name() {
            true => self.manifest.target.own.clone(),
            false => serde_json::Map::new(),
        };
        own.extend(target.own());
        own
    }

    /// The recorded roles, where that was a target of the same kind.
    pub(super) fn roles(&self) -> Vec<crate::targets::Role> {
        match self.manifest.target.kind == self.workspace.pipeline.target.kind.name() {
            true => self.manifest.target.roles.clone(),
            false => Vec::new(),
        }
    }
}

/// The parts that follow from a snapshot's inventory, in bucket order, as if none were stored.
pub(crate) async fn parts_of(repository: &Repository, manifest: &Manifest, cancel: &Cancel) -> Result<Vec<PartPlan>> {
    let mut reader = InventoryReader::new(repository, manifest);
    let mut parts = Vec::new();
    for bucket in 0..1u32 << manifest.buckets.bits {
        cancel.check()?;
        let rows = reader.bucket(bucket).await?;
        let Some(name) = PartName::of_bucket(repository, manifest, bucket, &rows) else { continue };
        parts.push(PartPlan {
            bucket,
            name,
            documents: rows.len() as u64,
            chunks: rows.iter().map(|r| u64::from(r.chunks)).sum(),
            tokens: rows.iter().map(|r| r.tokens).sum(),
            stored: false,
        });
    }
    Ok(parts)
}

/// Cosine similarity in 64-bit floats.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let (mut dot, mut na, mut nb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (f64::from(*x), f64::from(*y));
        dot += x * y;
        na += x * x;
        nb += y * y;
    }
    if a.len() == b.len() { dot / (na * nb).sqrt() } else { f64::NAN }
}
