//! Key slots: `keys/<id>.json`. Each wraps the repository's keys under one passphrase or one given key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use super::frame::wrap;
use super::keys::{KeyBytes, KeyId, Keys, PassphraseCost, Ring, Unlock, derive, random};
use super::layout::path;
use super::store::Repository;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Digest, fingerprint, timed_id};

/// Version of the slot format.
const SLOT_FORMAT: u32 = 1;
const SEAL: &str = "key-slot/1";

/// What opens a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotKind {
    /// A passphrase, stretched by Argon2id.
    Passphrase,
    /// A key of 32 bytes.
    Key,
}

/// A slot as stored; the proof and the digest are over its other fields.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Slot {
    format: u32,
    pub(super) id: String,
    /// The repository that it belongs to.
    pub(super) repository: uuid::Uuid,
    pub(super) created: jiff::Timestamp,
    pub(super) kind: SlotKind,
    /// Argon2id's parameters, of passphrases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cost: Option<PassphraseCost>,
    /// 32 random bytes, base64.
    salt: String,
    /// Ids of the repository keys that it wraps, newest first.
    pub(super) keys: Vec<KeyId>,
    /// Tells a wrong passphrase from damage.
    commitment: Digest,
    /// The wrapped ring, base64.
    wrapped: String,
    /// Keyed digest over the other fields: whoever wrote the slot had opened the repository.
    proof: Digest,
}

/// A slot in its file, with a digest over it that anybody can check.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed<T> {
    digest: Digest,
    slot: T,
}

/// A secret to open a slot with, ready for use: shown to nobody.
pub(super) enum Opener {
    Passphrase(crate::secret::Secret),
    Key(KeyBytes),
}

impl Opener {
    /// What the user gave.
    pub(super) fn all(unlock: &Unlock) -> Result<Vec<Self>> {
        let key = unlock.key_bytes()?.map(Self::Key);
        Ok(key.into_iter().chain(unlock.passphrase.clone().map(Self::Passphrase)).collect())
    }

    fn kind(&self) -> SlotKind {
        match self {
            Self::Passphrase(_) => SlotKind::Passphrase,
            Self::Key(_) => SlotKind::Key,
        }
    }

    /// The key-encryption key, and what the slot keeps to recognise it.
    fn key(&self, cost: Option<PassphraseCost>, salt: &[u8]) -> Result<(KeyBytes, Digest)> {
        let material = match self {
            Self::Passphrase(passphrase) => cost.unwrap_or_default().stretch(passphrase.reveal().as_bytes(), salt)?,
            Self::Key(key) => derive("regrow 2026-11 given key", &[key.as_ref(), salt]),
        };
        let commitment = *derive("regrow 2026-11 key slot commitment", &[material.as_ref()]);
        Ok((derive("regrow 2026-11 key slot wrapping", &[material.as_ref()]), Digest::from_bytes(commitment)))
    }
}

impl Slot {
    /// A slot that wraps `ring` for `opener`. Blocks while a passphrase is stretched.
    pub(super) fn new(repository: uuid::Uuid, ring: &Ring, opener: &Opener, cost: PassphraseCost) -> Result<Self> {
        let salt: [u8; 32] = random()?;
        let created = jiff::Timestamp::now();
        let kind = opener.kind();
        let cost = (kind == SlotKind::Passphrase).then_some(cost);
        let (key, commitment) = opener.key(cost, &salt)?;
        let mut slot = Self {
            format: SLOT_FORMAT,
            id: timed_id(created),
            repository,
            created,
            kind,
            cost,
            salt: STANDARD.encode(salt),
            keys: ring.ids(),
            commitment,
            wrapped: String::new(),
            proof: Digest::from_bytes([0; 32]),
        };
        let wrapped = wrap::wrap(&key, &ring.to_bytes(), slot.fields()?.as_bytes())?;
        slot.wrapped = STANDARD.encode(wrapped);
        slot.proof = Keys::slot_proof(ring, &slot.fields_with_wrapped()?);
        Ok(slot)
    }

    /// What the wrapped ring is bound to: every field but itself and the proof.
    fn fields(&self) -> Result<Digest> {
        fingerprint(
            "key-slot-fields/1",
            &(
                (self.format, &self.id, self.repository, self.created),
                (self.kind, self.cost, &self.salt, &self.keys, &self.commitment),
            ),
        )
    }

    fn fields_with_wrapped(&self) -> Result<Digest> {
        fingerprint("key-slot-proof/1", &(self.fields()?, &self.wrapped))
    }

    /// Whether somebody wrote it who had opened the repository.
    pub(super) fn is_genuine(&self, ring: &Ring) -> bool {
        self.fields_with_wrapped().is_ok_and(|fields| Keys::slot_proof(ring, &fields) == self.proof)
    }

    fn damaged(&self, why: &str) -> Error {
        Error::new(ErrorKind::Damaged, "a key slot is damaged")
            .with("object", path::key_slot(&self.id))
            .because(why.to_owned())
    }

    /// The ring; `None` when this is not the slot's passphrase or key. Blocks while a passphrase is stretched.
    pub(super) fn open(&self, opener: &Opener) -> Result<Option<Ring>> {
        if opener.kind() != self.kind {
            return Ok(None);
        }
        if self.cost.is_some_and(|cost| !cost.is_bearable()) {
            return Err(self.damaged("it asks for more memory or time than any regrow would"));
        }
        let salt = STANDARD.decode(&self.salt).map_err(|_| self.damaged("its salt is not base64"))?;
        if salt.len() != 32 {
            return Err(self.damaged("its salt has the wrong length"));
        }
        let (key, commitment) =
            opener.key(self.cost, &salt).map_err(|_| self.damaged("its parameters are not Argon2id's"))?;
        if commitment != self.commitment {
            return Ok(None);
        }
        let wrapped = STANDARD.decode(&self.wrapped).map_err(|_| self.damaged("the wrapped keys are not base64"))?;
        let ring = wrap::unwrap(&key, &wrapped, self.fields()?.as_bytes()).and_then(|ring| Ring::from_bytes(&ring));
        match ring {
            Some(ring) if ring.ids() == self.keys => Ok(Some(ring)),
            _ => Err(self.damaged("the wrapped keys were changed")),
        }
    }

    /// Parses `keys/<id>.json`.
    pub(super) fn parse(name: &str, bytes: &[u8]) -> Result<Self> {
        let damaged =
            |why: String| Error::new(ErrorKind::Damaged, "a key slot is damaged").with("object", name).because(why);
        let sealed: Sealed<serde_json::Value> =
            serde_json::from_slice(bytes).map_err(|e| damaged(format!("not a complete JSON document: {e}")))?;
        if fingerprint(SEAL, &sealed.slot)? != sealed.digest {
            return Err(damaged("it is not what its digest says".to_owned()));
        }
        let format = sealed.slot.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if format > u64::from(SLOT_FORMAT) {
            return Err(Error::new(ErrorKind::Configuration, "the key slot was written by a newer regrow")
                .with("object", name)
                .with("format", format)
                .with("readable", SLOT_FORMAT)
                .guidance("use a regrow at least as new as the one that wrote it"));
        }
        let slot: Self = serde_json::from_value(sealed.slot).map_err(|e| damaged(e.to_string()))?;
        if path::key_slot(&slot.id) != name {
            return Err(damaged("it is another slot".to_owned()));
        }
        Ok(slot)
    }
}

/// The slots of a repository, and those that cannot be read, with why.
#[derive(Default)]
pub(super) struct Slots {
    pub(super) slots: Vec<Slot>,
    pub(super) unreadable: Vec<(String, Error)>,
}

impl Slots {
    /// Reads `keys/`; those with the most keys come first, then the newest.
    pub(super) async fn read(repository: &Repository) -> Result<Self> {
        let mut names: Vec<String> = repository.list(path::KEYS).map_ok(|(name, ..)| name).try_collect().await?;
        names.sort_unstable_by(|a, b| b.cmp(a));
        let mut slots = Self::default();
        for name in names {
            // One that was removed meanwhile is none.
            let Some(bytes) = repository.get_optional(&name).await? else { continue };
            match Slot::parse(&name, &bytes) {
                Ok(slot) => slots.slots.push(slot),
                Err(e) => slots.unreadable.push((name, e)),
            }
        }
        slots.slots.sort_by_key(|slot| std::cmp::Reverse(slot.keys.len()));
        Ok(slots)
    }

    /// Opens what the openers open. Once one slot is open, only genuine slots with further keys are tried.
    /// Blocks while passphrases are stretched.
    pub(super) fn open(&self, repository: uuid::Uuid, openers: &[Opener]) -> Result<Keys> {
        let mut opened: Option<(Ring, String)> = None;
        let mut failure = None;
        let own = || self.slots.iter().filter(|slot| slot.repository == repository);
        for slot in own() {
            if let Some((ring, _)) = &opened {
                let ids = ring.ids();
                if slot.keys.iter().all(|id| ids.contains(id)) || !slot.is_genuine(ring) {
                    continue;
                }
            }
            for opener in openers {
                match slot.open(opener) {
                    Ok(Some(ring)) => {
                        match &mut opened {
                            Some((all, _)) => all.merge(ring),
                            None => opened = Some((ring, slot.id.clone())),
                        }
                        break;
                    }
                    Ok(None) => {}
                    Err(e) => failure = Some(e),
                }
            }
        }
        let Some((ring, slot)) = opened else { return Err(self.unopened(repository, openers, failure)) };
        let spoken_of = own().filter(|slot| slot.is_genuine(&ring)).flat_map(|slot| slot.keys.clone()).collect();
        Ok(Keys::new(repository, ring, slot, spoken_of))
    }

    fn unopened(&self, repository: uuid::Uuid, openers: &[Opener], failure: Option<Error>) -> Error {
        let own = || self.slots.iter().filter(|slot| slot.repository == repository);
        if let Some(e) = failure {
            return e.guidance("open the repository with another passphrase or key, or take keys/ from a replica");
        }
        if let Some((name, e)) = self.unreadable.first() {
            let kind = if e.kind() == ErrorKind::Configuration { e.kind() } else { ErrorKind::Damaged };
            return Error::new(kind, "a key slot is unreadable, and no other opens with what was given")
                .with("object", name)
                .with("unreadable", self.unreadable.len())
                .with("others", own().count())
                .guidance("check the passphrase or key; if it is right, take keys/ from a replica of this repository")
                .because(e.to_string());
        }
        if own().next().is_none() {
            return Error::new(ErrorKind::Damaged, "the repository is encrypted, and none of its key slots is left")
                .guidance("take keys/ from a replica of this repository: without one it cannot be read");
        }
        let fits = |slot: &Slot| openers.iter().any(|opener| opener.kind() == slot.kind);
        let error = Error::new(ErrorKind::KeyWrong, "this passphrase or key does not open the repository")
            .with("slots", own().count());
        match own().any(fits) {
            true => error,
            false => error.guidance(match own().next().map(|slot| slot.kind) {
                Some(SlotKind::Passphrase) => "every slot wants a passphrase: set repository.encryption.passphrase",
                _ => "every slot wants a key: set repository.encryption.key",
            }),
        }
    }
}

impl Repository {
    /// Writes a slot; its name is new.
    pub(super) async fn put_slot(&self, slot: &Slot) -> Result<()> {
        let sealed = Sealed { digest: fingerprint(SEAL, slot)?, slot };
        let text = serde_json::to_vec_pretty(&sealed)
            .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot write JSON").because(e))?;
        self.put_new(&path::key_slot(&slot.id), text.into()).await.map(drop)
    }
}
