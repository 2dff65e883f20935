//! The server's HTTP interface, version 2.

use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use url::Url;

use super::ChromaOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::targets::http::{Access, Http};

/// Collections in one page of a list.
const LISTED: usize = 100;

/// A client of one database.
#[derive(Debug)]
pub(super) struct Client {
    http: Http,
    tenant: String,
    database: String,
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
        let (tenant, database) = (options.tenant.clone(), options.database.clone());
        let token = options.token.as_ref().map(|token| ("x-chroma-token", token.reveal().to_owned()));
        let http = Http::open(Access {
            server: "Chroma",
            url: &options.url,
            headers: token.into_iter().collect(),
            ca: options.ca.as_deref(),
            timeout: options.timeout,
            context: vec![("tenant", tenant.clone()), ("database", database.clone())],
        })?;
        Ok(Self { http, tenant, database })
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
        match self.http.send(Method::GET, &url, None, doing, 1).await? {
            (status, body) if status.is_success() => self.http.read(&body, doing).map(Some),
            (StatusCode::NOT_FOUND | StatusCode::INTERNAL_SERVER_ERROR | StatusCode::NOT_IMPLEMENTED, _) => Ok(None),
            (status, body) => Err(self.http.refused(status, &body, doing)),
        }
    }

    /// Whether this is Chroma's own cloud, whose index is another one.
    pub(super) fn is_cloud(&self) -> bool {
        Url::parse(self.http.url()).is_ok_and(|url| url.host_str().is_some_and(|host| host.ends_with("trychroma.com")))
    }

    fn at(&self, path: &[&str]) -> Result<Url> {
        self.http.at(&[&["api", "v2"], path].concat())
    }

    fn collections(&self, path: &[&str]) -> Result<Url> {
        self.at(&[&["tenants", &self.tenant, "databases", &self.database, "collections"], path].concat())
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        url: &Url,
        body: Option<&Value>,
        doing: &'static str,
    ) -> Result<T> {
        // A server of one node takes its log into the index before it answers a query.
        let slow = matches!(url.path_segments().and_then(|mut path| path.next_back()), Some("upsert" | "query"));
        match slow {
            true => self.http.call_slowly(method, url, body, doing, 10).await,
            false => self.http.call(method, url, body, doing).await,
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
