//! Parquet objects: encrypted by Parquet's own modular encryption, with a footer that is encrypted and a key of
//! their own, and proven as a whole before anything in them is parsed.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::encryption::decrypt::{FileDecryptionProperties, KeyRetriever};
use parquet::encryption::encrypt::FileEncryptionProperties;
use parquet::errors::ParquetError;

use super::keys::{KEY, KeyId, Keys, random};
use crate::error::{Error, ErrorKind, Result};

/// How one Parquet object is encrypted, or that it is not.
#[derive(Clone)]
pub struct FileSeal(Option<(Arc<Keys>, String)>);

impl std::fmt::Debug for FileSeal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "FileSeal(encrypted)" } else { "FileSeal(none)" })
    }
}

const MAGIC: &[u8] = b"PARE";
const VERSION: u8 = 1;
/// The key metadata that a file carries: version, id of the repository key, salt, proof.
const METADATA: usize = 1 + 8 + KEY + PROOF;
const PROOF: usize = 32;

impl FileSeal {
    /// Not encrypted.
    pub fn none() -> Self {
        Self(None)
    }

    pub(super) fn of(keys: Arc<Keys>, place: &str) -> Self {
        Self(Some((keys, place.to_owned())))
    }

    /// For one file that is to be written; another has another key.
    pub fn begin(&self) -> Result<FileWriterSeal> {
        let Some((keys, place)) = &self.0 else { return Ok(FileWriterSeal(None)) };
        let (id, _) = keys.newest()?;
        let salt: [u8; KEY] = random()?;
        let key = keys.file(id, &salt)?;
        let metadata = [&[VERSION][..], &id.0, &salt, &[0; PROOF]].concat();
        let properties = FileEncryptionProperties::builder(key.to_vec())
            .with_footer_key_metadata(metadata.clone())
            .with_aad_prefix(place.clone().into_bytes())
            .build()?;
        Ok(FileWriterSeal(Some(Begun { seal: self.clone(), properties, metadata })))
    }

    /// A reader of the bytes, which are what was written to the last bit. A file that is not encrypted is refused
    /// where all are.
    pub fn reader(&self, bytes: Bytes) -> Result<ParquetRecordBatchReaderBuilder<Bytes>> {
        let metadata = self.metadata(&bytes, ArrowReaderOptions::new())?;
        Ok(ParquetRecordBatchReaderBuilder::new_with_metadata(bytes, metadata))
    }

    /// What a reader of the bytes needs to know, for several readers of one file.
    pub(crate) fn metadata(&self, bytes: &Bytes, options: ArrowReaderOptions) -> Result<ArrowReaderMetadata> {
        let Some((keys, place)) = &self.0 else { return Ok(ArrowReaderMetadata::load(bytes, options)?) };
        if !(bytes.starts_with(MAGIC) && bytes.ends_with(MAGIC)) {
            return Err(Error::new(ErrorKind::Damaged, "it is not encrypted as everything in this repository is"));
        }
        let retriever = Arc::new(Retriever {
            keys: keys.clone(),
            place: place.clone(),
            bytes: bytes.clone(),
            failure: Mutex::default(),
        });
        let decryption = FileDecryptionProperties::with_key_retriever(retriever.clone())
            .with_aad_prefix(place.clone().into_bytes())
            .build()?;
        let options = options.with_file_decryption_properties(decryption);
        ArrowReaderMetadata::load(bytes, options).map_err(|e| {
            let failure = retriever.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
            failure.unwrap_or_else(|| Error::from(e))
        })
    }
}

/// How one Parquet file that is being written is encrypted.
pub struct FileWriterSeal(Option<Begun>);

struct Begun {
    seal: FileSeal,
    properties: Arc<FileEncryptionProperties>,
    metadata: Vec<u8>,
}

impl FileWriterSeal {
    /// For the writer's properties.
    pub fn properties(&self) -> Option<Arc<FileEncryptionProperties>> {
        self.0.as_ref().map(|begun| begun.properties.clone())
    }

    /// The finished file, from what the writer wrote with these properties.
    pub fn finish(self, mut written: Vec<u8>) -> Result<Bytes> {
        let Some(Begun { seal: FileSeal(Some((keys, place))), metadata, .. }) = self.0 else {
            return Ok(written.into());
        };
        let unexpected = || Error::new(ErrorKind::Unexpected, "the Parquet writer did not write the key metadata");
        let at = find(&written, &metadata).ok_or_else(unexpected)?;
        let (id, salt, _) = parse(&metadata).ok_or_else(unexpected)?;
        let proof = keys.file_proof(id, salt, &place, &[&written])?;
        let end = at + METADATA;
        written[end - PROOF..end].copy_from_slice(proof.as_bytes());
        Ok(written.into())
    }
}

/// Where the key metadata lies: in the tail that the last eight bytes measure, in front of the footer.
fn find(file: &[u8], metadata: &[u8]) -> Option<usize> {
    let (rest, magic) = file.split_last_chunk::<4>()?;
    let (rest, length) = rest.split_last_chunk::<4>()?;
    let start = rest.len().checked_sub(u32::from_le_bytes(*length) as usize)?;
    let at = rest[start..].windows(metadata.len()).position(|window| window == metadata)?;
    (magic == MAGIC).then_some(start + at)
}

fn parse(metadata: &[u8]) -> Option<(KeyId, &[u8; KEY], &[u8; PROOF])> {
    let ([VERSION], rest) = metadata.split_first_chunk::<1>()? else { return None };
    let (id, rest) = rest.split_first_chunk::<8>()?;
    let (salt, proof) = rest.split_first_chunk::<KEY>()?;
    Some((KeyId(*id), salt, proof.try_into().ok()?))
}

/// Finds a file's key by its metadata, once the whole file is proven; keeps why there is none, because Parquet's
/// own errors have no kinds.
struct Retriever {
    keys: Arc<Keys>,
    place: String,
    bytes: Bytes,
    failure: Mutex<Option<Error>>,
}

impl Retriever {
    fn key(&self, metadata: &[u8]) -> Result<Vec<u8>> {
        let damaged = |why: &str| Error::new(ErrorKind::Damaged, why);
        let (id, salt, proof) = parse(metadata).ok_or_else(|| damaged("it carries unknown key metadata"))?;
        let key = self.keys.file(id, salt)?;
        let at = find(&self.bytes, metadata).ok_or_else(|| damaged("its key metadata is not where it belongs"))?;
        let end = at + METADATA;
        let parts = [&self.bytes[..end - PROOF], &[0; PROOF], &self.bytes[end..]];
        // Hashes compare in constant time.
        if self.keys.file_proof(id, salt, &self.place, &parts)? != *proof {
            return Err(damaged("its bytes were changed, or it was written as another object"));
        }
        Ok(key.to_vec())
    }
}

impl KeyRetriever for Retriever {
    fn retrieve_key(&self, metadata: &[u8]) -> parquet::errors::Result<Vec<u8>> {
        self.key(metadata).map_err(|e| {
            let text = e.to_string();
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
            ParquetError::General(text)
        })
    }
}
