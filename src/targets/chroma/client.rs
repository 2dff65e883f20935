//! The server's HTTP interface, version 2.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use url::Url;

use super::ChromaOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::Secret;

/// Most of the server's own words that an error repeats, in characters.
const WORDS: usize = 500;
/// Longest wait that a server may ask for before the next try.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Collections in one page of a list.
const LISTED: usize = 100;

/// A client of one database.
pub(super) struct Client {
    http: reqwest::Client,
    /// Without the slash at its end.
    url: String,
    tenant: String,
    database: String,
    token: Option<Secret>,
    timeout: Duration,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("url", &self.url)
            .field("tenant", &self.tenant)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

/// A collection, as the server tells it.
#[derive(Debug, Clone, serde::Deserialize)]
pub(super) struct Remote {
    pub(super) id: String,
    pub(super) name: String,
    #[serde(default)]
    pub(super) metadata: Option<Map<String, Value>>,
    #[serde(default)]
    pub(super) configuration_json: Value,
    #[serde(default)]
    pub(super) dimension: Option<usize>,
    #[serde(default)]
    pub(super) schema: Option<Value>,
}

/// A record's metadata; none where it has no fields.
pub(super) type Metadata = Option<Map<String, Value>>;

/// Records in columns.
#[derive(Debug, Default, serde::Deserialize)]
pub(super) struct Records {
    pub(super) ids: Vec<String>,
    #[serde(default)]
    pub(super) embeddings: Option<Vec<Option<Vec<f32>>>>,
    #[serde(default)]
    pub(super) metadatas: Option<Vec<Metadata>>,
    #[serde(default)]
    pub(super) documents: Option<Vec<Option<String>>>,
}

/// What a query found, one list per query vector.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Found {
    pub(super) ids: Vec<Vec<String>>,
    #[serde(default)]
    pub(super) distances: Option<Vec<Vec<Option<f32>>>>,
    #[serde(default)]
    pub(super) metadatas: Option<Vec<Vec<Metadata>>>,
    #[serde(default)]
    pub(super) documents: Option<Vec<Vec<Option<String>>>>,
}

/// What the server says about its limits.
#[derive(Debug, Clone, Copy, serde::Deserialize)]
pub(super) struct Limits {
    pub(super) max_batch_size: usize,
    /// Absent in servers from before they could.
    #[serde(default)]
    pub(super) supports_base64_encoding: bool,
}

/// How far a collection's index is; only servers with a log of their own know.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Indexing {
    pub(super) num_unindexed_ops: u64,
}

impl Client {
    /// [`ErrorKind::Configuration`] for a URL or certificate that cannot be used.
    pub(super) fn open(options: &ChromaOptions) -> Result<Self> {
        let wrong = |message: &str| {
            Error::new(ErrorKind::Configuration, message)
                .guidance("write the server's address as `url = \"http://HOST:8000\"`; the token goes to `api_key`")
        };
        let url = &options.url;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(wrong("the server's URL is not one of HTTP").with("scheme", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return Err(wrong("the server's URL holds more than an address"));
        }
        let setup = |e: reqwest::Error| wrong("the client of the server cannot be set up").because(e);
        let mut builder = reqwest::Client::builder()
            .connect_timeout(options.timeout.min(Duration::from_secs(10)))
            // A token in a header of its own would go wherever a redirection leads.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("regrow/", env!("CARGO_PKG_VERSION")));
        if let Some(pem) = &options.ca {
            for certificate in reqwest::Certificate::from_pem_bundle(pem).map_err(setup)? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        Ok(Self {
            http: builder.build().map_err(setup)?,
            url: url.as_str().trim_end_matches('/').to_owned(),
            tenant: options.tenant.clone(),
            database: options.database.clone(),
            token: options.token.clone(),
            timeout: options.timeout,
        })
    }

    pub(super) async fn limits(&self) -> Result<Limits> {
        self.call(Method::GET, &self.at(&["pre-flight-checks"])?, None, "asking for the server's limits").await
    }

    pub(super) async fn version(&self) -> Result<String> {
        self.call(Method::GET, &self.at(&["version"])?, None, "asking for the server's version").await
    }

    /// All collections of the database; none when there is no such database.
    pub(super) async fn list(&self) -> Result<Vec<Remote>> {
        let mut all = Vec::new();
        loop {
            let mut url = self.collections(&[])?;
            url.query_pairs_mut()
                .append_pair("limit", &LISTED.to_string())
                .append_pair("offset", &all.len().to_string());
            let page: Result<Vec<Remote>> = self.call(Method::GET, &url, None, "listing collections").await;
            let page = match page {
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(all),
                other => other?,
            };
            let last = page.len() < LISTED;
            all.extend(page);
            if last {
                return Ok(all);
            }
        }
    }

    /// The collection that has this name at the server.
    pub(super) async fn named(&self, name: &str) -> Result<Option<Remote>> {
        absent(self.call(Method::GET, &self.collections(&[name])?, None, "looking for a collection").await)
    }

    /// Creates a collection, and the database and tenant first where they are missing.
    pub(super) async fn create(&self, body: &Value) -> Result<Remote> {
        let (url, doing) = (self.collections(&[])?, "creating a collection");
        match self.call(Method::POST, &url, Some(body), doing).await {
            // Servers differ in how they say that there is no such database.
            Err(e) if e.kind() == ErrorKind::NotFound || e.context_value("status") == Some("400") => {
                if self.database_is_there().await? {
                    return Err(e);
                }
                self.make(&["tenants"], &self.tenant, "creating a tenant").await?;
                self.make(&["tenants", &self.tenant, "databases"], &self.database, "creating a database").await?;
                self.call(Method::POST, &url, Some(body), doing).await
            }
            other => other,
        }
    }

    async fn database_is_there(&self) -> Result<bool> {
        let url = self.at(&["tenants", &self.tenant, "databases", &self.database])?;
        Ok(absent(self.call::<Value>(Method::GET, &url, None, "looking for the database").await)?.is_some())
    }

    async fn make(&self, path: &[&str], name: &str, doing: &'static str) -> Result<()> {
        match self.call::<Value>(Method::POST, &self.at(path)?, Some(&json!({"name": name})), doing).await {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Replaces metadata and name of the collection with this id.
    pub(super) async fn update(&self, id: &str, metadata: &Map<String, Value>, name: Option<&str>) -> Result<()> {
        let mut body = json!({"new_metadata": metadata});
        if let Some(name) = name {
            body["new_name"] = name.into();
        }
        self.call::<Value>(Method::PUT, &self.collections(&[id])?, Some(&body), "changing a collection").await.map(drop)
    }

    /// Deletes the collection that has this name at the server.
    pub(super) async fn delete(&self, name: &str) -> Result<()> {
        self.call::<Value>(Method::DELETE, &self.collections(&[name])?, None, "deleting a collection").await.map(drop)
    }

    pub(super) async fn upsert(&self, id: &str, body: &Value) -> Result<()> {
        self.call::<Value>(Method::POST, &self.collections(&[id, "upsert"])?, Some(body), "writing").await.map(drop)
    }

    pub(super) async fn remove(&self, id: &str, ids: &[String]) -> Result<()> {
        let (url, body) = (self.collections(&[id, "delete"])?, json!({"ids": ids}));
        self.call::<Value>(Method::POST, &url, Some(&body), "removing records").await.map(drop)
    }

    pub(super) async fn get(&self, id: &str, body: &Value) -> Result<Records> {
        self.call(Method::POST, &self.collections(&[id, "get"])?, Some(body), "reading").await
    }

    pub(super) async fn query(&self, id: &str, body: &Value) -> Result<Found> {
        self.call(Method::POST, &self.collections(&[id, "query"])?, Some(body), "searching").await
    }

    pub(super) async fn count(&self, id: &str) -> Result<u64> {
        self.call(Method::GET, &self.collections(&[id, "count"])?, None, "counting").await
    }

    /// `None` where the server keeps no log of what is not indexed yet.
    pub(super) async fn indexing(&self, id: &str) -> Result<Option<Indexing>> {
        let (url, doing) = (self.collections(&[id, "indexing_status"])?, "asking for the state of the index");
        match self.send(Method::GET, &url, None, doing).await? {
            (status, body) if status.is_success() => self.read(&body, doing).map(Some),
            (StatusCode::NOT_FOUND | StatusCode::INTERNAL_SERVER_ERROR | StatusCode::NOT_IMPLEMENTED, _) => Ok(None),
            (status, body) => Err(self.refused(status, &body, doing)),
        }
    }

    /// Whether this is Chroma's own cloud, whose index is another one.
    pub(super) fn is_cloud(&self) -> bool {
        Url::parse(&self.url).is_ok_and(|url| url.host_str().is_some_and(|host| host.ends_with("trychroma.com")))
    }

    fn at(&self, path: &[&str]) -> Result<Url> {
        let wrong = || Error::new(ErrorKind::Unexpected, "a path of the server's interface cannot be built");
        let mut url = Url::parse(&self.url).map_err(|e| wrong().because(e))?;
        url.path_segments_mut().map_err(|()| wrong())?.pop_if_empty().extend(["api", "v2"]).extend(path);
        Ok(url)
    }

    fn collections(&self, path: &[&str]) -> Result<Url> {
        let mut url = self.at(&["tenants", &self.tenant, "databases", &self.database, "collections"])?;
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(path);
        }
        Ok(url)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        url: &Url,
        body: Option<&Value>,
        doing: &'static str,
    ) -> Result<T> {
        let (status, bytes) = self.send(method, url, body, doing).await?;
        if status.is_success() { self.read(&bytes, doing) } else { Err(self.refused(status, &bytes, doing)) }
    }

    async fn send(
        &self,
        method: Method,
        url: &Url,
        body: Option<&Value>,
        doing: &'static str,
    ) -> Result<(StatusCode, bytes::Bytes)> {
        // A server of one node takes its log into the index before it answers a query.
        let slow = matches!(url.path_segments().and_then(|mut path| path.next_back()), Some("upsert" | "query"));
        let mut request = self.http.request(method, url.clone()).timeout(self.timeout * if slow { 10 } else { 1 });
        if let Some(body) = body {
            let body = serde_json::to_vec(body)
                .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot write a request").because(e))?;
            request = request.header("content-type", "application/json").body(body);
        }
        if let Some(token) = &self.token {
            let mut value = reqwest::header::HeaderValue::from_str(token.reveal()).map_err(|_| {
                Error::new(ErrorKind::Configuration, "the server's token holds characters that no header can carry")
                    .guidance("check what `target.api_key` refers to")
            })?;
            value.set_sensitive(true);
            request = request.header("x-chroma-token", value);
        }
        let response = request.send().await.map_err(|e| self.unanswered(e, doing))?;
        let status = response.status();
        if status == StatusCode::TOO_MANY_REQUESTS {
            // The server's own pace; how often is for the caller.
            let asked = response.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
            tokio::time::sleep(asked.map_or(Duration::ZERO, Duration::from_secs).min(LONGEST_PAUSE)).await;
        }
        let bytes = response.bytes().await.map_err(|e| self.unanswered(e, doing))?;
        Ok((status, bytes))
    }

    fn read<T: DeserializeOwned>(&self, bytes: &[u8], doing: &'static str) -> Result<T> {
        // Some calls are answered by nothing at all.
        let bytes = if bytes.is_empty() { b"null" } else { bytes };
        serde_json::from_slice(bytes).map_err(|e| {
            self.failed("the server's answer is not one of Chroma's interface, version 2", doing)
                .guidance("check that `target.url` is the address of a Chroma server of version 0.6 or later")
                .because(e)
        })
    }

    fn failed(&self, message: impl Into<String>, doing: &'static str) -> Error {
        Error::new(ErrorKind::Target, message)
            .with("doing", doing)
            .with("url", &self.url)
            .with("tenant", &self.tenant)
            .with("database", &self.database)
    }

    fn unanswered(&self, e: reqwest::Error, doing: &'static str) -> Error {
        let message = if e.is_timeout() {
            "the server did not answer in time"
        } else if e.is_connect() {
            "the server cannot be reached"
        } else {
            "the connection to the server broke"
        };
        self.failed(message, doing)
            .guidance(
                "check `target.url`, that the server runs, and `target.ca_file` where its certificate is your own",
            )
            .because(e.without_url())
            .transient()
    }

    fn refused(&self, status: StatusCode, body: &[u8], doing: &'static str) -> Error {
        let said: Value = serde_json::from_slice(body).unwrap_or_default();
        let said = said["message"].as_str().map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned);
        let said: String = said.chars().filter(|c| !c.is_control()).take(WORDS).collect();
        let error = |kind, message: &str| {
            Error::new(kind, message)
                .with("doing", doing)
                .with("url", &self.url)
                .with("tenant", &self.tenant)
                .with("database", &self.database)
                .with("status", status.as_u16())
                .with("said", &said)
        };
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                error(ErrorKind::Denied, "the server refused the credentials, or they may not do this")
                    .guidance("check what `target.api_key` refers to, and that it may use this tenant and database")
            }
            StatusCode::NOT_FOUND => error(ErrorKind::NotFound, "the server does not know what was asked for")
                .guidance("check `target.url`, the tenant and the database"),
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

/// Whether a smaller request, or one without some of its records, may succeed.
pub(super) fn may_be_one_record(error: &Error) -> bool {
    matches!(error.context_value("status"), Some("400" | "413" | "422"))
}

/// What is not there is no error.
pub(super) fn absent<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}
