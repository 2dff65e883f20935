//! A directory in the cache where files are gathered until all of them are right.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use super::card::{CardFile, ModelCard};
use super::files::{Expected, FileDigest, Hashes, ModelFiles};
use super::pins::Pins;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Events, Stage};

const PREFIX: &str = ".fetch-";

/// Files on their way into the cache. Dropped before [`Staging::commit`], it leaves nothing behind.
pub(crate) struct Staging {
    directory: tempfile::TempDir,
    pins: Pins,
    done: Mutex<BTreeMap<String, FileDigest>>,
    events: Events,
}

impl Staging {
    /// A new directory in `folder`; also removes what killed processes left there long ago.
    pub(crate) fn new(folder: &Path, pins: Pins, events: &Events) -> Result<Self> {
        let at = |e: std::io::Error| Error::from(e).with("directory", folder.display());
        std::fs::create_dir_all(folder).map_err(at)?;
        for entry in std::fs::read_dir(folder).map_err(at)?.flatten() {
            let old = entry
                .metadata()
                .and_then(|m| m.modified())
                .is_ok_and(|t| SystemTime::now().duration_since(t).is_ok_and(|age| age > Duration::from_secs(86_400)));
            if old && entry.file_name().to_string_lossy().starts_with(PREFIX) {
                // Best effort: another process may be removing it too.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(folder).map_err(at)?;
        Ok(Self { directory, pins, done: Mutex::default(), events: events.clone() })
    }

    /// Room for a source's own temporary files.
    pub(crate) fn scratch(&self) -> Result<tempfile::TempDir> {
        tempfile::Builder::new()
            .prefix("scratch-")
            .tempdir_in(self.directory.path())
            .map_err(|e| Error::from(e).with("directory", self.directory.path().display()))
    }

    /// Begins one file of the card, from the start.
    pub(crate) fn begin(&self, file: &CardFile) -> Result<StagedFile<'_>> {
        let path = self.directory.path().join(&file.name);
        let expected = Expected::new(file, &self.pins);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| Error::from(e).with("directory", folder.display()))?;
        }
        let handle = File::create(&path).map_err(|e| Error::from(e).with("file", path.display()))?;
        Ok(StagedFile { staging: self, hashes: expected.hashes(), expected, name: file.name.clone(), path, handle })
    }

    /// Checks that the files make up the model, records pins if the card has not all digests,
    /// and moves the directory to `target` in one step. If another process was first, its files win.
    pub(crate) fn commit(self, card: &ModelCard, target: &Path, pins_path: &Path) -> Result<ModelFiles> {
        let digests = self.done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let staged = ModelFiles { card: card.clone(), directory: self.directory.path().to_owned(), digests };
        staged.check()?;
        if card.files.iter().any(|f| f.blake3.is_none()) {
            Pins::record(pins_path, &staged.digests)?;
        }
        for folder in staged.digests.keys().filter_map(|name| name.split_once('/')) {
            sync_directory(&self.directory.path().join(folder.0))?;
        }
        sync_directory(self.directory.path())?;
        match std::fs::rename(self.directory.path(), target) {
            Ok(()) => {
                // Nothing is at the old place any more, so there is nothing to clean up.
                let _ = self.directory.keep();
                if let Some(folder) = target.parent() {
                    sync_directory(folder)?;
                }
                Ok(ModelFiles { directory: target.to_owned(), ..staged })
            }
            Err(_) if target.is_dir() => ModelFiles::open_pinned(card, target, &Pins::read(pins_path)?),
            Err(e) => Err(Error::from(e).with("directory", target.display())),
        }
    }
}

fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|d| d.sync_all()).map_err(|e| Error::from(e).with("directory", path.display()))
}

/// One file being written.
pub(crate) struct StagedFile<'a> {
    staging: &'a Staging,
    expected: Expected,
    name: String,
    path: PathBuf,
    handle: File,
    hashes: Hashes,
}

impl StagedFile<'_> {
    /// Appends bytes; stops as soon as there are more than there can be.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.handle.write_all(bytes).map_err(|e| Error::from(e).with("file", self.path.display()))?;
        self.hashes.update(bytes);
        self.staging.events.progress(Stage::Fetch, bytes.len() as u64);
        if let Some(expected) = self.expected.bytes
            && self.hashes.bytes > expected
        {
            return Err(Error::new(ErrorKind::ModelMismatch, "a file of the model is too long")
                .with("file", &self.name)
                .with("expected", format!("{expected} bytes"))
                .with("found", format!("at least {} bytes", self.hashes.bytes)));
        }
        Ok(())
    }

    /// Bytes written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.hashes.bytes
    }

    /// Compares digests and makes the file durable.
    pub(crate) fn finish(self) -> Result<()> {
        let digest = self.expected.check(self.hashes, Path::new(&self.name))?;
        self.handle.sync_all().map_err(|e| Error::from(e).with("file", self.path.display()))?;
        self.staging.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(self.name, digest);
        Ok(())
    }
}
