//! Writing Markdown blocks: paragraphs, code and tables with the markers of what they stand in.

/// Deepest nesting that is still indented; deeper blocks keep this indentation, so that output stays linear.
const MOST_PREFIXES: usize = 16;

/// White space as HTML has it: a no-break space is not.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{c}')
}

/// Whether there is nothing but white space.
pub(super) fn blank(text: &str) -> bool {
    text.chars().all(char::is_whitespace)
}

/// White space runs as one space, none at the ends.
pub(super) fn collapse(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

struct Prefix {
    marker: String,
    rest: String,
    used: bool,
    tight: bool,
    /// Beyond the deepest indentation: writes nothing.
    silent: bool,
}

/// Blocks written so far, and the inline text of the current one.
#[derive(Default)]
pub(super) struct Blocks {
    out: String,
    inline: String,
    prefixes: Vec<Prefix>,
}

impl Blocks {
    /// Bytes of finished blocks.
    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    pub(super) fn inline_len(&self) -> usize {
        self.inline.len()
    }

    /// Whether the current place is inside a list item or the like.
    pub(super) fn in_item(&self) -> bool {
        self.prefixes.last().is_some_and(|p| p.marker != "> ")
    }

    /// Opens a container: `marker` before its first line, `rest` before the others. A tight one has no
    /// blank line before it.
    pub(super) fn open(&mut self, marker: &str, rest: &str, tight: bool) {
        let silent = self.prefixes.len() >= MOST_PREFIXES;
        let prefix = Prefix { marker: marker.to_owned(), rest: rest.to_owned(), used: false, tight, silent };
        self.prefixes.push(prefix);
    }

    pub(super) fn close(&mut self) {
        self.prefixes.pop();
    }

    /// Adds inline text; white space collapses.
    pub(super) fn text(&mut self, text: &str) {
        for c in text.chars() {
            if !is_space(c) {
                self.inline.push(c);
            } else if !(self.inline.is_empty() || self.inline.ends_with([' ', '\n'])) {
                self.inline.push(' ');
            }
        }
    }

    pub(super) fn line_break(&mut self) {
        let end = self.inline.trim_end_matches(' ').len();
        self.inline.truncate(end);
        if !self.inline.is_empty() {
            self.inline.push('\n');
        }
    }

    /// Marks the inline text from `from` on as code.
    pub(super) fn inline_code(&mut self, from: usize) {
        let from = from.min(self.inline.len());
        let code = self.inline[from..].trim_matches(is_space).replace('\n', " ");
        if code.is_empty() {
            return;
        }
        let spaced = self.inline[from..].ends_with(is_space);
        self.inline.truncate(from);
        let fence = "`".repeat(longest_run(&code, '`') + 1);
        let pad = if code.starts_with('`') || code.ends_with('`') { " " } else { "" };
        self.inline.push_str(&format!("{fence}{pad}{code}{pad}{fence}{}", if spaced { " " } else { "" }));
    }

    /// Takes the inline text as one line.
    pub(super) fn take_line(&mut self) -> String {
        collapse_lines(&std::mem::take(&mut self.inline))
    }

    /// Writes the inline text as a paragraph.
    pub(super) fn paragraph(&mut self) {
        let inline = std::mem::take(&mut self.inline);
        let text = inline.trim_matches(is_space);
        if text.is_empty() {
            return;
        }
        let lines: Vec<String> = text
            .split('\n')
            .map(|line| {
                let line = line.trim_matches(is_space);
                // Would open a code block that the page does not have.
                if line.starts_with("```") || line.starts_with("~~~") { format!("\\{line}") } else { line.to_owned() }
            })
            .filter(|line| !line.is_empty())
            .collect();
        self.block(&lines.join("\n"));
    }

    /// Writes a block, and returns where it begins.
    pub(super) fn block(&mut self, text: &str) -> usize {
        let fresh = self.prefixes.iter().find(|p| !p.used);
        let tight = fresh.is_some_and(|p| p.tight);
        if !self.out.is_empty() && !tight {
            let blank: String =
                self.prefixes.iter().take_while(|p| p.used).filter(|p| !p.silent).map(|p| p.rest.as_str()).collect();
            self.out.push_str(blank.trim_end());
            self.out.push('\n');
        }
        let at = self.out.len();
        for line in text.split('\n') {
            let before = self.out.len();
            for prefix in &mut self.prefixes {
                if !prefix.silent {
                    self.out.push_str(if prefix.used { &prefix.rest } else { &prefix.marker });
                }
                prefix.used = true;
            }
            self.out.push_str(line);
            if line.is_empty() {
                let end = before + self.out[before..].trim_end().len();
                self.out.truncate(end);
            }
            self.out.push('\n');
        }
        at
    }

    /// Writes preformatted text, verbatim.
    pub(super) fn code(&mut self, text: &str, language: &str) {
        let text = text.strip_suffix('\n').unwrap_or(text);
        if blank(text) {
            return;
        }
        let fence = "`".repeat((longest_run(text, '`') + 1).max(3));
        self.block(&format!("{fence}{language}\n{text}\n{fence}"));
    }

    /// Writes a table; its first row is the header. Rows keep their own number of cells.
    pub(super) fn table(&mut self, rows: &[Vec<String>]) {
        let mut rows = rows.iter().filter(|row| row.iter().any(|cell| !cell.is_empty()));
        let Some(header) = rows.next() else { return };
        let mut text = row_text(header);
        text.push_str("\n|");
        text.push_str(&" --- |".repeat(header.len()));
        for row in rows {
            text.push('\n');
            text.push_str(&row_text(row));
        }
        self.block(&text);
    }

    /// All blocks.
    pub(super) fn finish(self) -> String {
        self.out
    }
}

fn row_text(row: &[String]) -> String {
    let mut text = "|".to_owned();
    for cell in row {
        text.push(' ');
        text.push_str(&cell.replace('|', "\\|"));
        text.push_str(" |");
    }
    text
}

fn collapse_lines(text: &str) -> String {
    text.split('\n').map(|l| l.trim_matches(is_space)).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ")
}

fn longest_run(text: &str, of: char) -> usize {
    let (mut longest, mut run) = (0, 0);
    for c in text.chars() {
        run = if c == of { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest
}
