//! Takes a snapshot of a directory, restores it into an embedded database, and prints what was checked.
//!
//!     cargo run --release --example snapshot_and_restore -- DOCS_DIR STATE_DIR
//!
//! Repository and database go into STATE_DIR; the model is kept in REGROW_CACHE, else in STATE_DIR too.

use std::path::{PathBuf, absolute};
use std::sync::Arc;

use regrow::event::{Event, Events, Reporter};
use regrow::model::{FetchOptions, ModelStore};
use regrow::pipeline::Pipeline;
use regrow::restore::{RestoreOptions, restore};
use regrow::snapshot::{SnapshotOptions, snapshot};
use regrow::{Result, Workspace};

/// The library never prints: it sends events, and this is who receives them.
struct Notes;

impl Reporter for Notes {
    fn event(&self, event: &Event) {
        if let Event::Note { text } | Event::Warning { text } = event {
            eprintln!("{text}");
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(docs), Some(state)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: snapshot_and_restore DOCS_DIR STATE_DIR");
        return Ok(());
    };
    let (docs, state) = (absolute(docs)?, absolute(state)?);
    std::fs::create_dir_all(&state)?;

    let mut pipeline = Pipeline::starter("example", &docs.display().to_string(), "repository");
    pipeline.target.path = Some("database".to_owned());
    for warning in pipeline.validate(&state)? {
        eprintln!("warning: {warning}");
    }
    let cache = std::env::var_os("REGROW_CACHE").map_or_else(|| state.join("cache"), PathBuf::from);
    let mut workspace = Workspace::new(pipeline, state, ModelStore::new(cache, FetchOptions::default()));
    workspace.events = Events::new(Arc::new(Notes));

    let taken = snapshot(&workspace, &SnapshotOptions::default()).await?;
    println!("snapshot {}: {} documents, {} chunks", taken.snapshot, taken.documents, taken.chunks);

    let report = restore(&workspace, RestoreOptions::default()).await?;
    println!("collection {}: {} points", report.target.collection, report.target.count);
    for check in &report.checks {
        println!("{:8} {:16} {}", check.outcome.name(), check.name, check.reason);
    }
    Ok(())
}
