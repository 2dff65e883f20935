//! What an object of a repository is, by its path.

use serde::Serialize;

use crate::repository::path;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ObjectKind {
    /// `repository.json`.
    Repository,
    /// A key slot of an encrypted repository.
    Key,
    /// The commit record of a snapshot.
    Manifest,
    /// Rows of documents.
    Inventory,
    /// Canaries of a snapshot.
    Canaries,
    /// A list of skipped documents.
    Skipped,
    /// An index of captured documents.
    Captured,
    /// A pack of captured documents.
    Pack,
    /// The commit record of a vector set.
    VectorSet,
    /// A part of a vector set.
    Part,
    /// The record of a drill.
    Drill,
    /// The record of a verification.
    Verification,
    /// What a run that is under way keeps: receipts, locks, marks, parts of a drill.
    Temporary,
    /// Nothing that this build knows.
    Other,
}

impl ObjectKind {
    /// The kind that a path says.
    pub fn of(name: &str) -> Self {
        let Some((folder, rest)) = name.split_once('/') else {
            return if name == path::REPOSITORY { Self::Repository } else { Self::Other };
        };
        let last = rest.rsplit('/').next().unwrap_or_default();
        match folder {
            "keys" => Self::Key,
            path::SNAPSHOTS => match last {
                "manifest.json" => Self::Manifest,
                "canaries.parquet" => Self::Canaries,
                "skipped.jsonl" => Self::Skipped,
                _ if last.starts_with("inventory-") => Self::Inventory,
                _ => Self::Other,
            },
            path::INVENTORIES => Self::Inventory,
            path::CANARIES => Self::Canaries,
            path::SKIPPED => Self::Skipped,
            path::CAPTURED => Self::Captured,
            path::DOCUMENTS => Self::Pack,
            path::VECTORS => Self::Part,
            path::VECTOR_SETS => Self::VectorSet,
            path::DRILLS if rest.contains('/') => Self::Temporary,
            path::DRILLS => Self::Drill,
            path::VERIFICATIONS => Self::Verification,
            path::RESTORES | "locks" | "prunes" | "doctor" => Self::Temporary,
            _ => Self::Other,
        }
    }

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Repository => "repository record",
            Self::Key => "key slot",
            Self::Manifest => "manifest",
            Self::Inventory => "inventory",
            Self::Canaries => "canaries",
            Self::Skipped => "list of skipped documents",
            Self::Captured => "index of captured documents",
            Self::Pack => "captured documents",
            Self::VectorSet => "vector set record",
            Self::Part => "part",
            Self::Drill => "drill record",
            Self::Verification => "verification record",
            Self::Temporary => "temporary object",
            Self::Other => "unknown object",
        }
    }

    /// Whether the corpus and the snapshots give it again.
    pub fn derivable(self) -> bool {
        matches!(self, Self::VectorSet | Self::Part)
    }

    /// Whether its name is the digest of its bytes, in format 2.
    pub(crate) fn by_content(self) -> bool {
        matches!(self, Self::Inventory | Self::Canaries | Self::Skipped | Self::Captured | Self::Pack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_follow_from_paths() {
        for (name, kind) in [
            ("repository.json", ObjectKind::Repository),
            ("keys/a.json", ObjectKind::Key),
            ("snapshots/x/manifest.json", ObjectKind::Manifest),
            ("snapshots/x/inventory-00000.parquet", ObjectKind::Inventory),
            ("snapshots/x/canaries.parquet", ObjectKind::Canaries),
            ("inventories/d.parquet", ObjectKind::Inventory),
            ("documents/d.parquet", ObjectKind::Pack),
            ("captured/d.parquet", ObjectKind::Captured),
            ("vectors/m/r/p.parquet", ObjectKind::Part),
            ("vector-sets/i.json", ObjectKind::VectorSet),
            ("drills/d.json", ObjectKind::Drill),
            ("drills/d/m/r/p.parquet", ObjectKind::Temporary),
            ("restores/i/p.json", ObjectKind::Temporary),
            ("notes.txt", ObjectKind::Other),
            ("else/notes.txt", ObjectKind::Other),
        ] {
            assert_eq!(ObjectKind::of(name), kind, "{name}");
        }
    }
}
