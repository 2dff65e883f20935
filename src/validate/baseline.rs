//! What golden queries found when the snapshot was taken, and whether they still find it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::check::{Check, some_of};
use super::golden::{Figures, GoldenQuery};
use super::latency::Searcher;
use super::metrics::mean;
use super::{QueryEmbedder, Result, ValidationInput};
use crate::error::{Error, ErrorKind};
use crate::ids::ChunkId;
use crate::targets::{CollectionInfo, Filter, ScoredPoint, SearchRequest, Target, field};

/// Scores that differ by less, relative to their size, are equal: another machine sums in another order.
const SAME_SCORE: f32 = 1e-5;

/// The answers of golden queries; part of a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenBaseline {
    /// Points asked for per query.
    pub k: usize,
    /// The answers.
    pub queries: Vec<BaselineQuery>,
}

/// One query with its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaselineQuery {
    /// The query's text.
    pub query: String,
    /// The whole filter, tenant and acl included.
    #[serde(default)]
    pub filter: Filter,
    /// Points found, best first.
    pub hits: Vec<BaselineHit>,
}

/// One point of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaselineHit {
    /// Chunk id.
    pub id: ChunkId,
    /// Its document.
    pub document: String,
    /// Score, by the collection's metric.
    pub score: f32,
}

/// Records what golden queries find in a collection now.
pub async fn record_baseline(
    target: &dyn Target,
    collection: &str,
    embedder: &dyn QueryEmbedder,
    golden: &[GoldenQuery],
    k: usize,
) -> Result<GoldenBaseline> {
    let mut queries = Vec::with_capacity(golden.len());
    for group in golden.chunks(32) {
        let texts: Vec<&str> = group.iter().map(|g| g.query.as_str()).collect();
        let vectors = super::busy(|| embedder.embed(true, &texts))?;
        if vectors.len() != texts.len() {
            return Err(Error::new(ErrorKind::Unexpected, "the embedder gave another number of vectors than of texts"));
        }
        for (golden, vector) in group.iter().zip(vectors) {
            let filter = golden.combined_filter();
            let request = SearchRequest { vector, limit: k, filter: filter.clone(), exact: false };
            let found = target.search(collection, &request).await?;
            let hits = found.iter().map(|p| BaselineHit { id: p.id, document: document(p), score: p.score }).collect();
            queries.push(BaselineQuery { query: golden.query.clone(), filter, hits });
        }
    }
    Ok(GoldenBaseline { k, queries })
}

fn document(point: &ScoredPoint) -> String {
    point.payload.get(field::DOCUMENT_ID).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn same_score(a: f32, b: f32) -> bool {
    (a - b).abs() <= SAME_SCORE * a.abs().max(b.abs())
}

/// How one answer compares with the recorded one.
struct Comparison {
    recall: f64,
    overlap: f64,
    documents: f64,
    top1: bool,
}

fn compare(recorded: &[BaselineHit], found: &[ScoredPoint]) -> Comparison {
    let before: BTreeSet<ChunkId> = recorded.iter().map(|h| h.id).collect();
    let now: BTreeSet<ChunkId> = found.iter().map(|p| p.id).collect();
    let shared = before.intersection(&now).count();
    // Of points with the score of the last recorded one, which is returned is chance.
    let tied = recorded
        .last()
        .map_or(0, |last| found.iter().filter(|p| !before.contains(&p.id) && same_score(p.score, last.score)).count());
    let documents_before: BTreeSet<&str> = recorded.iter().map(|h| h.document.as_str()).collect();
    let documents_now: BTreeSet<String> = found.iter().map(document).collect();
    let kept = documents_before.iter().filter(|d| documents_now.contains(**d)).count();
    let top1 = match (recorded.first(), found.first()) {
        (Some(before), Some(now)) => before.id == now.id || same_score(before.score, now.score),
        _ => false,
    };
    Comparison {
        recall: (shared + tied).min(before.len()) as f64 / before.len().max(1) as f64,
        overlap: shared as f64 / before.union(&now).count().max(1) as f64,
        documents: kept as f64 / documents_before.len().max(1) as f64,
        top1,
    }
}

/// `golden_baseline`: recall@k of the recorded answers, overlap (Jaccard) and first hits.
pub(super) async fn check(
    input: &ValidationInput<'_>,
    searcher: &Searcher<'_>,
    info: &CollectionInfo,
) -> Result<Check> {
    const NAME: &str = "golden_baseline";
    let Some(baseline) = input.baseline else {
        return Ok(Check::skipped(NAME, "the snapshot has no baseline"));
    };
    let asked: Vec<&BaselineQuery> = baseline.queries.iter().filter(|q| !q.hits.is_empty()).collect();
    if asked.is_empty() {
        return Ok(Check::skipped(NAME, "no query found anything when the baseline was recorded"));
    }
    let texts: Vec<&str> = asked.iter().map(|q| q.query.as_str()).collect();
    let vectors = super::embed(input, true, &texts, info.dimension)?;
    let mut results = Vec::with_capacity(asked.len());
    for (query, vector) in asked.iter().zip(&vectors) {
        let found = searcher.search(vector, baseline.k, &query.filter).await?;
        results.push((query.query.as_str(), compare(&query.hits, &found)));
    }
    results.sort_by(|a, b| a.1.recall.total_cmp(&b.1.recall));
    let column = |of: fn(&Comparison) -> f64| results.iter().map(|(_, c)| of(c)).collect::<Vec<f64>>();
    let figures = Figures::of(&column(|c| c.recall), results.iter().filter(|(_, c)| c.top1).count());
    let least = &input.settings.golden_thresholds;
    let below = figures.below(least);
    let measured = json!({
        "mean": figures.mean,
        "median": figures.median,
        "p5": figures.p5,
        "top1": figures.top1,
        "overlap": mean(&column(|c| c.overlap)),
        "documents": mean(&column(|c| c.documents)),
        "queries": results.len(),
        "k": baseline.k,
    });
    let reason = if below.is_empty() {
        format!("{} queries find what they found when the snapshot was taken", results.len())
    } else {
        let worst = results.iter().filter(|(_, c)| c.recall < 1.0).map(|(q, c)| format!("\"{q}\" ({:.2})", c.recall));
        format!("{}; worst: {}", below.join("; "), some_of(worst, 3))
    };
    Ok(Check::judge(NAME, below.is_empty(), measured, json!(least), reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(n: u128, score: f32) -> BaselineHit {
        BaselineHit { id: ChunkId(uuid::Uuid::from_u128(n)), document: format!("d{n}"), score }
    }

    fn point(n: u128, score: f32) -> ScoredPoint {
        let payload = serde_json::Map::from_iter([(field::DOCUMENT_ID.to_owned(), Value::from(format!("d{n}")))]);
        ScoredPoint { id: ChunkId(uuid::Uuid::from_u128(n)), score, payload }
    }

    #[test]
    fn answers_are_compared_with_ties_counted_right() {
        let recorded = [hit(1, 0.9), hit(2, 0.8), hit(3, 0.7), hit(4, 0.7)];
        let same = compare(&recorded, &[point(1, 0.9), point(2, 0.8), point(3, 0.7), point(5, 0.7)]);
        assert_eq!((same.recall, same.top1, same.documents), (1.0, true, 0.75));
        assert_eq!(same.overlap, 0.6);
        let other = compare(&recorded, &[point(7, 0.95), point(1, 0.9), point(8, 0.5), point(9, 0.4)]);
        assert_eq!((other.recall, other.top1), (0.25, false));
        assert_eq!(compare(&recorded, &[]).recall, 0.0);
    }
}
