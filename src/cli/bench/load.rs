//! `regrow bench load`.

use regrow::targets::bench::{LoadOptions, LoadRound, LoadSet};
use regrow::validate::metrics::median;
use regrow::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::args::BenchLoadArgs;
use super::super::format;
use super::super::printer::Printer;
use super::super::settings::Settings;

/// What the other client took.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Peer {
    load_seconds: f64,
    #[serde(default)]
    index_seconds: Option<f64>,
}

/// One load with each.
#[derive(Debug, Serialize)]
struct Turn {
    regrow: LoadRound,
    peer: Option<Peer>,
}

/// Median over the rounds of the peer's time divided by regrow's in the same round.
#[derive(Debug, Serialize)]
struct Ratios {
    load: f64,
    index: Option<f64>,
}

pub(crate) async fn run(settings: &Settings, printer: &Printer, args: &BenchLoadArgs) -> Result<u8> {
    if args.points == 0 || args.dimension == 0 || args.rounds == 0 {
        return Err(Error::new(ErrorKind::Configuration, "points, dimension and rounds must be at least 1"));
    }
    let workspace = settings.workspace()?;
    let target = workspace.target()?;
    let options = LoadOptions { points: args.points, dimension: args.dimension, index: !args.no_index };
    let set = tokio::task::spawn_blocking(move || LoadSet::new(options)).await?;
    // The peer has as many.
    let writers = workspace.pipeline.target.writers.unwrap_or(target.capabilities().write_concurrency);
    let mut turns = Vec::new();
    for round in 0..args.rounds {
        let regrow =
            async { set.load(&*target, &workspace.pipeline.target, &workspace.events, &workspace.cancel).await };
        // Whoever comes second finds a warmer server: the order changes.
        let turn = if round % 2 == 0 {
            let peer = peer(args, writers).await?;
            Turn { regrow: regrow.await?, peer }
        } else {
            let regrow = regrow.await?;
            Turn { regrow, peer: peer(args, writers).await? }
        };
        turns.push(turn);
    }
    settings.end_progress();
    let ratios = ratios(&turns);
    let report = json!({ "verb": "bench", "ok": true, "exit_code": 0, "load": turns, "ratios": ratios });
    printer.report(&report, || table(printer, &turns, ratios.as_ref()))?;
    Ok(0)
}

async fn peer(args: &BenchLoadArgs, writers: usize) -> Result<Option<Peer>> {
    let Some(command) = &args.peer else { return Ok(None) };
    let failed = |message: &str| {
        Error::new(ErrorKind::Configuration, message.to_owned())
            .with("command", command)
            .guidance("it must print one JSON object with `load_seconds` on its last line, and end with status 0")
    };
    let output = tokio::process::Command::new("sh")
        .arg("-c")
        .arg(command)
        .env("REGROW_BENCH_POINTS", args.points.to_string())
        .env("REGROW_BENCH_DIMENSION", args.dimension.to_string())
        .env("REGROW_BENCH_WRITERS", writers.to_string())
        .env("REGROW_BENCH_INDEX", if args.no_index { "0" } else { "1" })
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed("the peer cannot be started").because(e))?
        .wait_with_output()
        .await
        .map_err(|e| failed("the peer cannot be waited for").because(e))?;
    if !output.status.success() {
        return Err(failed("the peer failed").with("status", output.status));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    serde_json::from_str(last).map(Some).map_err(|e| failed("the peer did not say how long it took").because(e))
}

fn ratios(turns: &[Turn]) -> Option<Ratios> {
    let of = |value: fn(&Turn) -> Option<f64>| {
        let all: Vec<f64> = turns.iter().filter_map(value).collect();
        (!all.is_empty()).then(|| median(&all))
    };
    let load = of(|t| Some(t.peer.as_ref()?.load_seconds / t.regrow.load_seconds))?;
    Some(Ratios { load, index: of(|t| Some(t.peer.as_ref()?.index_seconds? / t.regrow.index_seconds?)) })
}

fn table(printer: &Printer, turns: &[Turn], ratios: Option<&Ratios>) -> String {
    let header = ["", "load", "points/s", "MB/s", "index"];
    let mut rows = Vec::new();
    for (n, turn) in turns.iter().enumerate() {
        let mut row = |name: &str, load: f64, index: Option<f64>| {
            rows.push(vec![
                format!("{} {name}", n + 1),
                format::duration(load),
                format::count((turn.regrow.points as f64 / load) as u64),
                format!("{:.1}", turn.regrow.bytes as f64 / load / 1e6),
                index.map_or_else(|| "-".to_owned(), format::duration),
            ]);
        };
        row("regrow", turn.regrow.load_seconds, turn.regrow.index_seconds);
        if let Some(peer) = &turn.peer {
            row("peer", peer.load_seconds, peer.index_seconds);
        }
    }
    let mut text = printer.table(&header, &[1, 2, 3, 4], &rows);
    if let Some(LoadRound { server, points, dimension, writers, batch_points, .. }) = turns.first().map(|t| &t.regrow) {
        text += &format!(
            "\n{} {}: {} points of dimension {dimension}, {writers} writes at once of at most {batch_points} points\n",
            server.name,
            server.version,
            format::count(*points as u64)
        );
    }
    if let Some(Ratios { load, index }) = ratios {
        text += &format!("regrow loads {load:.2} times as fast as the peer (median of the rounds)\n");
        if let Some(index) = index {
            text += &format!("and builds its index {index:.2} times as fast\n");
        }
    }
    text
}
