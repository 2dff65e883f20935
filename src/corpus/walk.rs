//! The files of a directory, without losing any.
//!
//! A walk of our own, because object_store's leaves out what it cannot name (`notes#1`), and says nothing
//! of broken links.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::document::SourceObject;
use super::select::Selection;
use crate::error::{Error, ErrorKind, Result};

/// An error of the file system about one file or directory of the corpus.
pub(super) fn unreadable(what: &str, path: &str, e: io::Error) -> Error {
    Error::new(ErrorKind::BadDocument, what)
        .with("file", path)
        .guidance("check that it is there and that you may read it, or leave it out with `corpus.exclude`")
        .because(e)
}

/// Size, time and identity of a file.
pub(super) fn describe(path: String, meta: &Metadata) -> SourceObject {
    let modified = meta.modified().ok().map_or(0, |t| match t.duration_since(std::time::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |n| -n),
    });
    SourceObject { path, size: meta.len(), modified, etag: identity(meta), version: None }
}

/// Inode and change time: what no program sets back.
#[cfg(unix)]
fn identity(meta: &Metadata) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let changed = i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec());
    Some(format!("{}-{changed}", meta.ino()))
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> Option<String> {
    None
}

/// Whether a name that was listed is not there any more: deleted since, which is no problem of the corpus.
fn deleted(path: &Path, e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::NotFound
        && fs::symlink_metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

/// Entries of a directory that are looked at together, on all cores.
const TOGETHER: usize = 2048;

/// Calls `found` with every selected file and every problem, many at a time, until it returns false.
///
/// Holds one open directory per level, and a batch of its entries. Links to files and directories are followed; one
/// that leads back to a directory it is in is not, since all that it could show is listed there.
pub(super) fn walk(root: &Path, selection: &Selection, found: &mut dyn FnMut(Vec<Result<SourceObject>>) -> bool) {
    let mut levels: Vec<Level> = Vec::new();
    match open(root) {
        Ok((entries, real)) => {
            levels.push(Level { entries, ended: false, waiting: Vec::new(), below: String::new(), real })
        }
        Err(e) => {
            found(vec![Err(unreadable("the corpus directory cannot be read", ".", e))]);
        }
    }
    while let Some(level) = levels.last_mut() {
        if let Some((path, directory)) = level.waiting.pop() {
            match open(&directory) {
                Ok((_, real)) if levels.iter().any(|level| level.real == real) => {}
                Ok((entries, real)) => {
                    levels.push(Level { entries, ended: false, waiting: Vec::new(), below: format!("{path}/"), real });
                }
                Err(e) if deleted(&directory, &e) => {}
                Err(e) => {
                    if !found(vec![Err(unreadable("a directory cannot be read", &path, e))]) {
                        return;
                    }
                }
            }
            continue;
        }
        if level.ended {
            levels.pop();
            continue;
        }
        let mut batch = Vec::new();
        let mut items = Vec::new();
        let mut ended = false;
        // Directories among them are entered before the next batch, so that few of them wait.
        while batch.len() < TOGETHER {
            match level.entries.next() {
                None => ended = true,
                Some(Ok(entry)) => {
                    batch.push(entry);
                    continue;
                }
                Some(Err(e)) => {
                    // The rest of this directory cannot be listed.
                    items.push(Err(unreadable("a directory cannot be read", or_dot(&level.below), e)));
                    ended = true;
                }
            }
            break;
        }
        let below = level.below.as_str();
        let each = |entry: fs::DirEntry| look(&entry, below, selection);
        let looks: Vec<Look> = if batch.len() < TOGETHER / 32 {
            batch.into_iter().map(each).collect()
        } else {
            batch.into_par_iter().with_min_len(TOGETHER / 32).map(each).collect()
        };
        for look in looks {
            match look {
                Look::Skip => {}
                Look::Item(item) => items.push(item),
                Look::Enter(path, directory) => level.waiting.push((path, directory)),
            }
        }
        level.ended |= ended;
        if !items.is_empty() && !found(items) {
            return;
        }
    }
}

/// A directory that is being listed.
struct Level {
    entries: fs::ReadDir,
    /// It has no more entries.
    ended: bool,
    /// Directories in it, yet to be entered: path in the corpus, and where it is.
    waiting: Vec<(String, PathBuf)>,
    /// Path in the corpus, with a `/` unless it is the root.
    below: String,
    /// Without links.
    real: PathBuf,
}

enum Look {
    Skip,
    Item(Result<SourceObject>),
    Enter(String, PathBuf),
}

fn look(entry: &fs::DirEntry, below: &str, selection: &Selection) -> Look {
    let name = entry.file_name();
    let path = format!("{below}{}", name.to_string_lossy());
    if selection.leaves_out(&path) {
        return Look::Skip;
    }
    let kind = entry.file_type();
    // Most entries tell what they are without being looked at.
    if kind.as_ref().is_ok_and(fs::FileType::is_file) && !selection.takes(&path) {
        return Look::Skip;
    }
    let problem = |what: &str, e: io::Error| Look::Item(Err(unreadable(what, &path, e)));
    // A file's is asked for relative to its directory; links are followed.
    let meta = match kind {
        Ok(kind) if kind.is_file() || kind.is_dir() => entry.metadata(),
        _ => fs::metadata(entry.path()),
    };
    let meta = match meta {
        Ok(meta) => meta,
        Err(e) if deleted(&entry.path(), &e) => return Look::Skip,
        // A link to nowhere may have been a directory of documents.
        Err(e) if selection.takes(&path) || Selection::may_be_directory(&path) => {
            return problem("a file or link of the corpus cannot be read", e);
        }
        Err(_) => return Look::Skip,
    };
    if !meta.is_dir() && !selection.takes(&path) {
        return Look::Skip;
    }
    if name.to_str().is_none() {
        return problem("a name in the corpus is not UTF-8", io::ErrorKind::InvalidFilename.into());
    }
    if meta.is_file() {
        return Look::Item(Ok(describe(path, &meta)));
    }
    if !meta.is_dir() {
        return problem("not a regular file", io::ErrorKind::InvalidInput.into());
    }
    Look::Enter(path, entry.path())
}

fn open(path: &Path) -> io::Result<(fs::ReadDir, PathBuf)> {
    Ok((fs::read_dir(path)?, fs::canonicalize(path)?))
}

fn or_dot(below: &str) -> &str {
    if below.is_empty() { "." } else { below.trim_end_matches('/') }
}
