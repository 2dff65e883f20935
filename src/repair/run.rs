//! Mending, object by object.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::Source;
use super::plan::{Origin, Planned, has, part_name, record_id};
use super::report::{How, Outcome, RepairAction};
use crate::copy::part_at;
use crate::error::{Error, ErrorKind, Result};
use crate::repository::{FORMAT_VERSION, ObjectRef, Repository, path};
use crate::restore::{Computed, compute_parts};
use crate::vectors::{PartName, PartRef, VectorSetRecord};
use crate::verify::{ObjectKind, describe, is_recorded, read_manifest, read_record, sets};
use crate::workspace::Workspace;

/// Why a part or a vector set cannot be derived while more than itself is damaged.
const UNKNOWN: &str = "which snapshot it follows from is not known, because a manifest or an inventory is damaged, too";

/// A repair that is under way.
pub(super) struct Run<'a> {
    workspace: &'a Workspace,
    repository: &'a Repository,
    sources: &'a [Source],
    /// Parts as they lie there now, by path.
    now: BTreeMap<String, ObjectRef>,
    /// Records that were written again.
    pub(super) rewritten: Vec<String>,
    pub(super) bytes_copied: u64,
    pub(super) chunks_embedded: u64,
}

impl<'a> Run<'a> {
    pub(super) fn new(workspace: &'a Workspace, repository: &'a Repository, sources: &'a [Source]) -> Self {
        Self {
            workspace,
            repository,
            sources,
            now: BTreeMap::new(),
            rewritten: Vec::new(),
            bytes_copied: 0,
            chunks_embedded: 0,
        }
    }

    /// Does all that was planned; what fails is in its action.
    pub(super) async fn all(&mut self, mut planned: Planned) -> Result<Vec<RepairAction>> {
        let mut done = Vec::new();
        let mut compute = Vec::new();
        let mut rebuild = Vec::new();
        for action in std::mem::take(&mut planned.actions) {
            self.workspace.cancel.check()?;
            match action.how {
                How::Nothing => done.push(action),
                How::Record => {
                    if let Some(right) = planned.right.get(&action.object) {
                        self.now.insert(action.object.clone(), right.clone());
                    }
                    done.push(action.done());
                }
                How::Compute => compute.push(action),
                How::Rebuild => rebuild.push(action),
                How::Replica => match self.take(&planned, &action).await {
                    Ok(name) => done.push(RepairAction { replica: Some(name), ..action }.done()),
                    Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
                    // It can be computed, too.
                    Err(_) if part_name(&action.object).is_some_and(|name| planned.origin_of(&name).is_some()) => {
                        compute.push(RepairAction { how: How::Compute, replica: None, ..action });
                    }
                    Err(e) => done.push(action.failed(told(&e))),
                },
            }
        }
        let computed = self.compute(&planned, compute, &rebuild).await?;
        done.extend(computed);
        for action in rebuild {
            let origin = planned.origins.iter().find(|origin| origin.set == record_id(&action.object));
            let written = match origin {
                Some(origin) => self.rebuild(origin).await,
                None => Err(Error::new(ErrorKind::NotFound, UNKNOWN)),
            };
            done.push(match written {
                Ok(()) => action.done(),
                Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
                Err(e) => action.failed(told(&e)),
            });
        }
        if let Err(e) = self.update_records().await {
            if e.kind() == ErrorKind::Cancelled {
                return Err(e);
            }
            for action in done.iter_mut().filter(|a| a.kind == ObjectKind::Part && a.outcome == Outcome::Done) {
                action.outcome = Outcome::Failed;
                action.detail = Some(format!("the records of its vector sets could not be written: {}", told(&e)));
            }
        }
        Ok(done)
    }

    /// Takes an object from the first replica that has it right.
    async fn take(&mut self, planned: &Planned, action: &RepairAction) -> Result<String> {
        let path = &action.object;
        let recorded = planned.recorded.get(path);
        let mut last = Error::new(ErrorKind::NotFound, "no replica has it");
        for source in self.sources {
            if !has(source, recorded, path).await {
                continue;
            }
            match proven(&source.repository, recorded, path).await {
                Ok(bytes) => {
                    self.repository.replace(path, bytes.clone()).await?;
                    self.bytes_copied += bytes.len() as u64;
                    return Ok(source.name.clone());
                }
                Err(e) => last = e.with("replica", &source.name),
            }
        }
        Err(last)
    }

    /// Computes parts: those that are damaged, and those that a record to be rebuilt lacks. All of one snapshot at once.
    async fn compute(
        &mut self,
        planned: &Planned,
        actions: Vec<RepairAction>,
        rebuild: &[RepairAction],
    ) -> Result<Vec<RepairAction>> {
        let mut wanted: BTreeMap<String, BTreeSet<PartName>> = BTreeMap::new();
        let mut why: BTreeMap<PartName, String> = BTreeMap::new();
        for name in actions.iter().filter_map(|action| part_name(&action.object)) {
            match planned.origin_of(&name) {
                Some(origin) => {
                    wanted.entry(origin.manifest.id.clone()).or_default().insert(name);
                }
                None => {
                    why.insert(name, UNKNOWN.to_owned());
                }
            }
        }
        for action in rebuild {
            let Some(origin) = planned.origins.iter().find(|o| o.set == record_id(&action.object)) else { continue };
            for part in &origin.parts {
                if part_at(self.repository, &object_of(self.repository, origin, &part.name)).await?.is_none() {
                    wanted.entry(origin.manifest.id.clone()).or_default().insert(part.name);
                }
            }
        }
        for (snapshot, names) in wanted {
            match compute_parts(self.workspace, &snapshot, &names).await {
                Ok(Computed { parts, differences, chunks_embedded, .. }) => {
                    self.chunks_embedded += chunks_embedded;
                    let changed: Vec<String> = differences.iter().take(5).map(ToString::to_string).collect();
                    let changed = format!(
                        "the corpus does not have its documents as snapshot {snapshot} recorded them ({}): bring them \
                         back, or take a new snapshot",
                        changed.join("; ")
                    );
                    why.extend(names.iter().map(|name| (*name, changed.clone())));
                    for part in parts {
                        why.remove(&part.name()?);
                        self.now.insert(part.object.path.clone(), part.object);
                    }
                }
                Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
                Err(e) => why.extend(names.iter().map(|name| (*name, told(&e)))),
            }
        }
        Ok(actions
            .into_iter()
            .map(|action| match part_name(&action.object).and_then(|name| why.remove(&name)) {
                Some(why) => action.failed(why),
                None => action.done(),
            })
            .collect())
    }

    /// Writes the record of a vector set from the parts that follow from a snapshot.
    async fn rebuild(&mut self, origin: &Origin) -> Result<()> {
        let mut parts = Vec::with_capacity(origin.parts.len());
        for part in &origin.parts {
            let path = object_of(self.repository, origin, &part.name);
            let object = part_at(self.repository, &path).await?.ok_or_else(|| {
                Error::new(ErrorKind::Damaged, "a part of the vector set is missing and could not be computed")
                    .with("object", &path)
            })?;
            parts.push(PartRef { bucket: part.bucket, rows: object.rows.unwrap_or(0), object });
        }
        let manifest = &origin.manifest;
        let record = VectorSetRecord {
            format: FORMAT_VERSION,
            id: origin.set.clone(),
            created: jiff::Timestamp::now(),
            snapshot: manifest.id.clone(),
            model: manifest.model.clone(),
            model_fingerprint: manifest.model_fingerprint,
            rules: manifest.rules.clone(),
            rules_fingerprint: manifest.rules_fingerprint,
            bits: manifest.buckets.bits,
            rows: parts.iter().map(|part| part.rows).sum(),
            parts,
        };
        record.commit(self.repository).await?;
        self.rewritten.push(path::vector_set(&origin.set));
        Ok(())
    }

    /// Writes every record again that says something else of a mended part than what lies there.
    async fn update_records(&mut self) -> Result<()> {
        if self.now.is_empty() {
            return Ok(());
        }
        for id in sets(&self.repository.sizes().await?) {
            self.workspace.cancel.check()?;
            // A damaged one is named on its own.
            let Ok(mut record) = read_record(self.repository, &id).await else { continue };
            let mut changed = false;
            for part in &mut record.parts {
                let Some(now) = self.now.get(&part.object.path) else { continue };
                if now.digest != part.object.digest || now.bytes != part.object.bytes {
                    part.object = ObjectRef { rows: part.object.rows, ..now.clone() };
                    changed = true;
                }
            }
            if changed {
                record.commit(self.repository).await?;
                self.rewritten.push(path::vector_set(&id));
            }
        }
        Ok(())
    }
}

/// Where a part of a snapshot lies.
fn object_of(repository: &Repository, origin: &Origin, name: &PartName) -> String {
    let manifest = &origin.manifest;
    let (model, rules) = (&manifest.model_fingerprint, &manifest.rules_fingerprint);
    format!("{}/{name}", repository.parts_folder(path::VECTORS, model, rules))
}

/// The bytes of an object at a replica, proven to be right.
async fn proven(replica: &Repository, recorded: Option<&ObjectRef>, path: &str) -> Result<Bytes> {
    let bytes = replica.get(path).await?;
    let right = match (recorded, ObjectKind::of(path)) {
        (Some(recorded), _) => is_recorded(&bytes, recorded),
        // Without a recorded digest, the record itself is the proof, and the bytes must come the same twice.
        (None, ObjectKind::Manifest) => {
            read_manifest(replica, record_id(path)).await?;
            replica.get(path).await? == bytes
        }
        (None, ObjectKind::VectorSet) => {
            read_record(replica, record_id(path)).await?;
            replica.get(path).await? == bytes
        }
        (None, _) => replica.get(path).await? == bytes,
    };
    if right {
        return Ok(bytes);
    }
    Err(Error::new(ErrorKind::Damaged, "the replica's object is damaged, too").with("object", path))
}

/// An error and its next step, on one line.
fn told(error: &Error) -> String {
    match error.next_step() {
        Some(next) => format!("{}; {next}", describe(error)),
        None => describe(error),
    }
}
