//! Replicas and repair, as their user sees them: the primary gone, parts of it damaged, a replica behind.

use std::path::Path;

use serde_json::Value;

use crate::bad_input::three;
use crate::common::Project;
use crate::project_or_skip;

/// Adds a replica to the pipeline.
fn replica(project: &Project, name: &str) {
    let text = std::fs::read_to_string(project.path("regrow.toml")).unwrap();
    project.write("regrow.toml", format!("{text}\n[[repository.replicas]]\nname = \"{name}\"\nurl = \"{name}\"\n"));
}

/// Files below a folder.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => {
                    let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
                    // When a repository was verified is its own matter.
                    if name.starts_with("verifications") {
                        continue;
                    }
                    all.push((name, std::fs::read(&path).unwrap()));
                }
            }
        }
    }
    all.sort();
    all
}

fn named<'a>(files: &'a [(String, Vec<u8>)], folder: &str) -> &'a str {
    &files.iter().find(|(name, _)| name.starts_with(folder)).unwrap().0
}

#[test]
fn with_the_primary_gone_a_restore_reads_the_replica() {
    let project = project_or_skip!();
    three(&project);
    replica(&project, "second");
    project.run(&["snapshot", "--json"]).ok();
    let first = project.run(&["restore", "--json"]).ok();
    project.run(&["drill", "--json"]).ok();
    let before = project.payloads();

    let check = project.run(&["copy", "--check", "--json"]).failed(30);
    assert_eq!(check["replicas"][0]["snapshots_missing"].as_array().unwrap().len(), 1, "{check}");
    let copied = project.run(&["copy", "--json"]).ok();
    assert_eq!(copied["replicas"][0]["snapshots_copied"].as_array().unwrap().len(), 1, "{copied}");
    assert_eq!(copied["replicas"][0]["drills_copied"], 1);
    project.run(&["copy", "--check", "--json"]).ok();
    let again = project.run(&["copy", "--json"]).ok();
    assert_eq!((&again["bytes_copied"], &again["replicas"][0]["objects_missing"]), (&0.into(), &0.into()));
    assert_eq!(files(&project.path(".regrow/repository")), files(&project.path("second")));

    std::fs::remove_dir_all(project.path(".regrow")).unwrap();
    // The error says what could serve.
    let e = project.run(&["restore", "--json"]).failed(2);
    let next = e["error"]["next"].as_str().unwrap();
    assert!(next.contains("`second`") && next.contains("regrow restore --from second"), "{next}");
    let plan = project.run(&["plan", "--from", "second", "--json"]).ok();
    assert_eq!(plan["parts_stored"], plan["parts"]);
    let restored = project.run(&["restore", "--from", "second", "--json"]).ok();
    assert_eq!((&restored["chunks_embedded"], &restored["vector_set"]), (&0.into(), &first["vector_set"]));
    assert_eq!(project.payloads(), before);
    for arguments in [&["verify"][..], &["list"], &["show"], &["status"], &["drill"]] {
        project.run(&[arguments, &["--repository", "second", "--json"]].concat()).ok();
    }
    // A snapshot begins in the primary.
    let e = project.run(&["snapshot", "--repository", "second", "--json"]).failed(2);
    assert!(e["error"]["next"].as_str().unwrap().contains("regrow copy"), "{e}");

    // And back: the primary is made again from the replica.
    let back = project.run(&["copy", "--repository", "second", "--to", "primary", "--json"]).ok();
    assert_eq!(back["replicas"][0]["created"], true, "{back}");
    project.run(&["verify", "--json"]).ok();
    assert_eq!(files(&project.path(".regrow/repository")), files(&project.path("second")));
}

#[test]
fn damage_is_mended_from_the_replica_and_from_the_corpus() {
    let project = project_or_skip!();
    three(&project);
    replica(&project, "second");
    project.run(&["snapshot", "--json"]).ok();
    project.run(&["restore", "--json"]).ok();
    project.run(&["copy", "--no-vectors", "--json"]).ok();
    let root = project.path(".regrow/repository");
    let good = files(&root);
    let (inventory, part) = (named(&good, "inventories/"), named(&good, "vectors/"));
    let set = named(&good, "vector-sets/");
    for name in [inventory, part, set] {
        std::fs::write(root.join(name), b"damaged").unwrap();
    }
    let found = project.run(&["verify", "--json"]).failed(30);
    let damaged = found["damaged"].as_array().unwrap();
    let of = |name: &str| damaged.iter().find(|d| d["object"] == name).unwrap_or(&Value::Null).clone();
    assert_eq!(of(inventory)["replicas"][0], "second", "{found}");
    assert_eq!((&of(inventory)["kind"], &of(set)["kind"]), (&"inventory".into(), &"vector_set".into()));

    let planned = project.run(&["repair", "--dry-run", "--json"]);
    assert_eq!(planned.json()["actions"].as_array().unwrap().len(), damaged.len());
    assert_eq!(std::fs::read(root.join(inventory)).unwrap(), b"damaged");
    let text = project.run(&["repair"]);
    assert!(text.stdout.contains("taken from second: done"), "{} {}", text.stdout, text.stderr);
    assert_eq!(text.code, 0, "{} {}", text.stdout, text.stderr);
    assert!(text.stdout.contains("written again from its parts: done"), "{}", text.stdout);
    assert_eq!(project.run(&["repair", "--json"]).ok()["damaged"], 0);
    project.run(&["verify", "--json"]).ok();
    assert!(std::fs::read(root.join(inventory)).unwrap() == good.iter().find(|(n, _)| n == inventory).unwrap().1);
    let restored = project.run(&["restore", "--fresh", "--json"]).ok();
    assert_eq!(restored["ok"], true);

    // Without a replica that has it: named, with what it costs, and nothing else is touched.
    std::fs::remove_dir_all(project.path("second")).unwrap();
    std::fs::write(root.join(inventory), b"damaged").unwrap();
    let report = project.run(&["repair", "--json"]).failed(30);
    let action = &report["actions"][0];
    assert_eq!((&action["how"], &action["outcome"]), (&"nothing".into(), &"failed".into()), "{report}");
    assert!(action["detail"].as_str().unwrap().contains("cannot be restored"), "{report}");
}

#[test]
fn a_part_of_the_data_can_be_verified() {
    let project = project_or_skip!();
    three(&project);
    project.run(&["snapshot", "--json"]).ok();
    project.run(&["restore", "--json"]).ok();
    let root = project.path(".regrow/repository");
    let all = files(&root);
    let path = root.join(named(&all, "vectors/"));
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    // Beyond the quick look; found by exactly one of two groups.
    project.run(&["verify", "--quick", "--json"]).ok();
    let codes: Vec<i32> = ["1/2", "2/2"]
        .iter()
        .map(|group| project.run(&["verify", "--read-data-subset", group, "--json"]).code)
        .collect();
    assert_eq!(codes.iter().sum::<i32>(), 30, "{codes:?}");
    let random = project.run(&["verify", "--read-data-subset", "50%", "--json"]);
    assert!(random.json()["seed"].is_u64(), "{}", random.stdout);
    let e = project.run(&["verify", "--read-data-subset", "7/3", "--json"]).failed(2);
    assert!(e["error"]["message"].as_str().unwrap().contains("7/3"), "{e}");
    let people = project.run(&["verify"]);
    assert_eq!(people.code, 30);
    assert!(people.stdout.contains("DAMAGED") && people.stdout.contains("/s"), "{}", people.stdout);
    assert!(people.stdout.contains("next: `regrow repair --dry-run`"), "{}", people.stdout);
}

#[test]
fn a_replica_that_cannot_be_written_does_not_stop_the_other() {
    let project = project_or_skip!();
    three(&project);
    replica(&project, "second");
    replica(&project, "third");
    project.run(&["snapshot", "--json"]).ok();
    // A file is where the directory should be.
    project.write("second", "in the way");
    let report = project.run(&["copy", "--json"]);
    assert_ne!(report.code, 0);
    let report = report.json();
    assert_eq!((&report["replicas"][0]["ok"], &report["replicas"][1]["ok"]), (&false.into(), &true.into()), "{report}");
    assert!(report["replicas"][0]["error"]["message"].is_string(), "{report}");
    project.run(&["verify", "--from", "third", "--json"]).ok();
    // By path, without a name.
    project.run(&["copy", "--to", "./fourth", "--json"]).ok();
    project.run(&["verify", "--from", "./fourth", "--json"]).ok();
    let e = project.run(&["copy", "--to", "nowhere", "--json"]).failed(2);
    assert!(e["error"]["context"]["repositories"].as_str().unwrap().contains("second, third"), "{e}");
}
