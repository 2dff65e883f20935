//! Front matter: YAML between `---` lines, or TOML between `+++` lines, at the very start of a Markdown file.
//!
//! A file that merely begins with a thematic break is not taken for one: YAML front matter has a closing
//! line (`---` or `...`), and its first line that is no comment is a key (`name:`) or the closing line itself.

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};

/// The keys of the front matter, and where the text after it begins.
pub(super) fn split(text: &str) -> Result<Option<(Map<String, Value>, usize)>> {
    let Some(first) = text.split_inclusive('\n').next() else { return Ok(None) };
    match first.trim_end() {
        "---" => yaml(text, first.len()),
        "+++" => toml(text, first.len()),
        _ => Ok(None),
    }
}

/// The lines between the opening line and the first of `ends`, and where the text goes on.
fn body<'t>(text: &'t str, from: usize, ends: &[&str]) -> Option<(&'t str, usize)> {
    let mut at = from;
    for line in text[from..].split_inclusive('\n') {
        if ends.contains(&line.trim_end()) {
            return Some((&text[from..at], at + line.len()));
        }
        at += line.len();
    }
    None
}

fn yaml(text: &str, from: usize) -> Result<Option<(Map<String, Value>, usize)>> {
    let Some((source, rest)) = body(text, from, &["---", "..."]) else { return Ok(None) };
    let first = source.lines().find(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#'));
    match first {
        None if source.trim().is_empty() && !source.is_empty() => return Ok(None),
        None => return Ok(Some((Map::new(), rest))),
        Some(line) if !begins_with_key(line) => return Ok(None),
        Some(_) => {}
    }
    // YAML 1.1 takes `y`, `no` and `on` for booleans, which names and countries are not.
    let options = serde_saphyr::Options { with_snippet: false, strict_booleans: true, ..Default::default() };
    match serde_saphyr::from_str_with_options::<Value>(source, options) {
        Ok(Value::Object(map)) => Ok(Some((map, rest))),
        Ok(_) => Err(bad("the front matter is not a list of keys and values", 2)),
        Err(e) => {
            let line = e.location().map_or(1, |l| l.line().max(1)) + 1;
            // Its own position counts from the fragment's beginning: `line` is the file's.
            let reason = e.to_string();
            let reason = reason.split(" at line ").next().unwrap_or_default().to_owned();
            Err(bad("the front matter is not YAML", line).because(reason))
        }
    }
}

/// `name:` or `"a name":`, at the start of the line.
fn begins_with_key(line: &str) -> bool {
    let line = line.trim_end();
    let (key, rest) = match line.strip_prefix('"') {
        Some(quoted) => match quoted.split_once('"') {
            Some((key, rest)) => (key, rest),
            None => return false,
        },
        None => match line.find(':') {
            Some(i) => line.split_at(i),
            None => return line == "{" || line == "{}",
        },
    };
    let name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ' ' | '$' | '@' | '/');
    (!key.is_empty()
        && !key.starts_with([' ', '-'])
        && key.chars().all(name)
        && (rest == ":" || rest.starts_with(": ")))
        || line.starts_with('{')
}

fn toml(text: &str, from: usize) -> Result<Option<(Map<String, Value>, usize)>> {
    let Some((source, rest)) = body(text, from, &["+++"]) else {
        return Err(bad("the front matter has no closing `+++` line", 1));
    };
    match toml::from_str::<toml::Table>(source) {
        Ok(table) => Ok(Some((table.into_iter().map(|(k, v)| (k, json(v))).collect(), rest))),
        Err(e) => {
            let before = e.span().and_then(|s| source.get(..s.start)).map_or(0, |s| s.matches('\n').count());
            Err(bad("the front matter is not TOML", 2 + before as u64).because(e.message().to_owned()))
        }
    }
}

fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(s) => Value::String(s),
        toml::Value::Integer(i) => i.into(),
        // JSON has no infinities: their names keep them.
        toml::Value::Float(f) => serde_json::Number::from_f64(f).map_or_else(|| f.to_string().into(), Value::Number),
        toml::Value::Boolean(b) => b.into(),
        toml::Value::Datetime(d) => d.to_string().into(),
        toml::Value::Array(a) => a.into_iter().map(json).collect(),
        toml::Value::Table(t) => Value::Object(t.into_iter().map(|(k, v)| (k, json(v))).collect()),
    }
}

fn bad(what: &str, line: u64) -> Error {
    Error::new(ErrorKind::BadDocument, what)
        .with("line", line)
        .guidance("correct it, or put an empty line before a `---` that is only a rule")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Value, &str) {
        let (map, at) = split(text).unwrap().unwrap();
        (Value::Object(map), &text[at..])
    }

    #[test]
    fn yaml_and_toml_are_read() {
        let (map, rest) = parsed("---\r\ntitle: A\r\ntags: [x, 2]\r\nwhen: 2024-01-02\r\n---\r\n\r\nText");
        assert_eq!(map, serde_json::json!({"title": "A", "tags": ["x", 2], "when": "2024-01-02"}));
        assert_eq!(rest, "\r\nText");
        let (map, rest) = parsed("+++\ntitle = \"A\"\nwhen = 2024-01-02\n[x]\ny = 1.5\n+++\nText");
        assert_eq!(map, serde_json::json!({"title": "A", "when": "2024-01-02", "x": {"y": 1.5}}));
        assert_eq!(rest, "Text");
        assert_eq!(parsed("---\n---\nText"), (serde_json::json!({}), "Text"));
        assert_eq!(parsed("---\n# note\n...\nText"), (serde_json::json!({}), "Text"));
    }

    #[test]
    fn a_rule_is_not_front_matter() {
        for text in
            ["---\n\nText\n\n---\nmore", "---\nText", "--- \n**a: b**\n---\n", "# A\n---\nx: 1\n---\n", "", "---"]
        {
            assert_eq!(split(text).unwrap(), None, "{text:?}");
        }
    }

    #[test]
    fn malformed_front_matter_is_named_with_its_line() {
        let e = split("---\na: 1\nb: [1,\n---\nText").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::BadDocument);
        assert!(e.context_value("line").unwrap().parse::<u64>().unwrap() >= 3, "{e}");
        let e = split("+++\na = 1\nb = = 2\n+++\n").unwrap_err();
        assert_eq!(e.context_value("line"), Some("3"));
        assert_eq!(split("+++\na = 1\n").unwrap_err().kind(), ErrorKind::BadDocument);
    }
}
