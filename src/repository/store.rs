//! Objects of a repository, over any store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, path::Path as ObjectPath, prefix::PrefixStore};
use serde::{Deserialize, Serialize};

use super::layout::{FORMAT_VERSION, path};
use super::manifest::ObjectRef;
use super::reliable::{Reliable, Retries};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;

/// `repository.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RepositoryRecord {
    format: u32,
    id: uuid::Uuid,
    created: jiff::Timestamp,
}

/// A repository: the object-store prefix that holds snapshots, vector sets and drill records.
#[derive(Clone)]
pub struct Repository {
    store: Arc<dyn ObjectStore>,
    /// Set for a local directory: its files are synced to the device when they are written.
    local: Option<PathBuf>,
    url: String,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Repository {
    /// Opens an existing repository. `url` is a directory (relative to `base`) or an object-store URL.
    /// `options` are the store's settings and credentials, keys as `object_store` names them.
    pub async fn open(url: &str, base: &Path, options: &[(String, String)]) -> Result<Self> {
        Self::connect(url, base, options, false)?.opened().await
    }

    /// Refuses a place without a repository, or with one of a newer format.
    pub(crate) async fn opened(self) -> Result<Self> {
        match self.get_optional(path::REPOSITORY).await? {
            Some(bytes) => self.check_format(&bytes)?,
            None => {
                return Err(Error::new(ErrorKind::NotFound, "there is no repository here")
                    .with("repository", &self.url)
                    .guidance("`regrow snapshot` creates it; check `repository.url` in the pipeline"));
            }
        }
        Ok(self)
    }

    /// Opens a repository, creating it when there is none.
    pub async fn open_or_create(url: &str, base: &Path, options: &[(String, String)]) -> Result<Self> {
        Self::connect(url, base, options, true)?.created().await
    }

    /// Writes the record of a new repository where there is none.
    pub(crate) async fn created(self) -> Result<Self> {
        if let Some(bytes) = self.get_optional(path::REPOSITORY).await? {
            self.check_format(&bytes)?;
            return Ok(self);
        }
        let record =
            RepositoryRecord { format: FORMAT_VERSION, id: uuid::Uuid::new_v4(), created: jiff::Timestamp::now() };
        match self.put_json(path::REPOSITORY, &record).await {
            // Somebody else made it in the meantime.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            other => {
                other?;
            }
        }
        Ok(self)
    }

    fn connect(url: &str, base: &Path, options: &[(String, String)], create: bool) -> Result<Self> {
        let configuration = |e: String| {
            Error::new(ErrorKind::Configuration, "this repository URL cannot be used").with("url", url).because(e)
        };
        if url.contains("://") && !url.starts_with("file://") {
            let parsed = url::Url::parse(url).map_err(|e| configuration(e.to_string()))?;
            let (store, prefix) = object_store::parse_url_opts(&parsed, options.iter().cloned())
                .map_err(|e| configuration(e.to_string()))?;
            // The client has its own tries: once more, for what it does not repeat.
            let retries = Retries { tries: 2, ..Retries::default() };
            let store = Reliable::new(Arc::new(PrefixStore::new(store, prefix)), retries);
            return Ok(Self { store: Arc::new(store), local: None, url: url.to_owned() });
        }
        let directory = match url.strip_prefix("file://") {
            Some(_) => url::Url::parse(url)
                .ok()
                .and_then(|u| u.to_file_path().ok())
                .ok_or_else(|| configuration("not a file URL".to_owned()))?,
            None => base.join(url),
        };
        if create {
            std::fs::create_dir_all(&directory).map_err(|e| Error::from(e).with("directory", directory.display()))?;
        }
        if !directory.is_dir() {
            return Err(Error::new(ErrorKind::NotFound, "there is no repository here")
                .with("directory", directory.display())
                .guidance("`regrow snapshot` creates it; check `repository.url` in the pipeline"));
        }
        let store = LocalFileSystem::new_with_prefix(&directory)?;
        Ok(Self { store: Arc::new(store), url: directory.display().to_string(), local: Some(directory) })
    }

    /// A repository over a store that is there already: for tests and embedding programs.
    pub fn over(store: Arc<dyn ObjectStore>, url: &str) -> Self {
        Self { store, local: None, url: url.to_owned() }
    }

    fn check_format(&self, bytes: &[u8]) -> Result<()> {
        let record: RepositoryRecord = serde_json::from_slice(bytes).map_err(|e| {
            Error::new(ErrorKind::Damaged, "the repository record is unreadable")
                .with("object", path::REPOSITORY)
                .with("repository", &self.url)
                .because(e)
        })?;
        if record.format > FORMAT_VERSION {
            return Err(Error::new(ErrorKind::Configuration, "the repository was written by a newer regrow")
                .with("format", record.format)
                .with("readable", FORMAT_VERSION)
                .guidance("use a regrow at least as new as the one that wrote it"));
        }
        Ok(())
    }

    /// Where it is, for people.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Writes a new object; [`ErrorKind::AlreadyExists`] when there is one.
    pub async fn put_new(&self, name: &str, bytes: Bytes) -> Result<ObjectRef> {
        let (length, digest) = (bytes.len() as u64, Digest::of(&bytes));
        let location = ObjectPath::from(name);
        let options = PutOptions { mode: PutMode::Create, ..Default::default() };
        self.store
            .put_opts(&location, bytes.into(), options)
            .await
            .map_err(|e| Error::from(e).with("object", name).with("repository", &self.url))?;
        self.sync(name).await?;
        Ok(ObjectRef { path: name.to_owned(), bytes: length, digest, rows: None, buckets: None })
    }

    /// Writes an object that is named by the digest of its bytes; one that is there already is kept.
    pub(crate) async fn put_content(&self, folder: &str, extension: &str, bytes: Bytes) -> Result<ObjectRef> {
        let name = path::content(folder, &Digest::of(&bytes), extension);
        match self.put_new(&name, bytes.clone()).await {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            other => return other,
        }
        let object = ObjectRef {
            path: name.clone(),
            bytes: bytes.len() as u64,
            digest: Digest::of(&bytes),
            rows: None,
            buckets: None,
        };
        match self.get_checked(&object).await {
            Ok(_) => Ok(object),
            // What is there is not what its name says. It is replaced in one step: snapshots that need it must never
            // be without it, and what its name says is right for all of them.
            Err(e) if e.kind() == ErrorKind::Damaged => self.replace(&name, bytes).await,
            Err(e) => Err(e),
        }
    }

    /// Writes an object that can be derived in the place of one that is damaged, in one step.
    pub(crate) async fn replace(&self, name: &str, bytes: Bytes) -> Result<ObjectRef> {
        let (length, digest) = (bytes.len() as u64, Digest::of(&bytes));
        self.store
            .put(&ObjectPath::from(name), bytes.into())
            .await
            .map_err(|e| Error::from(e).with("object", name).with("repository", &self.url))?;
        self.sync(name).await?;
        Ok(ObjectRef { path: name.to_owned(), bytes: length, digest, rows: None, buckets: None })
    }

    /// Writes a new object as JSON.
    pub(crate) async fn put_json<T: Serialize + Sync>(&self, name: &str, value: &T) -> Result<ObjectRef> {
        let text = serde_json::to_vec_pretty(value)
            .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot write JSON").with("object", name).because(e))?;
        self.put_new(name, text.into()).await
    }

    /// Makes a written object and its name survive a power failure, where the store leaves that to us.
    async fn sync(&self, name: &str) -> Result<()> {
        let Some(root) = &self.local else { return Ok(()) };
        let file = root.join(name);
        tokio::task::spawn_blocking(move || {
            std::fs::File::open(&file)?.sync_all()?;
            if let Some(parent) = file.parent() {
                std::fs::File::open(parent)?.sync_all()?;
            }
            Ok(())
        })
        .await?
    }

    /// Reads an object.
    pub async fn get(&self, name: &str) -> Result<Bytes> {
        let read = async { self.store.get(&ObjectPath::from(name)).await?.bytes().await };
        read.await.map_err(|e| Error::from(e).with("repository", &self.url))
    }

    /// Reads an object that may be missing.
    pub async fn get_optional(&self, name: &str) -> Result<Option<Bytes>> {
        match self.get(name).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Reads an object and checks size and digest: [`ErrorKind::Damaged`] when it is not what was written.
    pub async fn get_checked(&self, object: &ObjectRef) -> Result<Bytes> {
        let mut bytes = self.get_object(object).await?;
        if !object.is(&bytes) {
            // Bytes may go wrong on their way; what is damaged in the store is so the second time, too.
            bytes = self.get_object(object).await?;
        }
        if !object.is(&bytes) {
            return Err(Error::new(ErrorKind::Damaged, "an object of the repository is not what was written")
                .with("object", &object.path)
                .with("expected", format!("{} bytes, {}", object.bytes, object.digest.short()))
                .with("found", format!("{} bytes, {}", bytes.len(), Digest::of(&bytes).short()))
                .guidance("`regrow verify` lists everything that is damaged and which snapshots it hurts"));
        }
        Ok(bytes)
    }

    /// Reads an object that must be there.
    async fn get_object(&self, object: &ObjectRef) -> Result<Bytes> {
        self.get(&object.path).await.map_err(|e| {
            if e.kind() != ErrorKind::NotFound {
                return e;
            }
            Error::new(ErrorKind::Damaged, "an object of the repository is missing")
                .with("object", &object.path)
                .with("repository", &self.url)
                .guidance("`regrow verify` lists everything that is damaged and which snapshots it hurts")
        })
    }

    /// The names and sizes of the objects below a prefix, in no particular order.
    pub fn list<'a>(&'a self, prefix: &str) -> BoxStream<'a, Result<(String, u64, jiff::Timestamp)>> {
        let prefix = ObjectPath::from(prefix);
        self.store
            .list(Some(&prefix))
            .map_err(move |e| Error::from(e).with("repository", &self.url))
            .map_ok(|meta| {
                let modified = jiff::Timestamp::from_microsecond(meta.last_modified.timestamp_micros());
                (meta.location.to_string(), meta.size, modified.unwrap_or_default())
            })
            .boxed()
    }

    /// The names directly below a prefix that are folders.
    pub(crate) async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let listed = self.store.list_with_delimiter(Some(&ObjectPath::from(prefix))).await?;
        Ok(listed.common_prefixes.iter().filter_map(|p| p.filename().map(str::to_owned)).collect())
    }

    /// Removes an object; one that is gone already is no error.
    pub async fn delete(&self, name: &str) -> Result<()> {
        match self.store.delete(&ObjectPath::from(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(Error::from(e).with("object", name).with("repository", &self.url)),
        }
    }

    /// Removes everything below a prefix.
    pub(crate) async fn delete_all(&self, prefix: &str) -> Result<()> {
        let names: Vec<_> = self.list(prefix).map_ok(|(name, ..)| name).try_collect().await?;
        for name in names {
            self.delete(&name).await?;
        }
        if let Some(root) = &self.local {
            // Object stores have no folders; an empty one on a disk is only litter.
            drop(std::fs::remove_dir_all(root.join(prefix)));
        }
        Ok(())
    }
}
