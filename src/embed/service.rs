//! Models behind the `/v1/embeddings` interface of OpenAI, which text-embeddings-inference, vLLM,
//! Ollama and others speak too.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use futures::StreamExt;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::json;

use crate::error::{Error, ErrorKind, Result};
use crate::model::{ModelCard, Service};

/// How often a waiting call looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(50);
/// Longest wait that a service may ask for; what asks for more is not worth waiting for.
const PATIENCE: Duration = Duration::from_secs(120);
/// Most of a service's own words that an error repeats.
const WORDS: usize = 500;

/// A client of one model at one service.
pub(super) struct Client {
    service: Service,
    dimension: usize,
    key: Option<String>,
    http: reqwest::Client,
    /// Requests and tokens of the last minute.
    sent: Mutex<VecDeque<(Instant, u64)>>,
    /// Calls come from threads of every kind; the connection pool lives here.
    runtime: Option<tokio::runtime::Runtime>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("url", &self.service.url)
            .field("model", &self.service.model)
            .finish_non_exhaustive()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// An answer, as far as it matters.
#[derive(Deserialize)]
struct Answer {
    data: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    index: usize,
    embedding: Vector,
}

/// Services send one or the other, whichever was asked for.
#[derive(Deserialize)]
#[serde(untagged)]
enum Vector {
    Numbers(Vec<f32>),
    Base64(String),
}

impl Client {
    /// # Errors
    /// `Configuration` for a card without a service, or with one that needs a key when none is given.
    pub(super) fn open(card: &ModelCard, dimension: u32, key: Option<String>) -> Result<Self> {
        let mut service = card.service.clone().ok_or_else(|| {
            Error::new(ErrorKind::Configuration, "the model card names no service").with("model", &card.name)
        })?;
        // Shorter vectors come from the service, not from cutting here.
        service.sends_dimension |= dimension != card.dimension;
        let key = key.filter(|k| !k.trim().is_empty() && service.key_variable.is_some());
        if let (Some(name), None) = (&service.key_variable, &key) {
            return Err(Error::new(ErrorKind::Configuration, "the service needs a key, and there is none")
                .with("variable", name)
                .with("service", &service.url)
                .guidance(format!("set {name} in the environment; it is sent to the service and nowhere else")));
        }
        let setup = |e: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(ErrorKind::Unexpected, "cannot set up an HTTP client").because(e)
        };
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .timeout(Duration::from_secs(service.timeout_seconds.max(1)))
            .user_agent(concat!("regrow/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| setup(e.into()))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("regrow-service")
            .enable_all()
            .build()
            .map_err(|e| setup(e.into()))?;
        Ok(Self { dimension: dimension as usize, service, key, http, sent: Mutex::default(), runtime: Some(runtime) })
    }

    /// What so many tokens cost, in US dollars, where the card knows.
    pub(super) fn price(&self, tokens: u64) -> Option<f64> {
        self.service.usd_per_million_tokens.map(|p| p * tokens as f64 / 1e6)
    }

    /// One vector per text in their order, row-major. `tokens` are those of each text. Blocks.
    pub(super) fn embed(&self, texts: &[String], tokens: &[usize], cancelled: &dyn Fn() -> bool) -> Result<Vec<f32>> {
        let Some(runtime) = &self.runtime else { return Ok(Vec::new()) };
        runtime.block_on(async {
            let mut data = vec![0.0; texts.len() * self.dimension];
            let requests = self.requests(tokens);
            let work = futures::stream::iter(requests.into_iter().map(|range| async move {
                let tokens = tokens[range.clone()].iter().sum::<usize>() as u64;
                let vectors = self
                    .request(&texts[range.clone()], tokens)
                    .await
                    .map_err(|e| e.with("texts", format!("{} to {}", range.start, range.end - 1)))?;
                Ok::<_, Error>((range, vectors))
            }))
            .buffer_unordered(self.service.concurrency.max(1));
            tokio::pin!(work);
            loop {
                tokio::select! {
                    done = work.next() => match done {
                        Some(done) => {
                            let (range, vectors) = done?;
                            data[range.start * self.dimension..range.end * self.dimension].copy_from_slice(&vectors);
                        }
                        None => return Ok(data),
                    },
                    () = tokio::time::sleep(LOOK) => if cancelled() {
                        return Err(Error::new(ErrorKind::Cancelled, "stopped while embedding")
                            .guidance("run the same command again: it continues where it stopped"));
                    },
                }
            }
        })
    }

    /// Texts cut into requests within the service's limits.
    fn requests(&self, tokens: &[usize]) -> Vec<std::ops::Range<usize>> {
        let mut out = Vec::new();
        let (mut start, mut used) = (0, 0);
        for (i, count) in tokens.iter().enumerate() {
            let full = i - start >= self.service.max_texts.max(1) || used + count > self.service.max_tokens.max(1);
            if i > start && full {
                out.push(start..i);
                (start, used) = (i, 0);
            }
            used += count;
        }
        if start < tokens.len() {
            out.push(start..tokens.len());
        }
        out
    }

    /// One request, tried again as often and as late as the service asks.
    async fn request(&self, texts: &[String], tokens: u64) -> Result<Vec<f32>> {
        let attempts = self.service.attempts.max(1);
        let mut attempt = 1;
        loop {
            self.pace(tokens).await;
            match self.once(texts).await {
                Ok(vectors) => return Ok(vectors),
                Err((e, wait)) if e.retryable() && attempt < attempts => {
                    // Without a word from the service the wait doubles, and is never the same twice.
                    let jitter = f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
                    let own = Duration::from_millis(500 << attempt.min(6)).mul_f64(0.5 + 0.5 * jitter);
                    tokio::time::sleep(wait.unwrap_or(own)).await;
                    attempt += 1;
                }
                Err((e, _)) => return Err(e.with("attempts", attempt)),
            }
        }
    }

    /// Waits until a request of so many tokens is within the minute's limits.
    async fn pace(&self, tokens: u64) {
        const MINUTE: Duration = Duration::from_secs(60);
        let limit = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        let (requests, most) = (limit(self.service.requests_per_minute), limit(self.service.tokens_per_minute));
        if requests == u64::MAX && most == u64::MAX {
            return;
        }
        loop {
            let wait = {
                let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Instant::now();
                while sent.front().is_some_and(|(at, _)| now.duration_since(*at) >= MINUTE) {
                    sent.pop_front();
                }
                let used: u64 = sent.iter().map(|(_, tokens)| tokens).sum();
                // A request that is over the limit alone must go some time: then alone.
                if sent.is_empty() || ((sent.len() as u64) < requests && used + tokens <= most) {
                    sent.push_back((now, tokens));
                    return;
                }
                sent.front().map_or(LOOK, |(at, _)| MINUTE.saturating_sub(now.duration_since(*at)))
            };
            tokio::time::sleep(wait.max(Duration::from_millis(10))).await;
        }
    }

    async fn once(&self, texts: &[String]) -> std::result::Result<Vec<f32>, (Error, Option<Duration>)> {
        let url = format!("{}/embeddings", self.service.url.trim_end_matches('/'));
        let mut body = json!({ "model": self.service.model, "input": texts });
        if self.service.base64 {
            body["encoding_format"] = json!("base64");
        }
        if self.service.sends_dimension {
            body["dimensions"] = json!(self.dimension);
        }
        let at = |e: Error| e.with("service", &url).with("model", &self.service.model);
        let failed = |what: &str, e: reqwest::Error| {
            let slow = e.is_timeout();
            let e = Error::new(ErrorKind::ModelUnavailable, what).because(e.without_url());
            let e = match slow {
                true => e.guidance("raise the card's `timeout_seconds`, or lower `max_tokens` of a request"),
                false => e.guidance("check the card's `url`, the network, and whether the service runs"),
            };
            (at(e.transient()), None)
        };
        let mut request = self.http.post(&url).header("content-type", "application/json").body(body.to_string());
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let response = request.send().await.map_err(|e| failed("the embedding service could not be reached", e))?;
        let status = response.status();
        let wait = response.headers().get("retry-after").and_then(|v| v.to_str().ok()).and_then(retry_after);
        let bytes = response.bytes().await.map_err(|e| failed("the embedding service's answer broke off", e))?;
        if !status.is_success() {
            return Err((at(self.refused(status, &bytes, wait)), wait));
        }
        self.vectors(&bytes, texts.len()).map_err(|e| (at(e), None))
    }

    fn refused(&self, status: StatusCode, body: &[u8], wait: Option<Duration>) -> Error {
        let mut words: String = String::from_utf8_lossy(body).chars().take(WORDS).collect();
        if let Some(key) = &self.key {
            words = words.replace(key.as_str(), "***");
        }
        let e =
            |kind| Error::new(kind, format!("the embedding service answered {status}")).with("answer", words.trim());
        match status.as_u16() {
            401 | 403 => e(ErrorKind::Configuration).guidance(match &self.service.key_variable {
                Some(name) => format!("check the key in {name}, and that it may use this model"),
                None => "the service wants a key: name its variable as `key_variable` in the card".to_owned(),
            }),
            404 => e(ErrorKind::Configuration).guidance("check the card's `url` (it ends before /embeddings) and `service.model`"),
            429 if wait.is_some_and(|w| w > PATIENCE) => e(ErrorKind::ModelUnavailable)
                .with("retry after", format!("{} s", wait.unwrap_or_default().as_secs()))
                .guidance("the quota is used up: run the same command again later, it continues where it stopped"),
            408 | 409 | 425 | 429 | 500.. => e(ErrorKind::ModelUnavailable)
                .guidance("run the same command again: it continues where it stopped; lower `concurrency` if this comes often")
                .transient(),
            _ => e(ErrorKind::Configuration)
                .guidance("check the card's `max_tokens`, `max_texts`, `sends_dimension` and `base64` against the service's documentation"),
        }
    }

    /// The vectors in the order of the texts, each there once, complete and finite.
    fn vectors(&self, bytes: &[u8], texts: usize) -> Result<Vec<f32>> {
        let wrong = |what: String| {
            Error::new(ErrorKind::ModelMismatch, what)
                .guidance("nothing of this answer is used; is this the service and the model that the card describes?")
        };
        let answer: Answer = serde_json::from_slice(bytes).map_err(|e| {
            wrong("the embedding service's answer is not what /v1/embeddings returns".to_owned()).because(e)
        })?;
        let mut out = vec![0.0; texts * self.dimension];
        let mut there = vec![false; texts];
        for Item { index, embedding } in answer.data {
            let numbers = match embedding {
                Vector::Numbers(numbers) => numbers,
                Vector::Base64(text) => {
                    let bytes = base64::engine::general_purpose::STANDARD
                        .decode(&text)
                        .map_err(|e| wrong(format!("vector {index} is not base64")).because(e))?;
                    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
                }
            };
            if there.get(index) != Some(&false) {
                return Err(wrong(format!("the service returned vector {index} twice, or for no text")));
            }
            if numbers.len() != self.dimension {
                return Err(wrong("the service returned a vector of another dimension".to_owned())
                    .with("expected", self.dimension)
                    .with("found", numbers.len()));
            }
            if numbers.iter().any(|x| !x.is_finite()) {
                return Err(wrong(format!("vector {index} has a number that is not finite")));
            }
            there[index] = true;
            out[index * self.dimension..(index + 1) * self.dimension].copy_from_slice(&numbers);
        }
        match there.iter().position(|t| !t) {
            Some(missing) => Err(wrong(format!("the service returned no vector for text {missing}"))),
            None => Ok(out),
        }
    }
}

/// A wait in seconds. Dates are rare here, and then the own schedule serves.
pub(crate) fn retry_after(text: &str) -> Option<Duration> {
    text.trim().parse::<f64>().ok().filter(|s| (0.0..1e6).contains(s)).map(Duration::from_secs_f64)
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
