//! Golden queries: what "search still works" means to the people who own the corpus.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::check::Check;
use super::latency::Searcher;
use super::metrics::{mean, median, ndcg, percentile, recall, reciprocal_rank};
use super::survey::Survey;
use super::{Result, ValidationInput};
use crate::error::{Error, ErrorKind};
use crate::pipeline::GoldenThresholds;
use crate::targets::{CollectionInfo, Condition, Filter, ScoredPoint, field};

/// A document that should be found, and how good a find it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Grade {
    /// Document id.
    pub document: String,
    /// From 1 upwards; 0 says that the document is known not to be an answer.
    pub grade: f64,
}

/// One golden query.
#[derive(Debug, Clone, PartialEq)]
pub struct GoldenQuery {
    /// The query's text.
    pub query: String,
    /// Conditions on payload fields.
    pub filter: Filter,
    /// Tenant as whom to search.
    pub tenant: Option<String>,
    /// Principals as whom to search: documents with any of them are seen.
    pub acl: Vec<String>,
    /// Documents that should be found.
    pub expected: Vec<Grade>,
    /// How many documents count; the pipeline's `validation.k` when absent.
    pub k: Option<usize>,
}

impl GoldenQuery {
    /// The whole filter: conditions, tenant and acl.
    pub fn combined_filter(&self) -> Filter {
        let mut filter = self.filter.clone();
        if let Some(tenant) = &self.tenant {
            filter.all.extend(Filter::tenant(tenant).all);
        }
        if !self.acl.is_empty() {
            let values = self.acl.iter().map(|a| Value::from(a.as_str())).collect();
            filter.all.push(Condition::AnyOf { field: field::ACL.to_owned(), values });
        }
        filter
    }

    fn wanted(&self) -> BTreeSet<String> {
        self.expected.iter().filter(|e| e.grade > 0.0).map(|e| e.document.clone()).collect()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    query: String,
    #[serde(default)]
    filter: Filter,
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    acl: Vec<String>,
    expected: Vec<Value>,
    #[serde(default)]
    k: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GradedDocument {
    id: String,
    #[serde(default = "one")]
    grade: f64,
}

fn one() -> f64 {
    1.0
}

/// Reads a file of golden queries.
pub fn load_golden(path: &Path) -> Result<Vec<GoldenQuery>> {
    let text = std::fs::read_to_string(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::new(ErrorKind::NotFound, "there is no such file of golden queries")
            .with("file", path.display())
            .guidance("correct validation.golden in the pipeline, or remove it"),
        std::io::ErrorKind::InvalidData => {
            Error::new(ErrorKind::Configuration, "the file of golden queries is not UTF-8").with("file", path.display())
        }
        _ => Error::from(e).with("file", path.display()),
    })?;
    parse_golden(&text, &path.display().to_string())
}

/// Parses golden queries: one JSON object per line, empty lines left out.
///
/// ```
/// let text = r#"{"query": "how to cancel", "tenant": "a", "expected": ["faq.md", {"id": "terms.md", "grade": 3}]}"#;
/// let golden = regrow::validate::parse_golden(text, "golden.jsonl")?;
/// assert_eq!(golden[0].expected[1].grade, 3.0);
/// # Ok::<(), regrow::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::Configuration`] with `file` (`origin`) and `line`.
pub fn parse_golden(text: &str, origin: &str) -> Result<Vec<GoldenQuery>> {
    let mut out = Vec::new();
    for (i, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |what: String| {
            Error::new(ErrorKind::Configuration, what)
                .with("file", origin)
                .with("line", i + 1)
                .guidance(r#"write each line like {"query": "...", "expected": ["document id"]}"#)
        };
        let parsed: Line = serde_json::from_str(line)
            .map_err(|e| wrong("this is not a golden query".to_owned()).with("column", e.column()).because(e))?;
        out.push(resolve(parsed).map_err(wrong)?);
    }
    Ok(out)
}

fn resolve(line: Line) -> Result<GoldenQuery, String> {
    if line.query.trim().is_empty() {
        return Err("the query is empty".to_owned());
    }
    if line.k == Some(0) {
        return Err("k must be at least 1".to_owned());
    }
    let mut expected: Vec<Grade> = Vec::with_capacity(line.expected.len());
    for value in line.expected {
        let grade = match value {
            Value::String(document) => Grade { document, grade: 1.0 },
            other => {
                let graded: GradedDocument = serde_json::from_value(other)
                    .map_err(|e| format!("an expected document is neither an id nor {{\"id\", \"grade\"}}: {e}"))?;
                Grade { document: graded.id, grade: graded.grade }
            }
        };
        // 2^grade must stay a number that can be summed.
        if !(0.0..=100.0).contains(&grade.grade) {
            return Err(format!("the grade of {} is not between 0 and 100", grade.document));
        }
        if expected.iter().any(|e| e.document == grade.document) {
            return Err(format!("{} is expected twice", grade.document));
        }
        expected.push(grade);
    }
    if !expected.iter().any(|e| e.grade > 0.0) {
        return Err("no document is expected".to_owned());
    }
    let Line { query, filter, tenant, acl, k, .. } = line;
    Ok(GoldenQuery { query, filter, tenant, acl, expected, k })
}

/// Why an expected document was not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissReason {
    /// The snapshot does not list it.
    NotInCorpus,
    /// It has no vector: skipped, empty, or not in the snapshot.
    NotInVectors,
    /// Exact search finds it, the index does not.
    MissedByIndex,
    /// Exact search does not rank it in the first k either, or the filter leaves it out.
    RankedBelow,
}

/// An expected document that was not found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Miss {
    /// Document id.
    pub document: String,
    /// Why.
    pub reason: MissReason,
}

/// What one golden query found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryOutcome {
    /// The query's text.
    pub query: String,
    /// How many documents counted.
    pub k: usize,
    /// Share of the expected documents among the first k.
    pub recall: f64,
    /// 1 / rank of the first expected document.
    pub reciprocal_rank: f64,
    /// nDCG@k, where grades other than 1 are given.
    pub ndcg: Option<f64>,
    /// Whether the first document is an expected one.
    pub top1: bool,
    /// Documents found, best first.
    pub found: Vec<String>,
    /// Expected documents that are not among them.
    pub missed: Vec<Miss>,
}

/// The first `k` documents of an answer, in the order of their best chunks.
fn documents(points: &[ScoredPoint], k: usize) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let ids = points.iter().filter_map(|p| p.payload.get(field::DOCUMENT_ID).and_then(Value::as_str));
    ids.filter(|id| seen.insert(*id)).take(k).map(str::to_owned).collect()
}

/// Searches for chunks until they come from `k` documents, or no more come.
async fn search_documents(
    searcher: &Searcher<'_>,
    vector: &[f32],
    k: usize,
    filter: &Filter,
    exact: bool,
) -> Result<Vec<String>> {
    let mut limit = k.saturating_mul(4);
    loop {
        let found = match exact {
            true => searcher.exact(vector, limit, filter).await?,
            false => searcher.search(vector, limit, filter).await?,
        };
        let ids = documents(&found, k);
        // A document of a thousand chunks may fill an answer alone; more than 64 k chunks is not worth it.
        if ids.len() >= k || found.len() < limit || limit >= k.saturating_mul(64) {
            return Ok(ids);
        }
        limit = limit.saturating_mul(4);
    }
}

/// `golden`: thresholds over all queries.
pub(super) async fn check(
    input: &ValidationInput<'_>,
    searcher: &Searcher<'_>,
    survey: &Survey,
    info: &CollectionInfo,
) -> Result<(Check, Vec<QueryOutcome>)> {
    if input.golden.is_empty() {
        return Ok((Check::skipped("golden", "no golden queries are given"), Vec::new()));
    }
    let texts: Vec<&str> = input.golden.iter().map(|g| g.query.as_str()).collect();
    let vectors = super::embed(input, true, &texts, info.dimension)?;
    let absent: BTreeSet<String> =
        input.golden.iter().flat_map(GoldenQuery::wanted).filter(|d| !survey.golden_present.contains(d)).collect();
    let not_in_corpus: BTreeSet<String> = match input.documents {
        Some(lookup) if !absent.is_empty() => {
            let present = lookup.present(&absent).await?;
            absent.difference(&present).cloned().collect()
        }
        _ => BTreeSet::new(),
    };

    let mut outcomes = Vec::with_capacity(texts.len());
    for (golden, vector) in input.golden.iter().zip(&vectors) {
        let k = golden.k.unwrap_or(input.settings.k);
        let filter = golden.combined_filter();
        let wanted = golden.wanted();
        let found = search_documents(searcher, vector, k, &filter, false).await?;
        let missing: Vec<&String> = wanted.iter().filter(|d| !found.contains(d)).collect();
        let by_exact = match missing.iter().any(|d| !absent.contains(*d)) {
            true => search_documents(searcher, vector, k, &filter, true).await?,
            false => Vec::new(),
        };
        let reason = |document: &String| {
            if not_in_corpus.contains(document) {
                MissReason::NotInCorpus
            } else if absent.contains(document) {
                MissReason::NotInVectors
            } else if by_exact.contains(document) {
                MissReason::MissedByIndex
            } else {
                MissReason::RankedBelow
            }
        };
        let missed = missing.into_iter().map(|d| Miss { document: d.clone(), reason: reason(d) }).collect();
        outcomes.push(QueryOutcome {
            query: golden.query.clone(),
            k,
            recall: recall(&found, &wanted, k),
            reciprocal_rank: reciprocal_rank(&found, &wanted),
            ndcg: graded(golden, &found, k),
            top1: found.first().is_some_and(|d| wanted.contains(d)),
            found,
            missed,
        });
    }
    outcomes.sort_by(|a, b| a.recall.total_cmp(&b.recall).then(a.reciprocal_rank.total_cmp(&b.reciprocal_rank)));
    Ok((judge(&outcomes, &input.settings.golden_thresholds), outcomes))
}

/// nDCG where the query has grades that differ from plain 1.
fn graded(golden: &GoldenQuery, found: &[String], k: usize) -> Option<f64> {
    if golden.expected.iter().all(|e| e.grade == 1.0) {
        return None;
    }
    let grades: BTreeMap<&str, f64> = golden.expected.iter().map(|e| (e.document.as_str(), e.grade)).collect();
    let gains: Vec<f64> = found.iter().map(|d| grades.get(d.as_str()).copied().unwrap_or(0.0)).collect();
    ndcg(&gains, &grades.values().copied().collect::<Vec<_>>(), k)
}

/// The four thresholds that golden queries and their baseline share.
pub(super) struct Figures {
    pub(super) mean: f64,
    pub(super) median: f64,
    pub(super) p5: f64,
    pub(super) top1: f64,
}

impl Figures {
    pub(super) fn of(recalls: &[f64], first: usize) -> Self {
        Self {
            mean: mean(recalls),
            median: median(recalls),
            p5: percentile(recalls, 5.0),
            top1: first as f64 / recalls.len().max(1) as f64,
        }
    }

    /// What is below its threshold, in words.
    pub(super) fn below(&self, least: &GoldenThresholds) -> Vec<String> {
        [
            ("mean recall", self.mean, least.mean),
            ("median recall", self.median, least.median),
            ("5th percentile of recall", self.p5, least.p5),
            ("share of right first hits", self.top1, least.top1),
        ]
        .iter()
        .filter(|(_, value, least)| value < least)
        .map(|(name, value, least)| format!("{name} is {value:.3}, at least {least} is asked for"))
        .collect()
    }
}

fn judge(outcomes: &[QueryOutcome], least: &GoldenThresholds) -> Check {
    let recalls: Vec<f64> = outcomes.iter().map(|o| o.recall).collect();
    let figures = Figures::of(&recalls, outcomes.iter().filter(|o| o.top1).count());
    let graded: Vec<f64> = outcomes.iter().filter_map(|o| o.ndcg).collect();
    let ranks: Vec<f64> = outcomes.iter().map(|o| o.reciprocal_rank).collect();
    let measured = json!({
        "mean": figures.mean,
        "median": figures.median,
        "p5": figures.p5,
        "top1": figures.top1,
        "mrr": mean(&ranks),
        "ndcg": if graded.is_empty() { Value::Null } else { mean(&graded).into() },
        "queries": outcomes.len(),
    });
    let below = figures.below(least);
    let mut reason = match below.is_empty() {
        true => format!("{} golden queries reach every threshold", outcomes.len()),
        false => below.join("; "),
    };
    // Outcomes come worst first.
    if let Some(worst) = outcomes.first().filter(|o| !o.missed.is_empty()) {
        let missed = worst.missed.iter().map(|m| format!("{} ({})", m.document, words(m.reason)));
        let missed = super::check::some_of(missed, 3);
        reason = format!("{reason}; worst: \"{}\" lacks {missed}", worst.query);
    }
    Check::judge("golden", below.is_empty(), measured, json!(least), reason)
}

fn words(reason: MissReason) -> &'static str {
    match reason {
        MissReason::NotInCorpus => "not in the corpus",
        MissReason::NotInVectors => "has no vector",
        MissReason::MissedByIndex => "missed by the index",
        MissReason::RankedBelow => "ranked below k",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_line_is_read() {
        let text = "\u{feff}\n{\"query\":\"q\",\"tenant\":\"t\",\"acl\":[\"p\"],\"k\":3,\
                    \"filter\":[{\"range\":{\"field\":\"metadata.year\",\"min\":2000}}],\
                    \"expected\":[\"a\",{\"id\":\"b\",\"grade\":2},{\"id\":\"c\"}]}\n\n";
        let golden = parse_golden(text, "g.jsonl").unwrap();
        assert_eq!(golden.len(), 1);
        assert_eq!(golden[0].expected.iter().map(|e| e.grade).collect::<Vec<_>>(), [1.0, 2.0, 1.0]);
        let filter = golden[0].combined_filter();
        assert_eq!(filter.all.len(), 3);
        assert!(filter.all.contains(&Filter::tenant("t").all[0]));
    }

    #[test]
    fn a_wrong_line_is_named() {
        for line in [
            "{\"query\":\"q\"}",
            "{\"query\":\"\",\"expected\":[\"a\"]}",
            "{\"query\":\"q\",\"expected\":[]}",
            "{\"query\":\"q\",\"expected\":[{\"id\":\"a\",\"grade\":0}]}",
            "{\"query\":\"q\",\"expected\":[\"a\",\"a\"]}",
            "{\"query\":\"q\",\"expected\":[{\"id\":\"a\",\"grade\":-1}]}",
            "{\"query\":\"q\",\"expected\":[{\"idd\":\"a\"}]}",
            "{\"query\":\"q\",\"expected\":[7]}",
            "{\"query\":\"q\",\"expect\":[\"a\"],\"expected\":[\"a\"]}",
            "{\"query\":\"q\",\"expected\":[\"a\"],\"k\":0}",
            "not json",
        ] {
            let text = format!("{{\"query\":\"q\",\"expected\":[\"a\"]}}\n\n{line}\n");
            let e = parse_golden(&text, "g.jsonl").expect_err(line);
            assert_eq!(e.kind(), ErrorKind::Configuration);
            assert_eq!((e.context_value("file"), e.context_value("line")), (Some("g.jsonl"), Some("3")));
        }
    }

    #[test]
    fn thresholds_are_inclusive_and_each_is_named() {
        let least = GoldenThresholds { mean: 0.5, median: 0.5, p5: 0.5, top1: 0.5 };
        assert!(Figures { mean: 0.5, median: 0.5, p5: 0.5, top1: 0.5 }.below(&least).is_empty());
        assert_eq!(Figures { mean: 0.4, median: 0.5, p5: 0.4, top1: 0.4 }.below(&least).len(), 3);
    }
}
