//! What a pipeline file holds. Unknown keys are errors; every default is written here once.

mod target;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::embed::Device;
use crate::model::Dtype;
use crate::secret::SecretRef;

pub use self::target::*;

/// A complete pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// Name of the pipeline: groups snapshots, and is the default collection name.
    pub name: String,
    /// Where the documents are.
    pub corpus: CorpusSettings,
    /// How they are cut.
    #[serde(default)]
    pub chunking: ChunkingSettings,
    /// What turns chunks into vectors.
    #[serde(default)]
    pub model: ModelSettings,
    /// Whether the documents themselves go into the repository.
    #[serde(default)]
    pub capture: CaptureSettings,
    /// Where snapshots and vector sets are kept.
    pub repository: RepositorySettings,
    /// How long snapshots are kept.
    #[serde(default)]
    pub retention: RetentionSettings,
    /// Where the vectors are served from.
    pub target: TargetSettings,
    /// How a restore is checked.
    #[serde(default)]
    pub validation: ValidationSettings,
    /// What a drill must reach.
    #[serde(default)]
    pub drill: DrillSettings,
}

/// What to do with a document that cannot be read, decoded or parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadDocument {
    /// Stop the run with an error that names it.
    #[default]
    Fail,
    /// Leave it out, name it and count it.
    Skip,
}

/// `[corpus]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusSettings {
    /// A directory or an object-store URL (`file://`, `s3://`, `gs://`, `az://`).
    pub url: String,
    /// Globs of paths to take; empty means every path with a known extension.
    #[serde(default)]
    pub include: Vec<String>,
    /// Globs of paths to leave out.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Whether names that begin with a dot are taken.
    #[serde(default)]
    pub hidden: bool,
    /// Character encoding of text files (a WHATWG label); detected when absent.
    #[serde(default)]
    pub encoding: Option<String>,
    /// What to do with bad documents.
    #[serde(default)]
    pub on_bad_document: OnBadDocument,
    /// Largest document, in bytes; a larger one is a bad document.
    #[serde(default = "default_max_document_bytes")]
    pub max_document_bytes: u64,
    /// A pattern of path segments such as `{product}/{version}/**`: named segments become metadata;
    /// `{tenant}` becomes the tenant.
    #[serde(default)]
    pub path_metadata: Option<String>,
    /// How record files are read; the first entry whose globs match a path is used.
    #[serde(default)]
    pub records: Vec<RecordSettings>,
    /// Settings of the object store, keys as `object_store` names them; secrets by reference. Never recorded: where
    /// the corpus is is the pipeline's to say.
    #[serde(default, skip_serializing_if = "StoreSettings::is_empty")]
    pub store: StoreSettings,
}

/// Settings of an object store: `endpoint`, `region`, `access_key_id` and so on. Values of secret keys are
/// references (`env:NAME`, `file:PATH`, `cmd:COMMAND`); others may be.
pub type StoreSettings = BTreeMap<String, String>;

fn default_max_document_bytes() -> u64 {
    256 << 20
}

/// Format of a record file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordFormat {
    /// One JSON object per line.
    Jsonl,
    /// Comma-separated values with a header line.
    Csv,
    /// Apache Parquet.
    Parquet,
}

/// `[[corpus.records]]`: files that hold one document per record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordSettings {
    /// Globs of the files.
    pub include: Vec<String>,
    /// Format; by the file's extension when absent.
    #[serde(default)]
    pub format: Option<RecordFormat>,
    /// Field with the record's id. Dots reach into objects: `doc.id`.
    pub id: String,
    /// Fields whose texts are joined by a blank line.
    pub text: Vec<String>,
    /// Structure of the text.
    #[serde(default)]
    pub markup: Markup,
    /// Field with the title.
    #[serde(default)]
    pub title: Option<String>,
    /// Field with the tenant.
    #[serde(default)]
    pub tenant: Option<String>,
    /// Field with the acl: a list, or text separated by commas.
    #[serde(default)]
    pub acl: Option<String>,
    /// Fields kept as metadata; `["*"]` keeps all that are not used otherwise.
    #[serde(default)]
    pub metadata: Vec<String>,
    /// CSV separator, one character.
    #[serde(default = "default_delimiter")]
    pub delimiter: String,
}

fn default_delimiter() -> String {
    ",".to_owned()
}

/// Structure of a record's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Markup {
    /// Plain text.
    #[default]
    Plain,
    /// Markdown.
    Markdown,
    /// HTML, converted to Markdown.
    Html,
}

/// `[chunking]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChunkingSettings {
    /// Most tokens in a chunk, special tokens not counted; 0 means as many as the model takes.
    pub size: u32,
    /// Most tokens that a chunk shares with the one before it.
    pub overlap: u32,
}

impl Default for ChunkingSettings {
    fn default() -> Self {
        Self { size: 200, overlap: 20 }
    }
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSettings {
    /// Name of a model card (`regrow models` lists them) or path of a card file.
    pub name: String,
    /// A directory or object-store URL with the model's files, used instead of the card's sources.
    pub source: Option<String>,
    /// Number format of the computation. When absent: what the last snapshot recorded, and for a
    /// first snapshot the fastest exact enough format of the machine.
    pub dtype: Option<Dtype>,
    /// Length of the vectors, where the model was trained so that their beginning stands for the
    /// whole. When absent: the model's own.
    pub dimension: Option<u32>,
    /// Where to compute: `auto`, `cpu`, `cuda:N` or `metal`.
    pub device: Device,
    /// Workers on the CPU, each on one core; 0 means one per core.
    pub workers: usize,
    /// Most tokens in a batch. When absent: 2,048 on the CPU, 32,768 on a GPU.
    pub batch_tokens: Option<usize>,
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self {
            name: "all-MiniLM-L6-v2".to_owned(),
            source: None,
            dtype: None,
            dimension: None,
            device: Device::Auto,
            workers: 0,
            batch_tokens: None,
        }
    }
}

/// `[repository]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositorySettings {
    /// A directory or an object-store URL.
    pub url: String,
    /// Settings of the object store, keys as `object_store` names them; secrets by reference.
    #[serde(default, skip_serializing_if = "StoreSettings::is_empty")]
    pub store: StoreSettings,
    /// Encryption at rest.
    #[serde(default)]
    pub encryption: EncryptionSettings,
    /// Further repositories that `copy` replicates to, and that a restore can read from.
    #[serde(default)]
    pub replicas: Vec<ReplicaSettings>,
}

/// `[repository.encryption]`: with neither key given, a new repository is not encrypted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EncryptionSettings {
    /// A passphrase, by reference.
    pub passphrase: Option<SecretRef>,
    /// A key of 32 bytes in hexadecimal or base64, by reference: `cmd:` asks a key service.
    pub key: Option<SecretRef>,
}

/// `[[repository.replicas]]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaSettings {
    /// Name, for `--from` and `--to`.
    pub name: String,
    /// A directory or an object-store URL.
    pub url: String,
    /// Settings of the object store, as `repository.store`.
    #[serde(default, skip_serializing_if = "StoreSettings::is_empty")]
    pub store: StoreSettings,
}

/// How a snapshot keeps documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaptureMode {
    /// By path, version and digest: the corpus is the only copy.
    #[default]
    Reference,
    /// The bytes of every object are copied into the repository, each once, compressed.
    Copy,
    /// The extracted text and payload of every document is copied.
    Text,
}

impl CaptureMode {
    /// Lower-case name, as in pipeline files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Copy => "copy",
            Self::Text => "text",
        }
    }
}

/// `[capture]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaptureSettings {
    /// How documents are kept.
    pub mode: CaptureMode,
}

/// `[retention]`: a snapshot is kept if any rule keeps it; without rules `forget` asks for some.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionSettings {
    /// `30d`, `90d` or `365d`: rules for these spans; the keys below add to them.
    pub preset: Option<String>,
    /// The newest n.
    pub keep_last: u32,
    /// The newest of each of n hours that have one.
    pub keep_hourly: u32,
    /// The newest of each of n days.
    pub keep_daily: u32,
    /// The newest of each of n weeks.
    pub keep_weekly: u32,
    /// The newest of each of n months.
    pub keep_monthly: u32,
    /// The newest of each of n years.
    pub keep_yearly: u32,
    /// All of this span before now, such as `30d` or `12h`.
    pub keep_within: Option<String>,
    /// All with one of these tags.
    pub keep_tags: Vec<String>,
    /// How long an object stays after nothing refers to it any more, such as `24h`; 24 hours when absent.
    pub grace: Option<String>,
}

/// `[validation]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ValidationSettings {
    /// JSONL file of golden queries.
    pub golden: Option<String>,
    /// Chunks sampled for vector, payload and self-retrieval checks.
    pub sample: usize,
    /// Queries for recall of the index against exact search.
    pub recall_queries: usize,
    /// k of recall@k.
    pub k: usize,
    /// Least mean recall@k of the index against exact search.
    pub min_recall: f64,
    /// Least share of sampled chunks that find themselves first.
    pub min_self_retrieval: f64,
    /// Least cosine between a canary's recorded and recomputed vector. When absent it follows the
    /// number format: 0.9999 in f32, 0.999 in bf16 and f16, 0.99 in int8.
    pub min_canary_cosine: Option<f64>,
    /// Thresholds for golden queries.
    pub golden_thresholds: GoldenThresholds,
}

impl Default for ValidationSettings {
    fn default() -> Self {
        Self {
            golden: None,
            sample: 200,
            recall_queries: 100,
            k: 10,
            min_recall: 0.95,
            min_self_retrieval: 0.95,
            min_canary_cosine: None,
            golden_thresholds: GoldenThresholds::default(),
        }
    }
}

/// `[validation.golden_thresholds]`: Qdrant's guidance for migrations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GoldenThresholds {
    /// Least mean recall@k.
    pub mean: f64,
    /// Least median recall@k.
    pub median: f64,
    /// Least 5th percentile of recall@k.
    pub p5: f64,
    /// Least share of queries whose first hit is the recorded or an expected one.
    pub top1: f64,
}

impl Default for GoldenThresholds {
    fn default() -> Self {
        Self { mean: 0.85, median: 0.90, p5: 0.60, top1: 0.80 }
    }
}

/// `[drill]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DrillSettings {
    /// Longest allowed time from start to a passing validation, in seconds.
    pub rto_seconds: Option<f64>,
    /// Longest allowed age of the snapshot, in seconds.
    pub rpo_seconds: Option<f64>,
    /// Use vectors that are in the repository instead of computing all of them again.
    pub reuse: bool,
}

impl Pipeline {
    /// A pipeline with this name, corpus and repository, an embedded target, and defaults for everything else.
    pub fn starter(name: &str, corpus: &str, repository: &str) -> Self {
        Self {
            name: name.to_owned(),
            corpus: CorpusSettings {
                url: corpus.to_owned(),
                include: Vec::new(),
                exclude: Vec::new(),
                hidden: false,
                encoding: None,
                on_bad_document: OnBadDocument::default(),
                max_document_bytes: default_max_document_bytes(),
                path_metadata: None,
                records: Vec::new(),
                store: StoreSettings::new(),
            },
            chunking: ChunkingSettings::default(),
            model: ModelSettings::default(),
            capture: CaptureSettings::default(),
            repository: RepositorySettings {
                url: repository.to_owned(),
                store: StoreSettings::new(),
                encryption: EncryptionSettings::default(),
                replicas: Vec::new(),
            },
            retention: RetentionSettings::default(),
            target: TargetSettings::new(TargetKind::Embedded),
            validation: ValidationSettings::default(),
            drill: DrillSettings::default(),
        }
    }
}
