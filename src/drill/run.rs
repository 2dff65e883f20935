//! Running a drill.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::record::{DrillFailure, DrillReport, Objective};
use crate::error::{Error, ErrorKind, Result, refused};
use crate::ids::timed_id;
use crate::measure::Machine;
use crate::repository::{Lock, Repository, path};
use crate::restore::{DocumentSource, OnChanged, Prepared, RestoreOptions, RestoreReport, run};
use crate::targets::{Purpose, Target};
use crate::workspace::Workspace;

/// How a drill is done.
#[derive(Debug, Clone)]
pub struct DrillOptions {
    /// `latest`, a snapshot id or the beginning of one.
    pub snapshot: String,
    /// Use vectors that are in the repository instead of computing all of them again.
    pub reuse: bool,
    /// What to do about documents that changed.
    pub on_changed: OnChanged,
    /// Where the documents come from.
    pub documents: DocumentSource,
}

/// Scratch collections of drills that died are removed when they are this old; a running drill's are younger.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// Restores into a scratch collection, validates, compares with the objectives, records, and cleans up
/// whatever happened before.
pub async fn drill(workspace: &Workspace, options: &DrillOptions) -> Result<DrillReport> {
    let clock = Instant::now();
    let started = jiff::Timestamp::now();
    let id = timed_id(started);
    let repository = workspace.repository().await?;
    let target = workspace.target()?;
    let lock = Arc::new(repository.lock_to_read("drill", &workspace.events).await?);
    let outcome = async {
        if !lock.is_absent() {
            return locked(workspace, options, &repository, target.as_ref(), &lock, (clock, started, id)).await;
        }
        // Where nothing can be written the drill still proves what it proves; its record is the report.
        let repository = repository.over_scratch()?;
        let workspace = &workspace.with_repository(repository.clone());
        locked(workspace, options, &repository, target.as_ref(), &lock, (clock, started, id)).await
    };
    let outcome = outcome.await;
    lock.release().await;
    outcome
}

async fn locked(
    workspace: &Workspace,
    options: &DrillOptions,
    repository: &Repository,
    target: &dyn Target,
    lock: &Arc<Lock>,
    (clock, started, id): (Instant, jiff::Timestamp, String),
) -> Result<DrillReport> {
    remove_abandoned(workspace, target, started).await?;
    let scratch = target.capabilities().names.fit(&format!("{}-drill-{id}", workspace.pipeline.collection()));
    // Parts computed for the drill lie apart: the drill proves that they can be derived, it does not replace any.
    let own_parts = format!("{}/{id}", path::DRILLS);
    let restore = RestoreOptions {
        snapshot: options.snapshot.clone(),
        on_changed: options.on_changed,
        documents: options.documents,
        reuse: options.reuse,
        fresh: true,
        promote: false,
        adopt: false,
        drop_previous: false,
        load_only: false,
        scratch: Some(scratch.clone()),
        parts_root: if options.reuse { path::VECTORS.to_owned() } else { own_parts.clone() },
    };
    let outcome = rehearse(workspace, restore, clock, lock).await;
    let cleaned = clean_up(target, repository, &scratch, &own_parts).await;
    if let Err(e) = &cleaned {
        workspace.events.warn(format!("the drill could not clean up after itself: {e}"));
    }
    let (report, manifest_created) = match outcome {
        Ok(outcome) => outcome,
        Err(e) => {
            let failure = DrillFailure::new(workspace, id, started, clock.elapsed().as_secs_f64(), &e, cleaned.is_ok());
            if let Err(e) = failure.store(repository).await {
                workspace.events.warn(format!("the failed drill could not be recorded: {e}"));
            }
            return Err(e);
        }
    };
    let report = judge(workspace, id, started, report, manifest_created, cleaned.is_ok());
    report.store(repository).await?;
    Ok(report)
}

async fn rehearse(
    workspace: &Workspace,
    options: RestoreOptions,
    clock: Instant,
    lock: &Arc<Lock>,
) -> Result<(RestoreReport, jiff::Timestamp)> {
    let prepared = Prepared::open(workspace, options).await?.under(lock.clone());
    let plan = prepared.plan().await?;
    let report = run(&prepared, &plan, clock).await?;
    Ok((report, plan.created))
}

fn judge(
    workspace: &Workspace,
    id: String,
    started: jiff::Timestamp,
    mut restore: RestoreReport,
    snapshot_created: jiff::Timestamp,
    cleaned_up: bool,
) -> DrillReport {
    let settings = &workspace.pipeline.drill;
    let age = started.duration_since(snapshot_created).as_secs_f64().max(0.0);
    let objective = |name, measured: f64, allowed: Option<f64>| Objective {
        name,
        measured,
        allowed,
        reached: allowed.is_none_or(|most| measured <= most),
    };
    let objectives = vec![
        objective("rto_seconds", restore.seconds.total, settings.rto_seconds),
        objective("rpo_seconds", age, settings.rpo_seconds),
    ];
    if restore.ok {
        let missed = objectives.iter().find(|o| !o.reached);
        if let Some(missed) = missed {
            restore.ok = false;
            let kind = if missed.name == "rto_seconds" { ErrorKind::RtoMissed } else { ErrorKind::RpoMissed };
            restore.exit_code = kind.exit_code();
        } else if !cleaned_up {
            restore.ok = false;
            restore.exit_code = ErrorKind::Target.exit_code();
        }
    }
    DrillReport {
        restore,
        drill: id,
        pipeline: workspace.pipeline.name.clone(),
        started,
        objectives,
        cleaned_up,
        machine: Machine::here(),
        tool_version: env!("CARGO_PKG_VERSION"),
    }
}

async fn clean_up(target: &dyn Target, repository: &Repository, scratch: &str, own_parts: &str) -> Result<()> {
    for name in target.list().await? {
        // A retry of the restore may have added a number to the name.
        let numbered = (2..10).map(|n| target.capabilities().names.fit(&format!("{scratch}-{n}"))).any(|n| n == name);
        if name == scratch || numbered {
            remove(target, repository, &name).await?;
        }
    }
    delete_all(repository, own_parts).await
}

/// Removes what lies below a prefix. Where nothing can be deleted it stays for `prune`, which reports it.
async fn delete_all(repository: &Repository, prefix: &str) -> Result<()> {
    match repository.delete_all(prefix).await {
        Err(e) if refused(&e) => Ok(()),
        other => other,
    }
}

async fn remove(target: &dyn Target, repository: &Repository, name: &str) -> Result<()> {
    let owned = match target.open_owned(name).await {
        Ok(owned) => owned,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    if owned.marker().purpose != Purpose::Drill {
        return Err(Error::new(ErrorKind::Target, "not a drill's collection").with("collection", name));
    }
    delete_all(repository, &path::receipts(owned.marker().instance)).await?;
    target.delete(owned).await
}

/// Removes what drills left behind that were killed. Where one process owns the target, no other drill can be
/// running, so nothing of theirs is kept.
async fn remove_abandoned(workspace: &Workspace, target: &dyn Target, now: jiff::Timestamp) -> Result<()> {
    let repository = workspace.repository().await?;
    // As far as the id, which begins with a digit.
    let prefix = target.capabilities().names.fit(&format!("{}-drill-2", workspace.pipeline.collection()));
    let exclusive = target.capabilities().exclusive;
    for name in target.list().await?.into_iter().filter(|n| n.starts_with(&prefix)) {
        let Ok(owned) = target.open_owned(&name).await else { continue };
        let age = now.duration_since(owned.marker().created).unsigned_abs();
        if owned.marker().purpose == Purpose::Drill && (exclusive || age > ABANDONED) {
            workspace.events.note(format!("removing {name}, left behind by a drill that did not finish"));
            remove(target, &repository, &name).await?;
        }
    }
    for folder in repository.folders(path::DRILLS).await? {
        let began = folder.split('-').next().and_then(|t| jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", t).ok());
        let age = began
            .and_then(|t| t.to_zoned(jiff::tz::TimeZone::UTC).ok())
            .map(|t| now.duration_since(t.timestamp()).unsigned_abs());
        if age.is_some_and(|age| age > ABANDONED) {
            delete_all(&repository, &format!("{}/{folder}", path::DRILLS)).await?;
        }
    }
    Ok(())
}
