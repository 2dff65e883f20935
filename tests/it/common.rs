//! A project in a temporary directory, and the `regrow` binary run in it as its user would.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use regrow::event::Events;
use regrow::pipeline::Pipeline;
use serde_json::Value;
use tempfile::TempDir;

/// The binary under test.
pub fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_regrow"))
}

/// A model cache that holds MiniLM, shared by all tests and kept between runs. `None`, after a visible line, when
/// the model cannot be had; with `CI` set that is a failure.
pub fn model_cache() -> Option<&'static Path> {
    static CACHE: OnceLock<Option<PathBuf>> = OnceLock::new();
    CACHE
        .get_or_init(|| {
            // The user's own cache, so that it is fetched once for all runs.
            let mut command = Command::new(binary());
            command.args(["models", "fetch", "all-MiniLM-L6-v2", "--json"]);
            if let Some(directory) = std::env::var_os("REGROW_TEST_MODEL") {
                command.arg("--source").arg(directory);
            }
            let output = command.output().expect("the binary starts");
            if output.status.success() {
                let listed = Command::new(binary()).args(["models", "--json"]).output().expect("the binary starts");
                let listed: Value = serde_json::from_slice(&listed.stdout).expect("a JSON document");
                return listed["cache"].as_str().map(PathBuf::from);
            }
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(std::env::var_os("CI").is_none(), "no model: {why}");
            eprintln!(
                "skipped: the model could not be had; set REGROW_TEST_MODEL to a directory with its files\n{why}"
            );
            None
        })
        .as_deref()
}

/// Leaves the test, visibly, when there is no model.
#[macro_export]
macro_rules! project_or_skip {
    () => {
        match $crate::common::Project::new() {
            Some(project) => project,
            None => return,
        }
    };
}

/// What a run of `regrow` came to.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// Stdout as one JSON document.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("stdout is not one JSON document: {e}\n{}\n{}", self.stdout, self.stderr))
    }

    /// The report of a run that must have succeeded.
    pub fn ok(&self) -> Value {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.json()
    }

    /// The error document of a run that must have failed with this exit code.
    pub fn failed(&self, code: i32) -> Value {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.json()
    }
}

/// A directory with `regrow.toml`, `docs/`, and after a restore `.regrow/`.
pub struct Project {
    pub directory: TempDir,
    cache: &'static Path,
}

impl Project {
    /// An empty project with a pipeline whose corpus is `docs/`; `None` when there is no model.
    pub fn new() -> Option<Self> {
        let project = Self { cache: model_cache()?, directory: TempDir::new().expect("a temporary directory") };
        std::fs::create_dir(project.path("docs")).expect("docs");
        project.run(&["init", "--name", "test", "--corpus", "docs", "--json"]).ok();
        Some(project)
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    /// Writes a file, with the directories it lies in.
    pub fn write(&self, relative: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(relative);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        std::fs::write(path, bytes).expect("a file");
    }

    /// Fills `docs/` with regrow's own documented source files below `folder` as plain text: real prose and code.
    pub fn real_documents(&self, folder: &str) -> usize {
        fn copy(from: &Path, to: &Path, count: &mut usize) {
            for entry in std::fs::read_dir(from).expect("a directory").flatten() {
                let (path, name) = (entry.path(), entry.file_name());
                if path.is_dir() {
                    copy(&path, &to.join(name), count);
                } else {
                    std::fs::create_dir_all(to).expect("directories");
                    std::fs::copy(&path, to.join(name).with_extension("txt")).expect("a copy");
                    *count += 1;
                }
            }
        }
        let mut count = 0;
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &self.path("docs"), &mut count);
        count
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).current_dir(self.directory.path()).env("REGROW_CACHE", self.cache);
        command
    }

    /// Runs `regrow` to its end.
    pub fn run(&self, arguments: &[&str]) -> Run {
        let output = self.command(arguments).stdin(Stdio::null()).output().expect("the binary starts");
        Run {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a line of `sh` in the project's directory; `"$REGROW"` in it is the binary.
    pub fn shell(&self, line: &str) -> Run {
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(self.directory.path()).env("REGROW_CACHE", self.cache);
        let output = command.env("REGROW", binary()).stdin(Stdio::null()).output().expect("sh starts");
        Run {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The payload of every point of the production collection, in order of document and chunk.
    pub fn payloads(&self) -> Vec<Value> {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let (pipeline, base) = Pipeline::load(&self.path("regrow.toml")).expect("a pipeline");
        let target = regrow::targets::open(&pipeline.target, &base, &|_| None, &Events::silent()).expect("a target");
        let mut payloads = Vec::new();
        let mut after = None;
        loop {
            let page = runtime.block_on(target.scroll(pipeline.collection(), after, 100)).expect("a page");
            payloads.extend(page.points.into_iter().map(|point| Value::Object(point.payload)));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        payloads.sort_by_key(|p| (p["document_id"].as_str().map(str::to_owned), p["ordinal"].as_u64()));
        payloads
    }

    /// Names of the entries of a directory, sorted; none when it is not there.
    pub fn names(&self, relative: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(relative)) else { return Vec::new() };
        let mut names: Vec<_> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Starts `regrow` and leaves it running.
    pub fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts")
    }
}
