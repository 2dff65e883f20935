//! `regrow repair`: what `verify` finds, mended.
//!
//! | damaged | mended from |
//! | --- | --- |
//! | any object whose digest is recorded | a replica that has it with that digest |
//! | manifest, record of a drill, `repository.json` | a replica's, if it proves itself |
//! | part | itself, if it is what its name says and only a record is out of date; a replica; else computed again from the corpus |
//! | record of a vector set | the parts that follow from a snapshot's inventory, computed where they are missing |
//!
//! Nothing is removed before its replacement is at hand, and nothing but what is damaged is touched. Killed at any moment,
//! the same command goes on: what was mended is in order, what was not is found again.
//!
//! What cannot be mended is named with what it costs and what to do.

mod plan;
mod report;
mod run;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Instant;

pub use report::{How, Outcome, RepairAction, RepairReport};

use self::plan::plan;
use self::run::Run;
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::ReplicaSettings;
use crate::repository::{LockKind, Repository, identity_of, path};
use crate::verify::{DamagedObject, ObjectKind, Problem, VerifyOptions, describe, examine};
use crate::workspace::Workspace;

/// How a repair is done.
#[derive(Debug, Clone, Default)]
pub struct RepairOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Take objects from this replica only: a name of the pipeline, or a URL.
    pub from: Option<String>,
    /// How thoroughly damage is looked for.
    pub verify: VerifyOptions,
}

/// A repository that objects can be taken from.
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) repository: Repository,
}

/// A manifest or an inventory that is there again shows what else is damaged, or how to mend it; so often it is looked
/// again.
const ROUNDS: usize = 3;

/// Finds what is damaged in the pipeline's repository, or the one chosen instead, and mends it.
pub async fn repair(workspace: &Workspace, options: &RepairOptions) -> Result<RepairReport> {
    let started = Instant::now();
    let place = workspace.chosen()?;
    let sources = sources(workspace, options).await?;
    let mut report = RepairReport::new(&place.url, options.dry_run);
    let Some((repository, sources)) = opened(workspace, &place, sources, options.dry_run, &mut report).await? else {
        return Ok(report.finish(started));
    };
    report.repository = repository.url().to_owned();
    if options.dry_run {
        mend(workspace, &repository, &sources, options, &mut report).await?;
        return Ok(report.finish(started));
    }
    let lock = repository.lock(LockKind::Shared, "repair", &workspace.events).await?;
    let mended = mend(workspace, &repository, &sources, options, &mut report).await;
    lock.release().await;
    mended?;
    Ok(report.finish(started))
}

/// Looks and mends until nothing more comes to light.
async fn mend(
    workspace: &Workspace,
    repository: &Repository,
    sources: &[Source],
    options: &RepairOptions,
    report: &mut RepairReport,
) -> Result<()> {
    let mut touched = BTreeSet::new();
    let mut given_up = BTreeSet::new();
    for _ in 0..ROUNDS {
        let found = examine(repository, &options.verify, None, &workspace.events, &workspace.cancel).await?;
        report.damaged += found.damaged.iter().filter(|d| !touched.contains(&d.object)).count() as u64;
        let damaged: Vec<_> = found.damaged.into_iter().filter(|d| !given_up.contains(&d.object)).collect();
        if damaged.is_empty() {
            break;
        }
        touched.extend(damaged.iter().map(|damaged| damaged.object.clone()));
        let planned = plan(workspace, repository, sources, damaged).await?;
        if options.dry_run {
            report.actions.extend(planned.actions);
            break;
        }
        let mut run = Run::new(workspace, repository, sources);
        let mut actions = run.all(planned).await?;
        touched.extend(run.rewritten);
        report.bytes_copied += run.bytes_copied;
        report.chunks_embedded += run.chunks_embedded;
        let shows_more = |a: &RepairAction| matches!(a.kind, ObjectKind::Manifest | ObjectKind::Inventory);
        let more = actions.iter().any(|a| shows_more(a) && a.outcome == Outcome::Done);
        if more {
            // What follows from an inventory that is there again is tried again.
            actions.retain(|a| a.outcome == Outcome::Done || !a.kind.derivable());
        }
        given_up.extend(actions.iter().filter(|a| a.outcome != Outcome::Done).map(|a| a.object.clone()));
        report.actions.extend(actions);
        if !more {
            break;
        }
    }
    if !options.dry_run && !touched.is_empty() {
        let full = VerifyOptions::default();
        let after = examine(repository, &full, Some(&touched), &workspace.events, &workspace.cancel).await?;
        report.remaining = after.damaged;
    }
    Ok(())
}

/// The repositories that objects can be taken from. One that was named must open; others are passed over with a warning.
async fn sources(workspace: &Workspace, options: &RepairOptions) -> Result<Vec<Source>> {
    let places: Vec<ReplicaSettings> = match &options.from {
        Some(name) => vec![workspace.place(name)?],
        None => workspace.other_repositories()?,
    };
    let mut sources = Vec::new();
    for place in places {
        match workspace.open_replica(&place).await {
            Ok(repository) => sources.push(Source { name: place.name, repository }),
            Err(e) if options.from.is_some() => return Err(e),
            Err(e) => workspace.events.warn(format!("the replica {} is passed over: {}", place.name, describe(&e))),
        }
    }
    Ok(sources)
}

/// Opens the repository, after mending its record; and leaves out sources that are of another repository. `None` where a dry run
/// ends with the record.
async fn opened(
    workspace: &Workspace,
    place: &ReplicaSettings,
    mut sources: Vec<Source>,
    dry_run: bool,
    report: &mut RepairReport,
) -> Result<Option<(Repository, Vec<Source>)>> {
    let repository = match workspace.open_repository(place).await {
        Ok(repository) => repository,
        Err(e) if matches!(e.kind(), ErrorKind::Damaged | ErrorKind::NotFound) => {
            let bare = workspace.bare_replica(place, false)?;
            mend_record(&bare, &sources, &e, dry_run, report).await?;
            if dry_run {
                return Ok(None);
            }
            workspace.open_repository(place).await?
        }
        Err(e) => return Err(e),
    };
    let id = repository.identity().await?;
    let mut same = Vec::new();
    for source in sources.drain(..) {
        if source.repository.identity().await? == id {
            same.push(source);
        } else {
            let name = &source.name;
            workspace.events.warn(format!("{name} is passed over: it holds another repository, with another id"));
        }
    }
    Ok(Some((repository, same)))
}

/// Takes `repository.json` from a replica. Only where there are snapshots: an empty place is no damaged repository.
async fn mend_record(
    bare: &Repository,
    sources: &[Source],
    error: &Error,
    dry_run: bool,
    report: &mut RepairReport,
) -> Result<()> {
    let refused = |what: &str| {
        Error::new(error.kind(), what.to_owned())
            .with("repository", bare.url())
            .because(describe(error))
            .guidance("bring back repository.json from any copy of the repository; where all is lost, `regrow copy --repository NAME --to primary` brings a replica back as a whole")
    };
    if !bare.sizes().await?.keys().any(|name| ObjectKind::of(name) == ObjectKind::Manifest) {
        return Err(refused("there is no repository here that could be repaired"));
    }
    for source in sources {
        let Ok(bytes) = source.repository.get(path::REPOSITORY).await else { continue };
        if identity_of(&bytes).is_err() {
            continue;
        }
        report.damaged += 1;
        let what = if error.kind() == ErrorKind::NotFound { Problem::Missing } else { Problem::Content };
        let hurts = vec!["the whole repository".to_owned()];
        let damaged = DamagedObject::new(path::REPOSITORY.to_owned(), what, describe(error), hurts);
        let mut action = RepairAction::new(damaged, How::Replica, Some(source.name.clone()));
        if !dry_run {
            bare.replace(path::REPOSITORY, bytes).await?;
            action.outcome = Outcome::Done;
        }
        report.actions.push(action);
        return Ok(());
    }
    Err(refused("the repository record is damaged, and no replica has it"))
}
