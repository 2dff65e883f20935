//! What only a target on disk has to stand: kills, a second process, damage, a full disk.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::error::ErrorKind;
use crate::model::Metric;
use crate::targets::conformance::{Sample, marker, sample, spec, unit_vector, wait_for_index};

const DIMENSION: usize = 32;

fn open(path: &Path) -> EmbeddedTarget {
    EmbeddedTarget::open(path, EmbeddedOptions::default(), Events::silent()).unwrap()
}

async fn write(target: &EmbeddedTarget, owned: &OwnedCollection, range: std::ops::Range<u64>) {
    let all: Vec<u64> = range.collect();
    for batch in all.chunks(500) {
        let points = batch.iter().map(|n| sample(*n, DIMENSION)).collect();
        assert_eq!(target.write(owned, points).await.unwrap().written, batch.len());
    }
}

/// The collection holds exactly the first `count` points.
async fn assert_holds(target: &EmbeddedTarget, name: &str, count: u64) {
    assert_eq!(target.count(name, &Filter::default()).await.unwrap(), count);
    let mut expected: Vec<Point> = (0..count).map(|n| sample(n, DIMENSION)).collect();
    expected.sort_by_key(|p| p.id);
    let page = target.scroll(name, None, usize::try_from(count).unwrap() + 1).await.unwrap();
    assert!(page.points == expected, "the points differ");
    assert_eq!(page.next, None);
}

const CHILD_DIRECTORY: &str = "REGROW_TEST_CHILD_DIRECTORY";
const CHILD_WORK: &str = "REGROW_TEST_CHILD_WORK";
const CHILD_POINTS: u64 = 6000;

/// Not a test by itself: what the tests below run in a process that they kill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(path) = std::env::var(CHILD_DIRECTORY) else { return };
    let work = std::env::var(CHILD_WORK).unwrap();
    // Few bytes between openings, so that kills meet those, too.
    let options = EmbeddedOptions { reopen_bytes: 400_000, ..EmbeddedOptions::default() };
    let target = EmbeddedTarget::open(Path::new(&path), options, Events::silent()).unwrap();
    let owned = match target.open_owned("one").await {
        Ok(owned) => owned,
        Err(_) => target.create(&spec("one", DIMENSION, Metric::Cosine)).await.unwrap(),
    };
    if work == "hold" {
        println!("\nholding");
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
    loop {
        for from in (0..CHILD_POINTS).step_by(250) {
            write(&target, &owned, from..from + 250).await;
            if from % 750 == 0 {
                target.flush(&owned).await.unwrap();
                println!("\nflushed {}", from + 250);
            }
        }
        target.flush(&owned).await.unwrap();
        println!("\nflushed {CHILD_POINTS}");
        if work == "index" {
            println!("\nindexing");
            wait_for_index(&target, &owned).await;
            println!("\nindexed");
        }
    }
}

/// Runs the child until `until` says so of a line, waits, and kills it. Returns the most points flushed.
fn kill_child(path: &Path, work: &str, wait: Duration, until: impl Fn(&str) -> bool) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "targets::embedded::tests::child", "--nocapture", "--test-threads=1"])
        .env(CHILD_DIRECTORY, path)
        .env(CHILD_WORK, work)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut flushed = 0;
    let mut note = |line: &str| {
        if let Some(n) = line.strip_prefix("flushed ") {
            flushed = flushed.max(n.parse().unwrap());
        }
    };
    loop {
        let line = lines.next().expect("the child goes on until it is killed").unwrap();
        note(&line);
        if until(&line) {
            break;
        }
    }
    std::thread::sleep(wait);
    // SIGKILL on Unix.
    child.kill().unwrap();
    child.wait().unwrap();
    for line in lines {
        note(&line.unwrap());
    }
    flushed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_flushed_survives_a_kill() {
    for wait in [0, 3, 11, 40] {
        let dir = tempfile::tempdir().unwrap();
        let flushed = kill_child(dir.path(), "write", Duration::from_millis(wait), |line| line == "flushed 1750");
        assert!(flushed >= 1750);
        let target = open(dir.path());
        let ids: Vec<ChunkId> = (0..flushed).map(Sample::id).collect();
        let mut found = target.fetch("one", &ids).await.unwrap();
        found.sort_by_key(|p| p.id);
        let mut expected: Vec<Point> = (0..flushed).map(|n| sample(n, DIMENSION)).collect();
        expected.sort_by_key(|p| p.id);
        assert!(found == expected, "{} of {flushed} flushed points are there", found.len());
        // The rest may be there or not; writing it again makes it whole.
        let owned = target.open_owned("one").await.unwrap();
        write(&target, &owned, 0..CHILD_POINTS).await;
        target.flush(&owned).await.unwrap();
        drop(target);
        assert_holds(&open(dir.path()), "one", CHILD_POINTS).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_moment_of_the_index_build_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // The same directory again and again: also an index on top of an index is interrupted.
    for wait in [0, 15, 60, 120, 200, 300, 420, 600] {
        kill_child(dir.path(), "index", Duration::from_millis(wait), |line| line == "indexing");
        let target = open(dir.path());
        assert_holds(&target, "one", CHILD_POINTS).await;
    }
    let target = open(dir.path());
    let owned = target.open_owned("one").await.unwrap();
    let state = wait_for_index(&target, &owned).await;
    assert_eq!((state.done, state.total), (true, CHILD_POINTS));
    for n in [0, 3000, CHILD_POINTS - 1] {
        let request =
            SearchRequest { vector: unit_vector(n, DIMENSION), limit: 1, filter: Filter::default(), exact: false };
        assert_eq!(target.search("one", &request).await.unwrap()[0].id, Sample::id(n));
    }
    assert_holds(&target, "one", CHILD_POINTS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn points_in_two_segments_become_one() {
    let dir = tempfile::tempdir().unwrap();
    let (shard, segment) = {
        let target = open(dir.path());
        let owned = target.create(&spec("one", DIMENSION, Metric::Cosine)).await.unwrap();
        write(&target, &owned, 0..1200).await;
        target.flush(&owned).await.unwrap();
        let collection = target.inner.state().collections["one"].clone();
        let shard = collection.shard_dir();
        let before = files::segments(&shard).unwrap();
        // As a kill between two steps leaves it: a source that is gone, and copies of the points of another.
        collection.edit(|file| file.building = Some([before.clone(), vec!["gone".into()]].concat())).unwrap();
        (shard, before[0].clone())
    };
    let copy = shard.join("segments").join(uuid::Uuid::new_v4().to_string());
    copy_directory(&shard.join("segments").join(segment), &copy);
    let target = open(dir.path());
    assert_holds(&target, "one", 1200).await;
    let owned = target.open_owned("one").await.unwrap();
    assert!(!target.index_state(&owned).await.unwrap().done);
    wait_for_index(&target, &owned).await;
    assert_holds(&target, "one", 1200).await;
    drop(target);
    assert_holds(&open(dir.path()), "one", 1200).await;
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let (held, may_go) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
    let child = std::thread::spawn({
        let path = path.clone();
        move || {
            kill_child(&path, "hold", Duration::ZERO, move |line| {
                if line != "holding" {
                    return false;
                }
                held.0.send(()).unwrap();
                may_go.1.recv().unwrap();
                true
            })
        }
    });
    held.1.recv().unwrap();
    let error = EmbeddedTarget::open(&path, EmbeddedOptions::default(), Events::silent()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Target);
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    assert!(error.next_step().is_some());
    assert!(error.context_value("process").unwrap().parse::<u32>().is_ok());
    may_go.0.send(()).unwrap();
    child.join().unwrap();
    // The lock goes with the process, however it ends.
    let target = open(&path);
    assert!(EmbeddedTarget::open(&path, EmbeddedOptions::default(), Events::silent()).is_err());
    let clone = target.clone();
    drop(target);
    assert_eq!(clone.list().await.unwrap(), ["one"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_collection_is_named_and_can_be_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let shard = {
        let target = open(dir.path());
        let other = target.create(&spec("fine", DIMENSION, Metric::Cosine)).await.unwrap();
        write(&target, &other, 0..50).await;
        let owned = target.create(&spec("one", DIMENSION, Metric::Cosine)).await.unwrap();
        write(&target, &owned, 0..600).await;
        target.inner.state().collections["one"].shard_dir()
    };
    let mut damaged = 0;
    for segment in files::segments(&shard).unwrap() {
        let path = files::segment(&shard, &segment).join("segment.json");
        std::fs::write(path, b"{\"version\": ").unwrap();
        damaged += 1;
    }
    assert!(damaged > 0);
    let target = open(dir.path());
    assert_eq!(target.list().await.unwrap(), ["fine", "one"]);
    assert_holds(&target, "fine", 50).await;
    let error = target.count("one", &Filter::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Target, "{error}");
    assert_eq!(error.context_value("collection"), Some("one"));
    assert!(error.next_step().unwrap().contains("rebuilt"), "{error}");
    let owned = target.open_owned("one").await.unwrap();
    assert!(target.write(&owned, vec![sample(1, DIMENSION)]).await.is_err());
    target.delete(owned).await.unwrap();
    let again = target.create(&spec("one", DIMENSION, Metric::Cosine)).await.unwrap();
    write(&target, &again, 0..10).await;
    assert_holds(&target, "one", 10).await;
}

#[tokio::test]
async fn a_damaged_collection_file_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let collection = {
        let target = open(dir.path());
        target.create(&spec("one", DIMENSION, Metric::Cosine)).await.unwrap();
        target.inner.state().collections["one"].dir.clone()
    };
    std::fs::write(collection.join(files::COLLECTION_FILE), b"{").unwrap();
    let target = open(dir.path());
    assert_eq!(target.list().await.unwrap(), Vec::<String>::new());
    assert!(collection.join("shard/segments").is_dir(), "what cannot be read is not deleted");
}

#[tokio::test]
async fn leftovers_are_removed_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    {
        let target = open(dir.path());
        let owned = target.create(&spec("one", DIMENSION, Metric::Cosine)).await.unwrap();
        write(&target, &owned, 0..20).await;
    }
    let collections = dir.path().join(files::COLLECTIONS);
    for leftover in [".new-1/shard/wal", ".old-2/shard", "half.0/shard/temp_segments/x", "empty.0"] {
        std::fs::create_dir_all(collections.join(leftover)).unwrap();
    }
    std::fs::write(dir.path().join(".tmp-3"), b"{").unwrap();
    std::fs::create_dir_all(collections.join("theirs/data")).unwrap();
    let target = open(dir.path());
    assert_eq!(target.list().await.unwrap(), ["one"]);
    assert_holds(&target, "one", 20).await;
    let left = files::names(&collections).unwrap();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(collections.join("theirs/data").is_dir());
    assert!(!dir.path().join(".tmp-3").exists());
}

#[tokio::test]
async fn a_full_disk_is_seen_before_it_is_met() {
    let dir = tempfile::tempdir().unwrap();
    {
        let target = open(dir.path());
        let owned = target.create(&spec("one", DIMENSION, Metric::Cosine)).await.unwrap();
        write(&target, &owned, 0..20).await;
    }
    let options = EmbeddedOptions { reserve_bytes: u64::MAX / 2, ..EmbeddedOptions::default() };
    let target = EmbeddedTarget::open(dir.path(), options, Events::silent()).unwrap();
    let owned = target.open_owned("one").await.unwrap();
    let error = target.write(&owned, vec![sample(30, DIMENSION)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    let error = target.create(&spec("two", DIMENSION, Metric::Cosine)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    target.start_index(&owned).await.unwrap();
    let error = loop {
        match target.index_state(&owned).await {
            Ok(state) => assert!(!state.done),
            Err(e) => break e,
        }
    };
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    // What is there can be read and deleted.
    assert_holds(&target, "one", 20).await;
    target.delete(owned).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openings_in_between_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions { reopen_bytes: 1 << 20, ..EmbeddedOptions::default() };
    let target = EmbeddedTarget::open(dir.path(), options, Events::silent()).unwrap();
    let owned = target.create(&spec("one", DIMENSION, Metric::Cosine)).await.unwrap();
    // Enough for several files of the engine's log, which is cut at every opening; and points that were
    // written before a cut are written again after it.
    let padding = "x".repeat(4000);
    for round in 0..3 {
        for from in (0..2500).step_by(500) {
            let points = (from..from + 500).map(|n| {
                let mut point = sample(n, DIMENSION);
                point.payload.insert("padding".into(), format!("{round}{padding}").into());
                point
            });
            target.write(&owned, points.collect()).await.unwrap();
        }
    }
    let log = target.inner.state().collections["one"].shard_dir().join("wal");
    assert!(files::names(&log).unwrap().iter().filter(|name| name.starts_with("closed-")).count() <= 2);
    for n in [0, 1000, 2499] {
        let point = target.fetch("one", &[Sample::id(n)]).await.unwrap();
        assert!(point[0].payload["padding"].as_str().unwrap().starts_with('2'), "the last round is what is there");
    }
    write(&target, &owned, 0..2500).await;
    assert_holds(&target, "one", 2500).await;
    drop(target);
    let target = open(dir.path());
    assert_holds(&target, "one", 2500).await;
    write(&target, &owned, 2400..2600).await;
    assert_holds(&target, "one", 2600).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_does_not_wait_for_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let target = open(dir.path());
    for _ in 0..3 {
        let owned = target.create(&spec("one", DIMENSION, Metric::Cosine)).await.unwrap();
        write(&target, &owned, 0..CHILD_POINTS).await;
        target.start_index(&owned).await.unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
        target.delete(owned.clone()).await.unwrap();
        assert_eq!(target.index_state(&owned).await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(target.list().await.unwrap(), Vec::<String>::new());
    }
    // A build that was left behind ends by itself, and then nothing is there.
    drop(target);
    let target = loop {
        match EmbeddedTarget::open(dir.path(), EmbeddedOptions::default(), Events::silent()) {
            Ok(target) => break target,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    assert_eq!(files::names(&dir.path().join(files::COLLECTIONS)).unwrap(), Vec::<String>::new());
    let owned = target.create(&spec("one", DIMENSION, Metric::Cosine)).await.unwrap();
    assert_eq!(owned.name(), "one");
    assert_ne!(owned.marker().instance, marker().instance);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_index_finds_what_exact_search_finds() {
    let dir = tempfile::tempdir().unwrap();
    let target = open(dir.path());
    let owned = target.create(&spec("one", 384, Metric::Cosine)).await.unwrap();
    // Clustered like text embeddings: uniform noise in 384 dimensions has no neighbours to find.
    let vector = |n: u64| {
        let (centre, noise) = (unit_vector(n % 500, 384), unit_vector(1_000_000 + n, 384));
        let mixed: Vec<f32> = centre.iter().zip(&noise).map(|(c, n)| 0.6 * c + 0.8 * n).collect();
        let length = mixed.iter().map(|v| v * v).sum::<f32>().sqrt();
        mixed.iter().map(|v| v / length).collect::<Vec<f32>>()
    };
    for from in (0..6000).step_by(1000) {
        let points = (from..from + 1000).map(|n| Point { vector: vector(n), ..sample(n, 384) }).collect();
        target.write(&owned, points).await.unwrap();
    }
    target.flush(&owned).await.unwrap();
    let state = wait_for_index(&target, &owned).await;
    assert_eq!(state.indexed, 6000, "{state:?}");
    for kind in ["of the collection", "new"] {
        let mut hits = 0;
        for n in 0..200 {
            let vector = vector(if kind == "new" { 5_000_000 + n } else { n * 29 });
            let request = |exact| SearchRequest { vector: vector.clone(), limit: 10, filter: Filter::default(), exact };
            let exact = target.search("one", &request(true)).await.unwrap();
            let found = target.search("one", &request(false)).await.unwrap();
            hits += found.iter().filter(|f| exact.iter().any(|e| e.id == f.id)).count();
        }
        assert!(hits >= 1900, "queries {kind}: recall@10 is {}", hits as f64 / 2000.0);
    }
}
