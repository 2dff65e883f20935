//! The protocol's words in the engine's, and back. What has no counterpart here is refused.

use std::collections::HashMap;

use qdrant_client::qdrant as q;
use qdrant_client::qdrant::value::Kind;
use qdrant_edge::external::ordered_float::OrderedFloat;
use qdrant_edge::*;
use serde_json::{Map, Value};
use tonic::Status;

use super::shard::Operation;

/// The server's codes: what is wrong with the request, and what is wrong with the server.
pub fn failed(error: OperationError) -> Status {
    match error {
        OperationError::WrongVectorDimension { .. }
        | OperationError::VectorNameNotExists { .. }
        | OperationError::ValidationError { .. }
        | OperationError::TypeError { .. }
        | OperationError::MissingMapIndexForFacet { .. } => Status::invalid_argument(error.to_string()),
        other => Status::internal(other.to_string()),
    }
}

fn not_here(what: &str) -> Status {
    Status::unimplemented(format!("the double does not serve {what}"))
}

pub fn id(id: Option<&q::PointId>) -> Result<PointId, Status> {
    match id.and_then(|id| id.point_id_options.as_ref()) {
        Some(q::point_id::PointIdOptions::Num(number)) => Ok(PointId::NumId(*number)),
        Some(q::point_id::PointIdOptions::Uuid(text)) => uuid::Uuid::parse_str(text)
            .map(PointId::Uuid)
            .map_err(|_| Status::invalid_argument(format!("Unable to parse UUID: {text}"))),
        None => Err(Status::invalid_argument("Empty point id is not allowed")),
    }
}

pub fn id_back(id: PointId) -> q::PointId {
    let options = match id {
        PointId::NumId(number) => q::point_id::PointIdOptions::Num(number),
        PointId::Uuid(id) => q::point_id::PointIdOptions::Uuid(id.to_string()),
    };
    q::PointId { point_id_options: Some(options) }
}

pub fn json(value: q::Value) -> Result<Value, Status> {
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::DoubleValue(n)) => serde_json::Number::from_f64(n)
            .map(Value::Number)
            .ok_or_else(|| Status::invalid_argument("cannot convert to json number"))?,
        Some(Kind::IntegerValue(n)) => n.into(),
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::BoolValue(b)) => b.into(),
        Some(Kind::StructValue(fields)) => Value::Object(object(fields.fields)?),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(json).collect::<Result<Vec<_>, _>>()?.into(),
    })
}

pub fn object(fields: HashMap<String, q::Value>) -> Result<Map<String, Value>, Status> {
    fields.into_iter().map(|(key, value)| Ok((key, json(value)?))).collect()
}

pub fn json_back(value: Value) -> q::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(b) => Kind::BoolValue(b),
        Value::Number(n) => n.as_i64().map_or_else(|| Kind::DoubleValue(n.as_f64().unwrap()), Kind::IntegerValue),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(items) => Kind::ListValue(q::ListValue { values: items.into_iter().map(json_back).collect() }),
        Value::Object(fields) => Kind::StructValue(q::Struct { fields: object_back(fields) }),
    };
    q::Value { kind: Some(kind) }
}

pub fn object_back(fields: Map<String, Value>) -> HashMap<String, q::Value> {
    fields.into_iter().map(|(key, value)| (key, json_back(value))).collect()
}

pub fn path(text: &str) -> Result<JsonPath, Status> {
    text.parse().map_err(|()| Status::invalid_argument(format!("Invalid json path: '{text}'")))
}

pub fn filter(filter: &q::Filter) -> Result<Filter, Status> {
    if filter.min_should.is_some() {
        return Err(not_here("min_should"));
    }
    let all = |conditions: &[q::Condition]| -> Result<Option<Vec<Condition>>, Status> {
        let all = conditions.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
        Ok((!all.is_empty()).then_some(all))
    };
    Ok(Filter {
        must: all(&filter.must)?,
        should: all(&filter.should)?,
        must_not: all(&filter.must_not)?,
        ..Filter::default()
    })
}

pub fn maybe_filter(given: Option<&q::Filter>) -> Result<Option<Filter>, Status> {
    given.map(filter).transpose()
}

fn condition(given: &q::Condition) -> Result<Condition, Status> {
    use q::condition::ConditionOneOf;
    match given.condition_one_of.as_ref() {
        Some(ConditionOneOf::HasId(ids)) => {
            let ids = ids.has_id.iter().map(|one| id(Some(one))).collect::<Result<Vec<_>, _>>()?;
            Ok(Condition::HasId(ids.into_iter().collect()))
        }
        Some(ConditionOneOf::Filter(nested)) => Ok(Condition::Filter(filter(nested)?)),
        Some(ConditionOneOf::Field(field)) => {
            let served = q::FieldCondition {
                key: field.key.clone(),
                r#match: field.r#match.clone(),
                range: field.range,
                ..q::FieldCondition::default()
            };
            super::only(field, &served)?;
            let key = path(&field.key)?;
            match (&field.r#match, &field.range) {
                (Some(value), None) => {
                    use q::r#match::MatchValue;
                    let value = match &value.match_value {
                        Some(MatchValue::Keyword(text)) => Match::from(text.clone()),
                        Some(MatchValue::Integer(n)) => Match::from(*n),
                        Some(MatchValue::Boolean(b)) => Match::from(*b),
                        _ => return Err(not_here("this kind of match")),
                    };
                    Ok(Condition::Field(FieldCondition::new_match(key, value)))
                }
                (None, Some(range)) => {
                    let of = |bound: Option<f64>| bound.map(OrderedFloat);
                    let range = Range { lt: of(range.lt), gt: of(range.gt), gte: of(range.gte), lte: of(range.lte) };
                    Ok(Condition::Field(FieldCondition::new_range(key, range)))
                }
                _ => Err(not_here("this condition on a field")),
            }
        }
        _ => Err(not_here("this condition")),
    }
}

fn dense(vector: &q::Vector) -> Result<Vec<f32>, Status> {
    let Some(q::vector::Vector::Dense(dense)) = &vector.vector else { return Err(not_here("this kind of vector")) };
    let served = q::Vector { vector: vector.vector.clone(), ..q::Vector::default() };
    super::only(vector, &served)?;
    Ok(dense.data.clone())
}

fn point(given: &q::PointStruct) -> Result<PointStructPersisted, Status> {
    use q::vectors::VectorsOptions;
    let vector = match given.vectors.as_ref().and_then(|vectors| vectors.vectors_options.as_ref()) {
        Some(VectorsOptions::Vector(vector)) => VectorStructPersisted::Single(dense(vector)?),
        Some(VectorsOptions::Vectors(named)) => {
            let each = named
                .vectors
                .iter()
                .map(|(name, vector)| Ok((name.as_str().into(), VectorPersisted::Dense(dense(vector)?))));
            VectorStructPersisted::Named(each.collect::<Result<_, Status>>()?)
        }
        None => return Err(Status::invalid_argument("Expected some vectors")),
    };
    let payload = object(given.payload.clone())?;
    Ok(PointStructPersisted { id: id(given.id.as_ref())?, vector, payload: Some(Payload(payload)) })
}

/// Whether a request can be translated, which the server knows before it answers.
pub fn check(points: &[q::PointStruct]) -> Result<(), Status> {
    points.iter().try_for_each(|given| point(given).map(drop))
}

pub fn schema(request: &q::CreateFieldIndexCollection) -> Result<PayloadFieldSchema, Status> {
    use q::payload_index_params::IndexParams;
    let kind = match request.field_type() {
        q::FieldType::Keyword => PayloadSchemaType::Keyword,
        q::FieldType::Integer => PayloadSchemaType::Integer,
        q::FieldType::Float => PayloadSchemaType::Float,
        q::FieldType::Bool => PayloadSchemaType::Bool,
        q::FieldType::Datetime => PayloadSchemaType::Datetime,
        q::FieldType::Uuid => PayloadSchemaType::Uuid,
        _ => return Err(not_here("this type of payload index")),
    };
    let Some(params) = request.field_index_params.as_ref().and_then(|params| params.index_params.as_ref()) else {
        return Ok(PayloadFieldSchema::FieldType(kind));
    };
    macro_rules! params {
        ($variant:ident, $mine:ident, $given:expr, [$($field:ident),*]) => {{
            let served = q::$mine { $($field: $given.$field,)* ..q::$mine::default() };
            super::only($given, &served)?;
            PayloadSchemaParams::$variant($mine { $($field: $given.$field,)* ..$mine::default() })
        }};
    }
    #[expect(deprecated, reason = "the fields of this version")]
    let params = match params {
        IndexParams::KeywordIndexParams(p) => {
            params!(Keyword, KeywordIndexParams, p, [is_tenant, on_disk, enable_hnsw])
        }
        IndexParams::IntegerIndexParams(p) => {
            params!(Integer, IntegerIndexParams, p, [lookup, range, is_principal, on_disk, enable_hnsw])
        }
        IndexParams::FloatIndexParams(p) => params!(Float, FloatIndexParams, p, [is_principal, on_disk, enable_hnsw]),
        IndexParams::BoolIndexParams(p) => params!(Bool, BoolIndexParams, p, [on_disk, enable_hnsw]),
        IndexParams::DatetimeIndexParams(p) => {
            params!(Datetime, DatetimeIndexParams, p, [is_principal, on_disk, enable_hnsw])
        }
        IndexParams::UuidIndexParams(p) => params!(Uuid, UuidIndexParams, p, [is_tenant, on_disk, enable_hnsw]),
        _ => return Err(not_here("these parameters of a payload index")),
    };
    if params.kind() != kind {
        return Err(Status::invalid_argument("field_type and field_index_params do not match"));
    }
    Ok(PayloadFieldSchema::FieldParams(params))
}

/// Applies an operation of the log.
pub fn apply(engine: &EdgeShard, operation: &Operation) -> Result<(), Status> {
    let update = if let Some(upsert) = &operation.upsert {
        let points = upsert.points.iter().map(point).collect::<Result<Vec<_>, _>>()?;
        UpdateOperation::PointOperation(PointOperations::UpsertPoints(PointInsertOperations::PointsList(points)))
    } else if let Some(request) = &operation.delete_payload {
        let Some(q::points_selector::PointsSelectorOneOf::Filter(given)) =
            request.points_selector.as_ref().and_then(|selector| selector.points_selector_one_of.as_ref())
        else {
            return Err(not_here("this selector of points"));
        };
        let keys = request.keys.iter().map(|key| path(key)).collect::<Result<_, _>>()?;
        let operation = DeletePayloadOp { keys, points: None, filter: Some(filter(given)?) };
        UpdateOperation::PayloadOperation(PayloadOps::DeletePayload(operation))
    } else if let Some(request) = &operation.index {
        let (field_name, field_schema) = (path(&request.field_name)?, Some(schema(request)?));
        UpdateOperation::FieldIndexOperation(FieldIndexOperations::CreateIndex(CreateIndex {
            field_name,
            field_schema,
        }))
    } else if let Some(request) = &operation.delete {
        let Some(q::points_selector::PointsSelectorOneOf::Points(list)) =
            request.points.as_ref().and_then(|selector| selector.points_selector_one_of.as_ref())
        else {
            return Err(not_here("this selector of points"));
        };
        let ids = list.ids.iter().map(|one| id(Some(one))).collect::<Result<_, _>>()?;
        UpdateOperation::PointOperation(PointOperations::DeletePoints { ids })
    } else {
        return Err(not_here("an empty operation"));
    };
    engine.update(update).map_err(failed)
}

fn vector_back(vector: Vec<f32>) -> q::VectorOutput {
    let dense = q::vector_output::Vector::Dense(q::DenseVector { data: vector });
    q::VectorOutput { vector: Some(dense), ..q::VectorOutput::default() }
}

pub fn record_back(record: Record) -> Result<q::RetrievedPoint, Status> {
    use q::vectors_output::VectorsOptions;
    let options = match record.vector {
        None => None,
        Some(VectorStructInternal::Single(vector)) => Some(VectorsOptions::Vector(vector_back(vector))),
        Some(VectorStructInternal::Named(named)) => {
            let mut vectors = HashMap::new();
            for (name, vector) in named {
                let VectorInternal::Dense(vector) = vector else { return Err(not_here("this kind of vector")) };
                vectors.insert(name.to_string(), vector_back(vector));
            }
            match vectors.remove("") {
                Some(unnamed) => Some(VectorsOptions::Vector(unnamed)),
                None => Some(VectorsOptions::Vectors(q::NamedVectorsOutput { vectors })),
            }
        }
        Some(VectorStructInternal::MultiDense(_)) => return Err(not_here("this kind of vector")),
    };
    Ok(q::RetrievedPoint {
        id: Some(id_back(record.id)),
        payload: record.payload.map(|payload| object_back(payload.0)).unwrap_or_default(),
        vectors: options.map(|options| q::VectorsOutput { vectors_options: Some(options) }),
        ..q::RetrievedPoint::default()
    })
}

pub fn payload_wanted(selector: Option<&q::WithPayloadSelector>) -> Result<bool, Status> {
    match selector.and_then(|selector| selector.selector_options.as_ref()) {
        None => Ok(false),
        Some(q::with_payload_selector::SelectorOptions::Enable(enable)) => Ok(*enable),
        Some(_) => Err(not_here("a choice of payload fields")),
    }
}

pub fn vectors_wanted(selector: Option<&q::WithVectorsSelector>) -> WithVector {
    match selector.and_then(|selector| selector.selector_options.as_ref()) {
        None => WithVector::Bool(false),
        Some(q::with_vectors_selector::SelectorOptions::Enable(enable)) => WithVector::Bool(*enable),
        Some(q::with_vectors_selector::SelectorOptions::Include(names)) => {
            WithVector::Selector(names.names.iter().map(|name| name.as_str().into()).collect())
        }
    }
}
