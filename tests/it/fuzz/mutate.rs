//! Damaged, absurd and hostile bytes, from ones that are right.

use serde_json::{Map, Value};

use crate::random_ops::Rng;

/// Longest input.
const LONGEST: usize = 1 << 20;

/// One input: a seed with a few changes. Where the seeds are JSON, half of the changes are to its values.
pub fn bytes(rng: &mut Rng, seeds: &[Vec<u8>], json: bool) -> Vec<u8> {
    let mut bytes = rng.one(seeds).cloned().unwrap_or_default();
    if json
        && rng.below(2) == 0
        && let Ok(mut value) = serde_json::from_slice::<Value>(&bytes)
    {
        for _ in 0..1 + rng.below(3) {
            change_value(rng, &mut value);
        }
        bytes = serde_json::to_vec(&value).unwrap_or_default();
        if rng.below(4) > 0 {
            return bytes;
        }
    }
    for _ in 0..1 << rng.below(5) {
        change(rng, &mut bytes, seeds);
        bytes.truncate(LONGEST);
    }
    bytes
}

/// Numbers that are at the edge of something.
const EDGES: [&str; 14] = [
    "0",
    "-1",
    "1",
    "255",
    "256",
    "65536",
    "2147483647",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "-1e999",
];

const WORDS: [&str; 30] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    ":",
    ",",
    "null",
    "true",
    "---\n",
    "+++\n",
    "```",
    "<table>",
    "<td>",
    "</",
    "<!--",
    "&#x",
    "&#1114112;",
    "\u{0}",
    "\u{feff}",
    "\r",
    "\n\n",
    "*",
    "|",
    "%",
    "\\u0000",
    "\\ud800",
    "!!",
    "&a *a",
];

fn at(rng: &mut Rng, bytes: &[u8]) -> usize {
    // Ends and beginnings hold lengths and magic numbers.
    match rng.below(4) {
        0 => rng.below(bytes.len().min(64) + 1),
        1 => bytes.len() - rng.below(bytes.len().min(64) + 1),
        _ => rng.below(bytes.len() + 1),
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, what: impl IntoIterator<Item = u8>) {
    bytes.splice(at..at, what);
}

fn change(rng: &mut Rng, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    let i = at(rng, bytes);
    match rng.below(14) {
        0 | 1 if i < bytes.len() => bytes[i] ^= 1 << rng.below(8),
        2 if i < bytes.len() => bytes[i] = rng.next() as u8,
        3 if i < bytes.len() => bytes[i] = *rng.one(&[0, 1, 0x7f, 0x80, 0xff, b'"', b'\n']).unwrap_or(&0),
        4 => bytes.truncate(i),
        5 => {
            let end = (i + rng.below(200)).min(bytes.len());
            bytes.drain(i..end);
        }
        6 => {
            let end = (i + rng.below(400)).min(bytes.len());
            let part = bytes[i..end].to_vec();
            let times = 1 + rng.below(20);
            let to = at(rng, bytes);
            insert(bytes, to, part.repeat(times));
        }
        7 => {
            let other = rng.one(seeds).cloned().unwrap_or_default();
            let from = at(rng, &other);
            let end = (from + rng.below(2000)).min(other.len());
            insert(bytes, i, other[from..end].to_vec());
        }
        8 => {
            let word = rng.one(&WORDS).unwrap_or(&"");
            let times = 1 << rng.below(4);
            insert(bytes, i, word.repeat(times).into_bytes());
        }
        9 => {
            // Deep nesting.
            let (open, close) = *rng
                .one(&[
                    ("[", "]"),
                    ("{\"a\":", "}"),
                    ("<b>", "</b>"),
                    ("> ", ""),
                    ("- ", ""),
                    ("a.", ""),
                    ("<ul><li>", ""),
                ])
                .unwrap_or(&("", ""));
            let depth = 1 << (4 + rng.below(13));
            insert(bytes, i, format!("{}{}", open.repeat(depth), close.repeat(depth)).into_bytes());
        }
        10 => {
            // A long line.
            let word = *rng.one(&["x", "é", "1", " ", ",", "\"\"", "\\"]).unwrap_or(&"x");
            insert(bytes, i, word.repeat(1 << (6 + rng.below(12))).into_bytes());
        }
        11 => replace_number(rng, bytes),
        12 => {
            let length = [1, 2, 4, 8][rng.below(4)];
            let value =
                *rng.one(&[0, 1, u64::MAX, i64::MAX as u64, 1 << 31, u64::from(u32::MAX), 1 << 40]).unwrap_or(&0);
            for (offset, byte) in value.to_le_bytes()[..length].iter().enumerate() {
                if let Some(place) = bytes.get_mut(i + offset) {
                    *place = *byte;
                }
            }
        }
        _ => {
            let count = rng.below(40);
            insert(bytes, i, (0..count).map(|_| rng.next() as u8).collect::<Vec<_>>());
        }
    }
}

/// Puts an edge in the place of a number in the text.
fn replace_number(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let digits: Vec<usize> = bytes.iter().enumerate().filter(|(_, b)| b.is_ascii_digit()).map(|(i, _)| i).collect();
    let Some(start) = rng.one(&digits).copied() else { return };
    let end = start + bytes[start..].iter().take_while(|b| b.is_ascii_digit()).count();
    bytes.splice(start..end, rng.one(&EDGES).unwrap_or(&"0").bytes());
}

/// A change to one value somewhere inside.
pub fn change_value(rng: &mut Rng, value: &mut Value) {
    match value {
        Value::Object(map) if !map.is_empty() && rng.below(8) > 0 => {
            let keys: Vec<String> = map.keys().cloned().collect();
            let Some(key) = rng.one(&keys) else { return };
            match rng.below(12) {
                0 => drop(map.remove(key)),
                1 => drop(map.insert("unknown".to_owned(), Value::Bool(true))),
                _ => {
                    if let Some(inner) = map.get_mut(key) {
                        change_value(rng, inner);
                    }
                }
            }
        }
        Value::Array(list) if !list.is_empty() && rng.below(8) > 0 => {
            let i = rng.below(list.len());
            match rng.below(6) {
                0 => drop(list.remove(i)),
                1 => {
                    let copy = list[i].clone();
                    list.extend(std::iter::repeat_n(copy, 1 << rng.below(8)));
                }
                _ => change_value(rng, &mut list[i]),
            }
        }
        other => *other = absurd(rng, other),
    }
}

fn absurd(rng: &mut Rng, was: &Value) -> Value {
    match (rng.below(9), was) {
        (0, _) => Value::Null,
        (1, _) => Value::Bool(true),
        (2..=4, Value::Number(_)) | (2, _) => {
            let edge = rng.one(&EDGES).unwrap_or(&"0");
            serde_json::from_str(edge).unwrap_or(Value::Null)
        }
        (3, _) => Value::String(String::new()),
        (4, Value::String(s)) => Value::String(s.repeat(1 << rng.below(10))),
        (5, Value::String(s)) => Value::String(s.chars().rev().collect()),
        (5 | 6, _) => Value::String((*rng.one(&WORDS).unwrap_or(&"")).to_owned()),
        (7, _) => Value::Array(vec![was.clone()]),
        _ => Value::Object(Map::from_iter([("a".to_owned(), was.clone())])),
    }
}
