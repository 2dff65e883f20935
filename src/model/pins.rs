//! Digests recorded at the first fetch of files whose card does not know them.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::files::FileDigest;
use crate::error::{Error, ErrorKind, Result};

/// The lock file of one card at one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pins {
    /// Every file's size and digest.
    pub(crate) files: BTreeMap<String, FileDigest>,
}

impl Pins {
    /// Reads the lock file; none is no pins.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(Error::from(e).with("file", path.display())),
        };
        serde_json::from_slice(&bytes).map_err(|e| {
            Error::new(ErrorKind::Damaged, "the record of the model's digests is unreadable")
                .with("file", path.display())
                .guidance("remove this file if you trust the source: the next fetch records the digests again")
                .because(e)
        })
    }

    /// Records the digests, unless another process was first: then they must be the same.
    pub(crate) fn record(path: &Path, files: &BTreeMap<String, FileDigest>) -> Result<()> {
        let at = |e: std::io::Error| Error::from(e).with("file", path.display());
        let pins = Self { files: files.clone() };
        let text = serde_json::to_vec_pretty(&pins)
            .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot write the model's digests").because(e))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut temporary = tempfile::NamedTempFile::new_in(folder).map_err(at)?;
        temporary.write_all(&text).and_then(|()| temporary.as_file().sync_all()).map_err(at)?;
        match temporary.persist_noclobber(path) {
            Ok(_) => Ok(()),
            Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => Self::read(path)?.compare(files, path),
            Err(e) => Err(at(e.error)),
        }
    }

    /// Whether these files are the pinned ones.
    pub(crate) fn compare(&self, files: &BTreeMap<String, FileDigest>, path: &Path) -> Result<()> {
        for (name, found) in files {
            if let Some(expected) = self.files.get(name)
                && expected != found
            {
                return Err(Error::new(ErrorKind::ModelMismatch, "a file of the model is not the one fetched before")
                    .with("file", name)
                    .with("expected", format!("blake3 {}", expected.blake3))
                    .with("found", format!("blake3 {}", found.blake3))
                    .guidance(format!(
                        "the files behind this revision have changed; if that is right, remove {}",
                        path.display()
                    )));
            }
        }
        Ok(())
    }
}
