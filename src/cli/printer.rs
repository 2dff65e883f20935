//! What is said at the end: data on stdout, everything else on stderr; for people or as one JSON document.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use comfy_table::{ContentArrangement, Table, presets};
use regrow::validate::{Check, Outcome};
use regrow::{Error, ErrorKind, Result};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::terminal::{Terminal, clean};

/// Prints results. In JSON mode human output on stdout is left out, and exactly one document is printed.
pub(crate) struct Printer {
    json: bool,
    terminal: Terminal,
    state: Mutex<State>,
}

struct State {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    /// The reader of stdout went away; what is left is not for anyone.
    closed: bool,
    documents: usize,
}

impl Printer {
    /// Prints to this process's streams.
    pub(crate) fn new(json: bool, terminal: Terminal) -> Self {
        Self::to(json, terminal, Box::new(io::stdout()), Box::new(io::stderr()))
    }

    fn to(json: bool, terminal: Terminal, out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Self {
        Self { json, terminal, state: Mutex::new(State { out, err, closed: false, documents: 0 }) }
    }

    /// Whether the reader of stdout went away (`regrow list | head -1`): no reason to fail, one to stop printing.
    #[cfg(test)]
    fn closed(&self) -> bool {
        self.state().closed
    }

    /// The result of a run: its one JSON document, or its text for people.
    pub(crate) fn report<T: Serialize>(&self, value: &T, text: impl FnOnce() -> String) -> Result<()> {
        if self.json { self.document(value) } else { self.write(&text()) }
    }

    /// A part of the result that people see before the rest is finished; nothing in JSON mode.
    pub(crate) fn interim(&self, text: impl FnOnce() -> String) -> Result<()> {
        if self.json { Ok(()) } else { self.write(&text()) }
    }

    /// A table for people. Right-aligns the columns named in `numbers`.
    pub(crate) fn table(&self, header: &[&str], numbers: &[usize], rows: &[Vec<String>]) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).force_no_tty().set_content_arrangement(ContentArrangement::Dynamic);
        if let Some(width) = self.terminal.width {
            table.set_width(width);
        }
        table.set_header(header.iter().map(|h| h.to_uppercase()));
        for row in rows {
            table.add_row(row.iter().map(|cell| clean(cell)));
        }
        for (i, column) in table.column_iter_mut().enumerate() {
            // Two blanks between columns, none in front.
            column.set_padding((0, 2));
            if numbers.contains(&i) {
                column.set_cell_alignment(comfy_table::CellAlignment::Right);
            }
        }
        table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }

    /// Checks for people, one per line; a failed one with what was measured and expected.
    pub(crate) fn checks(&self, checks: &[Check]) -> String {
        let width = checks.iter().map(|c| c.name.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for check in checks {
            let (mark, color) = match (check.outcome, self.terminal.unicode) {
                (Outcome::Pass, true) => ("✓", "32"),
                (Outcome::Pass, false) => ("ok", "32"),
                (Outcome::Fail, true) => ("✗", "1;31"),
                (Outcome::Fail, false) => ("FAIL", "1;31"),
                (Outcome::Skipped, _) => ("-", "2"),
            };
            // The widest mark decides, so that names stand below one another.
            let mark = if self.terminal.unicode { mark.to_owned() } else { format!("{mark:<4}") };
            let mark = paint(&mark, color, self.terminal.stdout_color);
            text.push_str(&clean_line(&format!("{:width$}  {}", check.name, check.reason), &format!("{mark} ")));
            if check.outcome == Outcome::Fail {
                let compared = format!("measured {}, expected {}", check.measured, check.expected);
                text.push_str(&clean_line(&compared, "    "));
            }
        }
        text
    }

    /// The one JSON document of this run; only in JSON mode.
    pub(crate) fn document<T: Serialize>(&self, value: &T) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(value)
            .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot write the report as JSON").because(e))?;
        {
            let mut state = self.state();
            if state.documents > 0 {
                return Err(Error::new(ErrorKind::Unexpected, "a second JSON document was about to be printed")
                    .guidance("this is a defect in regrow: please report it"));
            }
            state.documents += 1;
        }
        self.write(&format!("{text}\n"))
    }

    /// Reports an error: people get it on stderr; JSON readers as the document, unless there was one. Returns the exit code.
    pub(crate) fn error(&self, error: &Error) -> u8 {
        if self.json && self.state().documents == 0 {
            // Nowhere is left to complain to when even this fails.
            let _ = self.document(&error_document(error));
        }
        let text = render_error(error, self.terminal.stderr_color);
        let _ = self.state().err.write_all(text.as_bytes());
        error.exit_code()
    }

    fn write(&self, text: &str) -> Result<()> {
        let mut state = self.state();
        if state.closed {
            return Ok(());
        }
        match state.out.write_all(text.as_bytes()).and_then(|()| state.out.flush()) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                state.closed = true;
                Ok(())
            }
            other => other.map_err(|e| Error::from(e).with("stream", "stdout")),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn paint(text: &str, code: &str, color: bool) -> String {
    if color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// One line of foreign text after a prefix of our own.
fn clean_line(text: &str, prefix: &str) -> String {
    format!("{prefix}{}\n", clean(text).replace('\n', " "))
}

/// An error for people: message, where, causes, what to do next.
pub(crate) fn render_error(error: &Error, color: bool) -> String {
    let mut text = clean_line(error.message(), &format!("{} ", paint("error:", "1;31", color)));
    for (key, value) in error.context() {
        text.push_str(&clean_line(value, &format!("  {}: ", key.replace('_', " "))));
    }
    for cause in error.causes() {
        text.push_str(&clean_line(&cause, "  caused by: "));
    }
    if let Some(next) = error.next_step() {
        text.push_str(&clean_line(next, &format!("  {} ", paint("next:", "1;36", color))));
    }
    text
}

/// An error for programs. A context key that comes more than once becomes a list.
pub(crate) fn error_document(error: &Error) -> Value {
    let mut context = Map::new();
    for (key, value) in error.context() {
        let value = Value::from(value.as_str());
        match context.get_mut(*key) {
            None => {
                context.insert((*key).to_owned(), value);
            }
            Some(Value::Array(all)) => all.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    json!({
        "ok": false,
        "exit_code": error.exit_code(),
        "error": {
            "kind": error.kind().name(),
            "message": error.message(),
            "context": context,
            "causes": error.causes(),
            "next": error.next_step(),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A stream that keeps what it gets, or whose reader has gone.
    #[derive(Clone, Default)]
    struct Stream(Arc<Mutex<Vec<u8>>>, bool);

    impl Stream {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Stream {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.1 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn printer(json: bool, terminal: Terminal) -> (Printer, Stream, Stream) {
        let (out, err) = (Stream::default(), Stream::default());
        (Printer::to(json, terminal, Box::new(out.clone()), Box::new(err.clone())), out, err)
    }

    fn failure() -> Error {
        Error::new(ErrorKind::BadDocument, "record is not JSON")
            .with("file", "a\u{1b}[2J.jsonl")
            .with("line", 3)
            .because(io::Error::other("expected `,`"))
            .guidance("correct the line")
    }

    fn some_checks() -> Vec<Check> {
        vec![
            Check::pass("count", 2, 2, "as many as rows"),
            Check::fail("ids", 1, 2, "1 missing"),
            Check::skipped("golden", "none are given"),
        ]
    }

    #[test]
    fn people_get_lines_tables_and_checks() {
        let (p, out, err) = printer(false, Terminal::plain());
        p.interim(|| "hello\n".to_owned()).unwrap();
        let rows = [vec!["docs".into(), "1,000".into()], vec!["x".into(), "7".into()]];
        p.report(&json!({"not": "printed"}), || p.table(&["name", "points"], &[1], &rows)).unwrap();
        p.interim(|| p.checks(&some_checks())).unwrap();
        p.document(&json!({"not": "printed"})).unwrap();
        let expected = "hello\nNAME  POINTS\ndocs   1,000\nx          7\n\
                        ✓ count   as many as rows\n✗ ids     1 missing\n    measured 1, expected 2\n- golden  none are given\n";
        assert_eq!(out.text(), expected);
        assert_eq!(err.text(), "");
    }

    #[test]
    fn without_unicode_checks_are_words_and_colour_is_only_where_it_may_be() {
        let (p, out, _) = printer(false, Terminal { unicode: false, ..Terminal::plain() });
        p.interim(|| p.checks(&some_checks())).unwrap();
        assert!(out.text().is_ascii());
        assert!(out.text().contains("FAIL ids") && out.text().contains("ok   count"), "{}", out.text());
        let (p, out, _) = printer(false, Terminal { stdout_color: true, ..Terminal::plain() });
        p.interim(|| p.checks(&some_checks())).unwrap();
        assert!(out.text().contains("\u{1b}[32m✓\u{1b}[0m"));
    }

    #[test]
    fn programs_get_exactly_one_document() {
        let (p, out, _) = printer(true, Terminal::plain());
        p.interim(|| "for people".to_owned()).unwrap();
        p.report(&json!({"ok": true}), || "for people".to_owned()).unwrap();
        assert_eq!(p.document(&json!({"ok": true})).unwrap_err().kind(), ErrorKind::Unexpected);
        assert_eq!(p.error(&failure()), 10);
        assert_eq!(serde_json::from_str::<Value>(&out.text()).unwrap(), json!({"ok": true}));
    }

    #[test]
    fn an_error_is_the_document_when_there_is_none_and_stands_on_stderr_too() {
        let (p, out, err) = printer(true, Terminal::plain());
        assert_eq!(p.error(&failure().with("line", 4)), 10);
        let document: Value = serde_json::from_str(&out.text()).unwrap();
        assert_eq!(
            document,
            json!({"ok": false, "exit_code": 10, "error": {
                "kind": "bad_document", "message": "record is not JSON",
                "context": {"file": "a\u{1b}[2J.jsonl", "line": ["3", "4"]},
                "causes": ["expected `,`"], "next": "correct the line",
            }})
        );
        assert!(err.text().starts_with("error: record is not JSON\n"));
    }

    #[test]
    fn an_error_for_people_says_what_where_why_and_what_next() {
        let (p, out, err) = printer(false, Terminal::plain());
        p.error(&failure());
        assert_eq!(out.text(), "");
        assert_eq!(
            err.text(),
            "error: record is not JSON\n  file: a\\u{1b}[2J.jsonl\n  line: 3\n  caused by: expected `,`\n  next: correct the line\n"
        );
    }

    #[test]
    fn a_reader_that_goes_away_is_no_failure_and_a_full_disk_is() {
        let p = Printer::to(false, Terminal::plain(), Box::new(Stream(Arc::default(), true)), Box::new(io::sink()));
        p.interim(|| "a".to_owned()).unwrap();
        assert!(p.closed());
        p.interim(|| "b".to_owned()).unwrap();

        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let p = Printer::to(false, Terminal::plain(), Box::new(Full), Box::new(io::sink()));
        assert_eq!(p.interim(|| "a".to_owned()).unwrap_err().kind(), ErrorKind::StorageFull);
    }
}
