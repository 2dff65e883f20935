//! `[corpus]`.

use std::collections::BTreeSet;

use globset::GlobBuilder;

use super::Findings;
use crate::corpus::PathPattern;
use crate::pipeline::settings::*;

impl Pipeline {
    pub(super) fn check_corpus(&self, f: &mut Findings) {
        let corpus = &self.corpus;
        globs("corpus.include", &corpus.include, f);
        globs("corpus.exclude", &corpus.exclude, f);
        if let Some(label) = &corpus.encoding {
            f.require(
                encoding_rs::Encoding::for_label(label.as_bytes()).is_some(),
                "corpus.encoding",
                "this is no known character encoding",
                "use a WHATWG label such as utf-8, windows-1252 or shift_jis, or leave the key out to detect it",
            );
        }
        f.require(
            corpus.max_document_bytes > 0,
            "corpus.max_document_bytes",
            "no document would be small enough",
            "give the largest document in bytes",
        );
        if let Some(pattern) = &corpus.path_metadata {
            const LIKE: &str = "write it like {product}/{version}/**";
            match PathPattern::new(pattern) {
                Err(e) => f.problem("corpus.path_metadata", e.message(), LIKE),
                Ok(_) if !pattern.contains('{') => f.problem("corpus.path_metadata", "no segment is named", LIKE),
                Ok(_) => {}
            }
        }
        for (i, records) in corpus.records.iter().enumerate() {
            let key = |name: &str| format!("corpus.records.{i}.{name}");
            f.require(
                !records.include.is_empty(),
                key("include"),
                "no files are named",
                "give at least one glob, such as **/*.jsonl",
            );
            globs(&key("include"), &records.include, f);
            f.require(!records.id.is_empty(), key("id"), "the field's name is empty", "name the field with the id");
            f.require(!records.text.is_empty(), key("text"), "no field is named", "name at least one field with text");
            for (name, fields) in [("text", &records.text), ("metadata", &records.metadata)] {
                let mut seen = BTreeSet::new();
                for field in fields {
                    f.require(!field.is_empty(), key(name), "a field's name is empty", "remove it");
                    if !seen.insert(field) {
                        f.problem(key(name), format!("the field `{field}` is named twice"), "name it once");
                    }
                }
            }
            if records.metadata.len() > 1 && records.metadata.iter().any(|m| m == "*") {
                f.warnings.push(format!("{}: \"*\" takes every field, so the others need no mention", key("metadata")));
            }
            let mut characters = records.delimiter.chars();
            let single = matches!((characters.next(), characters.next()), (Some(c), None) if c.is_ascii() && c != '"' && c != '\n' && c != '\r');
            f.require(
                single,
                key("delimiter"),
                "the separator must be one ASCII character other than a quote or a line end",
                "use \",\" or \";\" or \"\\t\"",
            );
        }
    }
}

fn glob(pattern: &str) -> Result<globset::GlobMatcher, globset::Error> {
    Ok(GlobBuilder::new(pattern).literal_separator(true).build()?.compile_matcher())
}

fn globs(key: &str, patterns: &[String], f: &mut Findings) {
    for pattern in patterns {
        if let Err(e) = glob(pattern) {
            f.problem(key, format!("`{pattern}` is not a glob: {}", e.kind()), "see the examples of `regrow init`");
        } else if pattern.trim().is_empty() {
            f.problem(key, "a glob is empty", "remove it, or use ** for everything");
        } else if pattern.contains('\\') {
            f.warnings.push(format!("{key}: `{pattern}` matches nothing: paths are separated by /"));
        }
    }
}
