//! The collection a restore writes into: found, continued or created.

use std::collections::HashMap;

use futures::TryStreamExt;

use super::plan::{Prepared, RestorePlan};
use crate::error::{Error, ErrorKind, Result, refused};
use crate::ids::Digest;
use crate::repository::path;
use crate::targets::{
    CollectionInfo, CollectionSpec, CollectionState, Filter, Marker, OwnedCollection, Purpose, checks,
};
use crate::vectors::PartRef;

/// The collection, and what is in it already.
pub(super) struct Destination {
    pub(super) collection: OwnedCollection,
    /// Every point is in and it passed its checks once.
    pub(super) ready: bool,
    /// Parts that are durably in it, by file name, with what was loaded.
    pub(super) receipts: HashMap<String, PartRef>,
}

/// Names tried before giving up.
const ATTEMPTS: usize = 50;

/// Finds the collection to work on. One with the same content that is unfinished is continued; one that is
/// finished is taken as it is, unless `fresh`; otherwise a new one is created under the next free name.
pub(super) async fn destination(
    prepared: &Prepared,
    plan: &RestorePlan,
    key: Digest,
    fresh: bool,
) -> Result<Destination> {
    let base = match &prepared.options.scratch {
        Some(name) => name.clone(),
        None => format!("{}-{}", plan.collection, &key.to_string()[..8]),
    };
    let target = &prepared.target;
    let names = target.capabilities().names;
    for attempt in 1..=ATTEMPTS {
        let name = names.fit(&if attempt == 1 { base.clone() } else { format!("{base}-{attempt}") });
        let owned = match target.open_owned(&name).await {
            Ok(owned) => owned,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let collection = target.create(&spec(prepared, name, key)).await?;
                return Ok(Destination { collection, ready: false, receipts: HashMap::new() });
            }
            Err(e) if e.retryable() => return Err(e),
            // Somebody else's, or beyond recognition: never touched.
            Err(e) => {
                prepared.workspace.events.note(format!("{name} is left alone: {e}"));
                continue;
            }
        };
        if owned.marker().restore_key != key {
            continue;
        }
        let usable = target.describe(&name).await.map(|info| info.is_some());
        match (owned.marker().state, usable) {
            (CollectionState::Ready, Ok(true)) if !fresh => {
                return Ok(Destination { collection: owned, ready: true, receipts: HashMap::new() });
            }
            (CollectionState::Loading, Ok(true)) => {
                let receipts = receipts(prepared, &owned).await?;
                let durable: u64 = receipts.values().map(|part| part.rows).sum();
                // A server that crashed may have lost what it had confirmed: an unlogged table is empty then.
                if target.count(&name, &Filter::default()).await? < durable {
                    prepared.workspace.events.warn(format!("{name} is replaced: the target has lost points of it"));
                    forget(prepared, &owned).await?;
                    target.delete(owned).await?;
                    let collection = target.create(&spec(prepared, name, key)).await?;
                    return Ok(Destination { collection, ready: false, receipts: HashMap::new() });
                }
                prepared.workspace.events.note(format!("continuing {name}: {} parts are in it", receipts.len()));
                return Ok(Destination { collection: owned, ready: false, receipts });
            }
            (CollectionState::Failed, _) | (CollectionState::Loading, _) => {
                prepared.workspace.events.note(format!("{name} is replaced: it is unfinished and unusable"));
                forget(prepared, &owned).await?;
                target.delete(owned).await?;
                let collection = target.create(&spec(prepared, name, key)).await?;
                return Ok(Destination { collection, ready: false, receipts: HashMap::new() });
            }
            (CollectionState::Ready, _) => {}
        }
    }
    Err(Error::new(ErrorKind::AlreadyExists, "no free name for the collection")
        .with("tried", format!("{base} to {base}-{ATTEMPTS}"))
        .guidance("delete collections that are not needed any more"))
}

/// Before anything is computed: whether the production name can become this restore's at all. What stands in its way and may
/// be taken over is returned.
pub(super) async fn check_production(prepared: &Prepared) -> Result<Option<CollectionInfo>> {
    if prepared.options.scratch.is_some() || !prepared.options.promote {
        return Ok(None);
    }
    let target = &prepared.target;
    let name = prepared.workspace.pipeline.collection();
    checks::fits("production name", name, &target.capabilities().names)?;
    let Some(info) = target.describe(name).await? else { return Ok(None) };
    if info.name != name {
        return Ok(None);
    }
    let foreign = info.marker.is_none();
    if !target.capabilities().rename || (foreign && !prepared.options.adopt) {
        return Err(checks::alias_is_physical(name));
    }
    Ok(foreign.then_some(info))
}

/// Takes over the collection that has the production name, so that it can be renamed.
pub(super) async fn adopt(prepared: &Prepared) -> Result<()> {
    let Some(info) = check_production(prepared).await? else { return Ok(()) };
    // What its vectors were made with nobody knows: no model has these fingerprints, so nothing takes them for its own.
    let unknown = Digest::of(b"adopted");
    let marker = Marker {
        instance: uuid::Uuid::new_v4(),
        restore_key: unknown,
        snapshot: "adopted".to_owned(),
        model_fingerprint: unknown,
        rules_fingerprint: unknown,
        purpose: Purpose::Restore,
        state: CollectionState::Ready,
        created: jiff::Timestamp::UNIX_EPOCH,
    };
    prepared.target.adopt(&info.name, marker).await?;
    prepared.workspace.events.note(format!("{} is regrow's now, as --adopt asked", info.name));
    Ok(())
}

/// The collection to make.
pub(super) fn spec(prepared: &Prepared, name: String, key: Digest) -> CollectionSpec {
    let manifest = &prepared.manifest;
    let settings = &prepared.workspace.pipeline.target;
    CollectionSpec {
        name,
        dimension: manifest.model.dimension as usize,
        metric: manifest.model.metric,
        index: settings.index.clone(),
        payload_indexes: prepared.workspace.pipeline.payload_indexes(),
        own: prepared.own(),
        roles: prepared.roles(),
        marker: Marker {
            instance: uuid::Uuid::new_v4(),
            restore_key: key,
            snapshot: manifest.id.clone(),
            model_fingerprint: manifest.model_fingerprint,
            rules_fingerprint: manifest.rules_fingerprint,
            purpose: if prepared.options.scratch.is_some() { Purpose::Drill } else { Purpose::Restore },
            state: CollectionState::Loading,
            created: jiff::Timestamp::now(),
        },
    }
}

/// What was durably loaded into this very collection.
async fn receipts(prepared: &Prepared, owned: &OwnedCollection) -> Result<HashMap<String, PartRef>> {
    let repository = &prepared.repository;
    let folder = path::receipts(owned.marker().instance);
    let names: Vec<String> = repository.list(&folder).map_ok(|(name, ..)| name).try_collect().await?;
    let mut receipts = HashMap::new();
    for name in names {
        // An unreadable receipt only means that its part is loaded again.
        let part = match repository.get_json::<PartRef>(&name).await {
            Err(e) if e.kind() != ErrorKind::Damaged => return Err(e),
            part => part,
        };
        if let Ok(part) = part {
            let file = part.object.path.rsplit('/').next().unwrap_or_default().to_owned();
            receipts.insert(file, part);
        }
    }
    Ok(receipts)
}

/// Removes the receipts of a collection.
pub(super) async fn forget(prepared: &Prepared, owned: &OwnedCollection) -> Result<()> {
    match prepared.repository.delete_all(&path::receipts(owned.marker().instance)).await {
        // They are of this collection alone; where nothing can be deleted they are in nobody's way.
        Err(e) if refused(&e) => Ok(()),
        other => other,
    }
}

/// Notes that a part is durably in the collection.
pub(super) async fn receipt(prepared: &Prepared, owned: &OwnedCollection, part: &PartRef) -> Result<()> {
    let file = part.object.path.rsplit('/').next().unwrap_or_default();
    let name = format!("{}/{file}.json", path::receipts(owned.marker().instance));
    match prepared.repository.put_json(&name, part).await {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other.map(drop),
    }
}
