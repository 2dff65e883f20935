//! Captured copies: the documents come from the repository, whatever became of the corpus.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::common::Project;
use crate::project_or_skip;

const PIPELINE: &str = "\n[[corpus.records]]\ninclude = ['*.jsonl']\nid = 'id'\ntext = ['text']\nmetadata = ['n']\n";

/// Documents of every kind: files, pages, records, an empty one, twice the same.
fn documents(project: &Project) {
    assert!(project.real_documents("src/drill") > 2);
    project
        .write("docs/page.html", "<html><head><title>P</title></head><body><p>A page about packs.</p></body></html>");
    project.write("docs/sub dir/front.md", "---\ntitle: Front\ntenant: t1\nacl: [a, b]\n---\n# Matter\n\nText.\n");
    project.write("docs/sub dir/same.md", "---\ntitle: Front\ntenant: t1\nacl: [a, b]\n---\n# Matter\n\nText.\n");
    project.write("docs/empty.md", "");
    let lines: String = (0..300)
        .map(|i| format!("{{\"id\": {i}, \"text\": \"Record {i} speaks of {}.\", \"n\": {i}}}\n", i * 7))
        .collect();
    project.write("docs/records.jsonl", lines);
    let mut file = std::fs::OpenOptions::new().append(true).open(project.path("regrow.toml")).unwrap();
    file.write_all(PIPELINE.as_bytes()).unwrap();
}

/// Forgets everything that was derived, so that a restore needs every document again.
fn forget_derived(project: &Project) {
    for folder in [".regrow/database", ".regrow/repository/vectors", ".regrow/repository/vector-sets"] {
        std::fs::remove_dir_all(project.path(folder)).unwrap();
    }
}

/// All files below a directory, by relative path.
fn tree(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(at: &Path, root: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in std::fs::read_dir(at).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, root, found);
            } else {
                found.insert(path.strip_prefix(root).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

fn packs(project: &Project) -> Vec<PathBuf> {
    let folder = project.path(".regrow/repository/documents");
    project.names(".regrow/repository/documents").iter().map(|name| folder.join(name)).collect()
}

#[test]
fn a_deleted_corpus_is_restored_from_its_copies() {
    let project = project_or_skip!();
    documents(&project);
    project.run(&["snapshot", "--json"]).ok();
    project.run(&["restore", "--json"]).ok();
    let expected = project.payloads();
    assert!(expected.len() > 300);
    let corpus = tree(&project.path("docs"));
    for mode in ["copy", "text"] {
        let set = format!("capture.mode={mode}");
        let report = project.run(&["snapshot", "--json", "--set", &set]).ok();
        assert_eq!(report["capture"], mode, "{report}");
        let objects = if mode == "copy" { corpus.len() } else { corpus.len() + 299 };
        assert_eq!(report["captured"]["objects"], objects, "{report}");
        project.run(&["verify", "--json"]).ok();
        forget_derived(&project);
        std::fs::rename(project.path("docs"), project.path("elsewhere")).unwrap();
        let plan = project.run(&["plan", "--json"]).ok();
        assert_eq!(plan["documents"], "captured", "{plan}");
        let cannot = plan["cannot_restore"].to_string();
        assert_eq!(cannot.contains("original bytes"), mode == "text", "{cannot}");
        let report = project.run(&["restore", "--json"]).ok();
        assert!(report["chunks_embedded"].as_u64().unwrap() > 300, "{report}");
        assert_eq!(project.payloads(), expected, "{mode}");
        project.run(&["drill", "--json"]).ok();
        // From the corpus it cannot be restored now, and says so.
        forget_derived(&project);
        let e = project.run(&["restore", "--from-corpus", "--json"]);
        assert_eq!(e.code, 2, "{} {}", e.stdout, e.stderr);
        std::fs::rename(project.path("elsewhere"), project.path("docs")).unwrap();
        project.run(&["restore", "--from-corpus", "--json"]).ok();
        assert_eq!(project.payloads(), expected, "{mode}");
    }
    // The same documents again: nothing is stored again.
    let report = project.run(&["snapshot", "--json", "--set", "capture.mode=text"]).ok();
    assert_eq!((&report["captured"]["new_packs"], &report["captured"]["stored_bytes"]), (&0.into(), &0.into()));
    let e = project.run(&["extract", "--to", "out", "--json"]).failed(2);
    assert!(e.to_string().contains("capture.mode"), "{e}");
}

#[test]
fn captured_objects_come_back_as_files_and_overwrite_nothing() {
    let project = project_or_skip!();
    documents(&project);
    project.run(&["snapshot", "--json", "--set", "capture.mode=copy"]).ok();
    let corpus = tree(&project.path("docs"));
    let modified = |path: PathBuf| std::fs::metadata(path).unwrap().modified().unwrap();
    let times: BTreeMap<_, _> = corpus.keys().map(|p| (p.clone(), modified(project.path("docs").join(p)))).collect();
    std::fs::remove_dir_all(project.path("docs")).unwrap();

    let report = project.run(&["extract", "--to", "out", "--json"]).ok();
    assert_eq!((report["written"].as_u64().unwrap() as usize, &report["failed"]), (corpus.len(), &0.into()));
    assert_eq!(tree(&project.path("out")), corpus);
    for (path, time) in times {
        let off = |a: std::time::SystemTime, b| a.duration_since(b).unwrap_or_else(|e| e.duration()).as_micros();
        assert!(off(modified(project.path("out").join(&path)), time) <= 1, "{}", path.display());
    }
    // Again: all of it is there. One file changed, one is missing: the one is left alone and named, the other written.
    assert_eq!(project.run(&["extract", "--to", "out", "--json"]).ok()["already_there"], corpus.len());
    project.write("out/page.html", "mine");
    std::fs::remove_file(project.path("out/sub dir/same.md")).unwrap();
    let run = project.run(&["extract", "--to", "out", "--json"]);
    assert_ne!(run.code, 0);
    let report = run.json();
    assert_eq!((&report["written"], &report["failed"]), (&1.into(), &1.into()), "{report}");
    assert_eq!(report["problems"][0]["path"], "page.html");
    assert_eq!(std::fs::read(project.path("out/page.html")).unwrap(), b"mine");
    let report = project.run(&["extract", "--to", "some", "--include", "sub dir/*.md", "--json"]).ok();
    assert_eq!(report["written"], 2, "{report}");
    assert!(tree(&project.path("some")).keys().all(|p| p.starts_with("sub dir")));
}

#[test]
fn documents_of_a_damaged_pack_come_from_the_corpus_or_are_named() {
    let project = project_or_skip!();
    documents(&project);
    project.run(&["snapshot", "--json", "--set", "capture.mode=copy"]).ok();
    project.run(&["restore", "--json"]).ok();
    let expected = project.payloads();
    for damage in ["flipped", "missing"] {
        let there: Vec<_> = packs(&project).into_iter().map(|p| (std::fs::read(&p).unwrap(), p)).collect();
        assert!(!there.is_empty());
        for (bytes, pack) in &there {
            if damage == "missing" {
                std::fs::remove_file(pack).unwrap();
            } else {
                let mut bytes = bytes.clone();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 4;
                std::fs::write(pack, bytes).unwrap();
            }
        }
        forget_derived(&project);
        let run = project.run(&["restore", "--json"]);
        run.ok();
        assert!(run.stderr.contains("damaged"), "{}", run.stderr);
        assert_eq!(project.payloads(), expected);

        // One document is not in the corpus as it was: it is lost, and the others are not.
        forget_derived(&project);
        let page = std::fs::read(project.path("docs/page.html")).unwrap();
        project.write("docs/page.html", "<p>Something else.</p>");
        let e = project.run(&["restore", "--json"]).failed(10);
        assert!(e.to_string().contains("page.html (lost: "), "{e}");
        let report = project.run(&["restore", "--on-changed", "skip", "--json"]).ok();
        assert_eq!(report["differences"][0]["what"], "lost", "{report}");
        assert_eq!(report["differences"].as_array().unwrap().len(), 1, "{report}");

        // Without a corpus all of them are lost, which is known before anything is embedded.
        forget_derived(&project);
        std::fs::rename(project.path("docs"), project.path("elsewhere")).unwrap();
        let e = project.run(&["restore", "--json"]).failed(10);
        assert!(e.to_string().contains("lost: "), "{e}");
        let stored = project.path(".regrow/repository/vectors");
        assert!(!stored.exists() || tree(&stored).is_empty());
        std::fs::rename(project.path("elsewhere"), project.path("docs")).unwrap();
        project.write("docs/page.html", page);
        for (bytes, pack) in there {
            std::fs::write(pack, bytes).unwrap();
        }
        drop(std::fs::remove_dir_all(project.path(".regrow/database")));
        project.run(&["restore", "--json"]).ok();
        assert_eq!(project.payloads(), expected);
    }
}

#[test]
fn rehash_captures_again_what_a_damaged_pack_holds() {
    let project = project_or_skip!();
    documents(&project);
    let copy = ["--json", "--skip-target", "--set", "capture.mode=copy"];
    project.run(&[&["snapshot"], &copy[..]].concat()).ok();
    let damaged = packs(&project);
    for pack in &damaged {
        let mut bytes = std::fs::read(pack).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        std::fs::write(pack, bytes).unwrap();
    }
    let report = project.run(&["repair", "--json"]).failed(30);
    assert!(report.to_string().contains("snapshot --rehash"), "{report}");
    let report = project.run(&[&["snapshot", "--rehash"], &copy[..]].concat()).ok();
    assert_eq!(report["captured"]["new_packs"], damaged.len(), "{report}");
    let latest = report["snapshot"].as_str().unwrap().to_owned();
    project.run(&["verify", "--json", "--snapshot", &latest]).ok();
    // With all in order nothing is captured twice.
    let report = project.run(&[&["snapshot", "--rehash"], &copy[..]].concat()).ok();
    assert_eq!(report["captured"]["new_packs"], 0, "{report}");
    std::fs::remove_dir_all(project.path("docs")).unwrap();
    project.run(&["restore", "--json"]).ok();
}

#[test]
fn a_record_file_that_grew_adds_only_its_end() {
    let project = project_or_skip!();
    documents(&project);
    // Most of each record is a field that is no text: what is captured is the file, all of it.
    let mut hasher = blake3::Hasher::new();
    let mut line = |i: usize| {
        hasher.update(b"x");
        let mut pad = vec![0; 45_000];
        hasher.finalize_xof().fill(&mut pad);
        let pad: String = pad.iter().map(|b| format!("{b:02x}")).collect();
        format!("{{\"id\": {i}, \"text\": \"Record {i}.\", \"pad\": \"{pad}\"}}\n")
    };
    let text: String = (0..350).map(&mut line).collect();
    assert!(text.len() > 30 << 20);
    project.write("docs/big.jsonl", &text);
    let first = project.run(&["snapshot", "--json", "--set", "capture.mode=copy"]).ok();
    assert!(first["captured"]["new_bytes"].as_u64().unwrap() > 30 << 20, "{first}");
    let more: String = (350..355).map(&mut line).collect();
    std::fs::OpenOptions::new()
        .append(true)
        .open(project.path("docs/big.jsonl"))
        .unwrap()
        .write_all(more.as_bytes())
        .unwrap();
    let second = project.run(&["snapshot", "--json", "--set", "capture.mode=copy"]).ok();
    let new = second["captured"]["new_bytes"].as_u64().unwrap();
    assert!(new >= more.len() as u64 && new < (5 << 20) + more.len() as u64, "{second}");
    std::fs::remove_dir_all(project.path("docs")).unwrap();
    let report = project.run(&["restore", "--json"]).ok();
    assert_eq!(report["documents"], second["documents"], "{report}");
    let earlier = first["snapshot"].as_str().unwrap();
    let report = project.run(&["extract", "--snapshot", earlier, "--to", "out", "--include", "big.jsonl", "--json"]);
    report.ok();
    assert!(std::fs::read_to_string(project.path("out/big.jsonl")).unwrap() == text);
}

#[test]
fn files_that_are_written_and_deleted_meanwhile_do_not_fail_a_snapshot() {
    let project = project_or_skip!();
    documents(&project);
    let folder = project.path("docs/busy");
    std::fs::create_dir(&folder).unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let busy = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let mut i = 0_u32;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let path = folder.join(format!("{}.md", i % 50));
                if i.is_multiple_of(3) {
                    drop(std::fs::remove_file(&path));
                } else {
                    std::fs::write(&path, format!("# {i}\n\nbusy {i}\n").repeat(50)).unwrap();
                }
                i += 1;
            }
        }
    });
    for mode in ["copy", "text"] {
        let set = format!("capture.mode={mode}");
        let skip = ["snapshot", "--json", "--set", &set, "--set", "corpus.on_bad_document=skip"];
        let report = project.run(&skip).ok();
        for skipped in report["skipped"].as_array().unwrap() {
            assert!(skipped["reason"].to_string().contains("keeps changing"), "{skipped}");
        }
        let report = project.run(&["drill", "--json"]).ok();
        assert_eq!(report["differences"], serde_json::json!([]), "{report}");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    busy.join().unwrap();
}
