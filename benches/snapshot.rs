//! What a snapshot costs that builds on another: the first one, one of an unchanged corpus, one after a share of the
//! files changed, and one that reads everything again.
//!
//!     cargo bench --bench snapshot -- [FILES ...]        default: 10000 100000; 1000000 needs 4 GB of disk
//!
//! The embedder is a no-op behind the tokenizer of a tiny model; files are a few hundred bytes in directories of a
//! thousand. `listing` is what the corpus's listing alone takes: an unchanged corpus should take little more.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::TryStreamExt;
use regrow::Workspace;
use regrow::embed::{Engine, Tokenizer};
use regrow::measure::{anonymous_rss_bytes, peak_rss_bytes};
use regrow::model::{FetchOptions, ModelStore};
use regrow::pipeline::Pipeline;
use regrow::snapshot::{SnapshotOptions, snapshot};

const FILES: &str = "REGROW_BENCH_FILES";

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    if let Ok(files) = std::env::var(FILES) {
        return tokio::runtime::Runtime::new()?.block_on(measure(files.parse()?));
    }
    let mut sizes: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    if sizes.is_empty() {
        sizes = vec![10_000, 100_000];
    }
    println!(
        "{:>9} {:>9} {:>9} {:>10} {:>7} {:>9} {:>9} {:>9} {:>9}",
        "files", "first", "listing", "unchanged", "ratio", "1% new", "rehash", "peak RSS", "anonymous"
    );
    for size in sizes {
        // A process of its own, so that its peak memory is its own.
        let status = std::process::Command::new(std::env::current_exe()?).env(FILES, size.to_string()).status()?;
        if !status.success() {
            return Err(format!("the run with {size} files failed").into());
        }
    }
    Ok(())
}

fn write(docs: &Path, number: usize, version: usize, old: SystemTime) -> Result<(), Failure> {
    let directory = docs.join(format!("{:04}", number / 1000));
    if number.is_multiple_of(1000) {
        std::fs::create_dir_all(&directory)?;
    }
    let words: String = (0..40).map(|i| format!("word{} ", (number * 7 + i * 13 + version) % 9973)).collect();
    let path = directory.join(format!("page-{number}.txt"));
    std::fs::write(&path, format!("Page {number}, version {version}. {words}"))?;
    // What was written just now is read again by the next snapshot.
    std::fs::File::options().write(true).open(path)?.set_modified(old + Duration::from_secs(version as u64))?;
    Ok(())
}

async fn measure(files: usize) -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let docs = directory.path().join("docs");
    let old = SystemTime::now() - Duration::from_secs(86_400);
    for number in 0..files {
        write(&docs, number, 0, old)?;
    }
    let pipeline = Pipeline::from_toml(
        "name = \"bench\"\n[corpus]\nurl = \"docs\"\n[repository]\nurl = \"repository\"\n[chunking]\nsize = 100\noverlap = 0\n\
         [target]\nkind = \"memory\"\n",
        "bench",
    )?;
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/golden/tiny-distilbert/tokenizer.json");
    let models = ModelStore::new(directory.path().join("models"), FetchOptions::default());
    let mut workspace = Workspace::new(pipeline, directory.path().to_owned(), models);
    workspace.engine = Some(Arc::new(Engine::noop(Tokenizer::open(&tokenizer)?, 384)?));

    let timed = async |rehash: bool| {
        let start = Instant::now();
        let options = SnapshotOptions { rehash, ..SnapshotOptions::default() };
        let report = snapshot(&workspace, &options).await?;
        Ok::<_, Failure>((start.elapsed().as_secs_f64(), report))
    };
    let (first, _) = timed(false).await?;
    let corpus = workspace.corpus(&workspace.pipeline.corpus)?;
    let start = Instant::now();
    let listed: usize = corpus.list().try_fold(0, async |n, _| Ok(n + 1)).await?;
    let listing = start.elapsed().as_secs_f64();
    let (unchanged, report) = timed(false).await?;
    if (report.objects_read, listed) != (0, files) {
        return Err("the corpus changed meanwhile".into());
    }
    for number in (0..files).step_by(100) {
        write(&docs, number, 1, old)?;
    }
    let (some, report) = timed(false).await?;
    if report.objects_read as usize != files.div_ceil(100) {
        return Err(format!("{} objects were read", report.objects_read).into());
    }
    let (all, _) = timed(true).await?;
    println!(
        "{files:>9} {first:>7.2} s {listing:>7.2} s {unchanged:>8.2} s {:>7.1} {some:>7.2} s {all:>7.2} s {:>5} MiB {:>5} MiB",
        first / unchanged,
        peak_rss_bytes() >> 20,
        anonymous_rss_bytes() >> 20,
    );
    Ok(())
}
