//! `regrow extract`.

use std::fmt::Write;

use regrow::Result;
use regrow::capture::{ExtractOptions, ExtractReport, extract};

use super::args::ExtractArgs;
use super::format::{bytes, count};
use super::printer::Printer;
use super::settings::Settings;
use super::terminal::clean;

/// Problems that are shown; `--json` has up to a thousand.
const SHOWN: usize = 10;

pub(crate) async fn run(settings: &Settings, printer: &Printer, args: &ExtractArgs) -> Result<u8> {
    let workspace = settings.workspace()?;
    let options =
        ExtractOptions { snapshot: args.choice.snapshot.clone(), to: args.to.clone(), include: args.include.clone() };
    let report = extract(&workspace, &options).await?;
    settings.end_progress();
    printer.report(&report, || view(&report))?;
    Ok(report.exit_code)
}

fn view(r: &ExtractReport) -> String {
    let mut out = format!(
        "extract {} (as of {}) into {}\n  {} of {} objects written, {}",
        r.snapshot,
        r.created,
        clean(&r.to),
        count(r.written),
        count(r.objects),
        bytes(r.bytes)
    );
    if r.already_there > 0 {
        let _ = write!(out, "; {} were there already", count(r.already_there));
    }
    out.push('\n');
    for problem in r.problems.iter().take(SHOWN) {
        let _ = writeln!(out, "  not extracted {}: {}", clean(&problem.path), clean(&problem.problem));
    }
    if r.failed > SHOWN as u64 {
        let _ = writeln!(out, "  … and {} more", count(r.failed - SHOWN as u64));
    }
    out
}
