//! `regrow forget`: removes manifests, and nothing else. What only they needed is left to `prune`.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::catalog::{CONCURRENT, Found, Sizes, describe, read_some, snapshots};
use super::policy::{Decision, Group, Rule, SnapshotInfo, decide};
use super::prune::PruneReport;
use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result, refused};
use crate::event::Events;
use crate::repository::{Lock, LockKind, Repository, path};

/// What is forgotten: by id, or by rules.
#[derive(Debug, Clone, Default)]
pub struct ForgetOptions {
    /// Ids or unambiguous beginnings of some; then the rules are not looked at.
    pub ids: Vec<String>,
    /// Rules: what none of them keeps goes.
    pub rules: Vec<Rule>,
    /// Which snapshots are judged together.
    pub group: Group,
    /// Only say what would go.
    pub dry_run: bool,
    /// With ids: even the last good snapshot of a pipeline.
    pub force_last: bool,
}

/// A snapshot that stays.
#[derive(Debug, Clone, Serialize)]
pub struct Kept {
    /// Snapshot id.
    pub id: String,
    /// Its point in time.
    pub created: Timestamp,
    /// Pipeline.
    pub pipeline: String,
    /// Words that the user gave it.
    pub tags: Vec<String>,
    /// Documents in it.
    pub documents: u64,
    /// What keeps it.
    pub reasons: Vec<String>,
    /// What is odd about it, if anything.
    pub suspicious: Option<String>,
}

/// A snapshot that goes.
#[derive(Debug, Clone, Serialize)]
pub struct Removed {
    /// Snapshot id.
    pub id: String,
    /// Its point in time; null when its manifest cannot be read.
    pub created: Option<Timestamp>,
    /// Pipeline.
    pub pipeline: Option<String>,
    /// Documents in it.
    pub documents: u64,
    /// The store refused: it stays.
    pub protected: bool,
}

/// A snapshot whose manifest cannot be read; no rule removes it.
#[derive(Debug, Clone, Serialize)]
pub struct Unreadable {
    /// Snapshot id.
    pub id: String,
    /// Why.
    pub problem: String,
}

/// Report of `regrow forget`.
#[derive(Debug, Clone, Serialize)]
pub struct ForgetReport {
    /// Always `forget`.
    pub verb: &'static str,
    /// Always true.
    pub ok: bool,
    /// Process exit code.
    pub exit_code: u8,
    /// Repository.
    pub repository: String,
    /// Nothing was removed: this is what would be.
    pub dry_run: bool,
    /// The rules; none when ids were given.
    pub rules: Vec<String>,
    /// Which snapshots were judged together.
    pub group: Group,
    /// When was judged, by the store's clock.
    pub now: Timestamp,
    /// What stays, and why, oldest first.
    pub kept: Vec<Kept>,
    /// What went, or would go, oldest first.
    pub removed: Vec<Removed>,
    /// What cannot be read, and therefore stays.
    pub unreadable: Vec<Unreadable>,
    /// What `prune` did afterwards, where that was asked for.
    pub prune: Option<PruneReport>,
}

/// Everything there is, oldest first.
struct Inventory {
    infos: Vec<SnapshotInfo>,
    unreadable: Vec<(String, Error)>,
}

async fn read(repository: &Repository, cancel: &Cancel) -> Result<Inventory> {
    let sizes = Sizes::list(repository).await?;
    let mut all = Inventory { infos: Vec::new(), unreadable: Vec::new() };
    for some in snapshots(repository).await?.chunks(CONCURRENT) {
        cancel.check()?;
        for (id, found) in read_some(repository, some).await? {
            match found {
                Found::Readable(manifest, modified) => all.infos.push(sizes.info(id, &manifest, modified)),
                Found::Unreadable(e) => all.unreadable.push((id, e)),
            }
        }
    }
    all.infos.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    all.unreadable.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(all)
}

/// Removes snapshots, by id or by rules.
///
/// # Errors
/// [`ErrorKind::Configuration`] without ids and rules, for an id that is not there or not clear, and for the last good
/// snapshot of a pipeline; [`ErrorKind::Locked`] while another run removes something.
pub async fn forget(
    repository: &Repository,
    options: &ForgetOptions,
    events: &Events,
    cancel: &Cancel,
) -> Result<ForgetReport> {
    if options.ids.is_empty() && options.rules.is_empty() {
        return Err(Error::new(ErrorKind::Configuration, "no rule says which snapshots stay").guidance(
            "set rules in [retention] of the pipeline, such as preset = \"90d\", or give --preset or --keep-… flags, or ids",
        ));
    }
    let lock = if options.dry_run {
        repository.lock_to_read("forget --dry-run", events).await?
    } else {
        repository.lock(LockKind::Maintenance, "forget", events).await?
    };
    let outcome = locked(repository, options, &lock, events, cancel).await;
    lock.release().await;
    outcome
}

async fn locked(
    repository: &Repository,
    options: &ForgetOptions,
    lock: &Lock,
    events: &Events,
    cancel: &Cancel,
) -> Result<ForgetReport> {
    let now = store_time(lock, events).await?;
    let all = read(repository, cancel).await?;
    let (decisions, mut removed) = if options.ids.is_empty() {
        let decisions = decide(&all.infos, &options.rules, options.group, now);
        let going = all.infos.iter().zip(&decisions).filter(|(_, d)| !d.kept()).map(|(s, _)| going(s)).collect();
        (decisions, going)
    } else {
        by_id(&all, options, now)?
    };
    if !options.dry_run && !removed.is_empty() {
        lock.still_held().await?;
        for removed in &mut removed {
            cancel.check()?;
            let manifest = path::manifest(&removed.id);
            match repository.delete(&manifest).await {
                Ok(()) => repository.remove_empty_folder(&manifest).await,
                Err(e) if refused(&e) => removed.protected = true,
                Err(e) => return Err(e),
            }
        }
        let protected = removed.iter().filter(|r| r.protected).count();
        if protected > 0 {
            events.warn(format!("the store protects {protected} of the snapshots: they stay until it lets them go"));
        }
    }
    let gone: BTreeSet<&str> = removed.iter().map(|r| r.id.as_str()).collect();
    let kept = |(s, d): (&SnapshotInfo, Decision)| Kept {
        id: s.id.clone(),
        created: s.created,
        pipeline: s.pipeline.clone(),
        tags: s.tags.clone(),
        documents: s.documents,
        reasons: d.reasons,
        suspicious: d.suspicious,
    };
    let unreadable = all.unreadable.iter().filter(|(id, _)| !gone.contains(id.as_str()));
    Ok(ForgetReport {
        verb: "forget",
        ok: true,
        exit_code: 0,
        repository: repository.url().to_owned(),
        dry_run: options.dry_run,
        rules: if options.ids.is_empty() {
            options.rules.iter().map(ToString::to_string).collect()
        } else {
            Vec::new()
        },
        group: options.group,
        now,
        kept: all.infos.iter().zip(decisions).filter(|(_, d)| d.kept()).map(kept).collect(),
        unreadable: unreadable.map(|(id, e)| Unreadable { id: id.clone(), problem: describe(e) }).collect(),
        removed,
        prune: None,
    })
}

fn going(snapshot: &SnapshotInfo) -> Removed {
    Removed {
        id: snapshot.id.clone(),
        created: Some(snapshot.created),
        pipeline: Some(snapshot.pipeline.clone()),
        documents: snapshot.documents,
        protected: false,
    }
}

fn by_id(all: &Inventory, options: &ForgetOptions, now: Timestamp) -> Result<(Vec<Decision>, Vec<Removed>)> {
    let mut chosen = BTreeSet::new();
    for wanted in &options.ids {
        let ids = all.infos.iter().map(|s| &s.id).chain(all.unreadable.iter().map(|(id, _)| id));
        let matching: Vec<&String> = ids.filter(|id| id.starts_with(wanted.as_str())).collect();
        let id = match matching.iter().find(|id| *id == &wanted).or(matching.first()) {
            None => {
                return Err(Error::new(ErrorKind::NotFound, "there is no such snapshot")
                    .with("snapshot", wanted)
                    .guidance("`regrow list` shows the snapshots; nothing was removed"));
            }
            Some(id) if matching.len() > 1 && *id != wanted => {
                return Err(Error::new(ErrorKind::Configuration, "several snapshots begin like this")
                    .with("snapshot", wanted)
                    .with("matches", matching.len())
                    .guidance("give more of the id; nothing was removed"));
            }
            Some(id) => *id,
        };
        if let Some((_, e)) = all.unreadable.iter().find(|(other, _)| other == id)
            && (id != wanted || e.kind() != ErrorKind::Damaged)
        {
            return Err(Error::new(
                ErrorKind::Configuration,
                "this snapshot cannot be read here, so it is not removed",
            )
            .with("snapshot", id)
            .with("problem", describe(e))
            .guidance("a damaged one is removed by its whole id; for others use the right key, or a newer regrow"));
        }
        chosen.insert(id.clone());
    }
    if !options.force_last {
        let usable = |s: &&SnapshotInfo| s.good && s.created.duration_since(now) <= SignedDuration::from_secs(600);
        for snapshot in all.infos.iter().filter(|s| s.good && chosen.contains(&s.id)) {
            let mut left = all.infos.iter().filter(usable).filter(|s| s.pipeline == snapshot.pipeline);
            if left.all(|s| chosen.contains(&s.id)) {
                return Err(Error::new(ErrorKind::Configuration, "this is the last good snapshot of its pipeline")
                    .with("snapshot", &snapshot.id)
                    .with("pipeline", &snapshot.pipeline)
                    .guidance("take another one first, or give --force-last; nothing was removed"));
            }
        }
    }
    let mut removed: Vec<Removed> = all.infos.iter().filter(|s| chosen.contains(&s.id)).map(going).collect();
    let damaged = all.unreadable.iter().filter(|(id, _)| chosen.contains(id));
    removed.extend(damaged.map(|(id, _)| Removed {
        id: id.clone(),
        created: None,
        pipeline: None,
        documents: 0,
        protected: false,
    }));
    let decision = |s: &SnapshotInfo| Decision {
        id: s.id.clone(),
        reasons: if chosen.contains(&s.id) { Vec::new() } else { vec!["not named".to_owned()] },
        suspicious: None,
    };
    Ok((all.infos.iter().map(decision).collect(), removed))
}

/// More than this between two clocks is worth a warning.
const SKEW: SignedDuration = SignedDuration::from_secs(600);

/// The store's time, which rules and grace count from; this machine's where the store cannot be written.
pub(super) async fn store_time(lock: &Lock, events: &Events) -> Result<Timestamp> {
    let here = Timestamp::now();
    let Some(there) = lock.store_time().await? else { return Ok(here) };
    if there.duration_since(here).abs() > SKEW {
        events.warn(format!("this machine's clock says {here}, the store's {there}: the store's counts"));
    }
    Ok(there)
}

#[cfg(test)]
#[path = "forget_tests.rs"]
mod tests;
