//! What a verification found.

use serde::Serialize;

use super::kind::ObjectKind;
use crate::error::{Error, ErrorKind};
use crate::repository::ObjectRef;

/// What is wrong with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    /// It is not there.
    Missing,
    /// It has another size than was written.
    Size,
    /// Its bytes are not what was written.
    Content,
    /// Its bytes are what was written, and do not fit to what refers to it.
    Structure,
    /// A newer regrow wrote it.
    Newer,
    /// The store did not give it: no permission, no answer. It may be in order.
    Unreadable,
}

impl Problem {
    /// What an error of reading it means.
    pub(crate) fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Self::Missing,
            ErrorKind::Damaged => Self::Content,
            ErrorKind::Configuration => Self::Newer,
            _ => Self::Unreadable,
        }
    }
}

/// An object that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamagedObject {
    /// Its path.
    pub object: String,
    /// What it is.
    pub kind: ObjectKind,
    /// What is wrong, for programs.
    pub what: Problem,
    /// What is wrong, for people.
    pub problem: String,
    /// Snapshots and vector sets that need it.
    pub hurts: Vec<String>,
    /// It can be derived again from the corpus: a restore does so by itself, `repair` without one.
    pub derivable: bool,
    /// Replicas that have an object of that name and size.
    pub replicas: Vec<String>,
    /// What it should be, where that is recorded.
    #[serde(skip)]
    pub recorded: Option<ObjectRef>,
}

impl DamagedObject {
    /// A finding.
    pub(crate) fn new(object: String, what: Problem, problem: String, hurts: Vec<String>) -> Self {
        let kind = ObjectKind::of(&object);
        Self { object, kind, what, problem, hurts, derivable: kind.derivable(), replicas: Vec::new(), recorded: None }
    }
}

/// Objects that no snapshot and no vector set needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Orphans {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The first few, by path.
    pub examples: Vec<String>,
}

/// Orphans that are named.
const NAMED: usize = 10;

impl Orphans {
    pub(super) fn add(&mut self, name: &str, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
        if self.examples.len() < NAMED {
            self.examples.push(name.to_owned());
        }
    }
}

/// How thorough a verification was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Records were read, of everything else the listing.
    Quick,
    /// Records and a part of the data were read.
    Subset,
    /// Everything was read.
    Full,
}

/// Report of `regrow verify`.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// Always `verify`.
    pub verb: &'static str,
    /// True when nothing is damaged.
    pub ok: bool,
    /// Process exit code: 0, or 30 where something is damaged.
    pub exit_code: u8,
    /// Repository.
    pub repository: String,
    /// How thorough it was.
    pub level: Level,
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Vector sets looked at.
    pub vector_sets: u64,
    /// Objects that they need: all are compared with the listing.
    pub objects: u64,
    /// Their bytes, as recorded.
    pub bytes: u64,
    /// Objects that were read and hashed.
    pub objects_read: u64,
    /// Bytes that were read and hashed.
    pub bytes_read: u64,
    /// Where chance decided which objects were read: the seed with which it decides the same again.
    pub seed: Option<u64>,
    /// Seconds from start to end.
    pub seconds: f64,
    /// Bytes read per second.
    pub bytes_per_second: f64,
    /// Objects that nothing needs, left by runs that did not finish or by `forget`: no damage. Not looked for where
    /// one snapshot is verified, or a record cannot be read.
    pub orphans: Orphans,
    /// Objects that regrow did not write.
    pub foreign: Orphans,
    /// What is damaged or missing.
    pub damaged: Vec<DamagedObject>,
}
