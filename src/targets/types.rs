//! What is said to and heard from a target.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::ids::{ChunkId, Digest};
use crate::model::Metric;
use crate::pipeline::{FieldType, IndexSettings};

/// Payload fields that regrow writes on every point.
pub mod field {
    /// Id of the document.
    pub const DOCUMENT_ID: &str = "document_id";
    /// Position of the chunk in its document, from 0.
    pub const ORDINAL: &str = "ordinal";
    /// First byte of the span in the document's text.
    pub const START: &str = "start";
    /// One past the last byte of the span.
    pub const END: &str = "end";
    /// The chunk's text.
    pub const TEXT: &str = "text";
    /// The document's title.
    pub const TITLE: &str = "title";
    /// The document's tenant.
    pub const TENANT: &str = "tenant";
    /// The document's acl.
    pub const ACL: &str = "acl";
    /// The document's metadata, an object.
    pub const METADATA: &str = "metadata";
    /// blake3 of the chunk's text.
    pub const CHUNK_DIGEST: &str = "chunk_digest";
}

/// What a target can do; data, so that there is one driver and no per-database copy of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Capabilities {
    /// The production name can be switched atomically.
    pub atomic_promote: bool,
    /// A physical collection that has the production name can be given another one, so that the name becomes free.
    pub rename: bool,
    /// A collection can have several production names at once.
    pub several_names: bool,
    /// The index can be built after the load.
    pub deferred_index: bool,
    /// Counting is exact.
    pub exact_count: bool,
    /// Data outlives the process.
    pub persistent: bool,
    /// One process at a time can use it.
    pub exclusive: bool,
    /// Most points in one write.
    pub max_batch_points: usize,
    /// Most bytes in one write, vectors and payload as the driver estimates them: what is fastest, and safely below what
    /// the server takes.
    pub max_batch_bytes: usize,
    /// Writes that should be under way at once.
    pub write_concurrency: usize,
    /// Metrics it can serve.
    pub metrics: Vec<Metric>,
    /// How tenants can be kept.
    pub tenants: Vec<TenantKeeping>,
    /// It can import files from a store by itself.
    pub native_import: bool,
    /// When a write is seen by a read.
    pub consistency: Consistency,
    /// Which names collections and production names can have.
    pub names: Names,
}

impl Capabilities {
    /// Those of a target in this process: everything at once, any name. Others change what differs.
    pub fn local() -> Self {
        Self {
            atomic_promote: true,
            rename: false,
            several_names: true,
            deferred_index: true,
            exact_count: true,
            persistent: true,
            exclusive: true,
            max_batch_points: 1024,
            max_batch_bytes: 16 << 20,
            write_concurrency: 1,
            metrics: vec![Metric::Cosine, Metric::Dot, Metric::Euclidean],
            tenants: vec![TenantKeeping::Payload],
            native_import: false,
            consistency: Consistency::Immediate,
            names: Names { max_bytes: super::checks::MAX_NAME_BYTES, characters: Characters::Any },
        }
    }
}

/// How the tenants of one collection are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TenantKeeping {
    /// By a payload field and its index.
    Payload,
    /// By a partition for each group of tenants.
    Partition,
    /// Each tenant has a place of its own: a shard, a namespace.
    Own,
}

/// When a write is seen by a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// As soon as it is confirmed.
    Immediate,
    /// After `flush`.
    AfterFlush,
}

/// Which names a target can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Names {
    /// Most bytes.
    pub max_bytes: usize,
    /// Which characters.
    pub characters: Characters,
}

/// Characters of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Characters {
    /// All but control characters.
    Any,
    /// ASCII letters and digits, and some others.
    Words {
        /// The others, not at either end of a name.
        also: &'static str,
        /// Upper case is there.
        upper: bool,
        /// A digit can come first.
        digit_first: bool,
    },
    /// ASCII letters, digits and `_`, the first a lower-case letter: the target itself writes it in upper case, so that
    /// names that differ only there are one name.
    Capitalized,
}

impl Names {
    /// Whether the target can have this name.
    pub fn allow(&self, name: &str) -> bool {
        let fits = |c: char| match self.characters {
            Characters::Any => !c.is_control(),
            Characters::Words { also, upper, .. } => {
                c.is_ascii_lowercase() || c.is_ascii_digit() || (upper && c.is_ascii_uppercase()) || also.contains(c)
            }
            Characters::Capitalized => c.is_ascii_alphanumeric() || c == '_',
        };
        let ends = match self.characters {
            Characters::Any => true,
            Characters::Words { digit_first, .. } => {
                name.starts_with(|c: char| c.is_ascii_alphabetic() || (digit_first && c.is_ascii_digit()))
                    && name.ends_with(|c: char| c.is_ascii_alphanumeric())
            }
            Characters::Capitalized => name.starts_with(|c: char| c.is_ascii_lowercase()),
        };
        !name.is_empty() && name.len() <= self.max_bytes && name.chars().all(fits) && ends
    }

    /// The nearest name that the target can have: the name itself where that will do. A name that is too long keeps its
    /// beginning and its last 9 bytes, which tell one restore from another.
    pub fn fit(&self, name: &str) -> String {
        let mut fitted = match self.characters {
            Characters::Any => name.to_owned(),
            Characters::Words { also, upper, digit_first } => {
                let other = also.chars().next().unwrap_or('0');
                let mut out: String = name
                    .chars()
                    .map(|c| if upper { c } else { c.to_ascii_lowercase() })
                    .map(|c| if c.is_ascii_alphanumeric() || also.contains(c) { c } else { other })
                    .collect();
                if !out.starts_with(|c: char| c.is_ascii_alphabetic() || (digit_first && c.is_ascii_digit())) {
                    out.insert(0, 'c');
                }
                if !out.ends_with(|c: char| c.is_ascii_alphanumeric()) {
                    out.push('0');
                }
                out
            }
            Characters::Capitalized => {
                let mut out: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
                if out.starts_with(|c: char| c.is_ascii_alphabetic()) {
                    out[..1].make_ascii_lowercase();
                } else {
                    out.insert(0, 'c');
                }
                out
            }
        };
        if fitted.len() > self.max_bytes {
            let cut = |at: usize| (0..=at).rev().find(|i| fitted.is_char_boundary(*i)).unwrap_or(0);
            let tail = fitted[cut(fitted.len() - 9)..].to_owned();
            fitted.truncate(cut(self.max_bytes.saturating_sub(tail.len())));
            fitted.push_str(&tail);
        }
        fitted
    }
}

/// What answers: read when a target is opened, recorded in snapshots, printed by `doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerInfo {
    /// What it is: `PostgreSQL`, `Qdrant`.
    pub name: String,
    /// Its version, as it says.
    pub version: String,
    /// Further versions and facts that matter for a restore: `pgvector` → `0.8.5`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
}

/// The tenants in a collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenants {
    /// How many there are; absent where counting would read every point.
    pub count: Option<u64>,
    /// How they are kept apart.
    pub kept: TenantKeeping,
}

/// Who may do what with a collection. Never a password, key or token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// Name.
    pub name: String,
    /// What it may do, in the target's words, sorted: `SELECT`.
    pub grants: Vec<String>,
}

/// What a collection is made for; only drills delete without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// To be promoted.
    Restore,
    /// To be measured and deleted.
    Drill,
}

/// How far a collection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CollectionState {
    /// Points are being written; not fit for use.
    Loading,
    /// All points are in, the index is built, every check passed.
    Ready,
    /// A check failed: kept for inspection, replaced by the next restore of the same content.
    Failed,
}

/// regrow's marker on a collection: who made it, from what. Without it nothing is written or deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Marker {
    /// Identity of this very collection: made anew by every `create`, so that checkpoints of a deleted
    /// collection never count for its successor.
    pub instance: Uuid,
    /// What it is made from: snapshot, rules, model and target settings, hashed.
    pub restore_key: Digest,
    /// Snapshot id.
    pub snapshot: String,
    /// Fingerprint of the model context of every vector in it.
    pub model_fingerprint: Digest,
    /// Fingerprint of the chunking rules.
    pub rules_fingerprint: Digest,
    /// Why it was made.
    pub purpose: Purpose,
    /// How far it is.
    pub state: CollectionState,
    /// When it was made.
    pub created: jiff::Timestamp,
}

/// What to create.
#[derive(Debug, Clone, PartialEq)]
pub struct CollectionSpec {
    /// Physical name.
    pub name: String,
    /// Length of a vector.
    pub dimension: usize,
    /// Distance.
    pub metric: Metric,
    /// Index parameters.
    pub index: IndexSettings,
    /// Payload fields to index, with their types; nested fields with dots (`metadata.year`).
    pub payload_indexes: BTreeMap<String, FieldType>,
    /// The target's own parameters: what the snapshot recorded of the live collection ([`CollectionInfo::own`] of a target
    /// of the same kind), with the pipeline's table for this kind over it. Keys are those of that table, and further ones
    /// that only `describe` writes. A target ignores what it does not know, and says so in `unsupported`.
    pub own: Map<String, Value>,
    /// Roles that had rights on the live collection. Roles themselves are not made: those that are there get their rights.
    pub roles: Vec<Role>,
    /// The marker to write on it.
    pub marker: Marker,
}

/// What a collection is, as the target says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CollectionInfo {
    /// Physical name.
    pub name: String,
    /// Production names that point at it.
    pub aliases: Vec<String>,
    /// Length of a vector.
    pub dimension: usize,
    /// Distance.
    pub metric: Metric,
    /// Index parameters.
    pub index: IndexSettings,
    /// Payload fields with an index.
    pub payload_indexes: BTreeMap<String, FieldType>,
    /// Exact number of points.
    pub count: u64,
    /// Its tenants.
    pub tenants: Tenants,
    /// Who may do what with it, sorted by name; empty where the target has no roles.
    pub roles: Vec<Role>,
    /// The target's own parameters, those that a restore needs to make the collection again: see [`CollectionSpec::own`].
    pub own: Map<String, Value>,
    /// regrow's marker, if it is regrow's.
    pub marker: Option<Marker>,
}

/// One vector with its id and payload.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Chunk id.
    pub id: ChunkId,
    /// The vector; empty where it was not asked for.
    pub vector: Vec<f32>,
    /// Payload; fields are named in [`field`].
    pub payload: Map<String, Value>,
}

/// A point found by a search.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredPoint {
    /// Chunk id.
    pub id: ChunkId,
    /// Similarity or distance, by the collection's metric.
    pub score: f32,
    /// Payload.
    pub payload: Map<String, Value>,
}

/// What became of a batch: every point is either written or named here.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WriteOutcome {
    /// Points written.
    pub written: usize,
    /// Points refused, with the target's reason.
    pub refused: Vec<(ChunkId, String)>,
}

/// How far the index is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IndexState {
    /// True when nothing is left to do.
    pub done: bool,
    /// Points covered by the index.
    pub indexed: u64,
    /// Points that will be covered.
    pub total: u64,
}

/// A condition on a payload field; nested fields with dots.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Condition {
    /// The field (or one element of it) equals the value.
    Equals {
        /// Payload field.
        field: String,
        /// Text, whole number or boolean.
        value: Value,
    },
    /// The field (or one element of it) equals one of the values.
    AnyOf {
        /// Payload field.
        field: String,
        /// Texts or whole numbers.
        values: Vec<Value>,
    },
    /// The number lies in the range; bounds are inclusive.
    Range {
        /// Payload field.
        field: String,
        /// Least value.
        #[serde(default)]
        min: Option<f64>,
        /// Greatest value.
        #[serde(default)]
        max: Option<f64>,
    },
}

/// All conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Filter {
    /// The conditions.
    pub all: Vec<Condition>,
}

impl Filter {
    /// Only points of one tenant.
    pub fn tenant(tenant: &str) -> Self {
        Self { all: vec![Condition::Equals { field: field::TENANT.to_owned(), value: tenant.into() }] }
    }
}

/// A search.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchRequest {
    /// The query vector.
    pub vector: Vec<f32>,
    /// How many points.
    pub limit: usize,
    /// Which points may be found.
    pub filter: Filter,
    /// Search without the index.
    pub exact: bool,
}

/// One page of a scroll in id order.
#[derive(Debug, Clone, PartialEq)]
pub struct ScrollPage {
    /// The points.
    pub points: Vec<Point>,
    /// Pass this to get the next page; `None` at the end.
    pub next: Option<ChunkId>,
}
