//! `regrow verify`: re-reads and re-hashes what the repository holds.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use super::layout::path;
use super::manifest::{Manifest, ObjectRef};
use super::store::Repository;
use crate::cancel::Cancel;
use crate::error::{ErrorKind, Result};
use crate::event::{Events, Stage};
use crate::vectors::VectorSetRecord;

/// How thorough to be.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// Only look whether objects are there with the right size; read nothing but manifests.
    pub quick: bool,
}

/// An object that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamagedObject {
    /// Its path.
    pub object: String,
    /// What is wrong.
    pub problem: String,
    /// Snapshots and vector sets that need it.
    pub hurts: Vec<String>,
    /// It can be derived again from the corpus: a restore does so by itself.
    pub derivable: bool,
}

/// Report of `regrow verify`.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// Always `verify`.
    pub verb: &'static str,
    /// True when nothing is damaged.
    pub ok: bool,
    /// Process exit code.
    pub exit_code: u8,
    /// Repository.
    pub repository: String,
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Vector sets looked at.
    pub vector_sets: u64,
    /// Objects looked at.
    pub objects: u64,
    /// Bytes read and hashed (only looked up with `quick`).
    pub bytes: u64,
    /// What is damaged or missing.
    pub damaged: Vec<DamagedObject>,
}

/// Objects read at once.
const CONCURRENT: usize = 4;

/// Checks every snapshot and vector set of a repository.
pub async fn verify(
    repository: &Repository,
    options: &VerifyOptions,
    events: &Events,
    cancel: &Cancel,
) -> Result<VerifyReport> {
    let mut damaged = Vec::new();
    let mut needed: BTreeMap<String, (ObjectRef, Vec<String>, bool)> = BTreeMap::new();
    let mut need = |object: &ObjectRef, by: &str, derivable: bool| {
        let entry = needed.entry(object.path.clone()).or_insert_with(|| (object.clone(), Vec::new(), derivable));
        entry.1.push(by.to_owned());
    };
    let snapshots = Manifest::ids(repository).await?;
    for id in &snapshots {
        match Manifest::read(repository, id).await {
            Ok(manifest) => {
                let by = format!("snapshot {id}");
                manifest.objects().for_each(|o| need(o, &by, false));
            }
            Err(e) if matches!(e.kind(), ErrorKind::Damaged | ErrorKind::Configuration) => {
                damaged.push(DamagedObject {
                    object: path::manifest(id),
                    problem: describe(&e),
                    hurts: vec![format!("snapshot {id}")],
                    derivable: false,
                });
            }
            Err(e) => return Err(e),
        }
    }
    let records: Vec<String> = repository.list(path::VECTOR_SETS).map_ok(|(name, ..)| name).try_collect().await?;
    for name in &records {
        let id = name.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
        match VectorSetRecord::read(repository, id).await {
            Ok(record) => {
                let by = format!("vector set {id}");
                record.parts.iter().for_each(|p| need(&p.object, &by, true));
            }
            Err(e) => damaged.push(DamagedObject {
                object: name.clone(),
                problem: describe(&e),
                hurts: vec![format!("vector set {id}")],
                derivable: true,
            }),
        }
    }
    let objects = needed.len() as u64;
    let total: u64 = needed.values().map(|(o, ..)| o.bytes).sum();
    let sizes: BTreeMap<String, u64> = if options.quick {
        let mut sizes = BTreeMap::new();
        for prefix in [path::SNAPSHOTS, path::VECTORS] {
            sizes.extend(repository.list(prefix).map_ok(|(n, s, _)| (n, s)).try_collect::<Vec<_>>().await?);
        }
        sizes
    } else {
        BTreeMap::new()
    };
    let started = std::time::Instant::now();
    events.start(Stage::Verify, Some(total), "bytes");
    let sizes = &sizes;
    let mut checks = futures::stream::iter(needed.into_values())
        .map(async |(object, hurts, derivable)| {
            cancel.check()?;
            let problem = if options.quick {
                match sizes.get(&object.path) {
                    None => Some("missing".to_owned()),
                    Some(size) if *size != object.bytes => {
                        Some(format!("{} bytes expected, {size} found", object.bytes))
                    }
                    Some(_) => None,
                }
            } else {
                match repository.get_checked(&object).await {
                    Ok(_) => None,
                    Err(e) if e.kind() == ErrorKind::Damaged => Some(describe(&e)),
                    Err(e) => return Err(e),
                }
            };
            events.progress(Stage::Verify, object.bytes);
            Ok(problem.map(|problem| DamagedObject { object: object.path, problem, hurts, derivable }))
        })
        .buffer_unordered(CONCURRENT);
    while let Some(found) = checks.next().await {
        damaged.extend(found?);
    }
    events.finish(Stage::Verify, started.elapsed().as_secs_f64());
    damaged.sort_by(|a, b| a.object.cmp(&b.object));
    let ok = damaged.is_empty();
    Ok(VerifyReport {
        verb: "verify",
        ok,
        exit_code: if ok { 0 } else { ErrorKind::ValidationFailed.exit_code() },
        repository: repository.url().to_owned(),
        snapshots: snapshots.len() as u64,
        vector_sets: records.len() as u64,
        objects,
        bytes: total,
        damaged,
    })
}

fn describe(error: &crate::Error) -> String {
    let causes = error.causes();
    if causes.is_empty() { error.to_string() } else { format!("{error}: {}", causes.join(": ")) }
}
