//! Reading bucket by bucket, and searching.
//!
//! Chroma's pages are by offset: they cost more the further they are, and change under writes. Ranges over a number cost
//! as much as the collection is large. Each record therefore carries the first bits of its id as its bucket, and some
//! buckets are looked up at a time; ids are hashes, so their number tells about how many records they hold. Memory is
//! bounded by a page, or a single bucket where that is larger.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::client::{Client, Records, Remote};
use super::filter::{self, Where};
use super::payload::{self, BUCKETS};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::ChunkId;
use crate::model::Metric;
use crate::targets::filter::{Checked, passes};
use crate::targets::score;
use crate::targets::types::*;

/// Most buckets in one request.
const TOGETHER: u32 = 1000;
/// Ids in one request.
const IDS: usize = 500;

/// What a page holds beside ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Include {
    pub(super) vectors: bool,
    pub(super) payloads: bool,
}

impl Include {
    /// Records in one page of a search or count: some megabytes.
    fn page(self) -> usize {
        match (self.vectors, self.payloads) {
            (_, true) => 2000,
            (true, false) => 4000,
            (false, false) => 20_000,
        }
    }

    const IDS: Self = Self { vectors: false, payloads: false };
    pub(super) const ALL: Self = Self { vectors: true, payloads: true };

    fn names(self) -> Vec<&'static str> {
        let mut names = Vec::new();
        if self.vectors {
            names.push("embeddings");
        }
        if self.payloads {
            names.extend(["metadatas", "documents"]);
        }
        names
    }
}

/// Goes through the records that pass `condition`, some buckets at a time.
pub(super) struct Buckets<'a> {
    client: &'a Client,
    id: &'a str,
    condition: Box<dyn Fn(Vec<Value>) -> Option<Value> + Send + Sync + 'a>,
    include: Include,
    at: u32,
    /// Buckets in one request.
    width: u32,
    page: usize,
}

impl<'a> Buckets<'a> {
    /// From bucket `from` on, in pages of about `page` records, of which there are `count` in all.
    pub(super) fn new(
        client: &'a Client,
        id: &'a str,
        condition: impl Fn(Vec<Value>) -> Option<Value> + Send + Sync + 'a,
        include: Include,
        (from, page, count): (u32, usize, u64),
    ) -> Self {
        let width = u128::from(BUCKETS) * page as u128 / u128::from(count.max(1));
        // Few enough to be one page need no condition; else not too many in one.
        let width =
            if width >= BUCKETS.into() { BUCKETS } else { u32::try_from(width).unwrap_or(1).clamp(1, TOGETHER) };
        Self { client, id, condition: Box::new(condition), include, at: from, width, page }
    }

    /// The next records in order of their ids; `None` at the end. May be empty in between.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Point>>> {
        while self.at < BUCKETS {
            let until = self.at.saturating_add(self.width).min(BUCKETS);
            let mut range = Vec::new();
            if until - self.at > TOGETHER {
                if self.at > 0 {
                    range.push(filter::on(payload::BUCKET, "$gte", self.at.into()));
                }
            } else {
                let buckets: Vec<u32> = (self.at..until).collect();
                range.push(filter::on(payload::BUCKET, "$in", json!(buckets)));
            }
            // Half as many more as expected; of a single bucket, whatever there is.
            let most = self.page + self.page / 2 + 16;
            let mut body = json!({"include": self.include.names()});
            if let Some(condition) = (self.condition)(range) {
                body["where"] = condition;
            }
            if self.width > 1 {
                body["limit"] = (most + 1).into();
            }
            let records = self.client.get(self.id, &body).await?;
            let found = records.ids.len();
            if found > most && self.width > 1 {
                self.width = (self.width / 2).clamp(1, TOGETHER);
                continue;
            }
            self.at = until;
            if found < self.page / 4 && self.width < TOGETHER {
                self.width = (self.width * 2).min(TOGETHER);
            }
            let mut points = points(records, self.include)?;
            points.sort_unstable_by_key(|p| p.id);
            return Ok(Some(points));
        }
        Ok(None)
    }
}

/// Records as points.
pub(super) fn points(records: Records, include: Include) -> Result<Vec<Point>> {
    let mut embeddings = records.embeddings.unwrap_or_default().into_iter();
    let mut metadatas = records.metadatas.unwrap_or_default().into_iter();
    let mut documents = records.documents.unwrap_or_default().into_iter();
    records
        .ids
        .into_iter()
        .map(|id| {
            let (vector, metadata, document) =
                (embeddings.next().flatten(), metadatas.next().flatten(), documents.next().flatten());
            if include.vectors && vector.is_none() {
                return Err(Error::new(ErrorKind::Target, "the server gave a record without its vector").with("id", id));
            }
            let payload = if include.payloads { payload::decode(&id, metadata, document)? } else { Map::new() };
            Ok(Point { id: chunk_id(&id)?, vector: vector.unwrap_or_default(), payload })
        })
        .collect()
}

fn chunk_id(text: &str) -> Result<ChunkId> {
    Uuid::parse_str(text).map(ChunkId).map_err(|e| {
        Error::new(ErrorKind::Target, "a record's id is not one of regrow's")
            .with("id", text)
            .guidance("another tool wrote into this collection; remove that record, or restore into a new collection")
            .because(e)
    })
}

/// A collection, with a filter compiled for it.
pub(super) struct Filtered<'a> {
    client: &'a Client,
    remote: &'a Remote,
    checked: &'a [Checked],
    condition: Where,
    /// Some records can be filtered by their payload only.
    rest: bool,
}

impl<'a> Filtered<'a> {
    pub(super) async fn new(client: &'a Client, remote: &'a Remote, checked: &'a [Checked]) -> Result<Self> {
        let condition = filter::compile(checked, |key| remote.floats(key));
        let mut rest = false;
        if !checked.is_empty() && !condition.nothing && !condition.verify {
            let one = client.get(&remote.id, &json!({"where": filter::rest(), "limit": 1, "include": []})).await?;
            rest = !one.ids.is_empty();
        }
        Ok(Self { client, remote, checked, condition, rest })
    }

    /// The passes that together see every record that passes, once: with what condition, and whether the payload has
    /// to be looked at.
    fn passes(&self) -> Vec<(Vec<Value>, bool, bool)> {
        match (self.condition.nothing, self.condition.verify, self.rest) {
            (true, ..) => vec![],
            (_, true, _) => vec![(vec![], true, true)],
            (_, _, false) => vec![(vec![], true, false)],
            (_, _, true) => vec![(vec![filter::not_rest()], true, false), (vec![filter::rest()], false, true)],
        }
    }

    /// Gives every record that passes to `each`, page by page.
    async fn scan(&self, include: Include, mut each: impl FnMut(Point)) -> Result<()> {
        let count = self.client.count(&self.remote.id).await?;
        for (more, with_filter, verify) in self.passes() {
            let condition = |range: Vec<Value>| {
                let all = more.iter().cloned().chain(range);
                if with_filter { self.condition.with(all) } else { filter::every(all.collect()) }
            };
            let include = Include { payloads: include.payloads || verify, ..include };
            let mut buckets =
                Buckets::new(self.client, &self.remote.id, condition, include, (0, include.page(), count));
            while let Some(page) = buckets.next().await? {
                page.into_iter().filter(|p| !verify || passes(self.checked, &p.payload)).for_each(&mut each);
            }
        }
        Ok(())
    }

    pub(super) async fn count(&self) -> Result<u64> {
        if self.checked.is_empty() {
            return self.client.count(&self.remote.id).await;
        }
        let mut count = 0;
        self.scan(Include::IDS, |_| count += 1).await?;
        Ok(count)
    }

    /// Chroma has no exact search: every vector that passes is compared here.
    pub(super) async fn exact(&self, vector: &[f32], limit: usize) -> Result<Vec<ScoredPoint>> {
        let (_, metric) = self.remote.distance()?;
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut best: BTreeSet<Rank> = BTreeSet::new();
        let vectors = Include { vectors: true, payloads: false };
        self.scan(vectors, |point| {
            best.insert(Rank { metric, score: score::score(metric, vector, &point.vector), id: point.id });
            if best.len() > limit {
                best.pop_last();
            }
        })
        .await?;
        let ids: Vec<ChunkId> = best.iter().map(|r| r.id).collect();
        let mut payloads: BTreeMap<ChunkId, Map<String, Value>> = BTreeMap::new();
        let include = Include { vectors: false, payloads: true };
        for point in fetch(self.client, &self.remote.id, &ids, include).await? {
            payloads.insert(point.id, point.payload);
        }
        // What was deleted meanwhile is left out.
        Ok(best
            .into_iter()
            .filter_map(|r| Some(ScoredPoint { id: r.id, score: r.score, payload: payloads.remove(&r.id)? }))
            .collect())
    }

    /// By the index; what it does not find although it is there is found by comparing.
    pub(super) async fn nearest(&self, vector: &[f32], limit: usize) -> Result<Vec<ScoredPoint>> {
        if limit == 0 || self.condition.nothing {
            return Ok(Vec::new());
        }
        if self.condition.verify || self.rest {
            return self.exact(vector, limit).await;
        }
        let mut body = json!({
            "query_embeddings": [vector], "n_results": limit, "include": ["distances", "metadatas", "documents"],
        });
        if let Some(condition) = self.condition.with([]) {
            body["where"] = condition;
        }
        let found = self.client.query(&self.remote.id, &body).await?;
        let ids = found.ids.into_iter().next().unwrap_or_default();
        if ids.len() < limit && (ids.len() as u64) < self.count().await? {
            return self.exact(vector, limit).await;
        }
        let mut distances = found.distances.into_iter().flatten().next().unwrap_or_default().into_iter();
        let mut metadatas = found.metadatas.into_iter().flatten().next().unwrap_or_default().into_iter();
        let mut documents = found.documents.into_iter().flatten().next().unwrap_or_default().into_iter();
        let (space, metric) = self.remote.distance()?;
        let mut hits = ids
            .into_iter()
            .map(|id| {
                let distance = distances.next().flatten().ok_or_else(|| {
                    Error::new(ErrorKind::Target, "the server found a record without a distance").with("id", &id)
                })?;
                let payload = payload::decode(&id, metadatas.next().flatten(), documents.next().flatten())?;
                Ok(ScoredPoint { id: chunk_id(&id)?, score: space.score(distance), payload })
            })
            .collect::<Result<Vec<_>>>()?;
        hits.sort_by(|a, b| score::best_first(metric, a.score, b.score).then(a.id.cmp(&b.id)));
        Ok(hits)
    }
}

/// The points with these ids that exist.
pub(super) async fn fetch(client: &Client, id: &str, ids: &[ChunkId], include: Include) -> Result<Vec<Point>> {
    let mut unique = ids.to_vec();
    unique.sort_unstable();
    unique.dedup();
    let mut found = Vec::with_capacity(unique.len());
    for ids in unique.chunks(IDS) {
        let ids: Vec<String> = ids.iter().map(ChunkId::to_string).collect();
        let records = client.get(id, &json!({"ids": ids, "include": include.names()})).await?;
        found.extend(points(records, include)?);
    }
    Ok(found)
}

/// Best first, then by id.
#[derive(Debug, Clone, Copy)]
struct Rank {
    metric: Metric,
    score: f32,
    id: ChunkId,
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        score::best_first(self.metric, self.score, other.score).then(self.id.cmp(&other.id))
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Rank {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Rank {}
