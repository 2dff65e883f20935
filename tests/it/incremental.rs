//! Snapshots that build on others, differences, and what would be lost now, as the user of the binary sees them.

use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::common::Project;
use crate::project_or_skip;

/// Files that were not written just now, so that the next snapshot may trust their times.
fn settle(project: &Project, folder: &str) {
    for entry in std::fs::read_dir(project.path(folder)).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            settle(project, path.strip_prefix(project.directory.path()).unwrap().to_str().unwrap());
        } else {
            age(&path, 3600);
        }
    }
}

fn age(path: &std::path::Path, seconds: u64) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
}

fn snapshot(project: &Project, arguments: &[&str]) -> Value {
    project.run(&[&["snapshot", "--json"][..], arguments].concat()).ok()
}

#[test]
fn a_renamed_directory_embeds_nothing_and_an_unchanged_corpus_reads_nothing() {
    let project = project_or_skip!();
    let documents = project.real_documents("src/chunk") as u64;
    settle(&project, "docs");
    let first = snapshot(&project, &[]);
    assert_eq!((first["objects_read"].as_u64(), first["documents_added"].as_u64()), (Some(documents), Some(documents)));
    let restored = project.run(&["restore", "--json"]).ok();
    assert_eq!(restored["chunks_embedded"], restored["chunks"]);

    let second = snapshot(&project, &["--tag", "nightly", "--tag", "before-move"]);
    assert_eq!((&second["objects_read"], &second["bytes_read"]), (&0.into(), &0.into()));
    assert_eq!(second["documents_unchanged"].as_u64(), Some(documents));
    assert_eq!(second["previous"], first["snapshot"]);
    let all = snapshot(&project, &["--rehash"]);
    assert_eq!((all["objects_read"].as_u64(), all["documents_unchanged"].as_u64()), (Some(documents), Some(documents)));

    std::fs::rename(project.path("docs"), project.path("moved")).unwrap();
    std::fs::create_dir(project.path("docs")).unwrap();
    std::fs::rename(project.path("moved"), project.path("docs/archive")).unwrap();
    let third = snapshot(&project, &[]);
    assert_eq!(
        (third["documents_moved"].as_u64(), third["documents_removed"].as_u64()),
        (Some(documents), Some(documents))
    );
    let again = project.run(&["restore", "--json"]).ok();
    assert_eq!((&again["chunks_embedded"], &again["chunks"]), (&0.into(), &restored["chunks"]));

    // Tags and mode are listed; the difference is shown.
    let listed = project.run(&["list", "--json"]).ok();
    assert_eq!(listed["snapshots"][1]["tags"], json!(["nightly", "before-move"]));
    assert_eq!(listed["snapshots"][1]["capture"], "reference");
    assert!(project.run(&["list"]).stdout.contains("nightly before-move"));
    let diff = project.run(&["diff", "--json"]).ok();
    assert_eq!(diff["differences"]["moved"]["documents"].as_u64(), Some(documents));
    assert_eq!((&diff["embed"]["chunks"], &diff["unchanged"]), (&0.into(), &0.into()));
    let text = project.run(&["diff", "--limit", "2"]).stdout;
    assert!(text.contains("> archive/") && text.contains("  from ") && text.contains("more: --limit"), "{text}");
}

#[test]
fn tags_and_snapshots_that_are_none_are_refused() {
    let project = project_or_skip!();
    project.write("docs/a.md", "The tide table.");
    let wrong = project.run(&["snapshot", "--tag", "two words", "--json"]).failed(2);
    assert_eq!(wrong["error"]["context"]["tag"], "two words");
    assert!(project.names(".regrow/repository/snapshots").is_empty());
    snapshot(&project, &[]);
    let lone = project.run(&["diff", "--json"]);
    assert_ne!(lone.code, 0);
    assert_eq!(lone.json()["error"]["kind"], "not_found");
    assert_ne!(project.run(&["diff", "--rehash", "--json"]).code, 0);
    assert_ne!(project.run(&["diff", "latest", "2099", "--json"]).code, 0);
}

#[test]
fn what_would_be_lost_is_told_by_state_and_by_content() {
    let project = project_or_skip!();
    project.write("docs/harbour.md", "Ships wait for the tide.");
    project.write("docs/bread.md", "Flour, yeast and salt.");
    project.write("docs/stars.md", "Distant suns.");
    settle(&project, "docs");
    snapshot(&project, &[]);
    assert_eq!(project.run(&["diff", "--corpus", "--json"]).ok()["differences"], json!({}));

    project.write("docs/bread.md", "Flour, yeast, salt and patience.");
    project.write("docs/new.md", "A page of its own.");
    std::fs::remove_file(project.path("docs/stars.md")).unwrap();
    // Written again as it was: another time, the same content.
    project.write("docs/harbour.md", "Ships wait for the tide.");
    let exposure = project.run(&["status", "--json"]).ok()["exposure"].clone();
    assert_eq!((&exposure["added"], &exposure["changed"], &exposure["vanished"]), (&1.into(), &2.into(), &1.into()));
    let size = |name: &str| std::fs::metadata(project.path(name)).unwrap().len();
    assert_eq!(exposure["bytes"], size("docs/bread.md") + size("docs/new.md") + size("docs/harbour.md"));
    assert!(exposure["oldest_unsaved"].is_string() && exposure["oldest_unsaved_seconds"].as_f64() >= Some(0.0));
    assert!(project.run(&["status"]).stdout.contains("1 added, 2 changed, 1 vanished"));

    let state = project.run(&["diff", "--corpus", "--json"]).ok();
    assert_eq!((&state["differences"]["changed"]["documents"], &state["documents_read"]), (&2.into(), &0.into()));
    let read = project.run(&["diff", "--corpus", "--rehash", "--json"]).ok();
    let names: Vec<(&str, &str)> = read["named"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| (d["kind"].as_str().unwrap(), d["document_id"].as_str().unwrap()))
        .collect();
    assert_eq!(names, [("added", "new.md"), ("removed", "stars.md"), ("text", "bread.md")]);
    assert_eq!(read["unchanged"], 1);
    let text = project.run(&["diff", "--corpus", "--rehash"]).stdout;
    assert!(text.contains("+ new.md") && text.contains("- stars.md") && text.contains("~ bread.md"), "{text}");

    let next = snapshot(&project, &[]);
    assert_eq!(
        (&next["documents_added"], &next["documents_changed"], &next["documents_removed"]),
        (&1.into(), &1.into(), &1.into())
    );
}

#[test]
fn an_appended_record_file_embeds_what_is_new() {
    let project = project_or_skip!();
    let mut pipeline = std::fs::read_to_string(project.path("regrow.toml")).unwrap();
    pipeline += "\n[[corpus.records]]\ninclude = [\"*.jsonl\"]\nid = \"id\"\ntext = [\"text\"]\n";
    project.write("regrow.toml", pipeline);
    let line = |i: usize| format!("{}\n", json!({"id": i, "text": format!("Record {i} tells of harbour {}.", i * 7)}));
    let mut lines: String = (0..50).map(line).collect();
    project.write("docs/r.jsonl", &lines);
    project.write("docs/other.md", "A page beside the records.");
    settle(&project, "docs");
    snapshot(&project, &[]);
    project.run(&["restore", "--json"]).ok();
    lines += &line(50);
    project.write("docs/r.jsonl", &lines);
    let second = snapshot(&project, &[]);
    assert_eq!(
        (&second["objects_read"], &second["documents_unchanged"], &second["documents_added"]),
        (&1.into(), &51.into(), &1.into())
    );
    assert_eq!(project.run(&["restore", "--json"]).ok()["chunks_embedded"], 1);
}

#[test]
fn killed_again_and_again_a_snapshot_is_whole_or_not_there() {
    let project = project_or_skip!();
    project.real_documents("src");
    settle(&project, "docs");
    let start = Instant::now();
    snapshot(&project, &[]);
    let whole = start.elapsed();
    let mut last = project.run(&["list", "--json"]).ok()["snapshots"].as_array().unwrap().len();
    for round in 0..6u32 {
        // Much is new each time, so that there is something to be killed in.
        for (i, entry) in std::fs::read_dir(project.path("docs/corpus")).unwrap().flatten().enumerate() {
            if entry.path().is_file() {
                project.write(
                    &format!("docs/copies/{round}-{i}.txt"),
                    format!("{round} {}", std::fs::read_to_string(entry.path()).unwrap()),
                );
            }
        }
        let mut child = project.start(&["snapshot"]);
        let deadline = Instant::now() + whole.mul_f64(f64::from(round + 1) / 8.0);
        while Instant::now() < deadline && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let listed = project.run(&["list", "--json"]).ok();
        assert_eq!(listed["damaged"], json!([]));
        let now = listed["snapshots"].as_array().unwrap().len();
        assert!(now == last || now == last + 1);
        last = now;
        assert_eq!(project.run(&["verify", "--json"]).ok()["damaged"], json!([]));
    }
    let built = snapshot(&project, &[]);
    let read = snapshot(&project, &["--rehash"]);
    for key in ["documents", "chunks", "tokens", "bytes"] {
        assert_eq!(built[key], read[key], "{key}");
    }
    assert_eq!(read["documents_unchanged"], read["documents"]);
    assert_eq!(project.run(&["diff", "--json"]).ok()["differences"], json!({}));
}
