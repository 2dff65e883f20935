//! Reading a pipeline file, and changing single keys of it.

use std::path::{Path, PathBuf};

use serde_json::Value;
use serde_path_to_error::Segment;

use super::schema::{self, Known};
use super::settings::Pipeline;
use crate::error::{Error, ErrorKind, Result};

/// One line of overview for people who call `set` with a wrong key.
const SEE_INIT: &str = "`regrow init` writes a pipeline with every key explained";

impl Pipeline {
    /// Parses a pipeline; `origin` names it in errors.
    ///
    /// Only syntax, keys and types are checked here; call [`Pipeline::validate`] once overrides are applied.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] with `file`, `line`, `column` and `key`; an unknown key comes with the
    /// nearest known one.
    pub fn from_toml(text: &str, origin: &str) -> Result<Self> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let wrong = |message: String, span: Option<std::ops::Range<usize>>| {
            let mut e = Error::new(ErrorKind::Configuration, message).with("file", origin);
            if let Some(span) = span {
                let (line, column) = position(text, span.start);
                e = e.with("line", line).with("column", column);
            }
            e
        };
        let syntax = |e: toml::de::Error| {
            wrong(format!("this is not valid TOML: {}", e.message().replace('\n', ", ")), e.span())
                .guidance("correct this line: `key = value` below its `[table]`")
        };
        let deserializer = toml::Deserializer::parse(text).map_err(syntax)?;
        serde_path_to_error::deserialize(deserializer).map_err(|e| {
            let path: Vec<String> = e.path().iter().map(segment).collect();
            let inner = e.inner();
            explain(&path, inner.message(), |message| wrong(message, inner.span()))
        })
    }

    /// Reads a pipeline file. The second value is the directory that holds it: relative paths in the
    /// pipeline start there.
    pub fn load(path: &Path) -> Result<(Self, PathBuf)> {
        let bytes = std::fs::read(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::new(ErrorKind::NotFound, "there is no such pipeline file")
                .with("file", path.display())
                .guidance("name one with --pipeline, or write one with `regrow init`"),
            std::io::ErrorKind::IsADirectory => Error::new(ErrorKind::Configuration, "the pipeline is a directory")
                .with("file", path.display())
                .guidance("name the TOML file in it"),
            _ => Error::from(e).with("file", path.display()),
        })?;
        let text = String::from_utf8(bytes).map_err(|e| {
            let good = e.utf8_error().valid_up_to();
            let line = e.as_bytes()[..good].iter().filter(|b| **b == b'\n').count() + 1;
            Error::new(ErrorKind::Configuration, "the pipeline file is not UTF-8")
                .with("file", path.display())
                .with("line", line)
                .guidance("save it as UTF-8")
        })?;
        let pipeline = Self::from_toml(&text, &path.display().to_string())?;
        let absolute = std::path::absolute(path).map_err(|e| Error::from(e).with("file", path.display()))?;
        let base = absolute.parent().map_or_else(|| absolute.clone(), Path::to_path_buf);
        Ok((pipeline, base))
    }

    /// Sets one key, as `--set chunking.size=256` does.
    ///
    /// `key_path` is dotted; entries of lists are numbers (`corpus.records.0.id`), and a key with a dot in it is
    /// quoted (`target.payload_indexes."metadata.year"`). `value` is read as TOML where that fits the key's type,
    /// else as text; a single text is enough for a list.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] when the key is not known (with those that are) or the value does not fit.
    pub fn set(&mut self, key_path: &str, value: &str) -> Result<()> {
        let keys = split(key_path)?;
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let known = match schema::find(&keys)? {
            Known::Unknown { table, key, siblings } => {
                return Err(unknown_key(&table, &key, &siblings, |m| Error::new(ErrorKind::Configuration, m))
                    .with("key", key_path));
            }
            Known::Node(Value::Object(map)) if !map.is_empty() && !value.trim_start().starts_with('{') => {
                let inside: Vec<&str> = map.keys().map(String::as_str).collect();
                return Err(Error::new(ErrorKind::Configuration, "this key is a table")
                    .with("key", key_path)
                    .guidance(format!("set one of the keys in it: {}", inside.join(", "))));
            }
            Known::Node(node) => node,
            Known::Free => Value::Null,
        };

        let before = schema::to_json(self)?;
        let mut failed = None;
        for candidate in candidates(value, &known) {
            let mut changed = before.clone();
            schema::put(&mut changed, &keys, candidate).map_err(|e| e.with("key", key_path))?;
            match serde_path_to_error::deserialize::<_, Self>(changed) {
                Ok(pipeline) => {
                    *self = pipeline;
                    return Ok(());
                }
                Err(e) => failed = failed.or(Some(e)),
            }
        }
        let mut error = Error::new(ErrorKind::Configuration, "the value does not fit this key")
            .with("key", key_path)
            .with("value", value);
        if let Some(e) = failed {
            error = error.because(e.into_inner());
        }
        Err(error.guidance(format!("an example of a fitting value: {}", known)))
    }
}

/// The values that the text may stand for, the most literal reading first.
fn candidates(text: &str, known: &Value) -> Vec<Value> {
    let mut out = Vec::new();
    if let Ok(table) = toml::from_str::<toml::Table>(&format!("v = {text}"))
        && table.len() == 1
        && let Some(value) = table.get("v")
        && let Ok(value) = serde_json::to_value(value)
    {
        out.push(value);
    }
    out.push(Value::from(text));
    if known.is_array() {
        let single: Vec<Value> = out.iter().filter(|v| v.is_string()).map(|v| Value::from(vec![v.clone()])).collect();
        out.extend(single);
    }
    out
}

/// Splits a dotted key; quoted parts may hold dots. TOML's own rules for keys, by TOML's own parser.
fn split(key_path: &str) -> Result<Vec<String>> {
    let bad = || {
        Error::new(ErrorKind::Configuration, "this is not a dotted key")
            .with("key", key_path)
            .guidance(format!("write it like corpus.url; {SEE_INIT}"))
    };
    if key_path.contains(['\n', '=', '#']) {
        return Err(bad());
    }
    let table: toml::Table = toml::from_str(&format!("{key_path} = 0")).map_err(|_| bad())?;
    let mut keys = Vec::new();
    let mut node = toml::Value::Table(table);
    while let toml::Value::Table(table) = node {
        let Some((key, next)) = table.into_iter().next() else { return Err(bad()) };
        keys.push(key);
        node = next;
    }
    Ok(keys)
}

fn segment(segment: &Segment) -> String {
    match segment {
        Segment::Seq { index } => index.to_string(),
        Segment::Map { key } => key.clone(),
        Segment::Enum { variant } => variant.clone(),
        Segment::Unknown => "?".to_owned(),
    }
}

/// Turns serde's message into one that names the key and what to do.
fn explain(path: &[String], message: &str, wrong: impl Fn(String) -> Error) -> Error {
    let keys: Vec<&str> = path.iter().map(String::as_str).collect();
    let dotted = keys.join(".");
    match schema::find(&keys) {
        Ok(Known::Unknown { table, key, siblings }) => unknown_key(&table, &key, &siblings, wrong).with("key", dotted),
        Ok(Known::Node(example @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)))) => {
            wrong(format!("the value does not fit this key: {message}"))
                .with("key", dotted)
                .guidance(format!("an example of a fitting value: {example}"))
        }
        _ if dotted.is_empty() => wrong(message.to_owned()).guidance(SEE_INIT),
        _ => wrong(message.to_owned()).with("key", dotted).guidance(SEE_INIT),
    }
}

fn unknown_key(table: &str, key: &str, siblings: &[String], wrong: impl Fn(String) -> Error) -> Error {
    let place = if table.is_empty() { "at the top level".to_owned() } else { format!("in [{table}]") };
    let known = siblings.join(", ");
    let guidance = match schema::nearest(key, siblings.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`? Known {place}: {known}"),
        None if siblings.is_empty() => format!("`{table}` is a value, not a table"),
        None => format!("known {place}: {known}"),
    };
    wrong(format!("unknown key `{key}` {place}")).guidance(guidance)
}

/// Line and column, both from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    let start = before.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    (line, String::from_utf8_lossy(&before[start..]).chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{FieldType, OnBadDocument, TargetKind};

    const SMALL: &str =
        "name = 'docs'\n[corpus]\nurl = 'docs'\n[repository]\nurl = 'repo'\n[target]\nkind = 'memory'\n";

    fn small() -> Pipeline {
        Pipeline::from_toml(SMALL, "p.toml").unwrap()
    }

    #[test]
    fn a_small_pipeline_gets_the_defaults() {
        let p = small();
        assert_eq!(p.chunking.size, 200);
        assert_eq!(p.target.kind, TargetKind::Memory);
        assert_eq!(p.corpus.on_bad_document, OnBadDocument::Fail);
    }

    #[test]
    fn an_unknown_key_is_named_with_file_line_and_the_nearest_known_key() {
        let e = Pipeline::from_toml(&format!("{SMALL}[chunking]\nsiez = 3\n"), "p.toml").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Configuration);
        assert_eq!(e.exit_code(), 2);
        assert_eq!(e.message(), "unknown key `siez` in [chunking]");
        assert_eq!(e.context_value("file"), Some("p.toml"));
        assert_eq!(e.context_value("line"), Some("9"));
        assert_eq!(e.context_value("key"), Some("chunking.siez"));
        assert!(e.next_step().unwrap().contains("did you mean `size`"), "{e:?}");
    }

    #[test]
    fn an_unknown_key_in_a_list_entry_is_found_too() {
        let text =
            format!("{SMALL}[[corpus.records]]\ninclude=['a']\nid='id'\ntext=['t']\n[[corpus.records]]\nidd='x'\n");
        let e = Pipeline::from_toml(&text, "p.toml").unwrap_err();
        assert_eq!(e.context_value("key"), Some("corpus.records.1.idd"));
        assert_eq!(e.context_value("line"), Some("13"));
        assert!(e.next_step().unwrap().contains("`id`"));
    }

    #[test]
    fn a_wrong_type_names_the_key_and_shows_an_example() {
        let e = Pipeline::from_toml(&format!("{SMALL}[validation]\nk = 'ten'\n"), "p.toml").unwrap_err();
        assert_eq!(e.context_value("key"), Some("validation.k"));
        assert_eq!(e.context_value("line"), Some("9"));
        assert!(e.next_step().unwrap().contains("10"), "{e:?}");
    }

    #[test]
    fn a_missing_key_and_broken_syntax_are_errors_with_a_line() {
        let e = Pipeline::from_toml("name = 'x'\n[corpus]\n[repository]\nurl='r'\n[target]\nkind='memory'", "p.toml")
            .unwrap_err();
        assert!(e.message().contains("missing field `url`"), "{e}");
        assert_eq!(e.context_value("key"), Some("corpus"));
        let e = Pipeline::from_toml("name = 'x'\n[corpus\n", "p.toml").unwrap_err();
        assert_eq!(e.context_value("line"), Some("2"));
    }

    #[test]
    fn a_missing_file_and_one_that_is_not_text_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        assert_eq!(Pipeline::load(&path).unwrap_err().kind(), ErrorKind::NotFound);
        std::fs::write(&path, b"name = 'a'\n\xff\xfe").unwrap();
        let e = Pipeline::load(&path).unwrap_err();
        assert_eq!((e.kind(), e.context_value("line")), (ErrorKind::Configuration, Some("2")));
        std::fs::write(&path, format!("\u{feff}{SMALL}")).unwrap();
        let (pipeline, base) = Pipeline::load(&path).unwrap();
        assert_eq!((pipeline, base.as_path()), (small(), dir.path()));
    }

    #[test]
    fn set_is_typed_by_the_key() {
        let mut p = small();
        p.set("chunking.size", "256").unwrap();
        p.set("name", "256").unwrap();
        p.set("corpus.include", "**/*.md").unwrap();
        p.set("corpus.exclude", r#"["a/**", "b/**"]"#).unwrap();
        p.set("corpus.on_bad_document", "skip").unwrap();
        p.set("target.payload_indexes.\"metadata.year\"", "integer").unwrap();
        p.set("validation.min_recall", "1").unwrap();
        p.set("drill.rto_seconds", "600").unwrap();
        p.set("corpus.encoding", "latin1").unwrap();
        assert_eq!(p.chunking.size, 256);
        assert_eq!(p.name, "256");
        assert_eq!(p.corpus.include, ["**/*.md"]);
        assert_eq!(p.corpus.exclude, ["a/**", "b/**"]);
        assert_eq!(p.corpus.on_bad_document, OnBadDocument::Skip);
        assert_eq!(p.target.payload_indexes["metadata.year"], FieldType::Integer);
        assert_eq!(p.validation.min_recall, 1.0);
        assert_eq!(p.drill.rto_seconds, Some(600.0));
        assert_eq!(p.corpus.encoding.as_deref(), Some("latin1"));
    }

    #[test]
    fn a_refused_set_changes_nothing() {
        let mut p = small();
        for (key, value) in [
            ("chunking.siez", "3"),
            ("chunking.size", "many"),
            ("chunking", "3"),
            ("chunking.size.x", "3"),
            ("name =", "x"),
            ("", "x"),
            ("corpus.records.7.id", "x"),
            ("target.kind", "oracle"),
        ] {
            let e = p.set(key, value).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Configuration, "{key}");
            assert!(e.next_step().is_some(), "{key}");
            assert_eq!(p, small());
        }
        let e = p.set("chunking.siez", "3").unwrap_err();
        assert!(e.next_step().unwrap().contains("did you mean `size`"));
        assert!(e.next_step().unwrap().contains("overlap"));
    }
}
