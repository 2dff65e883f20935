//! `[target]`: where the vectors are served from. What every database has stands in [`TargetSettings`] itself, what only
//! one has in a table of its own, whose keys are all optional: what is absent is as the snapshot recorded it, or else the
//! database's own default.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::secret::SecretRef;

/// `[target]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetSettings {
    /// Which database.
    pub kind: TargetKind,
    /// Directory of the embedded database.
    #[serde(default)]
    pub path: Option<String>,
    /// Where the server is: scheme, host, port.
    #[serde(default)]
    pub url: Option<String>,
    /// API key or token.
    #[serde(default)]
    pub api_key: Option<SecretRef>,
    /// User name, where the database has users.
    #[serde(default)]
    pub user: Option<String>,
    /// The user's password.
    #[serde(default)]
    pub password: Option<SecretRef>,
    /// PEM file with further certificate authorities, relative to the pipeline file.
    #[serde(default)]
    pub ca_file: Option<String>,
    /// Longest wait for an answer, such as `60s`; building an index and loading wait as long as it takes.
    #[serde(default)]
    pub timeout: Option<String>,
    /// Writes under way at once; what suits the database when absent.
    #[serde(default)]
    pub writers: Option<usize>,
    /// Most bytes in one write; what suits the database when absent.
    #[serde(default)]
    pub batch_bytes: Option<usize>,
    /// Database in the server, where it has several.
    #[serde(default)]
    pub database: Option<String>,
    /// Production name of the collection; the pipeline's name when absent.
    #[serde(default)]
    pub collection: Option<String>,
    /// Index parameters.
    #[serde(default)]
    pub index: IndexSettings,
    /// Payload fields that get an index, and their type. `document_id`, `tenant` and `acl` always get one.
    #[serde(default)]
    pub payload_indexes: BTreeMap<String, FieldType>,
    /// Whether a passing restore becomes the production collection.
    #[serde(default)]
    pub promote: PromotePolicy,
    /// Whether the collection that was served before is kept, for a way back.
    #[serde(default = "yes")]
    pub keep_previous: bool,
    /// What only Qdrant has.
    #[serde(default)]
    pub qdrant: Option<QdrantSettings>,
    /// What only pgvector has.
    #[serde(default)]
    pub pgvector: Option<PgvectorSettings>,
    /// What only Weaviate has.
    #[serde(default)]
    pub weaviate: Option<WeaviateSettings>,
    /// What only Milvus has.
    #[serde(default)]
    pub milvus: Option<MilvusSettings>,
    /// What only Chroma has.
    #[serde(default)]
    pub chroma: Option<ChromaSettings>,
    /// What only Pinecone has.
    #[serde(default)]
    pub pinecone: Option<PineconeSettings>,
}

fn yes() -> bool {
    true
}

impl TargetSettings {
    /// A target of this kind, with defaults for everything else.
    pub fn new(kind: TargetKind) -> Self {
        Self {
            kind,
            path: None,
            url: None,
            api_key: None,
            user: None,
            password: None,
            ca_file: None,
            timeout: None,
            writers: None,
            batch_bytes: None,
            database: None,
            collection: None,
            index: IndexSettings::default(),
            payload_indexes: BTreeMap::new(),
            promote: PromotePolicy::default(),
            keep_previous: true,
            qdrant: None,
            pgvector: None,
            weaviate: None,
            milvus: None,
            chroma: None,
            pinecone: None,
        }
    }

    /// Longest wait for an answer.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] for what is no time.
    pub fn timeout(&self) -> Result<Duration> {
        let Some(text) = &self.timeout else { return Ok(Duration::from_secs(60)) };
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let seconds = match (digits.parse::<u64>(), &text[digits.len()..]) {
            (Ok(n), "s") => Some(n),
            (Ok(n), "m") => n.checked_mul(60),
            _ => None,
        };
        seconds.filter(|n| (1..=86_400).contains(n)).map(Duration::from_secs).ok_or_else(|| {
            Error::new(ErrorKind::Configuration, "this is no time to wait")
                .with("timeout", text)
                .guidance("write it like 60s or 5m")
        })
    }

    /// What the table of this kind sets, as JSON: only keys that are there. It overrides what a snapshot recorded.
    pub fn own(&self) -> Map<String, Value> {
        fn json<T: Serialize>(table: &Option<T>) -> Map<String, Value> {
            match table.as_ref().map(serde_json::to_value) {
                Some(Ok(Value::Object(map))) => map.into_iter().filter(|(_, value)| !value.is_null()).collect(),
                // These tables hold texts, numbers and lists of texts: nothing that JSON cannot say.
                _ => Map::new(),
            }
        }
        match self.kind {
            TargetKind::Embedded | TargetKind::Memory => Map::new(),
            TargetKind::Qdrant => json(&self.qdrant),
            TargetKind::Pgvector => json(&self.pgvector),
            TargetKind::Weaviate => json(&self.weaviate),
            TargetKind::Milvus => json(&self.milvus),
            TargetKind::Chroma => json(&self.chroma),
            TargetKind::Pinecone => json(&self.pinecone),
        }
    }

    /// The kinds whose tables are there.
    pub(crate) fn tables(&self) -> Vec<TargetKind> {
        [
            (TargetKind::Qdrant, self.qdrant.is_some()),
            (TargetKind::Pgvector, self.pgvector.is_some()),
            (TargetKind::Weaviate, self.weaviate.is_some()),
            (TargetKind::Milvus, self.milvus.is_some()),
            (TargetKind::Chroma, self.chroma.is_some()),
            (TargetKind::Pinecone, self.pinecone.is_some()),
        ]
        .into_iter()
        .filter_map(|(kind, there)| there.then_some(kind))
        .collect()
    }
}

/// A vector database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    /// Qdrant's engine in process, in a directory.
    Embedded,
    /// In memory, gone when the process ends: for tests and measurements.
    Memory,
    /// A Qdrant server.
    Qdrant,
    /// PostgreSQL with the extension pgvector.
    Pgvector,
    /// A Weaviate server.
    Weaviate,
    /// A Milvus server.
    Milvus,
    /// A Chroma server.
    Chroma,
    /// Pinecone's service.
    Pinecone,
}

impl TargetKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Embedded,
        Self::Memory,
        Self::Qdrant,
        Self::Pgvector,
        Self::Weaviate,
        Self::Milvus,
        Self::Chroma,
        Self::Pinecone,
    ];

    /// Lower-case name, as in pipeline files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Memory => "memory",
            Self::Qdrant => "qdrant",
            Self::Pgvector => "pgvector",
            Self::Weaviate => "weaviate",
            Self::Milvus => "milvus",
            Self::Chroma => "chroma",
            Self::Pinecone => "pinecone",
        }
    }

    /// Whether it is a server of its own, with a URL.
    pub fn is_server(self) -> bool {
        !matches!(self, Self::Embedded | Self::Memory)
    }

    /// What its URL looks like; empty where it has none.
    pub fn url_example(self) -> &'static str {
        match self {
            Self::Embedded | Self::Memory => "",
            Self::Qdrant => "http://127.0.0.1:6334",
            Self::Pgvector => "postgresql://127.0.0.1:5432",
            Self::Weaviate => "http://127.0.0.1:8080",
            Self::Milvus => "http://127.0.0.1:19530",
            Self::Chroma => "http://127.0.0.1:8000",
            Self::Pinecone => "https://api.pinecone.io",
        }
    }

    /// Schemes that its URL can have; those that end in `s` or `verify-full` use TLS.
    pub(crate) fn schemes(self) -> &'static [&'static str] {
        match self {
            Self::Embedded | Self::Memory => &[],
            // `postgresqls` as `https`: PostgreSQL's own URLs say it in the query, which ours have not.
            Self::Pgvector => &["postgresql", "postgres", "postgresqls"],
            Self::Qdrant | Self::Weaviate | Self::Milvus | Self::Chroma | Self::Pinecone => &["http", "https"],
        }
    }

    /// Keys of `[target]` that only some kinds have, and whether this one has them.
    pub(crate) fn takes(self, key: &str) -> bool {
        match key {
            "path" => self == Self::Embedded,
            "url" | "timeout" | "writers" | "batch_bytes" | "ca_file" => self.is_server(),
            "api_key" => matches!(self, Self::Qdrant | Self::Weaviate | Self::Milvus | Self::Chroma | Self::Pinecone),
            "user" | "password" => matches!(self, Self::Pgvector | Self::Milvus | Self::Weaviate),
            "database" => matches!(self, Self::Pgvector | Self::Milvus | Self::Chroma),
            _ => true,
        }
    }
}

/// `[target.qdrant]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QdrantSettings {
    /// Shards of the collection.
    pub shards: Option<u32>,
    /// Copies of each shard.
    pub replication_factor: Option<u32>,
    /// Copies that must have a write before it is confirmed.
    pub write_consistency: Option<u32>,
    /// Name of the vector; unnamed when absent.
    pub vector_name: Option<String>,
    /// Vectors stay on disk, read as needed.
    pub on_disk: Option<bool>,
    /// The graph stays on disk.
    pub hnsw_on_disk: Option<bool>,
    /// Payload stays on disk.
    pub payload_on_disk: Option<bool>,
    /// `scalar`, `binary`, or `product`; none when absent.
    pub quantization: Option<String>,
    /// The quantized vectors stay in memory.
    pub quantization_in_memory: Option<bool>,
    /// Optimizer threads of a build; 0 means as many as the server has.
    pub optimizer_threads: Option<u32>,
}

/// `[target.pgvector]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PgvectorSettings {
    /// Schema of the tables; `public` when absent.
    pub schema: Option<String>,
    /// Type of the vectors: `vector` when absent.
    #[serde(rename = "type")]
    pub vector_type: Option<PgvectorType>,
    /// Kind of the index: `hnsw` when absent.
    pub index: Option<PgvectorIndex>,
    /// IVFFlat: lists; from the number of points when absent.
    pub lists: Option<u32>,
    /// IVFFlat: lists that a search looks into; the square root of `lists` when absent.
    pub probes: Option<u32>,
    /// Partitions by the hash of the tenant; one table when absent or 0.
    pub partitions: Option<u32>,
    /// What a build of the index may use, such as `2GB` (`maintenance_work_mem`); from the size of the graph when absent.
    pub maintenance_memory: Option<String>,
    /// How the production name points at a table: `view` when absent.
    pub switch: Option<PgvectorSwitch>,
    /// Row-level security: statements after `CREATE POLICY name ON table`, by name.
    pub policies: Option<BTreeMap<String, String>>,
}

/// Type of a column of vectors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PgvectorType {
    /// 32-bit floats, up to 2,000 dimensions with an index.
    #[default]
    Vector,
    /// 16-bit floats, up to 4,000 dimensions with an index: values are rounded.
    Halfvec,
}

/// Kind of pgvector's index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PgvectorIndex {
    /// A graph.
    #[default]
    Hnsw,
    /// Lists around centres.
    Ivfflat,
}

/// How a production name of pgvector points at a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PgvectorSwitch {
    /// A view of that name, replaced in a transaction.
    #[default]
    View,
    /// The tables are renamed in a transaction: the one served has the production name.
    Rename,
}

/// `[target.weaviate]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WeaviateSettings {
    /// Where gRPC is, such as `http://127.0.0.1:50051`; the URL's host with port 50051 when absent.
    pub grpc_url: Option<String>,
    /// Each tenant in a shard of its own.
    pub multi_tenancy: Option<bool>,
    /// Shards of the class; as many as nodes when absent.
    pub shards: Option<u32>,
    /// Copies of each shard.
    pub replication_factor: Option<u32>,
    /// Name of the vector; the class's own when absent.
    pub vector_name: Option<String>,
    /// `bq`, `pq`, `sq` or `rq`; none when absent.
    pub quantization: Option<String>,
}

/// `[target.milvus]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MilvusSettings {
    /// Shards of the collection.
    pub shards: Option<u32>,
    /// The tenant is the partition key: this many partitions.
    pub partitions: Option<u32>,
    /// `strong`, `bounded`, `session` or `eventually`.
    pub consistency: Option<String>,
    /// Directory or URL of the bucket that the server imports files from; without it points are inserted.
    pub import_url: Option<String>,
    /// Replicas in memory.
    pub replicas: Option<u32>,
}

/// `[target.chroma]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChromaSettings {
    /// Chroma's own tenant, the owner of databases; `default_tenant` when absent.
    pub tenant: Option<String>,
}

/// `[target.pinecone]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PineconeSettings {
    /// `aws`, `gcp` or `azure`.
    pub cloud: Option<String>,
    /// Region of the cloud.
    pub region: Option<String>,
    /// Address of the index, where it is not to be asked for.
    pub host: Option<String>,
    /// A namespace per tenant.
    pub namespaces: Option<bool>,
    /// URL of the bucket that Pinecone imports files from; without it points are upserted.
    pub import_url: Option<String>,
    /// Id of the storage integration for that bucket.
    pub import_integration: Option<String>,
    /// Whether the index refuses to be deleted.
    pub deletion_protection: Option<bool>,
}

/// When a restored collection becomes the production collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromotePolicy {
    /// After every check has passed.
    #[default]
    OnPass,
    /// Only when asked for.
    Never,
}

/// `[target.index]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IndexSettings {
    /// HNSW: links per node.
    pub m: u32,
    /// HNSW: candidates while building.
    pub ef_construct: u32,
    /// HNSW: candidates while searching.
    pub ef_search: u32,
    /// Build threads; 0 means one per core.
    pub threads: usize,
}

impl Default for IndexSettings {
    fn default() -> Self {
        Self { m: 16, ef_construct: 128, ef_search: 128, threads: 0 }
    }
}

/// Type of a payload field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldType {
    /// Exact text values, or lists of them.
    Keyword,
    /// Whole numbers.
    Integer,
    /// Floating-point numbers.
    Float,
    /// True or false.
    Bool,
    /// RFC 3339 times.
    Datetime,
}
