//! How objects of a repository are sealed and opened: the one place where encryption meets the store.
//!
//! In a repository that is not encrypted everything here passes bytes through as they are.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::file_seal::FileSeal;
use super::frame;
use super::keys::{Keys, Unlock};
use super::layout::path;
use super::manifest::ObjectRef;
use super::slots::{Opener, Slot, Slots};
use super::store::{Repository, RepositoryRecord};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;

/// Whether a repository is encrypted, and whether this handle has its keys.
#[derive(Clone, Default)]
pub(super) enum Protection {
    /// Not encrypted.
    #[default]
    None,
    /// Encrypted, and not opened: only names and stored bytes can be had.
    Locked,
    /// Encrypted and opened.
    Open(Arc<Keys>),
}

impl Protection {
    fn keys(&self) -> Result<Option<&Arc<Keys>>> {
        match self {
            Self::None => Ok(None),
            Self::Open(keys) => Ok(Some(keys)),
            Self::Locked => Err(key_missing()),
        }
    }
}

fn key_missing() -> Error {
    Error::new(ErrorKind::KeyMissing, "the repository is encrypted and no key was given")
        .guidance("set repository.encryption.passphrase or repository.encryption.key in the pipeline")
}

/// # Opening
impl Repository {
    /// Makes a repository here unless there is one, encrypted if there is anything to unlock it with, and opens it.
    pub async fn create(self, unlock: &Unlock) -> Result<Self> {
        if let Some(record) = self.record().await? {
            return self.opened(&record, unlock).await;
        }
        let encrypted = !unlock.is_empty();
        let record = RepositoryRecord::new(encrypted);
        let mut made = Vec::new();
        if encrypted {
            // Keys first: a repository that says that it is encrypted has a slot. Slots of a repository that
            // never came to be name another id, and count for nothing.
            let (id, unlock) = (record.id, unlock.clone());
            let slots = tokio::task::spawn_blocking(move || {
                let ring = super::keys::Ring::new()?;
                let openers = Opener::all(&unlock)?;
                openers.iter().map(|opener| Slot::new(id, &ring, opener, unlock.cost)).collect::<Result<Vec<_>>>()
            })
            .await??;
            for slot in slots {
                self.put_slot(&slot).await?;
                made.push(path::key_slot(&slot.id));
            }
        }
        match self.put_record(&record).await {
            Ok(()) => {
                self.refuse_without_conditions().await?;
                self.opened(&record, unlock).await
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                // Somebody else made it in the meantime.
                for slot in made {
                    self.delete(&slot).await?;
                }
                self.unlock(unlock).await
            }
            Err(e) => Err(e),
        }
    }

    /// Opens the repository that is here: checks its format and gets its keys.
    ///
    /// # Errors
    /// `NotFound` when there is none; `KeyMissing`, `KeyWrong` and `Damaged` where it is encrypted; `Configuration`
    /// when a key was given for one that is not.
    pub async fn unlock(self, unlock: &Unlock) -> Result<Self> {
        let record = self.record().await?.ok_or_else(|| self.none_here())?;
        self.opened(&record, unlock).await
    }

    /// The repository that is here, without its keys.
    pub(super) async fn locked(mut self) -> Result<Self> {
        let record = self.record().await?.ok_or_else(|| self.none_here())?;
        self.protection = if record.encrypted { Protection::Locked } else { Protection::None };
        Ok(self)
    }

    fn none_here(&self) -> Error {
        Error::new(ErrorKind::NotFound, "there is no repository here")
            .with("repository", self.url())
            .guidance("`regrow snapshot` creates it; check `repository.url` in the pipeline")
    }

    async fn opened(mut self, record: &RepositoryRecord, unlock: &Unlock) -> Result<Self> {
        if !record.encrypted {
            if unlock.is_empty() {
                self.protection = Protection::None;
                return Ok(self);
            }
            return Err(Error::new(ErrorKind::Configuration, "a key was given, and the repository is not encrypted")
                .with("repository", self.url())
                .guidance(
                    "a repository is encrypted from its beginning or never: give another repository.url, or take the keys out of [repository.encryption]",
                ));
        }
        self.protection = Protection::Locked;
        if unlock.is_empty() {
            return Err(key_missing().with("repository", self.url()));
        }
        let keys = self.keys(record.id, unlock).await.map_err(|e| e.with("repository", self.url()))?;
        self.protection = Protection::Open(keys);
        Ok(self)
    }

    async fn keys(&self, id: uuid::Uuid, unlock: &Unlock) -> Result<Arc<Keys>> {
        let slots = Slots::read(self).await?;
        if let Some(keys) = unlock.remembered().filter(|keys| keys.repository == id) {
            // Still right while its slot is there and no genuine slot has further keys.
            let ids = keys.ring.ids();
            let known = |slot: &Slot| slot.keys.iter().all(|id| ids.contains(id));
            let still = slots.slots.iter().any(|slot| slot.id == keys.slot);
            if still && slots.slots.iter().all(|slot| known(slot) || !slot.is_genuine(&keys.ring)) {
                return Ok(keys);
            }
        }
        let given = unlock.clone();
        let keys = tokio::task::spawn_blocking(move || slots.open(id, &Opener::all(&given)?)).await?.map(Arc::new)?;
        unlock.remember(&keys);
        Ok(keys)
    }

    /// Whether what is stored here is encrypted.
    pub fn is_encrypted(&self) -> bool {
        !matches!(self.protection, Protection::None)
    }
}

/// # Sealed objects
///
/// JSON, JSONL and everything else that is not Parquet. An object is bound to its place, its path, so that one
/// put in the place of another is noticed. What is named by the digest of its own bytes is bound to its folder.
impl Repository {
    /// Seals what will lie at `place`; as it is in a repository that is not encrypted.
    pub(crate) fn seal(&self, place: &str, contents: Bytes) -> Result<Bytes> {
        match self.protection.keys()? {
            None => Ok(contents),
            Some(keys) => frame::seal(keys, place, &contents).map_err(|e| e.with("object", place)),
        }
    }

    /// Opens what was sealed for `place`; [`ErrorKind::Damaged`] when it is not that.
    pub(crate) fn unseal(&self, place: &str, stored: Bytes) -> Result<Bytes> {
        let at = |e: Error| e.with("object", place).with("repository", self.url());
        match self.protection.keys().map_err(at)? {
            Some(keys) => frame::open(keys, place, &stored).map_err(at),
            None if frame::is_sealed(&stored) => {
                Err(at(Error::new(ErrorKind::Damaged, "an object is encrypted in a repository that is not")))
            }
            None => Ok(stored),
        }
    }

    /// Writes a new sealed object.
    pub(crate) async fn put_sealed(&self, name: &str, contents: Bytes) -> Result<ObjectRef> {
        self.put_new(name, self.seal(name, contents)?).await
    }

    /// Reads and opens a sealed object.
    pub(crate) async fn open_sealed(&self, name: &str) -> Result<Bytes> {
        self.unseal(name, self.get(name).await?)
    }

    /// Reads and opens a sealed object that may be missing.
    pub(crate) async fn open_sealed_optional(&self, name: &str) -> Result<Option<Bytes>> {
        self.get_optional(name).await?.map(|stored| self.unseal(name, stored)).transpose()
    }

    /// Writes a sealed object that is named by the digest of its stored bytes. It is bound to the folder.
    pub(crate) async fn put_sealed_content(&self, folder: &str, extension: &str, contents: Bytes) -> Result<ObjectRef> {
        self.put_content(folder, extension, self.seal(folder, contents)?).await
    }

    /// Reads what [`Self::put_sealed_content`] wrote, checked against the reference.
    pub(crate) async fn get_sealed_content(&self, object: &ObjectRef) -> Result<Bytes> {
        let folder = object.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let stored = self.get_checked(object).await?;
        self.unseal(folder, stored).map_err(|e| e.with("path", &object.path))
    }

    /// Writes a new object as JSON, sealed.
    pub(crate) async fn put_json<T: Serialize + Sync>(&self, name: &str, value: &T) -> Result<ObjectRef> {
        let text = serde_json::to_vec_pretty(value)
            .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot write JSON").with("object", name).because(e))?;
        self.put_sealed(name, text.into()).await
    }

    /// Reads an object of JSON; [`ErrorKind::Damaged`] when it is not what `T` needs.
    pub(crate) async fn get_json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        self.parse_json(name, &self.open_sealed(name).await?)
    }

    /// Reads an object of JSON that may be missing.
    pub(crate) async fn get_json_optional<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        self.open_sealed_optional(name).await?.map(|bytes| self.parse_json(name, &bytes)).transpose()
    }

    fn parse_json<T: DeserializeOwned>(&self, name: &str, bytes: &[u8]) -> Result<T> {
        serde_json::from_slice(bytes).map_err(|e| {
            Error::new(ErrorKind::Damaged, "an object of the repository is not what was written")
                .with("object", name)
                .with("repository", self.url())
                .because(e)
        })
    }
}

/// # Names and Parquet
impl Repository {
    /// The name of something whose digest anybody could compute who guesses its contents. The digest itself in a
    /// repository that is not encrypted; a keyed one, which stays the same through every rotation, where it is.
    pub(crate) fn name(&self, digest: &Digest) -> Digest {
        match &self.protection {
            Protection::Open(keys) => keys.name(digest),
            Protection::None | Protection::Locked => *digest,
        }
    }

    /// Folder of the parts of one model under one set of chunking rules.
    pub(crate) fn parts_folder(&self, root: &str, model: &Digest, rules: &Digest) -> String {
        path::parts(root, &self.name(model), &self.name(rules))
    }

    /// How a Parquet object at `place` is encrypted: its path, or the folder of what is named by its own digest.
    pub(crate) fn file_seal(&self, place: &str) -> Result<FileSeal> {
        Ok(match self.protection.keys().map_err(|e| e.with("object", place))? {
            None => FileSeal::none(),
            Some(keys) => FileSeal::of(keys.clone(), place),
        })
    }
}

/// Reads something that parses stored bytes: where the parser panics over them, they are damaged.
pub(crate) fn guarded<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    crate::guard::guarded(ErrorKind::Damaged, read)
}
