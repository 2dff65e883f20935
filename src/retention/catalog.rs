//! What a repository holds: every snapshot, read one at a time, and the sizes of the objects they need.

use std::collections::HashMap;

use futures::TryStreamExt;
use futures::future::try_join_all;
use jiff::Timestamp;

use super::policy::SnapshotInfo;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::repository::{Manifest, ObjectRef, Repository, path};

/// A name in 16 bytes: what is remembered of objects, of which there may be many.
pub(super) type Name = [u8; 16];

pub(super) fn name_of(object: &str) -> Name {
    let mut name = [0; 16];
    name.copy_from_slice(&Digest::of(object.as_bytes()).as_bytes()[..16]);
    name
}

/// Folders whose objects only manifests refer to.
pub(super) const CONTENT: [&str; 5] =
    [path::INVENTORIES, path::CANARIES, path::SKIPPED, path::CAPTURED, path::DOCUMENTS];

/// A snapshot as it was found.
pub(super) enum Found {
    /// Its manifest, and when the store says that it was written.
    Readable(Box<Manifest>, Timestamp),
    /// Its manifest is damaged, of a newer format, or encrypted with a key that is not here.
    Unreadable(Error),
}

/// Manifests read at once.
pub(super) const CONCURRENT: usize = 8;

/// Whether what an error says of an object will be the same the next time: the object itself cannot be read.
pub(super) fn lasting(error: &Error) -> bool {
    use ErrorKind::{Configuration, Damaged, KeyMissing, KeyWrong};
    !error.retryable() && matches!(error.kind(), Damaged | Configuration | KeyMissing | KeyWrong)
}

/// Committed snapshots, and when the store says that their manifests were written.
pub(super) async fn snapshots(repository: &Repository) -> Result<Vec<(String, Timestamp)>> {
    let mut found = Vec::new();
    let mut objects = repository.list(path::SNAPSHOTS);
    while let Some((name, _, modified)) = objects.try_next().await? {
        if let Some(id) = snapshot_of(&name) {
            found.push((id.to_owned(), modified));
        }
    }
    Ok(found)
}

/// Reads up to [`CONCURRENT`] snapshots at once; those that were forgotten meanwhile are left out.
///
/// # Errors
/// What may be otherwise the next time, such as a store that cannot be reached: then nothing is known.
pub(super) async fn read_some(repository: &Repository, some: &[(String, Timestamp)]) -> Result<Vec<(String, Found)>> {
    let reads = some.iter().map(|(id, modified)| read_one(repository, id, *modified));
    let all: Vec<Option<(String, Found)>> = try_join_all(reads).await?;
    Ok(all.into_iter().flatten().collect())
}

async fn read_one(repository: &Repository, id: &str, modified: Timestamp) -> Result<Option<(String, Found)>> {
    match Manifest::read(repository, id).await {
        Ok(manifest) => Ok(Some((id.to_owned(), Found::Readable(Box::new(manifest), modified)))),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) if lasting(&e) => Ok(Some((id.to_owned(), Found::Unreadable(e)))),
        Err(e) => Err(e),
    }
}

/// The snapshot whose manifest this object is.
pub(super) fn snapshot_of(object: &str) -> Option<&str> {
    let id = object.strip_prefix(path::SNAPSHOTS)?.strip_prefix('/')?.strip_suffix("/manifest.json")?;
    (!id.contains('/')).then_some(id)
}

/// Sizes of the objects that snapshots need, 24 bytes per object.
pub(super) struct Sizes(HashMap<Name, u64>);

impl Sizes {
    pub(super) async fn list(repository: &Repository) -> Result<Self> {
        let mut sizes = HashMap::new();
        for folder in CONTENT.into_iter().chain([path::SNAPSHOTS]) {
            let mut objects = repository.list(folder);
            while let Some((name, size, _)) = objects.try_next().await? {
                sizes.insert(name_of(&name), size);
            }
        }
        Ok(Self(sizes))
    }

    fn has(&self, object: &ObjectRef) -> bool {
        self.0.get(&name_of(&object.path)) == Some(&object.bytes)
    }

    /// What the rules look at.
    pub(super) fn info(&self, id: String, manifest: &Manifest, last_modified: Timestamp) -> SnapshotInfo {
        SnapshotInfo {
            id,
            created: manifest.created,
            last_modified,
            pipeline: manifest.pipeline.clone(),
            tags: manifest.tags.clone(),
            documents: manifest.counts.documents,
            chunks: manifest.counts.chunks,
            good: manifest.objects().all(|object| self.has(object)),
        }
    }
}

/// An error and its causes in one line.
pub(super) fn describe(error: &Error) -> String {
    let causes = error.causes();
    if causes.is_empty() { error.to_string() } else { format!("{error}: {}", causes.join(": ")) }
}
