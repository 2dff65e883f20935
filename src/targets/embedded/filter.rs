//! Filters and payload indexes in the engine's words.

use qdrant_edge::external::ordered_float::OrderedFloat;
use qdrant_edge::{
    BoolIndexParams, Condition, DatetimeIndexParams, FieldCondition, Filter, FloatIndexParams, IntegerIndexParams,
    JsonPath, KeywordIndexParams, Match, PayloadFieldSchema, PayloadSchemaParams, Range,
};

use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::FieldType;
use crate::targets::filter::{Checked, Scalar};
use crate::targets::types::field;

/// The engine's path for the keys of a field; every key is quoted, so that any character is only itself.
pub(super) fn json_path(keys: &[String]) -> Result<JsonPath> {
    let quoted: Vec<String> = keys.iter().map(|key| format!("\"{key}\"")).collect();
    quoted.join(".").parse().map_err(|()| {
        Error::new(ErrorKind::Configuration, "the embedded target cannot address this payload field")
            .with("field", keys.join("."))
    })
}

/// `None` when every point passes.
pub(super) fn filter(checked: &[Checked]) -> Result<Option<Filter>> {
    if checked.is_empty() {
        return Ok(None);
    }
    Ok(Some(Filter { must: Some(checked.iter().map(condition).collect::<Result<_>>()?), ..Filter::default() }))
}

fn condition(checked: &Checked) -> Result<Condition> {
    match checked {
        Checked::AnyOf { path, values } => {
            let path = json_path(path)?;
            let mut each: Vec<Condition> = values
                .iter()
                .map(|value| {
                    let value = match value {
                        Scalar::Text(s) => Match::from(s.clone()),
                        Scalar::Whole(n) => Match::from(*n),
                        Scalar::Bool(b) => Match::from(*b),
                    };
                    Condition::Field(FieldCondition::new_match(path.clone(), value))
                })
                .collect();
            if each.len() == 1
                && let Some(only) = each.pop()
            {
                return Ok(only);
            }
            Ok(Condition::Filter(Filter { should: Some(each), ..Filter::default() }))
        }
        Checked::Range { path, min, max } => {
            let range = Range { gte: min.map(OrderedFloat), lte: max.map(OrderedFloat), lt: None, gt: None };
            Ok(Condition::Field(FieldCondition::new_range(json_path(path)?, range)))
        }
    }
}

/// The index of a payload field; on disk once the collection's index is built.
pub(super) fn schema(name: &str, kind: FieldType) -> PayloadFieldSchema {
    let on_disk = Some(true);
    PayloadFieldSchema::FieldParams(match kind {
        FieldType::Keyword => PayloadSchemaParams::Keyword(KeywordIndexParams {
            on_disk,
            // Points of one tenant lie together on disk.
            is_tenant: (name == field::TENANT).then_some(true),
            ..KeywordIndexParams::default()
        }),
        FieldType::Integer => {
            PayloadSchemaParams::Integer(IntegerIndexParams { on_disk, ..IntegerIndexParams::default() })
        }
        FieldType::Float => PayloadSchemaParams::Float(FloatIndexParams { on_disk, ..FloatIndexParams::default() }),
        FieldType::Bool => PayloadSchemaParams::Bool(BoolIndexParams { on_disk, ..BoolIndexParams::default() }),
        FieldType::Datetime => {
            PayloadSchemaParams::Datetime(DatetimeIndexParams { on_disk, ..DatetimeIndexParams::default() })
        }
    })
}
