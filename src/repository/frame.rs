//! Sealed objects: AES-256-GCM-SIV over contents and padding, bound to what the object is.
//!
//! Magic, version, key id, nonce, then the ciphertext with its tag at the end.

use aes_gcm_siv::aead::AeadInOut;
use aes_gcm_siv::{Aes256GcmSiv, KeyInit};
use bytes::Bytes;

use super::keys::{KeyBytes, KeyId, Keys, random};
use crate::error::{Error, ErrorKind, Result};

const MAGIC: &[u8; 4] = b"RGRW";
const VERSION: u8 = 1;
const NONCE: usize = 12;
const TAG: usize = 16;
/// Magic, version and key id.
const HEADER: usize = 4 + 1 + 8;
/// The contents' length, in front of them and encrypted with them.
const LENGTH: usize = 8;

/// Size after padding: a multiple of the larger of 4 KiB and the step that keeps only the leading bits of the size
/// (Padmé), which is at most 12 % more from a quarter of a MiB on.
fn padded(length: usize) -> usize {
    let length = length.max(1);
    let exponent = length.ilog2();
    let kept = exponent.max(1).ilog2() + 1;
    let step = (1 << exponent.saturating_sub(kept)).max(4096);
    length.div_ceil(step) * step
}

fn associated(header: &[u8], place: &str) -> Vec<u8> {
    [header, place.as_bytes()].concat()
}

fn cipher(key: &KeyBytes) -> Aes256GcmSiv {
    Aes256GcmSiv::new(&(**key).into())
}

/// Seals `contents` as what lies at `place`.
pub(super) fn seal(keys: &Keys, place: &str, contents: &[u8]) -> Result<Bytes> {
    let (id, key) = keys.newest()?;
    seal_with(key, id, place, contents)
}

fn seal_with(key: &KeyBytes, id: KeyId, place: &str, contents: &[u8]) -> Result<Bytes> {
    let inner = padded(LENGTH + contents.len());
    let nonce: [u8; NONCE] = random()?;
    let mut sealed = Vec::with_capacity(HEADER + NONCE + inner + TAG);
    sealed.extend_from_slice(MAGIC);
    sealed.push(VERSION);
    sealed.extend_from_slice(&id.0);
    let associated = associated(&sealed, place);
    sealed.extend_from_slice(&nonce);
    let start = sealed.len();
    sealed.extend_from_slice(&(contents.len() as u64).to_le_bytes());
    sealed.extend_from_slice(contents);
    sealed.resize(start + inner, 0);
    let tag = cipher(key)
        .encrypt_inout_detached(&nonce.into(), &associated, (&mut sealed[start..]).into())
        .map_err(|_| Error::new(ErrorKind::Unexpected, "an object is too large to be sealed"))?;
    sealed.extend_from_slice(&tag);
    Ok(sealed.into())
}

fn damaged(why: &str) -> Error {
    Error::new(ErrorKind::Damaged, "a sealed object is not what was written").because(why.to_owned())
}

/// The contents of what was sealed for `place`; [`ErrorKind::Damaged`] when it is anything else.
pub(super) fn open(keys: &Keys, place: &str, sealed: &[u8]) -> Result<Bytes> {
    let header = sealed.get(..HEADER).ok_or_else(|| damaged("it is too short"))?;
    if &header[..4] != MAGIC {
        return Err(damaged("it is not encrypted as everything in this repository is"));
    }
    if header[4] != VERSION {
        return Err(damaged("it is sealed in a way that this regrow does not know"));
    }
    let mut id = KeyId([0; 8]);
    id.0.copy_from_slice(&header[5..]);
    let key = keys.sealing(id)?;
    let (nonce, body) = sealed[HEADER..].split_first_chunk::<NONCE>().ok_or_else(|| damaged("it is too short"))?;
    let (body, tag) = body.split_last_chunk::<TAG>().ok_or_else(|| damaged("it is too short"))?;
    let mut body = body.to_vec();
    cipher(key)
        .decrypt_inout_detached(
            &(*nonce).into(),
            &associated(header, place),
            body.as_mut_slice().into(),
            &(*tag).into(),
        )
        .map_err(|_| damaged("its bytes were changed, or it was written as another object"))?;
    let length = body.first_chunk::<LENGTH>().map(|length| u64::from_le_bytes(*length));
    let end = length.and_then(|length| usize::try_from(length).ok()?.checked_add(LENGTH));
    match end {
        Some(end) if end <= body.len() => Ok(Bytes::from(body).slice(LENGTH..end)),
        _ => Err(damaged("its length is wrong")),
    }
}

/// Whether the bytes begin as a sealed object does.
pub(super) fn is_sealed(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// A key slot's own use of the cipher: under a key-encryption key, bound to the slot's fields.
pub(super) mod wrap {
    use super::*;

    /// Nonce, then ciphertext with tag.
    pub(in super::super) fn wrap(key: &KeyBytes, contents: &[u8], associated: &[u8]) -> Result<Vec<u8>> {
        let nonce: [u8; NONCE] = random()?;
        let mut out = Vec::with_capacity(NONCE + contents.len() + TAG);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(contents);
        let tag = cipher(key)
            .encrypt_inout_detached(&nonce.into(), associated, (&mut out[NONCE..]).into())
            .map_err(|_| Error::new(ErrorKind::Unexpected, "the keys could not be wrapped"))?;
        out.extend_from_slice(&tag);
        Ok(out)
    }

    /// The contents; `None` when they are not what was wrapped under this key for these fields.
    pub(in super::super) fn unwrap(
        key: &KeyBytes,
        wrapped: &[u8],
        associated: &[u8],
    ) -> Option<zeroize::Zeroizing<Vec<u8>>> {
        let (nonce, body) = wrapped.split_first_chunk::<NONCE>()?;
        let (body, tag) = body.split_last_chunk::<TAG>()?;
        let mut body = zeroize::Zeroizing::new(body.to_vec());
        cipher(key)
            .decrypt_inout_detached(&(*nonce).into(), associated, body.as_mut_slice().into(), &(*tag).into())
            .ok()?;
        Some(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_small_objects_look_alike() {
        for length in [0, 1, 9, 400, 4000, 4096] {
            assert_eq!(padded(length), 4096, "{length}");
        }
        assert_eq!(padded(4097), 8192);
        let mut sizes = std::collections::BTreeSet::new();
        for length in (1..30_000_000).step_by(997) {
            let padded = padded(length);
            assert!(padded >= length && padded - length < (length / 8).max(4096), "{length} {padded}");
            assert_eq!(super::padded(padded), padded);
            sizes.insert(padded);
        }
        assert!(sizes.len() < 300, "{}", sizes.len());
    }
}
