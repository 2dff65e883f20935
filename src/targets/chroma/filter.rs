//! Conditions as Chroma's `where`.

use serde_json::{Map, Value, json};

use super::payload::{OWN, REST};
use crate::targets::filter::{Checked, Scalar};
use crate::targets::types::field;

/// Whether a part of a field's name can be part of a metadata key.
pub(super) fn addressable(name: &str) -> bool {
    !name.is_empty() && !name.contains('.') && !name.starts_with(['#', '$']) && name != "chroma:document"
}

/// A filter, as far as the server can apply it.
#[derive(Debug, PartialEq)]
pub(super) struct Where {
    /// Conditions that all must hold; none lets everything pass.
    all: Vec<Value>,
    /// What passes must still be compared with the payload.
    pub(super) verify: bool,
    /// Nothing passes.
    pub(super) nothing: bool,
}

/// Compiles a filter. `floats` says whether a metadata key may hold floats: the server takes 3 and 3.0 for equal, and
/// a whole number of the filter is the former.
pub(super) fn compile(filter: &[Checked], floats: impl Fn(&str) -> bool) -> Where {
    let mut compiled = Where { all: Vec::new(), verify: false, nothing: false };
    for condition in filter {
        let (Checked::AnyOf { path, .. } | Checked::Range { path, .. }) = condition;
        let key = path.join(".");
        if !path.iter().all(|name| addressable(name)) || key.starts_with(OWN) || key == field::TEXT {
            // Not in the metadata.
            compiled.verify = true;
            continue;
        }
        match condition {
            Checked::AnyOf { values, .. } => {
                if values.is_empty() {
                    compiled.nothing = true;
                }
                let mut any = Vec::new();
                let of = |pick: fn(&Scalar) -> Option<Value>| values.iter().filter_map(pick).collect::<Vec<Value>>();
                let texts = of(|s| if let Scalar::Text(t) = s { Some(t.as_str().into()) } else { None });
                let wholes = of(|s| if let Scalar::Whole(n) = s { Some((*n).into()) } else { None });
                let bools = of(|s| if let Scalar::Bool(b) = s { Some((*b).into()) } else { None });
                compiled.verify |= !wholes.is_empty() && floats(&key);
                for values in [texts, wholes, bools] {
                    match values.as_slice() {
                        [] => {}
                        [one] => any.push(on(&key, "$eq", one.clone())),
                        _ => any.push(on(&key, "$in", Value::Array(values.clone()))),
                    }
                    any.extend(values.into_iter().map(|value| on(&key, "$contains", value)));
                }
                compiled.all.extend(joined("$or", any));
            }
            Checked::Range { min, max, .. } => {
                let impossible = matches!((min, max), (Some(min), Some(max)) if min > max)
                    || *min == Some(f64::INFINITY)
                    || *max == Some(f64::NEG_INFINITY);
                compiled.nothing |= impossible;
                let bounds = [("$gte", min), ("$lte", max)];
                let finite = bounds.into_iter().filter_map(|(o, b)| b.filter(|b| b.is_finite()).map(|b| (o, b)));
                let before = compiled.all.len();
                compiled.all.extend(finite.map(|(operator, bound)| on(&key, operator, bound.into())));
                // No bound is left, and yet only numbers pass.
                compiled.verify |= compiled.all.len() == before;
            }
        }
    }
    compiled
}

impl Where {
    /// For the server, with further conditions; `None` lets everything pass.
    pub(super) fn with(&self, more: impl IntoIterator<Item = Value>) -> Option<Value> {
        joined("$and", self.all.iter().cloned().chain(more).collect())
    }
}

/// Records that can be filtered by their payload only.
pub(super) fn rest() -> Value {
    json!({REST: true})
}

/// All others.
pub(super) fn not_rest() -> Value {
    json!({REST: {"$ne": true}})
}

/// All of them, for the server; `None` lets everything pass.
pub(super) fn every(conditions: Vec<Value>) -> Option<Value> {
    joined("$and", conditions)
}

/// One comparison.
pub(super) fn on(key: &str, operator: &str, value: Value) -> Value {
    Value::Object(Map::from_iter([(key.to_owned(), json!({operator: value}))]))
}

/// The server wants no operator around a single condition.
fn joined(operator: &str, mut conditions: Vec<Value>) -> Option<Value> {
    match conditions.len() {
        0 | 1 => conditions.pop(),
        _ => Some(json!({operator: conditions})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::filter::check;
    use crate::targets::types::{Condition, Filter};

    fn compiled(all: Vec<Condition>) -> Where {
        compile(&check(&Filter { all }).unwrap(), |key| key == "f")
    }

    fn equals(field: &str, value: Value) -> Condition {
        Condition::Equals { field: field.into(), value }
    }

    #[test]
    fn values_are_compared_by_type_and_in_lists() {
        let one = compiled(vec![equals("tenant", json!("a"))]);
        assert_eq!(one.with([]), Some(json!({"$or": [{"tenant": {"$eq": "a"}}, {"tenant": {"$contains": "a"}}]})));
        let mixed = Condition::AnyOf { field: "m.n".into(), values: vec![json!("1"), json!(2), json!(3)] };
        let expected = json!({"$or": [
            {"m.n": {"$eq": "1"}}, {"m.n": {"$contains": "1"}},
            {"m.n": {"$in": [2, 3]}}, {"m.n": {"$contains": 2}}, {"m.n": {"$contains": 3}},
        ]});
        assert_eq!(compiled(vec![mixed]).with([]), Some(expected));
        assert!(compiled(vec![equals("f", json!(3))]).verify);
        assert!(!compiled(vec![equals("f", json!("3"))]).verify);
    }

    #[test]
    fn ranges_join() {
        let range = |min, max| Condition::Range { field: "n".into(), min, max };
        let both = compiled(vec![range(Some(1.0), Some(2.5))]);
        assert_eq!(both.with([]), Some(json!({"$and": [{"n": {"$gte": 1.0}}, {"n": {"$lte": 2.5}}]})));
        assert!(compiled(vec![range(Some(2.0), Some(1.0))]).nothing);
        assert!(compiled(vec![range(Some(f64::INFINITY), None)]).nothing);
        assert!(compiled(vec![range(Some(f64::NEG_INFINITY), None)]).verify);
    }

    #[test]
    fn what_the_metadata_does_not_hold_is_verified() {
        for field in ["text", "#a", "m.$b", "regrow_bucket"] {
            let one = compiled(vec![equals(field, json!("x"))]);
            assert_eq!((one.with([]), one.verify), (None, true), "{field}");
        }
        assert_eq!(compiled(vec![]), Where { all: vec![], verify: false, nothing: false });
        assert!(compiled(vec![Condition::AnyOf { field: "a".into(), values: vec![] }]).nothing);
    }
}
