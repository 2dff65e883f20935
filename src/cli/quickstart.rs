//! `regrow quickstart`: the main job on real documents, from one command.

use std::path::{Path, PathBuf};

use regrow::pipeline::{OnBadDocument, Pipeline, TargetKind};
use regrow::query::{QueryOptions, query};
use regrow::restore::{RestoreOptions, restore};
use regrow::snapshot::{SnapshotOptions, snapshot};
use regrow::targets::Filter;
use regrow::{Error, ErrorKind, Result};
use serde_json::json;

use super::args::QuickstartArgs;
use super::printer::Printer;
use super::settings::{Settings, variable};
use super::views;

/// The lock file of this build: the crates whose README files are the default corpus.
const LOCK: &str = include_str!("../../Cargo.lock");
/// Asked when the corpus is the default one and no question is given.
const QUESTIONS: [&str; 3] = [
    "How do I derive serialization for my own struct?",
    "split text into tokens for a language model",
    "run blocking code from an asynchronous task",
];
/// Fewer crates than this are no corpus.
const FEWEST: usize = 20;

pub(crate) async fn run(settings: &Settings, printer: &Printer, args: &QuickstartArgs) -> Result<u8> {
    std::fs::create_dir_all(&args.state).map_err(|e| Error::from(e).with("directory", args.state.display()))?;
    let base = std::path::absolute(&args.state)?;
    let pipeline = pipeline(args)?;
    let file = base.join("regrow.toml");
    std::fs::write(&file, pipeline.to_toml()?).map_err(|e| Error::from(e).with("file", file.display()))?;
    let workspace = settings.workspace_of(pipeline, base)?;
    settings.events.note(format!("corpus: {}", workspace.pipeline.corpus.url));

    let taken = snapshot(&workspace, &SnapshotOptions::default()).await?;
    printer.interim(|| views::snapshot(&taken))?;
    if taken.documents == 0 {
        return Err(Error::new(ErrorKind::Configuration, "there are no documents in this directory")
            .with("corpus", &workspace.pipeline.corpus.url)
            .guidance("give a directory with Markdown, HTML, reStructuredText or text files: regrow quickstart DIR"));
    }
    let restored = restore(&workspace, RestoreOptions::default()).await?;
    printer.interim(|| views::restore(printer, &restored))?;
    let mut answers = Vec::new();
    if restored.ok {
        for text in questions(args) {
            let options = QueryOptions {
                text,
                k: 3,
                collection: None,
                filter: Filter::default(),
                tenant: None,
                acl: Vec::new(),
                exact: false,
            };
            let answer = query(&workspace, &options).await?;
            printer.interim(|| views::query(&answer))?;
            answers.push(answer);
        }
    }
    let shown = file.strip_prefix(std::env::current_dir()?).unwrap_or(&file).display().to_string();
    let report = json!({
        "verb": "quickstart", "ok": restored.ok, "exit_code": restored.exit_code, "pipeline": shown,
        "snapshot": taken, "restore": restored, "queries": answers,
    });
    settings.end_progress();
    printer.report(&report, || next_steps(&shown))?;
    Ok(restored.exit_code)
}

fn next_steps(file: &str) -> String {
    format!(
        "next:\n  regrow -p {file} query \"your question\"   search it\n  \
         regrow -p {file} drill                  prove that it can be rebuilt, and how long that takes\n  \
         regrow -p {file} status                 what would be lost now\n  \
         regrow init                             a pipeline for your own documents\n\
         Run quickstart again: nothing is embedded a second time.\n\
         (regrow is target/release/regrow after a build from source.)\n"
    )
}

fn questions(args: &QuickstartArgs) -> Vec<String> {
    match (&args.directory, args.queries.is_empty()) {
        (_, false) => args.queries.clone(),
        (None, true) => QUESTIONS.map(str::to_owned).to_vec(),
        (Some(_), true) => vec!["What is this about?".to_owned(), "How do I get started?".to_owned()],
    }
}

fn pipeline(args: &QuickstartArgs) -> Result<Pipeline> {
    let (name, corpus, include) = match &args.directory {
        Some(directory) => {
            let directory = std::path::absolute(directory)?;
            if !directory.is_dir() {
                return Err(Error::new(ErrorKind::Configuration, "there is no such directory")
                    .with("directory", directory.display())
                    .guidance("name one with documents: regrow quickstart DIR"));
            }
            ("quickstart".to_owned(), directory, Vec::new())
        }
        None => {
            let (directory, include) = crate_readmes()?;
            ("crates".to_owned(), directory, include)
        }
    };
    let mut pipeline = Pipeline::starter(&name, &corpus.display().to_string(), "repository");
    pipeline.corpus.include = include;
    // A stranger's directory may hold anything: what cannot be read is named and counted.
    pipeline.corpus.on_bad_document = OnBadDocument::Skip;
    pipeline.target.kind = TargetKind::Embedded;
    pipeline.target.path = Some("database".to_owned());
    if args.directory.is_none() {
        pipeline.corpus.path_metadata = Some("{crate}/**".to_owned());
    }
    Ok(pipeline)
}

/// The directory where cargo unpacked the crates of this build, and globs of their README files.
fn crate_readmes() -> Result<(PathBuf, Vec<String>)> {
    let home = variable("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").or_else(|| variable("USERPROFILE")).map(|home| Path::new(&home).join(".cargo")));
    let crates = locked_crates();
    let mut best: Option<(usize, PathBuf)> = None;
    if let Some(sources) = home.map(|home| home.join("registry").join("src"))
        && let Ok(registries) = std::fs::read_dir(&sources)
    {
        for registry in registries.flatten() {
            let there = crates.iter().filter(|name| registry.path().join(name).is_dir()).count();
            if best.as_ref().is_none_or(|(most, _)| there > *most) {
                best = Some((there, registry.path()));
            }
        }
    }
    match best {
        Some((there, directory)) if there >= FEWEST => {
            let include = ["README.md", "Readme.md", "readme.md", "README", "README.rst", "README.txt"]
                .iter()
                .map(|file| format!("*/{file}"))
                .collect::<Vec<_>>();
            let include = narrow(include, &crates, &directory);
            Ok((directory, include))
        }
        _ => Err(Error::new(ErrorKind::Configuration, "the sources of regrow's own crates are not on this machine")
            .guidance("name a directory with documents: regrow quickstart DIR")),
    }
}

/// `serde-1.0.229` and so on.
fn locked_crates() -> Vec<String> {
    let value = |line: &str, key: &str| {
        line.strip_prefix(key).map(|rest| rest.trim_matches(|c| c == ' ' || c == '=' || c == '"').to_owned())
    };
    let mut name = String::new();
    let mut crates = Vec::new();
    for line in LOCK.lines() {
        if let Some(found) = value(line, "name") {
            name = found;
        } else if let Some(version) = value(line, "version").filter(|_| !name.is_empty()) {
            crates.push(format!("{}-{version}", std::mem::take(&mut name)));
        }
    }
    crates
}

/// Only this build's crates, so that a developer's machine with thousands of others takes no longer.
fn narrow(files: Vec<String>, crates: &[String], directory: &Path) -> Vec<String> {
    let mut include = Vec::new();
    for name in crates {
        for file in &files {
            let path = file.replacen('*', name, 1);
            if directory.join(&path).is_file() {
                include.push(path);
                break;
            }
        }
    }
    include
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_file_names_this_builds_crates() {
        let crates = locked_crates();
        assert!(crates.len() > 100);
        assert!(crates.iter().any(|name| name.starts_with("serde-1.")));
    }
}
