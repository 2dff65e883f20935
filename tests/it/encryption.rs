//! An encrypted repository, through the binary: what works as ever, what is refused, and how keys change.

use std::path::{Path, PathBuf};

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use regrow::ErrorKind;
use regrow::repository::{Repository, Unlock};
use regrow::vectors::{StoredVectorSet, VectorSetRecord, VectorSource};
use serde_json::Value;

use crate::bad_input::three;
use crate::common::{Project, Run};

const PASSPHRASE: &str = "repository.encryption.passphrase=file:passphrase";
const KEY: &str = "repository.encryption.key=cmd:cat key";

fn with(project: &Project, setting: &str, arguments: &[&str]) -> Run {
    let mut all = arguments.to_vec();
    all.extend(["--json", "--set", setting]);
    project.run(&all)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path)),
            path => found.push(path),
        }
    }
    found.sort();
    found
}

fn kind(document: &Value) -> &str {
    document["error"]["kind"].as_str().unwrap_or_default()
}

fn encrypted() -> Option<Project> {
    let project = Project::new()?;
    three(&project);
    project.write("passphrase", "correct horse battery staple\n");
    project.write("other", "another passphrase");
    project.write("key", format!("{}\n", "4b".repeat(32)));
    Some(project)
}

#[test]
fn an_encrypted_repository_does_everything_and_shows_nothing() {
    let Some(project) = encrypted() else { return };
    with(&project, PASSPHRASE, &["snapshot"]).ok();
    let restored = with(&project, PASSPHRASE, &["restore"]).ok();
    assert!(restored["chunks"].as_u64() >= Some(3));
    assert!(with(&project, PASSPHRASE, &["verify"]).ok()["objects"].as_u64() >= Some(3));
    assert_eq!(with(&project, PASSPHRASE, &["drill"]).ok()["cleaned_up"], true);
    let status = with(&project, PASSPHRASE, &["status"]).ok();
    assert_eq!((&status["snapshots"], &status["last_drill"]["ok"]), (&Value::from(1), &Value::from(true)));
    assert_eq!(status["exposure"]["changed"], 0);
    assert_eq!(with(&project, PASSPHRASE, &["list"]).ok()["snapshots"].as_array().map(Vec::len), Some(1));
    // Vectors are found again under names that nobody else can make.
    let again = with(&project, PASSPHRASE, &["restore", "--fresh"]).ok();
    assert_eq!((&again["chunks_embedded"], &again["vector_set"]), (&Value::from(0), &restored["vector_set"]));

    let plain = project.path("docs");
    let words: Vec<Vec<u8>> = files(&plain).iter().map(|file| std::fs::read(file).unwrap()[..12].to_vec()).collect();
    for file in files(&project.path(".regrow/repository")) {
        let bytes = std::fs::read(&file).unwrap();
        if file.ends_with("repository.json") || file.parent().is_some_and(|folder| folder.ends_with("keys")) {
            continue;
        }
        match file.extension().and_then(|e| e.to_str()) {
            Some("parquet") => {
                let e = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&file).unwrap()).unwrap_err();
                assert!(e.to_string().contains("encrypted"), "{}: {e}", file.display());
            }
            _ => assert!(bytes.starts_with(b"RGRW") && bytes.len() >= 4096, "{}", file.display()),
        }
        for word in &words {
            assert!(!bytes.windows(word.len()).any(|window| window == &word[..]), "{}", file.display());
        }
    }
}

/// Written when the format was made, with a repository key that was rotated afterwards; never edited.
#[test]
fn what_was_encrypted_stays_readable() {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encrypted-v1");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        for unlock in [Unlock::passphrase("horse staple"), Unlock::key("4b".repeat(32))] {
            let repository = Repository::open("repository", &base, &[], &unlock).await.unwrap();
            let record = VectorSetRecord::read(&repository, "19ea5d79c7f51df93f1e04f0b7e15bff").await.unwrap();
            let set = StoredVectorSet::new(&repository, &record.parts).unwrap();
            let texts: Vec<String> = set.read(0).await.unwrap().into_iter().map(|row| row.text).collect();
            assert_eq!(texts, ["# Ships\nShips wait for the tide.", "Flour and water."]);
        }
        let wrong = Repository::open("repository", &base, &[], &Unlock::passphrase("horse")).await;
        assert_eq!(wrong.unwrap_err().kind(), ErrorKind::KeyWrong);
    });
}

#[test]
fn the_key_must_be_there_and_right() {
    let Some(project) = encrypted() else { return };
    with(&project, PASSPHRASE, &["snapshot"]).ok();
    for verb in ["list", "restore", "verify", "drill", "snapshot", "status"] {
        assert_eq!(kind(&project.run(&[verb, "--json"]).failed(2)), "key_missing", "{verb}");
        let wrong = with(&project, "repository.encryption.passphrase=file:other", &[verb]).failed(2);
        assert_eq!(kind(&wrong), "key_wrong", "{verb}");
    }
    let e = with(&project, "repository.encryption.passphrase=file:nowhere", &["list"]).failed(2);
    assert_eq!(kind(&e), "configuration");
    let e = with(&project, "repository.encryption.key=file:other", &["list"]).failed(2);
    assert_eq!(kind(&e), "configuration");
    // No error shows the secret.
    let run = with(&project, "repository.encryption.key=file:passphrase", &["list"]);
    assert!(!format!("{}{}", run.stdout, run.stderr).contains("horse"));

    // A repository that is not encrypted does not become so, and says it.
    let open = ["--set", "repository.url=open"];
    project.run(&["snapshot", "--json", open[0], open[1]]).ok();
    let e = with(&project, PASSPHRASE, &["snapshot", open[0], open[1]]).failed(2);
    assert_eq!(kind(&e), "configuration");

    // Changed bytes are neither a wrong key nor an unexpected failure.
    let manifest = files(&project.path(".regrow/repository/snapshots")).remove(0);
    let mut bytes = std::fs::read(&manifest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&manifest, bytes).unwrap();
    assert_eq!(kind(&with(&project, PASSPHRASE, &["show"]).failed(1)), "damaged");
    let report = with(&project, PASSPHRASE, &["verify"]).failed(30);
    assert_eq!(report["damaged"].as_array().map(Vec::len), Some(1));
}

#[test]
fn keys_are_listed_added_rotated_and_removed() {
    let Some(project) = encrypted() else { return };
    with(&project, PASSPHRASE, &["snapshot"]).ok();
    with(&project, PASSPHRASE, &["restore"]).ok();
    let listed = with(&project, PASSPHRASE, &["key", "list"]).ok();
    assert_eq!((listed["slots"].as_array().map(Vec::len), &listed["slots"][0]["state"]), (Some(1), &"opens".into()));
    assert_eq!(listed["slots"][0]["kind"], "passphrase");
    let first = listed["newest_key"].clone();

    // Another key opens it too; the list says so, and helps when nothing fits.
    with(&project, PASSPHRASE, &["key", "add", "--new-key", "cmd:cat key"]).ok();
    assert_eq!(with(&project, KEY, &["list"]).ok()["snapshots"].as_array().map(Vec::len), Some(1));
    let outside = with(&project, "repository.encryption.passphrase=file:other", &["key", "list"]).ok();
    assert_eq!(outside["slots"][1]["state"], "unknown");

    // After a rotation everything that was there is used as before, and only what was named opens it.
    let rotated = with(&project, KEY, &["key", "rotate", "--also", "file:other"]).ok();
    assert_eq!(
        (rotated["added"].as_array().map(Vec::len), rotated["removed"].as_array().map(Vec::len)),
        (Some(2), Some(2))
    );
    assert_ne!(rotated["newest_key"], first);
    assert_eq!(kind(&with(&project, PASSPHRASE, &["list"]).failed(2)), "key_wrong");
    let other = "repository.encryption.passphrase=file:other";
    project.write("docs/new.md", "A document that came after the rotation.\n");
    with(&project, other, &["snapshot"]).ok();
    let restored = with(&project, KEY, &["restore"]).ok();
    assert!(restored["chunks_reused"].as_u64() >= Some(3) && restored["chunks_embedded"] == 1, "{restored}");
    assert!(with(&project, other, &["verify"]).ok()["ok"] == true);

    // The last slot that opens with what is given stays.
    let slots = with(&project, KEY, &["key", "list"]).ok()["slots"].clone();
    let id = |kind: &str| {
        let slot = slots.as_array().unwrap().iter().find(|slot| slot["kind"] == kind).unwrap();
        slot["id"].as_str().unwrap().to_owned()
    };
    assert_eq!(kind(&with(&project, KEY, &["key", "remove", &id("key")]).failed(2)), "configuration");
    with(&project, KEY, &["key", "remove", &id("passphrase")]).ok();
    assert_eq!(kind(&with(&project, other, &["list"]).failed(2)), "key_wrong");
    with(&project, KEY, &["list"]).ok();

    let text = project.run(&["key", "list", "--set", KEY]);
    assert!(text.code == 0 && text.stdout.contains("opens with what was given"), "{text:?}");
}
