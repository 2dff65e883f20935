//! Filters as conditions on the payload.

use super::sql::{field, is_list, literal, number};
use crate::targets::filter::{Checked, Scalar};
use crate::targets::types::field as name;

/// The condition, without WHERE; `TRUE` for no filter. Values stand in it as literals.
pub(super) fn condition(filter: &[Checked]) -> String {
    if filter.is_empty() {
        return "TRUE".to_owned();
    }
    filter.iter().map(one).collect::<Vec<_>>().join(" AND ")
}

fn one(condition: &Checked) -> String {
    match condition {
        Checked::AnyOf { values, .. } if values.is_empty() => "FALSE".to_owned(),
        Checked::AnyOf { path, values } => {
            let any: Vec<String> = values.iter().map(|value| equals(path, value)).collect();
            let mut out = format!("({})", any.join(" OR "));
            // Partitions that cannot hold the tenant are not looked into.
            if path.len() == 1 && path[0] == name::TENANT && values.iter().all(|v| matches!(v, Scalar::Text(_))) {
                let texts: Vec<String> = values.iter().filter_map(text).map(|t| literal(&t)).collect();
                out = format!("({out} AND (tenant IN ({}) OR tenant = ''))", texts.join(", "));
            }
            out
        }
        Checked::Range { path, min, max } => {
            let bounds = |value: &str| {
                let bound = |operator: &str, bound: &Option<f64>| {
                    bound.map(|b| format!("({value})::float8 {operator} '{b:?}'::float8"))
                };
                let both: Vec<String> = [bound(">=", min), bound("<=", max)].into_iter().flatten().collect();
                both.join(" AND ")
            };
            let number = number(path);
            // The index is over exact numbers; what it finds is compared as the meaning says.
            let indexed = |operator: &str, bound: &Option<f64>| {
                bound
                    .filter(|b| b.is_finite())
                    .map(|b| format!("{number} {operator} '{}'::numeric", outward(b, operator)))
            };
            let mut direct: Vec<String> = [indexed(">=", min), indexed("<=", max)].into_iter().flatten().collect();
            direct.push(bounds(&number));
            let element = "(CASE WHEN jsonb_typeof(e) = 'number' THEN e::numeric END)";
            format!(
                "(({}) OR ({list} AND EXISTS (SELECT 1 FROM jsonb_array_elements(CASE WHEN {list} THEN {field} ELSE '[]' END) e \
                 WHERE {})))",
                direct.join(" AND "),
                bounds(element),
                list = is_list(path),
                field = field(path),
            )
        }
    }
}

/// A bound a little further out: whole numbers that round to it as floats must not be missed.
fn outward(bound: f64, operator: &str) -> String {
    let slack = bound.abs() * 1e-15;
    format!("{}", if operator == ">=" { bound - slack } else { bound + slack })
}

fn text(value: &Scalar) -> Option<String> {
    match value {
        // As `points` writes it.
        Scalar::Text(text) => Some(text.replace('\0', "\u{fffd}")),
        Scalar::Whole(_) | Scalar::Bool(_) => None,
    }
}

/// The value or one of a list's; an array of jsonb contains a single value by itself.
fn equals(path: &[String], value: &Scalar) -> String {
    let field = field(path);
    let json = match value {
        Scalar::Text(_) => serde_json::Value::from(text(value).unwrap_or_default()),
        Scalar::Whole(n) => (*n).into(),
        Scalar::Bool(b) => (*b).into(),
    };
    let contains = format!("{field} @> {}::jsonb", literal(&json.to_string()));
    match value {
        // 3.0 is no whole number, and jsonb takes the two for the same.
        Scalar::Whole(n) => format!(
            "({contains} AND (({field})::text = '{n}' OR ({list} AND EXISTS (SELECT 1 FROM jsonb_array_elements(CASE WHEN {list} \
             THEN {field} ELSE '[]' END) e WHERE e::text = '{n}'))))",
            list = is_list(path),
        ),
        Scalar::Text(_) | Scalar::Bool(_) => contains,
    }
}
