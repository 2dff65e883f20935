//! Payload indexes: their types and parameters, as JSON and in the protocol's words.
#![expect(deprecated, reason = "servers before 1.19 know only these fields")]

use std::collections::BTreeMap;

use qdrant_client::qdrant as q;
use qdrant_client::qdrant::payload_index_params::IndexParams;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::filter;
use super::own::mirrored;
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::FieldType;
use crate::targets::types::field;

mirrored! {
    /// Exact texts.
    Keyword = KeywordIndexParams { is_tenant: bool, on_disk: bool, enable_hnsw: bool }
}
mirrored! {
    /// Whole numbers.
    Integer = IntegerIndexParams { lookup: bool, range: bool, is_principal: bool, on_disk: bool, enable_hnsw: bool }
}
mirrored! {
    /// Floats.
    Float = FloatIndexParams { on_disk: bool, is_principal: bool, enable_hnsw: bool }
}
mirrored! {
    /// True and false.
    Bool = BoolIndexParams { on_disk: bool, enable_hnsw: bool }
}
mirrored! {
    /// Times.
    Datetime = DatetimeIndexParams { on_disk: bool, is_principal: bool, enable_hnsw: bool }
}
mirrored! {
    /// UUIDs.
    Uuid = UuidIndexParams { is_tenant: bool, on_disk: bool, enable_hnsw: bool }
}
mirrored! {
    /// Places.
    Geo = GeoIndexParams { on_disk: bool, enable_hnsw: bool }
}
mirrored! {
    /// Words. Its tokenizer stands beside; stop words and stemmers are not taken over.
    Text = TextIndexParams {
        lowercase: bool,
        min_token_len: u64,
        max_token_len: u64,
        on_disk: bool,
        phrase_matching: bool,
        ascii_folding: bool,
        enable_hnsw: bool,
    }
}

/// Where the server holds an index, from 1.19 on.
const MEMORY: &str = "memory";
/// Of indexes that regrow has no type for.
const TYPE: &str = "type";
const TOKENIZER: &str = "tokenizer";
/// Present and true where a text index has more than can be said here.
const MORE: &str = "stop_words_or_stemmer";

/// Parameters by their field, and further indexes by theirs.
pub(super) type Parameters = BTreeMap<String, Map<String, Value>>;

/// What the server says about payload indexes.
#[derive(Debug, Default)]
pub(super) struct Indexes {
    pub(super) types: BTreeMap<String, FieldType>,
    pub(super) parameters: Parameters,
    pub(super) others: Parameters,
}

fn json(value: &impl Serialize, memory: Option<i32>) -> Map<String, Value> {
    let mut fields = match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    if let Some(memory) = memory.and_then(|memory| q::Memory::try_from(memory).ok()) {
        fields.insert(MEMORY.to_owned(), memory.as_str_name().into());
    }
    fields
}

fn parameters(params: Option<&q::PayloadIndexParams>) -> Map<String, Value> {
    match params.and_then(|params| params.index_params.as_ref()) {
        None => Map::new(),
        Some(IndexParams::KeywordIndexParams(p)) => json(&Keyword::read(p), p.memory),
        Some(IndexParams::IntegerIndexParams(p)) => json(&Integer::read(p), p.memory),
        Some(IndexParams::FloatIndexParams(p)) => json(&Float::read(p), p.memory),
        Some(IndexParams::BoolIndexParams(p)) => json(&Bool::read(p), p.memory),
        Some(IndexParams::DatetimeIndexParams(p)) => json(&Datetime::read(p), p.memory),
        Some(IndexParams::UuidIndexParams(p)) => json(&Uuid::read(p), p.memory),
        Some(IndexParams::GeoIndexParams(p)) => json(&Geo::read(p), p.memory),
        Some(IndexParams::TextIndexParams(p)) => {
            let mut fields = json(&Text::read(p), p.memory);
            fields.insert(TOKENIZER.to_owned(), p.tokenizer().as_str_name().into());
            if p.stopwords.is_some() || p.stemmer.is_some() {
                fields.insert(MORE.to_owned(), true.into());
            }
            fields
        }
    }
}

/// The indexes as the server tells them.
pub(super) fn read(schema: &std::collections::HashMap<String, q::PayloadSchemaInfo>) -> Indexes {
    let mut out = Indexes::default();
    for (path, info) in schema {
        let kind = match info.data_type() {
            q::PayloadSchemaType::Keyword => Some(FieldType::Keyword),
            q::PayloadSchemaType::Integer => Some(FieldType::Integer),
            q::PayloadSchemaType::Float => Some(FieldType::Float),
            q::PayloadSchemaType::Bool => Some(FieldType::Bool),
            q::PayloadSchemaType::Datetime => Some(FieldType::Datetime),
            _ => None,
        };
        let mut fields = parameters(info.params.as_ref());
        match (kind, filter::field_name(path)) {
            (Some(kind), Some(name)) => {
                if !fields.is_empty() {
                    out.parameters.insert(name.clone(), fields);
                }
                out.types.insert(name, kind);
            }
            _ => {
                fields.insert(TYPE.to_owned(), info.data_type().as_str_name().to_lowercase().into());
                out.others.insert(path.clone(), fields);
            }
        }
    }
    out
}

/// Reads parameters, and takes out what is no parameter of this kind of index.
fn parse<T: for<'a> Deserialize<'a>>(field: &str, fields: &Map<String, Value>) -> Result<T> {
    serde_json::from_value(Value::Object(fields.clone())).map_err(|e| {
        Error::new(ErrorKind::Configuration, "a parameter of a payload index cannot be read")
            .with("field", field)
            .guidance("it was recorded from the live collection; make the snapshot again")
            .because(e)
    })
}

/// The request that makes an index. What it cannot say is added to `said`.
fn request(
    collection: &str,
    path: String,
    kind: &str,
    mut fields: Map<String, Value>,
    said: &mut Vec<String>,
) -> Result<Option<q::CreateFieldIndexCollection>> {
    let memory = match fields.remove(MEMORY) {
        Some(Value::String(name)) => q::Memory::from_str_name(&name).map(i32::from),
        _ => None,
    };
    let tokenizer = fields.remove(TOKENIZER);
    if fields.remove(MORE).is_some() {
        said.push(format!("the stop words and the stemmer of the payload index on {path}"));
    }
    let unknown;
    macro_rules! params {
        ($mirror:ident, $variant:ident) => {{
            let read: $mirror = parse(&path, &fields)?;
            unknown = read.unknown.clone();
            let mut message = read.write();
            message.memory = memory;
            IndexParams::$variant(message)
        }};
    }
    let (field_type, params) = match kind {
        "keyword" => (q::FieldType::Keyword, params!(Keyword, KeywordIndexParams)),
        "integer" => (q::FieldType::Integer, params!(Integer, IntegerIndexParams)),
        "float" => (q::FieldType::Float, params!(Float, FloatIndexParams)),
        "bool" => (q::FieldType::Bool, params!(Bool, BoolIndexParams)),
        "datetime" => (q::FieldType::Datetime, params!(Datetime, DatetimeIndexParams)),
        "uuid" => (q::FieldType::Uuid, params!(Uuid, UuidIndexParams)),
        "geo" => (q::FieldType::Geo, params!(Geo, GeoIndexParams)),
        "text" => {
            let mut params = params!(Text, TextIndexParams);
            if let IndexParams::TextIndexParams(message) = &mut params {
                let name = tokenizer.as_ref().and_then(Value::as_str).unwrap_or_default();
                message.tokenizer = q::TokenizerType::from_str_name(name).unwrap_or(q::TokenizerType::Word).into();
            }
            (q::FieldType::Text, params)
        }
        other => {
            said.push(format!("the payload index on {path}: regrow does not know its type, {other}"));
            return Ok(None);
        }
    };
    said.extend(unknown.into_iter().map(|(key, _)| format!("{key} of the payload index on {path}: not known")));
    // Without parameters Qdrant keeps the type alone, and so it stays what `describe` said.
    let params = (!fields.is_empty() || memory.is_some() || kind == "text").then_some(params);
    Ok(Some(q::CreateFieldIndexCollection {
        collection_name: collection.to_owned(),
        wait: Some(true),
        field_name: path,
        field_type: Some(field_type.into()),
        field_index_params: params.map(|params| q::PayloadIndexParams { index_params: Some(params) }),
        ..q::CreateFieldIndexCollection::default()
    }))
}

fn kind_name(kind: FieldType) -> &'static str {
    match kind {
        FieldType::Keyword => "keyword",
        FieldType::Integer => "integer",
        FieldType::Float => "float",
        FieldType::Bool => "bool",
        FieldType::Datetime => "datetime",
    }
}

/// The requests that make the indexes of a specification, and what they cannot say. Points of one tenant are to lie together.
pub(super) fn requests(
    collection: &str,
    types: &BTreeMap<String, FieldType>,
    recorded: Option<&Parameters>,
    others: Option<&Parameters>,
) -> Result<(Vec<q::CreateFieldIndexCollection>, Vec<String>)> {
    let (mut out, mut said) = (Vec::new(), Vec::new());
    for (name, kind) in types {
        let mut fields = recorded.and_then(|recorded| recorded.get(name)).cloned().unwrap_or_default();
        if name == field::TENANT && *kind == FieldType::Keyword && !fields.contains_key("is_tenant") {
            fields.insert("is_tenant".to_owned(), true.into());
        }
        let path = filter::field_path(name)?;
        out.extend(request(collection, path, kind_name(*kind), fields, &mut said)?);
    }
    for (path, fields) in others.into_iter().flatten() {
        let mut fields = fields.clone();
        let kind = fields.remove(TYPE).and_then(|kind| kind.as_str().map(str::to_owned)).unwrap_or_default();
        out.extend(request(collection, path.clone(), &kind, fields, &mut said)?);
    }
    Ok((out, said))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn echo(requests: &[q::CreateFieldIndexCollection]) -> std::collections::HashMap<String, q::PayloadSchemaInfo> {
        let info = |request: &q::CreateFieldIndexCollection| q::PayloadSchemaInfo {
            // The two lists of types have the same names in another numbering.
            data_type: q::PayloadSchemaType::from_str_name(
                request.field_type().as_str_name().strip_prefix("FieldType").unwrap(),
            )
            .unwrap()
            .into(),
            params: request.field_index_params.clone(),
            points: Some(0),
        };
        requests.iter().map(|request| (request.field_name.clone(), info(request))).collect()
    }

    #[test]
    fn what_is_made_is_read_again() {
        let types = BTreeMap::from([
            ("tenant".to_owned(), FieldType::Keyword),
            ("metadata.year".to_owned(), FieldType::Integer),
            ("metadata.when".to_owned(), FieldType::Datetime),
        ]);
        let fields = |value: Value| value.as_object().unwrap().clone();
        let recorded = BTreeMap::from([
            ("tenant".to_owned(), fields(json!({"is_tenant": true, "on_disk": true}))),
            ("metadata.year".to_owned(), fields(json!({"lookup": true, "range": false, "memory": "Cold"}))),
        ]);
        let others = BTreeMap::from([
            ("place".to_owned(), fields(json!({"type": "geo", "on_disk": true}))),
            ("body".to_owned(), fields(json!({"type": "text", "tokenizer": "Multilingual", "lowercase": true}))),
            ("tags[].id".to_owned(), fields(json!({"type": "uuid"}))),
        ]);
        let (made, said) = requests("c", &types, Some(&recorded), Some(&others)).unwrap();
        assert!(said.is_empty(), "{said:?}");
        let read = read(&echo(&made));
        assert_eq!((read.types, read.parameters, read.others), (types.clone(), recorded, others));

        let strange = BTreeMap::from([("tenant".to_owned(), fields(json!({"odd": 1})))]);
        let unknown = BTreeMap::from([("x".to_owned(), fields(json!({"type": "hologram"})))]);
        let (made, said) = requests("c", &types, Some(&strange), Some(&unknown)).unwrap();
        assert_eq!((made.len(), said.len()), (3, 2), "{said:?}");
    }
}
