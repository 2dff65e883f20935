//! Two snapshots, bucket by bucket.

use super::report::{DiffReport, DifferenceKind, Embedding, Matcher, Side, Tally, change, price};
use super::state::DocumentState;
use super::{DiffOptions, settings};
use crate::error::Result;
use crate::repository::{InventoryReader, Manifest, Repository};
use crate::workspace::Workspace;

fn total(manifest: &Manifest) -> Tally {
    let counts = &manifest.counts;
    Tally { documents: counts.documents, chunks: counts.chunks, tokens: counts.tokens, bytes: counts.bytes }
}

/// A snapshot as one side of a comparison.
pub(super) fn side(manifest: &Manifest) -> Side {
    Side { snapshot: Some(manifest.id.clone()), created: manifest.created, total: total(manifest) }
}

/// The digest of the inventory object that holds a bucket.
fn object_of(manifest: &Manifest, bucket: u32) -> Option<crate::ids::Digest> {
    let holds = |range: Option<(u32, u32)>| range.is_some_and(|(a, b)| (a..=b).contains(&bucket));
    manifest.inventory.iter().find(|o| holds(o.buckets)).map(|o| o.digest)
}

async fn states(reader: &mut InventoryReader<'_>, first: u32, count: u32) -> Result<Vec<DocumentState>> {
    let mut states = Vec::new();
    for bucket in first..first + count {
        states.extend(reader.brief(bucket).await?.into_iter().map(DocumentState::from));
    }
    Ok(states)
}

pub(super) async fn diff_snapshots(
    workspace: &Workspace,
    repository: &Repository,
    from: &Manifest,
    to: &Manifest,
    options: &DiffOptions,
) -> Result<DiffReport> {
    let mut matcher = Matcher::new(options.limit)?;
    let (mut old, mut new) = (InventoryReader::new(repository, from), InventoryReader::new(repository, to));
    // Buckets of other bits nest: what is matched at once is a bucket of the coarser number.
    let bits = from.buckets.bits.min(to.buckets.bits);
    let same_bits = from.buckets.bits == to.buckets.bits;
    for unit in 0..1u32 << bits {
        workspace.cancel.check()?;
        // Snapshots share the objects in which nothing changed.
        if same_bits && object_of(from, unit) == object_of(to, unit) {
            continue;
        }
        let each = |m: &Manifest| 1u32 << (m.buckets.bits - bits);
        let before = states(&mut old, unit * each(from), each(from)).await?;
        let after = states(&mut new, unit * each(to), each(to)).await?;
        matcher.documents(before, after)?;
    }
    let named = matcher.finish()?;
    let (added, text) = (matcher.tally(DifferenceKind::Added), matcher.tally(DifferenceKind::Text));
    let mut embed =
        Embedding { chunks: added.chunks + text.chunks, tokens: added.tokens + text.tokens, ..Embedding::default() };
    if from.model_fingerprint != to.model_fingerprint {
        (embed.chunks, embed.tokens) = (to.counts.chunks, to.counts.tokens);
    }
    embed.usd = price(workspace, embed.tokens);
    let differing: u64 = [
        DifferenceKind::Added,
        DifferenceKind::Moved,
        DifferenceKind::Text,
        DifferenceKind::Payload,
        DifferenceKind::Bytes,
    ]
    .into_iter()
    .map(|kind| matcher.tally(kind).documents)
    .sum();
    Ok(DiffReport {
        verb: "diff",
        ok: true,
        exit_code: 0,
        unchanged: to.counts.documents.saturating_sub(differing),
        chunks_change: change(from.counts.chunks, to.counts.chunks),
        tokens_change: change(from.counts.tokens, to.counts.tokens),
        bytes_change: change(from.counts.bytes, to.counts.bytes),
        from: side(from),
        to: side(to),
        differences: matcher.tallies,
        embed,
        settings: settings::of_snapshots(from, to),
        named,
        documents_read: 0,
    })
}
