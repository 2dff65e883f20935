//! One object: there, of the right size, with the right digest, and inside as those who need it say.

use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::captured::{Uses, uses};
use super::kind::ObjectKind;
use super::needs::{Need, describe};
use super::report::Problem;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Events, Stage};
use crate::ids::Digest;
use crate::repository::{Counts, InventoryReader, ObjectRef, Repository, bucket_of};

/// What came of one object.
pub(super) struct Checked {
    pub(super) path: String,
    pub(super) need: Need,
    /// What is wrong, for which of `need.wants`.
    pub(super) wrong: Option<(Problem, String, Vec<usize>)>,
    /// What an inventory object holds.
    pub(super) counts: Option<Counts>,
    /// What an object of an index of captured documents uses.
    pub(super) uses: Option<Uses>,
    pub(super) bytes_read: u64,
}

/// Looks at one object. `listed` is its size in the listing; `read` whether its bytes are read. Fails only with what is not
/// the object's own.
pub(super) async fn check(
    repository: &Repository,
    path: String,
    need: Need,
    listed: Option<u64>,
    read: bool,
    events: &Events,
) -> Result<Checked> {
    let mut checked = Checked { path, need, wrong: None, counts: None, uses: None, bytes_read: 0 };
    let all: Vec<usize> = (0..checked.need.wants.len()).collect();
    match found(repository, &mut checked, listed, read, events).await {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            checked.wrong = Some((Problem::Missing, "it is not there".to_owned(), all));
        }
        Err(e) if e.kind() == ErrorKind::Damaged => {
            checked.wrong = Some((Problem::Structure, describe(&e), all));
        }
        Err(e) => checked.wrong = Some((Problem::Unreadable, describe(&e), all)),
    }
    Ok(checked)
}

async fn found(
    repository: &Repository,
    checked: &mut Checked,
    listed: Option<u64>,
    read: bool,
    events: &Events,
) -> Result<()> {
    let path = checked.path.clone();
    if !read {
        // A listing may lag behind; what it lacks is asked for by name.
        let size = match listed {
            Some(size) => Some(size),
            None => repository.size(&path).await?,
        };
        let Some(size) = size else { return Err(Error::new(ErrorKind::NotFound, "object not found")) };
        let other = checked.others(|object| object.bytes != size);
        if !other.is_empty() {
            let problem = format!("{} bytes recorded, {size} found", checked.need.wants[other[0]].object.bytes);
            checked.wrong = Some((Problem::Size, problem, other));
        }
        return Ok(());
    }
    let mut unreported = checked.need.bytes();
    let mut progress = |bytes: u64| {
        let told = bytes.min(unreported);
        unreported -= told;
        events.progress(Stage::Verify, told);
    };
    let (mut size, mut digest) = repository.digest(&path, &mut progress).await?;
    checked.bytes_read += size;
    let differs = |object: &ObjectRef, size, digest| object.bytes != size || object.digest != digest;
    if !checked.others(|object| differs(object, size, digest)).is_empty() {
        // What was read wrongly once is not damaged: it is read again before it is called so.
        let again = repository.digest(&path, |_| ()).await?;
        checked.bytes_read += again.0;
        if again != (size, digest) {
            events.warn(format!("{path} was read differently twice: the store or the network is unreliable"));
        }
        (size, digest) = again;
    }
    let other = checked.others(|object| differs(object, size, digest));
    if let Some(first) = other.first() {
        let recorded = &checked.need.wants[*first].object;
        let (problem, text) = if recorded.bytes == size {
            (Problem::Content, format!("digest {} recorded, {} found", recorded.digest.short(), digest.short()))
        } else {
            (Problem::Size, format!("{} bytes recorded, {size} found", recorded.bytes))
        };
        checked.wrong = Some((problem, text, other));
        return Ok(());
    }
    structure(repository, checked, size).await
}

impl Checked {
    /// The wants that do not hold.
    fn others(&self, differs: impl Fn(&ObjectRef) -> bool) -> Vec<usize> {
        let wants = self.need.wants.iter().enumerate();
        wants.filter(|(_, want)| differs(&want.object)).map(|(i, _)| i).collect()
    }
}

/// What is inside, of an object whose bytes are as recorded.
async fn structure(repository: &Repository, checked: &mut Checked, size: u64) -> Result<()> {
    let Some(want) = checked.need.wants.first() else { return Ok(()) };
    let object = want.object.clone();
    if checked.need.kind == ObjectKind::Inventory {
        checked.counts = Some(survey(repository, &object, checked.need.bits).await?);
        return Ok(());
    }
    if !checked.path.ends_with(".parquet") {
        return Ok(());
    }
    let Some(metadata) = footer(repository, &checked.path, size).await? else { return Ok(()) };
    let rows = metadata.file_metadata().num_rows();
    if let Some(recorded) = object.rows
        && i64::try_from(recorded) != Ok(rows)
    {
        return Err(Error::new(ErrorKind::Damaged, "it has another number of rows")
            .with("recorded", recorded)
            .with("found", rows));
    }
    if checked.need.kind == ObjectKind::Captured {
        let bytes = repository.get_checked(&object).await?;
        checked.uses = Some(tokio::task::spawn_blocking(move || uses(bytes)).await??);
    }
    if checked.need.kind == ObjectKind::Part {
        let pairs = metadata.file_metadata().key_value_metadata();
        let named = pairs.into_iter().flatten().find(|pair| pair.key == "regrow.part");
        let named = named.and_then(|pair| pair.value.as_deref()).unwrap_or_default();
        if checked.path.rsplit('/').next() != Some(named) {
            return Err(Error::new(ErrorKind::Damaged, "it holds another part").with("found", named));
        }
    }
    Ok(())
}

/// Bytes of a Parquet file's end that are read at first: the footer of a part is smaller.
const TAIL: u64 = 64 << 10;

/// The metadata of a Parquet file; `None` where it is enciphered, and its digest has to be enough.
async fn footer(repository: &Repository, path: &str, size: u64) -> Result<Option<ParquetMetaData>> {
    let short = || Error::new(ErrorKind::Damaged, "it is too short for a Parquet file");
    let mut tail = repository.range(path, size.saturating_sub(TAIL)..size).await?;
    if tail.len() < 12 {
        return Err(short());
    }
    let end = &tail[tail.len() - 8..];
    if &end[4..] == b"PARE" {
        return Ok(None);
    }
    let length = u32::from_le_bytes([end[0], end[1], end[2], end[3]]) as usize;
    if length as u64 + 8 > size {
        return Err(short());
    }
    if length + 8 > tail.len() {
        tail = repository.range(path, size - length as u64 - 8..size).await?;
    }
    let start = tail.len().checked_sub(length + 8).ok_or_else(short)?;
    Ok(Some(ParquetMetaDataReader::decode_metadata(&tail[start..tail.len() - 8])?))
}

/// What an inventory object holds, after checking that each document is in its bucket, in order, and that rows and
/// buckets are those recorded.
async fn survey(repository: &Repository, object: &ObjectRef, bits: u8) -> Result<Counts> {
    let wrong = |what: &str| Error::new(ErrorKind::Damaged, what);
    let (first, last) = object.buckets.ok_or_else(|| wrong("its buckets are not recorded"))?;
    if first > last || u64::from(last) >= 1 << bits {
        return Err(wrong("it has buckets that the snapshot has not"));
    }
    let objects = [object.clone()];
    let mut reader = InventoryReader::over(repository, &objects);
    let mut counts = Counts::default();
    for bucket in first..=last {
        let rows = reader.bucket(bucket).await?;
        if rows.is_empty() && (bucket == first || bucket == last) {
            return Err(wrong("its first and last bucket are not those recorded").with("bucket", bucket));
        }
        let mut previous: Option<String> = None;
        for row in rows {
            if bucket_of(&row.document_id, bits) != bucket {
                return Err(wrong("a document is in another's bucket").with("document", row.document_id));
            }
            if previous.is_some_and(|previous| previous >= row.document_id) {
                return Err(wrong("documents are not in order").with("document", row.document_id));
            }
            counts.documents += 1;
            counts.chunks += u64::from(row.chunks);
            counts.tokens += row.tokens;
            counts.bytes += row.bytes;
            previous = Some(row.document_id);
        }
    }
    match object.rows {
        Some(rows) if rows != counts.documents => {
            Err(wrong("it has another number of rows").with("recorded", rows).with("found", counts.documents))
        }
        _ => Ok(counts),
    }
}

/// What differs between a snapshot's counts and the sum over its inventory.
pub(super) fn compare(recorded: &Counts, found: &Counts) -> Option<String> {
    let mut differences = Vec::new();
    for (name, recorded, found) in [
        ("documents", recorded.documents, found.documents),
        ("chunks", recorded.chunks, found.chunks),
        ("tokens", recorded.tokens, found.tokens),
        ("bytes", recorded.bytes, found.bytes),
    ] {
        if recorded != found {
            differences.push(format!("{recorded} {name} recorded, {found} in the inventory"));
        }
    }
    (!differences.is_empty()).then(|| differences.join(", "))
}

/// Whether the digest of some bytes is the recorded one.
pub(crate) fn is_recorded(bytes: &[u8], object: &ObjectRef) -> bool {
    bytes.len() as u64 == object.bytes && Digest::of(bytes) == object.digest
}
