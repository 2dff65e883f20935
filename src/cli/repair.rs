//! `regrow repair`.

use std::fmt::Write;

use regrow::Result;
use regrow::repair::{How, Outcome, RepairOptions, RepairReport, repair};
use regrow::verify::VerifyOptions;

use super::args::RepairArgs;
use super::format::{bytes, count, duration};
use super::printer::Printer;
use super::settings::Settings;

pub(crate) async fn run(settings: &Settings, printer: &Printer, args: &RepairArgs) -> Result<u8> {
    let workspace = settings.workspace()?;
    let options = RepairOptions {
        dry_run: args.dry_run,
        from: args.from.clone(),
        verify: VerifyOptions { quick: args.quick, snapshot: args.snapshot.clone(), ..VerifyOptions::default() },
    };
    let report = repair(&workspace, &options).await?;
    settings.end_progress();
    printer.report(&report, || view(&report))?;
    Ok(report.exit_code)
}

fn view(r: &RepairReport) -> String {
    if r.damaged == 0 {
        return format!("nothing is damaged in {} ({})\n", r.repository, duration(r.seconds));
    }
    let mended = r.actions.iter().filter(|a| a.outcome == Outcome::Done).count() as u64;
    let mut out = if r.dry_run {
        format!("{} damaged objects in {}; this would be done:\n", count(r.damaged), r.repository)
    } else {
        format!("{} of {} damaged objects mended in {}\n", count(mended), count(r.damaged), r.repository)
    };
    for action in &r.actions {
        let how = match (action.how, &action.replica) {
            (How::Replica, Some(name)) => format!("taken from {name}"),
            (How::Replica, None) => "taken from a replica".to_owned(),
            (How::Record, _) => "the part is right; its vector sets' records are corrected".to_owned(),
            (How::Compute, _) => "computed again from the corpus".to_owned(),
            (How::Rebuild, _) => "written again from its parts".to_owned(),
            (How::Nothing, _) => "cannot be mended".to_owned(),
        };
        let outcome = match action.outcome {
            Outcome::Planned => "",
            Outcome::Done => ": done",
            Outcome::Failed if action.how == How::Nothing => "",
            Outcome::Failed => ": FAILED",
        };
        let _ =
            writeln!(out, "  {} ({})\n    {}\n    {how}{outcome}", action.object, action.kind.name(), action.problem);
        if action.outcome == Outcome::Failed && !action.hurts.is_empty() {
            let _ = writeln!(out, "    needed by {}", action.hurts.join(", "));
        }
        if let Some(detail) = &action.detail {
            let _ = writeln!(out, "    {detail}");
        }
    }
    for damaged in &r.remaining {
        let _ = writeln!(out, "  still damaged: {}: {}", damaged.object, damaged.problem);
    }
    if !r.dry_run {
        let _ = writeln!(
            out,
            "{} taken from replicas, {} chunks embedded, {}",
            bytes(r.bytes_copied),
            count(r.chunks_embedded),
            duration(r.seconds)
        );
    }
    out
}
