//! `regrow diff`.

use std::fmt::Write;

use clap::Args;
use regrow::Result;
use regrow::diff::{DiffOptions, DiffReport, Difference, DifferenceKind, Side, diff};

use super::format::{bytes, count};
use super::printer::Printer;
use super::settings::Settings;
use super::terminal::clean;

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// `latest`, a snapshot id, or the beginning of one [default: the snapshot before the other one; with --corpus the
    /// latest]
    #[arg(value_name = "A")]
    pub(crate) from: Option<String>,
    /// The same [default: latest]
    #[arg(value_name = "B", conflicts_with = "corpus")]
    pub(crate) to: Option<String>,
    /// Compare snapshot A with the corpus as it is now, by size, time and tag; documents are read only where these
    /// leave it open
    #[arg(long)]
    pub(crate) corpus: bool,
    /// Read every document of the corpus, and say which texts changed
    #[arg(long, requires = "corpus")]
    pub(crate) rehash: bool,
    /// Differences of each kind that are named; all are counted
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub(crate) limit: usize,
}

pub(crate) async fn run(settings: &Settings, printer: &Printer, args: &DiffArgs) -> Result<u8> {
    let options = DiffOptions {
        from: args.from.clone(),
        to: args.to.clone(),
        corpus: args.corpus,
        rehash: args.rehash,
        limit: args.limit,
    };
    let report = diff(&settings.workspace()?, &options).await?;
    settings.end_progress();
    printer.report(&report, || view(printer, &report))?;
    Ok(report.exit_code)
}

fn word(kind: DifferenceKind) -> &'static str {
    match kind {
        DifferenceKind::Added => "added",
        DifferenceKind::Removed => "removed",
        DifferenceKind::Moved => "moved",
        DifferenceKind::Text => "text changed",
        DifferenceKind::Payload => "metadata changed",
        DifferenceKind::Bytes => "bytes changed only",
        DifferenceKind::Changed => "changed, not read",
        DifferenceKind::Unreadable => "cannot be read",
    }
}

fn mark(kind: DifferenceKind) -> char {
    match kind {
        DifferenceKind::Added => '+',
        DifferenceKind::Removed => '-',
        DifferenceKind::Moved => '>',
        DifferenceKind::Unreadable => '!',
        _ => '~',
    }
}

fn side(side: &Side) -> String {
    match &side.snapshot {
        Some(id) => format!("snapshot {id} ({})", side.created.strftime("%Y-%m-%d %H:%M:%S UTC")),
        None => "the corpus as it is now".to_owned(),
    }
}

/// A change with its sign.
fn signed(change: i64, text: impl Fn(u64) -> String) -> String {
    format!("{}{}", if change < 0 { "-" } else { "+" }, text(change.unsigned_abs()))
}

fn view(p: &Printer, r: &DiffReport) -> String {
    let mut out = format!("from {}\nto   {}\n", side(&r.from), side(&r.to));
    let mut rows = vec![vec!["unchanged".to_owned(), count(r.unchanged), String::new(), String::new(), String::new()]];
    for (kind, tally) in &r.differences {
        rows.push(vec![
            word(*kind).to_owned(),
            count(tally.documents),
            count(tally.chunks),
            count(tally.tokens),
            bytes(tally.bytes),
        ]);
    }
    out += &p.table(&["", "documents", "chunks", "tokens", "size"], &[1, 2, 3, 4], &rows);
    let _ = writeln!(
        out,
        "change: {} chunks, {} tokens, {}",
        signed(r.chunks_change, count),
        signed(r.tokens_change, count),
        signed(r.bytes_change, bytes)
    );
    let usd = r.embed.usd.map_or_else(String::new, |usd| format!(", {usd:.2} US dollars"));
    let _ = writeln!(
        out,
        "to embed: {} {} chunks, {} tokens{usd}",
        if r.embed.estimated { "about" } else { "at most" },
        count(r.embed.chunks),
        count(r.embed.tokens)
    );
    for line in &r.settings {
        let _ = writeln!(out, "setting {}", clean(line));
    }
    for Difference { document_id, kind, moved_from, .. } in &r.named {
        let from = moved_from.as_ref().map_or_else(String::new, |id| format!("  from {}", clean(id)));
        let _ = writeln!(out, "{} {}{from}  ({})", mark(*kind), clean(document_id), word(*kind));
    }
    let counted: u64 = r.differences.values().map(|tally| tally.documents).sum();
    if counted > r.named.len() as u64 {
        let _ = writeln!(out, "… and {} more: --limit N names more", count(counted - r.named.len() as u64));
    }
    out
}
