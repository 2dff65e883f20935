//! `regrow doctor`: is everything there that a restore needs, and does it fit together?

use std::path::Path;

use regrow::embed::{Device, place_of};
use regrow::measure::Machine;
use regrow::model::ModelFiles;
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
        checks.push(model(settings, &workspace));
        checks.push(repository(&workspace).await);
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
        Ok::<_, regrow::Error>((target.kind(), target.list().await?.len()))
    };
    match listed.await {
        Ok((kind, collections)) => good("target", format!("{kind}, {collections} collections")),
        Err(e) => bad("target", &e),
    }
}
