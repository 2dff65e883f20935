//! Where things are, and whether one lies in another.

use std::path::{Component, Path, PathBuf};

use url::Url;

use super::Findings;
use crate::corpus::Selection;
use crate::pipeline::settings::*;

/// Schemes of stores that can be listed and written.
const SCHEMES: [&str; 9] = ["file", "s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss"];
/// Schemes whose user part names a container instead of a person.
const CONTAINER_IN_USER: [&str; 2] = ["abfs", "abfss"];

impl Pipeline {
    pub(super) fn check_places(&self, base: &Path, f: &mut Findings) {
        let corpus = place("corpus.url", &self.corpus.url, base, &["http", "https"], f);
        let repository = place("repository.url", &self.repository.url, base, &[], f);
        if let Some(source) = &self.model.source {
            place("model.source", source, base, &["http", "https"], f);
        }
        let database = match (&self.target.kind, &self.target.path) {
            (TargetKind::Embedded, Some(path)) if path.trim().is_empty() || path.contains("://") => {
                f.problem("target.path", "this is not a directory", "the embedded database needs a local directory");
                None
            }
            (TargetKind::Embedded, Some(path)) => Some(Place::Local(clean(&base.join(path)))),
            (TargetKind::Embedded, None) => {
                f.problem(
                    "target.path",
                    "the embedded database has no directory",
                    "add path = \"database\" to [target]",
                );
                None
            }
            (TargetKind::Memory, Some(_)) => {
                f.warnings.push("target.path: the memory target keeps nothing on disk, so the path is not used".into());
                None
            }
            // What is wrong with a server's path is a finding of the target.
            _ => None,
        };
        if let Some(golden) = &self.validation.golden {
            f.require(!golden.trim().is_empty(), "validation.golden", "the path is empty", "name a JSONL file");
        }

        for (key, own) in [("repository.url", &repository), ("target.path", &database)] {
            let (Some(corpus), Some(own)) = (&corpus, own) else { continue };
            let Some(inside) = own.inside(corpus) else {
                if corpus.inside(own).is_some() {
                    f.warnings.push(format!("{key}: the corpus lies inside it; keep the two apart"));
                }
                continue;
            };
            if inside.is_empty() {
                f.problem(key, "this is the corpus's own place", "give it a place of its own");
            } else if !self.leaves_out(&inside) {
                f.problem(
                    key,
                    "this lies inside the corpus, so every run would read regrow's own files as documents",
                    format!("put it elsewhere, or add \"{inside}/**\" to corpus.exclude"),
                );
            }
        }
        if let (Some(repository), Some(database)) = (&repository, &database)
            && (database.inside(repository).is_some() || repository.inside(database).is_some())
        {
            f.problem("target.path", "repository and database lie in one another", "give each a place of its own");
        }
    }

    /// Whether nothing below this path of the corpus is ever taken.
    fn leaves_out(&self, inside: &str) -> bool {
        if !self.corpus.hidden && inside.split('/').any(|name| name.starts_with('.')) {
            return true;
        }
        Selection::new(&self.corpus).is_ok_and(|s| s.leaves_out(&format!("{inside}/a/b.md")))
    }
}

/// Where something is kept, for telling whether one place holds another.
pub(super) enum Place {
    Local(PathBuf),
    Remote { store: String, path: String },
}

impl Place {
    /// The path of `self` relative to `other`, `/`-separated, when it lies in it; empty when they are the same.
    pub(super) fn inside(&self, other: &Self) -> Option<String> {
        match (self, other) {
            (Self::Local(own), Self::Local(other)) => {
                let rest = own.strip_prefix(other).ok()?;
                Some(rest.components().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/"))
            }
            (Self::Remote { store: a, path: own }, Self::Remote { store: b, path: other }) if a == b => {
                if other.is_empty() || own == other {
                    return Some(own.strip_prefix(other.as_str())?.to_owned());
                }
                Some(own.strip_prefix(other.as_str())?.strip_prefix('/')?.to_owned())
            }
            _ => None,
        }
    }
}

/// Resolves `.` and `..` by name alone: the place need not exist yet.
fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}

/// Reads a directory or URL, reporting what is wrong with it under `key`.
pub(super) fn place(key: &str, text: &str, base: &Path, also: &[&str], f: &mut Findings) -> Option<Place> {
    if text.trim().is_empty() {
        f.problem(key, "this is empty", "give a directory or a URL such as s3://bucket/prefix");
        return None;
    }
    if !text.contains("://") {
        return Some(Place::Local(clean(&base.join(text))));
    }
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(e) => {
            f.problem(key, format!("this is not a URL: {e}"), "give a directory or a URL such as s3://bucket/prefix");
            return None;
        }
    };
    // The text itself is never quoted below: it may hold a secret.
    let user_is_a_secret = !url.username().is_empty() && !CONTAINER_IN_USER.contains(&url.scheme());
    if url.password().is_some() || user_is_a_secret {
        f.problem(
            key,
            "the URL holds a user name or password",
            "remove it: credentials come from the store's usual environment variables or the machine's own role",
        );
        return None;
    }
    if url.query().is_some() || url.fragment().is_some() {
        f.problem(
            key,
            "the URL holds a query or fragment, which names no prefix and may be a signed secret",
            "give the plain URL; credentials come from the store's usual environment variables",
        );
        return None;
    }
    let scheme = url.scheme();
    if !SCHEMES.contains(&scheme) && !also.contains(&scheme) {
        let mut known = SCHEMES.to_vec();
        known.extend(also);
        f.problem(
            key,
            format!("`{scheme}://` is no store that regrow knows"),
            format!("use one of {}", known.join(", ")),
        );
        return None;
    }
    if scheme == "file" {
        return match url.to_file_path() {
            Ok(path) => Some(Place::Local(clean(&path))),
            Err(()) => {
                f.problem(key, "this file URL has no absolute path", "write it with three slashes: file:///data/docs");
                None
            }
        };
    }
    if url.host_str().is_none_or(str::is_empty) {
        f.problem(key, "the URL names no bucket", "write it like s3://bucket/prefix");
        return None;
    }
    let store = format!("{scheme}://{}@{}:{:?}", url.username(), url.host_str().unwrap_or_default(), url.port());
    Some(Place::Remote { store, path: url.path().trim_matches('/').to_owned() })
}
