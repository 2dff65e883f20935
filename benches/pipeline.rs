//! Cost per chunk and memory of everything but the model: read, chunk, tokenise, Parquet, load without index.
//!
//!     cargo bench --bench pipeline -- [CHUNKS ...]        default: 10000 100000; 1000000 takes several minutes
//!
//! The embedder is a no-op (pseudo-random vectors of 384 dimensions) behind the real tokenizer; the corpus is one
//! JSONL file of real text, the README files of the crates on this machine, as often as needed with another
//! number in each record. Every size runs in a process of its own, so that its peak memory is its own.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use regrow::Workspace;
use regrow::embed::{Engine, Tokenizer};
use regrow::event::Events;
use regrow::measure::{anonymous_rss_bytes, peak_rss_bytes};
use regrow::model::{FetchOptions, ModelCard, ModelStore};
use regrow::pipeline::Pipeline;
use regrow::restore::{RestoreOptions, restore};
use regrow::snapshot::{SnapshotOptions, snapshot};

const SIZE: &str = "REGROW_BENCH_CHUNKS";

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    if let Ok(chunks) = std::env::var(SIZE) {
        return tokio::runtime::Runtime::new()?.block_on(measure(chunks.parse()?));
    }
    let mut sizes: Vec<u64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    if sizes.is_empty() {
        sizes = vec![10_000, 100_000];
    }
    println!(
        "{:>9} {:>9} {:>9} {:>9} {:>12} {:>12} {:>12} {:>12}",
        "chunks", "snapshot", "restore", "µs/chunk", "load points/s", "peak RSS", "anonymous", "(at the end)"
    );
    for size in sizes {
        let status = std::process::Command::new(std::env::current_exe()?).env(SIZE, size.to_string()).status()?;
        if !status.success() {
            return Err(format!("the run with {size} chunks failed").into());
        }
    }
    Ok(())
}

fn home() -> PathBuf {
    std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from)
}

/// Real text: README files of unpacked crates, joined.
fn text() -> Result<String, Failure> {
    let sources = std::env::var_os("CARGO_HOME").map_or_else(|| home().join(".cargo"), PathBuf::from);
    let mut text = String::new();
    let mut crates = Vec::new();
    for registry in std::fs::read_dir(sources.join("registry").join("src"))?.flatten() {
        crates.extend(std::fs::read_dir(registry.path())?.flatten().map(|entry| entry.path()));
    }
    crates.sort();
    for directory in crates {
        text += &std::fs::read_to_string(directory.join("README.md")).unwrap_or_default();
    }
    if text.len() < 100_000 {
        return Err("too few crates are unpacked on this machine".into());
    }
    Ok(text)
}

/// Writes records until they make about `chunks` chunks of 200 tokens (about 450 bytes of such text).
fn corpus(path: &Path, chunks: u64) -> Result<(), Failure> {
    let text = text()?;
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    let (mut at, mut written, mut number) = (0, 0, 0u64);
    while written < chunks * 450 {
        let mut end = (at + 2400).min(text.len());
        while !text.is_char_boundary(end) {
            end += 1;
        }
        let record = serde_json::json!({ "id": number, "text": format!("Record {number}. {}", &text[at..end]) });
        serde_json::to_writer(&mut file, &record)?;
        file.write_all(b"\n")?;
        written += (end - at) as u64;
        number += 1;
        at = if end == text.len() { (number % 997) as usize } else { end };
        while !text.is_char_boundary(at) {
            at += 1;
        }
    }
    file.flush()?;
    Ok(())
}

async fn measure(chunks: u64) -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    std::fs::create_dir(directory.path().join("docs"))?;
    corpus(&directory.path().join("docs/records.jsonl"), chunks)?;
    let pipeline = Pipeline::from_toml(
        r#"name = "bench"
        [corpus]
        url = "docs"
        [[corpus.records]]
        include = ["*.jsonl"]
        id = "id"
        text = ["text"]
        [repository]
        url = "repository"
        [target]
        kind = "embedded"
        path = "database""#,
        "bench",
    )?;
    let store = || ModelStore::new(home().join(".cache/regrow"), FetchOptions::default());
    let files = store().get(&ModelCard::find("all-MiniLM-L6-v2")?, None, &Events::silent()).await?;
    let engine = Engine::noop(Tokenizer::open(&files.path("tokenizer.json"))?, 384)?;
    let mut workspace = Workspace::new(pipeline, directory.path().to_owned(), store());
    workspace.engine = Some(Arc::new(engine));

    let start = Instant::now();
    snapshot(&workspace, &SnapshotOptions::default()).await?;
    let snapshot_seconds = start.elapsed().as_secs_f64();
    let after_snapshot = anonymous_rss_bytes();
    let report = restore(&workspace, RestoreOptions { load_only: true, ..RestoreOptions::default() }).await?;
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    println!(
        "{:>9} {:>7.1} s {:>7.1} s {:>9.1} {:>12.0} {:>12} {:>12}",
        report.chunks,
        snapshot_seconds,
        report.seconds.total,
        report.seconds.total * 1e6 / report.chunks as f64,
        report.chunks as f64 / report.seconds.load,
        mib(peak_rss_bytes()),
        mib(anonymous_rss_bytes()),
    );
    println!("          after the snapshot {} anonymous; {:?}", mib(after_snapshot), report.seconds);
    Ok(())
}
