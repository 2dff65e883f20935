//! The types a corpus yields.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ids::Digest;

/// One object of the corpus: a file or an object-store entry, holding one document or many records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceObject {
    /// Path relative to the corpus root, `/`-separated.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Last modification in microseconds since the Unix epoch.
    pub modified: i64,
    /// Entity tag, where the store has one. Of a file, `<inode>-<change time in nanoseconds since 1970>` where the
    /// system has both: an edit that keeps size and modification time still changes it.
    pub etag: Option<String>,
    /// Version id, where the store has versions.
    pub version: Option<String>,
}

impl SourceObject {
    /// Whether both describe the same contents as far as size, time and identity can tell: size and time are equal,
    /// and so are etag and version where both have one. (Those of another store, or of an older version of regrow,
    /// may be missing.) A file whose mode alone was changed counts as changed: only its bytes can say otherwise.
    pub fn same_state(&self, other: &Self) -> bool {
        fn agree(a: Option<&String>, b: Option<&String>) -> bool {
            a.zip(b).is_none_or(|(a, b)| a == b)
        }
        self.size == other.size
            && self.modified == other.modified
            && agree(self.etag.as_ref(), other.etag.as_ref())
            && agree(self.version.as_ref(), other.version.as_ref())
    }
}

/// What structure the text has, for the splitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextFormat {
    /// Paragraphs, lines, sentences.
    Plain,
    /// Markdown, also what HTML is converted to.
    Markdown,
}

/// One source item: a file, or one record of a record file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Stable id: the object's path for files; `<path>#<configured id>` for records.
    pub id: String,
    /// The object's path.
    pub path: String,
    /// Line (JSONL, CSV) or row (Parquet) of the record, from 1; `None` for files.
    pub line: Option<u64>,
    /// The text that is chunked; spans are byte offsets into it.
    pub text: String,
    /// How the text is structured.
    pub format: TextFormat,
    /// Title, if there is one.
    pub title: Option<String>,
    /// Tenant the document belongs to, if any.
    pub tenant: Option<String>,
    /// Principals who may see the document; empty means no restriction is recorded.
    pub acl: Vec<String>,
    /// Everything else, as JSON.
    pub metadata: Map<String, Value>,
    /// Digest of what the vectors are computed from: the extracted text.
    pub text_digest: Digest,
    /// Digest of the document as stored: a file's raw bytes; a record's canonical JSON of id, text, title, tenant, acl and metadata.
    pub digest: Digest,
    /// Size of the document as stored, in bytes.
    pub bytes: u64,
}
