//! `regrow key`: which slots there are, adding and removing them, rotating the repository key.
//!
//! Slots are created and removed, never changed; new ones are proven to open before an old one goes. Whatever
//! interrupts a change, a slot is left that opens everything.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use super::keys::{KeyId, Keys, PassphraseCost, Ring, Unlock};
use super::layout::path;
use super::seal::Protection;
use super::slots::{Opener, Slot, SlotKind, Slots};
use super::store::Repository;
use crate::error::{Error, ErrorKind, Result};

/// What is known of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotState {
    /// What was given opens it, and with it everything.
    Opens,
    /// It opens with another passphrase or key.
    Another,
    /// It wraps fewer keys than there are: whoever opens the repository with it cannot read what is newest.
    Outdated,
    /// Nobody who had opened this repository wrote it.
    Foreign,
    /// Its bytes are not what was written.
    Damaged,
    /// The repository was not opened, so this cannot be told.
    Unknown,
}

/// A key slot as reports show it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KeySlot {
    /// Id; sorts by time.
    pub id: String,
    /// What opens it; absent when it is damaged.
    pub kind: Option<SlotKind>,
    /// When it was made.
    pub created: Option<jiff::Timestamp>,
    /// Ids of the repository keys that it wraps, newest first.
    pub keys: Vec<KeyId>,
    /// What is known of it.
    pub state: SlotState,
}

/// Report of `regrow key`.
#[derive(Debug, Clone, Serialize)]
pub struct KeysReport {
    /// Always `key`.
    pub verb: &'static str,
    /// `list`, `add`, `remove` or `rotate`.
    pub action: &'static str,
    /// Always true: what cannot be done is an error.
    pub ok: bool,
    /// Always 0.
    pub exit_code: u8,
    /// Repository.
    pub repository: String,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// The key that everything new is encrypted with, when the repository could be opened.
    pub newest_key: Option<KeyId>,
    /// The slots afterwards.
    pub slots: Vec<KeySlot>,
    /// Ids of slots that were made.
    pub added: Vec<String>,
    /// Ids of slots that were removed.
    pub removed: Vec<String>,
}

impl Repository {
    fn opened_keys(&self) -> Result<&Arc<Keys>> {
        match &self.protection {
            Protection::Open(keys) => Ok(keys),
            Protection::Locked => Err(Error::new(ErrorKind::KeyMissing, "the repository is not opened")),
            Protection::None => Err(Error::new(ErrorKind::Configuration, "the repository is not encrypted")
                .with("repository", self.url())
                .guidance("a repository is encrypted from its beginning or never")),
        }
    }

    async fn keys_report(
        &self,
        action: &'static str,
        unlock: &Unlock,
        added: Vec<String>,
        removed: Vec<String>,
    ) -> Result<KeysReport> {
        let keys = match &self.protection {
            Protection::Open(keys) => Some(keys.clone()),
            _ => None,
        };
        let newest_key = keys.as_ref().and_then(|keys| keys.ring.ids().first().copied());
        let (slots, unlock) = (Slots::read(self).await?, unlock.clone());
        let slots = tokio::task::spawn_blocking(move || describe(&slots, keys.as_deref(), &unlock)).await??;
        Ok(KeysReport {
            verb: "key",
            action,
            ok: true,
            exit_code: 0,
            repository: self.url().to_owned(),
            encrypted: self.is_encrypted(),
            newest_key,
            slots,
            added,
            removed,
        })
    }

    /// Writes slots for the openers, and proves that each opens from the store with every key of the ring.
    async fn add_slots(&self, ring: &Ring, openers: Vec<Opener>, cost: PassphraseCost) -> Result<Vec<String>> {
        let id = self.opened_keys()?.repository;
        let openers = Arc::new(openers);
        let (given, wrapped) = (openers.clone(), ring.clone());
        let slots = tokio::task::spawn_blocking(move || {
            given.iter().map(|opener| Slot::new(id, &wrapped, opener, cost)).collect::<Result<Vec<_>>>()
        })
        .await??;
        for slot in &slots {
            self.put_slot(slot).await?;
        }
        let names: Vec<String> = slots.into_iter().map(|slot| slot.id).collect();
        let mut stored = Vec::with_capacity(names.len());
        for name in &names {
            let object = path::key_slot(name);
            stored.push(Slot::parse(&object, &self.get(&object).await?)?);
        }
        let ids = ring.ids();
        tokio::task::spawn_blocking(move || {
            for (slot, opener) in stored.iter().zip(openers.iter()) {
                match slot.open(opener)? {
                    Some(ring) if ring.ids() == ids => {}
                    _ => {
                        return Err(Error::new(ErrorKind::Unexpected, "a new key slot does not open")
                            .with("slot", &slot.id)
                            .guidance("nothing was removed; remove the new slot and report this"));
                    }
                }
            }
            Ok(())
        })
        .await??;
        Ok(names)
    }
}

fn describe(slots: &Slots, keys: Option<&Keys>, unlock: &Unlock) -> Result<Vec<KeySlot>> {
    let openers = Opener::all(unlock)?;
    let damaged = slots.unreadable.iter().map(|(name, _)| KeySlot {
        id: name.rsplit('/').next().unwrap_or_default().trim_end_matches(".json").to_owned(),
        kind: None,
        created: None,
        keys: Vec::new(),
        state: SlotState::Damaged,
    });
    let mut described: Vec<KeySlot> = damaged.collect();
    for slot in &slots.slots {
        let state = match keys {
            None => SlotState::Unknown,
            Some(keys) if slot.repository != keys.repository || !slot.is_genuine(&keys.ring) => SlotState::Foreign,
            Some(keys) if !keys.ring.ids().iter().all(|id| slot.keys.contains(id)) => SlotState::Outdated,
            Some(_) => {
                match openers.iter().map(|opener| slot.open(opener)).find(|outcome| !matches!(outcome, Ok(None))) {
                    Some(Ok(_)) => SlotState::Opens,
                    Some(Err(_)) => SlotState::Damaged,
                    None => SlotState::Another,
                }
            }
        };
        described.push(KeySlot {
            id: slot.id.clone(),
            kind: Some(slot.kind),
            created: Some(slot.created),
            keys: slot.keys.clone(),
            state,
        });
    }
    described.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(described)
}

/// The slots of a repository. It is opened with what is given where that is possible, and described from outside
/// where it is not: a list is what helps when no key fits.
pub async fn list_keys(repository: Repository, unlock: &Unlock) -> Result<KeysReport> {
    let locked = repository.locked().await?;
    if !locked.is_encrypted() {
        return locked.keys_report("list", &Unlock::nothing(), Vec::new(), Vec::new()).await;
    }
    let repository = match locked.clone().unlock(unlock).await {
        Ok(open) => open,
        Err(e) if matches!(e.kind(), ErrorKind::KeyMissing | ErrorKind::KeyWrong | ErrorKind::Damaged) => locked,
        Err(e) => return Err(e),
    };
    repository.keys_report("list", unlock, Vec::new(), Vec::new()).await
}

/// Adds slots for further passphrases or keys; `unlock` opened the repository.
pub async fn add_keys(repository: &Repository, unlock: &Unlock, new: &[Unlock]) -> Result<KeysReport> {
    let keys = repository.opened_keys()?.clone();
    let openers = openers(new)?;
    if openers.is_empty() {
        return Err(Error::new(ErrorKind::Configuration, "no new passphrase or key was given")
            .guidance("give --new-passphrase REF or --new-key REF, with env:NAME, file:PATH or cmd:COMMAND as REF"));
    }
    let added = repository.add_slots(&keys.ring, openers, unlock.cost).await?;
    repository.keys_report("add", unlock, added, Vec::new()).await
}

fn openers(all: &[Unlock]) -> Result<Vec<Opener>> {
    let mut openers = Vec::new();
    for unlock in all {
        openers.extend(Opener::all(unlock)?);
    }
    Ok(openers)
}

/// Removes a slot, named by its id or the beginning of it. The last one that opens with what `unlock` gives stays:
/// whoever removes slots must not lock themselves out.
pub async fn remove_key(repository: &Repository, unlock: &Unlock, wanted: &str) -> Result<KeysReport> {
    let keys = repository.opened_keys()?.clone();
    let before = repository.keys_report("remove", unlock, Vec::new(), Vec::new()).await?;
    let matching: Vec<&KeySlot> = before.slots.iter().filter(|slot| slot.id.starts_with(wanted)).collect();
    let slot = match matching.as_slice() {
        [slot] => *slot,
        [] => {
            return Err(Error::new(ErrorKind::NotFound, "there is no such key slot")
                .with("slot", wanted)
                .guidance("`regrow key list` shows the slots"));
        }
        several => {
            return Err(Error::new(ErrorKind::Configuration, "several key slots begin like this")
                .with("slot", wanted)
                .with("matches", several.iter().map(|slot| slot.id.as_str()).collect::<Vec<_>>().join(", "))
                .guidance("give more of the id"));
        }
    };
    let stays = |report: &KeysReport| report.slots.iter().any(|s| s.state == SlotState::Opens && s.id != slot.id);
    if !stays(&before) {
        return Err(Error::new(ErrorKind::Configuration, "this is the last key slot that opens with what was given")
            .with("slot", &slot.id)
            .guidance(
                "open the repository with the passphrase or key that is to stay, or add one with `regrow key add`",
            ));
    }
    repository.delete(&path::key_slot(&slot.id)).await?;
    // Somebody who removed the other slot at the same moment would have locked everybody out.
    let mut added = Vec::new();
    let after = repository.keys_report("remove", unlock, Vec::new(), Vec::new()).await?;
    if !stays(&after) {
        added = repository.add_slots(&keys.ring, Opener::all(unlock)?, unlock.cost).await?;
    }
    repository.keys_report("remove", unlock, added, vec![slot.id.clone()]).await
}

/// Makes a new repository key for everything written from now on, with slots for what `unlock` gives and for `also`,
/// and removes every other slot. What is there stays readable and is not written again.
///
/// A slot with a key that is not known here stays: somebody else rotates at the same time.
pub async fn rotate_keys(repository: &Repository, unlock: &Unlock, also: &[Unlock]) -> Result<KeysReport> {
    let keys = repository.opened_keys()?.clone();
    let ring = keys.ring.rotated()?;
    let mut openers = Opener::all(unlock)?;
    openers.extend(self::openers(also)?);
    let added = repository.add_slots(&ring, openers, unlock.cost).await?;
    let known: BTreeSet<KeyId> = ring.ids().into_iter().collect();
    let slots = Slots::read(repository).await?;
    let mut old: Vec<String> = slots.unreadable.into_iter().map(|(name, _)| name).collect();
    for slot in &slots.slots {
        let others = slot.repository == keys.repository
            && slot.is_genuine(&keys.ring)
            && slot.keys.iter().any(|id| !known.contains(id));
        if !others && !added.contains(&slot.id) {
            old.push(path::key_slot(&slot.id));
        }
    }
    let mut removed = Vec::new();
    for name in old {
        repository.delete(&name).await?;
        removed.push(name.rsplit('/').next().unwrap_or_default().trim_end_matches(".json").to_owned());
    }
    let opened = repository.clone().unlock(unlock).await?;
    opened.keys_report("rotate", unlock, added, removed).await
}
