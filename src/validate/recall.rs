//! Recall of the index against exact search over the vector set.
//!
//! Queries are made of sampled vectors: a vector plus a quarter of another one. So a query does not sit on a point
//! of the index, where the walk would begin with its answer, and still lies where the corpus lies, which random
//! noise would not. The exact search streams the vector set once for all queries.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap, HashSet};

use pulp::NullaryFnOnce;
use rayon::prelude::*;
use serde_json::json;

use super::check::Check;
use super::latency::Searcher;
use super::metrics::{mean, percentile};
use super::survey::Survey;
use super::{Result, ValidationInput};
use crate::event::{Events, Stage};
use crate::ids::ChunkId;
use crate::model::Metric;
use crate::targets::Filter;
use crate::vectors::VectorRow;

/// Share of the second vector in a query.
const MIX: f32 = 0.25;
/// Scores that differ by less, relative to the scale of scores, are equal: what f32 sums of a few hundred
/// products lose, so that a near tie is not held against the index.
const SAME_SCORE: f32 = 1e-6;
/// Rows that one task of the exact search takes.
const ROWS: usize = 256;
/// Independent sums of a dot product: enough for two 512-bit registers.
const LANES: usize = 32;

/// Dot product in [`LANES`] sums that are added up in a fixed order: the same bits on every machine.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    fold(sums) + rest
}

/// Adds up by halves: five steps of whole vectors instead of a chain of single additions.
#[inline(always)]
fn fold(mut sums: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0]
}

/// Squared Euclidean distance, as [`dot`].
#[inline(always)]
fn distance2(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for i in 0..LANES {
            let d = a[i] - b[i];
            sums[i] += d * d;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| (a - b) * (a - b)).sum();
    fold(sums) + rest
}

/// A score with a total order; larger is better for every metric.
#[derive(Clone, Copy, PartialEq)]
struct Score(f32);

impl Eq for Score {}
impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// The `k` best scores.
#[derive(Clone, Default)]
struct TopK(BinaryHeap<Reverse<Score>>);

impl TopK {
    #[inline(always)]
    fn offer(&mut self, score: f32, k: usize) {
        if self.0.len() < k {
            self.0.push(Reverse(Score(score)));
        } else if self.0.peek().is_some_and(|worst| Score(score) > worst.0) {
            self.0.pop();
            self.0.push(Reverse(Score(score)));
        }
    }

    /// The k-th best score, or the worst there is.
    fn last(&self) -> Option<f32> {
        self.0.peek().map(|s| s.0.0)
    }
}

/// Exact search for several queries at once over rows that come part by part.
pub(super) struct Exact {
    metric: Metric,
    k: usize,
    queries: Vec<Vec<f32>>,
    /// For each point that a search returned, the queries that returned it.
    returned: HashMap<ChunkId, Vec<usize>>,
    found: Found,
}

/// What has been found so far: the best scores of each query, and the exact scores of returned points.
#[derive(Clone, Default)]
struct Found {
    best: Vec<TopK>,
    own: HashMap<(usize, ChunkId), f32>,
}

impl Found {
    fn new(queries: usize) -> Self {
        Self { best: vec![TopK::default(); queries], own: HashMap::new() }
    }

    fn merge(mut self, other: Self, k: usize) -> Self {
        for (mine, theirs) in self.best.iter_mut().zip(other.best) {
            for score in theirs.0 {
                mine.offer(score.0.0, k);
            }
        }
        self.own.extend(other.own);
        self
    }
}

/// The inner loop, compiled for the vector instructions that the machine has.
struct Scan<'a> {
    exact: &'a Exact,
    rows: &'a [VectorRow],
    found: &'a mut Found,
}

impl NullaryFnOnce for Scan<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { exact, rows, found } = self;
        for row in rows {
            let vector = row.vector.as_slice();
            let scale = match exact.metric {
                Metric::Cosine => {
                    let length = dot(vector, vector).sqrt();
                    if length > 0.0 { 1.0 / length } else { 0.0 }
                }
                Metric::Dot | Metric::Euclidean => 1.0,
            };
            let asked = exact.returned.get(&row.chunk_id);
            for (i, query) in exact.queries.iter().enumerate() {
                let score = match exact.metric {
                    Metric::Euclidean => -distance2(query, vector),
                    Metric::Cosine | Metric::Dot => dot(query, vector) * scale,
                };
                if score.is_nan() {
                    continue;
                }
                found.best[i].offer(score, exact.k);
                if asked.is_some_and(|queries| queries.contains(&i)) {
                    found.own.insert((i, row.chunk_id), score);
                }
            }
        }
    }
}

impl Exact {
    /// `returned` holds, for each query, the ids that the index gave.
    pub(super) fn new(metric: Metric, k: usize, mut queries: Vec<Vec<f32>>, answers: &[Vec<ChunkId>]) -> Self {
        if metric == Metric::Cosine {
            for query in &mut queries {
                let length = dot(query, query).sqrt();
                if length > 0.0 {
                    query.iter_mut().for_each(|v| *v /= length);
                }
            }
        }
        let mut returned: HashMap<ChunkId, Vec<usize>> = HashMap::new();
        for (query, ids) in answers.iter().enumerate() {
            for id in ids {
                returned.entry(*id).or_default().push(query);
            }
        }
        let found = Found::new(queries.len());
        Self { metric, k, queries, returned, found }
    }

    /// Takes the rows of a part, on all cores.
    pub(super) fn add(&mut self, rows: &[VectorRow]) {
        let arch = pulp::Arch::new();
        let new = || Found::new(self.queries.len());
        let found = rows
            .par_chunks(ROWS)
            .fold(new, |mut found, rows| {
                arch.dispatch(Scan { exact: self, rows, found: &mut found });
                found
            })
            .reduce(new, |a, b| a.merge(b, self.k));
        self.found = std::mem::take(&mut self.found).merge(found, self.k);
    }

    /// Recall of each query: the share of its exact top k that the answer holds. A returned point whose exact
    /// score is that of the k-th best counts, whichever of several equal ones the index chose.
    pub(super) fn recalls(&self, answers: &[Vec<ChunkId>]) -> Vec<f64> {
        let each = |(i, ids): (usize, &Vec<ChunkId>)| {
            let best = &self.found.best[i];
            let Some(last) = best.last() else { return 1.0 };
            let scale = match self.metric {
                Metric::Cosine => 1.0,
                Metric::Dot | Metric::Euclidean => last.abs().max(dot(&self.queries[i], &self.queries[i])),
            };
            let distinct: HashSet<&ChunkId> = ids.iter().take(self.k).collect();
            let hits = distinct
                .into_iter()
                .filter(|id| self.found.own.get(&(i, **id)).is_some_and(|s| *s >= last - SAME_SCORE * scale))
                .count();
            hits as f64 / best.0.len() as f64
        };
        answers.iter().enumerate().map(each).collect()
    }
}

/// Queries from sampled vectors: each plus a quarter of the next.
pub(super) fn queries(seeds: &[Vec<f32>], at_most: usize) -> Vec<Vec<f32>> {
    let mix = |(i, a): (usize, &Vec<f32>)| {
        let b = &seeds[(i + 1) % seeds.len()];
        a.iter().zip(b).map(|(a, b)| a + MIX * b).collect()
    };
    seeds.iter().take(at_most).enumerate().map(mix).collect()
}

/// `recall`: mean recall@k of the index.
pub(super) async fn check(
    input: &ValidationInput<'_>,
    searcher: &Searcher<'_>,
    survey: &Survey,
    events: &Events,
) -> Result<Check> {
    let k = input.settings.k;
    let queries = queries(&survey.query_seeds, input.settings.recall_queries);
    if queries.is_empty() {
        let why =
            if input.settings.recall_queries == 0 { "no queries were asked for" } else { "the vector set is empty" };
        return Ok(Check::skipped("recall", why));
    }
    let mut answers = Vec::with_capacity(queries.len());
    for query in &queries {
        let found = searcher.search(query, k, &Filter::default()).await?;
        answers.push(found.into_iter().map(|p| p.id).collect::<Vec<_>>());
    }
    let mut exact = Exact::new(input.context.metric, k, queries, &answers);
    for part in 0..input.source.parts() {
        let rows = input.source.read(part).await?;
        super::busy(|| exact.add(&rows));
        events.progress(Stage::Validate, rows.len() as u64);
        tokio::task::yield_now().await;
    }
    let recalls = exact.recalls(&answers);
    let (average, least) = (mean(&recalls), recalls.iter().copied().fold(1.0, f64::min));
    let measured = json!({
        "mean": average,
        "p5": percentile(&recalls, 5.0),
        "min": least,
        "queries": recalls.len(),
        "k": k,
    });
    let expected = json!({"mean": input.settings.min_recall, "k": k});
    let perfect = recalls.iter().filter(|r| **r >= 1.0).count();
    let reason = format!(
        "mean recall@{k} {average:.4} over {} queries, {perfect} of them complete, the worst {least:.2}",
        recalls.len()
    );
    Ok(Check::judge("recall", average >= input.settings.min_recall, measured, expected, reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Digest;
    use proptest::prelude::*;

    fn row(n: usize, vector: Vec<f32>) -> VectorRow {
        VectorRow {
            chunk_id: ChunkId(uuid::Uuid::from_u128(n as u128)),
            document_id: format!("d{n}"),
            ordinal: 0,
            start: 0,
            end: 1,
            text: "t".into(),
            title: None,
            tenant: None,
            acl: vec![],
            metadata: serde_json::Map::new(),
            chunk_digest: Digest::of(b"t"),
            vector,
        }
    }

    fn naive(metric: Metric, query: &[f32], vector: &[f32]) -> f64 {
        let (mut product, mut q2, mut v2, mut d2) = (0.0, 0.0, 0.0, 0.0);
        for (q, v) in query.iter().zip(vector) {
            let (q, v) = (f64::from(*q), f64::from(*v));
            product += q * v;
            q2 += q * q;
            v2 += v * v;
            d2 += (q - v) * (q - v);
        }
        match metric {
            Metric::Cosine if q2 * v2 == 0.0 => 0.0,
            Metric::Cosine => product / (q2 * v2).sqrt(),
            Metric::Dot => product,
            Metric::Euclidean => -f64::sqrt(d2),
        }
    }

    fn vectors(dimension: usize) -> impl Strategy<Value = Vec<Vec<f32>>> {
        proptest::collection::vec(proptest::collection::vec(-8i8..8, dimension), 1..60)
            .prop_map(|rows| rows.into_iter().map(|r| r.into_iter().map(f32::from).collect()).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whole numbers make many exact ties; dimension 70 leaves a rest after the lanes.
        #[test]
        fn exact_answers_have_full_recall_and_worse_ones_less(rows in vectors(70), k in 1usize..8, cut in 1usize..20) {
            for metric in [Metric::Cosine, Metric::Dot, Metric::Euclidean] {
                let rows: Vec<VectorRow> = rows.iter().enumerate().map(|(n, v)| row(n, v.clone())).collect();
                let query = rows[0].vector.iter().map(|v| v + 0.5).collect::<Vec<f32>>();
                let mut ranked: Vec<(f64, ChunkId)> = rows.iter().map(|r| (naive(metric, &query, &r.vector), r.chunk_id)).collect();
                // Ties in reverse order of id: another choice among equals than the exact search's own.
                ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
                let possible = k.min(rows.len());
                let right: Vec<ChunkId> = ranked.iter().take(k).map(|r| r.1).collect();
                let last = ranked[possible - 1].0;
                let scale = if metric == Metric::Cosine { 1.0 } else { last.abs().max(1.0) };
                let wrong = ranked.iter().find(|r| r.0 < last - 1e-3 * scale).map(|r| r.1);
                let mut spoiled = right.clone();
                if let Some(wrong) = wrong {
                    spoiled[0] = wrong;
                }
                let answers = vec![right, spoiled, vec![], vec![ranked[0].1; k]];
                let mut exact = Exact::new(metric, k, vec![query; 4], &answers);
                for part in rows.chunks(cut) {
                    exact.add(part);
                }
                let recalls = exact.recalls(&answers);
                prop_assert_eq!(recalls[0], 1.0, "{:?}", metric);
                if wrong.is_some() {
                    prop_assert!((recalls[1] - (possible - 1) as f64 / possible as f64).abs() < 1e-9);
                }
                prop_assert_eq!(recalls[2], 0.0);
                prop_assert_eq!(recalls[3], 1.0 / possible as f64);
            }
        }

        #[test]
        fn dot_is_the_naive_sum(a in proptest::collection::vec(-100i16..100, 0..200)) {
            let a: Vec<f32> = a.into_iter().map(f32::from).collect();
            let b: Vec<f32> = a.iter().rev().copied().collect();
            let naive: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            prop_assert_eq!(f64::from(dot(&a, &b)), naive);
            let naive: f64 = a.iter().zip(&b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
            prop_assert_eq!(f64::from(distance2(&a, &b)), naive);
        }
    }

    #[test]
    fn queries_are_near_a_vector_but_not_on_it() {
        let seeds = vec![vec![1.0, 0.0], vec![0.0, 1.0], vec![-1.0, 0.0]];
        assert_eq!(queries(&seeds, 2), [[1.0, 0.25], [-0.25, 1.0]]);
        assert_eq!(queries(&seeds[..1], 5), [[1.25, 0.0]]);
        assert!(queries(&[], 5).is_empty());
    }
}
