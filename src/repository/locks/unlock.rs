//! Locks shown to people, and taken away by them.

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::{LockKind, RELEASED, released_name};
use crate::error::{Result, refused};
use crate::ids::timed_id;
use crate::repository::{Repository, path};

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
    pub(super) names: Vec<String>,
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
