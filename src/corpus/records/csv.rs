//! CSV with a header line: quoted fields may hold separators, quotes and line ends.

use std::io::{self, BufRead};

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};
use serde_json::{Map, Value};

use super::super::place;
use super::jsonl::refuse_wide;
use super::{Sink, Source};
use crate::error::{Error, ErrorKind, Result};

pub(super) fn read(source: &Source<'_>, reader: &mut (dyn BufRead + Send), sink: &mut Sink<'_>) -> Result<()> {
    source.check_encoding()?;
    let failed = |e: io::Error| place::read_failed(&source.object.path, e);
    let delimiter = source.settings.delimiter.as_bytes().first().copied().unwrap_or(b',');
    let mut rows = Rows::new(reader, delimiter, source.max_bytes);
    rows.skip_mark(source)?;
    let Some(header) = rows.next(None).map_err(failed)? else { return Ok(()) };
    if header != Row::Whole {
        return Err(source.too_long(rows.start));
    }
    let names = rows
        .fields()
        .map(|f| source.decode(f).map_err(|e| source.at(rows.start, e)))
        .collect::<Result<Vec<String>>>()?;
    let mut seen = std::collections::HashSet::new();
    if let Some(twice) = names.iter().find(|name| !seen.insert(name.as_str()))
        && source.columns().any(|c| c == twice)
    {
        return Err(Error::new(ErrorKind::Configuration, "a column of a record file is there twice")
            .with("file", &source.object.path)
            .with("column", twice)
            .guidance("rename one of the two columns in the file's header"));
    }
    if let Some(column) = source.columns().find(|c| !names.contains(c)) {
        return Err(source.no_column(column, &names.join(", ")));
    }
    while !sink.closed {
        let Some(row) = rows.next(Some(names.len())).map_err(failed)? else { break };
        let line = rows.start;
        let item = match row {
            Row::TooLong => Err(source.too_long(line)),
            Row::Whole if rows.ends.len() == names.len() => document(source, &names, &rows),
            Row::Ragged | Row::Whole => Err(source
                .bad("the record has another number of fields than the header", line)
                .with("fields", rows.found)
                .with("header", names.len())
                .guidance("quote fields that hold the separator, or set `delimiter`")),
        };
        sink.push(item);
    }
    Ok(())
}

fn document(source: &Source<'_>, names: &[String], rows: &Rows<'_>) -> Result<crate::corpus::Document> {
    let mut record = Map::with_capacity(names.len());
    for (name, field) in names.iter().zip(rows.fields()) {
        let text = source.decode(field).map_err(|e| source.at(rows.start, e.with("column", name)))?;
        record.insert(name.clone(), Value::String(text));
    }
    source.document(record, rows.start, rows.bytes).map_err(|e| source.at(rows.start, e))
}

#[derive(Debug, PartialEq)]
enum Row {
    Whole,
    /// Far more fields than the header has; they are not kept.
    Ragged,
    /// More bytes than allowed; they are not kept.
    TooLong,
}

/// Reads one row at a time, with a bound on what is held.
struct Rows<'r> {
    reader: &'r mut (dyn BufRead + Send),
    core: Reader,
    output: Vec<u8>,
    ends: Vec<usize>,
    /// Line at which the row begins, and the line reached, from 1.
    start: u64,
    line: u64,
    /// Bytes of the row in the file, and fields found in it.
    bytes: u64,
    found: usize,
    most: u64,
}

impl<'r> Rows<'r> {
    fn new(reader: &'r mut (dyn BufRead + Send), delimiter: u8, most: u64) -> Self {
        let core = ReaderBuilder::new().delimiter(delimiter).build();
        Self { reader, core, output: Vec::new(), ends: Vec::new(), start: 1, line: 1, bytes: 0, found: 0, most }
    }

    fn skip_mark(&mut self, source: &Source<'_>) -> Result<()> {
        let first = self.reader.fill_buf().map_err(|e| place::read_failed(&source.object.path, e))?;
        refuse_wide(source, first)?;
        let mark = if first.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        self.reader.consume(mark);
        Ok(())
    }

    fn fields(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(from, &to)| self.output.get(from..to).unwrap_or_default())
    }

    /// Reads the next row; blank lines are passed over.
    fn next(&mut self, fields: Option<usize>) -> io::Result<Option<Row>> {
        self.skip_blank_lines()?;
        self.start = self.line;
        (self.bytes, self.found) = (0, 0);
        self.output.clear();
        self.ends.clear();
        let (mut written, mut ended) = (0, 0);
        // Fields beyond this are counted, not kept.
        let keep = fields.map_or(1 << 20, |n| n + 1);
        let mut row = Row::Whole;
        loop {
            if self.output.len() - written < 1024 {
                self.output.resize((self.output.len() * 2).max(8 << 10), 0);
            }
            if self.ends.len() - ended < 16 {
                self.ends.resize((self.ends.len() * 2).max(64), 0);
            }
            let input = match self.reader.fill_buf() {
                Ok(input) => input,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            let (result, nin, nout, nends) =
                self.core.read_record(input, &mut self.output[written..], &mut self.ends[ended..]);
            self.line += input[..nin].iter().filter(|&&b| b == b'\n').count() as u64;
            self.reader.consume(nin);
            self.bytes += nin as u64;
            self.found += nends;
            written += nout;
            ended += nends;
            match result {
                ReadRecordResult::Record => break,
                ReadRecordResult::End => return Ok(None),
                ReadRecordResult::InputEmpty | ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {}
            }
            if self.bytes > self.most {
                row = Row::TooLong;
            } else if self.found > keep && row == Row::Whole {
                row = Row::Ragged;
            }
            if row != Row::Whole {
                (written, ended) = (0, 0);
            }
        }
        if self.bytes > self.most.saturating_add(2) {
            row = Row::TooLong;
        }
        if row == Row::Whole {
            self.output.truncate(written);
            self.ends.truncate(ended);
        } else {
            self.output = Vec::new();
            self.ends = Vec::new();
        }
        Ok(Some(row))
    }

    /// Also the line feed of a row's end that the parser has left.
    fn skip_blank_lines(&mut self) -> io::Result<()> {
        loop {
            let input = match self.reader.fill_buf() {
                Ok(input) => input,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            let blank = input.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
            if blank == 0 {
                return Ok(());
            }
            self.line += input[..blank].iter().filter(|&&b| b == b'\n').count() as u64;
            self.reader.consume(blank);
        }
    }
}
