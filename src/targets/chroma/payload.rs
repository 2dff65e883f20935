//! Payloads as flat metadata and a document, and back.
//!
//! Chroma's metadata is flat: text, numbers, booleans, and lists of one of these. A nested field has a dotted name;
//! the chunk's text is the record's document. What this cannot express exactly (nulls, empty lists and objects, nested
//! lists, numbers above 2^63, names with dots) is kept as JSON in [`PAYLOAD`] beside the fields that filter.

use serde_json::{Map, Value};

use super::filter::addressable;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::ChunkId;
use crate::targets::types::{Point, field};

/// First letters of the names that are regrow's own.
pub(super) const OWN: &str = "regrow_";
/// The payload without its text, as JSON, where the other fields do not say it all.
pub(super) const PAYLOAD: &str = "regrow_payload";
/// The id's first bits: records are read bucket by bucket.
pub(super) const BUCKET: &str = "regrow_bucket";
/// How many buckets there are: a collection of ten million has 2,441 records in each.
pub(super) const BUCKETS: u32 = 1 << 12;
/// True where some field can be filtered by its JSON only.
pub(super) const REST: &str = "regrow_rest";

/// The id's bucket; buckets are in the order of ids.
pub(super) fn bucket(id: ChunkId) -> u32 {
    id.0.as_fields().0 >> 20
}

/// A record's metadata and document.
pub(super) fn encode(point: &Point) -> (Map<String, Value>, String) {
    let (mut flat, mut rest) = (Map::new(), false);
    let document = match point.payload.get(field::TEXT) {
        Some(Value::String(text)) => text.clone(),
        _ => String::new(),
    };
    let in_document = |name: &str| name == field::TEXT && !document.is_empty();
    for (name, value) in point.payload.iter().filter(|(name, _)| !in_document(name)) {
        if name.starts_with(OWN) {
            rest = true;
        } else {
            flatten(name, name, value, &mut flat, &mut rest);
        }
    }
    let exact = {
        let mut back = unflatten(&flat);
        if !document.is_empty() {
            back.insert(field::TEXT.to_owned(), document.clone().into());
        }
        back == point.payload
    };
    if !exact {
        let all: Map<String, Value> =
            point.payload.iter().filter(|(name, _)| !in_document(name)).map(|(k, v)| (k.clone(), v.clone())).collect();
        flat.insert(PAYLOAD.to_owned(), Value::Object(all).to_string().into());
    }
    if rest {
        flat.insert(REST.to_owned(), true.into());
    }
    flat.insert(BUCKET.to_owned(), bucket(point.id).into());
    (flat, document)
}

/// The payload of a record.
pub(super) fn decode(
    id: &str,
    metadata: Option<Map<String, Value>>,
    document: Option<String>,
) -> Result<Map<String, Value>> {
    let metadata = metadata.unwrap_or_default();
    let mut payload = match metadata.get(PAYLOAD) {
        Some(Value::String(text)) => serde_json::from_str(text).map_err(|e| {
            Error::new(ErrorKind::Damaged, "a record's payload is not what regrow wrote").with("id", id).because(e)
        })?,
        _ => unflatten(&metadata),
    };
    if let Some(text) = document.filter(|text| !text.is_empty()) {
        payload.insert(field::TEXT.to_owned(), text.into());
    }
    Ok(payload)
}

fn flatten(key: &str, name: &str, value: &Value, flat: &mut Map<String, Value>, rest: &mut bool) {
    match value {
        // No filter finds it.
        Value::Null => {}
        _ if !addressable(name) => *rest = true,
        Value::Object(fields) => {
            for (name, value) in fields {
                flatten(&format!("{key}.{name}"), name, value, flat, rest);
            }
        }
        Value::Array(items) if items.is_empty() => {}
        Value::Array(items) => {
            let of = |is: fn(&Value) -> bool| items.iter().all(is);
            if of(Value::is_string) || of(Value::is_boolean) {
                flat.insert(key.to_owned(), value.clone());
            } else {
                // The server has no ranges over lists of numbers.
                if of(Value::is_i64) || of(Value::is_f64) {
                    flat.insert(key.to_owned(), value.clone());
                }
                *rest = true;
            }
        }
        // As a float, which a range finds.
        Value::Number(n) if !n.is_i64() && !n.is_f64() => {
            flat.insert(key.to_owned(), n.as_f64().into());
        }
        Value::Number(_) | Value::Bool(_) | Value::String(_) => {
            flat.insert(key.to_owned(), value.clone());
        }
    }
}

fn unflatten(flat: &Map<String, Value>) -> Map<String, Value> {
    let mut payload = Map::new();
    for (key, value) in flat.iter().filter(|(key, _)| !key.starts_with(OWN)) {
        place(&mut payload, key, value);
    }
    payload
}

fn place(at: &mut Map<String, Value>, key: &str, value: &Value) {
    let Some((name, deeper)) = key.split_once('.') else {
        at.insert(key.to_owned(), value.clone());
        return;
    };
    let next = at.entry(name).or_insert(Value::Null);
    if !next.is_object() {
        // Two fields that exclude each other, made by another tool: the later one in order stays.
        *next = Value::Object(Map::new());
    }
    if let Value::Object(fields) = next {
        place(fields, deeper, value);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::targets::filter::{check, passes};
    use crate::targets::types::{Condition, Filter};

    fn point(payload: Value) -> Point {
        let Value::Object(payload) = payload else { panic!("an object") };
        Point { id: ChunkId(uuid::Uuid::from_u128(0xfffe_fffe << 96)), vector: vec![], payload }
    }

    #[test]
    fn flat_fields_need_no_json() {
        let payload = json!({"tenant": "a", "text": "t", "acl": ["x"], "metadata": {"year": 1, "deep": {"f": 1.5}}});
        let (flat, document) = encode(&point(payload.clone()));
        let expected = json!({"tenant": "a", "acl": ["x"], "metadata.year": 1, "metadata.deep.f": 1.5, BUCKET: 0xfff});
        assert_eq!((Value::Object(flat.clone()), document.as_str()), (expected, "t"));
        assert_eq!(Value::Object(decode("", Some(flat), Some(document)).unwrap()), payload);
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Value::from),
            (-3_i64..3).prop_map(Value::from),
            "[a.]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[ab.#$]{0,2}", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_payload_comes_back(fields in prop::collection::btree_map("text|[ab.#$]{0,2}|regrow_bucket", json(), 0..5)) {
            let payload: Map<String, Value> = fields.into_iter().collect();
            let (flat, document) = encode(&Point { payload: payload.clone(), ..point(json!({})) });
            for (key, value) in &flat {
                prop_assert!(!key.is_empty() && !key.starts_with(['#', '$']));
                prop_assert!(!value.is_object() && !value.is_null() && value != &json!([]));
            }
            prop_assert_eq!(decode("", Some(flat), Some(document)).unwrap(), payload);
        }

        /// A field that the flat metadata does not hold, and that a filter could find, marks the record.
        #[test]
        fn what_cannot_be_filtered_flat_is_marked(value in json(), wanted in -3_i64..3) {
            let all = vec![Condition::Equals { field: "a.b".into(), value: wanted.into() }];
            let point = point(json!({"a": value}));
            let (flat, _) = encode(&point);
            let found = flat.get("a.b").is_some_and(|v| match v {
                Value::Array(items) => items.contains(&wanted.into()),
                other => other.as_i64() == Some(wanted),
            });
            if passes(&check(&Filter { all }).unwrap(), &point.payload) {
                prop_assert!(found || flat.contains_key(REST));
            }
        }
    }
}
