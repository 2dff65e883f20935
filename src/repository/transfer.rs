//! Stored bytes as they are: sizes, digests and ranges of objects, without decoding or deciphering them.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::{GetResultPayload, ObjectStoreExt, path::Path as ObjectPath};

use super::layout::path;
use super::manifest::ObjectRef;
use super::store::Repository;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;

/// What a local file is read in.
const BUFFER: usize = 1 << 20;

/// The folders of a repository.
const FOLDERS: [&str; 15] = [
    path::VERIFICATIONS,
    path::SNAPSHOTS,
    path::INVENTORIES,
    path::CANARIES,
    path::SKIPPED,
    path::CAPTURED,
    path::DOCUMENTS,
    path::VECTORS,
    path::VECTOR_SETS,
    path::DRILLS,
    path::RESTORES,
    "keys",
    "locks",
    "prunes",
    "doctor",
];

impl Repository {
    /// A place where a repository may be or come to be: nothing is read. With `create`, a local directory is made.
    pub(crate) fn bare(url: &str, base: &Path, options: &[(String, String)], create: bool) -> Result<Self> {
        Self::connect(url, base, options, create)
    }

    /// The id in `repository.json`; `None` when there is no such object.
    ///
    /// # Errors
    /// `Damaged` when it is there and has no id.
    pub async fn identity(&self) -> Result<Option<uuid::Uuid>> {
        let Some(bytes) = self.get_optional(path::REPOSITORY).await? else { return Ok(None) };
        identity_of(&bytes).map(Some).map_err(|e| e.with("repository", self.url()))
    }

    /// Path → size in bytes of every object: one entry per object, by one listing of each folder. Folders that are not
    /// a repository's are not looked into; such a one is an entry that ends in `/`.
    pub(crate) async fn sizes(&self) -> Result<BTreeMap<String, u64>> {
        let root = self.store.list_with_delimiter(None).await;
        let root = root.map_err(|e| Error::from(e).with("repository", self.url()))?;
        let mut sizes: BTreeMap<String, u64> =
            root.objects.into_iter().map(|meta| (meta.location.to_string(), meta.size)).collect();
        let mut folders = Vec::new();
        for folder in root.common_prefixes {
            match FOLDERS.iter().find(|known| **known == folder.as_ref()) {
                Some(known) => folders.push(*known),
                None => drop(sizes.insert(format!("{folder}/"), 0)),
            }
        }
        let mut listed =
            futures::stream::iter(folders).map(|folder| self.list(folder)).flatten_unordered(FOLDERS.len());
        while let Some((name, size, _)) = listed.try_next().await? {
            sizes.insert(name, size);
        }
        Ok(sizes)
    }

    /// The size of one object; `None` when it is not there.
    pub(crate) async fn size(&self, name: &str) -> Result<Option<u64>> {
        match self.store.head(&ObjectPath::from(name)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(Error::from(e).with("object", name).with("repository", self.url())),
        }
    }

    /// Size and digest of an object as it is stored, read as a stream: about a megabyte is held at a time. `read` is
    /// told of the bytes as they come.
    pub(crate) async fn digest(&self, name: &str, mut read: impl FnMut(u64) + Send) -> Result<(u64, Digest)> {
        let failed = |e: Error| e.with("object", name).with("repository", self.url());
        let result = self.store.get(&ObjectPath::from(name)).await.map_err(|e| failed(e.into()))?;
        let mut hasher = blake3::Hasher::new();
        let mut length = 0;
        match result.payload {
            // A stream over a local file would come in pieces of a few kilobytes, each from another thread.
            GetResultPayload::File(mut file, _) => {
                let mut buffer = vec![0; BUFFER];
                loop {
                    let step = tokio::task::spawn_blocking(move || {
                        let count = file.read(&mut buffer)?;
                        hasher.update(&buffer[..count]);
                        Ok::<_, std::io::Error>((file, buffer, hasher, count as u64))
                    });
                    let count;
                    (file, buffer, hasher, count) = step.await?.map_err(|e| failed(e.into()))?;
                    if count == 0 {
                        break;
                    }
                    length += count;
                    read(count);
                }
            }
            GetResultPayload::Stream(mut stream) => {
                while let Some(bytes) = stream.next().await {
                    let bytes = bytes.map_err(|e| failed(e.into()))?;
                    hasher.update(&bytes);
                    length += bytes.len() as u64;
                    read(bytes.len() as u64);
                }
            }
        }
        Ok((length, Digest::from_hasher(&hasher)))
    }

    /// Some bytes of an object.
    pub(crate) async fn range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        let read = self.store.get_range(&ObjectPath::from(name), range).await;
        read.map_err(|e| Error::from(e).with("object", name).with("repository", self.url()))
    }

    /// Puts `bytes` where something damaged or nothing lies. Called only with the replacement at hand, for what can be
    /// derived, or what a replica had with the recorded digest.
    pub(crate) async fn replace(&self, name: &str, bytes: Bytes) -> Result<ObjectRef> {
        let (length, digest) = (bytes.len() as u64, Digest::of(&bytes));
        // In one step: nothing that refers to it is ever without it.
        let put = self.store.put(&ObjectPath::from(name), bytes.into()).await;
        put.map_err(|e| Error::from(e).with("object", name).with("repository", self.url()))?;
        self.sync(name).await?;
        Ok(ObjectRef { path: name.to_owned(), bytes: length, digest, rows: None, buckets: None })
    }
}

/// The id in the bytes of a `repository.json`.
pub(crate) fn identity_of(bytes: &[u8]) -> Result<uuid::Uuid> {
    let damaged = || {
        Error::new(ErrorKind::Damaged, "the repository record is unreadable").with("object", path::REPOSITORY).guidance(
            "`regrow repair` takes it from a replica; without one, copy the file from any copy of this repository",
        )
    };
    let record: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| damaged().because(e))?;
    let id = record.get("id").and_then(serde_json::Value::as_str).and_then(|id| id.parse().ok());
    id.ok_or_else(damaged)
}
