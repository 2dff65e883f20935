//! Stopped at any moment, the same command continues: nothing is computed twice, lost or loaded twice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use regrow::pipeline::Pipeline;
use regrow::targets::Target;
use serde_json::Value;

use crate::common::Project;
use crate::project_or_skip;

type Points = BTreeMap<String, (Vec<u32>, Value)>;

/// Every point of the production collection: id → bits of the vector, payload.
fn contents(project: &Project) -> Points {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (pipeline, base) = Pipeline::load(&project.path("regrow.toml")).unwrap();
    let target = regrow::targets::open(&pipeline.target, &base, &|_| None, &regrow::event::Events::silent()).unwrap();
    runtime.block_on(scroll(target.as_ref(), pipeline.collection()))
}

async fn scroll(target: &dyn Target, name: &str) -> Points {
    let mut points = BTreeMap::new();
    let mut after = None;
    loop {
        let page = target.scroll(name, after, 97).await.unwrap();
        for point in page.points {
            let bits = point.vector.iter().map(|f| f.to_bits()).collect();
            let before = points.insert(point.id.to_string(), (bits, Value::Object(point.payload)));
            assert!(before.is_none(), "{} came twice", point.id);
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return points,
        }
    }
}

fn cosine(a: &[u32], b: &[u32]) -> f64 {
    let f = |bits: &u32| f64::from(f32::from_bits(*bits));
    a.iter().zip(b).map(|(x, y)| f(x) * f(y)).sum()
}

/// A small generator, so that a failing run can be repeated from its printed seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[test]
fn killed_ten_times_and_continued_gives_the_same_collection() {
    let project = project_or_skip!();
    assert!(project.real_documents("src/targets") > 10);
    // Small chunks make several parts of a small corpus; a small sample leaves the time to the stages before.
    let mut settings = std::fs::read_to_string(project.path("regrow.toml")).unwrap();
    for (before, after) in [
        ("\nsize = 200\n", "\nsize = 60\n"),
        ("\noverlap = 20\n", "\noverlap = 0\n"),
        ("\nsample = 200\n", "\nsample = 20\n"),
    ] {
        assert!(settings.contains(before), "{settings}");
        settings = settings.replace(before, after);
    }
    project.write("regrow.toml", settings);
    project.run(&["snapshot", "--json"]).ok();
    let start = Instant::now();
    let report = project.run(&["restore", "--json"]).ok();
    let whole = start.elapsed();
    assert!(report["parts"].as_u64().unwrap() >= 2, "several parts are needed for this to mean anything: {report}");
    let wanted = contents(&project);
    assert_eq!(wanted.len() as u64, report["chunks"].as_u64().unwrap());

    let seed = std::process::id().into();
    println!("seed {seed}");
    let mut random = Random(seed);
    for round in 0..10 {
        // Every other round begins from nothing, so that every stage is hit; the others continue with what is there.
        if round % 2 == 0 {
            std::fs::remove_dir_all(project.path(".regrow/database")).unwrap();
            std::fs::remove_dir_all(project.path(".regrow/repository/vectors")).unwrap();
            std::fs::remove_dir_all(project.path(".regrow/repository/vector-sets")).unwrap();
        } else {
            std::fs::remove_dir_all(project.path(".regrow/database")).unwrap();
        }
        let kills = 1 + (random.next() * 3.0) as usize;
        for _ in 0..kills {
            let mut child = project.start(&["restore"]);
            let moment = whole.mul_f64(random.next());
            let deadline = Instant::now() + moment;
            while Instant::now() < deadline && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(5));
            }
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let stored = std::fs::read_dir(project.path(".regrow/repository/vectors"))
            .map_or(0, |_| parts(&project.path(".regrow/repository/vectors")));
        let report = project.run(&["restore", "--json"]).ok();
        // No committed part is computed again.
        assert_eq!(report["parts_reused"].as_u64().unwrap(), stored, "round {round}: {report}");
        assert_eq!(report["target"]["count"].as_u64().unwrap(), wanted.len() as u64);
        let found = contents(&project);
        assert!(found.keys().eq(wanted.keys()), "round {round}: other points");
        for (id, (vector, payload)) in &found {
            assert_eq!(*payload, wanted[id].1, "round {round}: {id}");
            // The same part computed again may differ in the last bits, by the batches it was computed in.
            assert!(cosine(vector, &wanted[id].0) > 0.999_999, "round {round}: {id}");
        }
    }
}

/// Parts below a folder.
fn parts(folder: &std::path::Path) -> u64 {
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            count += parts(&path);
        } else if path.extension().is_some_and(|e| e == "parquet") {
            count += 1;
        }
    }
    count
}

#[test]
fn one_changed_document_embeds_only_its_own_chunks() {
    let project = project_or_skip!();
    let documents = project.real_documents("src/targets");
    project.run(&["snapshot", "--json"]).ok();
    let first = project.run(&["restore", "--json"]).ok();
    assert_eq!(first["chunks_embedded"], first["chunks"]);
    assert_eq!(first["documents"].as_u64().unwrap(), documents as u64);

    // The same again: nothing to do.
    project.run(&["snapshot", "--json"]).ok();
    let again = project.run(&["restore", "--json"]).ok();
    assert_eq!(again["chunks_embedded"], 0);
    assert_eq!(again["parts_reused"], again["parts"]);
    assert_eq!(again["target"]["reused"], true);

    // One more document: exactly its chunks.
    project.write("docs/new.md", "# A new page\n\nIt speaks of harbours, tides and lighthouses.\n");
    project.run(&["snapshot", "--json"]).ok();
    let third = project.run(&["restore", "--json"]).ok();
    assert_eq!(third["chunks_embedded"], 1, "{third}");
    assert_eq!(third["chunks"].as_u64().unwrap(), first["chunks"].as_u64().unwrap() + 1);
    assert_ne!(third["target"]["collection"], first["target"]["collection"]);
    assert_eq!(third["target"]["previous"], first["target"]["collection"]);
    let hits = project.run(&["query", "lighthouses and the tide", "-k", "1", "--json"]).ok();
    assert_eq!(hits["hits"][0]["document_id"], "new.md");
}

#[test]
fn a_damaged_part_is_noticed_and_computed_again() {
    let project = project_or_skip!();
    project.real_documents("src/chunk");
    project.run(&["snapshot", "--json"]).ok();
    let first = project.run(&["restore", "--json"]).ok();
    let mut folder = project.path(".regrow/repository/vectors");
    while folder.is_dir() {
        folder = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    }
    let mut bytes = std::fs::read(&folder).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&folder, &bytes).unwrap();

    let verified = project.run(&["verify", "--json"]).failed(30);
    assert_eq!(verified["damaged"].as_array().unwrap().len(), 1, "{verified}");
    assert_eq!(verified["damaged"][0]["derivable"], true);

    let again = project.run(&["restore", "--json"]).ok();
    assert_eq!(again["chunks"], first["chunks"]);
    assert!(again["chunks_embedded"].as_u64().unwrap() > 0);
    project.run(&["verify", "--json"]).ok();
}
