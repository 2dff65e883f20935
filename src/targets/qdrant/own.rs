//! Qdrant's own parameters: as `[target.qdrant]` and `describe` say them in JSON, and as the protocol does.
#![expect(deprecated, reason = "servers before 1.19 know only these fields")]

use std::collections::BTreeMap;

use qdrant_client::qdrant as q;
use qdrant_client::qdrant::quantization_config::Quantization;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Version;
use crate::error::{Error, ErrorKind, Result};

/// Parameters that are numbers and flags in a message of the protocol; what is absent is the server's default.
macro_rules! mirrored {
    ($(#[$doc:meta])* $name:ident = $message:ident { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub(super) struct $name {
            $(#[serde(skip_serializing_if = "Option::is_none")] pub(super) $field: Option<$type>,)*
            /// What is not known here.
            #[serde(flatten)]
            pub(super) unknown: Map<String, Value>,
        }

        impl $name {
            pub(super) fn read(message: &q::$message) -> Self {
                Self { $($field: message.$field,)* unknown: Map::new() }
            }

            #[allow(clippy::needless_update, reason = "some messages have no further field")]
            pub(super) fn write(&self) -> q::$message {
                q::$message { $($field: self.$field,)* ..q::$message::default() }
            }
        }
    };
}
pub(super) use mirrored;

mirrored! {
    /// When segments are merged, indexed and flushed.
    Optimizers = OptimizersConfigDiff {
        deleted_threshold: f64,
        vacuum_min_vector_number: u64,
        default_segment_number: u64,
        max_segment_size: u64,
        memmap_threshold: u64,
        indexing_threshold: u64,
        flush_interval_sec: u64,
        prevent_unoptimized: bool,
    }
}

mirrored! {
    /// The log.
    Wal = WalConfigDiff { wal_capacity_mb: u64, wal_segments_ahead: u64, wal_retain_closed: u64 }
}

mirrored! {
    /// Limits for other clients.
    Strict = StrictModeConfig {
        enabled: bool,
        max_query_limit: u32,
        max_timeout: u32,
        unindexed_filtering_retrieve: bool,
        unindexed_filtering_update: bool,
        search_max_hnsw_ef: u32,
        search_allow_exact: bool,
        search_max_oversampling: f32,
        upsert_max_batchsize: u64,
        search_max_batchsize: u64,
        max_collection_vector_size_bytes: u64,
        read_rate_limit: u32,
        write_rate_limit: u32,
        max_collection_payload_size_bytes: u64,
        filter_max_conditions: u64,
        condition_max_size: u64,
        max_points_count: u64,
        max_payload_index_count: u64,
        max_resident_memory_percent: u32,
    }
}

macro_rules! own {
    ($($(#[$doc:meta])* $field:ident: $type:ty),* $(,)?) => {
        /// All of them; absent ones are the server's defaults.
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub(super) struct Own {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub(super) $field: Option<$type>,)*
        }

        const KEYS: &[&str] = &[$(stringify!($field)),*];
    };
}

own! {
    // The keys of `[target.qdrant]`.
    shards: u32,
    replication_factor: u32,
    write_consistency: u32,
    vector_name: String,
    on_disk: bool,
    hnsw_on_disk: bool,
    payload_on_disk: bool,
    quantization: String,
    quantization_in_memory: bool,
    optimizer_threads: u32,
    // What only `describe` writes.
    /// `Float16`, `Uint8`, …
    datatype: String,
    full_scan_threshold: u64,
    payload_m: u64,
    inline_storage: bool,
    /// Of scalar quantization.
    quantile: f32,
    /// Of product quantization.
    compression: String,
    /// Of binary quantization.
    encoding: String,
    query_encoding: String,
    /// Of turbo quantization.
    bits: String,
    optimizers: Optimizers,
    /// Optimizations at once; as many as the server's cores take when absent.
    max_optimization_threads: u64,
    wal: Wal,
    strict_mode: Strict,
    read_fan_out_factor: u32,
    read_fan_out_delay_ms: u64,
    /// Where the server holds `vectors`, `graph`, `payload`, `quantization` and `ids`.
    memory: BTreeMap<String, String>,
    /// Parameters of payload indexes, by field.
    payload_index_parameters: BTreeMap<String, Map<String, Value>>,
    /// Payload indexes that regrow has no type for: `type`, and parameters.
    other_payload_indexes: BTreeMap<String, Map<String, Value>>,
    /// Shards are chosen by whoever writes.
    custom_sharding: bool,
    /// Further vectors of each point.
    other_vectors: Vec<String>,
}

/// A value of the protocol by its name.
fn named<T>(key: &'static str, name: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| {
        Error::new(ErrorKind::Configuration, "Qdrant has no such value")
            .with("key", key)
            .with("value", name)
            .guidance("correct `[target.qdrant]`; `docs/qdrant.md` has the values")
    })
}

impl Own {
    /// The parameters, and the keys that are none.
    pub(super) fn parse(own: &Map<String, Value>) -> Result<(Self, Vec<String>)> {
        let (known, unknown): (Map<String, Value>, Map<String, Value>) =
            own.clone().into_iter().partition(|(key, _)| KEYS.contains(&key.as_str()));
        let parsed = serde_path_to_error::deserialize::<_, Self>(Value::Object(known)).map_err(|e| {
            Error::new(ErrorKind::Configuration, "a parameter for Qdrant cannot be read")
                .with("key", format!("qdrant.{}", e.path()))
                .guidance("correct `[target.qdrant]` in the pipeline file")
                .because(e.into_inner())
        })?;
        Ok((parsed, unknown.into_iter().map(|(key, _)| key).collect()))
    }

    pub(super) fn to_json(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(mut map)) => {
                map.retain(|_, value| value.as_object().is_none_or(|fields| !fields.is_empty()));
                map
            }
            // Texts, numbers and maps by text: JSON has them all.
            _ => Map::new(),
        }
    }

    /// Keys inside the tables that are not known, and those that this server would pass over without a word.
    pub(super) fn unsupported(&self, version: Version) -> Vec<String> {
        let mut said = Vec::new();
        let tables = [
            ("optimizers", self.optimizers.as_ref().map(|t| &t.unknown)),
            ("wal", self.wal.as_ref().map(|t| &t.unknown)),
            ("strict_mode", self.strict_mode.as_ref().map(|t| &t.unknown)),
        ];
        for (table, unknown) in tables {
            said.extend(
                unknown.into_iter().flatten().map(|(key, _)| format!("{table}.{key}: Qdrant has no such parameter")),
            );
        }
        let mut since = |there: bool, what: &str, minor: u32| {
            if there && version < Version(1, minor) {
                said.push(format!("{what}: this server is too old for it (Qdrant 1.{minor} has it)"));
            }
        };
        since(
            self.optimizers.as_ref().is_some_and(|o| o.prevent_unoptimized.is_some()),
            "optimizers.prevent_unoptimized",
            17,
        );
        since(self.read_fan_out_delay_ms.is_some(), "read_fan_out_delay_ms", 17);
        since(self.quantization.as_deref() == Some("turbo"), "quantization = turbo", 18);
        since(self.memory.is_some(), "memory", 19);
        since(self.datatype.as_deref().is_some_and(|d| d.starts_with("Turbo")), "a turbo datatype", 19);
        if self.custom_sharding == Some(true) {
            said.push("custom sharding: regrow lets Qdrant choose the shard by the point's id".to_owned());
        }
        said.extend(
            self.other_vectors
                .iter()
                .flatten()
                .map(|name| format!("the vector {name:?}: regrow makes one vector for each point")),
        );
        said
    }

    pub(super) fn memory(&self, part: &str) -> Result<Option<i32>> {
        let Some(name) = self.memory.as_ref().and_then(|memory| memory.get(part)) else { return Ok(None) };
        named("memory", name, q::Memory::from_str_name(name)).map(|value| Some(value.into()))
    }

    pub(super) fn datatype(&self) -> Result<Option<i32>> {
        let Some(name) = &self.datatype else { return Ok(None) };
        named("datatype", name, q::Datatype::from_str_name(name)).map(|value| Some(value.into()))
    }

    /// Quantization, as the protocol has it.
    pub(super) fn quantization(&self) -> Result<Option<q::QuantizationConfig>> {
        let (always_ram, memory) = (self.quantization_in_memory, self.memory("quantization")?);
        let Some(kind) = self.quantization.as_deref() else { return Ok(None) };
        let quantization = match kind {
            "scalar" => Quantization::Scalar(q::ScalarQuantization {
                r#type: q::QuantizationType::Int8.into(),
                quantile: self.quantile,
                always_ram,
                memory,
            }),
            "product" => {
                let name = self.compression.as_deref().unwrap_or("x16");
                let compression = named("compression", name, q::CompressionRatio::from_str_name(name))?.into();
                Quantization::Product(q::ProductQuantization { compression, always_ram, memory })
            }
            "binary" => {
                let encoding = self.encoding.as_deref().map(|name| {
                    named("encoding", name, q::BinaryQuantizationEncoding::from_str_name(name)).map(i32::from)
                });
                let query = self.query_encoding.as_deref().map(|name| {
                    use q::binary_quantization_query_encoding::{Setting, Variant};
                    let setting = named("query_encoding", name, Setting::from_str_name(name))?.into();
                    Ok::<_, Error>(q::BinaryQuantizationQueryEncoding { variant: Some(Variant::Setting(setting)) })
                });
                let (encoding, query_encoding) = (encoding.transpose()?, query.transpose()?);
                Quantization::Binary(q::BinaryQuantization { always_ram, encoding, query_encoding, memory })
            }
            "turbo" => {
                let bits = self
                    .bits
                    .as_deref()
                    .map(|name| named("bits", name, q::TurboQuantBitSize::from_str_name(name)).map(i32::from));
                Quantization::Turboquant(q::TurboQuantization { always_ram, bits: bits.transpose()?, memory })
            }
            other => return named("quantization", other, None),
        };
        Ok(Some(q::QuantizationConfig { quantization: Some(quantization) }))
    }

    /// What the server says about quantization.
    pub(super) fn read_quantization(&mut self, config: Option<&q::QuantizationConfig>) {
        use q::binary_quantization_query_encoding::Variant;
        let (kind, always_ram, memory) = match config.and_then(|config| config.quantization.as_ref()) {
            None => return,
            Some(Quantization::Scalar(scalar)) => {
                self.quantile = scalar.quantile;
                ("scalar", scalar.always_ram, scalar.memory)
            }
            Some(Quantization::Product(product)) => {
                self.compression = Some(product.compression().as_str_name().to_owned());
                ("product", product.always_ram, product.memory)
            }
            Some(Quantization::Binary(binary)) => {
                self.encoding = binary.encoding.map(|_| binary.encoding().as_str_name().to_owned());
                self.query_encoding = binary.query_encoding.as_ref().and_then(|query| match query.variant {
                    Some(Variant::Setting(setting)) => {
                        let setting = q::binary_quantization_query_encoding::Setting::try_from(setting).ok()?;
                        Some(setting.as_str_name().to_owned())
                    }
                    None => None,
                });
                ("binary", binary.always_ram, binary.memory)
            }
            Some(Quantization::Turboquant(turbo)) => {
                self.bits = turbo.bits.map(|_| turbo.bits().as_str_name().to_owned());
                ("turbo", turbo.always_ram, turbo.memory)
            }
        };
        self.quantization = Some(kind.to_owned());
        self.quantization_in_memory = always_ram;
        self.read_memory("quantization", memory);
    }

    pub(super) fn read_memory(&mut self, part: &str, memory: Option<i32>) {
        if let Some(memory) = memory.and_then(|memory| q::Memory::try_from(memory).ok()) {
            self.memory.get_or_insert_default().insert(part.to_owned(), memory.as_str_name().to_owned());
        }
    }
}

/// Optimizations at once: as many as given, or as the server finds right.
pub(super) fn optimization_threads(threads: Option<u64>) -> q::MaxOptimizationThreads {
    use q::max_optimization_threads::{Setting, Variant};
    let variant = match threads {
        Some(threads) => Variant::Value(threads),
        None => Variant::Setting(Setting::Auto.into()),
    };
    q::MaxOptimizationThreads { variant: Some(variant) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(fields) => fields,
            other => panic!("{other} is no object"),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for quantization in [
            json!({"quantization": "scalar", "quantile": 0.75, "quantization_in_memory": true}),
            json!({"quantization": "product", "compression": "x8"}),
            json!({"quantization": "binary", "encoding": "TwoBits", "query_encoding": "Scalar8Bits"}),
            json!({"quantization": "turbo", "bits": "Bits2", "memory": {"quantization": "Pinned"}}),
        ] {
            let (own, unknown) = Own::parse(&object(quantization.clone())).unwrap();
            assert!(unknown.is_empty());
            let mut read = Own::default();
            read.read_quantization(own.quantization().unwrap().as_ref());
            assert_eq!(Value::Object(read.to_json()), quantization);
        }
        let optimizers = json!({"deleted_threshold": 0.25, "indexing_threshold": 0, "flush_interval_sec": 5});
        let (own, _) = Own::parse(&object(json!({"optimizers": optimizers, "shards": 3}))).unwrap();
        assert_eq!(Optimizers::read(&own.optimizers.as_ref().unwrap().write()), own.optimizers.clone().unwrap());
        assert_eq!(Value::Object(own.to_json()), json!({"optimizers": optimizers, "shards": 3}));
    }

    #[test]
    fn what_is_not_known_is_said() {
        let own =
            json!({"strange": 1, "optimizers": {"odd": true, "prevent_unoptimized": true}, "other_vectors": ["b"]});
        let (own, unknown) = Own::parse(&object(own)).unwrap();
        assert_eq!(unknown, ["strange"]);
        let said = own.unsupported(Version(1, 16)).join("\n");
        for word in ["optimizers.odd", "1.17", "\"b\""] {
            assert!(said.contains(word), "{said}");
        }
        assert!(!own.unsupported(Version(1, 17)).join("\n").contains("1.17"));
        for wrong in [json!({"shards": "many"}), json!({"optimizers": {"indexing_threshold": -1}})] {
            assert_eq!(Own::parse(&object(wrong)).unwrap_err().kind(), ErrorKind::Configuration);
        }
        let (own, _) = Own::parse(&object(json!({"quantization": "none"}))).unwrap();
        assert_eq!(own.quantization().unwrap_err().kind(), ErrorKind::Configuration);
    }

    #[test]
    fn the_keys_of_the_pipeline_are_known() {
        let settings = crate::pipeline::QdrantSettings::default();
        let Ok(Value::Object(keys)) = serde_json::to_value(settings) else { panic!("a table") };
        assert!(keys.keys().all(|key| KEYS.contains(&key.as_str())), "{keys:?}");
    }
}
