//! Stores: the one way to open a directory or an object store by its URL, and what all of them have in common.
//!
//! | URL | store |
//! | --- | --- |
//! | a path, `file://` | a local directory |
//! | `s3://`, `s3a://`, `https://….amazonaws.com`, `https://….r2.cloudflarestorage.com` | S3 and what speaks its protocol |
//! | `gs://` | Google Cloud Storage |
//! | `az://`, `azure://`, `adl://`, `abfs://`, `abfss://`, `https://….core.windows.net` | Azure Blob Storage |
//! | `http://`, `https://` | a web server, to read from |
//! | `memory://` | nothing that lasts, for tests |
//!
//! Options are pairs of key and value: first those of the environment (`aws_access_key_id`), then those of the pipeline
//! (`endpoint`), which win. Keys that every remote store has are listed in [`CLIENT_KEYS`].

mod create;
mod error;
mod fault;
mod http;
mod options;
mod probe;

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreScheme};
use url::Url;

pub(crate) use create::create;
pub(crate) use error::transient;
pub(crate) use options::check;
pub use options::{CLIENT_KEYS, StoreKind};
pub(crate) use probe::ignores_conditions;
pub use probe::{Probe, probe};

use crate::error::{Error, ErrorKind, Result};
use http::{Clock, Connector};
use options::Resolved;

/// A store that is open.
#[derive(Debug, Clone)]
pub(crate) enum Opened {
    /// A local directory, which need not exist.
    Directory(PathBuf),
    /// A prefix of an object store.
    Remote(Remote),
}

/// A prefix of an object store.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) prefix: Path,
    pub(crate) kind: StoreKind,
    clock: Clock,
}

impl Remote {
    /// By how many seconds the store's clock was ahead of this machine's at its last answer.
    pub(crate) fn clock_ahead(&self) -> Option<i64> {
        self.clock.ahead()
    }
}

/// Opens a directory (relative to `base`) or a URL. Nothing is asked of the store yet.
///
/// # Errors
/// `Configuration` when the URL or a setting cannot be used; the URL in it is without secrets.
pub(crate) fn open(text: &str, base: &FilePath, options: &[(String, String)]) -> Result<Opened> {
    let wrong = |what: &str| {
        Error::new(ErrorKind::Configuration, what).with("url", display(text)).guidance(
            "give a directory, or a URL such as s3://bucket/prefix, gs://bucket/prefix or az://container/prefix",
        )
    };
    if text.trim().is_empty() {
        return Err(wrong("the location is empty"));
    }
    if !text.contains("://") {
        return Ok(Opened::Directory(base.join(text)));
    }
    let url = Url::parse(text).map_err(|e| wrong("this URL cannot be read").because(e))?;
    let kind = StoreKind::of(text).ok_or_else(|| wrong("no store has such a URL"))?;
    if kind == StoreKind::Directory {
        let directory = url.to_file_path().map_err(|()| wrong("this URL names no local directory"))?;
        return Ok(Opened::Directory(directory));
    }
    let (_, path) = ObjectStoreScheme::parse(&url).map_err(|_| wrong("this URL cannot be used"))?;
    let prefix = Path::parse(path).map_err(|e| wrong("this URL's path cannot be used").because(e))?;
    let clock = Clock::default();
    let store = if kind == StoreKind::Memory {
        Arc::new(InMemory::new()) as Arc<dyn ObjectStore>
    } else {
        let resolved = Resolved::new(kind, options).map_err(|e| e.with("url", display(text)))?;
        build(kind, &url, resolved, clock.clone()).map_err(|e| {
            // The store's own message may repeat the URL with all that is in it.
            let cause = match e {
                Failure::Said(said) => said,
                Failure::Store(e) => e.to_string().replace(url.as_str(), &display(text)),
            };
            wrong("the store cannot be opened with these settings")
                .guidance("check the URL and the store's settings, in the environment and in the pipeline")
                .because(cause)
        })?
    };
    Ok(Opened::Remote(Remote { store, prefix, kind, clock }))
}

/// Opens a directory (relative to `base`) or a URL as a store of its own, for programs that use the library.
///
/// # Errors
/// `Configuration` when the URL or a setting cannot be used; others when a directory is not there or cannot be read.
pub fn connect(url: &str, base: &FilePath, options: &[(String, String)]) -> Result<Arc<dyn ObjectStore>> {
    over(&open(url, base, options)?, url)
}

/// All of what was opened at `url` as one store.
fn over(opened: &Opened, url: &str) -> Result<Arc<dyn ObjectStore>> {
    Ok(match opened {
        Opened::Directory(directory) => {
            let store = LocalFileSystem::new_with_prefix(directory)
                .map_err(|e| Error::from(e).with("url", display(url)).with("directory", directory.display()))?;
            Arc::new(store)
        }
        Opened::Remote(remote) => Arc::new(PrefixStore::new(remote.store.clone(), remote.prefix.clone())),
    })
}

enum Failure {
    Said(String),
    Store(object_store::Error),
}

impl From<object_store::Error> for Failure {
    fn from(e: object_store::Error) -> Self {
        Self::Store(e)
    }
}

/// Gives a builder all it needs, and builds.
macro_rules! built {
    ($builder:expr, $resolved:expr, $connector:expr, $allow_http:expr, $key:ty) => {{
        let client = &$resolved.client;
        let builder = $builder
            .with_retry(client.retry())
            .with_client_options(client.options($allow_http))
            .with_http_connector($connector);
        let builder = $resolved.pairs.iter().fold(builder, |builder, (name, value)| match name.parse::<$key>() {
            Ok(key) => builder.with_config(key, value.clone()),
            Err(_) => builder,
        });
        Arc::new(builder.build()?) as Arc<dyn ObjectStore>
    }};
}

fn build(kind: StoreKind, url: &Url, mut resolved: Resolved, clock: Clock) -> Result<Arc<dyn ObjectStore>, Failure> {
    let text = url.to_string();
    let bucket = match kind {
        StoreKind::S3 if matches!(url.scheme(), "s3" | "s3a") => url.host_str().map(str::to_owned),
        _ => None,
    };
    let connector = Connector {
        kind,
        bucket: bucket.clone(),
        timeout: resolved.client.timeout,
        permits: Arc::new(tokio::sync::Semaphore::new(resolved.client.concurrency)),
        second_way: resolved.is_set("imdsv1_fallback"),
        clock,
        state: Arc::default(),
    };
    let plain = resolved.get("endpoint").is_some_and(|e| e.starts_with("http://"));
    Ok(match kind {
        StoreKind::S3 => {
            if let (Some(bucket), Some(endpoint)) = (&bucket, resolved.get("endpoint")) {
                let virtual_hosted = resolved.is_set("virtual_hosted_style_request");
                if let Some(endpoint) = addressed(endpoint, bucket, virtual_hosted)? {
                    resolved.set("endpoint", endpoint);
                }
            }
            built!(
                AmazonS3Builder::new().with_url(text),
                resolved,
                connector,
                plain,
                object_store::aws::AmazonS3ConfigKey
            )
        }
        StoreKind::Gcs => {
            if let Some(endpoint) = resolved.get("endpoint").map(str::to_owned) {
                resolved.pairs.retain(|(name, _)| *name != "endpoint");
                resolved.pairs.push(("base_url", endpoint));
            }
            // The address may also stand in the file of the service account.
            built!(
                GoogleCloudStorageBuilder::new().with_url(text),
                resolved,
                connector,
                true,
                object_store::gcp::GoogleConfigKey
            )
        }
        StoreKind::Azure => {
            built!(
                MicrosoftAzureBuilder::new().with_url(text),
                resolved,
                connector,
                plain,
                object_store::azure::AzureConfigKey
            )
        }
        StoreKind::Http => {
            let root = &url[..url::Position::BeforePath];
            let plain = url.scheme() == "http";
            built!(HttpBuilder::new().with_url(root), resolved, connector, plain, object_store::ClientConfigKey)
        }
        StoreKind::Directory | StoreKind::Memory => return Err(Failure::Said("not a remote store".to_owned())),
    })
}

/// The endpoint with the bucket in its host name where requests are virtual-hosted; `None` when it is right as it is.
fn addressed(endpoint: &str, bucket: &str, virtual_hosted: bool) -> Result<Option<String>, Failure> {
    let Ok(mut url) = Url::parse(endpoint) else { return Ok(None) };
    let Some(host) = url.host_str().map(str::to_owned) else { return Ok(None) };
    let has_bucket =
        host.split_once('.').is_some_and(|(first, _)| first == bucket) || host.starts_with(&format!("{bucket}."));
    match (virtual_hosted, has_bucket) {
        (false, true) => Err(Failure::Said(format!(
            "the endpoint's host name begins with the bucket `{bucket}`: leave that away, or set virtual_hosted_style_request = \"true\""
        ))),
        (true, false) if matches!(url.host(), Some(url::Host::Domain(_))) => {
            url.set_host(Some(&format!("{bucket}.{host}"))).map_err(|e| Failure::Said(e.to_string()))?;
            Ok(Some(url.to_string().trim_end_matches('/').to_owned()))
        }
        (true, false) => Err(Failure::Said(
            "a bucket cannot be part of an address in numbers: leave virtual_hosted_style_request out".to_owned(),
        )),
        _ => Ok(None),
    }
}

/// A URL without what may be secret: passwords, signatures, tokens.
pub(crate) fn display(text: &str) -> String {
    let Some((scheme, _)) = text.split_once("://") else { return text.to_owned() };
    // What cannot be read cannot be told apart from a password either.
    let Ok(mut url) = Url::parse(text) else { return format!("{scheme}://…") };
    // `az://container@account` is no secret; a name before a password is half of one.
    if url.password().is_some() || matches!(url.scheme(), "http" | "https") {
        let _ = url.set_password(None);
        let _ = url.set_username("");
    }
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

#[cfg(test)]
mod tests;
