//! `regrow doctor`: is everything there that a restore needs, and does it fit together?

use std::path::Path;

use regrow::embed::{Device, place_of};
use regrow::measure::Machine;
use regrow::model::ModelFiles;
use regrow::pipeline::StoreSettings;
use regrow::store::{self, Probe, StoreKind};
use regrow::validate::{Check, Outcome};
use regrow::{ErrorKind, Result, Workspace};
use serde_json::json;

use super::printer::Printer;
use super::settings::Settings;
use super::{verbs, views};

pub(crate) async fn run(settings: &Settings, printer: &Printer) -> Result<u8> {
    let mut checks = Vec::new();
    let workspace = match settings.workspace() {
        Ok(workspace) => {
            checks.push(good("pipeline", settings.global.pipeline.display().to_string()));
            Some(workspace)
        }
        Err(e) => {
            checks.push(bad("pipeline", &e));
            None
        }
    };
    checks.push(device(workspace.as_ref().map_or(Device::Auto, |w| w.pipeline.model.device)));
    if let Some(workspace) = workspace {
        checks.push(corpus(&workspace).await);
        checks.extend(corpus_store(&workspace).await);
        checks.push(model(settings, &workspace));
        checks.push(repository(&workspace).await);
        checks.extend(repository_store(&workspace).await);
        for replica in &workspace.pipeline.repository.replicas {
            checks.extend(
                written_store(&format!("replica {}", replica.name), &replica.url, &replica.store, &workspace).await,
            );
        }
        checks.push(target(&workspace).await);
    }
    let ok = checks.iter().all(|c| c.outcome != Outcome::Fail);
    let exit_code = if ok { 0 } else { ErrorKind::Configuration.exit_code() };
    let machine = Machine::here();
    let report = json!({
        "verb": "doctor", "ok": ok, "exit_code": exit_code, "version": env!("CARGO_PKG_VERSION"),
        "machine": machine, "cache": settings.cache().display().to_string(), "checks": checks,
    });
    settings.end_progress();
    printer.report(&report, || views::doctor(printer, &machine, &checks))?;
    Ok(exit_code)
}

fn good(name: &str, reason: String) -> Check {
    Check::pass(name, json!(true), json!(true), reason)
}

fn bad(name: &str, error: &regrow::Error) -> Check {
    let mut reason = error.to_string();
    for cause in error.causes() {
        reason = format!("{reason}: {cause}");
    }
    if let Some(next) = error.next_step() {
        reason = format!("{reason}; next: {next}");
    }
    Check::fail(name, json!(false), json!(true), reason)
}

/// What embedding will compute with.
fn device(setting: Device) -> Check {
    match place_of(setting, None) {
        Ok((place, dtype)) => {
            let dtype = dtype.name();
            good("device", format!("{place}; a first snapshot takes {dtype} unless the pipeline says otherwise"))
        }
        Err(e) => bad("device", &e),
    }
}

async fn corpus(workspace: &Workspace) -> Check {
    let listed = async {
        let corpus = workspace.corpus(&workspace.pipeline.corpus)?;
        Ok::<_, regrow::Error>((verbs::count_objects(&corpus).await?, corpus.url().to_owned()))
    };
    match listed.await {
        Ok((0, url)) => {
            Check::fail("corpus", json!(0), json!("at least 1 object"), format!("nothing in {url} matches the globs"))
        }
        Ok((objects, url)) => good("corpus", format!("{objects} objects in {url}")),
        Err(e) => bad("corpus", &e),
    }
}

/// What a snapshot needs of the store of the corpus: listing it (reading is seen with the first document).
async fn corpus_store(workspace: &Workspace) -> Vec<Check> {
    let settings = &workspace.pipeline.corpus;
    if StoreKind::of(&settings.url) == Some(StoreKind::Directory) {
        return Vec::new();
    }
    match workspace.options(&settings.store) {
        Ok(options) => probed("corpus", store::probe(&settings.url, &workspace.base, &options, None).await),
        Err(e) => vec![bad("corpus store", &e)],
    }
}

async fn repository_store(workspace: &Workspace) -> Vec<Check> {
    let settings = &workspace.pipeline.repository;
    written_store("repository", &settings.url, &settings.store, workspace).await
}

/// Each operation that a repository needs of its store, tried with an object that is removed again.
async fn written_store(name: &str, url: &str, settings: &StoreSettings, workspace: &Workspace) -> Vec<Check> {
    let options = match workspace.options(settings) {
        Ok(options) => options,
        Err(e) => return vec![bad(&format!("{name} store"), &e)],
    };
    if StoreKind::of(url) == Some(StoreKind::Directory)
        && let Some(check) = no_directory_yet(name, url, &workspace.base)
    {
        return vec![check];
    }
    let id = uuid::Uuid::new_v4();
    probed(name, store::probe(url, &workspace.base, &options, Some(id)).await)
}

/// Whether a directory that is not there yet could be made.
fn no_directory_yet(name: &str, url: &str, base: &Path) -> Option<Check> {
    let name = format!("{name} write");
    let directory = match url::Url::parse(url) {
        Ok(url) if url.scheme() == "file" => url.to_file_path().ok()?,
        _ => base.join(url),
    };
    if directory.exists() {
        return None;
    }
    let above = directory.ancestors().find(|a| a.is_dir())?;
    Some(match tempfile::tempdir_in(above) {
        Ok(_) => good(&name, format!("{} can be made", directory.display())),
        Err(e) => {
            let e = regrow::Error::new(ErrorKind::Denied, "the directory cannot be made")
                .with("directory", directory.display())
                .because(e)
                .guidance("check owner and permissions, or give another place");
            bad(&name, &e)
        }
    })
}

fn probed(name: &str, probes: Vec<Probe>) -> Vec<Check> {
    let check = |Probe { operation, found }: Probe| {
        let name = format!("{name} {operation}");
        match found {
            Ok(found) => good(&name, found),
            // Credentials that only add are a good thing to take snapshots with.
            Err(e) if operation == "delete" && e.kind() == ErrorKind::Denied => Check::skipped(
                name,
                format!(
                    "not allowed: snapshots work, `forget`, `prune` and drills need credentials that may delete ({e})"
                ),
            ),
            Err(e) => bad(&name, &e),
        }
    };
    probes.into_iter().map(check).collect()
}

fn model(settings: &Settings, workspace: &Workspace) -> Check {
    let card = match workspace.model_card() {
        Ok(card) => card,
        Err(e) => return bad("model", &e),
    };
    if let Some(source) = workspace.model_source().filter(|source| !source.contains("://")) {
        return match ModelFiles::open(&card, Path::new(&source)) {
            Ok(files) => good("model", format!("{} in {}", card.name, files.directory.display())),
            Err(e) => bad("model", &e),
        };
    }
    match settings.models().cached(&card) {
        Some(files) => good("model", format!("{} in {}", card.name, files.directory.display())),
        None => {
            Check::skipped("model", format!("{} is not fetched yet; `regrow models fetch {}`", card.name, card.name))
        }
    }
}

async fn repository(workspace: &Workspace) -> Check {
    match workspace.repository().await {
        Ok(repository) => good("repository", repository.url().to_owned()),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            Check::skipped("repository", "there is none yet; `regrow snapshot` creates it")
        }
        Err(e) => bad("repository", &e),
    }
}

async fn target(workspace: &Workspace) -> Check {
    let listed = async {
        let target = workspace.target()?;
        let server = target.server().await?;
        let details: String = server.details.iter().map(|(name, value)| format!(", {name} {value}")).collect();
        let name = format!("{}: {} {}{details}", target.kind(), server.name, server.version);
        Ok::<_, regrow::Error>((name, target.list().await?.len()))
    };
    match listed.await {
        Ok((name, collections)) => good("target", format!("{name}, {collections} collections")),
        Err(e) => bad("target", &e),
    }
}
