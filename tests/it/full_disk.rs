//! A full disk, and a disk that cannot be written: a clear error, and the same command continues once there is room.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::bad_input::{refused, three};
use crate::interrupt::{SMALL_CHUNKS, harbours};
use crate::project_or_skip;

/// A small file system of its own, unmounted when this is dropped.
struct Disk(PathBuf);

impl Disk {
    /// Mounts one; `None`, after a visible line, where this user may not.
    fn mount(at: &Path, kibibytes: u64) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={kibibytes}k");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        if !done.as_ref().is_ok_and(|o| o.status.success()) {
            eprintln!("skipped: no small file system can be mounted here ({done:?})");
            return None;
        }
        Some(Self(at.to_owned()))
    }

    fn remount(&self, option: &str) {
        let option = format!("remount,{option}");
        let done = Command::new("mount").args(["-o", &option]).arg(&self.0).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    }

    /// Fills it up but for some kibibytes.
    fn fill(&self, but: usize) {
        use std::io::Write;
        let mut ballast = std::fs::File::create(self.0.join("ballast")).unwrap();
        while ballast.write_all(&[0; 4096]).is_ok() {}
        let full = ballast.metadata().unwrap().len();
        ballast.set_len(full.saturating_sub(but as u64 * 1024)).unwrap();
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a file may still be open where a test has failed.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

const REPOSITORY: &str = "repository.url=disk/repository";

/// The part of the report that must be the same with and without an interruption.
fn outcome(report: &Value) -> [&Value; 4] {
    ["documents", "chunks", "parts", "vector_set"].map(|key| &report[key])
}

#[test]
fn a_full_repository_stops_and_the_same_command_continues() {
    let project = project_or_skip!();
    let Some(disk) = Disk::mount(&project.path("disk"), 8 << 10) else { return };
    harbours(&project, 40);
    let with = |verb: &'static str| vec![verb, "--set", REPOSITORY];

    disk.fill(16);
    let e = refused(&project, &with("snapshot"), 1, "storage_full");
    assert!(e.message().contains("room"), "{}", e.message());
    assert!(e.next().contains("same command again"), "{}", e.next());
    disk.free();
    // What could not be committed is no snapshot.
    let list = project.run(&["list", "--json", "--set", REPOSITORY]);
    if list.code == 0 {
        assert!(list.json()["snapshots"].as_array().unwrap().is_empty());
    }
    project.run(&[&["snapshot", "--json", "--set", REPOSITORY][..], &SMALL_CHUNKS].concat()).ok();

    // Room for some of the parts.
    disk.fill(1200);
    let e = refused(&project, &with("restore"), 1, "storage_full");
    assert!(e.message().contains("room"), "{}", e.message());
    assert!(e.context("object").starts_with("vectors/"), "{}", e.context("object"));
    assert!(e.context("repository").ends_with("disk/repository"), "{}", e.context("repository"));
    refused(&project, &["query", "tides", "--set", REPOSITORY], 2, "not_found");
    disk.free();

    let stored = count(&project.path("disk/repository/vectors"));
    assert!(stored > 0, "this means little without a stored part");
    let report = project.run(&["restore", "--json", "--set", REPOSITORY]).ok();
    assert_eq!(report["parts_reused"], stored, "{report}");
    assert!(report["parts"].as_u64().unwrap() > stored, "{report}");
    assert_eq!(report["target"]["count"], report["chunks"]);
    project.run(&["verify", "--json", "--set", REPOSITORY]).ok();
    // As if nothing had happened.
    std::fs::remove_dir_all(project.path(".regrow/database")).unwrap();
    let again = project.run(&["restore", "--json", "--set", REPOSITORY]).ok();
    assert_eq!(outcome(&again), outcome(&report));

    // A drill that finds no room leaves nothing behind either.
    disk.fill(16);
    let e = refused(&project, &with("drill"), 1, "storage_full");
    assert!(e.message().contains("room"), "{}", e.message());
    disk.free();
    assert!(project.names("disk/repository/drills").iter().all(|name| name.ends_with(".json")));
    let collections = project.run(&["status", "--json", "--set", REPOSITORY]).ok()["collections"].clone();
    assert_eq!(collections.as_array().unwrap().len(), 1, "{collections}");
}

/// Parts below a folder.
fn count(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|e| match e.path() {
            folder if folder.is_dir() => count(&folder),
            file => u64::from(file.extension().is_some_and(|e| e == "parquet")),
        })
        .sum()
}

#[test]
fn a_full_database_stops_and_the_same_command_continues() {
    let project = project_or_skip!();
    let Some(disk) = Disk::mount(&project.path("disk"), 16 << 10) else { return };
    three(&project);
    project.run(&["snapshot", "--json"]).ok();
    let database = ["--set", "target.path=disk/database"];
    let e = refused(&project, &[&["restore"][..], &database].concat(), 1, "storage_full");
    assert!(e.message().contains("room"), "{}", e.message());
    assert!(e.context("needed_bytes").parse::<u64>().unwrap() > 16 << 20);
    assert!(e.context("available_bytes").parse::<u64>().unwrap() <= 16 << 20);
    assert!(e.next().contains("same command again"), "{}", e.next());

    disk.remount("size=400m");
    let report = project.run(&[&["restore", "--json"][..], &database].concat()).ok();
    assert_eq!((&report["target"]["count"], &report["ok"]), (&3.into(), &true.into()));
    assert_eq!(
        project.run(&[&["query", "tides", "--json"][..], &database].concat()).ok()["hits"][0]["document_id"],
        "harbour.md"
    );
}

#[test]
fn a_repository_that_cannot_be_written_is_named() {
    let project = project_or_skip!();
    let Some(disk) = Disk::mount(&project.path("disk"), 8 << 10) else { return };
    three(&project);
    project.run(&["snapshot", "--json", "--set", REPOSITORY]).ok();
    disk.remount("ro");
    let document = project.run(&["snapshot", "--json", "--set", REPOSITORY]).failed(1);
    assert_eq!(document["error"]["kind"], "denied", "{document}");
    let causes = document["error"]["causes"].to_string();
    assert!(causes.contains("Read-only"), "{document}");
    assert!(document["error"]["context"].to_string().contains("disk/repository"), "{document}");
    // Reading goes on, and what is read can be restored: on the worst day the repository may be a read-only copy.
    for verb in ["list", "show", "verify", "status", "plan", "restore", "drill"] {
        project.run(&[verb, "--json", "--set", REPOSITORY]).ok();
    }
    disk.remount("rw");
    project.run(&["restore", "--json", "--set", REPOSITORY]).ok();
}

/// The same without a mount: files may not grow beyond a limit that the parts exceed. In memory, because the
/// embedded database lays out larger files.
#[cfg(unix)]
#[test]
fn a_file_that_may_not_grow_is_no_room() {
    let project = project_or_skip!();
    harbours(&project, 5);
    project.run(&[&["snapshot", "--json"][..], &SMALL_CHUNKS].concat()).ok();
    let memory = "--set target.kind=memory";
    // Blocks of 512 bytes in some shells and of 1024 in others.
    let line = format!("trap '' XFSZ; ulimit -f 64; \"$REGROW\" restore {memory} --json");
    let run = project.shell(&line);
    if run.stdout.is_empty() {
        eprintln!("skipped: no limit can be set here: {}", run.stderr);
        return;
    }
    let document = run.failed(1);
    assert_eq!(document["error"]["kind"], "storage_full", "{document}");
    assert!(document["error"]["message"].as_str().unwrap().contains("room"), "{document}");
    assert!(document["error"]["next"].as_str().unwrap().contains("same command again"), "{document}");
    let report = project.shell(&format!("\"$REGROW\" restore {memory} --json")).ok();
    assert_eq!(report["target"]["count"], report["chunks"]);
    project.run(&["verify", "--json"]).ok();
}
