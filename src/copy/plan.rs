//! What one replica lacks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};

use super::report::ReplicaReport;
use super::select::{Selection, Unit};
use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::repository::{Lock, ObjectRef, Repository};
use crate::vectors::VectorSetRecord;
use crate::verify::{DamagedObject, ObjectKind, Problem, committed, describe, read_record};

/// What is to be done about an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Todo {
    /// It is not there.
    Copy,
    /// It is there, but no record of the replica vouches for it: it is read first.
    Prove,
}

/// One replica, with what it lacks.
pub(super) struct ReplicaPlan {
    pub(super) repository: Repository,
    /// By index into the selection's objects.
    pub(super) objects: BTreeMap<u32, Todo>,
    /// Objects that cannot be had there, because what lies in their place is damaged.
    pub(super) blocked: BTreeSet<u32>,
    /// Parts that lie there with other bytes than in the source and are as good: a part's name says what it is
    /// computed from, and two computations may differ in the last bits.
    pub(super) adopted: HashMap<u32, ObjectRef>,
    /// Indexes of the selection's snapshots and vector sets that are to be completed.
    pub(super) snapshots: Vec<usize>,
    pub(super) sets: Vec<usize>,
    pub(super) drills: Vec<String>,
    pub(super) report: ReplicaReport,
    pub(super) lock: Option<Arc<Lock>>,
}

/// Small records read at once.
const CONCURRENT: usize = 16;

impl ReplicaPlan {
    /// Compares a listing of the replica with what is to be there.
    pub(super) async fn make(
        repository: Repository,
        report: ReplicaReport,
        selection: &Selection,
        cancel: &Cancel,
    ) -> Result<Self> {
        let sizes = repository.sizes().await?;
        let mut plan = Self {
            repository,
            objects: BTreeMap::new(),
            blocked: BTreeSet::new(),
            adopted: HashMap::new(),
            snapshots: Vec::new(),
            sets: Vec::new(),
            drills: selection.drills.iter().filter(|name| !sizes.contains_key(*name)).cloned().collect(),
            report,
            lock: None,
        };
        let there = |unit: &Unit| sizes.contains_key(&unit.record);
        // What the replica's own records vouch for. Those of snapshots are the source's, byte for byte.
        let proven: BTreeSet<u32> =
            selection.snapshots.iter().filter(|s| there(s)).flat_map(|s| s.objects.iter().copied()).collect();
        let recorded = plan.recorded(selection, &sizes, cancel).await?;
        for (i, snapshot) in selection.snapshots.iter().enumerate().filter(|(_, s)| s.selected) {
            if there(snapshot) {
                plan.report.snapshots_there += 1;
            } else {
                plan.report.snapshots_missing.push(snapshot.id.clone());
                plan.snapshots.push(i);
            }
            for &index in &snapshot.objects {
                let object = &selection.objects[index as usize];
                match sizes.get(&object.path) {
                    None => plan.todo(index, Todo::Copy),
                    Some(size) if *size == object.bytes && proven.contains(&index) => {}
                    Some(size) if proven.contains(&index) => plan.damaged(index, object, *size),
                    Some(_) => plan.todo(index, Todo::Prove),
                }
            }
        }
        for (i, set) in selection.sets.iter().enumerate().filter(|(_, s)| s.selected) {
            let complete = there(set);
            if complete {
                plan.report.vector_sets_there += 1;
            } else {
                plan.report.vector_sets_missing += 1;
                plan.sets.push(i);
            }
            for &index in &set.objects {
                let object = &selection.objects[index as usize];
                match (sizes.get(&object.path), recorded.get(&object.path)) {
                    (None, Some(known)) if known.digest != object.digest => {
                        plan.damaged(index, known, 0);
                    }
                    (None, _) => plan.todo(index, Todo::Copy),
                    (Some(size), Some(known)) if *size == known.bytes => {
                        if known.digest != object.digest {
                            plan.adopted.insert(index, known.clone());
                        }
                    }
                    (Some(size), Some(known)) => plan.damaged(index, known, *size),
                    (Some(_), None) => plan.todo(index, Todo::Prove),
                }
            }
        }
        plan.count(selection, &sizes);
        Ok(plan)
    }

    /// What the replica's vector sets say of their parts.
    async fn recorded(
        &mut self,
        selection: &Selection,
        sizes: &BTreeMap<String, u64>,
        cancel: &Cancel,
    ) -> Result<HashMap<String, ObjectRef>> {
        let mut recorded = HashMap::new();
        if !selection.sets.iter().any(|set| set.selected) {
            return Ok(recorded);
        }
        let repository = self.repository.clone();
        let mut records = futures::stream::iter(crate::verify::sets(sizes))
            .map(async |id| {
                cancel.check()?;
                Ok::<_, Error>((read_record(&repository, &id).await, id))
            })
            .buffered(CONCURRENT);
        while let Some((record, id)) = records.try_next().await? {
            match record {
                Ok(VectorSetRecord { parts, .. }) => {
                    recorded.extend(parts.into_iter().map(|part| (part.object.path.clone(), part.object)));
                }
                Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
                Err(e) => self.report.damaged.push(DamagedObject::new(
                    crate::repository::path::vector_set(&id),
                    Problem::of(&e),
                    describe(&e),
                    vec![format!("vector set {id}")],
                )),
            }
        }
        Ok(recorded)
    }

    fn todo(&mut self, index: u32, todo: Todo) {
        self.objects.entry(index).or_insert(todo);
    }

    /// Something that the replica's records vouch for is not as they say.
    fn damaged(&mut self, index: u32, object: &ObjectRef, size: u64) {
        if self.blocked.insert(index) {
            let problem = format!("{} bytes recorded, {size} found", object.bytes);
            let what = if size == 0 { Problem::Missing } else { Problem::Size };
            self.report.damaged.push(DamagedObject::new(object.path.clone(), what, problem, Vec::new()));
        }
    }

    fn count(&mut self, selection: &Selection, sizes: &BTreeMap<String, u64>) {
        let units = || selection.snapshots.iter().chain(&selection.sets).filter(|unit| unit.selected);
        let needed: BTreeSet<u32> = units().flat_map(|unit| unit.objects.iter().copied()).collect();
        let missing = || self.objects.iter().filter(|(_, todo)| **todo == Todo::Copy).map(|(i, _)| *i);
        let report = &mut self.report;
        report.objects_missing = missing().count() as u64;
        report.bytes_missing = missing().map(|i| selection.objects[i as usize].bytes).sum();
        report.objects_unproven = self.objects.len() as u64 - report.objects_missing;
        report.objects_there = needed.len() as u64 - self.objects.len() as u64;
        let there = committed(sizes);
        let newest = |present: bool| {
            let snapshots = selection.snapshots.iter().filter(|s| !present || there.contains(&s.id));
            snapshots.map(|s| s.created).max()
        };
        if let (Some(source), Some(here)) = (newest(false), newest(true)) {
            report.behind_seconds = Some(source.duration_since(here).as_secs_f64().max(0.0));
        }
        report.extra_keys.sort();
    }

    /// Whether the replica has everything.
    pub(super) fn complete(&self) -> bool {
        self.objects.is_empty()
            && self.snapshots.is_empty()
            && self.sets.is_empty()
            && self.drills.is_empty()
            && self.report.damaged.is_empty()
    }
}

/// Whether an object is a part, and so may lie there with other bytes.
pub(super) fn is_part(object: &ObjectRef) -> bool {
    ObjectKind::of(&object.path) == ObjectKind::Part
}
