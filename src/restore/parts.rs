//! Some parts of a snapshot computed again, and nothing else: source → embed → store, without a target.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::mpsc;

use super::RestoreOptions;
use super::compute::{ComputeTotals, embed, store};
use super::corpus_check::CorpusDifference;
use super::plan::{PartPlan, Prepared};
use super::source::BucketSource;
use crate::error::{Error, Result};
use crate::event::Stage;
use crate::ingest::IngestTimes;
use crate::vectors::{PartName, PartRef};
use crate::workspace::Workspace;

/// What came of computing parts.
pub(crate) struct Computed {
    /// Parts that are stored now. Those of `wanted` that are not here have a document that differs.
    pub(crate) parts: Vec<PartRef>,
    /// Documents that are not what the snapshot recorded.
    pub(crate) differences: Vec<CorpusDifference>,
    /// Chunks that the model embedded.
    pub(crate) chunks_embedded: u64,
}

/// Computes the `wanted` parts of a snapshot and stores each in place of what is damaged there. The model must embed the
/// canaries as recorded, as for a restore.
pub(crate) async fn compute_parts(
    workspace: &Workspace,
    snapshot: &str,
    wanted: &BTreeSet<PartName>,
) -> Result<Computed> {
    let options = RestoreOptions { snapshot: snapshot.to_owned(), ..RestoreOptions::default() };
    let prepared = Prepared::open(&workspace.detached(), options).await?;
    let plan = prepared.plan().await?;
    let parts: Vec<PartPlan> = plan.part_plans.into_iter().filter(|part| wanted.contains(&part.name)).collect();
    let (events, cancel) = (&workspace.events, &workspace.cancel);
    let totals = Arc::new(ComputeTotals::default());
    let mut source = BucketSource::new(&prepared, Arc::new(IngestTimes::default()));
    let started = Instant::now();
    events.start(Stage::Read, Some(parts.iter().map(|part| part.documents).sum()), "documents");
    events.start(Stage::Embed, Some(parts.iter().map(|part| part.chunks).sum()), "chunks");
    let (sender, mut receiver) = mpsc::channel(1);
    let read = async {
        let sender = sender;
        let parts = if source.put_aside(&parts).await? { parts.as_slice() } else { &[] };
        for part in parts {
            cancel.check()?;
            if let Some(bucket) = source.bucket(part).await?
                && sender.send(bucket).await.is_err()
            {
                break;
            }
        }
        events.finish(Stage::Read, started.elapsed().as_secs_f64());
        Ok::<_, Error>(())
    };
    let compute = async {
        let mut stored = Vec::new();
        while let Some(mut bucket) = receiver.recv().await {
            embed(&prepared, &totals, &mut bucket).await?;
            if !bucket.rows.is_empty() {
                stored.push(store(&prepared, &totals, bucket).await?.0);
            }
        }
        events.finish(Stage::Embed, started.elapsed().as_secs_f64());
        Ok(stored)
    };
    let ((), parts) = tokio::try_join!(read, compute)?;
    Ok(Computed {
        parts,
        differences: source.differences.named,
        chunks_embedded: totals.chunks_embedded.load(Ordering::Relaxed),
    })
}
