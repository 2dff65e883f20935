//! `regrow rollback`: the collection that was served before is served again.

use std::fmt::Write;

use regrow::Result;
use regrow::restore::{Rollback, RollbackReport, rollback};

use super::args::RollbackArgs;
use super::printer::Printer;
use super::settings::Settings;

pub(crate) async fn run(settings: &Settings, printer: &Printer, args: &RollbackArgs) -> Result<u8> {
    let what = match (&args.to, &args.delete, args.list) {
        (Some(name), _, _) => Rollback::To(name.clone()),
        (_, Some(name), _) => Rollback::Delete(name.clone()),
        (_, _, true) => Rollback::List,
        _ => Rollback::Previous,
    };
    let report = rollback(&settings.workspace()?, &what).await?;
    settings.end_progress();
    printer.report(&report, || view(&report))?;
    Ok(report.exit_code)
}

fn view(r: &RollbackReport) -> String {
    let mut out = String::new();
    if let Some(name) = &r.deleted {
        let _ = writeln!(out, "deleted {name}");
    }
    match (&r.collection, &r.previous) {
        (Some(now), Some(before)) => {
            let _ = writeln!(out, "{} points at {now} again; before: {before}", r.production);
        }
        (Some(now), None) => {
            let _ = writeln!(out, "{} points at {now}", r.production);
        }
        (None, _) => {
            let _ = writeln!(out, "{} points at nothing", r.production);
        }
    }
    for c in &r.collections {
        let mark = if c.served { "*" } else { " " };
        let _ = writeln!(out, "{mark} {}  {:?}, made {} from {}", c.name, c.state, c.created, c.snapshot);
    }
    out
}
