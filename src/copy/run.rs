//! Copying: data first, commit records last, each object read once for all replicas.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::CopyOptions;
use super::plan::{ReplicaPlan, Todo, is_part};
use super::select::{Selection, Unit};
use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Events, Stage};
use crate::ids::Digest;
use crate::repository::{ObjectRef, Repository};
use crate::vectors::{PartName, VectorSetRecord, read_part};
use crate::verify::{DamagedObject, Problem, describe, read_manifest, read_record};

/// Objects under way at once.
const CONCURRENT: usize = 8;
/// Bytes of objects that are held at once, in megabytes; a larger object is held alone.
const MEGABYTES: usize = 256;
/// After so many objects in a row that a replica did not take, it is given up.
const FAILURES: u32 = 3;

/// A replica while it is copied to.
struct Replica {
    plan: ReplicaPlan,
    /// Objects that it does not have, and why.
    failed: BTreeMap<u32, String>,
    failures: u32,
    stopped: Option<Error>,
}

/// What all jobs share.
struct Shared {
    source: Repository,
    replicas: Vec<(Repository, Mutex<Replica>)>,
    trust: bool,
    events: Events,
    memory: Semaphore,
}

impl Shared {
    fn replica(&self, i: usize) -> MutexGuard<'_, Replica> {
        self.replicas[i].1.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of one object at the source.
struct Job {
    index: u32,
    read: u64,
    damaged: Option<(Problem, String)>,
}

/// Copies what the plans say. Returns the plans with their reports filled in, an error for each replica that was given
/// up, damaged objects of the source, and the bytes read from it.
pub(super) async fn run(
    source: &Repository,
    selection: &Selection,
    plans: Vec<ReplicaPlan>,
    options: &CopyOptions,
    events: &Events,
    cancel: &Cancel,
) -> Result<(Vec<(ReplicaPlan, Option<Error>)>, Vec<DamagedObject>, u64)> {
    let wanted: BTreeSet<u32> = plans.iter().flat_map(|plan| plan.objects.keys().copied()).collect();
    let total: u64 = plans.iter().map(|plan| plan.report.bytes_missing).sum();
    let replicas = plans.into_iter().map(|plan| {
        let failed = plan.blocked.iter().map(|i| (*i, "what lies in its place is damaged".to_owned())).collect();
        (plan.repository.clone(), Mutex::new(Replica { plan, failed, failures: 0, stopped: None }))
    });
    let shared = Arc::new(Shared {
        source: source.clone(),
        replicas: replicas.collect(),
        trust: options.trust_store,
        events: events.clone(),
        memory: Semaphore::new(MEGABYTES),
    });
    let started = std::time::Instant::now();
    events.start(Stage::Copy, Some(total), "bytes");
    let (mut damaged, mut read) = (Vec::new(), 0);
    let mut waiting = wanted.into_iter();
    let mut running: JoinSet<Result<Job>> = JoinSet::new();
    loop {
        while running.len() < CONCURRENT
            && let Some(index) = waiting.next()
        {
            let (shared, object) = (shared.clone(), selection.objects[index as usize].clone());
            running.spawn(async move { copy_object(&shared, index, &object).await });
        }
        let Some(job) = running.join_next().await else { break };
        let job = job??;
        cancel.check()?;
        read += job.read;
        if let Some((what, problem)) = job.damaged {
            let units = selection.snapshots.iter().map(|unit| ("snapshot", unit));
            let units = units.chain(selection.sets.iter().map(|unit| ("vector set", unit)));
            let hurts = units
                .filter(|(_, unit)| unit.objects.contains(&job.index))
                .map(|(kind, unit)| format!("{kind} {}", unit.id))
                .collect();
            let object = selection.objects[job.index as usize].clone();
            let mut found = DamagedObject::new(object.path.clone(), what, problem, hurts);
            found.recorded = Some(object);
            damaged.push(found);
        }
    }
    drop(running);
    let commits = (0..shared.replicas.len()).map(|i| commit(&shared, i, selection, cancel));
    for committed in futures::future::join_all(commits).await {
        committed?;
    }
    events.finish(Stage::Copy, started.elapsed().as_secs_f64());
    let shared = Arc::into_inner(shared)
        .ok_or_else(|| Error::new(ErrorKind::Unexpected, "a copy is still under way after all have ended"))?;
    let done = shared.replicas.into_iter().map(|(_, replica)| {
        let replica = replica.into_inner().unwrap_or_else(PoisonError::into_inner);
        (replica.plan, replica.stopped)
    });
    Ok((done.collect(), damaged, read))
}

/// Brings one object to every replica that lacks it.
async fn copy_object(shared: &Shared, index: u32, object: &ObjectRef) -> Result<Job> {
    let mut job = Job { index, read: 0, damaged: None };
    let mut lacking = Vec::new();
    for i in 0..shared.replicas.len() {
        let todo = {
            let replica = shared.replica(i);
            if replica.stopped.is_some() { None } else { replica.plan.objects.get(&index).copied() }
        };
        match todo {
            None => {}
            Some(Todo::Copy) => lacking.push(i),
            Some(Todo::Prove) => match prove(&shared.replicas[i].0, object).await {
                Ok(Proof::Same) => {}
                Ok(Proof::AsGood(other)) => drop(shared.replica(i).plan.adopted.insert(index, other)),
                Ok(Proof::Wrong) => lacking.push(i),
                Err(e) => shared.replica(i).fail(index, e),
            },
        }
    }
    if lacking.is_empty() {
        return Ok(job);
    }
    let megabytes = (object.bytes >> 20).clamp(1, MEGABYTES as u64) as u32;
    let _held = shared
        .memory
        .acquire_many(megabytes)
        .await
        .map_err(|e| Error::new(ErrorKind::Unexpected, "the limit of memory was taken away").because(e))?;
    let bytes = match shared.source.get_checked(object).await {
        // What was read wrongly once is not damaged.
        Err(e) if e.kind() == ErrorKind::Damaged => shared.source.get_checked(object).await,
        other => other,
    };
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(e) => {
            let missing = shared.source.size(&object.path).await.is_ok_and(|size| size.is_none());
            let what = match e.kind() {
                ErrorKind::Damaged if missing => Problem::Missing,
                ErrorKind::Damaged => Problem::Content,
                _ => Problem::Unreadable,
            };
            for i in lacking {
                shared.replica(i).failed.insert(index, "it is damaged in the source".to_owned());
            }
            job.damaged = Some((what, describe(&e)));
            return Ok(job);
        }
    };
    job.read = bytes.len() as u64;
    let arrivals = lacking.into_iter().map(|i| {
        let bytes = bytes.clone();
        async move {
            let arrived = arrive(&shared.replicas[i].0, object, bytes, shared.trust).await;
            let mut replica = shared.replica(i);
            match arrived {
                Ok(Proof::AsGood(other)) => drop(replica.plan.adopted.insert(index, other)),
                Ok(_) => {
                    replica.failures = 0;
                    replica.plan.report.objects_copied += 1;
                    replica.plan.report.bytes_copied += object.bytes;
                    shared.events.progress(Stage::Copy, object.bytes);
                }
                Err(e) => replica.fail(index, e),
            }
        }
    });
    futures::future::join_all(arrivals).await;
    Ok(job)
}

impl Replica {
    /// An object that the replica did not take. Without room or permission, or when it happens again and again, the
    /// replica is given up.
    fn fail(&mut self, index: u32, error: Error) {
        self.failed.insert(index, describe(&error));
        if error.kind() == ErrorKind::Damaged {
            return;
        }
        self.failures += 1;
        let hopeless = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::Denied | ErrorKind::Configuration);
        if self.stopped.is_none() && (hopeless || self.failures >= FAILURES) {
            self.stopped = Some(error);
        }
    }
}

/// What lies at the replica under an object's name.
enum Proof {
    /// The object.
    Same,
    /// A part with the same contents and other bytes.
    AsGood(ObjectRef),
    /// Something else, or nothing.
    Wrong,
}

/// Reads what lies at the replica, once more when it seems wrong: a commit record there may need it.
async fn prove(replica: &Repository, object: &ObjectRef) -> Result<Proof> {
    for _ in 0..2 {
        let found = match replica.digest(&object.path, |_| ()).await {
            Ok(found) => found,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Proof::Wrong),
            Err(e) => return Err(e),
        };
        if found == (object.bytes, object.digest) {
            return Ok(Proof::Same);
        }
    }
    if is_part(object)
        && let Some(other) = part_at(replica, &object.path).await?
    {
        return Ok(Proof::AsGood(other));
    }
    Ok(Proof::Wrong)
}

/// The part that lies at a path, when it is what its name says.
pub(crate) async fn part_at(repository: &Repository, path: &str) -> Result<Option<ObjectRef>> {
    let Ok(name) = path.rsplit('/').next().unwrap_or_default().parse::<PartName>() else { return Ok(None) };
    let Some(bytes) = repository.get_optional(path).await? else { return Ok(None) };
    let mut object = ObjectRef {
        path: path.to_owned(),
        bytes: bytes.len() as u64,
        digest: Digest::of(&bytes),
        rows: None,
        buckets: None,
    };
    let seal = repository.file_seal(path)?;
    match tokio::task::spawn_blocking(move || read_part(&name, bytes, &seal)).await? {
        Ok(rows) => object.rows = Some(rows.len() as u64),
        Err(_) => return Ok(None),
    }
    Ok(Some(object))
}

/// Writes an object, and reads it back unless the store is trusted. What arrived wrongly, or was left by a copy that did
/// not finish, is written over in one step: nothing is ever taken away.
async fn arrive(replica: &Repository, object: &ObjectRef, bytes: Bytes, trust: bool) -> Result<Proof> {
    for again in [false, true] {
        let written = match again {
            false => replica.put_new(&object.path, bytes.clone()).await,
            true => replica.replace(&object.path, bytes.clone()).await,
        };
        match written {
            Ok(_) if trust => return Ok(Proof::Same),
            Ok(_) => {}
            // Written in the meantime, or by an attempt whose answer was lost.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
        match prove(replica, object).await? {
            Proof::Wrong => {}
            proof => return Ok(proof),
        }
    }
    Err(Error::new(ErrorKind::Damaged, "an object arrived at the replica with other bytes, twice")
        .with("object", &object.path)
        .with("replica", replica.url())
        .guidance("the store, the network or this machine's memory is unreliable: look into that before anything else"))
}

/// Writes the commit records of one replica: of what is complete there.
async fn commit(shared: &Shared, i: usize, selection: &Selection, cancel: &Cancel) -> Result<()> {
    let target = &shared.replicas[i].0;
    let (drills, sets, snapshots, lock) = {
        let mut replica = shared.replica(i);
        if replica.stopped.is_some() {
            return Ok(());
        }
        let plan = &mut replica.plan;
        (std::mem::take(&mut plan.drills), plan.sets.clone(), plan.snapshots.clone(), plan.lock.clone())
    };
    // A prune may have taken what was found there.
    if let Some(lock) = lock
        && let Err(e) = lock.still_held().await
    {
        shared.replica(i).stopped = Some(e);
        return Ok(());
    }
    for name in drills {
        cancel.check()?;
        match copy_record(shared, target, &name).await {
            Ok(_) => shared.replica(i).plan.report.drills_copied += 1,
            Err(e) => {
                if shared.withhold(i, &name, e) {
                    return Ok(());
                }
            }
        }
    }
    for set in sets.into_iter().map(|set| &selection.sets[set]) {
        cancel.check()?;
        if shared.incomplete(i, "vector set", set, selection) {
            continue;
        }
        match commit_set(shared, i, set, selection).await {
            Ok(()) => shared.replica(i).plan.report.vector_sets_copied += 1,
            Err(e) => {
                if shared.withhold(i, &format!("vector set {}", set.id), e) {
                    return Ok(());
                }
            }
        }
    }
    for snapshot in snapshots.into_iter().map(|snapshot| &selection.snapshots[snapshot]) {
        cancel.check()?;
        if shared.incomplete(i, "snapshot", snapshot, selection) {
            continue;
        }
        match commit_snapshot(shared, target, snapshot).await {
            Ok(()) => shared.replica(i).plan.report.snapshots_copied.push(snapshot.id.clone()),
            Err(e) => {
                if shared.withhold(i, &format!("snapshot {}", snapshot.id), e) {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

impl Shared {
    /// Notes what could not be committed; true when the replica is given up.
    fn withhold(&self, i: usize, what: &str, error: Error) -> bool {
        let mut replica = self.replica(i);
        replica.plan.report.withheld.push(format!("{what}: {}", describe(&error)));
        replica.fail(u32::MAX, error);
        replica.stopped.is_some()
    }

    /// Whether an object of a snapshot or vector set is missing at the replica; it is named then.
    fn incomplete(&self, i: usize, kind: &str, unit: &Unit, selection: &Selection) -> bool {
        let mut replica = self.replica(i);
        let Some((index, why)) =
            unit.objects.iter().find_map(|index| replica.failed.get(index).map(|why| (*index, why.clone())))
        else {
            return false;
        };
        let text = format!("{kind} {}: {}: {why}", unit.id, selection.objects[index as usize].path);
        replica.plan.report.withheld.push(text);
        true
    }
}

/// The bytes of a small record that has no recorded digest: read twice, which must be equal.
async fn record_bytes(source: &Repository, name: &str) -> Result<Bytes> {
    let bytes = source.get(name).await?;
    if source.get(name).await? != bytes {
        return Err(Error::new(ErrorKind::Storage, "a record was read differently twice")
            .with("object", name)
            .with("repository", source.url())
            .transient());
    }
    Ok(bytes)
}

/// Copies a record as it is stored, and reads it back. One that is there with other bytes is an error.
async fn copy_record(shared: &Shared, target: &Repository, name: &str) -> Result<Bytes> {
    let bytes = record_bytes(&shared.source, name).await?;
    for _ in 0..2 {
        match target.put_new(name, bytes.clone()).await {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                if target.get(name).await? == bytes {
                    return Ok(bytes);
                }
                return Err(Error::new(ErrorKind::Damaged, "the replica has another record of this name")
                    .with("object", name)
                    .with("replica", target.url()));
            }
            Err(e) => return Err(e),
            Ok(_) => {}
        }
        if target.get(name).await? == bytes {
            return Ok(bytes);
        }
        // Written by this very call, and wrong: nobody may see it as committed.
        target.delete(name).await?;
    }
    Err(Error::new(ErrorKind::Damaged, "a record arrived at the replica with other bytes, twice")
        .with("object", name)
        .with("replica", target.url()))
}

async fn commit_set(shared: &Shared, i: usize, set: &Unit, selection: &Selection) -> Result<()> {
    let target = &shared.replicas[i].0;
    let mut record: VectorSetRecord = read_record(&shared.source, &set.id).await?;
    {
        let replica = shared.replica(i);
        for index in &set.objects {
            let Some(other) = replica.plan.adopted.get(index) else { continue };
            let path = &selection.objects[*index as usize].path;
            for part in record.parts.iter_mut().filter(|part| part.object.path == *path) {
                part.object = ObjectRef { rows: part.object.rows, ..other.clone() };
            }
        }
    }
    if record == read_record(&shared.source, &set.id).await? {
        copy_record(shared, target, &set.record).await?;
    } else {
        record.commit(target).await?;
    }
    if read_record(target, &set.id).await?.parts != record.parts {
        return Err(Error::new(ErrorKind::Damaged, "the replica has another record of this vector set")
            .with("object", &set.record)
            .with("replica", target.url()));
    }
    Ok(())
}

async fn commit_snapshot(shared: &Shared, target: &Repository, snapshot: &Unit) -> Result<()> {
    // It must be whole at the source now; it was when the copy began.
    let manifest = read_manifest(&shared.source, &snapshot.id).await?;
    copy_record(shared, target, &snapshot.record).await?;
    if read_manifest(target, &snapshot.id).await? == manifest {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Damaged, "the replica has another manifest of this snapshot")
        .with("object", &snapshot.record)
        .with("replica", target.url()))
}
