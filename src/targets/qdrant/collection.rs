//! A collection at the server: how it is made, what it says about itself, and what regrow writes in its metadata.
#![expect(deprecated, reason = "servers before 1.19 know only these fields")]

use std::collections::HashMap;

use qdrant_client::qdrant as q;
use qdrant_client::qdrant::value::Kind;
use qdrant_client::qdrant::vectors_config::Config;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::own::{Optimizers, Own, Strict, Wal, optimization_threads};
use super::{Version, indexes};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Metric;
use crate::pipeline::IndexSettings;
use crate::targets::checks;
use crate::targets::types::*;

/// The marker, as JSON. It is written last: a collection that has [`BUILDING`] instead is not there yet.
pub(super) const MARKER: &str = "regrow_marker";
/// The instance of a collection that is being made.
pub(super) const BUILDING: &str = "regrow_building";
/// What Qdrant has no place for, as JSON: see [`Spec`].
pub(super) const SPEC: &str = "regrow_spec";
/// What the collection gets once it is loaded, as JSON: see [`AfterLoad`]. It is taken away when the index is built.
pub(super) const AFTER_LOAD: &str = "regrow_after_load";

/// Most values of a vector that Qdrant takes.
const MOST_DIMENSIONS: usize = 65_536;
/// Kilobytes of vectors from which a segment gets a graph, where the server does not say.
const INDEXING_THRESHOLD: u64 = 10_000;

/// Candidates of a search are no parameter of a collection.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Spec {
    pub(super) ef_search: Option<u32>,
}

/// What a collection gets once it is loaded, and had before or is to have.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct AfterLoad {
    /// Kilobytes of vectors from which a segment gets a graph. While points are loaded it is 0: none does.
    pub(super) indexing_threshold: u64,
    /// Optimizations at once, as many as the server finds right when absent: while the index is built `build_threads`.
    pub(super) max_optimization_threads: Option<u64>,
    pub(super) build_threads: Option<u64>,
    /// Limits that could stop a load.
    pub(super) strict_mode: Option<Strict>,
    /// The index was asked for.
    pub(super) started: bool,
}

/// A text in the metadata.
pub(super) fn text(value: &impl Serialize) -> Result<q::Value> {
    let text = serde_json::to_string(value)
        .map_err(|e| Error::new(ErrorKind::Unexpected, "what is to stand on a collection is no JSON").because(e))?;
    Ok(q::Value { kind: Some(Kind::StringValue(text)) })
}

/// What takes a field out of the metadata.
pub(super) fn nothing() -> q::Value {
    q::Value { kind: Some(Kind::NullValue(0)) }
}

fn distance(metric: Metric) -> q::Distance {
    match metric {
        Metric::Cosine => q::Distance::Cosine,
        Metric::Dot => q::Distance::Dot,
        Metric::Euclidean => q::Distance::Euclid,
    }
}

/// Whether a collection can be made from this at all.
pub(super) fn servable(spec: &CollectionSpec) -> Result<(Own, Vec<String>)> {
    checks::spec(spec)?;
    let (own, unknown) = Own::parse(&spec.own)?;
    if spec.dimension > MOST_DIMENSIONS {
        return Err(Error::new(ErrorKind::Configuration, "Qdrant cannot hold vectors of so many values")
            .with("dimension", spec.dimension)
            .with("most", MOST_DIMENSIONS)
            .guidance("embed with fewer dimensions"));
    }
    own.quantization()?;
    own.datatype()?;
    for part in ["vectors", "graph", "payload", "ids"] {
        own.memory(part)?;
    }
    Ok((own, unknown))
}

/// What of the specification cannot be had.
pub(super) fn unsupported(spec: &CollectionSpec, version: Version) -> Result<Vec<String>> {
    let (own, unknown) = servable(spec)?;
    let mut said: Vec<String> = unknown.iter().map(|key| format!("{key}: Qdrant has no such parameter")).collect();
    said.extend(own.unsupported(version));
    let (_, indexes) = indexes::requests(
        &spec.name,
        &spec.payload_indexes,
        own.payload_index_parameters.as_ref(),
        own.other_payload_indexes.as_ref(),
    )?;
    said.extend(indexes);
    said.extend(
        spec.roles
            .iter()
            .map(|role| format!("the rights of {}: Qdrant keeps no roles, tokens say what they may do", role.name)),
    );
    Ok(said)
}

/// The request that makes a collection.
pub(super) fn creation(spec: &CollectionSpec, own: &Own) -> Result<q::CreateCollection> {
    let params = q::VectorParams {
        size: spec.dimension as u64,
        distance: distance(spec.metric).into(),
        on_disk: own.on_disk,
        datatype: own.datatype()?,
        memory: own.memory("vectors")?,
        ..q::VectorParams::default()
    };
    let config = match &own.vector_name {
        None => Config::Params(params),
        Some(name) => Config::ParamsMap(q::VectorParamsMap { map: [(name.clone(), params)].into() }),
    };
    let optimizers = q::OptimizersConfigDiff {
        max_optimization_threads: own.max_optimization_threads.map(|n| optimization_threads(Some(n))),
        ..own.optimizers.as_ref().map(Optimizers::write).unwrap_or_default()
    };
    Ok(q::CreateCollection {
        collection_name: spec.name.clone(),
        hnsw_config: Some(q::HnswConfigDiff {
            m: Some(spec.index.m.into()),
            ef_construct: Some(spec.index.ef_construct.into()),
            full_scan_threshold: own.full_scan_threshold,
            max_indexing_threads: Some(spec.index.threads as u64),
            on_disk: own.hnsw_on_disk,
            payload_m: own.payload_m,
            inline_storage: own.inline_storage,
            memory: own.memory("graph")?,
        }),
        wal_config: own.wal.as_ref().map(Wal::write),
        optimizers_config: Some(optimizers),
        shard_number: own.shards,
        on_disk_payload: own.payload_on_disk,
        vectors_config: Some(q::VectorsConfig { config: Some(config) }),
        replication_factor: own.replication_factor,
        write_consistency_factor: own.write_consistency,
        quantization_config: own.quantization()?,
        metadata: [(BUILDING.to_owned(), text(&spec.marker.instance)?)].into(),
        payload: own.memory("payload")?.map(|memory| q::PayloadStorageParams { memory: Some(memory) }),
        id_tracker: own.memory("ids")?.map(|memory| q::IdTrackerParams { memory: Some(memory) }),
        ..q::CreateCollection::default()
    })
}

/// The request that finishes a collection: from then on it is there, and builds no index until it is asked to.
pub(super) fn completion(spec: &CollectionSpec, own: &Own, made: &Remote) -> Result<q::UpdateCollection> {
    let optimizers = made.optimizers();
    let after = AfterLoad {
        indexing_threshold: optimizers.indexing_threshold.unwrap_or(INDEXING_THRESHOLD),
        max_optimization_threads: made.max_optimization_threads(),
        build_threads: own.optimizer_threads.filter(|n| *n > 0).map(u64::from),
        strict_mode: own.strict_mode.clone(),
        started: false,
    };
    let fan_out = own.read_fan_out_factor.is_some() || own.read_fan_out_delay_ms.is_some();
    Ok(q::UpdateCollection {
        collection_name: spec.name.clone(),
        optimizers_config: Some(q::OptimizersConfigDiff {
            indexing_threshold: Some(0),
            ..q::OptimizersConfigDiff::default()
        }),
        params: fan_out.then(|| q::CollectionParamsDiff {
            read_fan_out_factor: own.read_fan_out_factor,
            read_fan_out_delay_ms: own.read_fan_out_delay_ms,
            ..q::CollectionParamsDiff::default()
        }),
        metadata: HashMap::from([
            (MARKER.to_owned(), text(&spec.marker)?),
            (SPEC.to_owned(), text(&Spec { ef_search: Some(spec.index.ef_search) })?),
            (AFTER_LOAD.to_owned(), text(&after)?),
            (BUILDING.to_owned(), nothing()),
        ]),
        ..q::UpdateCollection::default()
    })
}

/// Changes fields of a collection's metadata, and nothing else.
pub(super) fn edit<const N: usize>(name: &str, fields: [(&str, q::Value); N]) -> q::UpdateCollection {
    q::UpdateCollection {
        collection_name: name.to_owned(),
        metadata: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        ..q::UpdateCollection::default()
    }
}

/// A collection, as the server tells it.
#[derive(Debug, Clone)]
pub(super) struct Remote {
    pub(super) name: String,
    /// Production names, sorted.
    pub(super) aliases: Vec<String>,
    pub(super) info: q::CollectionInfo,
}

/// What reads and writes have to know.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) dimension: usize,
    pub(super) metric: Metric,
    pub(super) vector_name: Option<String>,
    pub(super) ef_search: u32,
    /// Most points in one answer, where the collection limits them.
    pub(super) most: Option<usize>,
}

impl Remote {
    fn config(&self) -> q::CollectionConfig {
        self.info.config.clone().unwrap_or_default()
    }

    fn optimizers(&self) -> q::OptimizersConfigDiff {
        self.config().optimizer_config.unwrap_or_default()
    }

    /// `None`: as many as the server finds right.
    fn max_optimization_threads(&self) -> Option<u64> {
        let optimizers = self.optimizers();
        match optimizers.max_optimization_threads.and_then(|threads| threads.variant) {
            Some(q::max_optimization_threads::Variant::Value(threads)) => Some(threads),
            _ => optimizers.deprecated_max_optimization_threads,
        }
    }

    fn said<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let metadata = self.info.config.as_ref().map(|config| &config.metadata);
        let Some(Some(Kind::StringValue(text))) = metadata.and_then(|m| m.get(key)).map(|value| &value.kind) else {
            return Ok(None);
        };
        serde_json::from_str(text).map(Some).map_err(|e| {
            Error::new(ErrorKind::Target, "what regrow wrote on the collection cannot be read")
                .with("collection", &self.name)
                .with("field", key)
                .guidance("another version of regrow may have written it; or delete the collection by hand")
                .because(e)
        })
    }

    pub(super) fn marker(&self) -> Result<Option<Marker>> {
        self.said(MARKER)
    }

    pub(super) fn after_load(&self) -> Result<Option<AfterLoad>> {
        self.said(AFTER_LOAD)
    }

    /// Somebody is making it, or was stopped while doing so.
    pub(super) fn unfinished(&self) -> Result<Option<Uuid>> {
        match self.marker()? {
            Some(_) => Ok(None),
            None => self.said(BUILDING),
        }
    }

    /// The marker, which must be of this instance.
    pub(super) fn held_by(&self, instance: Uuid) -> Result<Marker> {
        let marker = self.marker()?.ok_or_else(|| checks::not_owned(&self.name))?;
        checks::same_instance(&self.name, instance, marker.instance)?;
        Ok(marker)
    }

    /// The vector that regrow works with: the unnamed one, or the first that is no multivector; and the others.
    fn vectors(&self) -> Result<(Option<String>, q::VectorParams, Vec<String>)> {
        let none = || {
            Error::new(ErrorKind::Target, "the collection holds no vectors that regrow can read")
                .with("collection", &self.name)
                .guidance("regrow reads dense vectors; choose another collection")
        };
        let params = self.config().params.unwrap_or_default();
        let sparse = params.sparse_vectors_config.map(|sparse| sparse.map).unwrap_or_default();
        let mut others: Vec<String> = sparse.into_keys().collect();
        let (name, chosen) = match params.vectors_config.and_then(|config| config.config) {
            Some(Config::Params(params)) if params.multivector_config.is_none() => (None, params),
            Some(Config::ParamsMap(map)) => {
                let mut named: Vec<(String, q::VectorParams)> = map.map.into_iter().collect();
                named.sort_by(|a, b| {
                    (a.1.multivector_config.is_some(), &a.0).cmp(&(b.1.multivector_config.is_some(), &b.0))
                });
                let mut named = named.into_iter();
                let (name, params) = named.next().filter(|(_, p)| p.multivector_config.is_none()).ok_or_else(none)?;
                others.extend(named.map(|(name, _)| name));
                (Some(name), params)
            }
            _ => return Err(none()),
        };
        others.sort_unstable();
        Ok((name, chosen, others))
    }

    fn metric(&self, params: &q::VectorParams) -> Result<Metric> {
        match params.distance() {
            q::Distance::Cosine => Ok(Metric::Cosine),
            q::Distance::Dot => Ok(Metric::Dot),
            q::Distance::Euclid => Ok(Metric::Euclidean),
            other => Err(Error::new(ErrorKind::Target, "the collection has a distance that regrow does not know")
                .with("collection", &self.name)
                .with("distance", other.as_str_name())
                .guidance("regrow knows Cosine, Dot and Euclid; choose another collection")),
        }
    }

    /// Of the whole collection, with what the vector has for itself over it.
    fn hnsw(&self, vector: &q::VectorParams) -> q::HnswConfigDiff {
        let all = self.config().hnsw_config.unwrap_or_default();
        let own = vector.hnsw_config.unwrap_or_default();
        q::HnswConfigDiff {
            m: own.m.or(all.m),
            ef_construct: own.ef_construct.or(all.ef_construct),
            full_scan_threshold: own.full_scan_threshold.or(all.full_scan_threshold),
            max_indexing_threads: own.max_indexing_threads.or(all.max_indexing_threads),
            on_disk: own.on_disk.or(all.on_disk),
            payload_m: own.payload_m.or(all.payload_m),
            inline_storage: own.inline_storage.or(all.inline_storage),
            memory: own.memory.or(all.memory),
        }
    }

    pub(super) fn shape(&self) -> Result<Shape> {
        let (vector_name, params, _) = self.vectors()?;
        let default = self.hnsw(&params).ef_construct.and_then(|ef| u32::try_from(ef).ok());
        let spec = self.said::<Spec>(SPEC)?.unwrap_or_default();
        let limits = self.config().strict_mode_config.filter(|strict| strict.enabled == Some(true));
        Ok(Shape {
            most: limits.and_then(|limits| usize::try_from(limits.max_query_limit?).ok()),
            dimension: usize::try_from(params.size).unwrap_or(usize::MAX),
            metric: self.metric(&params)?,
            vector_name,
            // What Qdrant itself takes where a search does not say.
            ef_search: spec.ef_search.or(default).unwrap_or(IndexSettings::default().ef_search),
        })
    }

    fn own(&self, vector: &q::VectorParams, indexes: &indexes::Indexes) -> Result<Own> {
        let config = self.config();
        let params = config.params.clone().unwrap_or_default();
        let (hnsw, (name, _, others)) = (self.hnsw(vector), self.vectors()?);
        let (mut optimizers, mut threads) = (Optimizers::read(&self.optimizers()), self.max_optimization_threads());
        let mut strict = config.strict_mode_config.as_ref().map(Strict::read).filter(|s| s.enabled == Some(true));
        if let Some(after) = self.after_load()? {
            optimizers.indexing_threshold = Some(after.indexing_threshold);
            threads = after.max_optimization_threads;
            strict = after.strict_mode;
        }
        let mut own = Own {
            shards: Some(params.shard_number),
            replication_factor: params.replication_factor,
            write_consistency: params.write_consistency_factor,
            vector_name: name,
            on_disk: vector.on_disk,
            hnsw_on_disk: hnsw.on_disk,
            payload_on_disk: Some(params.on_disk_payload),
            datatype: vector.datatype.filter(|d| *d != 0).map(|_| vector.datatype().as_str_name().to_owned()),
            full_scan_threshold: hnsw.full_scan_threshold,
            payload_m: hnsw.payload_m,
            inline_storage: hnsw.inline_storage,
            optimizers: Some(optimizers),
            max_optimization_threads: threads,
            wal: config.wal_config.as_ref().map(Wal::read),
            strict_mode: strict,
            read_fan_out_factor: params.read_fan_out_factor,
            read_fan_out_delay_ms: params.read_fan_out_delay_ms,
            payload_index_parameters: (!indexes.parameters.is_empty()).then(|| indexes.parameters.clone()),
            other_payload_indexes: (!indexes.others.is_empty()).then(|| indexes.others.clone()),
            custom_sharding: (params.sharding_method() == q::ShardingMethod::Custom).then_some(true),
            other_vectors: (!others.is_empty()).then_some(others),
            ..Own::default()
        };
        own.read_quantization(vector.quantization_config.as_ref().or(config.quantization_config.as_ref()));
        own.read_memory("vectors", vector.memory);
        own.read_memory("graph", hnsw.memory);
        own.read_memory("payload", params.payload.and_then(|p| p.memory));
        own.read_memory("ids", params.id_tracker.and_then(|p| p.memory));
        Ok(own)
    }

    pub(super) fn info(&self, count: u64, tenants: Option<u64>) -> Result<CollectionInfo> {
        let (_, params, _) = self.vectors()?;
        let (shape, hnsw) = (self.shape()?, self.hnsw(&params));
        let indexes = indexes::read(&self.info.payload_schema);
        let number =
            |value: Option<u64>, otherwise: u32| value.and_then(|n| u32::try_from(n).ok()).unwrap_or(otherwise);
        let default = IndexSettings::default();
        let own = self.own(&params, &indexes)?.to_json();
        Ok(CollectionInfo {
            name: self.name.clone(),
            aliases: self.aliases.clone(),
            dimension: shape.dimension,
            metric: shape.metric,
            index: IndexSettings {
                m: number(hnsw.m, default.m),
                ef_construct: number(hnsw.ef_construct, default.ef_construct),
                ef_search: shape.ef_search,
                threads: hnsw.max_indexing_threads.and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
            },
            payload_indexes: indexes.types,
            count,
            tenants: Tenants { count: tenants, kept: TenantKeeping::Payload },
            roles: Vec::new(),
            own,
            marker: self.marker()?,
        })
    }

    /// Whether tenants can be counted by an index.
    pub(super) fn knows_tenants(&self) -> bool {
        self.info
            .payload_schema
            .get(field::TENANT)
            .is_some_and(|info| info.data_type() == q::PayloadSchemaType::Keyword)
    }
}
