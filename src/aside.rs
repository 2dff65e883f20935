//! Rows put aside on disk by partition in a compact encoding, to be read as often as needed.
//!
//! For rows that come by the million: a corpus's listing, an inventory before its number of buckets is known.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::marker::PhantomData;
use std::path::PathBuf;

use crate::corpus::SourceObject;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::repository::{DocumentRow, bucket_of};

/// Bits of the hash that number a partition.
pub(crate) const ASIDE_BITS: u8 = 8;
/// Number of partitions.
pub(crate) const PARTITIONS: usize = 1 << ASIDE_BITS;

/// The partition of a document id or path: partitions and buckets nest.
pub(crate) fn partition_of(id: &str) -> usize {
    bucket_of(id, ASIDE_BITS) as usize
}

/// A value with a compact encoding that only this process reads.
pub(crate) trait Packed: Sized {
    fn pack(&self, out: &mut Vec<u8>);
    /// `None` when the bytes are no such value.
    fn unpack(from: &mut &[u8]) -> Option<Self>;
}

/// Temporary files, one per partition; removed on drop.
pub(crate) struct Aside<T> {
    directory: tempfile::TempDir,
    writers: Vec<Option<BufWriter<File>>>,
    /// Rows per partition.
    counts: Vec<u64>,
    buffer: Vec<u8>,
    row: PhantomData<fn(T)>,
}

/// Buffer per partition: 4 MiB in all.
const BUFFER: usize = 16 << 10;

impl<T: Packed> Aside<T> {
    /// `partitions` empty partitions in the system's temporary directory.
    pub(crate) fn new(partitions: usize) -> Result<Self> {
        Ok(Self {
            directory: tempfile::Builder::new().prefix("regrow-aside-").tempdir()?,
            writers: (0..partitions).map(|_| None).collect(),
            counts: vec![0; partitions],
            buffer: Vec::new(),
            row: PhantomData,
        })
    }

    fn path(&self, partition: usize) -> PathBuf {
        self.directory.path().join(partition.to_string())
    }

    /// Adds a row to a partition.
    pub(crate) fn push(&mut self, partition: usize, row: &T) -> Result<()> {
        if self.writers[partition].is_none() {
            let file = File::options().append(true).create(true).open(self.path(partition))?;
            self.writers[partition] = Some(BufWriter::with_capacity(BUFFER, file));
        }
        self.buffer.clear();
        row.pack(&mut self.buffer);
        if let Some(writer) = &mut self.writers[partition] {
            writer.write_all(&self.buffer)?;
        }
        self.counts[partition] += 1;
        Ok(())
    }

    /// Closes the files that are open: nothing more will be added for a while.
    pub(crate) fn seal(&mut self) -> Result<()> {
        for writer in &mut self.writers {
            if let Some(mut writer) = writer.take() {
                writer.flush()?;
            }
        }
        Ok(())
    }

    /// How many partitions there are.
    pub(crate) fn partitions(&self) -> usize {
        self.writers.len()
    }

    /// Rows in all partitions.
    pub(crate) fn len(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The rows of a partition, in the order they were added.
    pub(crate) fn rows(&mut self, partition: usize) -> Result<Vec<T>> {
        if self.counts[partition] == 0 {
            return Ok(Vec::new());
        }
        if let Some(writer) = &mut self.writers[partition] {
            writer.flush()?;
        }
        let bytes = std::fs::read(self.path(partition))?;
        let mut left = bytes.as_slice();
        let mut rows = Vec::with_capacity(self.counts[partition] as usize);
        for _ in 0..self.counts[partition] {
            rows.push(T::unpack(&mut left).ok_or_else(|| {
                Error::new(ErrorKind::Unexpected, "a temporary file changed while it was in use")
                    .with("file", self.path(partition).display())
            })?);
        }
        Ok(rows)
    }
}

/// Seven bits per byte, the lowest first.
pub(crate) fn put_number(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

pub(crate) fn take_number(from: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = from.split_first()?;
        *from = rest;
        n |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

pub(crate) fn put_text(text: &str, out: &mut Vec<u8>) {
    put_number(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

fn take_bytes<'a>(from: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(usize::try_from(length).ok()?)?;
    *from = rest;
    Some(taken)
}

pub(crate) fn take_text(from: &mut &[u8]) -> Option<String> {
    let length = take_number(from)?;
    Some(std::str::from_utf8(take_bytes(from, length)?).ok()?.to_owned())
}

pub(crate) fn put_digest(digest: &Digest, out: &mut Vec<u8>) {
    out.extend_from_slice(digest.as_bytes());
}

pub(crate) fn take_digest(from: &mut &[u8]) -> Option<Digest> {
    Some(Digest::from_bytes(take_bytes(from, 32)?.try_into().ok()?))
}

pub(crate) fn put_option<T>(value: Option<&T>, out: &mut Vec<u8>, put: impl FnOnce(&T, &mut Vec<u8>)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(value, out);
    }
}

pub(crate) fn take_option<T>(from: &mut &[u8], take: impl FnOnce(&mut &[u8]) -> Option<T>) -> Option<Option<T>> {
    match take_number(from)? {
        0 => Some(None),
        _ => Some(Some(take(from)?)),
    }
}

pub(crate) fn put_texts(texts: &[String], out: &mut Vec<u8>) {
    put_number(texts.len() as u64, out);
    texts.iter().for_each(|text| put_text(text, out));
}

pub(crate) fn take_texts(from: &mut &[u8]) -> Option<Vec<String>> {
    (0..take_number(from)?).map(|_| take_text(from)).collect()
}

impl Packed for SourceObject {
    fn pack(&self, out: &mut Vec<u8>) {
        put_text(&self.path, out);
        put_number(self.size, out);
        out.extend_from_slice(&self.modified.to_le_bytes());
        put_option(self.etag.as_ref(), out, |etag, out| put_text(etag, out));
        put_option(self.version.as_ref(), out, |version, out| put_text(version, out));
    }

    fn unpack(from: &mut &[u8]) -> Option<Self> {
        Some(Self {
            path: take_text(from)?,
            size: take_number(from)?,
            modified: i64::from_le_bytes(take_bytes(from, 8)?.try_into().ok()?),
            etag: take_option(from, take_text)?,
            version: take_option(from, take_text)?,
        })
    }
}

impl Packed for DocumentRow {
    fn pack(&self, out: &mut Vec<u8>) {
        put_text(&self.document_id, out);
        self.object.pack(out);
        put_option(self.line.as_ref(), out, |line, out| put_number(*line, out));
        put_number(self.bytes, out);
        for digest in [&self.digest, &self.text_digest, &self.payload_digest, &self.chunk_digest] {
            put_digest(digest, out);
        }
        put_option(self.tenant.as_ref(), out, |tenant, out| put_text(tenant, out));
        put_texts(&self.acl, out);
        put_text(&self.metadata, out);
        put_number(u64::from(self.chunks), out);
        put_number(self.tokens, out);
        put_texts(&self.moved_from, out);
    }

    fn unpack(from: &mut &[u8]) -> Option<Self> {
        let (document_id, object) = (take_text(from)?, SourceObject::unpack(from)?);
        let (line, bytes) = (take_option(from, take_number)?, take_number(from)?);
        let (digest, text_digest) = (take_digest(from)?, take_digest(from)?);
        let (payload_digest, chunk_digest) = (take_digest(from)?, take_digest(from)?);
        Some(Self {
            document_id,
            object,
            line,
            bytes,
            digest,
            text_digest,
            payload_digest,
            chunk_digest,
            tenant: take_option(from, take_text)?,
            acl: take_texts(from)?,
            metadata: take_text(from)?,
            chunks: u32::try_from(take_number(from)?).ok()?,
            tokens: take_number(from)?,
            moved_from: take_texts(from)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn object() -> impl Strategy<Value = SourceObject> {
        let etag = proptest::option::of(".{0,9}");
        (".{0,40}", any::<u64>(), any::<i64>(), etag.clone(), etag)
            .prop_map(|(path, size, modified, etag, version)| SourceObject { path, size, modified, etag, version })
    }

    fn row() -> impl Strategy<Value = DocumentRow> {
        let texts = || proptest::collection::vec(".{0,9}", 0..4);
        let ends = (proptest::option::of(".{0,9}"), texts(), ".{0,30}", any::<u32>(), any::<u64>(), texts());
        (".{0,40}", object(), proptest::option::of(any::<u64>()), any::<u64>(), any::<[u8; 32]>(), ends).prop_map(
            |(document_id, object, line, bytes, seed, (tenant, acl, metadata, chunks, tokens, moved_from))| {
                let digest = |n: u8| Digest::of(&[&seed[..], &[n]].concat());
                DocumentRow {
                    document_id,
                    object,
                    line,
                    bytes,
                    digest: digest(0),
                    text_digest: digest(1),
                    payload_digest: digest(2),
                    tenant,
                    acl,
                    metadata,
                    chunks,
                    tokens,
                    chunk_digest: digest(3),
                    moved_from,
                }
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn rows_come_back_by_partition_in_order(rows in proptest::collection::vec((0..3usize, row()), 0..40)) {
            let mut aside = Aside::new(4).unwrap();
            for (i, (partition, row)) in rows.iter().enumerate() {
                aside.push(*partition, row).unwrap();
                if i == 20 {
                    aside.seal().unwrap();
                }
            }
            prop_assert_eq!(aside.len(), rows.len() as u64);
            for partition in 0..4 {
                let wanted: Vec<_> = rows.iter().filter(|(p, _)| *p == partition).map(|(_, r)| r.clone()).collect();
                prop_assert_eq!(&aside.rows(partition).unwrap(), &wanted);
                prop_assert_eq!(&aside.rows(partition).unwrap(), &wanted);
            }
        }

        #[test]
        fn bytes_cut_short_are_no_row(row in row(), keep in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            row.pack(&mut bytes);
            let mut short = &bytes[..keep.index(bytes.len())];
            prop_assert!(DocumentRow::unpack(&mut short).is_none());
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = DocumentRow::unpack(&mut bytes.as_slice());
        }
    }
}
