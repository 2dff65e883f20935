//! `regrow verify`: is everything that snapshots and vector sets need there, as it was written?
//!
//! 1. Everything is listed once: sizes come from there, and what nothing needs.
//! 2. The records of snapshots and vector sets are read, and checked to be consistent in themselves.
//! 3. Objects are read as streams, several at once, and hashed: all of them, a part of them, or none.
//!    What is inside inventories and in the footers of Parquet files must fit to what refers to them.
//! 4. The sum over a snapshot's inventory must be its counts.
//!
//! Whatever is wrong with an object is a finding, also that the store does not give it.

mod captured;
mod check;
mod kind;
mod needs;
mod record;
mod report;
mod subset;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use serde_json::Value;
use tokio::task::JoinSet;

pub use kind::ObjectKind;
pub use record::{VerificationRecord, cannot_be_recorded, last_verification, record};
pub use report::{DamagedObject, Level, Orphans, Problem, VerifyReport};
pub use subset::Subset;

pub(crate) use check::is_recorded;
pub(crate) use needs::{committed, describe, read_manifest, read_record, sets, vector_set_of};

use self::captured::Uses;
use self::check::{Checked, check, compare};
use self::needs::{Counted, Needs};
use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Events, Stage};
use crate::repository::{Counts, Repository, identity_of, path};
use crate::workspace::Workspace;

/// How thorough to be.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// Only look whether objects are there with the right size; read nothing but records.
    pub quick: bool,
    /// Read only a part of the data.
    pub subset: Option<Subset>,
    /// What chance begins with; `None`: something else every time.
    pub seed: Option<u64>,
    /// Only what this snapshot needs: `latest`, an id or the beginning of one.
    pub snapshot: Option<String>,
}

/// Objects read at once: enough to keep a store and two cores busy.
const CONCURRENT: usize = 8;
/// After so many objects in a row that the store did not give, it is the store that is broken.
const UNREADABLE: u32 = 64;

/// Checks the snapshots and vector sets of a repository.
///
/// # Errors
/// What is not one object's own: the repository cannot be listed, the store stopped to answer, the run was stopped.
pub async fn verify(
    repository: &Repository,
    options: &VerifyOptions,
    events: &Events,
    cancel: &Cancel,
) -> Result<VerifyReport> {
    examine(repository, options, None, events, cancel).await
}

/// As [`verify`]; with `only`, no other object than these is looked at.
pub(crate) async fn examine(
    repository: &Repository,
    options: &VerifyOptions,
    only: Option<&BTreeSet<String>>,
    events: &Events,
    cancel: &Cancel,
) -> Result<VerifyReport> {
    let started = Instant::now();
    let sizes = repository.sizes().await?;
    let mut needs = Needs::gather(repository, &sizes, options.snapshot.as_deref(), cancel).await?;
    let whole = only.is_none() && options.snapshot.is_none();
    let records_read = needs.damaged.is_empty();
    if !options.quick && options.snapshot.is_none() {
        let names = sizes.keys().filter(|name| only.is_none_or(|only| only.contains(*name)));
        small_records(repository, names, &mut needs, cancel).await?;
    }
    let (mut orphans, mut foreign) = (Orphans::default(), Orphans::default());
    if whole {
        for (name, bytes) in &sizes {
            match ObjectKind::of(name) {
                ObjectKind::Other if !name.starts_with(path::SNAPSHOTS) => foreign.add(name, *bytes),
                kind if records_read && is_orphan(kind, name, &needs) => orphans.add(name, *bytes),
                _ => {}
            }
        }
    }
    if let Some(only) = only {
        needs.objects.retain(|name, _| only.contains(name));
        needs.damaged.retain(|damaged| only.contains(&damaged.object));
    }
    let objects = needs.objects.len() as u64;
    let bytes = needs.objects.values().map(|need| need.bytes()).sum();
    let (chosen, seed) = choose(options, &needs);
    let total: u64 = needs.objects.iter().filter(|(name, _)| chosen.reads(name)).map(|(_, need)| need.bytes()).sum();
    let reading = Instant::now();
    if total > 0 {
        events.start(Stage::Verify, Some(total), "bytes");
    }
    let mut found = Found::default();
    let mut running: JoinSet<Result<Checked>> = JoinSet::new();
    let mut waiting = std::mem::take(&mut needs.objects).into_iter();
    loop {
        while running.len() < CONCURRENT
            && let Some((name, need)) = waiting.next()
        {
            let (repository, events) = (repository.clone(), events.clone());
            let (listed, read) = (sizes.get(&name).copied(), chosen.reads(&name));
            running.spawn(async move { check(&repository, name, need, listed, read, &events).await });
        }
        let Some(checked) = running.join_next().await else { break };
        cancel.check()?;
        found.take(checked??, &mut needs)?;
    }
    for snapshot in &needs.counted {
        let manifest = path::manifest(&snapshot.id);
        if only.is_some_and(|only| !only.contains(&manifest)) {
            continue;
        }
        for problem in found.compare(snapshot) {
            let hurts = vec![format!("snapshot {}", snapshot.id)];
            needs.damaged.push(DamagedObject::new(manifest.clone(), Problem::Structure, problem, hurts));
        }
    }
    if total > 0 {
        events.finish(Stage::Verify, reading.elapsed().as_secs_f64());
    }
    let mut damaged = needs.damaged;
    damaged.sort_by(|a, b| a.object.cmp(&b.object));
    let ok = damaged.is_empty();
    let seconds = reading.elapsed().as_secs_f64();
    Ok(VerifyReport {
        verb: "verify",
        ok,
        exit_code: if ok { 0 } else { ErrorKind::ValidationFailed.exit_code() },
        repository: repository.url().to_owned(),
        level: chosen.level(),
        snapshots: needs.snapshots,
        vector_sets: needs.vector_sets,
        objects,
        bytes,
        objects_read: found.objects_read,
        bytes_read: found.bytes_read,
        seed,
        seconds: started.elapsed().as_secs_f64(),
        bytes_per_second: if found.bytes_read == 0 { 0.0 } else { found.bytes_read as f64 / seconds.max(1e-9) },
        orphans,
        foreign,
        damaged,
    })
}

/// Notes which of the pipeline's other repositories have the damaged objects, by name and size. One that cannot be opened is
/// passed over with a warning.
pub async fn name_replicas(workspace: &Workspace, damaged: &mut [DamagedObject]) -> Result<()> {
    if damaged.is_empty() {
        return Ok(());
    }
    for place in workspace.other_repositories()? {
        let repository = match workspace.open_replica(&place).await {
            Ok(repository) => repository,
            Err(e) => {
                workspace.events.warn(format!("the replica {} is passed over: {}", place.name, describe(&e)));
                continue;
            }
        };
        for damaged in damaged.iter_mut() {
            let size = repository.size(&damaged.object).await.unwrap_or_default();
            if size.is_some_and(|size| damaged.recorded.as_ref().is_none_or(|object| object.bytes == size)) {
                damaged.replicas.push(place.name.clone());
            }
        }
    }
    Ok(())
}

/// Which objects are read.
enum Chosen {
    All,
    Some(BTreeSet<String>),
    None,
}

impl Chosen {
    fn reads(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(names) => names.contains(name),
            Self::None => false,
        }
    }

    fn level(&self) -> Level {
        match self {
            Self::All => Level::Full,
            Self::Some(_) => Level::Subset,
            Self::None => Level::Quick,
        }
    }
}

fn choose(options: &VerifyOptions, needs: &Needs) -> (Chosen, Option<u64>) {
    if options.quick {
        return (Chosen::None, None);
    }
    let Some(subset) = options.subset else { return (Chosen::All, None) };
    let seed = options.seed.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0 >> 16);
    let objects = needs.objects.iter().map(|(name, need)| (name.as_str(), need.bytes()));
    let names = subset.choose(seed, objects).into_iter().map(str::to_owned).collect();
    (Chosen::Some(names), subset.random().then_some(seed))
}

/// Results so far.
#[derive(Default)]
struct Found {
    counts: HashMap<String, Counts>,
    uses: HashMap<String, Uses>,
    objects_read: u64,
    bytes_read: u64,
    unreadable: u32,
}

impl Found {
    /// What is wrong between a snapshot's manifest and the sums over its objects. Only where all of them were read.
    fn compare(&self, snapshot: &Counted) -> Vec<String> {
        let mut problems = Vec::new();
        let counts: Option<Vec<&Counts>> = snapshot.inventory.iter().map(|o| self.counts.get(&o.path)).collect();
        if let Some(counts) = counts {
            let ordered = snapshot.inventory.windows(2).all(|pair| match (pair[0].buckets, pair[1].buckets) {
                (Some((_, last)), Some((first, _))) => last < first,
                _ => false,
            });
            if !ordered {
                problems.push("its inventory is not in the order of the buckets".to_owned());
            }
            problems.extend(compare(&snapshot.counts, &sum(&counts)));
        }
        if let Some(captured) = &snapshot.captured {
            let uses: Option<Vec<&Uses>> = captured.index.iter().map(|o| self.uses.get(&o.path)).collect();
            problems.extend(uses.and_then(|uses| captured::compare(captured, &uses)));
        }
        problems
    }

    fn take(&mut self, checked: Checked, needs: &mut Needs) -> Result<()> {
        let Checked { path, need, wrong, counts, uses, bytes_read } = checked;
        self.bytes_read += bytes_read;
        self.objects_read += u64::from(bytes_read > 0);
        if let Some(counts) = counts {
            self.counts.insert(path.clone(), counts);
        }
        if let Some(uses) = uses {
            self.uses.insert(path.clone(), uses);
        }
        let Some((what, problem, wants)) = wrong else {
            self.unreadable = 0;
            return Ok(());
        };
        self.unreadable = if what == Problem::Unreadable { self.unreadable + 1 } else { 0 };
        if self.unreadable >= UNREADABLE {
            return Err(Error::new(ErrorKind::Storage, "the store does not give objects any more")
                .with("objects in a row", UNREADABLE)
                .with("last", path)
                .because(problem)
                .transient());
        }
        let users: BTreeSet<u32> = wants.iter().flat_map(|want| need.wants[*want].users.iter().copied()).collect();
        let hurts = users.into_iter().map(|user| needs.users[user as usize].clone()).collect();
        let mut damaged = DamagedObject::new(path, what, problem, hurts);
        damaged.recorded = wants.first().map(|want| need.wants[*want].object.clone());
        needs.damaged.push(damaged);
        Ok(())
    }
}

fn sum(parts: &[&Counts]) -> Counts {
    parts.iter().fold(Counts::default(), |sum, part| Counts {
        documents: sum.documents + part.documents,
        documents_skipped: 0,
        chunks: sum.chunks + part.chunks,
        tokens: sum.tokens + part.tokens,
        bytes: sum.bytes + part.bytes,
    })
}

fn is_orphan(kind: ObjectKind, name: &str, needs: &Needs) -> bool {
    match kind {
        ObjectKind::Part => !needs.objects.contains_key(name),
        kind if kind.by_content() => !needs.objects.contains_key(name),
        // What is left of a snapshot that was never committed.
        ObjectKind::Other => true,
        _ => false,
    }
}

/// Records that nothing refers to: the repository's own, and those of drills. They must be readable.
async fn small_records(
    repository: &Repository,
    names: impl Iterator<Item = &String>,
    needs: &mut Needs,
    cancel: &Cancel,
) -> Result<()> {
    for name in names {
        let (hurts, own) = match ObjectKind::of(name) {
            ObjectKind::Repository => ("the whole repository", true),
            ObjectKind::Drill => ("the history of drills", false),
            _ => continue,
        };
        cancel.check()?;
        let read = if own {
            repository.get(name).await.and_then(|bytes| identity_of(&bytes).map(drop))
        } else {
            repository.open_sealed(name).await.and_then(|bytes| {
                let parsed = serde_json::from_slice::<Value>(&bytes).map(drop);
                parsed.map_err(|e| Error::new(ErrorKind::Damaged, "the record is not complete JSON").because(e))
            })
        };
        if let Err(e) = read {
            let damaged = DamagedObject::new(name.clone(), Problem::of(&e), describe(&e), vec![hurts.to_owned()]);
            needs.damaged.push(damaged);
        }
    }
    Ok(())
}
