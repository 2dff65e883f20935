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
use std::time::Duration;

use futures::TryStreamExt;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::layout::path;
use super::process;
use super::store::Repository;
use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result, refused};
use crate::event::Events;
use crate::ids::timed_id;

mod held;
mod unlock;

use held::Held;
pub use held::Lock;
pub use unlock::{LockInfo, UnlockReport};

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

/// What a listing shows of one holder.
#[derive(Debug, Clone)]
struct Seen {
    newest: String,
    modified: Timestamp,
    names: Vec<String>,
    released: bool,
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

#[cfg(test)]
#[path = "lock_tests.rs"]
mod tests;
