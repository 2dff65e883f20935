//! `regrow copy`: the same repository in further places.
//!
//! A replica is byte for byte the repository: the same id, the same keys, the same objects; but not the temporary ones
//! (locks, receipts, marks). Only what is missing is copied. Objects named by the digest of their bytes are missing when
//! the replica's listing has none of that name and size; others when no commit record of the replica vouches for them,
//! and then what lies there is read and proven before it counts.
//!
//! Data goes first, commit records last, so a replica never shows half a snapshot, and a copy that was killed goes on
//! where it was. Every object is proven by its digest when it is read, and read back when it is written, unless the store
//! is trusted. A damaged object is not copied; the snapshots that need it stay out of the replica, by name, and the rest
//! goes on.
//!
//! Nothing committed is removed from a replica: what is kept there is its own matter (`forget --repository NAME`). What
//! *is* removed: an object that this copy, or one that did not finish, wrote wrongly, and that nothing refers to.

mod plan;
mod report;
mod run;
mod select;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::time::Instant;

use futures::TryStreamExt;

pub use report::{CopyMode, CopyReport, ReplicaReport};

pub(crate) use report::error_value;
pub(crate) use run::part_at;

use self::plan::ReplicaPlan;
use self::select::Selection;
use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use crate::pipeline::ReplicaSettings;
use crate::repository::{Lock, LockKind, Repository, path};
use crate::workspace::Workspace;

/// What is copied, and how.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// `latest`, ids or their beginnings; none: all.
    pub snapshots: Vec<String>,
    /// Vector sets, too: they can be derived, but a restore from the replica is faster with them.
    pub vectors: bool,
    /// Records of drills, too.
    pub drills: bool,
    /// Do not read back what was written.
    pub trust_store: bool,
    /// Copy, or only say what would be.
    pub mode: CopyMode,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self { snapshots: Vec::new(), vectors: true, drills: true, trust_store: false, mode: CopyMode::Copy }
    }
}

/// A replica to copy to: opened, or why it could not be.
pub struct CopyTarget {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// The repository; `Ok(None)` where there is none yet and none was to be made.
    pub repository: Result<Option<Repository>>,
    /// It was made for this copy.
    pub created: bool,
    /// Key slots that the source does not have.
    pub extra_keys: Vec<String>,
    /// Keeps a prune of the replica away; asked before anything is committed there.
    pub lock: Option<Arc<Lock>>,
}

/// Copies from the pipeline's repository, or the one chosen instead, to the replicas named in `to`: names of the pipeline, or
/// URLs; none: all of the pipeline's.
pub async fn copy(workspace: &Workspace, to: &[String], options: &CopyOptions) -> Result<CopyReport> {
    let places = match to {
        [] => workspace.other_repositories()?,
        names => names.iter().map(|name| workspace.place(name)).collect::<Result<Vec<_>>>()?,
    };
    if places.is_empty() {
        return Err(Error::new(ErrorKind::Configuration, "there is no replica to copy to")
            .guidance("add [[repository.replicas]] with name and url to the pipeline, or give one with --to"));
    }
    let chosen = workspace.chosen()?;
    if let Some(place) = places.iter().find(|place| place.url == chosen.url) {
        return Err(Error::new(ErrorKind::Configuration, "a repository is not copied to itself")
            .with("replica", &place.name)
            .with("url", &place.url));
    }
    let source = workspace.repository().await?;
    let lock = source.lock_to_read("copy", &workspace.events).await?;
    let copied = copy_locked(workspace, &source, &places, options).await;
    lock.release().await;
    copied
}

async fn copy_locked(
    workspace: &Workspace,
    source: &Repository,
    places: &[ReplicaSettings],
    options: &CopyOptions,
) -> Result<CopyReport> {
    let opening = places.iter().map(|place| open(workspace, source, place, options.mode));
    let targets = futures::future::join_all(opening).await;
    let locks: Vec<Arc<Lock>> = targets.iter().filter_map(|target| target.lock.clone()).collect();
    let copied = copy_to(source, targets, options, &workspace.events, &workspace.cancel).await;
    for lock in locks {
        lock.release().await;
    }
    copied
}

/// Opens one replica, and makes it first where it is not there.
async fn open(workspace: &Workspace, source: &Repository, place: &ReplicaSettings, mode: CopyMode) -> CopyTarget {
    let seeded = async {
        let bare = match workspace.bare_replica(place, mode == CopyMode::Copy) {
            Err(e) if e.kind() == ErrorKind::NotFound && mode != CopyMode::Copy => {
                return Ok((None, Seeded::default(), None));
            }
            other => other?,
        };
        let seeded = seed(source, &bare, mode != CopyMode::Copy).await?;
        if seeded.absent {
            return Ok((None, seeded, None));
        }
        let repository = workspace.open_replica(place).await?;
        let lock = match mode {
            CopyMode::Copy => Some(Arc::new(repository.lock(LockKind::Shared, "copy", &workspace.events).await?)),
            CopyMode::DryRun | CopyMode::Check => None,
        };
        Ok::<_, Error>((Some(repository), seeded, lock))
    };
    let (repository, seeded, lock) = match seeded.await {
        Ok((repository, seeded, lock)) => (Ok(repository), seeded, lock),
        Err(e) => (Err(e.with("replica", &place.name)), Seeded::default(), None),
    };
    let Seeded { created, extra_keys, .. } = seeded;
    CopyTarget { name: place.name.clone(), url: place.url.clone(), repository, created, extra_keys, lock }
}

/// What was found, or made, at the place of a replica.
#[derive(Debug, Default)]
pub(crate) struct Seeded {
    /// There is no repository, and none was to be made.
    absent: bool,
    pub(crate) created: bool,
    pub(crate) extra_keys: Vec<String>,
}

/// Brings the repository record and the key slots to a replica. A place that holds another repository is refused: two
/// histories in one place could never be told apart again.
pub(crate) async fn seed(source: &Repository, bare: &Repository, look_only: bool) -> Result<Seeded> {
    let mut seeded = Seeded::default();
    let own = source.identity().await?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "the source has no repository record").with("repository", source.url())
    })?;
    match bare.identity().await? {
        Some(id) if id == own => {}
        Some(id) => {
            return Err(Error::new(ErrorKind::Configuration, "the place of the replica holds another repository")
                .with("repository", bare.url())
                .with("id there", id)
                .with("id of the source", own)
                .guidance("give the replica a place of its own: an empty directory or prefix"));
        }
        None if look_only => {
            seeded.absent = true;
            return Ok(seeded);
        }
        None => {
            copy_small(source, bare, path::REPOSITORY).await?;
            seeded.created = true;
            // A store that replaces what it was told not to replace is no place for a repository.
            match bare.put_new(path::REPOSITORY, source.get(path::REPOSITORY).await?).await {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
                Ok(_) => {
                    bare.delete(path::REPOSITORY).await?;
                    return Err(crate::store::ignores_conditions().with("repository", bare.url()));
                }
            }
        }
    }
    let keys = |repository: &Repository| {
        let repository = repository.clone();
        async move { repository.list("keys").map_ok(|(name, ..)| name).try_collect::<Vec<String>>().await }
    };
    let (here, mut there) = (keys(source).await?, keys(bare).await?);
    for name in here.iter().filter(|name| !there.contains(name)) {
        if !look_only {
            copy_small(source, bare, name).await?;
        }
    }
    there.retain(|name| !here.contains(name));
    seeded.extra_keys = there;
    Ok(seeded)
}

async fn copy_small(source: &Repository, bare: &Repository, name: &str) -> Result<()> {
    let bytes = source.get(name).await?;
    match bare.put_new(name, bytes.clone()).await {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        other => drop(other?),
    }
    if bare.get(name).await? == bytes {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Damaged, "an object arrived at the replica with other bytes")
        .with("object", name)
        .with("replica", bare.url()))
}

/// Copies to replicas that are open. A replica that fails does not stop the others: its error is in the report.
pub async fn copy_to(
    source: &Repository,
    targets: Vec<CopyTarget>,
    options: &CopyOptions,
    events: &Events,
    cancel: &Cancel,
) -> Result<CopyReport> {
    let started = Instant::now();
    let selection = Selection::read(source, options, cancel).await?;
    let mut outcomes: Vec<(usize, ReplicaReport, Option<Error>)> = Vec::new();
    let mut plans = Vec::new();
    let mut places = Vec::new();
    let planning = targets.into_iter().enumerate().map(|(place, target)| {
        let selection = &selection;
        async move {
            let CopyTarget { name, url, repository, created, extra_keys, lock } = target;
            let report = ReplicaReport { name, url, created, extra_keys, ..ReplicaReport::default() };
            let planned = match repository {
                Err(e) => Err(e),
                // Where there is none, nothing is there.
                Ok(None) => {
                    let empty = Repository::over(Arc::new(object_store::memory::InMemory::new()), &report.url);
                    ReplicaPlan::make(empty, report.clone(), selection, cancel).await
                }
                Ok(Some(repository)) => ReplicaPlan::make(repository, report.clone(), selection, cancel).await,
            };
            let planned = planned.map(|plan| ReplicaPlan { lock, ..plan });
            (place, planned.map_err(|e| (report, e)))
        }
    });
    for (place, planned) in futures::future::join_all(planning).await {
        match planned {
            Ok(plan) => {
                places.push(place);
                plans.push(plan);
            }
            Err((_, e)) if e.kind() == ErrorKind::Cancelled => return Err(e),
            Err((report, e)) => outcomes.push((place, report, Some(e))),
        }
    }
    let mut damaged = selection.damaged.clone();
    let mut read = 0;
    if options.mode == CopyMode::Copy {
        let (done, found, bytes) = run::run(source, &selection, plans, options, events, cancel).await?;
        damaged.extend(found);
        read = bytes;
        for (place, (plan, error)) in places.into_iter().zip(done) {
            let mut report = plan.report;
            report.ok = error.is_none() && report.withheld.is_empty() && report.damaged.is_empty();
            outcomes.push((place, report, error));
        }
    } else {
        for (place, plan) in places.into_iter().zip(plans) {
            let ok = options.mode == CopyMode::DryRun || plan.complete();
            outcomes.push((place, ReplicaReport { ok, ..plan.report }, None));
        }
    }
    damaged.sort_by(|a, b| a.object.cmp(&b.object));
    outcomes.sort_by_key(|(place, ..)| *place);
    let first_error = outcomes.iter().find_map(|(.., error)| error.as_ref().map(Error::exit_code));
    let replicas: Vec<ReplicaReport> = outcomes
        .into_iter()
        .map(|(_, report, error)| match error {
            None => report,
            Some(e) => ReplicaReport { ok: false, error: Some(error_value(&e)), ..report },
        })
        .collect();
    let ok = damaged.is_empty() && replicas.iter().all(|replica| replica.ok);
    let exit_code = match (ok, first_error) {
        (true, _) => 0,
        (false, Some(code)) => code,
        (false, None) => ErrorKind::ValidationFailed.exit_code(),
    };
    let selected = |units: &[select::Unit]| units.iter().filter(|unit| unit.selected).count() as u64;
    Ok(CopyReport {
        verb: "copy",
        ok,
        exit_code,
        mode: options.mode,
        source: source.url().to_owned(),
        snapshots: selected(&selection.snapshots),
        vector_sets: selected(&selection.sets),
        damaged,
        bytes_read: read,
        bytes_copied: replicas.iter().map(|replica| replica.bytes_copied).sum(),
        replicas,
        seconds: started.elapsed().as_secs_f64(),
    })
}
