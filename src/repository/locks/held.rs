//! A lock that is held: kept fresh, proven before a commit, and given back.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Mutex, watch};
use uuid::Uuid;

use super::{LockRecord, object_name, released_name};
use crate::error::{Error, ErrorKind, Result, refused};
use crate::event::Events;
use crate::repository::manifest::Manifest;
use crate::repository::{Repository, path};

/// A lock that is held. Give it back with [`Lock::release`]; dropping it tries the same in the background, which
/// fails where the runtime ends at once.
#[derive(Debug)]
pub struct Lock {
    pub(super) inner: Arc<Inner>,
    closing: watch::Sender<bool>,
}

#[derive(Debug)]
pub(super) struct Inner {
    repository: Repository,
    events: Events,
    pub(super) holder: Uuid,
    pub(super) record: Option<LockRecord>,
    pub(super) held: Mutex<Held>,
}

#[derive(Debug, Clone)]
pub(super) enum Held {
    /// The newest object of this lock, and its time at the store.
    Object(String, Timestamp),
    /// A reader on a repository that cannot be written.
    Nothing,
    Released,
    Lost,
}

impl Lock {
    pub(super) fn new(
        repository: &Repository,
        holder: Uuid,
        record: Option<LockRecord>,
        held: Held,
        events: &Events,
    ) -> Self {
        let inner =
            Inner { repository: repository.clone(), events: events.clone(), holder, record, held: Mutex::new(held) };
        Self { inner: Arc::new(inner), closing: watch::Sender::new(false) }
    }

    /// Writes the object anew every few minutes until the lock is released, dropped or lost.
    pub(super) fn keep_fresh(&self) {
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
