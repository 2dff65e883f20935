//! What of the previous snapshot may be taken over without reading the corpus again.

use std::collections::{HashMap, HashSet};

use futures::TryStreamExt;

use super::listing::Listing;
use crate::corpus::SourceObject;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::pipeline::{CaptureMode, CorpusSettings};
use crate::repository::{Manifest, ObjectRef, Repository, SkippedDocument, path};

/// What decides what an object's documents are, besides the object.
pub(super) struct Now<'a> {
    pub(super) corpus: &'a CorpusSettings,
    pub(super) rules: Digest,
    pub(super) model: Digest,
    pub(super) capture: CaptureMode,
}

/// Why the previous snapshot's documents cannot be taken over, if they cannot.
pub(super) fn differs(previous: &Manifest, now: &Now<'_>) -> Option<&'static str> {
    let recorded = &previous.corpus.settings;
    let corpus = now.corpus;
    // Globs decide which objects are listed, not what is in them.
    let same_reading = recorded.encoding == corpus.encoding
        && recorded.max_document_bytes == corpus.max_document_bytes
        && recorded.path_metadata == corpus.path_metadata
        && recorded.records == corpus.records
        && recorded.on_bad_document == corpus.on_bad_document;
    if recorded.url != corpus.url {
        Some("the corpus is in another place")
    } else if !same_reading {
        Some("the corpus is read with other settings")
    } else if previous.rules_fingerprint != now.rules {
        Some("the chunking rules are others")
    } else if previous.model_fingerprint != now.model {
        Some("the model is another")
    } else if previous.corpus.capture != now.capture {
        Some("documents are captured in another mode")
    } else if now.capture != CaptureMode::Reference && previous.captured.is_none() {
        Some("its documents were not captured")
    } else {
        None
    }
}

/// Time before a snapshot within which a file may have been written after it was read, without its time
/// showing it: file systems and stores count in steps of up to two seconds.
const RACY: i64 = 2_000_000;

/// Modifications from here on, in microseconds since 1970, prove nothing.
pub(super) fn racy_from(previous: &Manifest) -> i64 {
    previous.created.as_microsecond().saturating_sub(RACY)
}

/// Whether a write after the reading could have left this state. A version is never written again.
pub(super) fn is_racy(recorded: &SourceObject, now: &SourceObject, racy_from: i64) -> bool {
    recorded.modified >= racy_from && (recorded.version.is_none() || recorded.version != now.version)
}

/// The documents that a snapshot left out.
pub(crate) async fn skipped(repository: &Repository, manifest: &Manifest) -> Result<Vec<SkippedDocument>> {
    let Some(object) = &manifest.skipped else { return Ok(Vec::new()) };
    let bytes = repository.get_sealed_content(object).await?;
    bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            serde_json::from_slice(line).map_err(|e| {
                Error::new(ErrorKind::Damaged, "the list of skipped documents cannot be read")
                    .with("object", &object.path)
                    .because(e)
            })
        })
        .collect()
}

/// Whether nothing at all needs to be read: the same listing, none of it from the moments around the previous
/// snapshot, and nothing left out that may be readable by now.
pub(super) fn is_unchanged(previous: &Manifest, listing: &Listing, bad: bool, skipped: &[SkippedDocument]) -> bool {
    let settled = previous.corpus.newest.is_some_and(|newest| newest < racy_from(previous));
    settled && !bad && listing.is(&previous.corpus) && skipped.iter().all(|s| s.line.is_some())
}

/// Whether an object can be shared with a later snapshot; of format 1 they lie in the folder of their snapshot.
pub(super) fn is_shared(object: &ObjectRef) -> bool {
    !object.path.starts_with(path::SNAPSHOTS)
}

/// Looks for everything that would be taken over: a snapshot must not be built on objects that are gone. Their
/// digests are for `verify`.
pub(super) async fn check_objects(repository: &Repository, previous: &Manifest) -> Result<()> {
    let wanted: HashMap<&str, u64> = previous.objects().map(|o| (o.path.as_str(), o.bytes)).collect();
    let folders: HashSet<&str> = wanted.keys().filter_map(|p| p.rsplit_once('/')).map(|(folder, _)| folder).collect();
    let mut found = 0;
    for folder in folders {
        let mut objects = repository.list(folder);
        while let Some((name, bytes, _)) = objects.try_next().await? {
            found += usize::from(wanted.get(name.as_str()) == Some(&bytes));
        }
    }
    if found < wanted.len() {
        return Err(Error::new(ErrorKind::Damaged, "objects of the snapshot are missing or have another size")
            .with("snapshot", &previous.id)
            .with("objects", wanted.len() - found)
            .guidance("`regrow verify` names them and the snapshots they hurt"));
    }
    Ok(())
}
