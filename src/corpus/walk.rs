//! The files of a directory, without losing any.
//!
//! A walk of our own, because object_store's leaves out what it cannot name (`notes#1`), and says nothing
//! of broken links.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

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

/// Calls `found` for every selected file and every problem, until it returns false.
///
/// Holds one open directory per level. Links to files and directories are followed; one that leads back
/// to a directory it is in is not, since all that it could show is listed there.
pub(super) fn walk(root: &Path, selection: &Selection, found: &mut dyn FnMut(Result<SourceObject>) -> bool) {
    let mut levels: Vec<(fs::ReadDir, String, PathBuf)> = Vec::new();
    match open(root) {
        Ok((entries, real)) => levels.push((entries, String::new(), real)),
        Err(e) => {
            found(Err(unreadable("the corpus directory cannot be read", ".", e)));
        }
    }
    while let Some((entries, below, _)) = levels.last_mut() {
        let entry = match entries.next() {
            None => {
                levels.pop();
                continue;
            }
            Some(Ok(entry)) => entry,
            Some(Err(e)) => {
                // The rest of this directory cannot be listed.
                let problem = unreadable("a directory cannot be read", or_dot(below), e);
                levels.pop();
                if !found(Err(problem)) {
                    return;
                }
                continue;
            }
        };
        let name = entry.file_name();
        let path = format!("{below}{}", name.to_string_lossy());
        if selection.leaves_out(&path) {
            continue;
        }
        let item = match look(&entry, name.to_str().is_some(), path, selection, &levels) {
            Look::Skip => continue,
            Look::Item(item) => item,
            Look::Enter(level) => {
                levels.push(level);
                continue;
            }
        };
        if !found(item) {
            return;
        }
    }
}

enum Look {
    Skip,
    Item(Result<SourceObject>),
    Enter((fs::ReadDir, String, PathBuf)),
}

fn look(
    entry: &fs::DirEntry,
    named: bool,
    path: String,
    selection: &Selection,
    levels: &[(fs::ReadDir, String, PathBuf)],
) -> Look {
    let problem = |what: &str, e: io::Error| Look::Item(Err(unreadable(what, &path, e)));
    // Follows links.
    let meta = match fs::metadata(entry.path()) {
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
    if !named {
        return problem("a name in the corpus is not UTF-8", io::ErrorKind::InvalidFilename.into());
    }
    if meta.is_file() {
        return Look::Item(Ok(describe(path, &meta)));
    }
    if !meta.is_dir() {
        return problem("not a regular file", io::ErrorKind::InvalidInput.into());
    }
    match open(&entry.path()) {
        Ok((_, real)) if levels.iter().any(|level| level.2 == real) => Look::Skip,
        Ok((entries, real)) => Look::Enter((entries, format!("{path}/"), real)),
        Err(e) if deleted(&entry.path(), &e) => Look::Skip,
        Err(e) => problem("a directory cannot be read", e),
    }
}

fn open(path: &Path) -> io::Result<(fs::ReadDir, PathBuf)> {
    Ok((fs::read_dir(path)?, fs::canonicalize(path)?))
}

fn or_dot(below: &str) -> &str {
    if below.is_empty() { "." } else { below.trim_end_matches('/') }
}
