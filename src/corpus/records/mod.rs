//! Record files: many documents in one object.

mod csv;
mod jsonl;
mod parquet;

use std::io::BufRead;

use ::parquet::arrow::async_reader::AsyncFileReader;
use encoding_rs::Encoding;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::document::{Document, SourceObject};
use super::extract::{self, Fields};
use super::read::Reading;
use super::select::{PathPattern, record_format};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Digest, fingerprint};
use crate::pipeline::{RecordFormat, RecordSettings};

/// Text that is collected before it is handed on.
const BATCH_BYTES: usize = 256 << 10;
const BATCH_DOCUMENTS: usize = 256;

/// One record file and how it is read.
pub(super) struct Source<'a> {
    pub(super) object: &'a SourceObject,
    pub(super) settings: &'a RecordSettings,
    pub(super) encoding: Option<&'static Encoding>,
    pub(super) pattern: Option<&'a PathPattern>,
    pub(super) max_bytes: u64,
}

/// Hands documents on in small batches.
pub(super) struct Sink<'a> {
    out: &'a mpsc::Sender<Vec<Result<Reading>>>,
    batch: Vec<Result<Reading>>,
    bytes: usize,
    /// Nobody listens any more.
    closed: bool,
}

impl<'a> Sink<'a> {
    pub(super) fn new(out: &'a mpsc::Sender<Vec<Result<Reading>>>) -> Self {
        Self { out, batch: Vec::new(), bytes: 0, closed: false }
    }

    fn push(&mut self, item: Result<Document>) {
        self.bytes += item.as_ref().map_or(0, |d| d.text.len());
        self.batch.push(item.map(Reading::Document));
        if self.bytes >= BATCH_BYTES || self.batch.len() >= BATCH_DOCUMENTS {
            self.flush();
        }
    }

    pub(super) fn flush(&mut self) {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() {
            self.closed |= self.out.blocking_send(batch).is_err();
        }
    }
}

/// Checks an entry of `[[corpus.records]]` for itself.
pub(super) fn check(entry: &RecordSettings) -> Result<()> {
    let wrong = |what: &str, next: &str| {
        Err(Error::new(ErrorKind::Configuration, what).with("include", entry.include.join(" ")).guidance(next))
    };
    if entry.include.is_empty() {
        return wrong("a `[[corpus.records]]` entry takes no files", "give its globs in `include`");
    }
    if entry.id.is_empty() {
        return wrong("a `[[corpus.records]]` entry has no id field", "name the field in `id`");
    }
    if entry.text.is_empty() || entry.text.iter().any(String::is_empty) {
        return wrong("a `[[corpus.records]]` entry has no text field", "name at least one field in `text`");
    }
    if !matches!(entry.delimiter.as_bytes(), [b] if b.is_ascii() && !matches!(b, b'"' | b'\r' | b'\n')) {
        return wrong("the separator of a `[[corpus.records]]` entry is not one ASCII character", "set `delimiter`");
    }
    Ok(())
}

/// The format of a record file.
pub(super) fn format(settings: &RecordSettings, path: &str) -> Result<RecordFormat> {
    settings.format.or_else(|| record_format(path)).ok_or_else(|| {
        Error::new(ErrorKind::Configuration, "the format of a record file is not known")
            .with("file", path)
            .guidance("set `format` in its `[[corpus.records]]` entry to `jsonl`, `csv` or `parquet`")
    })
}

/// Reads all records from a stream of bytes. Blocking.
pub(super) fn read(
    source: &Source<'_>,
    format: RecordFormat,
    reader: &mut (dyn BufRead + Send),
    sink: &mut Sink<'_>,
) -> Result<()> {
    if format == RecordFormat::Csv { csv::read(source, reader, sink) } else { jsonl::read(source, reader, sink) }
}

/// Reads all records of a Parquet file. Blocking.
pub(super) fn read_parquet(
    source: &Source<'_>,
    reader: Box<dyn AsyncFileReader>,
    handle: &Handle,
    sink: &mut Sink<'_>,
) -> Result<()> {
    parquet::read(source, reader, handle, sink)
}

impl Source<'_> {
    /// An error about one record.
    fn at(&self, line: u64, e: Error) -> Error {
        let place =
            if e.context_value("line").is_some() || e.context_value("row").is_some() { None } else { Some(line) };
        let e = e.with("file", &self.object.path);
        match place {
            Some(line) => e.with("line", line),
            None => e,
        }
    }

    fn bad(&self, what: &str, line: u64) -> Error {
        self.at(line, Error::new(ErrorKind::BadDocument, what))
    }

    fn too_long(&self, line: u64) -> Error {
        self.bad("the record is larger than allowed", line)
            .with("most", self.max_bytes)
            .guidance("raise `corpus.max_document_bytes`, or take the record out of the file")
    }

    /// Refuses an encoding in which bytes that separate records can be part of a character.
    fn check_encoding(&self) -> Result<()> {
        match self.encoding {
            Some(encoding) if !encoding.is_ascii_compatible() => {
                Err(Error::new(ErrorKind::Configuration, "record files cannot be read in this encoding")
                    .with("file", &self.object.path)
                    .with("corpus.encoding", encoding.name())
                    .guidance("convert the file to UTF-8"))
            }
            _ => Ok(()),
        }
    }

    /// Text of a record or of one of its fields.
    fn decode(&self, bytes: &[u8]) -> Result<String> {
        super::decode::strict(bytes, self.encoding.unwrap_or(encoding_rs::UTF_8), "`corpus.encoding`, else UTF-8")
    }

    /// The document of a record of `bytes` bytes.
    fn document(&self, mut record: Map<String, Value>, line: u64, bytes: u64) -> Result<Document> {
        let settings = self.settings;
        let id = match find(&record, &settings.id) {
            Some(Value::String(s)) if !s.trim().is_empty() => s.clone(),
            Some(Value::Number(n)) if n.is_i64() || n.is_u64() => n.to_string(),
            None | Some(Value::Null) => return Err(missing("the record has no id", &settings.id)),
            Some(Value::String(_)) => return Err(missing("the record's id is empty", &settings.id)),
            Some(other) => return Err(extract::wrong_type(&settings.id, "text or a whole number", other)),
        };
        let mut fields = Fields::from_path(&self.object.path, self.pattern);
        if let Some(key) = &settings.title {
            fields.title = find(&record, key).map(|v| extract::scalar(key, v)).transpose()?.flatten();
        }
        if let Some(value) = settings.tenant.as_ref().and_then(|key| find(&record, key)) {
            fields.tenant = extract::scalar("tenant", value)?.or(fields.tenant);
        }
        if let Some(value) = settings.acl.as_ref().and_then(|key| find(&record, key)) {
            fields.acl = extract::principals(value)?;
        }
        for key in &settings.metadata {
            if key == "*" {
                let used = |name: &String| self.used().any(|u| u == name);
                fields
                    .metadata
                    .extend(record.iter().filter(|(name, _)| !used(name)).map(|(n, v)| (n.clone(), v.clone())));
            } else if let Some(value) = find(&record, key) {
                fields.metadata.insert(key.clone(), value.clone());
            }
        }
        // Last, because it takes the texts out of the record.
        let (text, format, found) = extract::markup(self.text(&mut record)?, settings.markup);
        if settings.title.is_none() {
            fields.title = found;
        }
        let stored = Stored {
            id: &id,
            text: &text,
            title: fields.title.as_deref(),
            tenant: fields.tenant.as_deref(),
            acl: &fields.acl,
            metadata: &fields.metadata,
        };
        Ok(Document {
            digest: fingerprint("record/1", &stored)?,
            text_digest: Digest::of(text.as_bytes()),
            id: format!("{}#{id}", self.object.path),
            path: self.object.path.clone(),
            line: Some(line),
            format,
            title: fields.title,
            tenant: fields.tenant,
            acl: fields.acl,
            metadata: fields.metadata,
            bytes,
            text,
        })
    }

    /// Texts of the configured fields. A field may be null or absent when another has text.
    fn text(&self, record: &mut Map<String, Value>) -> Result<String> {
        let mut out: Option<String> = None;
        for key in &self.settings.text {
            let part = match find_mut(record, key) {
                None | Some(Value::Null) => continue,
                Some(Value::String(s)) => std::mem::take(s),
                Some(Value::Number(n)) => n.to_string(),
                Some(other) => return Err(extract::wrong_type(key, "text", other)),
            };
            match &mut out {
                None => out = Some(part),
                Some(text) if text.trim().is_empty() => *text = part,
                Some(_) if part.trim().is_empty() => {}
                Some(text) => {
                    text.push_str("\n\n");
                    text.push_str(&part);
                }
            }
        }
        out.ok_or_else(|| missing("the record has no text", &self.settings.text.join(", ")))
    }

    /// Configured fields other than metadata.
    fn used(&self) -> impl Iterator<Item = &String> {
        let s = self.settings;
        std::iter::once(&s.id).chain(&s.text).chain(&s.title).chain(&s.tenant).chain(&s.acl)
    }

    /// Configured fields that a file with named columns must have.
    fn columns(&self) -> impl Iterator<Item = &String> {
        self.used().chain(self.settings.metadata.iter().filter(|key| *key != "*"))
    }

    fn no_column(&self, column: &str, has: &str) -> Error {
        Error::new(ErrorKind::Configuration, "a record file has no such column")
            .with("file", &self.object.path)
            .with("column", column)
            .with("columns", has)
            .guidance(
                "correct the names in its `[[corpus.records]]` entry, or take the file out of the entry's `include`",
            )
    }
}

/// What a record's digest is computed from.
#[derive(Serialize)]
struct Stored<'a> {
    id: &'a str,
    text: &'a str,
    title: Option<&'a str>,
    tenant: Option<&'a str>,
    acl: &'a [String],
    metadata: &'a Map<String, Value>,
}

fn missing(what: &str, field: &str) -> Error {
    Error::new(ErrorKind::BadDocument, what).with("field", field)
}

/// A field by its name, or by a path with dots.
fn find<'r>(record: &'r Map<String, Value>, key: &str) -> Option<&'r Value> {
    if let Some(value) = record.get(key) {
        return Some(value);
    }
    let (first, rest) = key.split_once('.')?;
    find(record.get(first)?.as_object()?, rest)
}

fn find_mut<'r>(record: &'r mut Map<String, Value>, key: &str) -> Option<&'r mut Value> {
    if record.contains_key(key) {
        return record.get_mut(key);
    }
    let (first, rest) = key.split_once('.')?;
    find_mut(record.get_mut(first)?.as_object_mut()?, rest)
}
