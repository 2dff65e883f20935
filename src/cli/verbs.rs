//! One function per verb: call the library, print what came of it, return the exit code.

use std::io::Write;

use clap::CommandFactory;
use futures::TryStreamExt;
use regrow::drill::{DrillOptions, drill as run_drill, history};
use regrow::pipeline::{Pipeline, TargetKind};
use regrow::query::{QueryOptions, query as run_query};
use regrow::repository::{InventoryReader, Manifest, SnapshotSummary};
use regrow::restore::{Prepared, RestoreOptions, restore as run_restore};
use regrow::snapshot::{SnapshotOptions, snapshot as run_snapshot};
use regrow::status::status as run_status;
use regrow::targets::{Condition, Filter};
use regrow::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use super::args::{
    Cli, DocumentsChoice, DrillArgs, InitArgs, QueryArgs, RestoreArgs, ShowArgs, SnapshotArgs, SnapshotChoice,
};
use super::printer::Printer;
use super::settings::Settings;
use super::views;

pub(crate) fn init(settings: &Settings, printer: &Printer, args: &InitArgs) -> Result<u8> {
    let path = &settings.global.pipeline;
    let directory = std::env::current_dir()?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => usable_name(directory.file_name().unwrap_or_default().to_string_lossy().as_ref()),
    };
    let mut pipeline = Pipeline::starter(&name, &args.corpus, &args.repository);
    pipeline.target.kind = TargetKind::Embedded;
    pipeline.target.path = Some(args.database.clone());
    let text = pipeline.to_toml()?;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(!args.force).create(true).truncate(true);
    let mut file = options.open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => Error::new(ErrorKind::AlreadyExists, "there is a pipeline file already")
            .with("file", path.display())
            .guidance("--force replaces it; --pipeline FILE writes another"),
        _ => Error::from(e).with("file", path.display()),
    })?;
    file.write_all(text.as_bytes())?;
    let report =
        json!({ "verb": "init", "ok": true, "exit_code": 0, "file": path.display().to_string(), "name": name });
    settings.end_progress();
    printer.report(&report, || {
        format!("wrote {}\nnext: look at [corpus], then run `regrow snapshot` and `regrow restore`\n", path.display())
    })?;
    Ok(0)
}

/// A directory's name as the name of a pipeline: other characters become dashes.
fn usable_name(directory: &str) -> String {
    let dashed: String =
        directory.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    let name: String = dashed.trim_start_matches(['-', '_', '.']).chars().take(100).collect();
    if name.is_empty() { "docs".to_owned() } else { name }
}

pub(crate) async fn plan(
    settings: &Settings,
    printer: &Printer,
    choice: &SnapshotChoice,
    documents: DocumentsChoice,
) -> Result<u8> {
    let workspace = settings.workspace_from(choice)?;
    let options =
        RestoreOptions { snapshot: choice.snapshot.clone(), documents: documents.into(), ..RestoreOptions::default() };
    let plan = Prepared::open(&workspace, options).await?.plan().await?;
    settings.end_progress();
    printer.report(&plan, || views::plan(&plan))?;
    Ok(0)
}

pub(crate) async fn snapshot(settings: &Settings, printer: &Printer, args: &SnapshotArgs) -> Result<u8> {
    let workspace = settings.workspace()?;
    let options = SnapshotOptions { skip_target: args.skip_target, rehash: args.rehash, tags: args.tags.clone() };
    let report = run_snapshot(&workspace, &options).await?;
    settings.end_progress();
    printer.report(&report, || views::snapshot(&report))?;
    Ok(report.exit_code)
}

pub(crate) async fn restore(settings: &Settings, printer: &Printer, args: &RestoreArgs) -> Result<u8> {
    if args.dry_run {
        return plan(settings, printer, &args.choice, args.documents).await;
    }
    let workspace = settings.workspace_from(&args.choice)?;
    let promote = workspace.pipeline.target.promote == regrow::pipeline::PromotePolicy::OnPass;
    let options = RestoreOptions {
        snapshot: args.choice.snapshot.clone(),
        on_changed: args.on_changed.into(),
        documents: args.documents.into(),
        fresh: args.fresh,
        promote: promote && !args.no_promote,
        adopt: args.adopt,
        drop_previous: args.drop_previous || !workspace.pipeline.target.keep_previous,
        ..RestoreOptions::default()
    };
    let report = run_restore(&workspace, options).await?;
    settings.end_progress();
    printer.report(&report, || views::restore(printer, &report))?;
    Ok(report.exit_code)
}

pub(crate) async fn drill(settings: &Settings, printer: &Printer, args: &DrillArgs) -> Result<u8> {
    let workspace = settings.workspace_from(&args.choice)?;
    if args.history {
        let drills = history(&workspace.repository().await?).await?;
        let report = json!({ "verb": "drill", "ok": true, "exit_code": 0, "drills": drills });
        settings.end_progress();
        printer.report(&report, || views::drills(printer, &drills))?;
        return Ok(0);
    }
    let options = DrillOptions {
        snapshot: args.choice.snapshot.clone(),
        reuse: args.reuse || workspace.pipeline.drill.reuse,
        on_changed: args.on_changed.into(),
        documents: args.documents.into(),
    };
    let report = run_drill(&workspace, &options).await?;
    settings.end_progress();
    printer.report(&report, || views::drill(printer, &report))?;
    Ok(report.restore.exit_code)
}

pub(crate) async fn status(settings: &Settings, printer: &Printer) -> Result<u8> {
    let report = run_status(&settings.workspace()?).await?;
    settings.end_progress();
    printer.report(&report, || views::status(&report))?;
    Ok(0)
}

pub(crate) async fn list(settings: &Settings, printer: &Printer) -> Result<u8> {
    let workspace = settings.workspace()?;
    let repository = workspace.repository().await?;
    let (mut snapshots, mut damaged) = (Vec::new(), Vec::new());
    for id in Manifest::ids(&repository).await? {
        match Manifest::read(&repository, &id).await {
            Ok(manifest) => snapshots.push(SnapshotSummary::from(&manifest)),
            Err(e) => damaged.push(json!({ "id": id, "problem": e.to_string() })),
        }
    }
    let report = json!({
        "verb": "list", "ok": true, "exit_code": 0, "repository": repository.url(),
        "snapshots": snapshots, "damaged": damaged,
    });
    settings.end_progress();
    printer.report(&report, || views::list(printer, &snapshots, &damaged))?;
    Ok(0)
}

pub(crate) async fn show(settings: &Settings, printer: &Printer, args: &ShowArgs) -> Result<u8> {
    let workspace = settings.workspace()?;
    let repository = workspace.repository().await?;
    let manifest = Manifest::find(&repository, &args.snapshot, Some(&workspace.pipeline.name)).await?;
    let mut documents = Vec::new();
    if args.documents {
        let mut reader = InventoryReader::new(&repository, &manifest);
        for bucket in 0..1u32 << manifest.buckets.bits {
            documents.extend(reader.bucket(bucket).await?);
        }
        documents.sort_by(|a, b| a.document_id.cmp(&b.document_id));
    }
    let mut report = json!({ "verb": "show", "ok": true, "exit_code": 0, "manifest": manifest });
    if args.documents {
        report["documents"] = json!(documents);
    }
    settings.end_progress();
    printer.report(&report, || views::show(printer, &manifest, &documents))?;
    Ok(0)
}

pub(crate) async fn query(settings: &Settings, printer: &Printer, args: &QueryArgs) -> Result<u8> {
    let workspace = settings.workspace()?;
    let options = QueryOptions {
        text: args.text.clone(),
        k: args.k,
        collection: args.collection.clone(),
        filter: Filter { all: args.conditions.iter().map(|c| condition(c)).collect::<Result<_>>()? },
        tenant: args.tenant.clone(),
        acl: args.acl.clone(),
        exact: args.exact,
    };
    let report = run_query(&workspace, &options).await?;
    settings.end_progress();
    printer.report(&report, || views::query(&report))?;
    Ok(0)
}

/// `field=value`. What looks like a whole number or a boolean may also be text that looks so, as every
/// value of a CSV file is; quotes make it text only.
fn condition(text: &str) -> Result<Condition> {
    let (field, value) = text.split_once('=').ok_or_else(|| {
        Error::new(ErrorKind::Configuration, "--where takes FIELD=VALUE")
            .with("given", text)
            .guidance("for example --where metadata.year=2026")
    })?;
    let field = field.to_owned();
    Ok(match serde_json::from_str::<Value>(value) {
        Ok(Value::String(text)) => Condition::Equals { field, value: text.into() },
        Ok(typed @ (Value::Bool(_) | Value::Number(_))) if !typed.is_f64() => {
            Condition::AnyOf { field, values: vec![typed, value.into()] }
        }
        _ => Condition::Equals { field, value: value.into() },
    })
}

pub(crate) fn completions(printer: &Printer, shell: clap_complete::Shell) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "regrow", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    let report = json!({
        "verb": "completions", "ok": true, "exit_code": 0, "shell": shell.to_string(), "script": script,
    });
    printer.report(&report, || script.clone())?;
    Ok(0)
}

/// Documents of a corpus listing, for `doctor`.
pub(crate) async fn count_objects(corpus: &regrow::corpus::Corpus) -> Result<u64> {
    corpus.list().try_fold(0, async |n, _| Ok(n + 1)).await
}
