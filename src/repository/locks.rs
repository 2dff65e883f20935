//! Locks: runs that must not work on a repository at once see each other.
//!
//! A lock is an object. It is written first, and then the locks are listed: of two runs that exclude each other, the
//! one whose listing came last sees the other's object, so never do both go on. Both may see each other; then both
//! step back, and `--lock-wait` has them try again after unequal times.
//!
//! **Whether a lock is alive** is judged by the store's clock alone: its age is the difference between the store's
//! times of two objects, the lock and one that was written just now. Clocks of machines may be hours apart. A holder
//! writes its object anew every few minutes; one that has not for [`Locking::stale`] is ignored. So is the lock of a
//! process that ran on this machine, since it last started, and has ended.
//!
//! **A holder that was taken for dead** must not go on: [`Lock::still_held`] writes the object anew and finds the one
//! before, which must be there and younger than [`Locking::stale`]. Between two such checks without a gap nobody can
//! have ignored the lock. Call it just before a commit.
//!
//! **Where nothing can be deleted** (append-only and object-locked stores) objects of the same holder pile up: the
//! newest counts. A release then writes one more, which says that the holder has gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use uuid::Uuid;

use super::layout::path;
use super::manifest::Manifest;
use super::process;
use super::store::Repository;
use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result, refused};
use crate::event::Events;
use crate::ids::timed_id;

/// What a lock excludes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockKind {
    /// Adds to the repository or relies on what is there: snapshot, restore, drill, copy, repair. Many at once.
    Shared,
    /// Decides what goes: forget, and prune while it looks. One at a time, beside shared ones.
    Maintenance,
    /// Removes objects: prune. Alone.
    Exclusive,
}

impl LockKind {
    /// Lower-case name, as in lock objects and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Maintenance => "maintenance",
            Self::Exclusive => "exclusive",
        }
    }

    /// Whether two locks of these kinds exclude each other.
    pub fn excludes(self, other: Self) -> bool {
        self == Self::Exclusive || other == Self::Exclusive || (self == Self::Maintenance && other == self)
    }
}

/// Times of locking; tests set others.
#[derive(Debug, Clone)]
pub struct Locking {
    /// A lock that was not written anew for this long, by the store's clock, is ignored.
    pub stale: Duration,
    /// How often a lock that is held is written anew.
    pub refresh: Duration,
    /// How long to wait for a lock that another run holds.
    pub wait: Duration,
    /// Ends the waiting.
    pub cancel: Cancel,
}

impl Default for Locking {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Self { stale: minutes(30), refresh: minutes(5), wait: Duration::ZERO, cancel: Cancel::default() }
    }
}

/// The lock object. Readers ignore keys that they do not know.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct LockRecord {
    format: u32,
    kind: LockKind,
    purpose: String,
    host: String,
    pid: u32,
    /// Names the process among all of all machines, where the system can tell.
    #[serde(default)]
    process: Option<String>,
    created: Timestamp,
    version: String,
}

const LOCK_FORMAT: u32 = 1;
/// Ends the name of an object that says that the holder has gone.
const RELEASED: &str = "-released";

/// A lock that is held. Give it back with [`Lock::release`]; dropping it tries the same in the background, which
/// fails where the runtime ends at once.
#[derive(Debug)]
pub struct Lock {
    inner: Arc<Inner>,
    closing: watch::Sender<bool>,
}

#[derive(Debug)]
struct Inner {
    repository: Repository,
    events: Events,
    holder: Uuid,
    record: Option<LockRecord>,
    held: Mutex<Held>,
}

#[derive(Debug, Clone)]
enum Held {
    /// The newest object of this lock, and its time at the store.
    Object(String, Timestamp),
    /// A reader on a repository that cannot be written.
    Nothing,
    Released,
    Lost,
}

/// What a listing shows of one holder.
#[derive(Debug, Clone)]
struct Seen {
    newest: String,
    modified: Timestamp,
    names: Vec<String>,
    released: bool,
}

/// A lock as `unlock` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LockInfo {
    /// What its holder does; `unreadable` when the object cannot be read.
    pub purpose: String,
    /// What it excludes.
    pub kind: LockKind,
    /// Machine of the holder.
    pub host: String,
    /// Process of the holder.
    pub pid: u32,
    /// When it was taken, by the holder's clock.
    pub created: Option<Timestamp>,
    /// Seconds since its last sign of life, by the store's clock.
    pub age_seconds: i64,
    /// It is ignored: without a sign of life for too long, or of a process that has ended.
    pub stale: bool,
    #[serde(skip)]
    names: Vec<String>,
}

/// Report of `regrow unlock`.
#[derive(Debug, Clone, Serialize)]
pub struct UnlockReport {
    /// Always `unlock`.
    pub verb: &'static str,
    /// Always true.
    pub ok: bool,
    /// Process exit code.
    pub exit_code: u8,
    /// Repository.
    pub repository: String,
    /// Locks that were removed.
    pub removed: Vec<LockInfo>,
    /// Locks that stay: their holders are alive.
    pub kept: Vec<LockInfo>,
    /// Objects that the store refused to delete; they are ignored once they are stale.
    pub protected: u64,
}

impl Repository {
    /// Takes a lock, waiting for others as long as [`Locking::wait`] says.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`], retryable, when another run holds a lock that excludes this one.
    pub async fn lock(&self, kind: LockKind, purpose: &str, events: &Events) -> Result<Lock> {
        self.lock_beside(kind, purpose, None, events).await
    }

    /// Takes a shared lock for a run that can do without writing. Where the repository refuses to be written, the
    /// lock is left out, with a warning: nobody who cannot be seen is protected from a prune.
    pub async fn lock_to_read(&self, purpose: &str, events: &Events) -> Result<Lock> {
        match self.lock(LockKind::Shared, purpose, events).await {
            Err(e) if refused(&e) => {
                events.warn(format!(
                    "the repository cannot be written: this run stores nothing in it, and is not protected from a prune at the same time ({})",
                    self.url()
                ));
                Ok(Lock::new(self, Uuid::nil(), None, Held::Nothing, events))
            }
            other => other,
        }
    }

    /// As [`Repository::lock`], beside a lock that the same run holds already.
    pub(crate) async fn lock_beside(
        &self,
        kind: LockKind,
        purpose: &str,
        own: Option<&Lock>,
        events: &Events,
    ) -> Result<Lock> {
        let own = own.map(|lock| lock.inner.holder);
        let record = LockRecord {
            format: LOCK_FORMAT,
            kind,
            purpose: purpose.to_owned(),
            host: process::host(),
            pid: std::process::id(),
            process: process::own(),
            created: Timestamp::now(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let started = tokio::time::Instant::now();
        let mut pause = Duration::from_millis(250);
        let mut told = false;
        loop {
            let error = match self.try_lock(&record, own, events).await {
                Err(e) if e.kind() == ErrorKind::Locked => e,
                other => return other,
            };
            let left = self.locking().wait.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(error);
            }
            if !std::mem::replace(&mut told, true) {
                events.note(format!("waiting for another run to end: {error}"));
            }
            // Unequal pauses, so that two runs that step back from each other do not do so for ever.
            let random = u32::from(Uuid::new_v4().as_bytes()[0]);
            let mut rest = left.min(pause + pause * random / 256);
            pause = (pause * 2).min(Duration::from_secs(15));
            while !rest.is_zero() {
                self.locking().cancel.check()?;
                let step = rest.min(Duration::from_millis(200));
                tokio::time::sleep(step).await;
                rest -= step;
            }
        }
    }

    async fn try_lock(&self, record: &LockRecord, own: Option<Uuid>, events: &Events) -> Result<Lock> {
        let holder = Uuid::new_v4();
        let name = object_name(holder);
        self.put_json(&name, record).await?;
        let lock = Lock::new(self, holder, Some(record.clone()), Held::Object(name.clone(), Timestamp::MIN), events);
        match self.conflict(record.kind, holder, own).await {
            Ok((None, now)) => {
                *lock.inner.held.lock().await = Held::Object(name, now);
                lock.keep_fresh();
                Ok(lock)
            }
            Ok((Some(other), _)) => {
                lock.release().await;
                Err(self.excluded(&other))
            }
            Err(e) => {
                lock.release().await;
                Err(e)
            }
        }
    }

    /// A lock that excludes `holder`'s, if there is one, and the store's time of `holder`'s object.
    async fn conflict(&self, kind: LockKind, holder: Uuid, own: Option<Uuid>) -> Result<(Option<LockInfo>, Timestamp)> {
        // An object that is gone when it is read was written anew or released meanwhile: the next listing tells which.
        for _ in 0..16 {
            let seen = self.seen_locks().await?;
            let now = seen.get(&holder).map(|own| own.modified).ok_or_else(|| self.lost())?;
            let mut gone = false;
            for (other, seen) in &seen {
                if *other == holder || Some(*other) == own || seen.released {
                    continue;
                }
                let info = match self.is_old(seen, now) {
                    true => None,
                    false => Some(self.lock_info(seen, now).await?),
                };
                match info {
                    Some(None) => gone = true,
                    Some(Some(info)) if !info.stale => {
                        if kind.excludes(info.kind) {
                            return Ok((Some(info), now));
                        }
                    }
                    // Whoever held it has lost it, so it may as well go; what cannot be removed is ignored.
                    _ => {
                        for name in &seen.names {
                            drop(self.delete(name).await);
                        }
                    }
                }
            }
            if !gone {
                return Ok((None, now));
            }
        }
        Err(Error::new(ErrorKind::Locked, "the locks of the repository change too fast to be read")
            .with("repository", self.url())
            .transient())
    }

    async fn seen_locks(&self) -> Result<BTreeMap<Uuid, Seen>> {
        let listed: Vec<_> = self.list(path::LOCKS).try_collect().await?;
        let mut all: BTreeMap<Uuid, Seen> = BTreeMap::new();
        for (name, _, modified) in listed {
            let Some((holder, released)) = parse_name(&name) else { continue };
            let seen = all.entry(holder).or_insert_with(|| Seen {
                newest: name.clone(),
                modified,
                names: Vec::new(),
                released: false,
            });
            if !released && (modified, &name) > (seen.modified, &seen.newest) {
                (seen.newest, seen.modified) = (name.clone(), modified);
            }
            seen.released |= released;
            seen.names.push(name);
        }
        Ok(all)
    }

    /// Without a sign of life for too long, by the store's clock.
    fn is_old(&self, seen: &Seen, now: Timestamp) -> bool {
        now.duration_since(seen.modified).unsigned_abs() > self.locking().stale
    }

    /// What a lock object says; `None` when it is gone. One that cannot be read excludes everything until it is stale.
    async fn lock_info(&self, seen: &Seen, now: Timestamp) -> Result<Option<LockInfo>> {
        let record = match self.open_sealed_optional(&seen.newest).await {
            Ok(None) => return Ok(None),
            Ok(Some(bytes)) => serde_json::from_slice::<LockRecord>(&bytes).ok(),
            Err(e) if e.retryable() || e.kind() == ErrorKind::Storage => return Err(e),
            Err(_) => None,
        };
        let age = now.duration_since(seen.modified);
        let ended = record.as_ref().and_then(|r| r.process.as_deref()).is_some_and(process::has_ended);
        let stale = seen.released || ended || self.is_old(seen, now);
        let (names, age_seconds) = (seen.names.clone(), age.as_secs().max(0));
        Ok(Some(match record {
            Some(r) => LockInfo {
                purpose: r.purpose,
                kind: r.kind,
                host: r.host,
                pid: r.pid,
                created: Some(r.created),
                age_seconds,
                stale,
                names,
            },
            None => LockInfo {
                purpose: "unreadable".to_owned(),
                kind: LockKind::Exclusive,
                host: "unknown".to_owned(),
                pid: 0,
                created: None,
                age_seconds,
                stale,
                names,
            },
        }))
    }

    fn excluded(&self, other: &LockInfo) -> Error {
        let stale = self.locking().stale.as_secs().div_ceil(60);
        Error::new(ErrorKind::Locked, "another run holds the repository")
            .with("purpose", &other.purpose)
            .with("lock", other.kind.name())
            .with("host", &other.host)
            .with("pid", other.pid)
            .with("last_sign_of_life", format!("{} s ago", other.age_seconds))
            .with("repository", self.url())
            .guidance(format!(
                "let it end, or wait for it with --lock-wait 10m; if it is dead, its lock is ignored {stale} minutes after \
                 its last sign of life, and `regrow unlock --all` removes it at once"
            ))
            .transient()
    }

    fn lost(&self) -> Error {
        Error::new(ErrorKind::Locked, "this run lost its lock: it was removed, or could not be kept alive")
            .with("repository", self.url())
            .guidance("nothing was committed; run the same command again, it continues where it stopped")
            .transient()
    }

    /// Removes stale locks, or with `all` every lock.
    pub async fn remove_locks(&self, all: bool) -> Result<UnlockReport> {
        // An object of our own tells the store's time; its name says that it holds nothing.
        let probe = Uuid::new_v4();
        let name = format!("{}/{}-{}{RELEASED}.json", path::LOCKS, timed_id(Timestamp::now()), probe.simple());
        self.put_new(&name, bytes::Bytes::from_static(b"{}")).await?;
        let seen = self.seen_locks().await?;
        let now = seen.get(&probe).map(|own| own.modified).ok_or_else(|| self.lost())?;
        let (mut removed, mut kept, mut protected) = (Vec::new(), Vec::new(), 0);
        for (holder, seen) in seen {
            let Some(info) = self.lock_info(&seen, now).await? else { continue };
            if !(all || info.stale || holder == probe) {
                kept.push(info);
                continue;
            }
            let before = protected;
            for name in &info.names {
                match self.delete(name).await {
                    Ok(()) => {}
                    Err(e) if refused(&e) => protected += 1,
                    Err(e) => return Err(e),
                }
            }
            if !seen.released && protected > before {
                self.put_new(&released_name(holder), bytes::Bytes::from_static(b"{}")).await?;
            }
            if holder != probe && !seen.released {
                removed.push(info);
            }
        }
        let repository = self.url().to_owned();
        Ok(UnlockReport { verb: "unlock", ok: true, exit_code: 0, repository, removed, kept, protected })
    }
}

fn object_name(holder: Uuid) -> String {
    format!("{}/{}-{}.json", path::LOCKS, timed_id(Timestamp::now()), holder.simple())
}

fn released_name(holder: Uuid) -> String {
    object_name(holder).replace(".json", &format!("{RELEASED}.json"))
}

/// The holder that a lock object's name tells, and whether it says that the holder has gone.
fn parse_name(name: &str) -> Option<(Uuid, bool)> {
    let stem = name.rsplit('/').next()?.strip_suffix(".json")?;
    let (stem, released) = stem.strip_suffix(RELEASED).map_or((stem, false), |stem| (stem, true));
    Some((stem.rsplit_once('-')?.1.parse().ok()?, released))
}

impl Lock {
    fn new(repository: &Repository, holder: Uuid, record: Option<LockRecord>, held: Held, events: &Events) -> Self {
        let inner =
            Inner { repository: repository.clone(), events: events.clone(), holder, record, held: Mutex::new(held) };
        Self { inner: Arc::new(inner), closing: watch::Sender::new(false) }
    }

    /// Writes the object anew every few minutes until the lock is released, dropped or lost.
    fn keep_fresh(&self) {
        let (inner, mut closing) = (Arc::downgrade(&self.inner), self.closing.subscribe());
        let every = self.inner.repository.locking().refresh;
        tokio::spawn(async move {
            let mut pause = every;
            let mut warned = false;
            loop {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    // Closed, or dropped.
                    _ = closing.changed() => return,
                }
                let Some(inner) = inner.upgrade() else { return };
                match inner.refresh().await {
                    Ok(_) => pause = every,
                    Err(e) if e.kind() == ErrorKind::Locked => {
                        inner.events.warn(format!("{e}; the run will stop before it commits"));
                        return;
                    }
                    Err(e) => {
                        pause = every / 5;
                        if !std::mem::replace(&mut warned, true) {
                            inner.events.warn(format!("the lock could not be renewed, trying again: {e}"));
                        }
                    }
                }
            }
        });
    }

    /// Proves that nobody can have ignored this lock since it was taken; call it just before a commit.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when it was removed, or was not kept alive for so long that others may have ignored it.
    pub async fn still_held(&self) -> Result<()> {
        self.inner.refresh().await.map(drop)
    }

    /// Commits a snapshot under this lock. When it turns out that the lock was lost while the manifest was written, a
    /// prune may have removed what the manifest names: it is taken back.
    pub(crate) async fn commit(&self, repository: &Repository, manifest: &Manifest) -> Result<()> {
        self.still_held().await?;
        manifest.commit(repository).await?;
        match self.still_held().await {
            Err(e) if e.kind() == ErrorKind::Locked => {
                repository.delete(&path::manifest(&manifest.id)).await?;
                Err(e)
            }
            // The snapshot is there; a store that cannot be reached now takes nothing from it.
            Err(e) => {
                self.inner.events.warn(format!("the lock could not be looked at after the commit: {e}"));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// The store's time now; `None` for a reader on a repository that cannot be written.
    pub(crate) async fn store_time(&self) -> Result<Option<Timestamp>> {
        self.inner.refresh().await
    }

    /// Whether there is no lock, because the repository cannot be written.
    pub(crate) fn is_absent(&self) -> bool {
        self.inner.record.is_none()
    }

    /// Gives the lock back. What cannot be removed is told, and is ignored by others once it is stale.
    pub async fn release(&self) {
        self.closing.send_replace(true);
        self.inner.release().await;
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.closing.send_replace(true);
        let held = self.inner.held.try_lock().map_or(true, |held| matches!(*held, Held::Object(..)));
        if let (true, Ok(runtime)) = (held, tokio::runtime::Handle::try_current()) {
            let inner = self.inner.clone();
            runtime.spawn(async move { inner.release().await });
        }
    }
}

impl Inner {
    /// Writes the object anew, proves that the one before was alive until then, and removes that one. Returns the
    /// store's time.
    async fn refresh(&self) -> Result<Option<Timestamp>> {
        let mut held = self.held.lock().await;
        let (name, modified) = match &*held {
            Held::Object(name, modified) => (name.clone(), *modified),
            Held::Nothing => return Ok(None),
            Held::Released | Held::Lost => return Err(self.repository.lost()),
        };
        let fresh = object_name(self.holder);
        self.repository.put_json(&fresh, &self.record).await?;
        let seen = self.repository.seen_locks().await?;
        let own = seen.get(&self.holder).filter(|own| !own.released);
        let there = own.filter(|own| own.names.contains(&name) && own.names.contains(&fresh));
        let alive = there.filter(|own| {
            own.modified.duration_since(modified)
                <= SignedDuration::try_from(self.repository.locking().stale).unwrap_or(SignedDuration::MAX)
        });
        let Some(now) = alive.map(|own| own.modified) else {
            *held = Held::Lost;
            self.remove_objects().await;
            return Err(self.repository.lost());
        };
        *held = Held::Object(fresh, now);
        // Where nothing can be deleted the newest counts.
        drop(self.repository.delete(&name).await);
        Ok(Some(now))
    }

    async fn release(&self) {
        let mut held = self.held.lock().await;
        if matches!(*held, Held::Object(..)) {
            *held = Held::Released;
            self.remove_objects().await;
        }
    }

    /// Removes every object of this holder, or else says that it has gone.
    async fn remove_objects(&self) {
        let removed = async {
            let seen = self.repository.seen_locks().await?;
            let Some(own) = seen.get(&self.holder) else { return Ok(()) };
            let mut left = false;
            for name in &own.names {
                match self.repository.delete(name).await {
                    Err(e) if refused(&e) => left = true,
                    other => other?,
                }
            }
            if left && !own.released {
                self.repository.put_new(&released_name(self.holder), bytes::Bytes::from_static(b"{}")).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(e) = removed.await {
            let minutes = self.repository.locking().stale.as_secs().div_ceil(60);
            self.events.warn(format!("a lock could not be removed; others ignore it after {minutes} minutes: {e}"));
        }
    }
}

#[cfg(test)]
#[path = "lock_tests.rs"]
mod tests;
