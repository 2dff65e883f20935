//! What is to be copied: read from the source once, for all replicas.

use std::collections::{BTreeMap, HashMap};

use futures::{StreamExt, TryStreamExt};

use super::CopyOptions;
use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::repository::{Manifest, ObjectRef, Repository, path};
use crate::vectors::VectorSetRecord;
use crate::verify::{
    DamagedObject, ObjectKind, Problem, committed, describe, read_manifest, read_record, sets, vector_set_of,
};

/// A snapshot or a vector set, with the objects that must be there before its commit record.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) id: String,
    /// Path of the commit record.
    pub(super) record: String,
    pub(super) created: jiff::Timestamp,
    /// Whether it is to be copied.
    pub(super) selected: bool,
    /// Indexes into [`Selection::objects`].
    pub(super) objects: Vec<u32>,
}

/// All snapshots and vector sets of the source, those that are to be copied marked. One entry per object, one number
/// per use of it.
#[derive(Debug, Default)]
pub(super) struct Selection {
    pub(super) objects: Vec<ObjectRef>,
    index: HashMap<(String, Digest), u32>,
    pub(super) snapshots: Vec<Unit>,
    pub(super) sets: Vec<Unit>,
    pub(super) drills: Vec<String>,
    /// Records of the source that are damaged.
    pub(super) damaged: Vec<DamagedObject>,
}

/// Small records read at once.
const CONCURRENT: usize = 16;

impl Selection {
    pub(super) async fn read(source: &Repository, options: &CopyOptions, cancel: &Cancel) -> Result<Self> {
        let mut this = Self::default();
        let sizes: BTreeMap<String, u64> = source.sizes().await?;
        let wanted = chosen(&committed(&sizes), &options.snapshots)?;
        let mut chosen_sets = Vec::new();
        let mut manifests = futures::stream::iter(committed(&sizes))
            .map(async |id| {
                cancel.check()?;
                Ok::<_, Error>((read_manifest(source, &id).await, id))
            })
            .buffered(CONCURRENT);
        while let Some((manifest, id)) = manifests.try_next().await? {
            let selected = wanted.as_ref().is_none_or(|wanted| wanted.contains(&id));
            let record = path::manifest(&id);
            match manifest {
                Ok(manifest) => {
                    if selected && wanted.is_some() && options.vectors {
                        chosen_sets.extend(this.set_of(source, &manifest, cancel).await?);
                    }
                    let objects = manifest.objects().map(|object| this.add(object)).collect();
                    this.snapshots.push(Unit { id, record, created: manifest.created, selected, objects });
                }
                Err(e) => this.bad(record, format!("snapshot {id}"), &e)?,
            }
        }
        drop(manifests);
        if options.vectors {
            let mut records = futures::stream::iter(sets(&sizes))
                .map(async |id| {
                    cancel.check()?;
                    Ok::<_, Error>((read_record(source, &id).await, id))
                })
                .buffered(CONCURRENT);
            while let Some((record, id)) = records.try_next().await? {
                let path = path::vector_set(&id);
                match record {
                    Ok(VectorSetRecord { created, parts, .. }) => {
                        let selected = wanted.is_none() || chosen_sets.contains(&id);
                        let objects = parts.iter().map(|part| this.add(&part.object)).collect();
                        this.sets.push(Unit { id, record: path, created, selected, objects });
                    }
                    Err(e) => this.bad(path, format!("vector set {id}"), &e)?,
                }
            }
        }
        if options.drills {
            this.drills = sizes.keys().filter(|name| ObjectKind::of(name) == ObjectKind::Drill).cloned().collect();
        }
        Ok(this)
    }

    /// The vector set of a snapshot that is copied by name. An inventory that cannot be read is named when it is copied.
    async fn set_of(&self, source: &Repository, manifest: &Manifest, cancel: &Cancel) -> Result<Option<String>> {
        match vector_set_of(source, manifest, cancel).await {
            Ok(id) => Ok(Some(id)),
            Err(e) if e.kind() == ErrorKind::Cancelled => Err(e),
            Err(_) => Ok(None),
        }
    }

    fn add(&mut self, object: &ObjectRef) -> u32 {
        let next = self.objects.len() as u32;
        let index = *self.index.entry((object.path.clone(), object.digest)).or_insert(next);
        if index == next {
            self.objects.push(object.clone());
        }
        index
    }

    fn bad(&mut self, object: String, hurts: String, error: &Error) -> Result<()> {
        if error.kind() == ErrorKind::Cancelled {
            return Err(Error::new(ErrorKind::Cancelled, "stopped"));
        }
        self.damaged.push(DamagedObject::new(object, Problem::of(error), describe(error), vec![hurts]));
        Ok(())
    }
}

/// The ids that are meant; `None`: all.
fn chosen(ids: &[String], wanted: &[String]) -> Result<Option<Vec<String>>> {
    if wanted.is_empty() {
        return Ok(None);
    }
    let mut chosen = Vec::new();
    for word in wanted {
        let matching: Vec<&String> = match word.as_str() {
            "latest" => ids.last().into_iter().collect(),
            word => ids.iter().filter(|id| id.starts_with(word)).collect(),
        };
        match matching.as_slice() {
            [id] => chosen.push((*id).clone()),
            [] => {
                return Err(Error::new(ErrorKind::NotFound, "there is no such snapshot")
                    .with("snapshot", word)
                    .guidance("`regrow list` shows the snapshots"));
            }
            _ => {
                return Err(Error::new(ErrorKind::Configuration, "several snapshots begin like this")
                    .with("snapshot", word)
                    .guidance("give more of the id"));
            }
        }
    }
    Ok(Some(chosen))
}
