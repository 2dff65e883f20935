//! HTML → Markdown.
//!
//! Works on the tokens of the HTML standard's tokenizer with an explicit stack of open blocks, not on a
//! tree: linear in time, and no depth of nesting can overflow the call stack. What a reader would not
//! read is dropped (scripts, styles, navigation, templates, the head); what gives structure is kept as
//! Markdown, so that the splitter sees it. Emphasis and link targets are dropped: they are not text.

mod elements;
mod survey;

use std::cell::RefCell;
use std::collections::HashMap;

use html5ever::tendril::StrTendril;
use html5ever::tokenizer::states::RawKind;
use html5ever::tokenizer::{
    BufferQueue, EndTag, StartTag, Tag, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
};

use super::markdown::{self, Blocks};
use elements::{breaks_out, heading_level, is_block, is_dropped, is_void};
use survey::Survey;

/// What [`convert`] makes of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    /// The text as Markdown.
    pub(super) text: String,
    /// First `<h1>`, else `<title>`, else the first heading.
    pub(super) title: Option<String>,
}

/// Converts a page.
pub(super) fn convert(html: &str) -> Page {
    let layout = run(html, Survey::default()).layout;
    let writer = run(html, Writer { layout, ..Writer::default() });
    writer.finish()
}

/// Runs the tokenizer over `html` with `state` receiving the tokens.
fn run<S: Receive>(html: &str, state: S) -> S {
    let queue = BufferQueue::default();
    queue.push_back(StrTendril::from_slice(html));
    let tokenizer = Tokenizer::new(Sink(RefCell::new(state)), TokenizerOpts::default());
    // The sink never asks for a pause: one call takes everything.
    let _ = tokenizer.feed(&queue);
    tokenizer.end();
    tokenizer.sink.0.into_inner()
}

trait Receive {
    fn start(&mut self, name: &str, tag: &Tag);
    fn end(&mut self, name: &str);
    fn text(&mut self, text: &str);
    /// Whether the current place is inside SVG or MathML.
    fn foreign(&self) -> bool;
}

struct Sink<S>(RefCell<S>);

impl<S: Receive> TokenSink for Sink<S> {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        let mut state = self.0.borrow_mut();
        match token {
            Token::TagToken(tag) if tag.kind == StartTag => {
                let foreign = state.foreign();
                state.start(&tag.name, &tag);
                if !foreign {
                    match &*tag.name {
                        "script" => return TokenSinkResult::RawData(RawKind::ScriptData),
                        "style" | "xmp" | "iframe" | "noembed" | "noframes" => {
                            return TokenSinkResult::RawData(RawKind::Rawtext);
                        }
                        "title" | "textarea" => return TokenSinkResult::RawData(RawKind::Rcdata),
                        _ => {}
                    }
                }
            }
            Token::TagToken(tag) if tag.kind == EndTag => state.end(&tag.name),
            Token::CharacterTokens(text) => state.text(&text),
            _ => {}
        }
        TokenSinkResult::Continue
    }

    fn adjusted_current_node_present_but_not_in_html_namespace(&self) -> bool {
        self.0.borrow().foreign()
    }
}

fn attribute<'t>(tag: &'t Tag, name: &str) -> Option<&'t str> {
    tag.attrs.iter().find(|a| &*a.name.local == name).map(|a| &*a.value)
}

/// What closing an open element undoes.
#[derive(Debug, PartialEq)]
enum Effect {
    None,
    Drop,
    Foreign,
    List {
        next: Option<u64>,
        nested: bool,
        items: u64,
    },
    /// Put a prefix before its lines.
    Prefix,
    Pre,
    Table {
        rows: Vec<Vec<String>>,
    },
    Cell {
        span: usize,
    },
    Main(usize),
    Article(usize),
}

struct Open {
    name: String,
    effect: Effect,
}

/// Second pass: writes Markdown.
#[derive(Default)]
struct Writer {
    layout: Vec<bool>,
    tables: usize,
    open: Vec<Open>,
    /// How many open elements have a name.
    count: HashMap<String, usize>,
    /// Open elements whose text is not read.
    dropped: usize,
    foreign: usize,
    /// Open tables with rows, and cells in them.
    cells: usize,
    blocks: Blocks,
    heading: Option<u8>,
    /// Where inline code began in the inline text.
    code: Option<usize>,
    pre: Option<(String, String)>,
    /// Inside `<title>`: its text.
    title_open: bool,
    page_title: Option<String>,
    headings: Vec<(usize, u8, String)>,
    mains: Vec<(usize, usize)>,
    articles: Vec<(usize, usize)>,
}

/// Farthest that an end tag looks for its start tag.
const REACH: usize = 1000;

impl Receive for Writer {
    fn foreign(&self) -> bool {
        self.foreign > 0
    }

    fn start(&mut self, name: &str, tag: &Tag) {
        if self.foreign > 0 && breaks_out(name) && !self.is_open("foreignobject") {
            while self.foreign > 0 {
                self.pop();
            }
        }
        if self.foreign > 0 {
            if !tag.self_closing {
                let effect = if name == "svg" || name == "math" { Effect::Foreign } else { Effect::None };
                self.foreign += usize::from(effect == Effect::Foreign);
                self.push(name, effect);
            }
            return;
        }
        // Only these may stand in a head: anything else ends it.
        if self.is_open("head")
            && !(is_dropped(name) || matches!(name, "html" | "base" | "basefont" | "bgsound" | "link" | "meta"))
        {
            self.close("head");
        }
        if is_void(name) {
            self.void(name, tag);
            return;
        }
        if is_dropped(name) {
            if self.dropped == 0 || (name == "title" && self.is_open("head")) {
                self.title_open = name == "title" && self.page_title.is_none();
                if self.title_open {
                    self.page_title = Some(String::new());
                }
            }
            if matches!(name, "nav") {
                self.flush();
            }
            if name == "svg" {
                if tag.self_closing {
                    return;
                }
                self.foreign += 1;
            }
            self.dropped += 1;
            self.push(name, Effect::Drop);
            return;
        }
        if name == "math" {
            if !tag.self_closing {
                self.foreign += 1;
                self.push(name, Effect::Foreign);
            }
            return;
        }
        if self.dropped > 0 {
            if is_block(name) {
                self.push(name, Effect::None);
            }
            return;
        }
        match name {
            "code" | "kbd" | "samp" | "tt" => {
                if self.pre.is_none() {
                    self.code.get_or_insert(self.blocks.inline_len());
                } else {
                    self.language(tag);
                }
            }
            "p" => {
                self.flush();
                self.heading = None;
            }
            "q" => self.blocks.text("\""),
            _ if heading_level(name).is_some() => {
                self.flush();
                self.heading = heading_level(name);
            }
            _ if is_block(name) => self.block(name, tag),
            _ => {}
        }
    }

    fn end(&mut self, name: &str) {
        if self.foreign == 0 && self.dropped == 0 {
            match name {
                "p" => return self.flush(),
                "br" => return self.blocks.line_break(),
                "code" | "kbd" | "samp" | "tt" => return self.end_code(),
                "q" => return self.blocks.text("\""),
                _ if heading_level(name).is_some() => {
                    self.flush();
                    self.heading = None;
                    return;
                }
                _ => {}
            }
        }
        self.close(name);
    }

    fn text(&mut self, text: &str) {
        if self.title_open {
            if let Some(title) = &mut self.page_title {
                title.push_str(text);
            }
        } else if let Some((pre, _)) = &mut self.pre
            && self.dropped == 0
        {
            pre.push_str(text);
        } else if self.dropped == 0 || (self.open.last().is_some_and(|o| o.name == "head") && !markdown::blank(text)) {
            // Text cannot stand in a head either.
            if self.dropped > 0 {
                self.close("head");
            }
            self.blocks.text(text);
        }
    }
}

impl Writer {
    fn is_open(&self, name: &str) -> bool {
        self.count.get(name).is_some_and(|&n| n > 0)
    }

    fn push(&mut self, name: &str, effect: Effect) {
        *self.count.entry(name.to_owned()).or_default() += 1;
        self.open.push(Open { name: name.to_owned(), effect });
    }

    fn void(&mut self, name: &str, tag: &Tag) {
        if self.dropped > 0 {
            return;
        }
        match name {
            "br" if self.pre.is_some() => self.text("\n"),
            "br" => self.blocks.line_break(),
            "hr" if self.cells == 0 => {
                self.flush();
                self.heading = None;
                self.blocks.block("---");
            }
            "img" => {
                if let Some(alt) = attribute(tag, "alt") {
                    self.text(alt);
                }
            }
            _ => {}
        }
    }

    fn language(&mut self, tag: &Tag) {
        let found = attribute(tag, "class")
            .into_iter()
            .flat_map(str::split_ascii_whitespace)
            .find_map(|class| class.strip_prefix("language-").or_else(|| class.strip_prefix("lang-")));
        if let (Some((_, language)), Some(found)) = (&mut self.pre, found)
            && language.is_empty()
            && found.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '_' | '#'))
        {
            found.clone_into(language);
        }
    }

    fn block(&mut self, name: &str, tag: &Tag) {
        if self.pre.is_some() {
            // Blocks inside preformatted text change nothing but the lines.
            return self.push(name, Effect::None);
        }
        // A cell's text is one line: blocks in it only part words.
        if self.cells > 0 && !matches!(name, "td" | "th" | "tr" | "tbody" | "thead" | "tfoot" | "table" | "caption") {
            self.blocks.text(" ");
            return self.push(name, Effect::None);
        }
        match name {
            "li" => self.close_within("li", &["ul", "ol", "menu", "dir"]),
            "dt" | "dd" => {
                self.close_within("dt", &["dl"]);
                self.close_within("dd", &["dl"]);
            }
            "td" | "th" | "tr" | "tbody" | "thead" | "tfoot" => {
                self.close_within("td", &["table"]);
                self.close_within("th", &["table"]);
                if !matches!(name, "td" | "th") {
                    self.close_within("tr", &["table"]);
                }
                self.close_within("caption", &["table"]);
            }
            _ => {}
        }
        self.flush();
        if !matches!(name, "div" | "header" | "hgroup" | "center") {
            self.heading = None;
        }
        let effect = match name {
            "ul" | "menu" | "dir" => Effect::List { next: None, nested: self.blocks.in_item(), items: 0 },
            "ol" => {
                let first = attribute(tag, "start").and_then(|s| s.trim().parse().ok()).unwrap_or(1);
                Effect::List { next: Some(first), nested: self.blocks.in_item(), items: 0 }
            }
            "li" => {
                self.item(tag);
                Effect::Prefix
            }
            "blockquote" => {
                self.blocks.open("> ", "> ", false);
                Effect::Prefix
            }
            "dd" => {
                self.blocks.open(": ", "  ", true);
                Effect::Prefix
            }
            "pre" | "listing" => {
                self.pre = Some((String::new(), String::new()));
                self.language(tag);
                Effect::Pre
            }
            "table" => {
                let layout = self.layout.get(self.tables).copied().unwrap_or(true);
                self.tables += 1;
                if layout { Effect::None } else { Effect::Table { rows: Vec::new() } }
            }
            "tr" => {
                if let Some(rows) = self.rows() {
                    rows.push(Vec::new());
                }
                Effect::None
            }
            "td" | "th" if self.rows().is_some() => {
                self.cells += 1;
                let span = attribute(tag, "colspan").and_then(|s| s.trim().parse().ok()).unwrap_or(1);
                Effect::Cell { span: span.clamp(1, 64) }
            }
            "main" => Effect::Main(self.blocks.len()),
            "article" => Effect::Article(self.blocks.len()),
            _ => Effect::None,
        };
        self.push(name, effect);
    }

    /// A list item's marker.
    fn item(&mut self, tag: &Tag) {
        let value = attribute(tag, "value").and_then(|s| s.trim().parse::<u64>().ok());
        let list = self.open.iter_mut().rev().take(REACH).find_map(|o| match &mut o.effect {
            Effect::List { next, nested, items } => Some((next, *nested, items)),
            _ => None,
        });
        match list {
            Some((next, nested, items)) => {
                *items += 1;
                let tight = nested || *items > 1;
                match next {
                    Some(number) => {
                        *number = value.unwrap_or(*number);
                        let marker = format!("{number}. ");
                        *number = number.saturating_add(1);
                        self.blocks.open(&marker, &" ".repeat(marker.len()), tight);
                    }
                    None => self.blocks.open("- ", "  ", tight),
                }
            }
            None => self.blocks.open("- ", "  ", true),
        }
    }

    /// Rows of the innermost table, unless it is layout.
    fn rows(&mut self) -> Option<&mut Vec<Vec<String>>> {
        let table = self.open.iter_mut().rev().take(REACH).find(|o| o.name == "table")?;
        match &mut table.effect {
            Effect::Table { rows } => Some(rows),
            _ => None,
        }
    }

    /// Closes the innermost `name` and what is open in it, as its end tag does.
    fn close(&mut self, name: &str) {
        let barriers: &[&str] = match name {
            "table" | "html" | "body" | "head" => &[],
            "td" | "th" | "tr" | "thead" | "tbody" | "tfoot" | "caption" => &["table"],
            "li" => &["ul", "ol", "menu", "dir", "td", "th"],
            "dt" | "dd" => &["dl", "td", "th"],
            _ => &["td", "th"],
        };
        self.close_within(name, barriers);
    }

    fn close_within(&mut self, name: &str, barriers: &[&str]) {
        if !self.is_open(name) {
            return;
        }
        for (passed, open) in self.open.iter().rev().take(REACH).enumerate() {
            if open.name == name {
                for _ in 0..=passed {
                    self.pop();
                }
                return;
            }
            if barriers.contains(&open.name.as_str()) {
                return;
            }
        }
    }

    fn pop(&mut self) {
        let Some(Open { name, effect }) = self.open.pop() else { return };
        if let Some(n) = self.count.get_mut(&name) {
            *n -= 1;
        }
        match effect {
            Effect::None => {
                if self.dropped == 0 && self.foreign == 0 && self.pre.is_none() {
                    if self.cells > 0 { self.blocks.text(" ") } else { self.flush() }
                }
            }
            Effect::Drop => {
                self.dropped -= 1;
                if name == "svg" {
                    self.foreign = self.foreign.saturating_sub(1);
                }
                self.title_open = false;
            }
            Effect::Foreign => self.foreign = self.foreign.saturating_sub(1),
            Effect::List { .. } => self.flush(),
            Effect::Prefix => {
                self.flush();
                self.blocks.close();
            }
            Effect::Pre => {
                if let Some((text, language)) = self.pre.take() {
                    self.blocks.code(text.strip_prefix('\n').unwrap_or(&text), &language);
                }
            }
            Effect::Cell { span } => {
                self.end_code();
                self.cells -= 1;
                let cell = self.blocks.take_line();
                if let Some(rows) = self.rows() {
                    if rows.is_empty() {
                        rows.push(Vec::new());
                    }
                    if let Some(row) = rows.last_mut() {
                        row.push(cell);
                        row.extend(std::iter::repeat_n(String::new(), span - 1));
                    }
                }
            }
            Effect::Table { rows } => {
                self.flush();
                self.blocks.table(&rows);
            }
            Effect::Main(from) => {
                self.flush();
                self.mains.push((from, self.blocks.len()));
            }
            Effect::Article(from) => {
                self.flush();
                self.articles.push((from, self.blocks.len()));
            }
        }
    }

    fn end_code(&mut self) {
        if let Some(from) = self.code.take() {
            self.blocks.inline_code(from);
        }
    }

    /// Ends the current paragraph or heading.
    fn flush(&mut self) {
        if self.cells > 0 {
            return self.blocks.text(" ");
        }
        self.end_code();
        match self.heading {
            Some(level) => {
                let line = self.blocks.take_line();
                if !line.is_empty() {
                    let at = self.blocks.block(&format!("{} {line}", "#".repeat(usize::from(level))));
                    self.headings.push((at, level, markdown::collapse(&line)));
                }
            }
            None => self.blocks.paragraph(),
        }
    }

    fn finish(mut self) -> Page {
        while !self.open.is_empty() {
            self.pop();
        }
        self.flush();
        let whole = self.blocks.finish();
        // The one main part of a page is what it is about.
        let part = |ranges: &[(usize, usize)]| match ranges {
            [one] if !markdown::blank(&whole[one.0..one.1]) => Some(*one),
            _ => None,
        };
        let (from, to) = part(&self.mains).or_else(|| part(&self.articles)).unwrap_or((0, whole.len()));
        let mut inside = self.headings.into_iter().filter(|h| (from..to).contains(&h.0)).peekable();
        let first = inside.peek().map(|h| h.2.clone());
        let h1 = inside.find(|h| h.1 == 1).map(|h| h.2);
        let page_title = self.page_title.map(|t| markdown::collapse(&t)).filter(|t| !t.is_empty());
        let text = whole[from..to].trim_matches('\n').to_owned();
        Page { text: if text.is_empty() { text } else { text + "\n" }, title: h1.or(page_title).or(first) }
    }
}

#[cfg(test)]
mod tests;
