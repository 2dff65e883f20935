//! The client below `object_store`: time limits, a bound on requests at once, and typed errors out of answers.
//!
//! `object_store` tries a request again by itself; what it sees of a failure decides how. A failure that will not pass
//! is told at once; one that may is given the kind that it retries. Its own limit for a whole request is off, because it
//! would end a large or slowly used answer: here the wait for the answer, and for each next piece of it, is limited.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use http_body::{Body, Frame, SizeHint};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    ReqwestConnector,
};
use tokio::sync::Semaphore;
use tokio::time::Sleep;
use url::Url;

use super::fault::{Answer, Fault, Operation, Reason, element};
use super::options::StoreKind;

/// Connections that may fail before the first answer of a store: a wrong endpoint is told soon, an outage later on is
/// waited out.
const FIRST_TRIES: u32 = 3;
/// Most of an error's body that is read.
const BODY: usize = 64 << 10;
/// Longest wait that a store may ask for before the next try.
const LONGEST_PAUSE: u64 = 30;
/// A request may take this much longer for each 256 KiB that it sends.
const SENT_PER_SECOND: u64 = 256 << 10;

/// By how much the store's clock is ahead of this machine's, as its last answer said.
#[derive(Debug, Clone)]
pub(super) struct Clock(Arc<AtomicI64>);

impl Default for Clock {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(i64::MIN)))
    }
}

impl Clock {
    fn set(&self, seconds: i64) {
        self.0.store(seconds, Ordering::Relaxed);
    }

    /// Seconds; `None` before the first answer with a date.
    pub(super) fn ahead(&self) -> Option<i64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|s| *s != i64::MIN)
    }
}

/// Travels with a request: whether an earlier try of it may have been done by the store although it failed here.
#[derive(Debug, Clone, Default)]
pub(super) struct Doubt(Arc<AtomicBool>);

impl Doubt {
    pub(super) fn there_is(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Makes the clients of one store.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    pub(super) kind: StoreKind,
    pub(super) bucket: Option<String>,
    pub(super) timeout: Duration,
    pub(super) permits: Arc<Semaphore>,
    /// Whether the machine's metadata may be asked in another way when it refuses the first.
    pub(super) second_way: bool,
    pub(super) clock: Clock,
    pub(super) state: Arc<State>,
}

/// What the clients of a store know together.
#[derive(Debug, Default)]
pub(super) struct State {
    answered: AtomicBool,
    failed_first: AtomicU32,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Service { inner, shared: self.clone() }))
    }
}

#[derive(Debug)]
struct Service {
    inner: HttpClient,
    shared: Connector,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let target = Target::of(&request);
        if target.completes_upload && self.shared.kind == StoreKind::S3 {
            // Uploads in parts create objects and never replace one. The header need not be signed.
            request.headers_mut().insert("if-none-match", object_store::HeaderValue::from_static("*"));
        }
        let doubt = request.extensions().get::<Doubt>().cloned();
        let limit = self.shared.timeout + Duration::from_secs(request.body().content_length() as u64 / SENT_PER_SECOND);
        // Held until the answer begins, not while it is read: nobody who reads slowly keeps others from asking.
        let permit = self.shared.permits.acquire().await;
        let called = tokio::time::timeout(limit, self.inner.execute(request)).await;
        let outcome = match called {
            Ok(Ok(response)) => {
                self.shared.state.answered.store(true, Ordering::Relaxed);
                self.answered(&target, response).await
            }
            Ok(Err(e)) => Err(self.unanswered(&target, e).await),
            Err(_) => Err((HttpErrorKind::Timeout, target.fault(Reason::Timeout, format!("no answer in {limit:?}")))),
        };
        drop(permit);
        outcome.map_err(|(kind, fault)| {
            if let Some(doubt) = doubt
                && fault.in_doubt()
            {
                doubt.0.store(true, Ordering::Relaxed);
            }
            HttpError::new(kind, fault)
        })
    }
}

impl Service {
    async fn answered(&self, target: &Target, response: HttpResponse) -> Result<HttpResponse, (HttpErrorKind, Fault)> {
        let ahead = date(&response);
        if let Some(ahead) = ahead
            && target.operation != Operation::Credentials
        {
            self.shared.clock.set(ahead);
        }
        let status = response.status().as_u16();
        let limit = self.shared.timeout;
        if (200..300).contains(&status) && !target.deletes_many {
            let (parts, body) = response.into_parts();
            let body = Patient { inner: body, limit, wait: None, target: target.clone() };
            return Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)));
        }
        if target.operation == Operation::Credentials && status == 403 && self.shared.second_way {
            // The machine's metadata may refuse one way of asking; object_store then tries the other.
            return Ok(response);
        }
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let code = ["x-ms-error-code", "x-minio-error-code", "x-amz-error-code"].iter().find_map(|name| header(name));
        let region = header("x-amz-bucket-region");
        let pause = header("retry-after").and_then(|v| v.trim().parse::<u64>().ok());
        let (mut parts, body) = response.into_parts();
        let bytes = tokio::time::timeout(limit, beginning(body)).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        if (200..300).contains(&status) && element(&text, "Error").is_none() {
            return Ok(HttpResponse::from_parts(parts, bytes.into()));
        }
        let answer = Answer {
            operation: target.operation,
            // What a store says about one of several objects is an error in an answer that is none.
            status: if (200..300).contains(&status) { 403 } else { status },
            code,
            region,
            ahead,
            request: target.request.clone(),
            body: &text,
            bucket: self.shared.bucket.as_deref(),
        };
        match answer.fault() {
            Some(fault) if fault.transient() => {
                if let Some(pause) = pause {
                    tokio::time::sleep(Duration::from_secs(pause.min(LONGEST_PAUSE))).await;
                }
                // The kind that is tried again whatever the request was: create decides by `Doubt`.
                Err((HttpErrorKind::Request, fault))
            }
            Some(fault) => Err((HttpErrorKind::Unknown, fault)),
            None => {
                // Without the body: stores repeat in it what they were sent.
                parts.headers.remove("content-length");
                let said = element(&text, "Code").unwrap_or_default();
                Ok(HttpResponse::from_parts(parts, said.into()))
            }
        }
    }

    /// Why there was no answer.
    async fn unanswered(&self, target: &Target, error: HttpError) -> (HttpErrorKind, Fault) {
        let words = innermost(&error);
        match error.kind() {
            HttpErrorKind::Connect => {}
            HttpErrorKind::Timeout => return (HttpErrorKind::Timeout, target.fault(Reason::Timeout, words)),
            kind => {
                let kind = if self.tried_enough() { HttpErrorKind::Unknown } else { kind };
                return (kind, target.fault(Reason::Interrupted, words));
            }
        }
        if target.operation == Operation::Credentials {
            return (HttpErrorKind::Unknown, target.fault(Reason::NoCredentials, words));
        }
        if io_kind(&error) == Some(std::io::ErrorKind::InvalidData) {
            return (HttpErrorKind::Unknown, target.fault(Reason::Tls, words));
        }
        let known = match &target.host {
            Some((host, port)) => tokio::net::lookup_host((host.as_str(), *port)).await.is_ok(),
            None => true,
        };
        let reason = if known { Reason::Refused } else { Reason::Name };
        let kind = if self.tried_enough() { HttpErrorKind::Unknown } else { HttpErrorKind::Connect };
        (kind, target.fault(reason, words))
    }

    /// Whether the store never answered, and was asked as often as makes sense then.
    fn tried_enough(&self) -> bool {
        let state = &self.shared.state;
        !state.answered.load(Ordering::Relaxed) && state.failed_first.fetch_add(1, Ordering::Relaxed) + 1 >= FIRST_TRIES
    }
}

/// What a request is for.
#[derive(Debug, Clone)]
struct Target {
    operation: Operation,
    /// Method and URL without its query.
    request: String,
    host: Option<(String, u16)>,
    completes_upload: bool,
    deletes_many: bool,
}

impl Target {
    fn of(request: &HttpRequest) -> Self {
        let (method, url) = (request.method().as_str(), Url::parse(&request.uri().to_string()).ok());
        let query: Vec<(String, String)> = url.iter().flat_map(|u| u.query_pairs().into_owned()).collect();
        let has = |key: &str| query.iter().any(|(k, _)| k == key);
        let host = url.as_ref().and_then(|u| Some((u.host_str()?.to_owned(), u.port_or_known_default()?)));
        let deletes_many = method == "POST" && has("delete");
        let lists = has("list-type") || query.iter().any(|(k, v)| k == "comp" && v == "list") || method == "PROPFIND";
        let operation = match method {
            _ if host.as_ref().is_some_and(|(host, _)| gives_credentials(host)) => Operation::Credentials,
            "DELETE" => Operation::Delete,
            "POST" if deletes_many => Operation::Delete,
            _ if lists => Operation::List,
            "GET" | "HEAD" => Operation::Read,
            _ => Operation::Write,
        };
        let plain = url.map(|mut u| {
            u.set_query(None);
            u.to_string()
        });
        Self {
            operation,
            request: format!("{method} {}", plain.unwrap_or_default()),
            host,
            completes_upload: method == "POST" && has("uploadId"),
            deletes_many,
        }
    }

    fn fault(&self, reason: Reason, message: String) -> Fault {
        Fault {
            reason,
            operation: self.operation,
            status: 0,
            code: String::new(),
            message,
            request: self.request.clone(),
            region: None,
            ahead: None,
        }
    }
}

/// Hosts that are asked for credentials: metadata of the machine, token services.
fn gives_credentials(host: &str) -> bool {
    host.starts_with("169.254.")
        || host.starts_with("sts.")
        || [
            "metadata",
            "metadata.google.internal",
            "oauth2.googleapis.com",
            "accounts.google.com",
            "iamcredentials.googleapis.com",
        ]
        .contains(&host)
        || host.ends_with(".microsoftonline.com")
}

/// Seconds that the answer's date is ahead of this machine's clock.
fn date(response: &HttpResponse) -> Option<i64> {
    let text = response.headers().get("date")?.to_str().ok()?;
    let then = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(then.as_second() - jiff::Timestamp::now().as_second())
}

async fn beginning(body: HttpResponseBody) -> Bytes {
    let mut stream = body.bytes_stream();
    let mut bytes = Vec::new();
    while let Some(Ok(piece)) = stream.next().await {
        bytes.extend_from_slice(&piece);
        if bytes.len() >= BODY {
            bytes.truncate(BODY);
            break;
        }
    }
    bytes.into()
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<std::io::ErrorKind> {
    let mut next = Some(error);
    let mut found = None;
    while let Some(e) = next {
        next = match e.downcast_ref::<std::io::Error>() {
            Some(io) if io.kind() == std::io::ErrorKind::InvalidData => return Some(io.kind()),
            Some(io) => {
                found = Some(io.kind());
                // An I/O error in an I/O error is not its source.
                io.get_ref().map(|inner| inner as _)
            }
            None => e.source(),
        };
    }
    found
}

/// A body that fails when its next piece does not come in time; time in which nobody asks for it does not count.
struct Patient {
    inner: HttpResponseBody,
    limit: Duration,
    wait: Option<Pin<Box<Sleep>>>,
    target: Target,
}

impl Body for Patient {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            this.wait = None;
            return Poll::Ready(frame.map(|frame| {
                frame.map_err(|e| {
                    let reason = if e.kind() == HttpErrorKind::Timeout { Reason::Timeout } else { Reason::Interrupted };
                    HttpError::new(e.kind(), this.target.fault(reason, innermost(&e)))
                })
            }));
        }
        let limit = this.limit;
        let wait = this.wait.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if wait.as_mut().poll(cx).is_ready() {
            this.wait = None;
            let fault = this.target.fault(Reason::Timeout, format!("nothing more in {limit:?}"));
            return Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Timeout, fault))));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
