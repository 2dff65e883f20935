//! Bad input: every error says what, where and what to do next, and has its exit code.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::Project;
use crate::project_or_skip;

/// An error document, checked for its shape.
pub struct Failure(Value);

impl Failure {
    pub fn message(&self) -> &str {
        self.0["message"].as_str().unwrap_or_default()
    }

    /// The value of one context key; several are joined by line ends.
    pub fn context(&self, key: &str) -> String {
        match &self.0["context"][key] {
            Value::String(one) => one.clone(),
            Value::Array(all) => all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n"),
            _ => panic!("no {key} in {}", self.0),
        }
    }

    pub fn causes(&self) -> String {
        self.0["causes"].to_string()
    }

    pub fn next(&self) -> &str {
        self.0["next"].as_str().unwrap_or_default()
    }
}

/// Runs a command that must fail: one JSON document on stdout with kind, message and next step, and the same
/// message for people on stderr.
pub fn refused(project: &Project, arguments: &[&str], code: i32, kind: &str) -> Failure {
    let mut all = arguments.to_vec();
    all.push("--json");
    let run = project.run(&all);
    let document = run.failed(code);
    assert_eq!(document["ok"], false, "{document}");
    assert_eq!(document["exit_code"], code, "{document}");
    let failure = Failure(document["error"].clone());
    assert_eq!(failure.0["kind"], kind, "{document}");
    assert!(!failure.message().is_empty() && failure.0["context"].is_object(), "{document}");
    assert!(!failure.next().is_empty(), "nothing says what to do next: {document}");
    assert!(run.stderr.contains(failure.message()), "{}", run.stderr);
    failure
}

/// Three small documents.
pub fn three(project: &Project) {
    project.write("docs/harbour.md", "# Harbours\n\nShips wait for the tide outside the harbour.\n");
    project.write("docs/bread.md", "# Bread\n\nFlour, water, salt and yeast make a loaf.\n");
    project.write("docs/stars.md", "# Stars\n\nA telescope gathers the light of distant stars.\n");
}

/// Replaces text of the pipeline.
fn edit(project: &Project, from: &str, to: &str) {
    let text = std::fs::read_to_string(project.path("regrow.toml")).unwrap();
    assert!(text.contains(from), "{text}");
    project.write("regrow.toml", text.replacen(from, to, 1));
}

/// Line of the pipeline that holds `text`, from 1.
fn line_of(project: &Project, text: &str) -> String {
    let pipeline = std::fs::read_to_string(project.path("regrow.toml")).unwrap();
    (pipeline.lines().position(|l| l.contains(text)).unwrap() + 1).to_string()
}

/// The directory of the cached model's files.
fn model_directory(project: &Project) -> PathBuf {
    let shown = project.run(&["models", "show", "all-MiniLM-L6-v2", "--json"]).ok();
    PathBuf::from(shown["cached"].as_str().unwrap())
}

/// The shipped MiniLM card with one change.
fn card(from: &str, to: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/all-MiniLM-L6-v2.toml");
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{text}");
    text.replacen(from, to, 1)
}

/// A copy of the model's directory in `model/` with one file replaced; the others are the same bytes.
fn model_with(project: &Project, name: &str, bytes: &[u8]) {
    let directory = model_directory(project);
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let to = project.path("model").join(file);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        if file == name {
            std::fs::write(to, bytes).unwrap();
        } else if std::fs::hard_link(directory.join(file), &to).is_err() {
            std::fs::copy(directory.join(file), to).unwrap();
        }
    }
}

/// Changes one byte in the middle of a file.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_missing_corpus_is_named() {
    let project = project_or_skip!();
    std::fs::remove_dir(project.path("docs")).unwrap();
    let e = refused(&project, &["snapshot"], 2, "configuration");
    assert!(e.message().contains("corpus directory is missing"), "{}", e.message());
    assert_eq!(e.context("path"), project.path("docs").display().to_string());
    assert!(e.next().contains("corpus.url"));
    // Nothing was made on the way.
    assert!(!project.path(".regrow/repository").exists());

    project.write("docs", "a file");
    let e = refused(&project, &["snapshot"], 2, "configuration");
    assert!(e.message().contains("not a directory"), "{}", e.message());
}

#[test]
fn an_unknown_key_is_named_with_line_and_the_nearest_known_one() {
    let project = project_or_skip!();
    edit(&project, "\noverlap = ", "\noverlapp = ");
    for verb in ["plan", "snapshot", "restore", "drill", "verify", "status", "list", "show"] {
        let e = refused(&project, &[verb], 2, "configuration");
        assert_eq!(e.message(), "unknown key `overlapp` in [chunking]");
        assert_eq!(e.context("file"), "regrow.toml");
        assert_eq!(e.context("line"), line_of(&project, "overlapp"));
        assert_eq!(e.context("key"), "chunking.overlapp");
        assert!(e.next().contains("`overlap`"), "{}", e.next());
    }
}

#[test]
fn a_wrong_value_is_named_with_key_and_example() {
    let project = project_or_skip!();
    let e = refused(&project, &["snapshot", "--set", "chunking.size=many"], 2, "configuration");
    assert_eq!((e.context("key").as_str(), e.context("value").as_str()), ("chunking.size", "many"));
    let e = refused(&project, &["snapshot", "--set", "chunking.size=9999"], 2, "configuration");
    assert_eq!(e.context("model"), "all-MiniLM-L6-v2");
    assert!(e.context("largest").parse::<u32>().unwrap() <= 256);
    let e = refused(&project, &["snapshot", "--set", "corpus.colour=red"], 2, "configuration");
    assert!(e.message().contains("colour"), "{}", e.message());
    let e = refused(&project, &["snapshot", "--set", "corpus.url"], 2, "configuration");
    assert!(e.message().contains("KEY=VALUE"), "{}", e.message());

    edit(&project, "\nsize = 200", "\nsize = \"large\"");
    let e = refused(&project, &["snapshot"], 2, "configuration");
    assert_eq!(e.context("key"), "chunking.size");
    assert_eq!(e.context("line"), line_of(&project, "\"large\""));
    assert!(e.next().contains("200"), "{}", e.next());

    project.write("regrow.toml", "name = \"x\"\n[corpus\n");
    let e = refused(&project, &["snapshot"], 2, "configuration");
    assert!(e.message().contains("TOML") && e.context("line") == "2", "{}", e.message());
}

#[test]
fn without_a_pipeline_the_error_says_how_to_get_one() {
    let project = project_or_skip!();
    std::fs::remove_file(project.path("regrow.toml")).unwrap();
    for verb in ["plan", "snapshot", "restore", "drill", "verify", "status", "list", "show"] {
        let e = refused(&project, &[verb], 2, "configuration");
        assert_eq!(e.context("file"), "regrow.toml");
        assert!(e.next().contains("regrow init"));
    }
    let report = project.run(&["doctor", "--json"]).failed(2);
    assert_eq!((&report["verb"], &report["ok"]), (&"doctor".into(), &false.into()));
    assert_eq!(report["checks"][0]["outcome"], "fail");
}

#[test]
fn init_does_not_overwrite() {
    let project = project_or_skip!();
    project.write("regrow.toml", "mine");
    let e = refused(&project, &["init"], 2, "already_exists");
    assert!(e.next().contains("--force"));
    assert_eq!(std::fs::read(project.path("regrow.toml")).unwrap(), b"mine");
}

#[test]
fn usage_errors_are_json_too() {
    let project = project_or_skip!();
    for (arguments, part) in [
        (&["frobnicate"][..], "frobnicate"),
        (&["snapshot", "--colour"], "--colour"),
        (&["restore", "--on-changed", "perhaps"], "perhaps"),
        (&["query", "x", "-k", "many"], "many"),
        (&["completions", "basic"], "basic"),
    ] {
        let e = refused(&project, arguments, 2, "configuration");
        assert!(e.message().contains(part), "{}", e.message());
    }
    let run = project.run(&["frobnicate"]);
    assert_eq!((run.code, run.stdout.as_str()), (2, ""));
    assert!(run.stderr.contains("frobnicate"), "{}", run.stderr);
}

#[test]
fn a_missing_argument_is_named_in_json() {
    let project = project_or_skip!();
    let e = refused(&project, &["query"], 2, "configuration");
    assert!(e.message().to_lowercase().contains("text"), "{}", e.message());
}

#[test]
fn an_unknown_model_brings_the_nearest_names() {
    let project = project_or_skip!();
    three(&project);
    let e = refused(&project, &["snapshot", "--set", "model.name=all-MiniLM-L6-v3"], 2, "configuration");
    assert_eq!(e.context("model"), "all-MiniLM-L6-v3");
    assert!(e.next().contains("all-MiniLM-L6-v2"), "{}", e.next());
    let e = refused(&project, &["models", "show", "minlm"], 2, "configuration");
    assert_eq!(e.context("model"), "minlm");
}

#[test]
fn without_a_model_every_source_gives_its_reason() {
    let project = project_or_skip!();
    three(&project);
    let e = refused(&project, &["snapshot", "--offline", "--cache-dir", "empty"], 11, "model_unavailable");
    assert_eq!(e.context("model"), "all-MiniLM-L6-v2");
    assert!(e.context("sources").contains("offline"), "{}", e.context("sources"));
    assert!(e.next().contains("model.source") && e.next().contains("tokenizer.json"), "{}", e.next());

    let e = refused(&project, &["snapshot", "--set", "model.source=nowhere"], 11, "model_unavailable");
    assert_eq!(e.context("directory"), project.path("nowhere").display().to_string());
}

#[test]
fn a_truncated_or_wrong_model_file_is_refused() {
    let project = project_or_skip!();
    three(&project);
    let original = model_directory(&project);
    let snapshot = &["snapshot", "--set", "model.source=model"];

    let weights = std::fs::read(original.join("model.safetensors")).unwrap();
    model_with(&project, "model.safetensors", &weights[..1 << 20]);
    let e = refused(&project, snapshot, 11, "model_mismatch");
    assert!(e.message().contains("truncated"), "{}", e.message());
    assert_eq!(e.context("file"), project.path("model/model.safetensors").display().to_string());
    assert_eq!(e.context("expected"), format!("{} bytes", weights.len()));
    assert_eq!(e.context("found"), "1048576 bytes");
    std::fs::remove_dir_all(project.path("model")).unwrap();

    // The right size, other bytes.
    let mut tokenizer = std::fs::read(original.join("tokenizer.json")).unwrap();
    let last = tokenizer.len() - 1;
    tokenizer[last] = b' ';
    model_with(&project, "tokenizer.json", &tokenizer);
    let e = refused(&project, snapshot, 11, "model_mismatch");
    assert!(e.message().contains("not the expected one"), "{}", e.message());
    assert!(e.context("file").ends_with("tokenizer.json"));
    assert!(e.context("expected").starts_with("blake3 "), "{}", e.context("expected"));

    std::fs::remove_file(project.path("model/tokenizer.json")).unwrap();
    let e = refused(&project, snapshot, 11, "model_mismatch");
    assert!(e.message().contains("missing") && e.context("file").ends_with("tokenizer.json"), "{}", e.message());
}

#[test]
fn a_card_that_does_not_fit_its_files_is_refused() {
    let project = project_or_skip!();
    three(&project);
    let source = format!("model.source={}", model_directory(&project).display());
    let with = |name: &str| {
        vec!["snapshot".to_owned(), "--set".into(), format!("model.name={name}"), "--set".into(), source.clone()]
    };
    let refuse = |name: &str, code, kind| {
        let arguments = with(name);
        refused(&project, &arguments.iter().map(String::as_str).collect::<Vec<_>>(), code, kind)
    };
    project.write("wide.toml", card("dimension = 384", "dimension = 768"));
    let e = refuse("wide.toml", 11, "model_mismatch");
    assert!(e.message().contains("dimension"), "{}", e.message());
    assert_eq!((e.context("expected").as_str(), e.context("found").as_str()), ("768", "384"));

    project.write("long.toml", card("max_tokens = 256", "max_tokens = 8192"));
    let e = refuse("long.toml", 11, "model_mismatch");
    assert_eq!(e.context("found"), "512");

    project.write("other.toml", card("architecture = \"bert\"", "architecture = \"qwen3\""));
    let e = refuse("other.toml", 11, "model_mismatch");
    assert_eq!((e.context("expected").as_str(), e.context("found").as_str()), ("qwen3", "bert"));

    project.write("odd.toml", card("pooling = \"mean\"", "pooling = \"median\""));
    let e = refuse("odd.toml", 2, "configuration");
    assert!(e.context("reason").contains("median"), "{}", e.context("reason"));
    let e = refuse("absent.toml", 2, "configuration");
    assert!(e.context("file").ends_with("absent.toml"));
}

#[test]
fn another_model_than_the_snapshots_is_refused_and_the_difference_named() {
    let project = project_or_skip!();
    three(&project);
    project.run(&["snapshot", "--json"]).ok();
    project.run(&["restore", "--json"]).ok();
    let source = format!("model.source={}", model_directory(&project).display());
    for (from, to, difference) in [
        ("pooling = \"mean\"", "pooling = \"cls\"", "pooling: \"mean\" recorded, \"cls\" here"),
        ("query_prefix = \"\"", "query_prefix = \"query: \"", "query_prefix: \"\" recorded"),
        ("max_tokens = 256", "max_tokens = 512", "max_tokens: 256 recorded, 512 here"),
        ("normalize = true", "normalize = false", "normalize: true recorded"),
    ] {
        project.write("other.toml", card(from, to).replacen("name = \"all-MiniLM-L6-v2\"", "name = \"other\"", 1));
        let other = ["--set", "model.name=other.toml", "--set", &source];
        for verb in ["plan", "restore", "drill"] {
            let e = refused(&project, &[&[verb][..], &other].concat(), 11, "model_mismatch");
            assert!(e.message().contains("not the model of the snapshot"), "{}", e.message());
            assert!(e.context("differences").contains(difference), "{}", e.context("differences"));
            assert_eq!((e.context("recorded").as_str(), e.context("here").as_str()), ("all-MiniLM-L6-v2", "other"));
            assert!(!e.context("snapshot").is_empty());
        }
        let e = refused(&project, &[&["query", "tides"][..], &other].concat(), 11, "model_mismatch");
        assert!(e.context("collection").starts_with("test-"), "{}", e.context("collection"));
    }
    // The same model under another name is the same model.
    project.write("same.toml", card("name = \"all-MiniLM-L6-v2\"", "name = \"mine\""));
    project.run(&["plan", "--json", "--set", "model.name=same.toml", "--set", &source]).ok();
    // None of this touched what is served.
    assert_eq!(project.run(&["query", "tides", "--json"]).ok()["hits"].as_array().unwrap().len(), 3);
    // The refused drills are on record as such.
    let history = project.run(&["drill", "--history", "--json"]).ok();
    let drills = history["drills"].as_array().unwrap();
    assert_eq!(drills.len(), 4, "{history}");
    assert!(drills.iter().all(|d| d["ok"] == false && d["exit_code"] == 11 && d["cleaned_up"] == true), "{history}");
}

#[test]
fn damaged_objects_of_a_snapshot_are_named() {
    let project = project_or_skip!();
    three(&project);
    let snapshot = project.run(&["snapshot", "--json"]).ok()["snapshot"].as_str().unwrap().to_owned();
    let manifest = project.run(&["show", &snapshot, "--json"]).ok()["manifest"].clone();
    for object in [&manifest["canaries"]["path"], &manifest["inventory"][0]["path"]] {
        let object = object.as_str().unwrap().to_owned();
        let path = project.path(&format!(".regrow/repository/{object}"));
        let good = std::fs::read(&path).unwrap();
        // Changed, truncated, gone.
        for round in 0..3 {
            match round {
                0 => damage(&path),
                1 => std::fs::write(&path, &good[..good.len() / 2]).unwrap(),
                _ => std::fs::remove_file(&path).unwrap(),
            }
            for verb in ["plan", "restore"] {
                let e = refused(&project, &[verb], 1, "damaged");
                assert_eq!(e.context("object"), object);
                assert!(e.next().contains("verify"), "{}", e.next());
            }
            for arguments in [&["verify", "--json"][..], &["verify", "--quick", "--json"]] {
                // A change that keeps the size is beyond the quick look.
                if round == 0 && arguments.contains(&"--quick") {
                    project.run(arguments).ok();
                    continue;
                }
                let report = project.run(arguments).failed(30);
                assert_eq!((&report["verb"], &report["ok"]), (&"verify".into(), &false.into()));
                assert_eq!(report["damaged"].as_array().unwrap().len(), 1, "{report}");
                assert_eq!(report["damaged"][0]["object"], object.as_str());
                assert_eq!(report["damaged"][0]["derivable"], false);
                assert_eq!(report["damaged"][0]["hurts"][0], format!("snapshot {snapshot}"));
            }
        }
        std::fs::write(&path, &good).unwrap();
    }
    project.run(&["verify", "--json"]).ok();
    project.run(&["restore", "--json"]).ok();
}

#[test]
fn a_damaged_latest_snapshot_names_the_newest_of_its_pipeline_that_is_readable() {
    let project = project_or_skip!();
    three(&project);
    let snapshot = |name: &str| {
        let report = project.run(&["snapshot", "--json", "--skip-target", "--set", &format!("name={name}")]).ok();
        report["snapshot"].as_str().unwrap().to_owned()
    };
    // Ids of the same second are in no order.
    let second = || std::thread::sleep(std::time::Duration::from_millis(1100));
    let good = snapshot("ours");
    second();
    snapshot("theirs");
    second();
    let damaged = snapshot("ours");
    std::fs::write(project.path(&format!(".regrow/repository/snapshots/{damaged}/manifest.json")), "").unwrap();
    let e = refused(&project, &["plan", "--set", "name=ours"], 1, "damaged");
    assert_eq!(e.context("newest that is readable"), good);
}

#[test]
fn a_truncated_manifest_is_named_and_the_others_stay_usable() {
    let project = project_or_skip!();
    three(&project);
    let first = project.run(&["snapshot", "--json"]).ok()["snapshot"].as_str().unwrap().to_owned();
    project.write("docs/new.md", "# New\n\nSomething new.\n");
    let second = project.run(&["snapshot", "--json"]).ok()["snapshot"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    let object = format!("snapshots/{second}/manifest.json");
    let path = project.path(&format!(".regrow/repository/{object}"));
    let good = std::fs::read_to_string(&path).unwrap();

    // Cut off; complete JSON with a changed value; not JSON at all.
    for bad in
        [good[..good.len() / 2].to_owned(), good.replacen("\"documents\": 4", "\"documents\": 3", 1), String::new()]
    {
        assert_ne!(bad, good);
        std::fs::write(&path, bad).unwrap();
        for arguments in [&["restore"][..], &["plan"], &["show"], &["show", &second]] {
            let e = refused(&project, arguments, 1, "damaged");
            assert_eq!(e.message(), "the manifest is damaged");
            assert_eq!(e.context("object"), object);
            assert!(e.next().contains("another snapshot"), "{}", e.next());
        }
        let list = project.run(&["list", "--json"]).ok();
        assert_eq!(list["snapshots"].as_array().unwrap().len(), 1, "{list}");
        assert_eq!(list["snapshots"][0]["id"], first.as_str());
        assert_eq!(list["damaged"][0]["id"], second.as_str());
        assert!(list["damaged"][0]["problem"].as_str().unwrap().contains(&object), "{list}");
        let status = project.run(&["status", "--json"]).ok();
        assert_eq!(status["latest"]["id"], first.as_str());
        assert!(status["problems"][0].as_str().unwrap().contains(&object), "{status}");
        assert_eq!(project.run(&["verify", "--json"]).failed(30)["damaged"][0]["object"], object.as_str());
    }
    let restored = project.run(&["restore", "--snapshot", &first, "--json"]).ok();
    assert_eq!(restored["documents"], 3);
    // Another snapshot can be taken, and is the latest from then on.
    let third = project.run(&["snapshot", "--json"]).ok();
    assert_eq!(project.run(&["show", "--json"]).ok()["manifest"]["id"], third["snapshot"]);
}

#[test]
fn a_snapshot_that_does_not_exist_is_named() {
    let project = project_or_skip!();
    three(&project);
    // Not even a repository.
    for verb in ["plan", "restore", "drill", "show", "list", "verify"] {
        let e = refused(&project, &[verb], 2, "not_found");
        assert!(e.next().contains("regrow snapshot"), "{}", e.next());
    }
    project.run(&["snapshot", "--json"]).ok();
    for arguments in
        [&["plan", "-s", "1999"][..], &["restore", "-s", "1999"], &["drill", "-s", "1999"], &["show", "1999"]]
    {
        let e = refused(&project, arguments, 2, "not_found");
        assert_eq!(e.context("snapshot"), "1999");
        assert!(e.next().contains("regrow list"), "{}", e.next());
    }
    project.run(&["snapshot", "--json"]).ok();
    let e = refused(&project, &["show", "20"], 2, "configuration");
    assert_eq!(e.context("matches").split(", ").count(), 2);
    // The snapshots of one pipeline are not another's latest.
    let e = refused(&project, &["restore", "--set", "name=other"], 2, "not_found");
    assert!(e.message().contains("no snapshot yet"), "{}", e.message());
}

#[test]
fn a_collection_that_does_not_exist_is_named() {
    let project = project_or_skip!();
    let e = refused(&project, &["query", "tides"], 2, "not_found");
    assert_eq!(e.context("collection"), "test");
    let e = refused(&project, &["query", "tides", "--collection", "nope"], 2, "not_found");
    assert_eq!(e.context("collection"), "nope");
    assert!(e.next().contains("regrow restore"));
    three(&project);
    project.run(&["snapshot", "--json"]).ok();
    project.run(&["restore", "--json"]).ok();
    let e = refused(&project, &["query", "tides", "--where", "year"], 2, "configuration");
    assert_eq!(e.context("given"), "year");
}

/// A bad document: its file, its bytes, settings, and what the error must say.
struct Bad {
    file: &'static str,
    bytes: &'static [u8],
    set: &'static str,
    message: &'static str,
    line: Option<u64>,
}

const RECORDS: &str = "corpus.records=[{include=[\"**/*.jsonl\"],id=\"id\",text=[\"text\"]}]";

const BAD: &[Bad] = &[
    Bad {
        file: "latin1.txt",
        bytes: b"caf\xe9 au lait",
        set: "corpus.encoding=utf-8",
        message: "malformed in its encoding",
        line: None,
    },
    Bad {
        file: "zip.txt",
        bytes: b"PK\x03\x04\0\0\0\0\xff\xfe",
        set: "corpus.hidden=false",
        message: "encoding could not be detected",
        line: None,
    },
    Bad { file: "nul.txt", bytes: b"text\0text\0more", set: "corpus.hidden=false", message: "binary", line: None },
    Bad {
        file: "large.txt",
        bytes: &[b'x'; 4096],
        set: "corpus.max_document_bytes=1000",
        message: "larger than allowed",
        line: None,
    },
    Bad {
        file: "yaml.md",
        bytes: b"---\ntitle: A\nb: [1,\n---\nText",
        set: "corpus.hidden=false",
        message: "front matter is not YAML",
        line: Some(4),
    },
    Bad {
        file: "toml.md",
        bytes: b"+++\na = 1\nb = = 2\n+++\nText",
        set: "corpus.hidden=false",
        message: "front matter is not TOML",
        line: Some(3),
    },
    Bad {
        file: "cut.jsonl",
        bytes: b"{\"id\":1,\"text\":\"one\"}\n\n{\"id\":2,\"tex\n{\"id\":3,\"text\":\"three\"}\n",
        set: RECORDS,
        message: "not a JSON object",
        line: Some(3),
    },
    Bad {
        file: "twice.jsonl",
        bytes: b"{\"id\":1,\"text\":\"one\"}\n{\"id\":2,\"text\":\"two\"}\n{\"id\":1,\"text\":\"again\"}\n",
        set: RECORDS,
        message: "occurs twice",
        line: Some(3),
    },
    Bad {
        file: "untitled.jsonl",
        bytes: b"{\"id\":1,\"text\":\"one\"}\n{\"text\":\"no id\"}\n",
        set: RECORDS,
        message: "id",
        line: Some(2),
    },
    Bad {
        file: "list.jsonl",
        bytes: b"{\"id\":1,\"text\":[\"one\"]}\n",
        set: RECORDS,
        message: "wrong type",
        line: Some(1),
    },
];

#[test]
fn a_bad_document_fails_the_run_with_file_and_line() {
    let project = project_or_skip!();
    three(&project);
    for bad in BAD {
        let file = format!("docs/{}", bad.file);
        project.write(&file, bad.bytes);
        let e = refused(&project, &["snapshot", "--set", bad.set], 10, "bad_document");
        assert!(e.message().contains(bad.message), "{}: {}", bad.file, e.message());
        assert_eq!(e.context("file"), bad.file);
        if let Some(line) = bad.line {
            assert_eq!(e.context("line"), line.to_string(), "{}", bad.file);
        }
        assert!(e.next().contains("on_bad_document"), "{}", e.next());
        std::fs::remove_file(project.path(&file)).unwrap();
    }
    // A run that failed has committed nothing.
    assert!(project.run(&["list", "--json"]).ok()["snapshots"].as_array().unwrap().is_empty());
}

#[test]
fn a_bad_document_can_be_skipped_by_name() {
    let project = project_or_skip!();
    three(&project);
    for bad in BAD {
        let file = format!("docs/{}", bad.file);
        project.write(&file, bad.bytes);
        let skip = ["--set", "corpus.on_bad_document=skip", "--set", bad.set];
        let run = project.run(&[&["snapshot", "--json"][..], &skip].concat());
        let report = run.ok();
        assert_eq!(report["documents_skipped"], 1, "{}: {report}", bad.file);
        assert_eq!(report["skipped"][0]["path"], bad.file);
        assert_eq!(report["skipped"][0]["line"].as_u64(), bad.line, "{}", bad.file);
        assert!(report["skipped"][0]["reason"].as_str().unwrap().contains(bad.message), "{report}");
        assert!(bad.file == "twice.jsonl" || run.stderr.contains(bad.file), "nobody is told: {}", run.stderr);
        std::fs::remove_file(project.path(&file)).unwrap();
    }
}

#[test]
fn a_skipped_duplicate_is_named_on_stderr() {
    let project = project_or_skip!();
    let twice = BAD.iter().find(|b| b.file == "twice.jsonl").unwrap();
    project.write("docs/twice.jsonl", twice.bytes);
    let skip = ["snapshot", "--set", "corpus.on_bad_document=skip", "--set", twice.set];
    let run = project.run(&skip);
    assert!(run.code == 0 && run.stderr.contains("skipped twice.jsonl:3"), "{}", run.stderr);
    let run = project.run(&[&skip[..], &["--quiet"]].concat());
    assert!(run.stderr.contains("1 document was skipped"), "{}", run.stderr);
}

#[test]
fn what_the_snapshot_skipped_stays_counted() {
    let project = project_or_skip!();
    three(&project);
    project.write("docs/nul.txt", b"text\0text");
    edit(&project, "on_bad_document = \"fail\"", "on_bad_document = \"skip\"");
    project.run(&["snapshot", "--json"]).ok();
    let restored = project.run(&["restore", "--json"]).ok();
    assert_eq!((&restored["documents"], &restored["documents_skipped"]), (&3.into(), &1.into()));
    assert!(restored["differences"].as_array().unwrap().is_empty(), "{restored}");
    let shown = project.run(&["show", "--json"]).ok();
    assert_eq!(shown["manifest"]["counts"]["documents_skipped"], 1);
    // All of them are in the repository by name.
    let skipped = shown["manifest"]["skipped"]["path"].as_str().unwrap();
    let skipped = std::fs::read_to_string(project.path(&format!(".regrow/repository/{skipped}"))).unwrap();
    assert!(skipped.contains("nul.txt"), "{skipped}");
}

#[test]
fn what_the_snapshot_skipped_is_nothing_new_to_status() {
    let project = project_or_skip!();
    three(&project);
    project.write("docs/nul.txt", b"text\0text");
    project.run(&["snapshot", "--json", "--set", "corpus.on_bad_document=skip"]).ok();
    project.write("docs/bread.md", "# Bread\n\nOther words.\n");
    let status = project.run(&["status", "--json"]).ok();
    assert_eq!(status["exposure"]["changed"], 1, "{status}");
    assert_eq!(status["exposure"]["added"], 0, "{status}");
}

#[test]
fn changed_and_vanished_documents_stop_a_restore() {
    let project = project_or_skip!();
    three(&project);
    let snapshot = project.run(&["snapshot", "--json"]).ok()["snapshot"].as_str().unwrap().to_owned();
    let bread = std::fs::read_to_string(project.path("docs/bread.md")).unwrap();

    // The same size: only the digest tells.
    project.write("docs/bread.md", bread.replace("loaf", "cake"));
    let e = refused(&project, &["restore"], 10, "corpus_differs");
    assert!(e.message().starts_with("1 document"), "{}", e.message());
    assert_eq!(e.context("snapshot"), snapshot);
    assert!(e.context("document").starts_with("bread.md (changed: digest"), "{}", e.context("document"));
    assert!(e.next().contains("--on-changed skip") && e.next().contains("new snapshot"), "{}", e.next());

    project.write("docs/bread.md", bread.clone() + "More.\n");
    std::fs::remove_file(project.path("docs/stars.md")).unwrap();
    for verb in ["restore", "drill"] {
        let e = refused(&project, &[verb], 10, "corpus_differs");
        assert!(e.message().starts_with("2 document"), "{}", e.message());
        assert!(e.context("document").contains("bread.md (changed: "), "{}", e.context("document"));
        assert!(e.context("document").contains("stars.md (vanished: "), "{}", e.context("document"));
    }
    // Nothing half-done is served or left.
    refused(&project, &["query", "tides"], 2, "not_found");
    let status = project.run(&["status", "--json"]).ok();
    assert!(status["collections"].as_array().unwrap().is_empty(), "{status}");

    let report = project.run(&["restore", "--on-changed", "skip", "--json"]).ok();
    assert_eq!((&report["documents"], &report["documents_skipped"]), (&1.into(), &2.into()), "{report}");
    let differences = report["differences"].as_array().unwrap();
    let mut named: Vec<_> = differences.iter().map(|d| (d["document_id"].as_str(), d["what"].as_str())).collect();
    named.sort();
    assert_eq!((named[0], named[1].0), ((Some("bread.md"), Some("changed")), Some("stars.md")));
    assert!(differences.iter().all(|d| !d["reason"].as_str().unwrap().is_empty()));
    assert_eq!(report["target"]["count"], 1);

    // Brought back, everything is restored, whatever was skipped before.
    three(&project);
    let report = project.run(&["restore", "--json"]).ok();
    assert_eq!((&report["documents"], &report["documents_skipped"]), (&3.into(), &0.into()), "{report}");
    assert_eq!(report["target"]["count"], 3);
    let report = project.run(&["restore", "--on-changed", "skip", "--json"]).ok();
    assert_eq!((&report["documents"], &report["target"]["count"]), (&3.into(), &3.into()), "{report}");
}

#[test]
fn a_vanished_document_is_called_so_when_it_is_skipped() {
    let project = project_or_skip!();
    three(&project);
    project.run(&["snapshot", "--json"]).ok();
    std::fs::remove_file(project.path("docs/stars.md")).unwrap();
    let report = project.run(&["restore", "--on-changed", "skip", "--json"]).ok();
    assert_eq!(report["differences"][0]["document_id"], "stars.md");
    assert_eq!(report["differences"][0]["what"], "vanished", "{report}");
}

#[test]
fn wrong_columns_and_formats_of_record_files_are_configuration_errors() {
    let project = project_or_skip!();
    project.write("docs/a.csv", "id,body\n1,words\n");
    let set = "corpus.records=[{include=[\"**/*.csv\"],id=\"id\",text=[\"text\"]}]";
    let e = refused(&project, &["snapshot", "--set", set], 2, "configuration");
    assert_eq!((e.context("file").as_str(), e.context("column").as_str()), ("a.csv", "text"));
    assert!(e.context("columns").contains("body"), "{}", e.context("columns"));

    project.write("docs/a.csv", "id,text\n1,words\n2,too,many\n");
    let e = refused(&project, &["snapshot", "--set", set], 10, "bad_document");
    assert_eq!((e.context("file").as_str(), e.context("line").as_str()), ("a.csv", "3"));

    std::fs::remove_file(project.path("docs/a.csv")).unwrap();
    project.write("docs/a.parquet", "PAR1 not really");
    let set = "corpus.records=[{include=[\"**/*.parquet\"],id=\"id\",text=[\"text\"]}]";
    let e = refused(&project, &["snapshot", "--set", set], 10, "bad_document");
    assert!(e.message().contains("Parquet") && e.context("file") == "a.parquet", "{} {}", e.message(), e.causes());
}

#[test]
fn golden_queries_that_cannot_be_read_are_named() {
    let project = project_or_skip!();
    three(&project);
    project.run(&["snapshot", "--json"]).ok();
    let restore = &["restore", "--set", "validation.golden=golden.jsonl"];
    let e = refused(&project, restore, 2, "not_found");
    assert!(e.context("file").ends_with("golden.jsonl"));
    project.write("golden.jsonl", "{\"query\": \"tides\", \"expected\": [\"harbour.md\"]}\n{\"qeury\": 1}\n");
    let e = refused(&project, restore, 2, "configuration");
    assert_eq!(e.context("line"), "2");
}

/// A card of one's own without digests, and the command that takes a snapshot with it and the files in `model/`.
fn unpinned(project: &Project) -> [&'static str; 7] {
    let shipped = card("name = \"all-MiniLM-L6-v2\"", "name = \"mine\"");
    let kept = |line: &&str| !["bytes = ", "blake3 = ", "sha256 = "].iter().any(|key| line.starts_with(key));
    project.write("mine.toml", shipped.lines().filter(kept).collect::<Vec<_>>().join("\n"));
    ["snapshot", "--cache-dir", "cache", "--set", "model.name=mine.toml", "--set", "model.source=model"]
}

#[test]
fn files_that_no_card_vouches_for_must_fit_each_other() {
    let project = project_or_skip!();
    three(&project);
    let set = unpinned(&project);
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/golden/tiny-xlm-roberta");
    for (file, bytes) in [
        ("tokenizer.json", b"{}".to_vec()),
        ("config.json", b"not JSON".to_vec()),
        ("config.json", std::fs::read(tiny.join("config.json")).unwrap()),
        ("model.safetensors", std::fs::read(tiny.join("model.safetensors")).unwrap()),
        ("model.safetensors", vec![0; 1000]),
    ] {
        model_with(&project, file, &bytes);
        let run = project.run(&[&set[..], &["--json"]].concat());
        let document = run.failed(11);
        assert_eq!(document["error"]["kind"], "model_mismatch", "{file}: {document}");
        assert!(!run.stderr.contains("panicked"), "{file}: {}", run.stderr);
        std::fs::remove_dir_all(project.path("model")).unwrap();
        drop(std::fs::remove_dir_all(project.path("cache")));
    }
}

#[test]
fn files_that_do_not_fit_are_not_pinned() {
    let project = project_or_skip!();
    three(&project);
    let set = unpinned(&project);
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/golden/tiny-xlm-roberta/model.safetensors");
    model_with(&project, "model.safetensors", &std::fs::read(tiny).unwrap());
    project.run(&[&set[..], &["--json"]].concat()).failed(11);
    std::fs::remove_dir_all(project.path("model")).unwrap();
    // The right ones are taken, and pinned.
    model_with(&project, "", b"");
    project.run(&[&set[..], &["--json"]].concat()).ok();
    let mut config = std::fs::read(project.path("model/config.json")).unwrap();
    config.push(b'\n');
    std::fs::remove_file(project.path("model/config.json")).unwrap();
    project.write("model/config.json", config);
    project.run(&[&set[..], &["--json"]].concat()).failed(11);
}

#[test]
fn a_damaged_repository_or_drill_record_is_named() {
    let project = project_or_skip!();
    three(&project);
    project.run(&["snapshot", "--json"]).ok();
    let drill = project.run(&["drill", "--json"]).ok()["drill"].as_str().unwrap().to_owned();
    let object = format!("drills/{drill}.json");
    project.write(&format!(".regrow/repository/{object}"), "{\"verb\": \"dr");
    let document = project.run(&["drill", "--history", "--json"]).failed(1);
    assert_eq!(document["error"]["context"]["object"], object.as_str(), "{document}");
    let status = project.run(&["status", "--json"]).ok();
    assert!(status["problems"][0].as_str().unwrap().contains(&object), "{status}");

    project.write(".regrow/repository/repository.json", "{");
    for verb in ["snapshot", "restore", "list", "verify"] {
        let document = project.run(&[verb, "--json"]).failed(1);
        assert_eq!(document["error"]["context"]["object"], "repository.json", "{document}");
    }
    project.write(
        ".regrow/repository/repository.json",
        "{\"format\": 99, \"id\": \"00000000-0000-0000-0000-000000000000\", \"created\": \"2026-01-01T00:00:00Z\"}",
    );
    let e = refused(&project, &["list"], 2, "configuration");
    assert_eq!((e.context("format").as_str(), e.context("readable").as_str()), ("99", "2"));
}

#[test]
fn a_database_in_use_is_named() {
    let project = project_or_skip!();
    three(&project);
    project.run(&["snapshot", "--json"]).ok();
    let (pipeline, base) = regrow::pipeline::Pipeline::load(&project.path("regrow.toml")).unwrap();
    let held = regrow::targets::open(&pipeline.target, &base, &|_| None, &regrow::event::Events::silent()).unwrap();
    for arguments in [&["restore", "--json"][..], &["query", "x", "--json"], &["drill", "--json"]] {
        let document = project.run(arguments).failed(20);
        assert!(document["error"]["message"].as_str().unwrap().contains("in use"), "{document}");
    }
    drop(held);
    project.run(&["restore", "--json"]).ok();
}
