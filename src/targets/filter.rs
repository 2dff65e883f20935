//! What a filter means, the same for every target; and the reference that evaluates it.

use serde_json::{Map, Value};

use super::types::{Condition, Filter};
use crate::error::{Error, ErrorKind, Result};

/// A value that can be compared for equality.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Scalar {
    Text(String),
    Whole(i64),
    Bool(bool),
}

/// A condition whose values were checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Checked {
    /// One of the values; none matches nothing.
    AnyOf { path: Vec<String>, values: Vec<Scalar> },
    /// Inclusive; at least one bound is there.
    Range { path: Vec<String>, min: Option<f64>, max: Option<f64> },
}

fn wrong(field: &str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Configuration, message).with("field", field).guidance("correct the filter")
}

/// The keys a dotted field name goes through.
pub(crate) fn path(field: &str) -> Result<Vec<String>> {
    let keys: Vec<String> = field.split('.').map(str::to_owned).collect();
    if keys.iter().any(String::is_empty) {
        return Err(wrong(field, "a payload field has an empty name"));
    }
    // What the strictest target can address.
    if field.contains(['"', '\\']) {
        return Err(wrong(field, "a payload field in a filter or index cannot hold a quote or a backslash"));
    }
    Ok(keys)
}

fn scalar(field: &str, value: &Value) -> Result<Scalar> {
    match value {
        Value::String(s) => Ok(Scalar::Text(s.clone())),
        Value::Bool(b) => Ok(Scalar::Bool(*b)),
        Value::Number(n) => n.as_i64().map(Scalar::Whole).ok_or_else(|| {
            wrong(field, "equality takes whole numbers of 64 bits; use a range for other numbers").with("value", n)
        }),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            Err(wrong(field, "equality takes texts, whole numbers and booleans").with("value", value))
        }
    }
}

/// Checks the filter's values.
pub(crate) fn check(filter: &Filter) -> Result<Vec<Checked>> {
    filter
        .all
        .iter()
        .map(|condition| match condition {
            Condition::Equals { field, value } => {
                Ok(Checked::AnyOf { path: path(field)?, values: vec![scalar(field, value)?] })
            }
            Condition::AnyOf { field, values } => Ok(Checked::AnyOf {
                path: path(field)?,
                values: values.iter().map(|v| scalar(field, v)).collect::<Result<_>>()?,
            }),
            Condition::Range { field, min, max } => {
                if min.is_none() && max.is_none() {
                    return Err(wrong(field, "a range needs a least or a greatest value"));
                }
                if [min, max].into_iter().flatten().any(|bound| bound.is_nan()) {
                    return Err(wrong(field, "a bound of the range is not a number"));
                }
                Ok(Checked::Range { path: path(field)?, min: *min, max: *max })
            }
        })
        .collect()
}

/// True when no payload can pass.
pub(crate) fn matches_nothing(filter: &[Checked]) -> bool {
    filter.iter().any(|c| match c {
        Checked::AnyOf { values, .. } => values.is_empty(),
        Checked::Range { min: Some(min), max: Some(max), .. } => min > max,
        Checked::Range { .. } => false,
    })
}

fn lookup<'a>(payload: &'a Map<String, Value>, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(payload.get(first)?, |value, key| value.as_object()?.get(key))
}

/// The value itself, or one element of it.
fn any_element(value: &Value, test: impl Fn(&Value) -> bool) -> bool {
    match value {
        Value::Array(items) => items.iter().any(test),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => test(value),
    }
}

/// Whether the payload passes.
pub(crate) fn passes(filter: &[Checked], payload: &Map<String, Value>) -> bool {
    filter.iter().all(|condition| match condition {
        Checked::AnyOf { path, values } => lookup(payload, path).is_some_and(|found| {
            any_element(found, |item| {
                values.iter().any(|wanted| match wanted {
                    Scalar::Text(s) => item.as_str() == Some(s),
                    Scalar::Whole(n) => item.as_i64() == Some(*n),
                    Scalar::Bool(b) => item.as_bool() == Some(*b),
                })
            })
        }),
        Checked::Range { path, min, max } => lookup(payload, path).is_some_and(|found| {
            any_element(found, |item| {
                item.as_f64().is_some_and(|n| min.is_none_or(|min| n >= min) && max.is_none_or(|max| n <= max))
            })
        }),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn test(condition: Condition) -> bool {
        let payload = json!({
            "tenant": "a", "acl": ["x", "y"], "n": 7, "metadata": {"year": 2024, "draft": true, "score": 1.5}
        });
        let Value::Object(payload) = payload else { unreachable!() };
        passes(&check(&Filter { all: vec![condition] }).unwrap(), &payload)
    }

    fn equals(field: &str, value: Value) -> Condition {
        Condition::Equals { field: field.into(), value }
    }

    #[test]
    fn equality_is_by_type_and_element() {
        assert!(test(equals("tenant", json!("a"))));
        assert!(!test(equals("tenant", json!("b"))));
        assert!(test(equals("acl", json!("y"))));
        assert!(test(equals("metadata.year", json!(2024))));
        assert!(!test(equals("metadata.year", json!("2024"))));
        assert!(test(equals("metadata.draft", json!(true))));
        assert!(!test(equals("absent.field", json!(1))));
        assert!(test(Condition::AnyOf { field: "acl".into(), values: vec![json!("z"), json!("x")] }));
        assert!(!test(Condition::AnyOf { field: "acl".into(), values: vec![] }));
    }

    #[test]
    fn ranges_are_inclusive() {
        let range = |min, max| Condition::Range { field: "metadata.score".into(), min, max };
        assert!(test(range(Some(1.5), Some(1.5))));
        assert!(test(range(None, Some(2.0))));
        assert!(!test(range(Some(1.6), None)));
    }

    #[test]
    fn bad_filters_are_refused() {
        for bad in [
            equals("a", json!(1.5)),
            equals("a", json!(null)),
            equals("a..b", json!(1)),
            equals("a\"b", json!(1)),
            Condition::Range { field: "a".into(), min: None, max: None },
            Condition::Range { field: "a".into(), min: Some(f64::NAN), max: None },
        ] {
            let error = check(&Filter { all: vec![bad] }).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration);
        }
    }
}
