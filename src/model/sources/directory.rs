//! A directory of this machine, named by a card.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use super::unavailable;
use crate::error::{Error, Result};
use crate::model::card::{CardFile, ModelCard};
use crate::model::staging::Staging;

pub(super) async fn fetch(path: &str, card: &ModelCard, staging: &Arc<Staging>) -> Result<()> {
    let (directory, files, staging) = (PathBuf::from(path), card.files.clone(), Arc::clone(staging));
    tokio::task::spawn_blocking(move || files.iter().try_for_each(|file| copy(&directory, file, &staging))).await?
}

fn copy(directory: &std::path::Path, file: &CardFile, staging: &Staging) -> Result<()> {
    let path = directory.join(&file.name);
    let mut from = File::open(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => unavailable("there is no such file").with("file", path.display()),
        _ => Error::from(e).with("file", path.display()),
    })?;
    copy_from(&mut from, file, staging)
}

/// Copies a reader into the staged file.
pub(super) fn copy_from(from: &mut dyn Read, file: &CardFile, staging: &Staging) -> Result<()> {
    let mut to = staging.begin(file)?;
    let mut block = vec![0; 1 << 20];
    loop {
        let n = from.read(&mut block).map_err(|e| Error::from(e).with("file", &file.name))?;
        if n == 0 {
            return to.finish();
        }
        to.write(&block[..n])?;
    }
}
