//! `regrow copy`.

use std::fmt::Write;

use regrow::Result;
use regrow::copy::{CopyMode, CopyOptions, CopyReport, ReplicaReport, copy};

use super::args::CopyArgs;
use super::format::{bytes, count, duration};
use super::printer::Printer;
use super::settings::Settings;

pub(crate) async fn run(settings: &Settings, printer: &Printer, args: &CopyArgs) -> Result<u8> {
    let workspace = settings.workspace()?;
    let mode = match (args.check, args.dry_run) {
        (true, _) => CopyMode::Check,
        (false, true) => CopyMode::DryRun,
        (false, false) => CopyMode::Copy,
    };
    let options = CopyOptions {
        snapshots: args.snapshots.clone(),
        vectors: !args.no_vectors,
        drills: !args.no_drills,
        trust_store: args.trust_store,
        mode,
    };
    let report = copy(&workspace, &args.to, &options).await?;
    settings.end_progress();
    printer.report(&report, || view(&report))?;
    Ok(report.exit_code)
}

fn view(r: &CopyReport) -> String {
    let mut out = String::new();
    for replica in &r.replicas {
        out += &one(r.mode, replica);
    }
    for damaged in &r.damaged {
        let _ = writeln!(out, "not copied, damaged in {}: {}\n    {}", r.source, damaged.object, damaged.problem);
        if !damaged.hurts.is_empty() {
            let _ = writeln!(out, "    needed by {}", damaged.hurts.join(", "));
        }
    }
    if !r.damaged.is_empty() {
        out += "next: `regrow repair` mends what it can; then copy again\n";
    }
    if r.mode == CopyMode::Copy {
        let rate = r.bytes_copied as f64 / r.seconds.max(1e-9);
        let _ = writeln!(
            out,
            "{} copied in {}, {}/s",
            bytes(r.bytes_copied),
            duration(r.seconds),
            bytes(rate.round() as u64)
        );
    }
    out
}

fn one(mode: CopyMode, r: &ReplicaReport) -> String {
    let mut out = format!("{}: {}\n", r.name, r.url);
    if let Some(error) = &r.error {
        let text = |key: &str| error.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
        let _ = writeln!(out, "  FAILED: {}", text("message"));
        if !text("next").is_empty() {
            let _ = writeln!(out, "  next: {}", text("next"));
        }
    }
    let missing = r.snapshots_missing.len() as u64;
    let _ = match mode {
        CopyMode::Copy => writeln!(
            out,
            "  {} snapshots copied, {} were there; {} vector sets copied, {} were there; {} objects, {}",
            count(r.snapshots_copied.len() as u64),
            count(r.snapshots_there),
            count(r.vector_sets_copied),
            count(r.vector_sets_there),
            count(r.objects_copied),
            bytes(r.bytes_copied)
        ),
        _ => writeln!(
            out,
            "  {} snapshots and {} vector sets missing, {} there; {} objects to copy, {}",
            count(missing),
            count(r.vector_sets_missing),
            count(r.snapshots_there),
            count(r.objects_missing),
            bytes(r.bytes_missing)
        ),
    };
    if mode == CopyMode::Check {
        let _ = match r.behind_seconds {
            None => writeln!(out, "  it has no snapshot"),
            Some(0.0) => writeln!(out, "  it has the newest snapshot"),
            Some(seconds) => writeln!(out, "  its newest snapshot is {} older than the source's", duration(seconds)),
        };
    }
    if r.objects_unproven > 0 {
        let _ = writeln!(
            out,
            "  {} objects of an unfinished copy, read again before they count",
            count(r.objects_unproven)
        );
    }
    for withheld in &r.withheld {
        let _ = writeln!(out, "  not completed: {withheld}");
    }
    for damaged in &r.damaged {
        let _ = writeln!(out, "  damaged there: {}: {}", damaged.object, damaged.problem);
    }
    if !r.damaged.is_empty() {
        let _ = writeln!(out, "  next: regrow repair --repository {}", r.name);
    }
    if !r.extra_keys.is_empty() {
        let _ = writeln!(
            out,
            "  warning: {} key slots that were removed from the source still open it: regrow key remove --repository {}",
            r.extra_keys.len(),
            r.name
        );
    }
    out
}
