use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use proptest::prelude::*;

use super::cut::{Cutter, LARGEST};
use super::pack::{Pack, PackBuilder};
use super::writer::CaptureWriter;
use super::*;
use crate::corpus::{Document, SourceObject, TextFormat};
use crate::error::ErrorKind;
use crate::ids::Digest;
use crate::pipeline::CaptureMode;
use crate::repository::{Captured, Repository};

/// Bytes that do not compress and do not repeat.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

fn cut(bytes: &[u8], steps: &[usize]) -> Vec<Vec<u8>> {
    let (mut cutter, mut blobs, mut rest) = (Cutter::default(), Vec::new(), bytes);
    let mut steps = steps.iter().cycle();
    let mut add = |blob: &[u8]| -> Result<(), ()> {
        blobs.push(blob.to_vec());
        Ok(())
    };
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rest.len().min(*steps.next().unwrap_or(&rest.len())));
        cutter.push(now, &mut add).unwrap();
        rest = later;
    }
    cutter.finish(&mut add).unwrap();
    blobs
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn pieces_join_to_the_bytes_however_they_came(
        seed: u64,
        length in prop_oneof![0..3usize, LARGEST - 2..LARGEST + 3, 0..24usize << 20],
        steps in prop::collection::vec(1..9usize << 20, 1..4),
    ) {
        let bytes = noise(seed, length);
        let blobs = cut(&bytes, &steps);
        prop_assert_eq!(blobs.concat(), bytes.clone());
        prop_assert!(blobs.iter().all(|b| !b.is_empty() && b.len() <= LARGEST));
        prop_assert_eq!(blobs.len() <= 1, length <= LARGEST);
        prop_assert!(blobs == cut(&bytes, &[usize::MAX]));
    }
}

#[test]
fn an_edit_changes_only_the_pieces_around_it() {
    let before = noise(1, 24 << 20);
    let mut after = before.clone();
    after.splice(9 << 20..9 << 20, noise(2, 1000));
    let known: HashSet<Vec<u8>> = cut(&before, &[1 << 20]).into_iter().collect();
    let blobs = cut(&after, &[1 << 20]);
    let new: usize = blobs.iter().filter(|b| !known.contains(*b)).map(Vec::len).sum();
    assert!(new <= 3 * LARGEST && blobs.len() > 5, "{new} new bytes of {}", after.len());
}

fn memory() -> (Arc<InMemory>, Repository) {
    let store = Arc::new(InMemory::new());
    (store.clone(), Repository::over(store, "memory"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn packs_hold_what_was_put_in_and_show_any_damage(
        sizes in prop::collection::vec(prop_oneof![0..200usize, 0..2usize << 20], 1..12),
        seed: u64,
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0..8u32), 24),
        truncated in any::<prop::sample::Index>(),
    ) {
        let (_, repository) = memory();
        let mut builder = PackBuilder::new(&repository).unwrap();
        let blobs: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(i, n)| noise(seed ^ i as u64, *n)).collect();
        for (i, blob) in blobs.iter().enumerate() {
            prop_assert_eq!(builder.push(&Digest::of(blob), blob).unwrap(), i as u32);
        }
        let (bytes, rows) = builder.finish().unwrap();
        prop_assert_eq!(rows, blobs.len() as u64);
        let mut pack = Pack::open(&repository, bytes.clone()).unwrap();
        for (i, blob) in blobs.iter().enumerate().rev() {
            let (name, content) = pack.blob(i as u32).unwrap();
            prop_assert!(name == Digest::of(blob) && content == blob.as_slice());
        }
        prop_assert_eq!(pack.blob(blobs.len() as u32).unwrap_err().kind(), ErrorKind::Damaged);
        // Without the digest of the whole pack: what is given out is right, or nothing is.
        let check = |damaged: Vec<u8>| {
            let Ok(mut pack) = Pack::open(&repository, damaged.into()) else { return Ok(()) };
            for (i, blob) in blobs.iter().enumerate() {
                if let Ok((name, content)) = pack.blob(i as u32) {
                    prop_assert!(name != Digest::of(blob) || content == blob.as_slice());
                }
            }
            Ok(())
        };
        for (at, bit) in damage {
            let mut damaged = bytes.to_vec();
            damaged[at.index(bytes.len())] ^= 1 << bit;
            check(damaged)?;
        }
        check(bytes[..truncated.index(bytes.len())].to_vec())?;
    }
}

fn object(path: &str, bytes: &[u8]) -> SourceObject {
    SourceObject {
        path: path.to_owned(),
        size: bytes.len() as u64,
        modified: 1_700_000_000_123_456,
        etag: None,
        version: None,
    }
}

/// Captures these objects as a snapshot would; `keep` are the paths that are unchanged.
async fn captured(
    repository: &Repository,
    previous: &Captured,
    objects: &BTreeMap<String, Vec<u8>>,
    keep: &[&str],
) -> crate::Result<(Captured, CaptureTotals)> {
    let writer = Arc::new(CaptureWriter::after(repository, CaptureMode::Copy, previous.clone(), true).unwrap());
    for path in keep {
        writer.keep(path, false).unwrap();
    }
    for (path, bytes) in objects.clone() {
        let mut tap = writer.tap().unwrap();
        tokio::task::spawn_blocking(move || {
            for part in bytes.chunks(300_000) {
                tap.bytes(part).unwrap();
            }
            tap.end(&object(&path, &bytes)).unwrap();
        })
        .await
        .unwrap();
    }
    writer.finish().await
}

/// Everything that a snapshot has captured.
async fn contents(repository: &Repository, captured: &Captured) -> BTreeMap<String, Vec<u8>> {
    let mut order = PackOrder::new(repository, captured, &mut |_| true).await.unwrap();
    let reader = CapturedReader::new(repository, captured);
    let mut found = BTreeMap::new();
    while let Some(objects) = order.next().unwrap() {
        for object in objects {
            let reader = reader.clone();
            let (path, bytes) = tokio::task::spawn_blocking(move || {
                assert_eq!(object.modified, 1_700_000_000_123_456);
                let bytes = reader.bytes(&object).unwrap();
                let mut streamed = Vec::new();
                std::io::Read::read_to_end(&mut reader.stream(&object).0, &mut streamed).unwrap();
                assert!(streamed == bytes);
                (object.path, bytes)
            })
            .await
            .unwrap();
            assert!(found.insert(path, bytes).is_none());
        }
    }
    assert_eq!(found.len() as u64, captured.objects);
    assert_eq!(found.values().map(|b| b.len() as u64).sum::<u64>(), captured.bytes);
    found
}

fn files(files: &[(&str, Vec<u8>)]) -> BTreeMap<String, Vec<u8>> {
    files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.clone())).collect()
}

#[tokio::test]
async fn the_same_bytes_are_stored_once_and_unchanged_objects_are_not_read() {
    let (_, repository) = memory();
    let large = noise(5, 30 << 20);
    let first = files(&[
        ("a/large.jsonl", large.clone()),
        ("a/small.md", b"small".to_vec()),
        ("b/small copy.md", b"small".to_vec()),
        ("b/empty.md", Vec::new()),
        ("gone.md", noise(6, 5000)),
    ]);
    let (one, totals) = captured(&repository, &Captured::default(), &first, &[]).await.unwrap();
    assert_eq!(contents(&repository, &one).await, first);
    assert_eq!((totals.objects, totals.new_bytes), (5, (30 << 20) + 5 + 5000));

    // The record file grew, one file is gone, one is new, one is kept without its bytes being seen.
    let mut grown = large.clone();
    grown.extend(noise(7, 200_000));
    let second = files(&[("a/large.jsonl", grown.clone()), ("b/new.md", b"new".to_vec()), ("b/empty.md", Vec::new())]);
    let (two, totals) = captured(&repository, &one, &second, &["a/small.md", "b/small copy.md"]).await.unwrap();
    let mut expected = second.clone();
    expected.extend(files(&[("a/small.md", b"small".to_vec()), ("b/small copy.md", b"small".to_vec())]));
    assert_eq!(contents(&repository, &two).await, expected);
    assert!(totals.new_bytes < LARGEST as u64 + 200_003 && totals.new_blobs <= 4, "{totals:?}");
    assert!(totals.stored_bytes < 5 << 20, "{totals:?}");
    // The first snapshot is as it was.
    assert_eq!(contents(&repository, &one).await, first);

    // Nothing new: the same index, no new packs.
    let keep: Vec<&str> = expected.keys().map(String::as_str).collect();
    let (three, totals) = captured(&repository, &two, &BTreeMap::new(), &keep).await.unwrap();
    assert_eq!((&three, totals.new_packs, totals.new_blobs), (&two, 0, 0));
    let (read_again, totals) = captured(&repository, &two, &expected, &[]).await.unwrap();
    assert_eq!((&read_again, totals.new_packs, totals.new_blobs), (&two, 0, 0));

    // Packs that nothing needs any more are not listed, and the rest still finds its blobs.
    let small = files(&[("b/new.md", b"new".to_vec())]);
    let (four, _) = captured(&repository, &two, &BTreeMap::new(), &["b/new.md"]).await.unwrap();
    assert!(four.packs.len() < two.packs.len() && !four.packs.is_empty());
    assert_eq!(contents(&repository, &four).await, small);

    let e = captured(&repository, &four, &BTreeMap::new(), &["a/small.md"]).await.unwrap_err();
    assert_eq!((e.kind(), e.context_value("file")), (ErrorKind::Damaged, Some("a/small.md")));
}

#[tokio::test]
async fn what_only_a_missing_pack_holds_is_stored_again() {
    let (store, repository) = memory();
    let objects = files(&[("a.md", noise(1, 3000)), ("b.md", noise(2, 5000))]);
    let (one, _) = captured(&repository, &Captured::default(), &objects, &[]).await.unwrap();
    for pack in &one.packs {
        store.delete(&Path::from(pack.path.as_str())).await.unwrap();
    }
    let (two, totals) = captured(&repository, &one, &objects, &[]).await.unwrap();
    assert_eq!(totals.new_bytes, 8000);
    assert_eq!(contents(&repository, &two).await, objects);
}

#[tokio::test]
async fn many_small_packs_become_few() {
    let (_, repository) = memory();
    let (mut last, mut all) = (Captured::default(), BTreeMap::new());
    let mut most = 0;
    for night in 0..150u64 {
        let path = format!("{night}.md");
        let new = files(&[(&path, noise(night, 3000))]);
        let keep: Vec<&str> = all.keys().map(String::as_str).collect();
        let keep: Vec<String> = keep.into_iter().map(str::to_owned).collect();
        let keep: Vec<&str> = keep.iter().map(String::as_str).collect();
        (last, _) = captured(&repository, &last, &new, &keep).await.unwrap();
        all.extend(new);
        most = most.max(last.packs.len());
    }
    assert!(most <= 66 && last.packs.len() < 66, "{most} packs");
    assert_eq!(contents(&repository, &last).await, all);
}

fn document(id: &str, line: Option<u64>, text: &str) -> Document {
    Document {
        id: id.to_owned(),
        path: id.split('#').next().unwrap_or(id).to_owned(),
        line,
        text: text.to_owned(),
        format: TextFormat::Markdown,
        title: Some("Título".to_owned()),
        tenant: None,
        acl: vec!["x".to_owned()],
        metadata: serde_json::from_str(r#"{"z": 1.5, "a": {"y": null, "b": [1]}}"#).unwrap(),
        text_digest: Digest::of(text.as_bytes()),
        digest: Digest::of(b"stored"),
        bytes: 6,
    }
}

#[tokio::test]
async fn documents_come_back_whole_and_voided_ones_do_not_count() {
    let (_, repository) = memory();
    let writer = CaptureWriter::after(&repository, CaptureMode::Text, Captured::default(), true).unwrap();
    assert!(writer.tap().is_none());
    let long = "long text ".repeat(1 << 20);
    let good =
        [document("r.jsonl#1", Some(1), &long), document("r.jsonl#2", Some(2), "second"), document("f.md", None, "")];
    let torn = [document("r.jsonl#1", Some(1), "torn"), document("r.jsonl#3", Some(3), "was never there")];
    let (writer, finished) = tokio::task::spawn_blocking({
        let (good, torn) = (good.clone(), torn.clone());
        move || {
            let source = object("r.jsonl", b"");
            torn.iter().for_each(|d| writer.document(&source, d).unwrap());
            writer.again("r.jsonl");
            good.iter().for_each(|d| writer.document(&source, d).unwrap());
            let finished = tokio::runtime::Handle::current().block_on(writer.finish());
            (writer, finished)
        }
    })
    .await
    .unwrap();
    drop(writer);
    let (one, totals) = finished.unwrap();
    assert_eq!(totals.objects, 3);
    let found = documents(&repository, &one).await;
    assert_eq!(found, good.iter().map(|d| (d.id.clone(), d.clone())).collect());

    // A kept record file keeps all of its documents, in whichever partition they are.
    let writer = CaptureWriter::after(&repository, CaptureMode::Text, one.clone(), true).unwrap();
    assert!(writer.has_previous());
    writer.keep("r.jsonl", true).unwrap();
    let (two, _) = writer.finish().await.unwrap();
    let found = documents(&repository, &two).await;
    assert_eq!(found, good[..2].iter().map(|d| (d.id.clone(), d.clone())).collect());
}

async fn documents(repository: &Repository, captured: &Captured) -> BTreeMap<String, Document> {
    let reader = CapturedReader::new(repository, captured);
    let mut index = IndexReader::new(repository, captured);
    let mut found = BTreeMap::new();
    for partition in 0..IndexReader::partitions() {
        for row in index.partition(partition).await.unwrap() {
            let reader = reader.clone();
            let bytes = tokio::task::spawn_blocking({
                let row = row.clone();
                move || reader.bytes(&row).unwrap()
            });
            let document: Document = serde_json::from_slice(&bytes.await.unwrap()).unwrap();
            assert_eq!((row.id.as_str(), row.line), (document.id.as_str(), document.line));
            found.insert(row.id, document);
        }
    }
    found
}

#[tokio::test]
async fn every_damage_to_a_pack_or_an_index_is_noticed() {
    let (store, repository) = memory();
    let objects = files(&[("a.md", noise(1, 3000)), ("b.md", b"text ".repeat(1000)), ("c.bin", noise(2, 9 << 20))]);
    let (one, _) = captured(&repository, &Captured::default(), &objects, &[]).await.unwrap();
    for object in one.packs.iter().chain(&one.index) {
        let path = Path::from(object.path.as_str());
        let bytes = store.get(&path).await.unwrap().bytes().await.unwrap();
        let length = bytes.len();
        let mut damages: Vec<Option<Vec<u8>>> = vec![None, Some(Vec::new()), Some(bytes[..length / 2].to_vec())];
        for at in [0, length / 3, length / 2, length - 1] {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 0x10;
            damages.push(Some(damaged));
        }
        for damage in damages {
            match damage {
                Some(damaged) => drop(store.put(&path, damaged.into()).await.unwrap()),
                None => store.delete(&path).await.unwrap(),
            }
            let mut failed = 0;
            match PackOrder::new(&repository, &one, &mut |_| true).await {
                Err(e) => {
                    assert_eq!((e.kind(), object.path.starts_with("captured/")), (ErrorKind::Damaged, true));
                    failed += 1;
                }
                Ok(mut order) => {
                    let reader = CapturedReader::new(&repository, &one);
                    while let Some(rows) = order.next().unwrap() {
                        for row in rows {
                            let reader = reader.clone();
                            let (row, read) =
                                tokio::task::spawn_blocking(move || (row.clone(), reader.bytes(&row))).await.unwrap();
                            match read {
                                Ok(bytes) => assert!(bytes == objects[&row.path]),
                                Err(e) => {
                                    assert_eq!(e.kind(), ErrorKind::Damaged);
                                    assert_eq!(e.context_value("object"), Some(object.path.as_str()));
                                    failed += 1;
                                }
                            }
                        }
                    }
                }
            }
            assert!(failed > 0, "{}", object.path);
        }
        store.put(&path, bytes.into()).await.unwrap();
    }
    assert_eq!(contents(&repository, &one).await, objects);
}

/// A workspace over directories, with an engine that needs no network; `None` without the model's tokenizer.
fn workspace(directory: &std::path::Path, mode: &str) -> Option<crate::Workspace> {
    let tokenizer = crate::embed::Tokenizer::open(&crate::testing::model()?.join("tokenizer.json")).unwrap();
    let toml = format!(
        "name = 'test'\n[corpus]\nurl = 'docs'\non_bad_document = 'skip'\n[[corpus.records]]\ninclude = ['*.jsonl']\n\
         id = 'id'\ntext = ['text']\n[capture]\nmode = '{mode}'\n[repository]\nurl = 'repository'\n[target]\nkind = 'memory'"
    );
    let pipeline = crate::pipeline::Pipeline::from_toml(&toml, "test").unwrap();
    let models = crate::model::ModelStore::new(directory.join("models"), crate::model::FetchOptions::default());
    let mut workspace = crate::Workspace::new(pipeline, directory.to_owned(), models);
    workspace.engine = Some(Arc::new(crate::embed::Engine::noop(tokenizer, 16).unwrap()));
    Some(workspace)
}

/// Log files that are appended to, and rewritten, while snapshots are taken: what a snapshot says of them can be
/// restored from its copies alone, and is one state of the file, never a mixture.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_captured_of_busy_files_is_what_the_inventory_says() {
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, Ordering};
    for mode in ["copy", "text"] {
        let directory = tempfile::tempdir().unwrap();
        let Some(workspace) = workspace(directory.path(), mode) else { return };
        let docs = directory.path().join("docs");
        std::fs::create_dir(&docs).unwrap();
        std::fs::write(docs.join("quiet.md"), "# Quiet\n\nText.\n").unwrap();
        let rewritten = |generation: u32| {
            (0..3000).map(|i| format!("{{\"id\": {i}, \"text\": \"g{generation:06}\"}}\n")).collect::<String>()
        };
        std::fs::write(docs.join("rewritten.jsonl"), rewritten(0)).unwrap();
        std::fs::write(docs.join("log.jsonl"), "").unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let busy = std::thread::spawn({
            let (stop, docs) = (stop.clone(), docs.clone());
            move || {
                let mut log = std::fs::OpenOptions::new().append(true).open(docs.join("log.jsonl")).unwrap();
                for i in 1.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let mut file = std::fs::OpenOptions::new().write(true).open(docs.join("rewritten.jsonl")).unwrap();
                    for part in rewritten(i).as_bytes().chunks(8 << 10) {
                        file.write_all(part).unwrap();
                        // Half a record now, the other half later.
                        log.write_all(format!("{{\"id\": {i}").as_bytes()).unwrap();
                        log.write_all(b", \"text\": \"x\"}\n").unwrap();
                    }
                    std::thread::sleep(std::time::Duration::from_millis(u64::from(i % 5) * 60));
                }
            }
        });
        for _ in 0..3 {
            let report =
                crate::snapshot::snapshot(&workspace, &crate::snapshot::SnapshotOptions::default()).await.unwrap();
            let repository = workspace.repository().await.unwrap();
            let manifest = crate::repository::Manifest::read(&repository, &report.snapshot).await.unwrap();
            let mut reader = crate::repository::InventoryReader::new(&repository, &manifest);
            let mut states = BTreeMap::<String, HashSet<String>>::new();
            let mut texts = HashSet::new();
            let mut rows = 0;
            for bucket in 0..1u32 << manifest.buckets.bits {
                for row in reader.bucket(bucket).await.unwrap() {
                    rows += 1;
                    states.entry(row.object.path.clone()).or_default().insert(format!("{:?}", row.object));
                    if row.object.path == "rewritten.jsonl" {
                        texts.insert(row.text_digest);
                    }
                }
            }
            assert_eq!(rows, manifest.counts.documents);
            assert!(states.values().all(|s| s.len() == 1) && states.contains_key("quiet.md"), "{states:?}");
            assert!(texts.len() <= 1, "{} texts of one writing", texts.len());
            assert_eq!(manifest.corpus.reread, report.objects_reread);
            let options = crate::restore::RestoreOptions {
                snapshot: report.snapshot.clone(),
                documents: crate::restore::DocumentSource::Captured,
                reuse: false,
                fresh: true,
                load_only: true,
                ..Default::default()
            };
            let restored = crate::restore::restore(&workspace, options).await.unwrap();
            assert_eq!((restored.documents, restored.chunks), (report.documents, report.chunks));
        }
        stop.store(true, Ordering::Relaxed);
        busy.join().unwrap();
    }
}
