//! What differs between the snapshot and the corpus as it is now.

use std::fmt;

use futures::StreamExt;
use serde::Serialize;

use super::plan::{Prepared, RestorePlan};
use crate::error::{Error, ErrorKind, Result};
use crate::repository::{DocumentRow, InventoryReader};

/// A document that is not what the snapshot recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CorpusDifference {
    /// Document id.
    pub document_id: String,
    /// `changed`, `vanished`, `unreadable`, or `lost`: its captured copy is damaged, and the corpus has it no more.
    pub what: &'static str,
    /// Details.
    pub reason: String,
}

impl CorpusDifference {
    pub(super) fn new(row: &DocumentRow, what: &'static str, reason: impl Into<String>) -> Self {
        Self { document_id: row.document_id.clone(), what, reason: reason.into() }
    }
}

impl fmt::Display for CorpusDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}: {})", self.document_id, self.what, self.reason)
    }
}

/// Differences found so far: all are counted, the first thousand are kept by name.
#[derive(Debug, Default)]
pub(super) struct Differences {
    pub(super) count: u64,
    pub(super) named: Vec<CorpusDifference>,
}

const NAMED: usize = 1000;
/// How many an error text lists.
const LISTED: usize = 20;

impl Differences {
    pub(super) fn add(&mut self, difference: CorpusDifference) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(difference);
        }
    }

    /// The error that ends a restore which may not go on without these documents.
    pub(super) fn error(&self, snapshot: &str) -> Error {
        self.named.iter().take(LISTED).fold(
            Error::new(
                ErrorKind::CorpusDiffers,
                format!("{} document(s) changed or vanished since the snapshot", self.count),
            )
            .with("snapshot", snapshot)
            .guidance(
                "bring these documents back as they were, restore without them (--on-changed skip), \
                 or take a new snapshot of the corpus as it is and restore that",
            ),
            |error, difference| error.with("document", difference),
        )
    }
}

/// Objects asked about at once.
const CONCURRENT: usize = 32;

/// Before hours of embedding: looks for documents of parts that must be computed which are gone, or have
/// another size. (What has changed without changing its size is found by digest when it is read.)
pub(super) async fn check_corpus(prepared: &Prepared, plan: &RestorePlan) -> Result<Differences> {
    let mut differences = Differences::default();
    if prepared.from_captured {
        // All of them are read before anything is embedded: see `captured`.
        return Ok(differences);
    }
    let corpus = &prepared.corpus()?;
    let mut reader = InventoryReader::new(&prepared.repository, &prepared.manifest);
    let mut last_record_object = (String::new(), true);
    for part in plan.part_plans.iter().filter(|p| !p.stored) {
        prepared.workspace.cancel.check()?;
        let rows = reader.bucket(part.bucket).await?;
        let (records, files): (Vec<_>, Vec<_>) = rows.into_iter().partition(|r| r.line.is_some());
        let mut heads = futures::stream::iter(files)
            .map(async |row| {
                let found = corpus.pinned(&row.object).await;
                (row, found)
            })
            .buffer_unordered(CONCURRENT);
        while let Some((row, found)) = heads.next().await {
            match found {
                Ok(None) => differences.add(CorpusDifference::new(&row, "vanished", "there is no such object")),
                Ok(Some(object)) if object.size != row.object.size => {
                    let reason = format!("{} bytes recorded, {} now", row.object.size, object.size);
                    differences.add(CorpusDifference::new(&row, "changed", reason));
                }
                Ok(Some(_)) => {}
                Err(e) => differences.add(CorpusDifference::new(&row, "unreadable", e.to_string())),
            }
        }
        for row in records {
            if last_record_object.0 != row.object.path {
                let there = corpus.pinned(&row.object).await?.is_some();
                last_record_object = (row.object.path.clone(), there);
            }
            if !last_record_object.1 {
                let reason = format!("its file {} is gone", row.object.path);
                differences.add(CorpusDifference::new(&row, "vanished", reason));
            }
        }
    }
    Ok(differences)
}
