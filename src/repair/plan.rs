//! What can be done about each damaged object.

use std::collections::{BTreeMap, BTreeSet};

use super::Source;
use super::report::{How, RepairAction};
use crate::copy::part_at;
use crate::error::Result;
use crate::repository::{Manifest, ObjectRef, Repository};
use crate::restore::{PartPlan, parts_of};
use crate::vectors::{PartName, VectorSetRecord};
use crate::verify::{DamagedObject, ObjectKind, Problem, committed, read_manifest, read_record};
use crate::workspace::Workspace;

/// A snapshot that parts can be computed from.
pub(super) struct Origin {
    pub(super) manifest: Manifest,
    pub(super) parts: Vec<PartPlan>,
    /// The id of the vector set that they make up.
    pub(super) set: String,
}

/// What is to be done, in the order in which it is done.
pub(super) struct Planned {
    /// One per damaged object.
    pub(super) actions: Vec<RepairAction>,
    /// By path: what the object should be.
    pub(super) recorded: BTreeMap<String, ObjectRef>,
    /// By path: parts that lie there and are what their name says.
    pub(super) right: BTreeMap<String, ObjectRef>,
    /// Snapshots that damaged parts and records follow from.
    pub(super) origins: Vec<Origin>,
    /// A manifest or an inventory could not be read, so there may be more of them.
    pub(super) blind: bool,
}

impl Planned {
    /// The snapshot that a part follows from.
    pub(super) fn origin_of(&self, name: &PartName) -> Option<&Origin> {
        self.origins.iter().find(|origin| origin.parts.iter().any(|part| part.name == *name))
    }
}

/// The name in the path of a part.
pub(super) fn part_name(path: &str) -> Option<PartName> {
    path.rsplit('/').next()?.parse().ok()
}

/// The id in the path of a snapshot's or vector set's record.
pub(super) fn record_id(path: &str) -> &str {
    let path = path.strip_suffix("/manifest.json").or_else(|| path.strip_suffix(".json")).unwrap_or(path);
    path.rsplit('/').next().unwrap_or_default()
}

/// Works out what can be done about each damaged object.
pub(super) async fn plan(
    workspace: &Workspace,
    repository: &Repository,
    sources: &[Source],
    damaged: Vec<DamagedObject>,
) -> Result<Planned> {
    let (origins, blind) = origins(workspace, repository, &damaged).await?;
    let (recorded, right) = (BTreeMap::new(), BTreeMap::new());
    let mut planned = Planned { actions: Vec::new(), recorded, right, origins, blind };
    for damaged in damaged {
        workspace.cancel.check()?;
        if let Some(recorded) = &damaged.recorded {
            planned.recorded.insert(damaged.object.clone(), recorded.clone());
        }
        let action = choose(repository, sources, &mut planned, damaged).await?;
        planned.actions.push(action);
    }
    // Objects first, then what is computed, then records over them.
    planned.actions.sort_by_key(|action| match action.how {
        How::Replica => 0,
        How::Record => 1,
        How::Compute => 2,
        How::Rebuild => 3,
        How::Nothing => 4,
    });
    Ok(planned)
}

async fn choose(
    repository: &Repository,
    sources: &[Source],
    planned: &mut Planned,
    damaged: DamagedObject,
) -> Result<RepairAction> {
    if damaged.what == Problem::Unreadable {
        let why = "the store did not give it, so nothing is known about it: see to the access, then run this again";
        return Ok(RepairAction::new(damaged, How::Nothing, None).failed(why.to_owned()));
    }
    if damaged.what == Problem::Newer {
        let why = "it may be in order: use a regrow at least as new as the one that wrote it";
        return Ok(RepairAction::new(damaged, How::Nothing, None).failed(why.to_owned()));
    }
    let path = damaged.object.clone();
    match damaged.kind {
        ObjectKind::Part => {
            if damaged.what != Problem::Missing
                && let Some(right) = part_at(repository, &path).await?
            {
                planned.right.insert(path, right);
                return Ok(RepairAction::new(damaged, How::Record, None));
            }
            if let Some(name) = holder(sources, planned, &path).await {
                return Ok(RepairAction::new(damaged, How::Replica, Some(name)));
            }
            let origin = part_name(&path).and_then(|name| planned.origin_of(&name).map(|_| ()));
            Ok(match origin {
                Some(()) => RepairAction::new(damaged, How::Compute, None),
                // Once what is damaged besides is mended, it may follow from that.
                None if planned.blind => RepairAction::new(damaged, How::Compute, None),
                None => RepairAction::new(damaged, How::Nothing, None).failed(
                    "no snapshot needs it any more, so nothing is lost: `regrow prune` removes it with its vector set"
                        .to_owned(),
                ),
            })
        }
        ObjectKind::VectorSet => {
            let id = record_id(&path);
            if planned.blind || planned.origins.iter().any(|origin| origin.set == id) {
                return Ok(RepairAction::new(damaged, How::Rebuild, None));
            }
            match holder(sources, planned, &path).await {
                Some(name) => Ok(RepairAction::new(damaged, How::Replica, Some(name))),
                None => Ok(RepairAction::new(damaged, How::Nothing, None).failed(
                    "no snapshot has these parts any more, so nothing is lost: `regrow prune` removes it".to_owned(),
                )),
            }
        }
        _ => match holder(sources, planned, &path).await {
            Some(name) => Ok(RepairAction::new(damaged, How::Replica, Some(name))),
            None => {
                let cost = cost(damaged.kind);
                Ok(RepairAction::new(damaged, How::Nothing, None).failed(cost))
            }
        },
    }
}

/// The first replica that seems to have the object: of the recorded size, or a record that proves itself. Whether the
/// bytes are right is seen when they are taken.
async fn holder(sources: &[Source], planned: &Planned, path: &str) -> Option<String> {
    for source in sources {
        if has(source, planned.recorded.get(path), path).await {
            return Some(source.name.clone());
        }
    }
    None
}

/// Whether a replica seems to have an object.
pub(super) async fn has(source: &Source, recorded: Option<&ObjectRef>, path: &str) -> bool {
    let repository = &source.repository;
    match (recorded, ObjectKind::of(path)) {
        (Some(recorded), _) => repository.size(path).await.is_ok_and(|size| size == Some(recorded.bytes)),
        (None, ObjectKind::Manifest) => read_manifest(repository, record_id(path)).await.is_ok(),
        (None, ObjectKind::VectorSet) => read_record(repository, record_id(path)).await.is_ok(),
        (None, _) => repository.get(path).await.is_ok_and(|bytes| !bytes.is_empty()),
    }
}

/// Snapshots that the damaged parts and vector sets follow from, newest first, until all have one. Only those of this
/// pipeline: the corpus of another one is not known here.
async fn origins(
    workspace: &Workspace,
    repository: &Repository,
    damaged: &[DamagedObject],
) -> Result<(Vec<Origin>, bool)> {
    let of = |kind| damaged.iter().filter(move |d| d.kind == kind && d.what != Problem::Unreadable);
    let mut parts: BTreeSet<PartName> = of(ObjectKind::Part).filter_map(|d| part_name(&d.object)).collect();
    let mut sets: BTreeSet<String> = of(ObjectKind::VectorSet).map(|d| record_id(&d.object).to_owned()).collect();
    let mut origins = Vec::new();
    let mut blind = false;
    if parts.is_empty() && sets.is_empty() {
        return Ok((origins, blind));
    }
    let ids = committed(&repository.sizes().await?);
    for id in ids.iter().rev() {
        if parts.is_empty() && sets.is_empty() {
            break;
        }
        // What cannot be read is damaged itself, and named.
        let Ok(manifest) = read_manifest(repository, id).await else {
            blind = true;
            continue;
        };
        if manifest.pipeline != workspace.pipeline.name {
            continue;
        }
        let plans = match parts_of(repository, &manifest, &workspace.cancel).await {
            Ok(plans) => plans,
            Err(e) if e.kind() == crate::ErrorKind::Cancelled => return Err(e),
            Err(_) => {
                blind = true;
                continue;
            }
        };
        let set = VectorSetRecord::id(
            repository,
            &manifest.model_fingerprint,
            &manifest.rules_fingerprint,
            plans.iter().map(|part| part.name),
        )?;
        let before = parts.len() + sets.len();
        parts.retain(|name| !plans.iter().any(|part| part.name == *name));
        sets.remove(&set);
        if parts.len() + sets.len() < before {
            origins.push(Origin { manifest, parts: plans, set });
        }
    }
    // Where all were found, what could not be read does not matter.
    blind &= !(parts.is_empty() && sets.is_empty());
    Ok((origins, blind))
}

/// What it costs that an object cannot be mended, and what to do.
fn cost(kind: ObjectKind) -> String {
    let cost = match kind {
        ObjectKind::Manifest | ObjectKind::Inventory | ObjectKind::Canaries => {
            "the snapshots that need it cannot be restored any more"
        }
        ObjectKind::Skipped => "the names of the documents that were left out are lost; a restore does not need them",
        ObjectKind::Captured | ObjectKind::Pack => {
            "documents in it can only be read from the corpus, as long as that has them unchanged"
        }
        ObjectKind::Drill => "the record of one drill is lost",
        ObjectKind::Key => "the secret of this key slot does not open the repository any more; another slot's does",
        _ => "what is in it is lost",
    };
    // Only then are packs compared with their digests before anything in them is shared.
    let again = if matches!(kind, ObjectKind::Captured | ObjectKind::Pack) { "snapshot --rehash" } else { "snapshot" };
    format!(
        "no replica has it: {cost}; if there is a copy anywhere, `regrow repair --from URL` takes it from there; \
         otherwise take a new snapshot now with `regrow {again}`, and `regrow forget` those that are named"
    )
}
