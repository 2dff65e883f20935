//! Checks of the whole collection: counts, ids, dimension, metric, model, payload indexes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::json;

use super::check::{Check, some_of};
use super::sample::IdSums;
use super::survey::Survey;
use super::{Result, ValidationInput};
use crate::error::{Error, ErrorKind};
use crate::event::{Events, Stage};
use crate::ids::ChunkId;
use crate::targets::{CollectionInfo, Filter, ScrollPage};

/// Points of one page of a scroll.
const PAGE: usize = 1000;
/// Ids compared by name when the digests differ; more are reported as "at least".
const NAMED_IDS: u64 = 200_000;
/// Ids that a reason lists.
const LISTED: usize = 5;

/// What a scroll through the whole collection found.
pub(super) struct Scan {
    points: u64,
    ids: IdSums,
    wrong_dimension: (u64, Option<(ChunkId, usize)>),
    not_finite: (u64, Option<ChunkId>),
}

/// Every page of the collection in id order; an error when the target's cursor does not advance.
async fn pages(input: &ValidationInput<'_>, mut each: impl FnMut(&ScrollPage)) -> Result<()> {
    let mut after: Option<ChunkId> = None;
    loop {
        let page = input.target.scroll(input.collection, after, PAGE).await?;
        each(&page);
        let Some(next) = page.next else { return Ok(()) };
        if after.is_some_and(|after| next <= after) {
            return Err(Error::new(ErrorKind::Target, "the target's scroll goes in circles")
                .with("target", input.target.kind())
                .with("collection", input.collection)
                .with("after", next)
                .guidance("this is a defect of the target or of regrow: please report it"));
        }
        after = Some(next);
    }
}

/// Reads the whole collection once.
pub(super) async fn scan(input: &ValidationInput<'_>, events: &Events) -> Result<Scan> {
    let keyed = super::sample::Keyed::new(input.seed);
    let dimension = input.context.dimension as usize;
    let mut scan = Scan { points: 0, ids: IdSums::new(), wrong_dimension: (0, None), not_finite: (0, None) };
    pages(input, |page| {
        for point in &page.points {
            scan.ids.add(&keyed.id(&point.id));
            if point.vector.len() != dimension {
                scan.wrong_dimension.0 += 1;
                scan.wrong_dimension.1.get_or_insert((point.id, point.vector.len()));
            }
            if point.vector.iter().any(|v| !v.is_finite()) {
                scan.not_finite.0 += 1;
                scan.not_finite.1.get_or_insert(point.id);
            }
        }
        scan.points += page.points.len() as u64;
        events.progress(Stage::Validate, page.points.len() as u64);
    })
    .await?;
    Ok(scan)
}

/// `count`: the target's exact count is the number of rows.
pub(super) async fn count(input: &ValidationInput<'_>, survey: &Survey) -> Result<Check> {
    if !input.target.capabilities().exact_count {
        return Ok(Check::skipped("count", "this target counts approximately; `ids` counts every point"));
    }
    let counted = input.target.count(input.collection, &Filter::default()).await?;
    let reason = match counted.cmp(&survey.rows) {
        std::cmp::Ordering::Equal => "the collection holds as many points as the vector set has rows".to_owned(),
        std::cmp::Ordering::Less => format!("{} points are missing", survey.rows - counted),
        std::cmp::Ordering::Greater => format!("{} points too many", counted - survey.rows),
    };
    Ok(Check::judge("count", counted == survey.rows, counted, survey.rows, reason))
}

/// `ids`: every id of the vector set is in the collection, and no other.
pub(super) async fn ids(input: &ValidationInput<'_>, survey: &Survey, scan: &Scan) -> Result<Check> {
    let measured = json!({"points": scan.points, "digest": scan.ids.short()});
    let expected = json!({"points": survey.rows, "digest": survey.ids.short()});
    if scan.ids == survey.ids {
        let reason = "the ids of the collection and of the vector set are the same, by count and digest";
        return Ok(Check::pass("ids", measured, expected, reason));
    }
    let difference = Difference::find(input, survey, scan).await?;
    Ok(Check::fail("ids", measured, expected, difference.reason()))
}

/// Ids that only one side has.
struct Difference {
    missing: BTreeMap<ChunkId, String>,
    extra: BTreeSet<ChunkId>,
    twice: u64,
    all: bool,
}

impl Difference {
    /// Compares the buckets that differ by name; as many as fit in memory.
    async fn find(input: &ValidationInput<'_>, survey: &Survey, scan: &Scan) -> Result<Self> {
        let differing = survey.ids.differing(&scan.ids);
        let (mut chosen, mut held) = (BTreeSet::new(), 0);
        for (bucket, count) in &differing {
            if chosen.is_empty() || held + count <= NAMED_IDS {
                chosen.insert(*bucket);
                held += count;
            }
        }
        let is_chosen = |id: &ChunkId| chosen.contains(&IdSums::bucket(&survey.keyed.id(id)));
        let mut missing = HashMap::new();
        let mut twice = 0;
        for part in 0..input.source.parts() {
            for row in input.source.read(part).await? {
                if is_chosen(&row.chunk_id) && missing.insert(row.chunk_id, row.document_id).is_some() {
                    twice += 1;
                }
            }
        }
        let mut extra = BTreeSet::new();
        pages(input, |page| {
            for point in page.points.iter().filter(|p| is_chosen(&p.id)) {
                if missing.remove(&point.id).is_none() {
                    extra.insert(point.id);
                }
            }
        })
        .await?;
        let all = chosen.len() == differing.len();
        Ok(Self { missing: missing.into_iter().collect(), extra, twice, all })
    }

    fn reason(&self) -> String {
        let at_least = if self.all { "" } else { "at least " };
        let mut parts = Vec::new();
        if !self.missing.is_empty() {
            let some = some_of(self.missing.iter().map(|(id, document)| format!("{id} of {document}")), LISTED);
            parts.push(format!("{at_least}{} missing: {some}", self.missing.len()));
        }
        if !self.extra.is_empty() {
            let some = some_of(&self.extra, LISTED);
            parts.push(format!("{at_least}{} that the vector set does not have: {some}", self.extra.len()));
        }
        if self.twice > 0 {
            parts.push(format!("the vector set holds {at_least}{} ids twice", self.twice));
        }
        if parts.is_empty() {
            parts.push("the collection changed while it was being checked".to_owned());
        }
        parts.join("; ")
    }
}

/// `documents`: the vector set covers no more documents than were restored, and not none of them.
pub(super) fn documents(input: &ValidationInput<'_>, survey: &Survey) -> Check {
    let (found, expected) = (survey.documents, input.expected_documents);
    let holds = found <= expected && (found > 0 || expected == 0);
    let reason = if found > expected {
        format!("the vectors come from {} documents more than the snapshot lists", found - expected)
    } else if found == expected {
        "every document of the snapshot has a vector".to_owned()
    } else if found == 0 {
        "not one document of the snapshot has a vector".to_owned()
    } else {
        format!("{} documents have no text and so no vector", expected - found)
    };
    Check::judge("documents", holds, found, expected, reason)
}

/// `dimension`: of the collection, of every row and of every point; all values finite.
pub(super) fn dimension(input: &ValidationInput<'_>, info: &CollectionInfo, survey: &Survey, scan: &Scan) -> Check {
    let expected = input.context.dimension as usize;
    let mut wrong = Vec::new();
    if info.dimension != expected {
        wrong.push(format!("the collection takes vectors of {} values", info.dimension));
    }
    for (place, (count, example)) in [("vector set", &survey.wrong_dimension), ("collection", &scan.wrong_dimension)] {
        if let Some((id, length)) = example {
            wrong.push(format!("{count} vectors of the {place} have another length, first {id} with {length}"));
        }
    }
    for (place, (count, example)) in [("vector set", &survey.not_finite), ("collection", &scan.not_finite)] {
        if let Some(id) = example {
            wrong.push(format!("{count} vectors of the {place} hold a value that is not finite, first {id}"));
        }
    }
    let reason = if wrong.is_empty() {
        "collection, vector set and every point agree with the model".to_owned()
    } else {
        wrong.join("; ")
    };
    Check::judge("dimension", wrong.is_empty(), info.dimension, expected, reason)
}

/// `metric`: the collection's distance is the model's.
pub(super) fn metric(input: &ValidationInput<'_>, info: &CollectionInfo) -> Check {
    let holds = info.metric == input.context.metric;
    let reason =
        if holds { "the collection's distance is the model's" } else { "the collection ranks by another distance" };
    Check::judge("metric", holds, json!(info.metric), json!(input.context.metric), reason)
}

/// `model`: the fingerprint on the collection is the model's.
pub(super) fn model(input: &ValidationInput<'_>, info: &CollectionInfo) -> Result<Check> {
    let expected = input.context.fingerprint()?;
    let Some(marker) = &info.marker else {
        return Ok(Check::skipped("model", "the collection does not carry regrow's marker"));
    };
    let holds = marker.model_fingerprint == expected;
    let reason = if holds {
        "the fingerprint on the collection is the model's"
    } else {
        "the collection is marked as made with another model"
    };
    Ok(Check::judge("model", holds, marker.model_fingerprint.to_string(), expected.to_string(), reason))
}

/// `payload_indexes`: every index asked for is there, with its type.
pub(super) fn payload_indexes(input: &ValidationInput<'_>, info: &CollectionInfo) -> Check {
    if input.payload_indexes.is_empty() {
        return Check::skipped("payload_indexes", "none were asked for");
    }
    let wrong: Vec<String> = input
        .payload_indexes
        .iter()
        .filter_map(|(field, kind)| match info.payload_indexes.get(field) {
            Some(found) if found == kind => None,
            Some(found) => Some(format!("{field} is indexed as {}", json!(found))),
            None => Some(format!("{field} has no index")),
        })
        .collect();
    let reason = if wrong.is_empty() { "every index asked for is there".to_owned() } else { wrong.join("; ") };
    let (measured, expected) = (json!(info.payload_indexes), json!(input.payload_indexes));
    Check::judge("payload_indexes", wrong.is_empty(), measured, expected, reason)
}
