//! Validation: proves that a collection holds what its vector set holds, and that search works.
//!
//! [`validate`] reads the vector set twice, part by part, and the collection once, in id order; memory is bounded
//! by a part, a page and the samples, never by the corpus. Sampling is by keyed hash of the chunk id: the same
//! seed draws the same chunks, whatever the order of parts.

mod baseline;
mod check;
mod counts;
#[cfg(test)]
mod double;
mod golden;
mod latency;
pub mod metrics;
mod points;
mod recall;
mod sample;
mod survey;
mod tenants;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use async_trait::async_trait;

pub use baseline::{BaselineHit, BaselineQuery, GoldenBaseline, record_baseline};
pub use check::{Check, Outcome, Verdict};
pub use golden::{GoldenQuery, Grade, Miss, MissReason, QueryOutcome, load_golden, parse_golden};
pub use latency::Latency;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Events, Stage};
use crate::model::ModelContext;
use crate::pipeline::{FieldType, ValidationSettings};
use crate::targets::Target;
use crate::vectors::VectorSource;
use latency::Searcher;
use survey::Survey;

/// Turns texts into vectors while a collection is being checked.
pub trait QueryEmbedder: Send + Sync {
    /// One vector per text, in order; with the query's prefix when `role_is_query`, else with the document's.
    fn embed(&self, role_is_query: bool, texts: &[&str]) -> Result<Vec<Vec<f32>>>;
}

/// Knows which documents the corpus holds, to say why a golden document was not found.
#[async_trait]
pub trait DocumentLookup: Send + Sync {
    /// Those of `ids` that the inventory lists.
    async fn present(&self, ids: &BTreeSet<String>) -> Result<BTreeSet<String>>;
}

/// What is validated, and against what.
#[derive(Clone, Copy)]
pub struct ValidationInput<'a> {
    /// The database.
    pub target: &'a dyn Target,
    /// Physical name of the collection, or an alias.
    pub collection: &'a str,
    /// The vector set that was loaded.
    pub source: &'a dyn VectorSource,
    /// Samples and thresholds.
    pub settings: &'a ValidationSettings,
    /// Payload indexes that the collection was created with.
    pub payload_indexes: &'a BTreeMap<String, FieldType>,
    /// Embeds stored texts and golden queries.
    pub embedder: &'a dyn QueryEmbedder,
    /// The model that made the vectors.
    pub context: &'a ModelContext,
    /// Documents of the snapshot that were restored (without skipped ones).
    pub expected_documents: u64,
    /// Golden queries; empty when none are given.
    pub golden: &'a [GoldenQuery],
    /// What golden queries found when the snapshot was taken.
    pub baseline: Option<&'a GoldenBaseline>,
    /// The snapshot's inventory, if it is at hand.
    pub documents: Option<&'a dyn DocumentLookup>,
    /// Determines the samples.
    pub seed: u64,
}

impl std::fmt::Debug for ValidationInput<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ValidationInput")
            .field("target", &self.target.kind())
            .field("collection", &self.collection)
            .field("rows", &self.source.rows())
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

/// Makes every check.
///
/// A check that fails is part of the verdict; errors are for what could not be checked at all.
///
/// # Errors
/// [`ErrorKind::NotFound`] when there is no such collection; errors of the target, of reading the vector set and
/// of the embedder as they come.
pub async fn validate(input: &ValidationInput<'_>, events: &Events) -> Result<Verdict> {
    let start = Instant::now();
    let rows = input.source.rows();
    let passes = if input.settings.recall_queries == 0 { 2 } else { 3 };
    events.start(Stage::Validate, Some(rows.saturating_mul(passes)), "points");

    let info = input.target.describe(input.collection).await?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "there is no such collection")
            .with("collection", input.collection)
            .with("target", input.target.kind())
            .guidance("`regrow status` lists the collections")
    })?;
    let survey = Survey::take(input, events).await?;
    let scan = counts::scan(input, events).await?;
    let searcher = Searcher::new(input.target, &info.name);

    let mut checks = vec![
        counts::count(input, &survey).await?,
        counts::ids(input, &survey, &scan).await?,
        counts::documents(input, &survey),
        counts::dimension(input, &info, &survey, &scan),
        counts::metric(input, &info),
        counts::model(input, &info)?,
    ];
    let stored = points::fetch(input, &survey.sample).await?;
    checks.push(points::vectors(input, &survey, &stored));
    checks.push(points::payloads(&survey, &stored));
    checks.push(counts::payload_indexes(input, &info));
    checks.push(tenants::tenants(input, &searcher, &survey).await?);
    checks.push(tenants::acl(input, &searcher, &survey).await?);
    checks.push(points::self_retrieval(input, &searcher, &survey, &stored, &info).await?);
    checks.push(recall::check(input, &searcher, &survey, events).await?);
    let (golden_check, golden) = golden::check(input, &searcher, &survey, &info).await?;
    checks.push(golden_check);
    checks.push(baseline::check(input, &searcher, &info).await?);

    let seconds = start.elapsed().as_secs_f64();
    events.finish(Stage::Validate, seconds);
    Ok(Verdict { checks, latency: searcher.latency().await, golden, seconds })
}

/// Runs work that keeps a core busy without holding up other tasks, where the runtime can.
fn busy<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|h| h.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Embeds texts in small groups; checks that what comes back fits the collection.
fn embed(input: &ValidationInput<'_>, role_is_query: bool, texts: &[&str], dimension: usize) -> Result<Vec<Vec<f32>>> {
    let mut out = Vec::with_capacity(texts.len());
    for group in texts.chunks(32) {
        let vectors = busy(|| input.embedder.embed(role_is_query, group))?;
        if vectors.len() != group.len() {
            return Err(Error::new(ErrorKind::Unexpected, "the embedder gave another number of vectors than of texts")
                .with("texts", group.len())
                .with("vectors", vectors.len()));
        }
        if let Some(wrong) = vectors.iter().find(|v| v.len() != dimension) {
            return Err(Error::new(ErrorKind::ModelMismatch, "the model's vectors do not fit the collection")
                .with("model", &input.context.name)
                .with("model_dimension", wrong.len())
                .with("collection_dimension", dimension)
                .guidance("validate with the model that the snapshot records"));
        }
        out.extend(vectors);
    }
    Ok(out)
}
