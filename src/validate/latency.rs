//! Searches, one after the other, with their times.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::metrics::percentile;
use crate::error::Result;
use crate::targets::{Filter, ScoredPoint, SearchRequest, Target};

/// Search latency as seen from here, one search at a time; information without a threshold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// Searches that were timed.
    pub searches: u64,
    /// Median, in milliseconds.
    pub p50_ms: f64,
    /// 95th percentile, in milliseconds.
    pub p95_ms: f64,
    /// 99th percentile, in milliseconds.
    pub p99_ms: f64,
}

/// Searches one collection. The first search of a run is not timed: it pays for opening files.
pub(super) struct Searcher<'a> {
    target: &'a dyn Target,
    collection: &'a str,
    times: Mutex<Vec<f64>>,
}

impl<'a> Searcher<'a> {
    pub(super) fn new(target: &'a dyn Target, collection: &'a str) -> Self {
        Self { target, collection, times: Mutex::new(Vec::new()) }
    }

    /// Searches with the index, and keeps the time.
    pub(super) async fn search(&self, vector: &[f32], limit: usize, filter: &Filter) -> Result<Vec<ScoredPoint>> {
        let request = SearchRequest { vector: vector.to_vec(), limit, filter: filter.clone(), exact: false };
        let start = Instant::now();
        let found = self.target.search(self.collection, &request).await?;
        let elapsed = start.elapsed().as_secs_f64() * 1e3;
        self.times.lock().await.push(elapsed);
        Ok(found)
    }

    /// Searches without the index; not timed.
    pub(super) async fn exact(&self, vector: &[f32], limit: usize, filter: &Filter) -> Result<Vec<ScoredPoint>> {
        let request = SearchRequest { vector: vector.to_vec(), limit, filter: filter.clone(), exact: true };
        self.target.search(self.collection, &request).await
    }

    pub(super) async fn latency(&self) -> Option<Latency> {
        let times = self.times.lock().await;
        let timed = if times.len() > 1 { &times[1..] } else { &times[..] };
        if timed.is_empty() {
            return None;
        }
        Some(Latency {
            searches: timed.len() as u64,
            p50_ms: percentile(timed, 50.0),
            p95_ms: percentile(timed, 95.0),
            p99_ms: percentile(timed, 99.0),
        })
    }
}
