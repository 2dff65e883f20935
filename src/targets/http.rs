//! JSON over HTTP: the client that every target with an HTTP interface has, and what its statuses mean.

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use crate::error::{Error, ErrorKind, Result};

/// Most of the server's own words that an error repeats, in characters.
pub(super) const WORDS: usize = 500;
/// Longest wait that a server may ask for before the next try.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How a server is reached.
pub(super) struct Access<'a> {
    /// What it is, such as `Chroma`.
    pub(super) server: &'static str,
    /// Address, with the path that all requests begin with.
    pub(super) url: &'a Url,
    /// Headers of every request, such as the one with the token; none is shown.
    pub(super) headers: Vec<(&'static str, String)>,
    /// Certificates to trust beside the machine's, in PEM.
    pub(super) ca: Option<&'a [u8]>,
    /// For a request and its answer.
    pub(super) timeout: Duration,
    /// What errors say about the place, such as `("database", …)`.
    pub(super) context: Vec<(&'static str, String)>,
}

/// A client of one server.
pub(super) struct Http {
    http: reqwest::Client,
    server: &'static str,
    /// Without the slash at its end.
    url: String,
    timeout: Duration,
    context: Vec<(&'static str, String)>,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http").field("url", &self.url).field("context", &self.context).finish_non_exhaustive()
    }
}

impl Http {
    /// Connects to nothing yet.
    ///
    /// [`ErrorKind::Configuration`] for a URL, certificate or token that cannot be used.
    pub(super) fn open(access: Access<'_>) -> Result<Self> {
        let wrong = |message: &str| {
            Error::new(ErrorKind::Configuration, message)
                .with("server", access.server)
                .guidance("write the server's address as `url = \"http://HOST:PORT\"`; the token goes to `api_key`")
        };
        let url = access.url;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(wrong("the server's URL is not one of HTTP").with("scheme", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return Err(wrong("the server's URL holds more than an address"));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &access.headers {
            let mut value = HeaderValue::from_str(value).map_err(|_| {
                Error::new(ErrorKind::Configuration, "the server's token holds characters that no header can carry")
                    .with("header", name)
                    .guidance("check what `target.api_key` or `target.password` refers to")
            })?;
            value.set_sensitive(true);
            headers.insert(HeaderName::from_static(name), value);
        }
        let setup = |e: reqwest::Error| wrong("the client of the server cannot be set up").because(e);
        let mut builder = reqwest::Client::builder()
            .connect_timeout(access.timeout.min(Duration::from_secs(10)))
            // A token in a header of its own would go wherever a redirection leads.
            .redirect(reqwest::redirect::Policy::none())
            .default_headers(headers)
            .user_agent(concat!("regrow/", env!("CARGO_PKG_VERSION")));
        if let Some(pem) = access.ca {
            for certificate in reqwest::Certificate::from_pem_bundle(pem).map_err(setup)? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        Ok(Self {
            http: builder.build().map_err(setup)?,
            server: access.server,
            url: url.as_str().trim_end_matches('/').to_owned(),
            timeout: access.timeout,
            context: access.context,
        })
    }

    /// The server's address.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The URL of a path; every segment is escaped.
    pub(super) fn at(&self, path: &[&str]) -> Result<Url> {
        let wrong = || Error::new(ErrorKind::Unexpected, "a path of the server's interface cannot be built");
        let mut url = Url::parse(&self.url).map_err(|e| wrong().because(e))?;
        url.path_segments_mut().map_err(|()| wrong())?.pop_if_empty().extend(path);
        Ok(url)
    }

    /// Sends a request and reads its answer; an empty one is `null`.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        url: &Url,
        body: Option<&Value>,
        doing: &'static str,
    ) -> Result<T> {
        self.call_slowly(method, url, body, doing, 1).await
    }

    /// As [`Http::call`], for what takes the server longer: it has `times` the timeout.
    pub(super) async fn call_slowly<T: DeserializeOwned>(
        &self,
        method: Method,
        url: &Url,
        body: Option<&Value>,
        doing: &'static str,
        times: u32,
    ) -> Result<T> {
        let (status, bytes) = self.send(method, url, body, doing, times).await?;
        if status.is_success() { self.read(&bytes, doing) } else { Err(self.refused(status, &bytes, doing)) }
    }

    /// Sends a request; a status of any kind is an answer. A server that asks to wait is waited for, and its answer returned.
    pub(super) async fn send(
        &self,
        method: Method,
        url: &Url,
        body: Option<&Value>,
        doing: &'static str,
        times: u32,
    ) -> Result<(StatusCode, bytes::Bytes)> {
        let mut request = self.http.request(method, url.clone()).timeout(self.timeout.saturating_mul(times));
        if let Some(body) = body {
            let body = serde_json::to_vec(body)
                .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot write a request").because(e))?;
            request = request.header("content-type", "application/json").body(body);
        }
        let response = request.send().await.map_err(|e| self.unanswered(e, doing))?;
        let status = response.status();
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            // The server's own pace; how often is for the caller.
            let asked = response.headers().get("retry-after").and_then(|v| crate::embed::retry_after(v.to_str().ok()?));
            tokio::time::sleep(asked.unwrap_or_default().min(LONGEST_PAUSE)).await;
        }
        let bytes = response.bytes().await.map_err(|e| self.unanswered(e, doing))?;
        Ok((status, bytes))
    }

    /// Reads an answer.
    pub(super) fn read<T: DeserializeOwned>(&self, bytes: &[u8], doing: &'static str) -> Result<T> {
        // Some calls are answered by nothing at all.
        let bytes = if bytes.is_empty() { b"null" } else { bytes };
        serde_json::from_slice(bytes).map_err(|e| {
            self.error(ErrorKind::Target, "the server's answer is not one of the interface that is known", doing)
                .guidance(format!("check that `target.url` is the address of a {} server", self.server))
                .because(e)
        })
    }

    /// An error that says where.
    pub(super) fn error(&self, kind: ErrorKind, message: &str, doing: &'static str) -> Error {
        let error = Error::new(kind, message).with("doing", doing).with("url", &self.url);
        self.context.iter().fold(error, |error, (key, value)| error.with(key, value))
    }

    fn unanswered(&self, e: reqwest::Error, doing: &'static str) -> Error {
        let message = if e.is_timeout() {
            "the server did not answer in time"
        } else if e.is_connect() {
            "the server cannot be reached"
        } else {
            "the connection to the server broke"
        };
        self.error(ErrorKind::Target, message, doing)
            .guidance(
                "check `target.url`, that the server runs, and `target.ca_file` where its certificate is your own",
            )
            .because(e.without_url())
            .transient()
    }

    /// What a status that is no success means. The context `status` is its number, `said` the server's words.
    pub(super) fn refused(&self, status: StatusCode, body: &[u8], doing: &'static str) -> Error {
        let said = words(body);
        let error =
            |kind, message: &str| self.error(kind, message, doing).with("status", status.as_u16()).with("said", &said);
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                error(ErrorKind::Denied, "the server refused the credentials, or they may not do this")
                    .guidance("check what `target.api_key` refers to, and what it may do")
            }
            StatusCode::NOT_FOUND => error(ErrorKind::NotFound, "the server does not know what was asked for")
                .guidance("check `target.url` and the names in `[target]`"),
            StatusCode::CONFLICT => error(ErrorKind::AlreadyExists, "the name is taken"),
            StatusCode::INSUFFICIENT_STORAGE => error(ErrorKind::StorageFull, "the server has no room left"),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                error(ErrorKind::Target, "the server asks to wait")
                    .guidance("lower `target.writers`, or raise the server's quota")
                    .transient()
            }
            _ if status.is_redirection() => error(ErrorKind::Configuration, "the server is at another address")
                .guidance(
                    "set `target.url` to where it redirects: nothing is sent there by itself, because of the token",
                ),
            _ if status.is_server_error() => {
                error(ErrorKind::Target, "the server failed").guidance("look into the server's log").transient()
            }
            _ => error(ErrorKind::Target, "the server refused the request"),
        }
    }
}

/// The server's own words, as far as an error repeats them.
fn words(body: &[u8]) -> String {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    let known = [&said["message"], &said["error"]["message"], &said["error"][0]["message"], &said["error"]];
    let said = known.iter().find_map(|v| v.as_str());
    let said = said.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned);
    said.chars().filter(|c| !c.is_control()).take(WORDS).collect()
}
