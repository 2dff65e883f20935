//! Points as rows: PostgreSQL's binary formats, by hand.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Map, Value};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::ChunkId;
use crate::pipeline::PgvectorType;
use crate::targets::checks;
use crate::targets::load::point_bytes;
use crate::targets::types::{Point, field};

/// The columns, in the order of a row.
pub(super) const COLUMNS: &str = "id, tenant, embedding, payload, exact";

/// A value as the server sends it.
pub(super) struct Raw<'a>(pub(super) &'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> std::result::Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// A value in the server's own format.
#[derive(Debug)]
pub(super) struct Encoded(pub(super) Vec<u8>);

impl ToSql for Encoded {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// A vector: dimension, zero, values; big-endian.
pub(super) fn vector(values: &[f32], kind: PgvectorType, out: &mut impl BufMut) {
    out.put_i16(i16::try_from(values.len()).unwrap_or(i16::MAX));
    out.put_i16(0);
    // A few at a time through a buffer: a call per value is most of the work.
    let mut buffer = [0; 256];
    match kind {
        PgvectorType::Vector => {
            for some in values.chunks(64) {
                for (bytes, value) in buffer.chunks_exact_mut(4).zip(some) {
                    bytes.copy_from_slice(&value.to_be_bytes());
                }
                out.put_slice(&buffer[..4 * some.len()]);
            }
        }
        PgvectorType::Halfvec => {
            for some in values.chunks(128) {
                for (bytes, value) in buffer.chunks_exact_mut(2).zip(some) {
                    bytes.copy_from_slice(&half::f16::from_f32(*value).to_be_bytes());
                }
                out.put_slice(&buffer[..2 * some.len()]);
            }
        }
    }
}

fn values(raw: &[u8]) -> Option<Vec<f32>> {
    let (head, rest) = raw.split_at_checked(4)?;
    let dimension = usize::try_from(i16::from_be_bytes([head[0], head[1]])).ok()?;
    match rest.len() {
        n if n == 4 * dimension => {
            Some(rest.chunks_exact(4).map(|b| f32::from_be_bytes([b[0], b[1], b[2], b[3]])).collect())
        }
        n if n == 2 * dimension => {
            let value = |b: &[u8]| half::f16::from_bits(u16::from_be_bytes([b[0], b[1]])).to_f32();
            Some(rest.chunks_exact(2).map(value).collect())
        }
        _ => None,
    }
}

/// Why jsonb would not give this value back as it is: it has no zero character, no negative zero, and forgets that a
/// number was written with an exponent.
fn changes(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Number(n) => {
            n.is_f64()
                && (n.as_f64().is_some_and(|f| f == 0.0 && f.is_sign_negative()) || n.to_string().contains(['e', 'E']))
        }
        Value::Array(items) => items.iter().any(changes),
        Value::Object(map) => map.iter().any(|(key, value)| key.contains('\0') || changes(value)),
        Value::Null | Value::Bool(_) => false,
    }
}

/// The same with what jsonb can hold, for filters.
fn without_zeros(value: &Value) -> Value {
    let clean = |text: &str| text.replace('\0', "\u{fffd}");
    match value {
        Value::String(text) => clean(text).into(),
        Value::Array(items) => items.iter().map(without_zeros).collect(),
        Value::Object(map) => Value::Object(map.iter().map(|(k, v)| (clean(k), without_zeros(v))).collect()),
        other => other.clone(),
    }
}

/// Points as a COPY.
pub(super) struct Batch {
    /// The whole COPY but its tail; none where there is no row.
    pub(super) rows: Option<Bytes>,
    /// Ids of the rows as text, where they were asked for.
    pub(super) ids: Vec<String>,
    /// Points that are written with it; of several with one id the last counts.
    pub(super) written: usize,
    /// Points that cannot be written, and why.
    pub(super) refused: Vec<(ChunkId, String)>,
}

impl Batch {
    pub(super) fn of(points: &[Point], dimension: usize, kind: PgvectorType, with_ids: bool) -> Result<Self> {
        let mut batch = Self { rows: None, ids: Vec::new(), written: 0, refused: Vec::new() };
        // In order, so that two that write the same do not wait for one another.
        let mut distinct: BTreeMap<ChunkId, &Point> = BTreeMap::new();
        for point in points {
            match checks::refusal(point, dimension).or_else(|| too_large(point, kind)) {
                Some(reason) => batch.refused.push((point.id, reason)),
                None => {
                    batch.written += 1;
                    distinct.insert(point.id, point);
                }
            }
        }
        if distinct.is_empty() {
            return Ok(batch);
        }
        let mut out = head(distinct.values().copied());
        for point in distinct.values() {
            row(point, kind, &mut out)?;
        }
        batch.rows = Some(out.freeze());
        if with_ids {
            batch.ids = distinct.keys().map(ToString::to_string).collect();
        }
        Ok(batch)
    }
}

/// Why a vector does not fit into its type, if it does not.
fn too_large(point: &Point, kind: PgvectorType) -> Option<String> {
    let large = match kind {
        PgvectorType::Vector => None,
        PgvectorType::Halfvec => point.vector.iter().position(|v| !half::f16::from_f32(*v).is_finite()),
    }?;
    Some(format!("value {large} of the vector is {}, more than halfvec holds", point.vector[large]))
}

/// The beginning of a COPY in binary format (signature, flags, no extension), with room for these points.
fn head<'a>(points: impl Iterator<Item = &'a Point>) -> BytesMut {
    let mut out = BytesMut::with_capacity(64 + points.map(|point| 64 + point_bytes(point)).sum::<usize>());
    out.put_slice(b"PGCOPY\n\xff\r\n\0");
    out.put_i32(0);
    out.put_i32(0);
    out
}

/// The end of a COPY.
pub(super) fn tail() -> Bytes {
    Bytes::from_static(&[0xff, 0xff])
}

fn put(out: &mut BytesMut, value: impl FnOnce(&mut BytesMut)) {
    let at = out.len();
    out.put_i32(0);
    value(out);
    let length = i32::try_from(out.len() - at - 4).unwrap_or(i32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// One row of a COPY.
fn row(point: &Point, kind: PgvectorType, out: &mut BytesMut) -> Result<()> {
    let exact = point.payload.iter().any(|(key, value)| key.contains('\0') || changes(value));
    let text = serde_json::to_string(&point.payload)
        .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot write a payload as JSON").because(e))?;
    out.put_i16(5);
    put(out, |out| out.put_slice(point.id.0.as_bytes()));
    let tenant = point.payload.get(field::TENANT).and_then(Value::as_str).unwrap_or_default().replace('\0', "\u{fffd}");
    put(out, |out| out.put_slice(tenant.as_bytes()));
    put(out, |out| vector(&point.vector, kind, out));
    let held = if exact { without_zeros(&Value::Object(point.payload.clone())).to_string() } else { String::new() };
    put(out, |out| {
        out.put_u8(1);
        out.put_slice(if exact { held.as_bytes() } else { text.as_bytes() });
    });
    if exact {
        put(out, |out| out.put_slice(text.as_bytes()));
    } else {
        out.put_i32(-1);
    }
    Ok(())
}

fn unreadable(collection: &str) -> Error {
    Error::new(ErrorKind::Target, "a row of the collection cannot be read")
        .with("collection", collection)
        .guidance("the table was changed by hand, or is not regrow's")
}

/// id, payload, exact from the columns at `from`.
pub(super) fn id_and_payload(collection: &str, row: &Row, from: usize) -> Result<(ChunkId, Map<String, Value>)> {
    let wrong = || unreadable(collection);
    let id: Raw<'_> = row.try_get(from).map_err(|_| wrong())?;
    let id = ChunkId(Uuid::from_slice(id.0).map_err(|_| wrong())?);
    let exact: Option<&str> = row.try_get(from + 2).map_err(|_| wrong())?;
    let payload: Raw<'_> = row.try_get(from + 1).map_err(|_| wrong())?;
    let text = match exact {
        Some(text) => text.as_bytes(),
        None => payload.0.strip_prefix(&[1]).ok_or_else(wrong)?,
    };
    Ok((id, serde_json::from_slice(text).map_err(|_| wrong())?))
}

/// A point from id, payload, exact, embedding.
pub(super) fn point(collection: &str, row: &Row) -> Result<Point> {
    let (id, payload) = id_and_payload(collection, row, 0)?;
    let embedding: Raw<'_> = row.try_get(3).map_err(|_| unreadable(collection))?;
    Ok(Point { id, vector: values(embedding.0).ok_or_else(|| unreadable(collection))?, payload })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    proptest! {
        #[test]
        fn vectors_come_back_bit_for_bit(bits in proptest::collection::vec(any::<u32>(), 0..50)) {
            let vector: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            let mut raw = Vec::new();
            super::vector(&vector, PgvectorType::Vector, &mut raw);
            let back: Vec<u32> = values(&raw).unwrap().iter().map(|v| v.to_bits()).collect();
            prop_assert_eq!(back, vector.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_a_vector_or_none(raw in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = values(&raw);
        }
    }

    #[test]
    fn what_jsonb_would_change_is_known() {
        for same in [json!(1), json!(u64::MAX), json!(0.1), json!(3.0), json!("text"), json!({"a": [null, true]})] {
            assert!(!changes(&same), "{same}");
        }
        for other in [json!(-0.0), json!(1e17), json!(-2.5e-300), json!("a\u{0}b"), json!([{"k\u{0}": 1}])] {
            assert!(changes(&other), "{other}");
        }
    }
}
