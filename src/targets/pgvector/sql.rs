//! Text of statements: names, literals, fields of the payload.

/// An identifier in quotes.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text in quotes, whatever `standard_conforming_strings` says.
pub(super) fn literal(text: &str) -> String {
    if text.contains('\\') {
        format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

/// A field of the payload, as jsonb. Steps go through objects only, as the meaning of a filter says.
pub(super) fn field(path: &[String]) -> String {
    path.iter().fold("payload".to_owned(), |out, key| format!("{out}->{}", literal(key)))
}

/// A field's number, where it is one.
pub(super) fn number(path: &[String]) -> String {
    let field = field(path);
    format!("(CASE WHEN jsonb_typeof({field}) = 'number' THEN ({field})::numeric END)")
}

/// Whether a field is a list.
pub(super) fn is_list(path: &[String]) -> String {
    format!("(jsonb_typeof({}) = 'array')", field(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_cannot_leave_their_quotes() {
        assert_eq!(quoted("a\"; DROP TABLE x; --"), "\"a\"\"; DROP TABLE x; --\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("\\'; --"), "E'\\\\''; --'");
        assert_eq!(field(&["metadata".into(), "o'k".into()]), "payload->'metadata'->'o''k'");
    }
}
