//! JSON Lines: one object per line.

use std::io::{self, BufRead};

use serde_json::{Map, Value};

use super::super::place;
use super::{Sink, Source};
use crate::error::{Error, ErrorKind, Result};

pub(super) fn read(source: &Source<'_>, reader: &mut (dyn BufRead + Send), sink: &mut Sink<'_>) -> Result<()> {
    source.check_encoding()?;
    let mut line = Vec::new();
    let mut number = 0;
    while !sink.closed {
        let read = next_line(reader, &mut line, source.max_bytes);
        let Some(fits) = read.map_err(|e| place::read_failed(&source.object.path, e))? else { break };
        number += 1;
        if !fits {
            sink.push(Err(source.too_long(number)));
            continue;
        }
        let mut bytes = line.as_slice();
        if number == 1 {
            refuse_wide(source, bytes)?;
            bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let item = record(source, bytes, number);
        sink.push(item.map_err(|e| source.at(number, e)));
    }
    Ok(())
}

fn record(source: &Source<'_>, bytes: &[u8], number: u64) -> Result<crate::corpus::Document> {
    let text = source.decode(bytes)?;
    let record: Map<String, Value> = serde_json::from_str(&text).map_err(|e| {
        Error::new(ErrorKind::BadDocument, "the line is not a JSON object")
            .with("column", e.column())
            .guidance("every line holds one JSON object; correct the line or take it out")
            .because(e)
    })?;
    source.document(record, number, bytes.len() as u64)
}

/// Record files in UTF-16 would give one error per line; one is enough.
pub(super) fn refuse_wide(source: &Source<'_>, bytes: &[u8]) -> Result<()> {
    if bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF") {
        return Err(Error::new(ErrorKind::BadDocument, "the record file is in UTF-16")
            .with("file", &source.object.path)
            .guidance("convert the file to UTF-8"));
    }
    Ok(())
}

/// The next line without its end; `None` at the end of the file. A line of more than `most` bytes is
/// passed over without being held, and false is returned for it.
fn next_line(reader: &mut (dyn BufRead + Send), line: &mut Vec<u8>, most: u64) -> io::Result<Option<bool>> {
    line.clear();
    let (mut any, mut fits) = (false, true);
    loop {
        let available = match reader.fill_buf() {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if available.is_empty() {
            return Ok(any.then_some(fits));
        }
        any = true;
        let end = available.iter().position(|&b| b == b'\n');
        let part = &available[..end.unwrap_or(available.len())];
        fits &= (line.len() + part.len()) as u64 <= most.saturating_add(1);
        if fits {
            line.extend_from_slice(part);
        } else {
            *line = Vec::new();
        }
        let used = part.len() + usize::from(end.is_some());
        reader.consume(used);
        if end.is_some() {
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            return Ok(Some(fits && line.len() as u64 <= most));
        }
    }
}
