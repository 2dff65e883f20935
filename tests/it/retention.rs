//! Forget, prune and unlock with the real binary: what goes, what stays, and who waits for whom.

use serde_json::Value;

use crate::common::Project;
use crate::project_or_skip;

fn snapshots(project: &Project) -> Vec<String> {
    let listed = project.run(&["list", "--json"]).ok();
    listed["snapshots"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect()
}

fn take(project: &Project, version: usize) -> String {
    project.write("docs/page.md", format!("# Version {version}\n\nAbout harbours, tides and ships: {version}.\n"));
    project.run(&["snapshot", "--json"]).ok()["snapshot"].as_str().unwrap().to_owned()
}

/// Objects below the repository's folder.
fn objects(project: &Project) -> Vec<String> {
    fn walk(folder: &std::path::Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                walk(&entry.path(), found);
            } else {
                found.push(entry.path().display().to_string());
            }
        }
    }
    let mut found = Vec::new();
    walk(&project.path(".regrow/repository"), &mut found);
    found.sort();
    found
}

#[test]
fn forgotten_snapshots_are_pruned_and_the_rest_still_restores() {
    let project = project_or_skip!();
    let ids: Vec<String> = (0..4).map(|version| take(&project, version)).collect();
    let restored = project.run(&["restore", "--json"]).ok();

    // Without rules nobody knows what to keep.
    let error = project.run(&["forget", "--json"]).failed(2);
    assert_eq!(error["error"]["kind"], "configuration");
    let planned = project.run(&["forget", "--keep-last", "2", "--dry-run", "--json"]).ok();
    assert_eq!(planned["removed"].as_array().unwrap().len(), 2);
    assert_eq!(snapshots(&project), ids);
    let done = project.run(&["forget", "--keep-last", "2", "--json"]).ok();
    assert_eq!(done["removed"], planned["removed"]);
    assert_eq!(done["kept"][1]["reasons"], serde_json::json!(["last 2", "last good one"]));
    assert_eq!(snapshots(&project), ids[2..]);

    // First marked, then removed.
    let before = objects(&project).len();
    let marked = project.run(&["prune", "--json"]).ok();
    assert!(marked["marked"]["objects"].as_u64().unwrap() >= 2, "{marked}");
    assert_eq!(marked["removed"]["objects"], 0);
    assert!(objects(&project).len() > before);
    let pruned = project.run(&["prune", "--grace", "0s", "--json"]).ok();
    assert_eq!(pruned["removed"]["objects"], marked["marked"]["objects"]);
    assert_eq!(objects(&project).len() as u64, before as u64 - pruned["removed"]["objects"].as_u64().unwrap());
    assert!(project.names(".regrow/repository/locks").is_empty());

    project.run(&["verify", "--json"]).ok();
    let again = project.run(&["restore", "--json"]).ok();
    assert_eq!(again["parts_reused"], again["parts"]);
    assert_eq!(again["vector_set"], restored["vector_set"]);

    // The last one goes only when that is meant.
    project.run(&["forget", &ids[2], "--json"]).ok();
    assert_eq!(project.run(&["forget", &ids[3], "--json"]).failed(2)["error"]["kind"], "configuration");
    project.run(&["forget", &ids[3], "--force-last", "--prune", "--json"]).ok();
    assert!(snapshots(&project).is_empty());
}

#[test]
fn rules_of_the_pipeline_are_checked_and_people_can_read_what_happens() {
    let project = project_or_skip!();
    for (key, value) in [("preset", "7d"), ("keep_within", "soon"), ("keep_within", "6m"), ("grace", "tomorrow")] {
        let set = format!("retention.{key}={value}");
        let error = project.run(&["list", "--set", &set, "--json"]).failed(2);
        assert_eq!(error["error"]["context"]["key"], format!("retention.{key}"), "{error}");
    }
    let id = take(&project, 1);
    let run = project.run(&["forget", "--set", "retention.preset=90d", "--keep-daily", "3", "--dry-run"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stdout.contains("rules: within 30d, weekly 13, daily 3 (UTC)"), "{}", run.stdout);
    assert!(run.stdout.contains(&id) && run.stdout.contains("last good one"), "{}", run.stdout);
    let run = project.run(&["prune", "--dry-run"]);
    assert!(run.code == 0 && run.stdout.contains("would be removed: 0 objects"), "{}", run.stdout);
}

#[test]
fn a_run_that_was_killed_is_in_nobodys_way_and_a_living_one_is() {
    let project = project_or_skip!();
    project.real_documents("src/targets");
    project.run(&["snapshot", "--json"]).ok();
    let mut child = project.start(&["restore"]);
    while project.names(".regrow/repository/locks").is_empty() {
        assert!(child.try_wait().unwrap().is_none(), "the restore ended without a lock");
        std::thread::yield_now();
    }
    // It lives: unlock leaves it alone. It may end at any time, so that is all that can be said.
    let report = project.run(&["unlock", "--json"]).ok();
    assert_eq!(report["removed"], Value::Array(Vec::new()));
    child.kill().unwrap();
    child.wait().unwrap();
    let left = project.names(".regrow/repository/locks").len();
    // Its lock is that of a process that has ended: a second command does not wait for half an hour.
    project.write(".regrow/repository/documents/orphan.pack", "x");
    project.run(&["prune", "--grace", "0s", "--json"]).ok();
    let pruned = project.run(&["prune", "--grace", "0s", "--json"]).ok();
    assert!(pruned["removed"]["objects"].as_u64().unwrap() >= 1, "{pruned}");
    assert!(left == 0 || cfg!(not(target_os = "linux")) || project.names(".regrow/repository/locks").is_empty());

    // A lock of another machine counts until it is stale, or is removed on purpose.
    let lock = "20310101T000000Z-00000000-0123456789abcdef0123456789abcdef.json";
    let record = r#"{"format":1,"kind":"exclusive","purpose":"prune","host":"elsewhere","pid":7,
        "created":"2031-01-01T00:00:00Z","version":"9"}"#;
    project.write(&format!(".regrow/repository/locks/{lock}"), record);
    let error = project.run(&["snapshot", "--json"]).failed(1);
    assert_eq!(error["error"]["kind"], "locked");
    assert_eq!(error["error"]["context"]["host"], "elsewhere");
    let error = project.run(&["snapshot", "--lock-wait", "1s", "--json"]).failed(1);
    assert_eq!(error["error"]["kind"], "locked");
    let report = project.run(&["unlock", "--all", "--json"]).ok();
    assert_eq!(report["removed"][0]["purpose"], "prune");
    project.run(&["snapshot", "--json"]).ok();
}

#[test]
fn two_snapshots_at_once_both_commit_and_both_can_be_read() {
    let project = project_or_skip!();
    project.real_documents("src/targets");
    let mut first = project.start(&["snapshot"]);
    let second = project.run(&["snapshot", "--json"]);
    assert!(first.wait().unwrap().success());
    second.ok();
    let ids = snapshots(&project);
    assert_eq!(ids.len(), 2);
    project.run(&["verify", "--json"]).ok();
    for id in ids {
        project.run(&["show", &id, "--json"]).ok();
    }
}

/// Mounted read-only where the system allows that to a test, and else without the permission to write.
#[test]
#[cfg(target_os = "linux")]
fn a_read_only_repository_is_listed_verified_restored_and_drilled_and_stays_as_it_is() {
    let project = project_or_skip!();
    take(&project, 1);
    const REPOSITORY: &str = ".regrow/repository";
    let mount = format!("mount --bind {REPOSITORY} {REPOSITORY} && mount -o remount,ro,bind {REPOSITORY}");
    let folders = |mode: &str| project.shell(&format!("find {REPOSITORY} -type d -exec chmod {mode} {{}} +"));
    let closed = format!("! touch {REPOSITORY}/probe 2>/dev/null");
    let mounted = |line: &str| format!("unshare -rm sh -c '{mount} && {line}'");
    // Root may write everywhere unless that is taken from it.
    let denied = |line: &str| format!("setpriv --bounding-set=-dac_override --inh-caps=-dac_override sh -c '{line}'");
    let plain = |line: &str| line.to_owned();
    type Way<'a> = &'a dyn Fn(&str) -> String;
    let ways: [(Way<'_>, &str); 3] = [(&mounted, "755"), (&denied, "555"), (&plain, "555")];
    let mut tried = 0;
    for (way, mode) in ways {
        folders(mode);
        let run = |verb: &str| project.shell(&way(&format!("\"$REGROW\" {verb} --json")));
        if project.shell(&way(&closed)).code == 0 {
            tried += 1;
            let before = objects(&project);
            for verb in ["list", "verify", "status", "prune --dry-run", "forget --keep-last 1 --dry-run"] {
                run(verb).ok();
            }
            for verb in ["restore --fresh", "drill"] {
                let restored = run(verb);
                assert!(restored.stderr.contains("cannot be written"), "{}", restored.stderr);
                assert!(restored.ok()["chunks_embedded"].as_u64().unwrap() > 0);
            }
            let error = run("snapshot").failed(1);
            assert!(error["error"]["next"].is_string(), "{error}");
            assert_eq!(objects(&project), before);
        }
        folders("755");
        std::fs::remove_file(project.path(REPOSITORY).join("probe")).ok();
    }
    assert!(tried > 0 || std::env::var_os("CI").is_none(), "no way to make a folder read-only");
}
