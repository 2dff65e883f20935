//! The embedded database's directory: names, lock, and the small files beside the engine's own.
//!
//! ```text
//! <path>/lock                          held by the one process that has the database open
//! <path>/aliases.json                  production name → collection
//! <path>/collections/<dir>/collection.json, shard/
//! ```
//!
//! Small files are replaced whole: temporary file, fsync, rename, fsync of the directory. Hidden names
//! (`.new-…`, `.old-…`, `.tmp-…`) are leftovers of an interrupted operation and are removed at the next open.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::model::Metric;
use crate::pipeline::{FieldType, IndexSettings};
use crate::targets::types::Marker;

/// Version of `collection.json` and `aliases.json`. Raise it when a reader of this version would go wrong.
const FORMAT: u32 = 1;

pub(super) const COLLECTION_FILE: &str = "collection.json";
const ALIASES_FILE: &str = "aliases.json";
const LOCK_FILE: &str = "lock";
pub(super) const COLLECTIONS: &str = "collections";
pub(super) const SHARD: &str = "shard";

/// `collection.json`: what the engine's own files do not say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CollectionFile {
    format: u32,
    pub(super) name: String,
    pub(super) dimension: usize,
    pub(super) metric: Metric,
    pub(super) index: IndexSettings,
    /// Asked for; made by the first index build.
    pub(super) payload_indexes: BTreeMap<String, FieldType>,
    /// They were made.
    #[serde(default)]
    pub(super) payload_indexed: bool,
    pub(super) marker: Marker,
    /// Segments that were there when an index build began; absent once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) building: Option<Vec<String>>,
}

impl CollectionFile {
    pub(super) fn new(spec: &crate::targets::CollectionSpec) -> Self {
        Self {
            format: FORMAT,
            name: spec.name.clone(),
            dimension: spec.dimension,
            metric: spec.metric,
            index: spec.index.clone(),
            payload_indexes: spec.payload_indexes.clone(),
            payload_indexed: false,
            marker: spec.marker.clone(),
            building: None,
        }
    }

    pub(super) fn load(dir: &Path) -> Result<Self> {
        read_json(&dir.join(COLLECTION_FILE))
    }

    pub(super) fn save(&self, dir: &Path) -> Result<()> {
        write_json(&dir.join(COLLECTION_FILE), self)
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AliasesFile {
    format: u32,
    aliases: BTreeMap<String, String>,
}

pub(super) fn load_aliases(root: &Path) -> Result<BTreeMap<String, String>> {
    let path = root.join(ALIASES_FILE);
    if !path.try_exists().map_err(|e| io(e, "looking for a file", &path))? {
        return Ok(BTreeMap::new());
    }
    Ok(read_json::<AliasesFile>(&path)?.aliases)
}

pub(super) fn save_aliases(root: &Path, aliases: &BTreeMap<String, String>) -> Result<()> {
    write_json(&root.join(ALIASES_FILE), &AliasesFile { format: FORMAT, aliases: aliases.clone() })
}

/// The database is open in this process while this lives.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    pub(super) fn take(root: &Path) -> Result<Self> {
        let path = root.join(LOCK_FILE);
        let open = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = open.map_err(|e| io(e, "opening the lock of the embedded database", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only for the message: an unreadable file must not hide what is wrong.
                let _ = file.read_to_string(&mut holder);
                let error = Error::new(ErrorKind::Target, "the embedded database is in use by another process")
                    .with("path", root.display());
                let holder = holder.trim();
                let error = if holder.is_empty() { error } else { error.with("process", holder) };
                return Err(error.guidance(
                    "one process at a time can have it open: wait until the other one ends, or give this pipeline another `target.path`",
                ));
            }
            Err(TryLockError::Error(e)) => {
                return Err(io(e, "locking the embedded database", &path)
                    .guidance("the file system must support file locks: move the database to a local disk"));
            }
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|e| io(e, "writing the lock of the embedded database", &path))?;
        Ok(Self { _file: file })
    }
}

/// A directory name for a collection: readable, safe on every file system (lower-case ASCII, so that
/// names differing only in case do not meet), and never used twice, so that nothing of a deleted
/// collection can turn up in its successor.
pub(super) fn directory_name(name: &str, instance: Uuid) -> String {
    /// Leaves room for the instance below the 255 bytes that file systems take.
    const MAX: usize = 120;
    let mut out = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02x}")),
        }
    }
    if out.len() > MAX {
        out.truncate(MAX);
        out.push('~');
        out.push_str(&Digest::of(name.as_bytes()).short());
    }
    format!("{out}.{}", instance.simple())
}

/// A hidden name beside `what`, new every time.
pub(super) fn hidden(prefix: &str) -> String {
    format!(".{prefix}-{}", Uuid::new_v4().simple())
}

/// An I/O error as the target's.
pub(super) fn io(e: std::io::Error, doing: &str, path: &Path) -> Error {
    if crate::error::is_full(&e) {
        return Error::new(ErrorKind::StorageFull, format!("{doing} failed: no room left on the device"))
            .with("path", path.display())
            .guidance("free some room and run the same command again: it continues where it stopped")
            .because(e);
    }
    Error::new(ErrorKind::Target, format!("{doing} failed"))
        .with("path", path.display())
        .guidance("check the directory's permissions and the disk")
        .because(e)
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Target, format!("a file of the embedded database {why}"))
        .with("path", path.display())
        .guidance(
            "a collection can be rebuilt from its vector set: remove the damaged directory or file and restore again",
        )
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let bytes = fs::read(path).map_err(|e| io(e, "reading a file of the embedded database", path))?;
    // The version first: a newer file may hold keys that this version would call damage.
    if let Ok(Version { format }) = serde_json::from_slice(&bytes)
        && format > FORMAT
    {
        return Err(Error::new(ErrorKind::Target, "the embedded database was written by a newer regrow")
            .with("path", path.display())
            .with("format", format)
            .guidance("update regrow"));
    }
    serde_json::from_slice(&bytes).map_err(|e| damaged(path, "is damaged").because(e))
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(value)
        .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot write JSON").with("path", path.display()).because(e))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    let temporary = dir.join(hidden("tmp"));
    let write = || {
        let mut file = File::create_new(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_directory(dir)
    };
    write().map_err(|e| {
        // A leftover is harmless and removed at the next open.
        let _ = fs::remove_file(&temporary);
        io(e, "writing a file of the embedded database", path)
    })
}

/// Makes renames in a directory durable.
pub(super) fn sync_directory(dir: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    File::open(dir)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = dir;
    Ok(())
}

/// Names in a directory, sorted.
pub(super) fn names(dir: &Path) -> Result<Vec<String>> {
    let list = || -> std::io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    };
    list().map_err(|e| io(e, "listing a directory of the embedded database", dir))
}

/// Removes what interrupted operations left in a directory.
pub(super) fn remove_leftovers(dir: &Path) -> Result<()> {
    for name in names(dir)? {
        if [".tmp-", ".new-", ".old-"].iter().any(|prefix| name.starts_with(prefix)) {
            remove(&dir.join(name))?;
        }
    }
    Ok(())
}

/// Removes a file or a directory with all it holds; that it is gone already is fine.
pub(super) fn remove(path: &Path) -> Result<()> {
    let gone = |e: std::io::Error| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) };
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).or_else(gone),
        Ok(_) => fs::remove_file(path).or_else(gone),
        Err(e) => gone(e),
    };
    result.map_err(|e| io(e, "removing a part of the embedded database", path))
}

/// True for a directory that only an index build of a deleted collection can have made: `create` renames a
/// whole collection into place, so nothing of one is here, at most where the engine builds new segments.
pub(super) fn is_remainder(dir: &Path) -> Result<bool> {
    let inside = names(dir)?;
    if inside.is_empty() {
        return Ok(true);
    }
    Ok(inside == [SHARD] && names(&dir.join(SHARD))?.iter().all(|name| name == "temp_segments"))
}

/// The engine's segment directories of a shard that are complete.
pub(super) fn segments(shard: &Path) -> Result<Vec<String>> {
    let dir = shard.join("segments");
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    Ok(names(&dir)?.into_iter().filter(|name| Uuid::try_parse(name).is_ok()).collect())
}

/// The directory of a segment.
pub(super) fn segment(shard: &Path, name: &str) -> PathBuf {
    shard.join("segments").join(name)
}

/// Where the engine builds new segments; never worth keeping.
pub(super) fn unfinished_segments(shard: &Path) -> PathBuf {
    shard.join("temp_segments")
}

/// Removes the write-ahead log's files that are complete, but the newest: the engine takes the next
/// operation number from that one, and everything in them is in the segments once these are flushed.
/// The log must not be open.
pub(super) fn trim_log(shard: &Path) -> Result<()> {
    let dir = shard.join("wal");
    if !dir.is_dir() {
        return Ok(());
    }
    let mut closed: Vec<(u64, String)> =
        names(&dir)?.into_iter().filter_map(|name| Some((name.strip_prefix("closed-")?.parse().ok()?, name))).collect();
    closed.sort();
    closed.pop();
    for (_, name) in closed {
        remove(&dir.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn directory_names_are_safe_and_differ(a in "\\PC{1,200}", b in "\\PC{1,200}") {
            let id = Uuid::nil();
            let name = directory_name(&a, id);
            prop_assert!(name.len() < 200);
            prop_assert!(!name.starts_with('.'));
            prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_%~.".contains(&b)));
            prop_assert_eq!(a == b, name == directory_name(&b, id));
        }
    }

    #[test]
    fn a_newer_format_is_not_called_damage() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(ALIASES_FILE), br#"{"format": 99, "other": 1}"#).unwrap();
        let error = load_aliases(dir.path()).unwrap_err();
        assert!(error.to_string().contains("newer"), "{error}");
        fs::write(dir.path().join(ALIASES_FILE), br#"{"format": 1, "alia"#).unwrap();
        let error = load_aliases(dir.path()).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }
}
