//! Objects of a repository, over any store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreExt, path::Path as ObjectPath, prefix::PrefixStore};
use serde::{Deserialize, Serialize};

use super::keys::Unlock;
use super::layout::{FORMAT_VERSION, path};
use super::locks::Locking;
use super::manifest::ObjectRef;
use super::overlay::Overlay;
use super::reliable::{Reliable, Retries};
use super::seal::Protection;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::store::{self, Opened, StoreKind};

/// `repository.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RepositoryRecord {
    format: u32,
    pub(super) id: uuid::Uuid,
    created: jiff::Timestamp,
    /// It was made with a key: everything but this record and the key slots is encrypted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) encrypted: bool,
}

impl RepositoryRecord {
    pub(super) fn new(encrypted: bool) -> Self {
        Self { format: FORMAT_VERSION, id: uuid::Uuid::new_v4(), created: jiff::Timestamp::now(), encrypted }
    }
}

/// A repository: the object-store prefix that holds snapshots, vector sets and drill records.
#[derive(Clone)]
pub struct Repository {
    pub(super) store: Arc<dyn ObjectStore>,
    kind: StoreKind,
    /// Set for a local directory: its files are synced to the device when they are written.
    local: Option<PathBuf>,
    url: String,
    pub(super) protection: Protection,
    locking: Locking,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Repository {
    /// Opens an existing repository. `url` is a directory (relative to `base`) or an object-store URL.
    /// `options` are the store's settings and credentials, keys as `object_store` names them; `unlock` is what
    /// opens it when it is encrypted.
    pub async fn open(url: &str, base: &Path, options: &[(String, String)], unlock: &Unlock) -> Result<Self> {
        Self::connect(url, base, options, false)?.unlock(unlock).await
    }

    /// Opens a repository, creating it when there is none: encrypted when there is anything to unlock it with.
    pub async fn open_or_create(url: &str, base: &Path, options: &[(String, String)], unlock: &Unlock) -> Result<Self> {
        Self::connect(url, base, options, true)?.create(unlock).await
    }

    /// Opens a repository as it is stored, without any key: of an encrypted one only names and stored bytes can be
    /// had, which is enough to copy it and to compare digests.
    pub async fn open_locked(url: &str, base: &Path, options: &[(String, String)]) -> Result<Self> {
        Self::connect(url, base, options, false)?.locked().await
    }

    /// A store that replaces what it was told not to replace is no place for a repository: found out with the record
    /// that was just written. Other bytes, because the same could be taken for an own try whose answer was lost.
    pub(super) async fn refuse_without_conditions(&self) -> Result<()> {
        match self.put_new(path::REPOSITORY, Bytes::from_static(b"\"written twice\"")).await {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(e) => Err(e),
            Ok(_) => {
                self.delete(path::REPOSITORY).await?;
                Err(store::ignores_conditions().with("repository", &self.url))
            }
        }
    }

    pub(super) fn connect(url: &str, base: &Path, options: &[(String, String)], create: bool) -> Result<Self> {
        let directory = match store::open(url, base, options).map_err(|e| e.with("key", "repository.url"))? {
            Opened::Remote(remote) => {
                // The client has its own tries: once more, for what it does not repeat.
                let retries = Retries { tries: 2, ..Retries::default() };
                let store = Reliable::new(Arc::new(PrefixStore::new(remote.store, remote.prefix)), retries);
                return Ok(Self::at(Arc::new(store), remote.kind, None, store::display(url)));
            }
            Opened::Directory(directory) => directory,
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
        let url = directory.display().to_string();
        Ok(Self::at(Arc::new(store), StoreKind::Directory, Some(directory), url))
    }

    fn at(store: Arc<dyn ObjectStore>, kind: StoreKind, local: Option<PathBuf>, url: String) -> Self {
        Self { store, kind, local, url, protection: Protection::None, locking: Locking::default() }
    }

    /// A repository over a store that is there already: for tests and embedding programs.
    pub fn over(store: Arc<dyn ObjectStore>, url: &str) -> Self {
        Self::at(store, StoreKind::Memory, None, url.to_owned())
    }

    /// The same repository with other times of locking.
    #[must_use]
    pub fn with_locking(self, locking: Locking) -> Self {
        Self { locking, ..self }
    }

    /// The same repository, read-only, above which a temporary directory takes what is written until the last clone is
    /// dropped.
    pub(crate) fn over_scratch(self) -> Result<Self> {
        Ok(Self { store: Arc::new(Overlay::new(self.store.clone())?), local: None, ..self })
    }

    pub(super) fn locking(&self) -> &Locking {
        &self.locking
    }

    /// `repository.json`, when there is one.
    pub(super) async fn record(&self) -> Result<Option<RepositoryRecord>> {
        let Some(bytes) = self.get_optional(path::REPOSITORY).await? else { return Ok(None) };
        let record: RepositoryRecord = serde_json::from_slice(&bytes).map_err(|e| {
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
        Ok(Some(record))
    }

    pub(super) async fn put_record(&self, record: &RepositoryRecord) -> Result<()> {
        let text = serde_json::to_vec_pretty(record)
            .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot write JSON").because(e))?;
        self.put_new(path::REPOSITORY, text.into()).await.map(drop)
    }

    /// Where it is, for people.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Writes a new object; [`ErrorKind::AlreadyExists`] when there is one. One that an interrupted try of this very
    /// call may have left, with exactly these bytes, counts as written.
    pub async fn put_new(&self, name: &str, bytes: Bytes) -> Result<ObjectRef> {
        let (length, digest) = (bytes.len() as u64, Digest::of(&bytes));
        let location = ObjectPath::from(name);
        store::create(self.store.as_ref(), self.kind, &location, &bytes)
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

    /// Makes a written object and its name survive a power failure, where the store leaves that to us.
    pub(super) async fn sync(&self, name: &str) -> Result<()> {
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
        let read = async { self.store.get(&ObjectPath::from(name)).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            // Only the object: a bucket that is not there is another matter.
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(Error::from(e).with("repository", &self.url)),
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

    /// Removes the folder that held an object if nothing is in it any more. Object stores have none; on a disk an
    /// empty one is only litter.
    pub(crate) async fn remove_empty_folder(&self, object: &str) {
        if let (Some(root), Some((folder, _))) = (&self.local, object.rsplit_once('/')) {
            drop(tokio::fs::remove_dir(root.join(folder)).await);
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
