//! One file → one document.

use encoding_rs::Encoding;
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use serde_json::{Map, Value};

use super::document::{Document, TextFormat};
use super::select::{FileKind, PathPattern, file_kind};
use super::{decode, front_matter, html, markdown};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::pipeline::Markup;

/// Text that is searched for a title.
const TITLE_WITHIN: usize = 64 << 10;

/// Reads the document that `bytes` are.
///
/// Line ends are kept as they are. The text of a Markdown file begins after its front matter; that of an
/// HTML page is its Markdown.
pub(super) fn file(
    path: &str,
    bytes: &[u8],
    encoding: Option<&'static Encoding>,
    pattern: Option<&PathPattern>,
) -> Result<Document> {
    let kind = file_kind(path);
    let text = decode::text(bytes, encoding, kind == FileKind::Html)?;
    let mut found = Map::new();
    let (text, format, title) = match kind {
        FileKind::Html => {
            let page = html::convert(&text);
            (page.text, TextFormat::Markdown, page.title)
        }
        FileKind::Markdown => {
            let text = match front_matter::split(&text)? {
                Some((keys, at)) => {
                    found = keys;
                    text[at..].to_owned()
                }
                None => text,
            };
            let title = markdown_title(&text);
            (text, TextFormat::Markdown, title)
        }
        FileKind::Restructured => {
            let title = restructured_title(&text);
            (text, TextFormat::Plain, title)
        }
        FileKind::Plain => (text, TextFormat::Plain, None),
    };
    let mut fields = Fields::from_path(path, pattern);
    let in_front_matter = |e: Error| e.with("line", 1).guidance("correct the front matter");
    if let Some(value) = found.remove("title") {
        fields.title = scalar("title", &value).map_err(in_front_matter)?;
    }
    if let Some(value) = found.remove("tenant") {
        fields.tenant = scalar("tenant", &value).map_err(in_front_matter)?.or(fields.tenant);
    }
    if let Some(value) = found.remove("acl") {
        fields.acl = principals(&value).map_err(in_front_matter)?;
    }
    fields.metadata.extend(found);
    Ok(Document {
        id: path.to_owned(),
        path: path.to_owned(),
        line: None,
        format,
        title: fields.title.or(title),
        tenant: fields.tenant,
        acl: fields.acl,
        metadata: fields.metadata,
        text_digest: Digest::of(text.as_bytes()),
        digest: Digest::of(bytes),
        bytes: bytes.len() as u64,
        text,
    })
}

/// What is known about a document beside its text.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) title: Option<String>,
    pub(super) tenant: Option<String>,
    pub(super) acl: Vec<String>,
    pub(super) metadata: Map<String, Value>,
}

impl Fields {
    /// What the path says; the document itself may say otherwise.
    pub(super) fn from_path(path: &str, pattern: Option<&PathPattern>) -> Self {
        let mut fields = Self::default();
        for (name, value) in pattern.and_then(|p| p.matches(path)).unwrap_or_default() {
            if name == "tenant" {
                fields.tenant = Some(value);
            } else {
                fields.metadata.insert(name, value.into());
            }
        }
        fields
    }
}

/// Text of a string or number; `None` for null and for empty text.
pub(super) fn scalar(field: &str, value: &Value) -> Result<Option<String>> {
    match value {
        Value::Null => Ok(None),
        Value::String(s) => Ok(Some(s.trim().to_owned()).filter(|s| !s.is_empty())),
        Value::Number(n) => Ok(Some(n.to_string())),
        _ => Err(wrong_type(field, "text or a number", value)),
    }
}

/// An acl: a list of text, or text separated by commas.
pub(super) fn principals(value: &Value) -> Result<Vec<String>> {
    let mut out = Vec::new();
    match value {
        Value::Null => {}
        Value::String(s) => out.extend(s.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned)),
        Value::Array(list) => {
            for item in list {
                out.extend(scalar("acl", item)?);
            }
        }
        _ => return Err(wrong_type("acl", "a list, or text separated by commas", value)),
    }
    Ok(out)
}

pub(super) fn wrong_type(field: &str, wanted: &str, value: &Value) -> Error {
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    Error::new(ErrorKind::BadDocument, "a field has the wrong type")
        .with("field", field)
        .with("wanted", wanted)
        .with("is", is)
}

/// Text, its format and the title in it, from a record's text.
pub(super) fn markup(text: String, markup: Markup) -> (String, TextFormat, Option<String>) {
    match markup {
        Markup::Plain => (text, TextFormat::Plain, None),
        Markup::Markdown => {
            let title = markdown_title(&text);
            (text, TextFormat::Markdown, title)
        }
        Markup::Html => {
            let page = html::convert(&text);
            (page.text, TextFormat::Markdown, page.title)
        }
    }
}

/// The first heading, also one in an HTML block.
fn markdown_title(text: &str) -> Option<String> {
    let head = &text[..text.floor_char_boundary(TITLE_WITHIN)];
    let mut title: Option<String> = None;
    let mut block = String::new();
    for event in Parser::new_ext(head, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Heading { .. }) => title = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                let found = title.take().map(|t| markdown::collapse(&t)).filter(|t| !t.is_empty());
                if found.is_some() {
                    return found;
                }
            }
            Event::Text(t) | Event::Code(t) => {
                if let Some(title) = &mut title {
                    title.push_str(&t);
                }
            }
            Event::SoftBreak | Event::HardBreak => {
                if let Some(title) = &mut title {
                    title.push(' ');
                }
            }
            Event::Start(Tag::HtmlBlock) => block.clear(),
            Event::Html(t) => block.push_str(&t),
            Event::End(TagEnd::HtmlBlock) if block.contains("<h") || block.contains("<H") => {
                let page = html::convert(&block);
                if page.title.is_some() {
                    return page.title;
                }
            }
            _ => {}
        }
    }
    None
}

/// The first line, when it is underlined (or between two lines).
fn restructured_title(text: &str) -> Option<String> {
    let mut lines = text.lines().map(str::trim_end).skip_while(|l| l.is_empty());
    let first = lines.next()?;
    let (title, under) = if is_adornment(first) { (lines.next()?, lines.next()?) } else { (first, lines.next()?) };
    let long_enough = under.chars().count() >= title.trim().chars().count();
    (is_adornment(under) && long_enough).then(|| markdown::collapse(title)).filter(|t| !t.is_empty())
}

fn is_adornment(line: &str) -> bool {
    let mut chars = line.chars();
    chars.next().is_some_and(|first| first.is_ascii_punctuation() && chars.all(|c| c == first)) && line.len() >= 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn doc(path: &str, text: &str) -> Document {
        file(path, text.as_bytes(), None, None).unwrap()
    }

    #[test]
    fn front_matter_feeds_the_fields() {
        let d = doc("a/b.md", "---\ntitle: T\ntenant: 7\nacl: [x, y]\nlang: en\n---\n# H\n\nText");
        assert_eq!((d.title.as_deref(), d.tenant.as_deref()), (Some("T"), Some("7")));
        assert_eq!(d.acl, ["x", "y"]);
        assert_eq!(Value::Object(d.metadata), json!({"lang": "en"}));
        assert_eq!((d.text.as_str(), d.id.as_str(), d.line), ("# H\n\nText", "a/b.md", None));
        let e = file("a.md", b"---\nacl: {a: 1}\n---\n", None, None).unwrap_err();
        assert_eq!((e.kind(), e.context_value("field")), (ErrorKind::BadDocument, Some("acl")));
    }

    #[test]
    fn titles_come_from_the_text() {
        assert_eq!(doc("a.md", "intro\n\n## Use `x` *now*\n").title.as_deref(), Some("Use x now"));
        assert_eq!(doc("a.md", "<h1 align=center>\n  <b>Big</b>\n</h1>\n\n# Later\n").title.as_deref(), Some("Big"));
        assert_eq!(doc("a.rst", "====\nHead\n====\n\ntext").title.as_deref(), Some("Head"));
        assert_eq!(doc("a.rst", "\nHead\n----\ntext").title.as_deref(), Some("Head"));
        assert_eq!(doc("a.rst", "No head\n\ntext").title, None);
        assert_eq!(doc("a.html", "<title>A &amp; B</title><h2>x</h2>").title.as_deref(), Some("A & B"));
        assert_eq!(doc("a.txt", "# not a heading").title, None);
    }

    #[test]
    fn line_ends_and_empty_documents_are_kept() {
        assert_eq!(doc("a.txt", "a\r\nb\r\n").text, "a\r\nb\r\n");
        assert_eq!(doc("a.md", "").text, "");
        assert_eq!(doc("a.html", " \n ").text, "");
    }

    #[test]
    fn the_path_gives_what_the_document_does_not() {
        let pattern = PathPattern::new("{tenant}/{product}/**").unwrap();
        let d = file("acme/db/x.md", b"---\nproduct: other\n---\n", None, Some(&pattern)).unwrap();
        assert_eq!((d.tenant.as_deref(), &d.metadata["product"]), (Some("acme"), &json!("other")));
    }
}
