//! What must hold after every operation.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use regrow::cancel::Cancel;
use regrow::event::Events;
use regrow::ids::Digest;
use regrow::repository::{FileSeal, InventoryReader, Manifest, Repository, VerifyOptions, verify};
use regrow::restore::RestoreReport;
use regrow::targets::Target;
use regrow::targets::memory::MemoryTarget;
use regrow::vectors::{PartName, VectorSetRecord, read_part};

use super::world::{Documents, World};

pub async fn names(world: &World, prefix: &str) -> Vec<String> {
    let repository = world.repository();
    let mut names: Vec<String> = repository.list(prefix).map_ok(|(name, ..)| name).try_collect().await.unwrap();
    names.sort();
    names
}

/// The snapshots, and what verify says.
pub async fn everything(world: &mut World) {
    snapshots(world).await;
    what_is_still_damaged(world).await;
    let repository = world.repository();
    let report = verify(&repository, &VerifyOptions::default(), &Events::silent(), &Cancel::default()).await;
    let report = report.unwrap_or_else(|e| panic!("{}: {e:?}", world.now));
    assert!(report.damaged.iter().all(|d| d.derivable && !d.hurts.is_empty()), "{}: {:?}", world.now, report.damaged);
    // It finds what vector sets name and is not so, and that was damaged on purpose.
    let found: BTreeSet<_> = report.damaged.iter().map(|d| d.object.clone()).collect();
    assert_eq!(found, wrong_parts(world).await, "{}", world.now);
    let known: BTreeSet<_> = world.damaged.iter().cloned().collect();
    assert!(found.is_subset(&known), "{}: {:?}", world.now, report.damaged);
}

/// Every snapshot that the replica shows is whole there, and after a copy that went well it has all of them.
pub async fn replica(world: &World, complete: bool) {
    let replica = Repository::over(world.copied.clone(), "replica");
    let ids = Manifest::ids(&replica).await.unwrap_or_else(|e| panic!("{}: {e:?}", world.now));
    for id in &ids {
        let manifest = Manifest::read(&replica, id).await.unwrap_or_else(|e| panic!("{}: {e:?}", world.now));
        for object in manifest.objects() {
            replica.get_checked(object).await.unwrap_or_else(|e| panic!("{}: {id}: {e:?}", world.now));
        }
    }
    let missing: Vec<_> = world.committed.keys().filter(|id| !ids.contains(id)).collect();
    assert!(!complete || missing.is_empty(), "{}: {missing:?}", world.now);
}

async fn stored(world: &World, name: &str) -> Option<Bytes> {
    world.stored.get(&Path::from(name)).await.ok()?.bytes().await.ok()
}

/// Parts that are not what a vector set says.
async fn wrong_parts(world: &World) -> BTreeSet<String> {
    let mut wrong = BTreeSet::new();
    let repository = world.repository();
    for name in names(world, "vector-sets").await {
        let id = name.trim_start_matches("vector-sets/").trim_end_matches(".json");
        let record = VectorSetRecord::read(&repository, id).await;
        let record = record.unwrap_or_else(|e| panic!("{}: {name}: {e:?}", world.now));
        for part in record.parts {
            let bytes = stored(world, &part.object.path).await;
            if bytes.is_none_or(|bytes| Digest::of(&bytes) != part.object.digest) {
                wrong.insert(part.object.path);
            }
        }
    }
    wrong
}

/// Every snapshot that must be there is, and is what it must be; one that has appeared is what it may be.
pub async fn snapshots(world: &mut World) {
    let repository = world.repository();
    let ids = Manifest::ids(&repository).await.unwrap_or_else(|e| panic!("{}: {e:?}", world.now));
    for id in &ids {
        if world.committed.contains_key(id) {
            continue;
        }
        let documents = world.may_appear.clone().unwrap_or_else(|| panic!("{}: where is {id} from?", world.now));
        world.committed.insert(id.clone(), documents);
    }
    world.may_appear = None;
    assert!(ids.iter().eq(world.committed.keys()), "{}: {ids:?} {:?}", world.now, world.committed.keys());
    for (id, documents) in &world.committed {
        let manifest = Manifest::read(&repository, id).await.unwrap_or_else(|e| panic!("{}: {e:?}", world.now));
        let mut reader = InventoryReader::new(&repository, &manifest);
        let mut found = BTreeMap::new();
        for bucket in 0..1u32 << manifest.buckets.bits {
            let rows = reader.bucket(bucket).await.unwrap_or_else(|e| panic!("{}: {e:?}", world.now));
            found.extend(rows.into_iter().map(|row| (row.document_id, row.text_digest)));
        }
        let wanted: BTreeMap<_, _> =
            documents.iter().map(|(id, text)| (id.clone(), Digest::of(text.as_bytes()))).collect();
        assert_eq!(found, wanted, "{}: {id}", world.now);
        assert_eq!(manifest.counts.documents, wanted.len() as u64);
        assert_eq!(manifest.counts.documents_skipped, 0);
    }
}

/// Forgets the parts that are right again: readable, and as every vector set has them. (A changed bit in what nobody
/// reads leaves a part's contents as they are: a later vector set takes it like this.)
pub async fn what_is_still_damaged(world: &mut World) {
    let mut damaged = wrong_parts(world).await;
    for name in &world.damaged {
        let part: PartName = name.rsplit('/').next().unwrap_or_default().parse().unwrap();
        if let Some(bytes) = stored(world, name).await
            && read_part(&part, bytes, &FileSeal::none()).is_err()
        {
            damaged.insert(name.clone());
        }
    }
    world.damaged.retain(|name| damaged.contains(name));
}

/// The collection holds the documents' chunks: spans of their texts, and together all of it.
pub async fn collection(
    world: &World,
    target: &MemoryTarget,
    report: &RestoreReport,
    documents: &Documents,
    whole: bool,
) {
    let mut spans: BTreeMap<String, Vec<(usize, usize)>> = BTreeMap::new();
    let mut after = None;
    loop {
        let page = target.scroll(&report.target.collection, after, 500).await.unwrap();
        for point in page.points {
            let text = |key: &str| point.payload[key].as_str().unwrap_or_default().to_owned();
            let number = |key: &str| point.payload[key].as_u64().unwrap() as usize;
            let (id, start, end) = (text("document_id"), number("start"), number("end"));
            let document = documents.get(&id).unwrap_or_else(|| panic!("{}: {id} was not in it", world.now));
            assert_eq!(document[start..end], text("text"), "{}: {id}", world.now);
            spans.entry(id).or_default().push((start, end));
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    for (id, spans) in &mut spans {
        spans.sort_unstable();
        let (text, mut reached) = (&documents[id], 0);
        for (start, end) in spans {
            let gap = &text[reached.min(*start)..*start];
            assert!(gap.trim().is_empty(), "{}: {id} lacks {gap:?}", world.now);
            reached = reached.max(*end);
        }
        assert!(text[reached..].trim().is_empty(), "{}: {id} lacks its end", world.now);
    }
    if whole {
        assert!(spans.keys().eq(documents.keys()), "{}: {:?} {:?}", world.now, spans.keys(), documents.keys());
    } else {
        assert_eq!(spans.len() as u64, report.documents, "{}", world.now);
    }
}
