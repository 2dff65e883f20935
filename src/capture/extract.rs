//! `regrow extract`: the captured objects, as files in a directory.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::index::CapturedObject;
use super::order::PackOrder;
use super::reader::CapturedReader;
use crate::corpus::globs;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Stage;
use crate::ids::Digest;
use crate::pipeline::CaptureMode;
use crate::repository::Manifest;
use crate::workspace::Workspace;

/// What is extracted, and where to.
#[derive(Debug, Clone)]
pub struct ExtractOptions {
    /// `latest`, a snapshot id or the beginning of one.
    pub snapshot: String,
    /// The directory; made when it is not there.
    pub to: PathBuf,
    /// Globs of paths, as in `corpus.include`; empty means all.
    pub include: Vec<String>,
}

/// An object that could not be extracted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotExtracted {
    /// Its path in the corpus.
    pub path: String,
    /// Why.
    pub problem: String,
}

/// Report of `regrow extract`.
#[derive(Debug, Clone, Serialize)]
pub struct ExtractReport {
    /// Always `extract`.
    pub verb: &'static str,
    /// True when every object that was asked for is there now.
    pub ok: bool,
    /// Process exit code.
    pub exit_code: u8,
    /// Snapshot.
    pub snapshot: String,
    /// Its point in time.
    pub created: jiff::Timestamp,
    /// The directory.
    pub to: String,
    /// Objects that were asked for.
    pub objects: u64,
    /// Files that were written.
    pub written: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were there already, with the same bytes.
    pub already_there: u64,
    /// Objects that could not be extracted.
    pub failed: u64,
    /// The first thousand of them, by path.
    pub problems: Vec<NotExtracted>,
}

const NAMED: usize = 1000;

/// Writes captured objects below a directory, with their paths and modification times. Nothing that is there is
/// overwritten; a file that is there with the same bytes counts as done, so that the same command goes on where it was
/// interrupted. What cannot be written is named, and the rest still is.
///
/// # Errors
/// `Configuration` when the snapshot holds no copies of objects, or a glob cannot be read; errors of the repository.
pub async fn extract(workspace: &Workspace, options: &ExtractOptions) -> Result<ExtractReport> {
    let repository = workspace.repository().await?;
    let manifest = Manifest::find(&repository, &options.snapshot, Some(&workspace.pipeline.name)).await?;
    let Some(captured) = manifest.captured.as_ref().filter(|_| manifest.corpus.capture == CaptureMode::Copy) else {
        return Err(Error::new(ErrorKind::Configuration, "this snapshot does not hold the documents' bytes")
            .with("snapshot", &manifest.id)
            .with("capture", manifest.corpus.capture.name())
            .guidance("only snapshots taken with capture.mode = \"copy\" do; `regrow list` shows how each was taken"));
    };
    let include = if options.include.is_empty() { None } else { Some(globs("--include", &options.include)?) };
    let mut wanted = |o: &CapturedObject| include.as_ref().is_none_or(|globs| globs.is_match(&o.path));
    let mut order = PackOrder::new(&repository, captured, &mut wanted).await?;
    fs::create_dir_all(&options.to).map_err(|e| Error::from(e).with("directory", options.to.display()))?;
    let mut report = ExtractReport {
        verb: "extract",
        ok: true,
        exit_code: 0,
        snapshot: manifest.id.clone(),
        created: manifest.created,
        to: options.to.display().to_string(),
        objects: order.objects,
        written: 0,
        bytes: 0,
        already_there: 0,
        failed: 0,
        problems: Vec::new(),
    };
    let started = std::time::Instant::now();
    workspace.events.start(Stage::Write, Some(order.objects), "objects");
    let reader = CapturedReader::new(&repository, captured);
    let mut worst: Option<u8> = None;
    while let Some(objects) = order.next()? {
        for object in objects {
            workspace.cancel.check()?;
            let (reader, to) = (reader.clone(), options.to.clone());
            let (object, done) = tokio::task::spawn_blocking(move || {
                let done = write(&reader, &to, &object);
                (object, done)
            })
            .await?;
            workspace.events.progress(Stage::Write, 1);
            match done {
                Ok(true) => {
                    report.written += 1;
                    report.bytes += object.bytes;
                }
                Ok(false) => report.already_there += 1,
                Err(e) if matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::Denied | ErrorKind::Cancelled) => {
                    return Err(e);
                }
                Err(e) => {
                    worst.get_or_insert(e.exit_code());
                    report.failed += 1;
                    if report.problems.len() < NAMED {
                        let problem = std::iter::once(e.to_string()).chain(e.causes()).collect::<Vec<_>>().join(": ");
                        report.problems.push(NotExtracted { path: object.path, problem });
                    }
                }
            }
        }
    }
    workspace.events.finish(Stage::Write, started.elapsed().as_secs_f64());
    report.ok = report.failed == 0;
    report.exit_code = worst.unwrap_or(0);
    Ok(report)
}

/// Writes one object; false when it is there already. Blocking.
fn write(reader: &CapturedReader, to: &Path, object: &CapturedObject) -> Result<bool> {
    let failed = |e: io::Error| Error::from(e).with("file", &object.path);
    let (directory, file) = place(to, &object.path)?;
    if let Ok(there) = fs::symlink_metadata(&file) {
        if there.is_file() && there.len() == object.bytes && digest(&file).map_err(failed)? == object.digest {
            return Ok(false);
        }
        return Err(Error::new(ErrorKind::AlreadyExists, "there is another file of this name already")
            .with("file", file.display())
            .guidance("extract into an empty directory, or move the file away"));
    }
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let mut unfinished = builder.prefix(".regrow-").tempfile_in(&directory).map_err(failed)?;
    let (mut bytes, problem) = reader.stream(object);
    let mut hasher = blake3::Hasher::new();
    let mut total = 0;
    let mut step = vec![0; 256 << 10];
    loop {
        let n = match bytes.read(&mut step) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) => {
                let cause = problem.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
                return Err(cause.unwrap_or_else(|| failed(e)));
            }
        };
        hasher.update(&step[..n]);
        total += n as u64;
        unfinished.write_all(&step[..n]).map_err(failed)?;
    }
    if total != object.bytes || Digest::from_hasher(&hasher) != object.digest {
        return Err(super::table::damaged("captured bytes are not what was captured").with("file", &object.path));
    }
    let micros = Duration::from_micros(object.modified.unsigned_abs());
    let modified = if object.modified < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(micros)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(micros)
    };
    if let Some(modified) = modified {
        unfinished.as_file().set_modified(modified).map_err(failed)?;
    }
    unfinished.persist_noclobber(&file).map_err(|e| failed(e.error))?;
    Ok(true)
}

fn digest(file: &Path) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(fs::File::open(file)?)?;
    Ok(Digest::from_hasher(&hasher))
}

/// The file of a path, and its directory, which is made. Never outside of `to`: neither by the path itself nor by a
/// link that lies in its way.
fn place(to: &Path, path: &str) -> Result<(PathBuf, PathBuf)> {
    let refused = |why: &str| {
        Error::new(ErrorKind::Damaged, "this path cannot be a file below the directory").with("file", path).because(why)
    };
    let mut directory = to.to_owned();
    let mut segments = path.split('/').peekable();
    while let Some(segment) = segments.next() {
        let mut parts = Path::new(segment).components();
        let plain = matches!((parts.next(), parts.next()), (Some(std::path::Component::Normal(_)), None));
        if !plain || segment.contains('\0') || (cfg!(windows) && segment.contains(['\\', ':'])) {
            return Err(refused("it is not a plain relative path"));
        }
        let below = directory.join(segment);
        if segments.peek().is_none() {
            return Ok((directory, below));
        }
        match fs::create_dir(&below) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                if !fs::symlink_metadata(&below).is_ok_and(|meta| meta.is_dir()) {
                    return Err(Error::new(ErrorKind::AlreadyExists, "something else than a directory is in the way")
                        .with("file", path)
                        .with("in the way", below.display())
                        .guidance("extract into an empty directory"));
                }
            }
            Err(e) => return Err(Error::from(e).with("file", path)),
        }
        directory = below;
    }
    Err(refused("it is empty"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out_of_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let to = directory.path().join("to");
        fs::create_dir(&to).unwrap();
        for path in ["../x", "/etc/x", "a/../../x", "", "a//b", "./x", "a/.", "..", "a/..", "x\0y"] {
            let e = place(&to, path).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Damaged, "{path:?}");
        }
        let (inside, file) = place(&to, "a/b/c d#1.md").unwrap();
        assert!(inside == to.join("a/b") && inside.is_dir() && file == inside.join("c d#1.md"));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(directory.path(), to.join("link")).unwrap();
            assert_eq!(place(&to, "link/x").unwrap_err().kind(), ErrorKind::AlreadyExists);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
