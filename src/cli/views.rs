//! Reports as people read them.

use std::fmt::Write;

use regrow::drill::DrillReport;
use regrow::measure::{Machine, Seconds};
use regrow::model::ModelCard;
use regrow::query::QueryReport;
use regrow::repository::{DocumentRow, Manifest, SnapshotSummary};
use regrow::restore::{RestorePlan, RestoreReport};
use regrow::snapshot::{Changes, SnapshotReport};
use regrow::status::{Standing, StatusReport};
use regrow::validate::Check;
use serde_json::Value;

use super::format::{bytes, count, duration};
use super::printer::Printer;
use super::terminal::clean;

/// `name  value` lines with the values aligned.
fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().fold(String::new(), |mut out, (name, value)| {
        let _ = writeln!(out, "  {name:width$}  {value}");
        out
    })
}

fn stages(seconds: &Seconds) -> String {
    let all = [
        ("read", seconds.read),
        ("chunk", seconds.chunk),
        ("embed", seconds.embed),
        ("write", seconds.write),
        ("load", seconds.load),
        ("index", seconds.index),
        ("validate", seconds.validate),
    ];
    let parts: Vec<_> =
        all.iter().filter(|(_, s)| *s > 0.0).map(|(name, s)| format!("{name} {}", duration(*s))).collect();
    format!("{} ({})", duration(seconds.total), parts.join(", "))
}

pub(super) fn snapshot(r: &SnapshotReport) -> String {
    let mut out = format!("snapshot {}\n", r.snapshot);
    out += &fields(&[
        ("corpus", format!("{} ({} objects, {})", r.corpus, count(r.objects), bytes(r.bytes))),
        ("read", format!("{} objects, {}", count(r.objects_read), bytes(r.bytes_read))),
        ("documents", format!("{}: {}", count(r.documents), changes(&r.changes))),
        ("skipped", count(r.documents_skipped)),
        ("captured", captured(r)),
        ("chunks", format!("{} ({} tokens)", count(r.chunks), count(r.tokens))),
        ("model", r.model_fingerprint.short()),
        ("rules", r.rules_fingerprint.short()),
        ("repository", r.repository.clone()),
        ("time", stages(&r.seconds)),
    ]);
    for skipped in r.skipped.iter().take(10) {
        let line = skipped.line.map(|l| format!(":{l}")).unwrap_or_default();
        let _ = writeln!(out, "  skipped {}{line}: {}", clean(&skipped.path), clean(&skipped.reason));
    }
    if r.skipped.len() > 10 {
        let _ = writeln!(out, "  … and {} more: `regrow show` lists them", count(r.documents_skipped - 10));
    }
    out
}

/// What a snapshot found beside the previous one.
fn changes(c: &Changes) -> String {
    let all = [
        (c.documents_unchanged, "unchanged"),
        (c.documents_added - c.documents_moved, "new"),
        (c.documents_moved, "moved"),
        (c.documents_changed, "changed"),
        (c.documents_removed, "gone"),
    ];
    let parts: Vec<_> = all.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", count(*n))).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

/// What was captured, and what changed or vanished meanwhile.
fn captured(r: &SnapshotReport) -> String {
    let mut text = match &r.captured {
        None => "by reference: the corpus is the only copy".to_owned(),
        Some(c) => format!(
            "{} ({}), {} new in {} blobs, {} stored in {} packs, {} of work",
            count(c.objects),
            bytes(c.bytes),
            bytes(c.new_bytes),
            count(c.new_blobs),
            bytes(c.stored_bytes),
            count(c.new_packs),
            duration(c.busy_seconds)
        ),
    };
    for (what, number) in
        [("changed while read, read again", r.objects_reread), ("deleted before read", r.objects_vanished)]
    {
        if number > 0 {
            let _ = write!(text, "; {what}: {}", count(number));
        }
    }
    text
}

pub(super) fn plan(p: &RestorePlan) -> String {
    let mut out = format!("plan: restore {} into {} {}\n", p.snapshot, p.target, p.collection);
    out += &fields(&[
        ("corpus", p.corpus.clone()),
        ("documents from", p.documents.to_owned()),
        ("taken", p.created.to_string()),
        ("documents", count(p.counts.documents)),
        ("chunks", format!("{} ({} tokens)", count(p.counts.chunks), count(p.counts.tokens))),
        ("parts", format!("{}, {} of them stored", count(p.parts), count(p.parts_stored))),
        ("to compute", format!("{} chunks, {} tokens", count(p.chunks_to_compute), count(p.tokens_to_compute))),
        ("model", format!("{} at {} tokens/s here", p.model, count(p.tokens_per_second as u64))),
        ("embedding", format!("at most {}{}", duration(p.embed_seconds), cost(p.embed_usd))),
        ("expected RTO", duration(p.rto_seconds)),
    ]);
    for item in &p.unsupported {
        let _ = writeln!(out, "  not in this target: {item}");
    }
    for item in &p.cannot_restore {
        let _ = writeln!(out, "  cannot be restored: {item}");
    }
    out
}

/// What a service charges, if it is known.
fn cost(usd: Option<f64>) -> String {
    usd.map_or_else(String::new, |usd| format!(", at most {usd:.2} US dollars"))
}

pub(super) fn restore(p: &Printer, r: &RestoreReport) -> String {
    let mut out = format!(
        "{} {} from snapshot {}\n",
        if r.ok { "restored" } else { "NOT restored:" },
        r.target.collection,
        r.snapshot
    );
    out += &fields(&[
        ("documents", format!("{} ({} skipped)", count(r.documents), count(r.documents_skipped))),
        (
            "chunks",
            format!("{}: {} embedded, {} reused", count(r.chunks), count(r.chunks_embedded), count(r.chunks_reused)),
        ),
        ("parts", format!("{}: {} reused, {} loaded", count(r.parts), count(r.parts_reused), count(r.parts_loaded))),
        ("collection", format!("{} {}, {} points", r.target.kind, r.target.collection, count(r.target.count))),
        ("time", stages(&r.seconds)),
        ("peak memory", bytes(r.peak_rss_bytes)),
    ]);
    if r.target.reused {
        out += "  the collection was there already, complete: nothing was loaded\n";
    }
    out += &p.checks(&r.checks);
    for item in &r.unsupported {
        let _ = writeln!(out, "  not in this target: {item}");
    }
    for difference in r.differences.iter().take(20) {
        let _ = writeln!(out, "  left out: {difference}");
    }
    match (&r.target.promoted, &r.target.previous) {
        (Some(name), Some(previous)) => {
            let _ = writeln!(out, "{name} now points at {}; before: {previous}", r.target.collection);
        }
        (Some(name), None) => {
            let _ = writeln!(out, "{name} points at {}", r.target.collection);
        }
        (None, _) => {}
    }
    if !r.ok {
        out += "next: look at the failed checks; the collection is kept for inspection and is not promoted\n";
    }
    out
}

pub(super) fn drill(p: &Printer, r: &DrillReport) -> String {
    let restore = &r.restore;
    let mut out = format!("drill {}: {}\n", r.drill, if restore.ok { "passed" } else { "FAILED" });
    out += &fields(&[
        ("snapshot", restore.snapshot.clone()),
        (
            "chunks",
            format!(
                "{}: {} embedded, {} reused",
                count(restore.chunks),
                count(restore.chunks_embedded),
                count(restore.chunks_reused)
            ),
        ),
        ("time", stages(&restore.seconds)),
        ("peak memory", bytes(restore.peak_rss_bytes)),
        ("cleaned up", if r.cleaned_up { "yes".to_owned() } else { "NO".to_owned() }),
    ]);
    for objective in &r.objectives {
        let allowed =
            objective.allowed.map_or_else(|| "no objective".to_owned(), |s| format!("allowed {}", duration(s)));
        let _ = writeln!(
            out,
            "  {}  {} ({allowed}){}",
            objective.name.trim_end_matches("_seconds").to_uppercase(),
            duration(objective.measured),
            if objective.reached { "" } else { "  MISSED" }
        );
    }
    out += &p.checks(&restore.checks);
    out
}

pub(super) fn drills(p: &Printer, records: &[Value]) -> String {
    let text = |record: &Value, key: &str| record[key].as_str().unwrap_or("-").to_owned();
    let rows = records
        .iter()
        .map(|r| {
            vec![
                text(r, "drill"),
                text(r, "snapshot"),
                if r["ok"] == true { "passed".to_owned() } else { format!("failed ({})", r["exit_code"]) },
                count(r["chunks"].as_u64().unwrap_or(0)),
                duration(r["seconds"]["total"].as_f64().unwrap_or(0.0)),
            ]
        })
        .collect::<Vec<_>>();
    p.table(&["drill", "snapshot", "result", "chunks", "RTO"], &[3, 4], &rows)
}

pub(super) fn status(r: &StatusReport) -> String {
    let mut out = format!("pipeline {} in {}\n", r.pipeline, r.repository);
    if let Some(latest) = &r.latest {
        let age = duration(r.age_seconds.unwrap_or(0.0));
        let _ = writeln!(
            out,
            "  latest of {} snapshots: {} ({} documents, {} chunks), {age} old",
            count(r.snapshots),
            latest.id,
            count(latest.counts.documents),
            count(latest.counts.chunks)
        );
    }
    if let Some(e) = &r.exposure {
        let _ = writeln!(
            out,
            "  the corpus since then: {} added, {} changed, {} vanished ({})",
            count(e.added),
            count(e.changed),
            count(e.vanished),
            bytes(e.bytes)
        );
        if let Some(age) = e.oldest_unsaved_seconds {
            let _ = writeln!(out, "    the oldest change that no snapshot has is {} old", duration(age));
        }
        if e.suspect > 0 {
            let _ = writeln!(out, "    {} more may have changed: `regrow diff --corpus` reads them", count(e.suspect));
        }
        for example in &e.examples {
            let _ = writeln!(out, "    {example}");
        }
    }
    for c in &r.collections {
        let state = c.marker.as_ref().map_or_else(
            || "not regrow's".to_owned(),
            |m| format!("{}, from {}", format!("{:?}", m.state).to_lowercase(), m.snapshot),
        );
        let served = if c.aliases.is_empty() { String::new() } else { format!(", served as {}", c.aliases.join(", ")) };
        let _ = writeln!(out, "  collection {}: {} points, {state}{served}", c.name, count(c.count));
    }
    for replica in &r.replicas {
        let state = match (&replica.problem, replica.current) {
            (Some(problem), _) => format!("! {problem}"),
            (None, true) => "has the latest snapshot".to_owned(),
            (None, false) => "lacks the latest snapshot: run `regrow copy`".to_owned(),
        };
        let _ = writeln!(out, "  replica {} at {}: {state}", replica.name, replica.url);
    }
    for answer in &r.answers {
        let mark = match answer.standing {
            Standing::Good => '✓',
            Standing::Partly => '~',
            Standing::Unknown => '?',
            Standing::Bad => '✗',
        };
        let _ = writeln!(out, "{mark} {:<10} {}", format!("{}?", answer.question), answer.text);
        if let Some(next) = &answer.next {
            let _ = writeln!(out, "             → {next}");
        }
    }
    for problem in &r.problems {
        let _ = writeln!(out, "  ! {problem}");
    }
    out
}

pub(super) fn list(p: &Printer, snapshots: &[SnapshotSummary], damaged: &[Value]) -> String {
    let rows = snapshots
        .iter()
        .map(|s| {
            vec![
                s.id.clone(),
                s.pipeline.clone(),
                s.created.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
                count(s.counts.documents),
                count(s.counts.chunks),
                bytes(s.counts.bytes),
                s.capture.name().to_owned(),
                s.tags.join(" "),
                s.model.clone(),
            ]
        })
        .collect::<Vec<_>>();
    let header = ["snapshot", "pipeline", "taken", "documents", "chunks", "size", "capture", "tags", "model"];
    let mut out = p.table(&header, &[3, 4, 5], &rows);
    for d in damaged {
        let _ = writeln!(out, "damaged: {}", d["problem"].as_str().unwrap_or_default());
    }
    out
}

pub(super) fn show(p: &Printer, m: &Manifest, documents: &[DocumentRow]) -> String {
    let mut out = format!("snapshot {}\n", m.id);
    out += &fields(&[
        ("pipeline", m.pipeline.clone()),
        ("taken", m.created.to_string()),
        ("written by", format!("regrow {}", m.tool_version)),
        (
            "corpus",
            format!(
                "{} ({} objects, capture: {})",
                m.corpus.settings.url,
                count(m.corpus.objects),
                m.corpus.capture.name()
            ),
        ),
        (
            "documents",
            format!(
                "{} ({}), {} skipped",
                count(m.counts.documents),
                bytes(m.counts.bytes),
                count(m.counts.documents_skipped)
            ),
        ),
        (
            "chunks",
            format!(
                "{} ({} tokens) in {} buckets",
                count(m.counts.chunks),
                count(m.counts.tokens),
                1u64 << m.buckets.bits
            ),
        ),
        (
            "rules",
            format!(
                "at most {} tokens, overlap {}, splitter {} ({})",
                m.rules.size,
                m.rules.overlap,
                m.rules.splitter_version,
                m.rules_fingerprint.short()
            ),
        ),
        (
            "model",
            format!(
                "{}, {} dimensions, {:?} ({})",
                m.model.name,
                m.model.dimension,
                m.model.dtype,
                m.model_fingerprint.short()
            ),
        ),
        ("collection", format!("{} {}", m.target.kind, m.target.collection)),
        ("live points", m.target.live_count.map_or_else(|| "there was no collection".to_owned(), count)),
    ]);
    for item in &m.cannot_restore {
        let _ = writeln!(out, "  cannot be restored: {item}");
    }
    if !documents.is_empty() {
        let rows = documents
            .iter()
            .map(|d| vec![d.document_id.clone(), bytes(d.bytes), count(u64::from(d.chunks)), d.digest.short()])
            .collect::<Vec<_>>();
        out += &p.table(&["document", "size", "chunks", "digest"], &[1, 2], &rows);
    }
    out
}

/// Characters of a chunk shown with a hit.
const EXCERPT: usize = 240;

pub(super) fn query(r: &QueryReport) -> String {
    let mut out = format!("{}\n", r.query);
    for (i, hit) in r.hits.iter().enumerate() {
        let title = hit.title.as_deref().map(|t| format!(" — {}", clean(t))).unwrap_or_default();
        let _ = writeln!(out, "  {}. {:.3}  {}{title}", i + 1, hit.score, clean(&hit.document_id));
        let flat = clean(&hit.text).split_whitespace().collect::<Vec<_>>().join(" ");
        let mut excerpt: String = flat.chars().take(EXCERPT).collect();
        if excerpt.len() < flat.len() {
            excerpt.push('…');
        }
        let _ = writeln!(out, "     {excerpt}");
    }
    if r.hits.is_empty() {
        out += "  nothing found\n";
    }
    out
}

pub(super) fn models(p: &Printer, cards: &[(ModelCard, bool)]) -> String {
    let rows = cards
        .iter()
        .map(|(card, cached)| {
            vec![
                card.name.clone(),
                count(u64::from(card.dimension)),
                count(u64::from(card.max_tokens)),
                card.licence.clone(),
                if *cached { "yes".to_owned() } else { String::new() },
                card.description.clone(),
            ]
        })
        .collect::<Vec<_>>();
    p.table(&["model", "dimension", "max tokens", "licence", "cached", "what it is"], &[1, 2], &rows)
}

pub(super) fn model(card: &ModelCard, cached: Option<&str>) -> String {
    let mut out = format!("{}: {}\n", card.name, card.description);
    out += &fields(&[
        ("architecture", format!("{:?}", card.architecture)),
        ("pooling", format!("{:?}{}", card.pooling, if card.normalize { ", normalised" } else { "" })),
        ("dimension", card.dimension.to_string()),
        ("max tokens", card.max_tokens.to_string()),
        ("metric", format!("{:?}", card.metric)),
        ("query prefix", format!("{:?}", card.query_prefix)),
        ("document prefix", format!("{:?}", card.document_prefix)),
        ("licence", card.licence.clone()),
        ("cached", cached.unwrap_or("no").to_owned()),
    ]);
    out
}

pub(super) fn doctor(p: &Printer, machine: &Machine, list: &[Check]) -> String {
    let mut out = format!(
        "regrow {} on {} ({} cores, {} memory, {})\n",
        env!("CARGO_PKG_VERSION"),
        machine.cpu,
        machine.cores,
        bytes(machine.memory_bytes),
        machine.system
    );
    out += &p.checks(list);
    out
}
