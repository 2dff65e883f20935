//! `regrow forget`, `regrow prune`, `regrow unlock`.

use std::fmt::Write;

use clap::{Args, ValueEnum};
use regrow::Result;
use regrow::pipeline::RetentionSettings;
use regrow::repository::UnlockReport;
use regrow::retention::{
    Amount, DEFAULT_GRACE, ForgetOptions, ForgetReport, Group, PruneOptions, PruneReport, forget as run_forget,
    parse_span, prune as run_prune, rules,
};

use super::format::{amount, bytes, count, duration};
use super::printer::Printer;
use super::settings::Settings;
use super::terminal::clean;

#[derive(Debug, Args)]
pub(crate) struct ForgetArgs {
    /// Ids of snapshots, or the beginnings of some; without any the rules decide
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<String>,
    /// Only show what would be kept and removed
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Rules for 30d, 90d or 365d [default: the pipeline's `retention.preset`]
    #[arg(long, value_name = "NAME", conflicts_with = "ids")]
    pub(crate) preset: Option<String>,
    /// Keep the newest N
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N", conflicts_with = "ids")]
    pub(crate) keep_last: u32,
    /// Keep the newest of each of N hours that have one (UTC, as all that follow)
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N", conflicts_with = "ids")]
    pub(crate) keep_hourly: u32,
    /// Keep the newest of each of N days
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N", conflicts_with = "ids")]
    pub(crate) keep_daily: u32,
    /// Keep the newest of each of N weeks
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N", conflicts_with = "ids")]
    pub(crate) keep_weekly: u32,
    /// Keep the newest of each of N months
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N", conflicts_with = "ids")]
    pub(crate) keep_monthly: u32,
    /// Keep the newest of each of N years
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N", conflicts_with = "ids")]
    pub(crate) keep_yearly: u32,
    /// Keep all of this span before now, for example 30d: what nobody can push out
    #[arg(long, value_name = "SPAN", conflicts_with = "ids")]
    pub(crate) keep_within: Option<String>,
    /// Keep all with this tag (repeatable)
    #[arg(long = "keep-tag", value_name = "TAG", conflicts_with = "ids")]
    pub(crate) keep_tags: Vec<String>,
    /// Judge each pipeline for itself, or all snapshots together
    #[arg(long, value_enum, default_value_t = GroupArg::Pipeline)]
    pub(crate) group: GroupArg,
    /// With ids: remove even the last good snapshot of a pipeline
    #[arg(long, requires = "ids")]
    pub(crate) force_last: bool,
    /// Prune afterwards
    #[arg(long)]
    pub(crate) prune: bool,
}

/// Which snapshots are judged together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GroupArg {
    /// Those of one pipeline
    Pipeline,
    /// All
    All,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Only show what would be marked and removed
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How long an object stays after it was marked [default: the pipeline's `retention.grace`, or 24h]
    #[arg(long, value_name = "SPAN")]
    pub(crate) grace: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct UnlockArgs {
    /// Remove every lock, those of running runs too: these then fail before they commit
    #[arg(long)]
    pub(crate) all: bool,
}

pub(crate) async fn forget(settings: &Settings, printer: &Printer, args: &ForgetArgs) -> Result<u8> {
    let workspace = settings.workspace()?;
    // Flags add to the pipeline's rules; keep-* of the same kind both hold.
    let flags = RetentionSettings {
        preset: args.preset.clone(),
        keep_last: args.keep_last,
        keep_hourly: args.keep_hourly,
        keep_daily: args.keep_daily,
        keep_weekly: args.keep_weekly,
        keep_monthly: args.keep_monthly,
        keep_yearly: args.keep_yearly,
        keep_within: args.keep_within.clone(),
        keep_tags: args.keep_tags.clone(),
        grace: None,
    };
    let mut all = rules(&workspace.pipeline.retention)?;
    all.extend(rules(&flags)?);
    let options = ForgetOptions {
        ids: args.ids.clone(),
        rules: all,
        group: if args.group == GroupArg::All { Group::All } else { Group::Pipeline },
        dry_run: args.dry_run,
        force_last: args.force_last,
    };
    let repository = workspace.repository().await?;
    let mut report = run_forget(&repository, &options, &workspace.events, &workspace.cancel).await?;
    if args.prune {
        let options = prune_options(&workspace.pipeline.retention, None, args.dry_run)?;
        let pruned = run_prune(&repository, &options, &workspace.events, &workspace.cancel).await?;
        (report.ok, report.exit_code) = (pruned.ok, pruned.exit_code);
        report.prune = Some(pruned);
    }
    settings.end_progress();
    printer.report(&report, || forgotten(printer, &report))?;
    Ok(report.exit_code)
}

fn prune_options(retention: &RetentionSettings, grace: Option<&str>, dry_run: bool) -> Result<PruneOptions> {
    let grace = grace.or(retention.grace.as_deref()).map(parse_span).transpose()?.unwrap_or(DEFAULT_GRACE);
    Ok(PruneOptions { dry_run, grace })
}

pub(crate) async fn prune(settings: &Settings, printer: &Printer, args: &PruneArgs) -> Result<u8> {
    let workspace = settings.workspace()?;
    let options = prune_options(&workspace.pipeline.retention, args.grace.as_deref(), args.dry_run)?;
    let repository = workspace.repository().await?;
    let report = run_prune(&repository, &options, &workspace.events, &workspace.cancel).await?;
    settings.end_progress();
    printer.report(&report, || pruned(&report))?;
    Ok(report.exit_code)
}

pub(crate) async fn unlock(settings: &Settings, printer: &Printer, args: &UnlockArgs) -> Result<u8> {
    let workspace = settings.workspace()?;
    if args.all {
        workspace.events.warn(
            "every lock is removed: a run that is under way fails before it commits, and its work is continued by the next",
        );
    }
    let report = workspace.repository().await?.remove_locks(args.all).await?;
    settings.end_progress();
    printer.report(&report, || unlocked(printer, &report))?;
    Ok(report.exit_code)
}

fn forgotten(printer: &Printer, r: &ForgetReport) -> String {
    let mut out = String::new();
    if !r.rules.is_empty() {
        let _ = writeln!(out, "rules: {} (UTC)", r.rules.join(", "));
    }
    let rows: Vec<Vec<String>> = r
        .kept
        .iter()
        .map(|k| {
            let odd = k.suspicious.iter().map(|why| format!(" (odd: {why})")).collect::<String>();
            let created = k.created.strftime("%Y-%m-%d %H:%M").to_string();
            let why = format!("{}{odd}", k.reasons.join(", "));
            vec![k.id.clone(), created, k.pipeline.clone(), count(k.documents), k.tags.join(","), why]
        })
        .collect();
    let _ = writeln!(out, "{} kept", amount(rows.len() as u64, "snapshots"));
    out += &printer.table(&["snapshot", "created", "pipeline", "documents", "tags", "kept by"], &[3], &rows);
    let would = if r.dry_run { "would be removed" } else { "removed" };
    let _ = writeln!(out, "{} {would}", amount(r.removed.len() as u64, "snapshots"));
    for gone in &r.removed {
        let created =
            gone.created.map_or_else(|| "unreadable".to_owned(), |c| c.strftime("%Y-%m-%d %H:%M").to_string());
        let protected = if gone.protected { "  protected by the store: it stays" } else { "" };
        let pipeline = gone.pipeline.as_deref().unwrap_or_default();
        let _ = writeln!(out, "  {}  {created}  {}{protected}", gone.id, clean(pipeline));
    }
    for unreadable in &r.unreadable {
        let _ = writeln!(out, "  {} cannot be read and stays: {}", unreadable.id, clean(&unreadable.problem));
    }
    match &r.prune {
        Some(report) => out += &pruned(report),
        None if !r.removed.is_empty() && !r.dry_run => out += "next: `regrow prune` frees what only they needed\n",
        None => {}
    }
    out
}

fn pruned(r: &PruneReport) -> String {
    let size = |a: Amount| format!("{} ({})", amount(a.objects, "objects"), bytes(a.bytes));
    let mut out = format!("prune of {}, {} snapshots, grace {}\n", size(r.total), count(r.snapshots), r.grace);
    let would = |what: &str| if r.dry_run { format!("would be {what}") } else { what.to_owned() };
    let _ = writeln!(out, "  {}: {}", would("removed"), size(r.removed));
    let _ = writeln!(out, "  {}: {}", would("marked"), size(r.marked));
    if r.waiting.objects > 0 {
        let until = r.next.map(|next| format!(", the first until {}", next.strftime("%Y-%m-%d %H:%M UTC")));
        let _ = writeln!(out, "  waiting for the grace to pass: {}{}", size(r.waiting), until.unwrap_or_default());
    }
    if r.protected.objects > 0 {
        let _ = writeln!(out, "  protected by the store: {}", size(r.protected));
    }
    for why in &r.refused {
        let _ = writeln!(out, "  kept to be safe: {}", clean(why));
    }
    if !r.refused.is_empty() {
        out += "next: `regrow verify` says what is damaged; a snapshot that cannot be repaired is removed with `regrow forget ID`\n";
    }
    out
}

fn unlocked(printer: &Printer, r: &UnlockReport) -> String {
    let mut out = format!("{} removed, {} kept\n", amount(r.removed.len() as u64, "locks"), count(r.kept.len() as u64));
    let rows: Vec<Vec<String>> = [("removed", &r.removed), ("kept", &r.kept)]
        .into_iter()
        .flat_map(|(fate, locks)| locks.iter().map(move |lock| (fate, lock)))
        .map(|(fate, lock)| {
            let age = format!("{} ago", duration(lock.age_seconds as f64));
            let pid = lock.pid.to_string();
            vec![fate.to_owned(), lock.purpose.clone(), lock.kind.name().to_owned(), lock.host.clone(), pid, age]
        })
        .collect();
    if !rows.is_empty() {
        out += &printer.table(&["", "purpose", "lock", "host", "pid", "last sign of life"], &[4], &rows);
    }
    if !r.kept.is_empty() {
        out += "next: their runs are alive; `regrow unlock --all` removes them too, which makes those runs fail\n";
    }
    out
}
