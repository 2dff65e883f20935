//! Payload in the protocol's values. They hold integers of 64 bits with a sign, floats, texts, booleans, lists, objects and
//! nulls. What the server would not give back as it was stands once more in [`EXACT`], as JSON: integers from 2^63 on,
//! which would become floats, and floats that the server's own reader of numbers may round differently.

use std::collections::HashMap;

use qdrant_client::qdrant as q;
use qdrant_client::qdrant::value::Kind;
use serde_json::{Map, Number, Value};

use crate::error::{Error, ErrorKind, Result};

/// The whole payload as JSON, where its fields alone would not come back as they were.
pub(super) const EXACT: &str = "regrow_payload";

/// The payload as it is sent.
pub(super) fn encode(payload: Map<String, Value>) -> HashMap<String, q::Value> {
    let exact = !payload.iter().all(|(key, value)| key != EXACT && comes_back(value));
    let text = exact.then(|| Value::Object(payload.clone()).to_string());
    let mut out: HashMap<String, q::Value> = payload.into_iter().map(|(key, value)| (key, to_proto(value))).collect();
    if let Some(text) = text {
        out.insert(EXACT.to_owned(), to_proto(Value::String(text)));
    }
    out
}

/// The payload as it was given.
pub(super) fn decode(mut payload: HashMap<String, q::Value>) -> Result<Map<String, Value>> {
    if let Some(q::Value { kind: Some(Kind::StringValue(text)) }) = payload.remove(EXACT) {
        return serde_json::from_str(&text).map_err(|e| {
            Error::new(ErrorKind::Target, "a point's payload cannot be read")
                .with("field", EXACT)
                .guidance("another tool changed this point; restore into a new collection")
                .because(e)
        });
    }
    Ok(payload.into_iter().map(|(key, value)| (key, from_proto(value))).collect())
}

fn comes_back(value: &Value) -> bool {
    match value {
        Value::Number(n) => n.is_i64() || (n.is_f64() && is_simple(n)),
        Value::Array(items) => items.iter().all(comes_back),
        Value::Object(fields) => fields.values().all(comes_back),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// Whether every reader of decimal numbers finds this very float: at most 15 digits, and a power of ten that a float holds
/// exactly. The server stores payload as JSON, and reads it with one that is fast and not always exact.
fn is_simple(number: &Number) -> bool {
    let text = number.to_string();
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [whole.trim_start_matches('-'), fraction].concat();
    let (Ok(exponent), Ok(places)) = (exponent.parse::<i32>(), i32::try_from(fraction.len())) else { return false };
    digits.trim_start_matches('0').len() <= 15 && (exponent - places).abs() <= 22
}

pub(super) fn to_proto(value: Value) -> q::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(b) => Kind::BoolValue(b),
        Value::Number(n) => match n.as_i64() {
            Some(n) => Kind::IntegerValue(n),
            None => Kind::DoubleValue(n.as_f64().unwrap_or_default()),
        },
        Value::String(text) => Kind::StringValue(text),
        Value::Array(items) => Kind::ListValue(q::ListValue { values: items.into_iter().map(to_proto).collect() }),
        Value::Object(fields) => {
            Kind::StructValue(q::Struct { fields: fields.into_iter().map(|(k, v)| (k, to_proto(v))).collect() })
        }
    };
    q::Value { kind: Some(kind) }
}

pub(super) fn from_proto(value: q::Value) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(b)) => Value::Bool(b),
        Some(Kind::IntegerValue(n)) => Value::Number(n.into()),
        Some(Kind::DoubleValue(float)) => Number::from_f64(float).map_or(Value::Null, Value::Number),
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::ListValue(list)) => Value::Array(list.values.into_iter().map(from_proto).collect()),
        Some(Kind::StructValue(fields)) => {
            Value::Object(fields.fields.into_iter().map(|(k, v)| (k, from_proto(v))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(fields) => fields,
            other => panic!("{other} is no object"),
        }
    }

    #[test]
    fn only_what_would_change_stands_twice() {
        let plain = json!({"t": "x", "n": -3, "f": 0.25, "w": 3.0, "big": 1e22, "l": [null, {"d": i64::MIN}], "e": {}});
        assert!(!encode(object(plain)).contains_key(EXACT));
        for changed in [json!(u64::MAX), json!(-2.5e-300), json!([[{"x": 0.123_456_789_012_345_68}]]), json!(1e23)] {
            assert!(encode(object(json!({"a": changed}))).contains_key(EXACT), "{changed}");
        }
        assert!(encode(object(json!({"regrow_payload": "theirs"}))).len() == 1);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Value::from),
            ".{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,2}", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_payload_comes_back(fields in prop::collection::btree_map("regrow_payload|[a.]{0,2}", any_json(), 0..5)) {
            let payload: Map<String, Value> = fields.into_iter().collect();
            prop_assert_eq!(decode(encode(payload.clone())).unwrap(), payload);
        }

        /// What is left out of the exact text is read alike by any reader: here one that multiplies.
        #[test]
        fn simple_floats_are_read_alike(digits in 0_u64..1_000_000_000_000_000, power in -22_i32..=22) {
            let exact: f64 = format!("{digits}e{power}").parse().unwrap();
            let quick = if power < 0 { digits as f64 / 10_f64.powi(-power) } else { digits as f64 * 10_f64.powi(power) };
            prop_assert_eq!(exact.to_bits(), quick.to_bits());
        }
    }
}
