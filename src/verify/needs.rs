//! What snapshots and vector sets need, and whether their records are in order.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};

use super::kind::ObjectKind;
use super::report::{DamagedObject, Problem};
use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::repository::{Captured, Counts, Manifest, ObjectRef, Repository, path};
use crate::restore::parts_of;
use crate::vectors::VectorSetRecord;

/// An object that something needs.
#[derive(Debug, Clone)]
pub(super) struct Need {
    pub(super) kind: ObjectKind,
    /// Bits of the snapshot's buckets, for inventories.
    pub(super) bits: u8,
    /// What it must be. More than one where records disagree, which happens when a part was computed again.
    pub(super) wants: Vec<Want>,
}

impl Need {
    /// Its recorded size.
    pub(super) fn bytes(&self) -> u64 {
        self.wants.first().map_or(0, |want| want.object.bytes)
    }
}

/// What some users say that an object is.
#[derive(Debug, Clone)]
pub(super) struct Want {
    pub(super) object: ObjectRef,
    /// Who: indexes into [`Needs::users`].
    pub(super) users: Vec<u32>,
}

/// What is recorded over the objects of a snapshot, to be compared with their sums.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) id: String,
    pub(super) counts: Counts,
    pub(super) inventory: Vec<ObjectRef>,
    pub(super) captured: Option<Captured>,
}

/// Everything that is needed: one entry per object.
#[derive(Debug, Default)]
pub(super) struct Needs {
    pub(super) objects: BTreeMap<String, Need>,
    pub(super) users: Vec<String>,
    pub(super) counted: Vec<Counted>,
    pub(super) damaged: Vec<DamagedObject>,
    pub(super) snapshots: u64,
    pub(super) vector_sets: u64,
}

/// Small records read at once.
const CONCURRENT: usize = 16;

impl Needs {
    /// Reads the records of all snapshots and vector sets, or of one snapshot and its vector set.
    pub(super) async fn gather(
        repository: &Repository,
        sizes: &BTreeMap<String, u64>,
        snapshot: Option<&str>,
        cancel: &Cancel,
    ) -> Result<Self> {
        let mut needs = Self::default();
        let (ids, sets) = match snapshot {
            None => (committed(sizes), sets(sizes)),
            Some(wanted) => {
                let manifest = Manifest::find(repository, wanted, None).await?;
                let set = vector_set_of(repository, &manifest, cancel).await;
                // An inventory that cannot be read is found below, and named.
                let sets = set.into_iter().filter(|id| sizes.contains_key(&path::vector_set(id))).collect();
                (vec![manifest.id], sets)
            }
        };
        needs.snapshots = ids.len() as u64;
        needs.vector_sets = sets.len() as u64;
        let mut manifests = futures::stream::iter(ids)
            .map(async |id| {
                cancel.check()?;
                Ok::<_, Error>((read_manifest(repository, &id).await, id))
            })
            .buffered(CONCURRENT);
        while let Some((manifest, id)) = manifests.try_next().await? {
            let user = needs.user(format!("snapshot {id}"));
            match manifest {
                Ok(manifest) => {
                    for object in manifest.objects() {
                        needs.need(object, user, manifest.buckets.bits);
                    }
                    let Manifest { counts, inventory, captured, .. } = manifest;
                    needs.counted.push(Counted { id, counts, inventory, captured });
                }
                Err(e) => needs.record(path::manifest(&id), user, &e)?,
            }
        }
        drop(manifests);
        let mut records = futures::stream::iter(sets)
            .map(async |id| {
                cancel.check()?;
                Ok::<_, Error>((read_record(repository, &id).await, id))
            })
            .buffered(CONCURRENT);
        while let Some((record, id)) = records.try_next().await? {
            let user = needs.user(format!("vector set {id}"));
            match record {
                Ok(record) => record.parts.iter().for_each(|part| needs.need(&part.object, user, 0)),
                Err(e) => needs.record(path::vector_set(&id), user, &e)?,
            }
        }
        drop(records);
        Ok(needs)
    }

    fn user(&mut self, name: String) -> u32 {
        self.users.push(name);
        (self.users.len() - 1) as u32
    }

    fn need(&mut self, object: &ObjectRef, user: u32, bits: u8) {
        let kind = ObjectKind::of(&object.path);
        let need = self.objects.entry(object.path.clone()).or_insert(Need { kind, bits, wants: Vec::new() });
        let same = |want: &&mut Want| want.object.bytes == object.bytes && want.object.digest == object.digest;
        match need.wants.iter_mut().find(same) {
            Some(want) => {
                if want.users.last() != Some(&user) {
                    want.users.push(user);
                }
            }
            None => need.wants.push(Want { object: object.clone(), users: vec![user] }),
        }
    }

    /// A record that is not in order is a finding, whatever the reason, unless the run was stopped.
    fn record(&mut self, object: String, user: u32, error: &Error) -> Result<()> {
        if error.kind() == ErrorKind::Cancelled {
            return Err(Error::new(ErrorKind::Cancelled, "stopped"));
        }
        let hurts = self.users[user as usize].clone();
        self.damaged.push(DamagedObject::new(object, Problem::of(error), describe(error), vec![hurts]));
        Ok(())
    }
}

/// Snapshots whose manifest is there, oldest first.
pub(crate) fn committed(sizes: &BTreeMap<String, u64>) -> Vec<String> {
    let id = |name: &String| {
        Some(name.strip_prefix(path::SNAPSHOTS)?.strip_prefix('/')?.strip_suffix("/manifest.json")?.to_owned())
    };
    sizes.keys().filter_map(id).filter(|id| !id.contains('/')).collect()
}

/// Vector sets whose record is there.
pub(crate) fn sets(sizes: &BTreeMap<String, u64>) -> Vec<String> {
    let id = |name: &String| {
        Some(name.strip_prefix(path::VECTOR_SETS)?.strip_prefix('/')?.strip_suffix(".json")?.to_owned())
    };
    sizes.keys().filter_map(id).filter(|id| !id.contains('/')).collect()
}

/// Reads a manifest, which must name objects by their own digests.
pub(crate) async fn read_manifest(repository: &Repository, id: &str) -> Result<Manifest> {
    let manifest = Manifest::read(repository, id).await?;
    for object in manifest.objects() {
        let stem = object.path.rsplit('/').next().and_then(|file| file.split('.').next()).unwrap_or_default();
        let named =
            object.path.starts_with(path::SNAPSHOTS) || stem.parse::<Digest>().is_ok_and(|d| d == object.digest);
        if !named {
            return Err(Error::new(ErrorKind::Damaged, "the manifest names an object by another digest than its own")
                .with("object", path::manifest(id))
                .with("named", &object.path));
        }
    }
    Ok(manifest)
}

/// Reads the record of a vector set and checks that it is consistent in itself.
pub(crate) async fn read_record(repository: &Repository, id: &str) -> Result<VectorSetRecord> {
    let record = VectorSetRecord::read(repository, id).await?;
    let wrong = |what: &str| {
        Err(Error::new(ErrorKind::Damaged, "the record of a vector set is not consistent")
            .with("object", path::vector_set(id))
            .with("problem", what))
    };
    if record.id != id {
        return wrong("it is another vector set's");
    }
    if record.rows != record.parts.iter().map(|part| part.rows).sum::<u64>() {
        return wrong("its rows are not the sum of its parts' rows");
    }
    let mut names = Vec::with_capacity(record.parts.len());
    for part in &record.parts {
        let name = match part.name() {
            Ok(name) if name.bucket == part.bucket && name.bits == record.bits => name,
            _ => return wrong("a part has another bucket than its name says"),
        };
        if part.object.rows.is_some_and(|rows| rows != part.rows) {
            return wrong("a part's rows are given twice, differently");
        }
        names.push(name);
    }
    if names.windows(2).any(|pair| pair[0].bucket >= pair[1].bucket) {
        return wrong("its parts are not in the order of their buckets");
    }
    let (model, rules) = (&record.model_fingerprint, &record.rules_fingerprint);
    if VectorSetRecord::id(repository, model, rules, names.into_iter())? != id {
        return wrong("its id does not follow from its parts");
    }
    if record.model.fingerprint()? != record.model_fingerprint {
        return wrong("its model has another fingerprint");
    }
    Ok(record)
}

/// The id of the vector set that a complete restore of a snapshot makes.
pub(crate) async fn vector_set_of(repository: &Repository, manifest: &Manifest, cancel: &Cancel) -> Result<String> {
    let parts = parts_of(repository, manifest, cancel).await?;
    let (model, rules) = (&manifest.model_fingerprint, &manifest.rules_fingerprint);
    VectorSetRecord::id(repository, model, rules, parts.iter().map(|part| part.name))
}

/// An error with its causes, on one line.
pub(crate) fn describe(error: &Error) -> String {
    let causes = error.causes();
    if causes.is_empty() { error.to_string() } else { format!("{error}: {}", causes.join(": ")) }
}
