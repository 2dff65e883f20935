//! The structure of a text: where it may be cut, and how well.

use std::ops::Range;

use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

use crate::corpus::TextFormat;

/// Strength of a boundary; higher is stronger.
pub(super) type Level = u8;

const HEADING: Level = 20;
const BREAK: Level = 13;
const BLOCK: Level = 12;
const ITEM: Level = 11;
const INNER: Level = 8;
const ROW: Level = 7;
pub(super) const SENTENCE_LINE: Level = 6;
pub(super) const LINE: Level = 5;

/// Boundaries that come from the format, by position.
#[derive(Debug, Default)]
pub(super) struct Structure {
    /// Line starts with their strength, strictly increasing.
    bounds: Vec<(usize, Level)>,
    /// Starts of top-level headings.
    sections: Vec<usize>,
    /// From a heading's start to the start of what follows it.
    headings: Vec<Range<usize>>,
    /// Code blocks and tables.
    solid: Vec<Range<usize>>,
}

impl Structure {
    pub(super) fn new(text: &str, format: TextFormat) -> Self {
        match format {
            TextFormat::Plain => Self::plain(text),
            TextFormat::Markdown => Self::markdown(text),
        }
    }

    fn plain(text: &str) -> Self {
        let mut bounds = Vec::new();
        let mut at = 0;
        let mut blank = false;
        for line in text.split_inclusive('\n') {
            let empty = line.trim().is_empty();
            if blank && !empty {
                bounds.push((at, BLOCK));
            }
            blank = empty;
            at += line.len();
        }
        Self { bounds, ..Self::default() }
    }

    fn markdown(text: &str) -> Self {
        let mut out = Self::default();
        // Containers around the current block, and how many of them are lists.
        let mut depth = 0_usize;
        let mut lists: Level = 0;
        // A heading waits for the start of what follows it.
        let mut open: Option<usize> = None;
        let options = Options::ENABLE_TABLES
            | Options::ENABLE_FOOTNOTES
            | Options::ENABLE_DEFINITION_LIST
            | Options::ENABLE_TASKLISTS
            | Options::ENABLE_GFM;
        for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
            let block = if depth == 0 { BLOCK } else { INNER };
            let level = match &event {
                Event::Start(Tag::Heading { level, .. }) => {
                    if depth == 0 {
                        HEADING - rank(*level)
                    } else {
                        INNER
                    }
                }
                Event::Start(
                    Tag::Paragraph
                    | Tag::BlockQuote(_)
                    | Tag::CodeBlock(_)
                    | Tag::HtmlBlock
                    | Tag::List(_)
                    | Tag::Table(_)
                    | Tag::FootnoteDefinition(_)
                    | Tag::DefinitionList,
                ) => block,
                Event::Start(Tag::Item) => ITEM.saturating_sub(lists.saturating_sub(1)).max(INNER + 1),
                Event::Start(Tag::DefinitionListTitle) => ITEM,
                Event::Start(Tag::DefinitionListDefinition) => INNER,
                Event::Start(Tag::TableRow) => ROW,
                Event::Rule => {
                    if depth == 0 {
                        BREAK
                    } else {
                        INNER
                    }
                }
                _ => 0,
            };
            if level > 0 {
                let at = line_start(text, range.start);
                if let Some(from) = open
                    && at > from
                {
                    out.headings.push(from..at);
                    open = None;
                }
                out.push(at, level);
            }
            match event {
                Event::Start(Tag::Heading { .. }) => {
                    let at = line_start(text, range.start);
                    open = Some(at);
                    if depth == 0 && out.sections.last() != Some(&at) {
                        out.sections.push(at);
                    }
                }
                Event::Start(Tag::CodeBlock(_) | Tag::Table(_)) => {
                    let start = line_start(text, range.start);
                    if out.solid.last().is_none_or(|last| last.end <= start) {
                        out.solid.push(start..range.end);
                    }
                }
                Event::Start(Tag::List(_) | Tag::DefinitionList) => {
                    depth += 1;
                    lists = lists.saturating_add(1);
                }
                Event::End(TagEnd::List(_) | TagEnd::DefinitionList) => {
                    depth = depth.saturating_sub(1);
                    lists = lists.saturating_sub(1);
                }
                Event::Start(Tag::BlockQuote(_) | Tag::FootnoteDefinition(_)) => depth += 1,
                Event::End(TagEnd::BlockQuote(_) | TagEnd::FootnoteDefinition) => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        if let Some(from) = open {
            out.headings.push(from..text.len());
        }
        out
    }

    fn push(&mut self, at: usize, level: Level) {
        match self.bounds.last_mut() {
            Some(last) if last.0 == at => last.1 = last.1.max(level),
            // The start of the text is no place to cut, and footnotes may come out of order.
            Some(last) if last.0 > at => {}
            _ if at == 0 => {}
            _ => self.bounds.push((at, level)),
        }
    }

    /// Boundaries in `range`, in order.
    pub(super) fn within(&self, range: Range<usize>) -> &[(usize, Level)] {
        let from = self.bounds.partition_point(|b| b.0 < range.start);
        let to = self.bounds.partition_point(|b| b.0 < range.end);
        self.bounds.get(from..to).unwrap_or_default()
    }

    /// Whether a cut at `at` would part a heading from what follows it.
    pub(super) fn parts_heading(&self, at: usize) -> bool {
        containing(&self.headings, at).is_some_and(|r| at <= r.end)
    }

    /// The code block or table that a cut at `at` would go through.
    pub(super) fn solid(&self, at: usize) -> Option<Range<usize>> {
        containing(&self.solid, at).filter(|r| at < r.end).cloned()
    }

    /// Start of the section that holds `at`, where the text has sections.
    pub(super) fn section(&self, at: usize) -> Option<usize> {
        self.sections.get(self.sections.partition_point(|&s| s <= at).checked_sub(1)?).copied()
    }
}

/// The last range that starts before `at`.
fn containing(ranges: &[Range<usize>], at: usize) -> Option<&Range<usize>> {
    ranges.get(ranges.partition_point(|r| r.start < at).checked_sub(1)?)
}

fn rank(level: HeadingLevel) -> Level {
    match level {
        HeadingLevel::H1 => 1,
        HeadingLevel::H2 => 2,
        HeadingLevel::H3 => 3,
        HeadingLevel::H4 => 4,
        HeadingLevel::H5 => 5,
        HeadingLevel::H6 => 6,
    }
}

/// Start of the line that holds `at`, if only markers and white space are before it; else `at`.
fn line_start(text: &str, at: usize) -> usize {
    let mut start = at;
    for &byte in text.as_bytes()[..at].iter().rev() {
        match byte {
            b'\n' | b'\r' => break,
            b' ' | b'\t' | b'>' | b'-' | b'*' | b'+' | b'.' | b')' | b':' | b'0'..=b'9' => start -= 1,
            _ => return at,
        }
        // Longer runs are not markers; a limit also keeps deep quotes linear.
        if at - start > 256 {
            return at;
        }
    }
    start
}

/// Strength of the line end before `at`, or `None` when `at` is not a line start.
pub(super) fn line_level(text: &str, at: usize) -> Option<Level> {
    let bytes = text.as_bytes();
    let before = bytes.get(at.checked_sub(1)?)?;
    let ends = *before == b'\n' || (*before == b'\r' && bytes.get(at) != Some(&b'\n'));
    if !ends {
        return None;
    }
    let closing =
        |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ')' | ']' | '*' | '_' | '”' | '’' | '»' | '」');
    // Bounded look back: white space alone can be long.
    let from = text.floor_char_boundary(at.saturating_sub(64));
    let sentence = text[from..at].trim_end_matches(closing).ends_with(['.', '!', '?', ':', '。', '！', '？', '…', '।']);
    Some(if sentence { SENTENCE_LINE } else { LINE })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(text: &str) -> Vec<(&str, Level)> {
        let s = Structure::new(text, TextFormat::Markdown);
        s.bounds.iter().map(|&(at, l)| (text[at..].lines().next().unwrap_or_default(), l)).collect()
    }

    #[test]
    fn markdown_levels_follow_the_structure() {
        let text = "# A\n\nintro\n\n## B\n- x\n- y\n  - z\n\n  more\n\n```\ncode\n\ncode\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n---\n> q\n>\n> r\n";
        assert_eq!(
            levels(text),
            [
                ("intro", BLOCK),
                ("## B", HEADING - 2),
                ("- x", BLOCK),
                ("- y", ITEM),
                ("  - z", ITEM - 1),
                ("  more", INNER),
                ("```", BLOCK),
                ("| a | b |", BLOCK),
                ("| 1 | 2 |", ROW),
                ("---", BREAK),
                ("> q", BLOCK),
                ("> r", INNER),
            ]
        );
    }

    #[test]
    fn headings_hold_on_to_what_follows() {
        let text = "para\n\n# A\n\n## B\n\ntext\n\nmore\n";
        let s = Structure::new(text, TextFormat::Markdown);
        let at = |needle| text.find(needle).unwrap();
        assert!(!s.parts_heading(at("# A")));
        assert!(s.parts_heading(at("## B")));
        assert!(s.parts_heading(at("text")));
        assert!(!s.parts_heading(at("more")));
        assert_eq!(s.section(at("more")), Some(at("## B")));
        assert_eq!(s.section(0), None);
    }

    #[test]
    fn code_is_solid_inside() {
        let text = "a\n\n```\nx\n\ny\n```\nb\n";
        let s = Structure::new(text, TextFormat::Markdown);
        assert!(s.solid(text.find("```").unwrap()).is_none());
        assert!(s.solid(text.find('y').unwrap()).is_some());
        assert!(s.solid(text.find('b').unwrap()).is_none());
    }

    #[test]
    fn line_ends_know_their_sentences() {
        let text = "One.\nTwo\r\nThree\rFour";
        assert_eq!(line_level(text, 5), Some(SENTENCE_LINE));
        assert_eq!(line_level(text, 10), Some(LINE));
        assert_eq!(line_level(text, 9), None);
        assert_eq!(line_level(text, 16), Some(LINE));
        assert_eq!(line_level(text, 0), None);
    }
}
