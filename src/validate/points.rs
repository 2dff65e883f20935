//! Checks of sampled points: vectors, payloads, and whether a stored text finds itself.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::check::{Check, some_of};
use super::latency::Searcher;
use super::recall::dot;
use super::survey::Survey;
use super::{Result, ValidationInput};
use crate::ids::ChunkId;
use crate::model::Metric;
use crate::targets::{CollectionInfo, Filter, Point, field};
use crate::vectors::VectorRow;

/// Least cosine between a vector and what a normalising target made of it.
const MIN_NORMALISED_COSINE: f64 = 0.999_999;
/// Scores that differ by less, relative to the best, are one rank: f32 rounding.
const SAME_SCORE: f32 = 1e-6;
/// Ids asked for at once.
const FETCH: usize = 100;
/// Differences that a reason lists.
const LISTED: usize = 3;

/// The stored points of the sample.
pub(super) async fn fetch(input: &ValidationInput<'_>, sample: &[VectorRow]) -> Result<HashMap<ChunkId, Point>> {
    let ids: Vec<ChunkId> = sample.iter().map(|r| r.chunk_id).collect();
    let mut stored = HashMap::with_capacity(ids.len());
    for group in ids.chunks(FETCH) {
        stored.extend(input.target.fetch(input.collection, group).await?.into_iter().map(|p| (p.id, p)));
    }
    Ok(stored)
}

/// How a stored vector compares with the one that was loaded.
enum Same {
    Bitwise,
    Normalised(f64),
    No(String),
}

fn compare(loaded: &[f32], stored: &[f32], metric: Metric) -> Same {
    if loaded.len() != stored.len() {
        return Same::No(format!("has {} values instead of {}", stored.len(), loaded.len()));
    }
    if loaded.iter().zip(stored).all(|(a, b)| a.to_bits() == b.to_bits()) {
        return Same::Bitwise;
    }
    let (mut product, mut a2, mut b2) = (0f64, 0f64, 0f64);
    for (a, b) in loaded.iter().zip(stored) {
        let (a, b) = (f64::from(*a), f64::from(*b));
        product += a * b;
        a2 += a * a;
        b2 += b * b;
    }
    let cosine = product / (a2 * b2).sqrt();
    if metric != Metric::Cosine {
        return Same::No(format!("differs, cosine {cosine:.6}; this metric needs the same bits"));
    }
    // Normalising is all that a target may do, so the result must have length 1.
    if cosine >= MIN_NORMALISED_COSINE && (b2.sqrt() - 1.0).abs() < 1e-4 {
        return Same::Normalised(cosine);
    }
    Same::No(format!("differs, cosine {cosine:.6}, length {:.6}", b2.sqrt()))
}

/// `vectors`: sampled vectors are bit for bit what was loaded, or normalised where the metric is cosine.
pub(super) fn vectors(input: &ValidationInput<'_>, survey: &Survey, stored: &HashMap<ChunkId, Point>) -> Check {
    if survey.sample.is_empty() {
        return Check::skipped("vectors", nothing_sampled(survey));
    }
    let (mut bitwise, mut normalised, mut worst) = (0u64, 0u64, 1.0f64);
    let mut wrong = Vec::new();
    for row in &survey.sample {
        match stored.get(&row.chunk_id) {
            None => wrong.push(format!("{} is not there", row.chunk_id)),
            Some(point) => match compare(&row.vector, &point.vector, input.context.metric) {
                Same::Bitwise => bitwise += 1,
                Same::Normalised(cosine) => {
                    normalised += 1;
                    worst = worst.min(cosine);
                }
                Same::No(how) => wrong.push(format!("{} {how}", row.chunk_id)),
            },
        }
    }
    let measured = json!({"compared": survey.sample.len(), "bitwise": bitwise, "normalised": normalised, "different": wrong.len()});
    let expected = json!({"different": 0});
    let reason = if !wrong.is_empty() {
        some_of(&wrong, LISTED)
    } else if normalised > 0 {
        format!(
            "{bitwise} are the same bit for bit, {normalised} as normalised by the target (least cosine {worst:.7})"
        )
    } else {
        "all are the same bit for bit".to_owned()
    };
    Check::judge("vectors", wrong.is_empty(), measured, expected, reason)
}

/// `payloads`: sampled payloads are exactly what was loaded.
pub(super) fn payloads(survey: &Survey, stored: &HashMap<ChunkId, Point>) -> Check {
    if survey.sample.is_empty() {
        return Check::skipped("payloads", nothing_sampled(survey));
    }
    let wrong: Vec<String> = survey
        .sample
        .iter()
        .filter_map(|row| match stored.get(&row.chunk_id) {
            None => Some(format!("{} is not there", row.chunk_id)),
            Some(point) => difference("", &Value::Object(row.payload()), &Value::Object(point.payload.clone()))
                .map(|d| format!("{}: {d}", row.chunk_id)),
        })
        .collect();
    let measured = json!({"compared": survey.sample.len(), "different": wrong.len()});
    let reason = if wrong.is_empty() { "all are equal".to_owned() } else { some_of(&wrong, LISTED) };
    Check::judge("payloads", wrong.is_empty(), measured, json!({"different": 0}), reason)
}

/// The first difference of two JSON values, with its path.
fn difference(path: &str, expected: &Value, found: &Value) -> Option<String> {
    let at = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (expected, found) {
        (Value::Object(a), Value::Object(b)) => a
            .iter()
            .find_map(|(key, value)| match b.get(key) {
                None => Some(format!("{} is missing", at(key))),
                Some(other) => difference(&at(key), value, other),
            })
            .or_else(|| {
                b.keys().find(|key| !a.contains_key(*key)).map(|key| format!("{} should not be there", at(key)))
            }),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| difference(&at(&i.to_string()), a, b))
        }
        (a, b) if a == b => None,
        (a, b) => Some(format!("{path} is {} instead of {}", short(b), short(a))),
    }
}

/// A value as JSON, cut to a readable length.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// `self_retrieval`: a stored text, embedded again as a document, finds its own chunk first.
///
/// A chunk with the same digest counts, and so does one with the same score: models that fold case or white space
/// give different texts the same vector.
pub(super) async fn self_retrieval(
    input: &ValidationInput<'_>,
    searcher: &Searcher<'_>,
    survey: &Survey,
    stored: &HashMap<ChunkId, Point>,
    info: &CollectionInfo,
) -> Result<Check> {
    const NAME: &str = "self_retrieval";
    if survey.sample.is_empty() {
        return Ok(Check::skipped(NAME, nothing_sampled(survey)));
    }
    let mut misses = Vec::new();
    let mut asked: Vec<(&VectorRow, &str)> = Vec::new();
    for row in &survey.sample {
        match stored.get(&row.chunk_id).map(|p| p.payload.get(field::TEXT).and_then(Value::as_str)) {
            Some(Some(text)) => asked.push((row, text)),
            Some(None) => misses.push(format!("{} has no text", row.chunk_id)),
            None => misses.push(format!("{} is not there", row.chunk_id)),
        }
    }
    let texts: Vec<&str> = asked.iter().map(|(_, text)| *text).collect();
    let vectors = super::embed(input, false, &texts, info.dimension)?;
    let mut first = 0u64;
    for ((row, _), vector) in asked.iter().zip(&vectors) {
        if vector.iter().any(|v| !v.is_finite()) {
            misses.push(format!("{}: the model gave a value that is not finite", row.chunk_id));
            continue;
        }
        let found = searcher.search(vector, input.settings.k, &Filter::default()).await?;
        let best = found.first().map_or(0.0, |f| f.score);
        let tolerance = SAME_SCORE * best.abs().max(dot(vector, vector)).max(f32::MIN_POSITIVE);
        let digest = row.chunk_digest.to_string();
        let rank = found.iter().position(|f| {
            f.id == row.chunk_id || f.payload.get(field::CHUNK_DIGEST).and_then(Value::as_str) == Some(digest.as_str())
        });
        match rank {
            Some(rank) if (found[rank].score - best).abs() <= tolerance => first += 1,
            Some(rank) => misses.push(format!("{} of {} came {}th", row.chunk_id, row.document_id, rank + 1)),
            None => misses.push(format!("{} of {} was not found", row.chunk_id, row.document_id)),
        }
    }
    let share = first as f64 / survey.sample.len() as f64;
    let holds = share >= input.settings.min_self_retrieval;
    let mut reason = format!("{first} of {} sampled chunks found themselves first", survey.sample.len());
    if !misses.is_empty() {
        reason = format!("{reason}; {}", some_of(&misses, LISTED));
    }
    Ok(Check::judge(NAME, holds, share, input.settings.min_self_retrieval, reason))
}

fn nothing_sampled(survey: &Survey) -> &'static str {
    if survey.rows == 0 { "the vector set is empty" } else { "the sample size is 0" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_the_same_by_bits_or_by_normalising_only() {
        let v = [3.0, 4.0];
        assert!(matches!(compare(&v, &v, Metric::Dot), Same::Bitwise));
        assert!(matches!(compare(&v, &[0.6, 0.8], Metric::Cosine), Same::Normalised(_)));
        for (stored, metric) in [
            (&[0.6, 0.8][..], Metric::Dot),
            (&[6.0, 8.0], Metric::Cosine),
            (&[0.8, 0.6], Metric::Cosine),
            (&[3.0], Metric::Cosine),
            (&[0.0, 0.0], Metric::Cosine),
            (&[f32::NAN, 1.0], Metric::Cosine),
        ] {
            assert!(matches!(compare(&v, stored, metric), Same::No(_)), "{stored:?}");
        }
    }

    #[test]
    fn the_first_difference_is_named_with_its_path() {
        let a = json!({"a": {"b": [1, {"c": "x"}]}, "d": 1});
        assert_eq!(difference("", &a, &a), None);
        for (other, named) in [
            (json!({"a": {"b": [1, {"c": "y"}]}, "d": 1}), "a.b.1.c is \"y\" instead of \"x\""),
            (json!({"a": {"b": [1]}, "d": 1}), "a.b is [1] instead of [1,{\"c\":\"x\"}]"),
            (json!({"a": {"b": [1, {"c": "x"}]}}), "d is missing"),
            (json!({"a": {"b": [1, {"c": "x"}]}, "d": 1, "e": null}), "e should not be there"),
            (json!({"a": {"b": [1, {"c": "x"}]}, "d": 1.0}), "d is 1.0 instead of 1"),
        ] {
            assert_eq!(difference("", &a, &other).as_deref(), Some(named));
        }
    }
}
