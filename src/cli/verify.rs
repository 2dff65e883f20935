//! `regrow verify`.

use std::fmt::Write;

use regrow::Result;
use regrow::verify::{Level, VerifyOptions, VerifyReport, cannot_be_recorded, name_replicas, record, verify};

use super::args::VerifyArgs;
use super::format::{bytes, count, duration};
use super::printer::Printer;
use super::settings::Settings;

pub(crate) async fn run(settings: &Settings, printer: &Printer, args: &VerifyArgs) -> Result<u8> {
    let mut workspace = settings.workspace()?;
    if let Some(from) = &args.from {
        workspace.replica = Some(from.clone());
    }
    let started = (workspace.now)();
    let repository = workspace.repository().await?;
    let options = options(args);
    let mut report = verify(&repository, &options, &workspace.events, &workspace.cancel).await?;
    name_replicas(&workspace, &mut report.damaged).await?;
    // Of one snapshot only, it says little about the repository.
    if options.snapshot.is_none() {
        match record(&repository, &report, started).await {
            Ok(_) => {}
            Err(e) if cannot_be_recorded(&e) => workspace.events.note(format!("the verification is not recorded: {e}")),
            Err(e) => workspace.events.warn(format!("the verification could not be recorded: {e}")),
        }
    }
    settings.end_progress();
    printer.report(&report, || view(&report))?;
    Ok(report.exit_code)
}

fn options(args: &VerifyArgs) -> VerifyOptions {
    VerifyOptions { quick: args.quick, subset: args.read_data_subset, seed: args.seed, snapshot: args.snapshot.clone() }
}

fn view(r: &VerifyReport) -> String {
    let mut out = format!(
        "{}: {} snapshots, {} vector sets, {} objects, {}\n",
        if r.ok { "all is as written" } else { "DAMAGED" },
        count(r.snapshots),
        count(r.vector_sets),
        count(r.objects),
        bytes(r.bytes)
    );
    let _ = match r.level {
        Level::Quick => writeln!(out, "  names and sizes compared, nothing read but records ({})", duration(r.seconds)),
        _ => writeln!(
            out,
            "  {} objects read, {} in {}, {}/s",
            count(r.objects_read),
            bytes(r.bytes_read),
            duration(r.seconds),
            bytes(r.bytes_per_second as u64)
        ),
    };
    if let Some(seed) = r.seed {
        let _ = writeln!(out, "  chosen at random; --seed {seed} chooses the same again");
    }
    if r.orphans.objects > 0 {
        let _ = writeln!(
            out,
            "  {} objects ({}) that nothing needs, no damage: `regrow prune` removes them",
            count(r.orphans.objects),
            bytes(r.orphans.bytes)
        );
    }
    if r.foreign.objects > 0 {
        let _ = writeln!(
            out,
            "  {} objects that regrow did not write, for example {}",
            count(r.foreign.objects),
            r.foreign.examples.first().map_or("", String::as_str)
        );
    }
    for damaged in &r.damaged {
        let _ = writeln!(out, "  {} ({})\n    {}", damaged.object, damaged.kind.name(), damaged.problem);
        if !damaged.hurts.is_empty() {
            let _ = writeln!(out, "    needed by {}", damaged.hurts.join(", "));
        }
        if !damaged.replicas.is_empty() {
            let _ = writeln!(out, "    there in {}", damaged.replicas.join(", "));
        }
        if damaged.derivable {
            out += "    the next restore computes it again, and so does `regrow repair`\n";
        }
    }
    if !r.ok {
        out += "next: `regrow repair --dry-run` says what can be mended\n";
    }
    out
}
