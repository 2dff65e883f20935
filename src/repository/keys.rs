//! Keys of an encrypted repository, in memory: what opens it, and what is derived from it.
//!
//! Nothing here shows itself: no `Debug` prints a key, and every key is overwritten when it is dropped.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use aes_gcm_siv::aead::Generate;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::secret::Secret;

/// Bytes of a key.
pub(super) const KEY: usize = 32;

/// 32 bytes that are overwritten when they are dropped.
pub(super) type KeyBytes = Zeroizing<[u8; KEY]>;

/// Random bytes of the operating system.
pub(super) fn random<const N: usize>() -> Result<[u8; N]> {
    <[u8; N]>::try_generate().map_err(|e| {
        Error::new(ErrorKind::Unexpected, "the operating system gives no random bytes").because(e.to_string())
    })
}

/// A key for one purpose, from another key.
pub(super) fn derive(purpose: &str, material: &[&[u8]]) -> KeyBytes {
    let mut hasher = blake3::Hasher::new_derive_key(purpose);
    for part in material {
        hasher.update(part);
    }
    Zeroizing::new(*hasher.finalize().as_bytes())
}

/// What a passphrase costs to try: the parameters of Argon2id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PassphraseCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for PassphraseCost {
    /// The second recommended option of RFC 9106: 64 MiB, three passes, four lanes.
    fn default() -> Self {
        Self { memory_kib: 64 << 10, passes: 3, lanes: 4 }
    }
}

impl PassphraseCost {
    /// What a slot may ask of the machine that opens it, whoever wrote it: 1 GiB, 16 passes.
    pub(super) fn is_bearable(&self) -> bool {
        self.memory_kib <= 1 << 20 && self.passes <= 16 && self.lanes <= 64
    }

    /// The passphrase, stretched.
    pub(super) fn stretch(&self, passphrase: &[u8], salt: &[u8]) -> Result<KeyBytes> {
        let failed = |e: argon2::Error| {
            Error::new(ErrorKind::Unexpected, "the passphrase could not be stretched").because(e.to_string())
        };
        let params = argon2::Params::new(self.memory_kib, self.passes, self.lanes, Some(KEY)).map_err(failed)?;
        let mut key = Zeroizing::new([0; KEY]);
        argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
            .hash_password_into(passphrase, salt, key.as_mut())
            .map_err(failed)?;
        Ok(key)
    }
}

/// What opens an encrypted repository: a passphrase, a key, either, or nothing.
///
/// Clones share what was opened with it, so that a passphrase is stretched once.
#[derive(Clone, Default)]
pub struct Unlock {
    /// A passphrase.
    pub passphrase: Option<Secret>,
    /// 32 bytes in hexadecimal or base64.
    pub key: Option<Secret>,
    /// What a passphrase of a new slot costs to try.
    pub cost: PassphraseCost,
    pub(super) opened: Arc<Mutex<Option<Arc<Keys>>>>,
}

impl fmt::Debug for Unlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unlock")
            .field("passphrase", &self.passphrase)
            .field("key", &self.key)
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}

impl Unlock {
    /// Nothing: for repositories that are not encrypted.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// With what is given.
    pub fn new(passphrase: Option<Secret>, key: Option<Secret>) -> Self {
        Self { passphrase, key, ..Self::default() }
    }

    /// With a passphrase.
    pub fn passphrase(passphrase: impl Into<String>) -> Self {
        Self { passphrase: Some(Secret::new(passphrase)), ..Self::default() }
    }

    /// With a key of 32 bytes in hexadecimal or base64.
    pub fn key(key: impl Into<String>) -> Self {
        Self { key: Some(Secret::new(key)), ..Self::default() }
    }

    /// Another cost for new slots: tests try many.
    #[must_use]
    pub fn with_cost(mut self, cost: PassphraseCost) -> Self {
        self.cost = cost;
        self
    }

    /// Whether there is anything to open with.
    pub fn is_empty(&self) -> bool {
        self.passphrase.is_none() && self.key.is_none()
    }

    pub(super) fn remembered(&self) -> Option<Arc<Keys>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn remember(&self, keys: &Arc<Keys>) {
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(keys.clone());
    }

    /// The key, decoded.
    pub(super) fn key_bytes(&self) -> Result<Option<KeyBytes>> {
        self.key.as_ref().map(decode_key).transpose()
    }
}

/// 32 bytes of hexadecimal or base64 (standard or for URLs, padded or not).
fn decode_key(text: &Secret) -> Result<KeyBytes> {
    let text = text.reveal().trim();
    let mut key = Zeroizing::new([0; KEY]);
    if text.len() == 2 * KEY && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        for (i, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap_or_default();
        }
        return Ok(key);
    }
    let text = text.trim_end_matches('=');
    let decoded = STANDARD_NO_PAD.decode(text).or_else(|_| URL_SAFE_NO_PAD.decode(text)).map(Zeroizing::new);
    match decoded {
        Ok(bytes) if bytes.len() == KEY => {
            key.copy_from_slice(&bytes);
            Ok(key)
        }
        _ => Err(Error::new(ErrorKind::Configuration, "the key is not 32 bytes in hexadecimal or base64")
            .guidance("`openssl rand -hex 32` makes one; for words to remember set repository.encryption.passphrase")),
    }
}

/// Names a repository key: 16 hexadecimal digits, random.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(pub(super) [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = (text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
            .then(|| u64::from_str_radix(text, 16).ok())
            .flatten();
        let number = number.ok_or_else(|| Error::new(ErrorKind::Damaged, "this is not the id of a key"))?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl TryFrom<String> for KeyId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|e: Error| e.message().to_owned())
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.to_string()
    }
}

/// One repository key.
#[derive(Clone)]
pub(super) struct RingKey {
    pub(super) id: KeyId,
    pub(super) secret: KeyBytes,
}

/// The secrets that a slot wraps: the repository keys, newest first, and the key of names, which never changes.
#[derive(Clone)]
pub(super) struct Ring {
    pub(super) names: KeyBytes,
    pub(super) keys: Vec<RingKey>,
}

impl Ring {
    /// The ring of a new repository.
    pub(super) fn new() -> Result<Self> {
        Ok(Self { names: Zeroizing::new(random()?), keys: vec![Self::fresh()?] })
    }

    fn fresh() -> Result<RingKey> {
        Ok(RingKey { id: KeyId(random()?), secret: Zeroizing::new(random()?) })
    }

    /// With one more key, for everything written from now on.
    pub(super) fn rotated(&self) -> Result<Self> {
        let mut keys = vec![Self::fresh()?];
        keys.extend(self.keys.iter().cloned());
        Ok(Self { names: self.names.clone(), keys })
    }

    pub(super) fn ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(|key| key.id).collect()
    }

    /// Takes in the keys of another slot of the same repository; the longer ring's newest key stays in front.
    pub(super) fn merge(&mut self, other: Self) {
        let (mut first, second) = if other.keys.len() > self.keys.len() {
            (other.keys, std::mem::take(&mut self.keys))
        } else {
            (std::mem::take(&mut self.keys), other.keys)
        };
        for key in second {
            if first.iter().all(|known| known.id != key.id) {
                first.push(key);
            }
        }
        self.keys = first;
    }

    /// Key of names, then id and secret of every key.
    pub(super) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        // Exactly as large as needed: growing would leave copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(KEY + self.keys.len() * (8 + KEY)));
        bytes.extend_from_slice(self.names.as_ref());
        for key in &self.keys {
            bytes.extend_from_slice(&key.id.0);
            bytes.extend_from_slice(key.secret.as_ref());
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (names, rest) = bytes.split_first_chunk::<KEY>()?;
        let (entries, []) = rest.as_chunks::<{ 8 + KEY }>() else { return None };
        let keys: Vec<RingKey> = entries
            .iter()
            .filter_map(|entry| {
                let (id, secret) = entry.split_first_chunk::<8>()?;
                Some(RingKey { id: KeyId(*id), secret: Zeroizing::new(secret.try_into().ok()?) })
            })
            .collect();
        (!keys.is_empty()).then(|| Self { names: Zeroizing::new(*names), keys })
    }
}

/// The keys of an open repository.
pub(super) struct Keys {
    /// The repository they belong to.
    pub(super) repository: uuid::Uuid,
    pub(super) ring: Ring,
    /// The slot that opened it.
    pub(super) slot: String,
    /// Keys that genuine slots speak of, also of those that did not open.
    pub(super) spoken_of: BTreeSet<KeyId>,
    sealing: Vec<(KeyId, KeyBytes)>,
    naming: KeyBytes,
}

impl Keys {
    pub(super) fn new(repository: uuid::Uuid, ring: Ring, slot: String, spoken_of: BTreeSet<KeyId>) -> Self {
        let sealing = ring
            .keys
            .iter()
            .map(|key| (key.id, derive("regrow 2026-11 sealed objects", &[key.secret.as_ref()])))
            .collect();
        let naming = derive("regrow 2026-11 names", &[ring.names.as_ref()]);
        Self { repository, ring, slot, spoken_of, sealing, naming }
    }

    /// The key for what is sealed now.
    pub(super) fn newest(&self) -> Result<(KeyId, &KeyBytes)> {
        let (id, key) = self
            .sealing
            .first()
            .ok_or_else(|| Error::new(ErrorKind::Unexpected, "the repository was opened without a key"))?;
        Ok((*id, key))
    }

    /// The sealing key of this id.
    pub(super) fn sealing(&self, id: KeyId) -> Result<&KeyBytes> {
        self.sealing.iter().find(|(known, _)| *known == id).map(|(_, key)| key).ok_or_else(|| self.unknown(id))
    }

    /// The key of one Parquet file.
    pub(super) fn file(&self, id: KeyId, salt: &[u8; KEY]) -> Result<KeyBytes> {
        let key = self.ring.keys.iter().find(|key| key.id == id).ok_or_else(|| self.unknown(id))?;
        Ok(derive("regrow 2026-11 Parquet file", &[key.secret.as_ref(), salt]))
    }

    /// Proves a whole Parquet file, its own proof in it counted as zeros, and that it lies at `place`.
    pub(super) fn file_proof(&self, id: KeyId, salt: &[u8; KEY], place: &str, file: &[&[u8]]) -> Result<blake3::Hash> {
        let key = self.ring.keys.iter().find(|key| key.id == id).ok_or_else(|| self.unknown(id))?;
        let key = derive("regrow 2026-11 Parquet file proof", &[key.secret.as_ref(), salt]);
        let mut hasher = blake3::Hasher::new_keyed(&key);
        hasher.update(&(place.len() as u64).to_le_bytes()).update(place.as_bytes());
        for part in file {
            hasher.update(part);
        }
        Ok(hasher.finalize())
    }

    /// A name that nobody without the keys can make from its contents.
    pub(super) fn name(&self, digest: &Digest) -> Digest {
        Digest::from_bytes(*blake3::keyed_hash(&self.naming, digest.as_bytes()).as_bytes())
    }

    /// Keyed digest that proves that a slot was made by somebody who had opened the repository.
    pub(super) fn slot_proof(ring: &Ring, slot: &Digest) -> Digest {
        let key = derive("regrow 2026-11 key slots", &[ring.names.as_ref()]);
        Digest::from_bytes(*blake3::keyed_hash(&key, slot.as_bytes()).as_bytes())
    }

    /// A key that a genuine slot knows is another's to give; any other is no key of this repository.
    fn unknown(&self, id: KeyId) -> Error {
        if self.spoken_of.contains(&id) {
            return Error::new(ErrorKind::KeyWrong, "this is encrypted with a newer key than was opened")
                .with("key", id)
                .guidance(
                    "run it again if the key was rotated meanwhile; otherwise have `regrow key add` run with a passphrase or key that opens everything",
                );
        }
        Error::new(ErrorKind::Damaged, "this names a key that the repository does not have").with("key", id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_in_every_usual_form() {
        let bytes: [u8; KEY] = std::array::from_fn(|i| (i * 37 + 200) as u8);
        let hexadecimal: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        for text in [
            hexadecimal.clone(),
            hexadecimal.to_uppercase(),
            base64::engine::general_purpose::STANDARD.encode(bytes),
            STANDARD_NO_PAD.encode(bytes),
            URL_SAFE_NO_PAD.encode(bytes),
        ] {
            assert_eq!(*Unlock::key(text.clone()).key_bytes().unwrap().unwrap(), bytes, "{text}");
        }
        for text in ["correct horse", "", "00", &"é".repeat(32)] {
            let e = Unlock::key(text).key_bytes().unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Configuration);
            assert!(text.is_empty() || !format!("{e:?}").contains(text));
        }
    }

    #[test]
    fn a_passphrase_is_stretched_as_argon2id_is_defined() {
        // Computed with the reference implementation: argon2 "password" -id -t 2 -k 256 -p 1 -l 32, salt "somesalt".
        let cost = PassphraseCost { memory_kib: 256, passes: 2, lanes: 1 };
        let key = cost.stretch(b"password", b"somesalt").unwrap();
        assert_eq!(
            Digest::from_bytes(*key).to_string(),
            "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe"
        );
    }

    #[test]
    fn rings_merge_without_losing_a_key() {
        let first = Ring::new().unwrap();
        let (a, b) = (first.rotated().unwrap(), first.rotated().unwrap().rotated().unwrap());
        for (mut one, other) in [(a.clone(), b.clone()), (b.clone(), a.clone())] {
            one.merge(other);
            assert_eq!(one.keys[0].id, b.keys[0].id);
            assert!(a.ids().iter().chain(&b.ids()).all(|id| one.ids().contains(id)));
            assert_eq!(one.keys.len(), 4);
            assert_eq!(Ring::from_bytes(&one.to_bytes()).unwrap().ids(), one.ids());
        }
        assert!(Ring::from_bytes(&[0; KEY]).is_none() && Ring::from_bytes(&first.to_bytes()[1..]).is_none());
    }
}
