//! Marks: which objects nothing referred to, and since when.
//!
//! A mark is `prunes/<id>/mark.json`, written last, with lists `prunes/<id>/<nnnnn>.jsonl`. The newest one counts and is
//! complete: it carries on what earlier ones said. Its time is when the store says that `mark.json` was written.

use std::collections::HashMap;

use futures::TryStreamExt;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::catalog::{Name, describe, lasting, name_of};
use crate::error::{Error, ErrorKind, Result, refused};
use crate::event::Events;
use crate::ids::timed_id;
use crate::repository::{ObjectRef, Repository, path};

/// Version of marks.
const FORMAT: u32 = 1;
/// Objects in one list.
const LIST: usize = 20_000;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MarkRecord {
    format: u32,
    id: String,
    created: Timestamp,
    tool_version: String,
    objects: u64,
    bytes: u64,
    lists: Vec<ObjectRef>,
}

/// One object of a mark.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    object: String,
    bytes: u64,
    /// When the store says that it was written, in microseconds since 1970.
    modified: i64,
    /// Since when an earlier mark had it; absent for the time of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<i64>,
}

/// The newest mark: 32 bytes per object.
#[derive(Debug, Default)]
pub(super) struct Marks {
    id: Option<String>,
    entries: HashMap<Name, (i64, i64)>,
}

impl Marks {
    /// Reads the newest mark. One that cannot be read is passed over: everything then waits longer.
    pub(super) async fn newest(repository: &Repository, events: &Events) -> Result<Self> {
        let listed: Vec<_> = repository.list(path::PRUNES).try_collect().await?;
        let mut records: Vec<(Timestamp, String)> = listed
            .into_iter()
            .filter(|(name, ..)| name.ends_with("/mark.json"))
            .map(|(name, _, modified)| (modified, name))
            .collect();
        records.sort();
        for (modified, name) in records.into_iter().rev() {
            match Self::read(repository, &name, modified).await {
                Ok(marks) => return Ok(marks),
                Err(e) if lasting(&e) || e.kind() == ErrorKind::NotFound => {
                    events.warn(format!("a mark of an earlier prune is passed over: {}", describe(&e)));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(Self::default())
    }

    async fn read(repository: &Repository, name: &str, modified: Timestamp) -> Result<Self> {
        let damaged = |e: serde_json::Error| {
            Error::new(ErrorKind::Damaged, "a mark of prune is damaged").with("object", name).because(e)
        };
        let record: MarkRecord = serde_json::from_slice(&repository.open_sealed(name).await?).map_err(damaged)?;
        if record.format > FORMAT {
            return Err(
                Error::new(ErrorKind::Configuration, "the mark was written by a newer regrow").with("object", name)
            );
        }
        let mut entries = HashMap::new();
        for list in &record.lists {
            let lines = repository.unseal(&list.path, repository.get_checked(list).await?)?;
            for line in lines.split(|byte| *byte == b'\n').filter(|l| !l.is_empty()) {
                let entry: Entry = serde_json::from_slice(line).map_err(damaged)?;
                let since = entry.since.unwrap_or(modified.as_microsecond());
                entries.insert(name_of(&entry.object), (entry.modified, since));
            }
        }
        Ok(Self { id: Some(record.id), entries })
    }

    /// Since when the object is marked, if it has not been written since.
    pub(super) fn since(&self, object: &str, modified: Timestamp) -> Option<Timestamp> {
        let (then, since) = self.entries.get(&name_of(object))?;
        (*then == modified.as_microsecond()).then(|| Timestamp::from_microsecond(*since).ok()).flatten()
    }

    /// Number of objects in it.
    pub(super) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }
}

/// Writes a mark list by list.
pub(super) struct MarkWriter<'a> {
    repository: &'a Repository,
    record: MarkRecord,
    list: Vec<u8>,
    entries: usize,
}

impl<'a> MarkWriter<'a> {
    pub(super) fn new(repository: &'a Repository) -> Self {
        let created = Timestamp::now();
        let record = MarkRecord {
            format: FORMAT,
            id: timed_id(created),
            created,
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            objects: 0,
            bytes: 0,
            lists: Vec::new(),
        };
        Self { repository, record, list: Vec::new(), entries: 0 }
    }

    pub(super) async fn push(
        &mut self,
        object: String,
        bytes: u64,
        modified: Timestamp,
        since: Option<Timestamp>,
    ) -> Result<()> {
        self.record.objects += 1;
        self.record.bytes += bytes;
        let since = since.map(Timestamp::as_microsecond);
        let entry = Entry { object, bytes, modified: modified.as_microsecond(), since };
        let line = serde_json::to_vec(&entry)
            .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot write a mark as JSON").because(e))?;
        self.list.extend_from_slice(&line);
        self.list.push(b'\n');
        self.entries += 1;
        if self.entries == LIST { self.close().await } else { Ok(()) }
    }

    async fn close(&mut self) -> Result<()> {
        if self.entries > 0 {
            let name = format!("{}/{}/{:05}.jsonl", path::PRUNES, self.record.id, self.record.lists.len());
            self.record.lists.push(self.repository.put_sealed(&name, std::mem::take(&mut self.list).into()).await?);
            self.entries = 0;
        }
        Ok(())
    }

    /// Commits the mark; without objects there is none. Returns its id.
    pub(super) async fn finish(mut self) -> Result<Option<String>> {
        self.close().await?;
        if self.record.objects == 0 {
            return Ok(None);
        }
        let name = format!("{}/{}/mark.json", path::PRUNES, self.record.id);
        self.repository.put_json(&name, &self.record).await?;
        Ok(Some(self.record.id))
    }
}

/// Removes all marks but one. Where that is refused they stay: the newest counts.
pub(super) async fn remove_others(repository: &Repository, keep: Option<&str>) -> Result<()> {
    let keep = keep.map(|id| format!("{}/{id}/", path::PRUNES));
    let mut names: Vec<String> = repository.list(path::PRUNES).map_ok(|(name, ..)| name).try_collect().await?;
    names.retain(|name| !keep.as_ref().is_some_and(|keep| name.starts_with(keep)));
    // Commit records first: what is left after an interruption is no mark.
    names.sort_by_key(|name| !name.ends_with("/mark.json"));
    for name in names {
        match repository.delete(&name).await {
            Ok(()) => repository.remove_empty_folder(&name).await,
            Err(e) if refused(&e) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
