//! Filters and field paths in Qdrant's words.

use qdrant_client::qdrant as q;

use crate::error::Result;
use crate::targets::filter::{Checked, Scalar, path};

/// Qdrant's path for the keys of a field. A key is quoted where Qdrant would read something else in it.
pub(super) fn json_path(keys: &[String]) -> String {
    let plain = |key: &String| key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let quoted: Vec<String> =
        keys.iter().map(|key| if plain(key) { key.clone() } else { format!("\"{key}\"") }).collect();
    quoted.join(".")
}

/// Qdrant's path for a dotted field name.
pub(super) fn field_path(field: &str) -> Result<String> {
    Ok(json_path(&path(field)?))
}

/// The dotted field name of Qdrant's path; `None` where it has parts that such names cannot say (`[]`).
pub(super) fn field_name(path: &str) -> Option<String> {
    let mut keys = Vec::new();
    let mut rest = path;
    loop {
        let (key, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => rest.split_at(rest.find('.').unwrap_or(rest.len())),
        };
        if key.is_empty() || key.contains(['.', '[', ']', '\\']) {
            return None;
        }
        keys.push(key);
        match after.strip_prefix('.') {
            Some(more) => rest = more,
            None if after.is_empty() => return Some(keys.join(".")),
            None => return None,
        }
    }
}

/// `None` when every point passes.
pub(super) fn filter(checked: &[Checked]) -> Option<q::Filter> {
    let must: Vec<q::Condition> = checked.iter().map(condition).collect();
    (!must.is_empty()).then(|| q::Filter { must, ..q::Filter::default() })
}

fn field(field: q::FieldCondition) -> q::Condition {
    q::Condition { condition_one_of: Some(q::condition::ConditionOneOf::Field(field)) }
}

fn condition(checked: &Checked) -> q::Condition {
    match checked {
        Checked::AnyOf { path, values } => {
            let key = json_path(path);
            let mut each: Vec<q::Condition> = values
                .iter()
                .map(|value| {
                    let value = match value {
                        Scalar::Text(text) => q::r#match::MatchValue::Keyword(text.clone()),
                        Scalar::Whole(n) => q::r#match::MatchValue::Integer(*n),
                        Scalar::Bool(b) => q::r#match::MatchValue::Boolean(*b),
                    };
                    let value = q::Match { match_value: Some(value) };
                    field(q::FieldCondition { key: key.clone(), r#match: Some(value), ..q::FieldCondition::default() })
                })
                .collect();
            if each.len() == 1
                && let Some(only) = each.pop()
            {
                return only;
            }
            let any = q::Filter { should: each, ..q::Filter::default() };
            q::Condition { condition_one_of: Some(q::condition::ConditionOneOf::Filter(any)) }
        }
        Checked::Range { path, min, max } => {
            let range = q::Range { gte: *min, lte: *max, ..q::Range::default() };
            field(q::FieldCondition { key: json_path(path), range: Some(range), ..q::FieldCondition::default() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_names_again() {
        for name in ["tenant", "metadata.year", "a b.ключ", "x[0].y z", "a-b._c"] {
            let path = field_path(name).unwrap();
            let expected = (!name.contains('[')).then(|| name.to_owned());
            assert_eq!(field_name(&path), expected, "{path}");
        }
        assert_eq!(field_path("metadata.year").unwrap(), "metadata.year");
        assert_eq!(field_path("a b.c").unwrap(), "\"a b\".c");
        for theirs in ["tags[]", "a[].b", "", "a..b", "\"a.b\"", "\"a\"b"] {
            assert_eq!(field_name(theirs), None, "{theirs}");
        }
    }
}
