//! What is printed: one JSON document per verb, the fields that others build on, quiet runs, drills that leave
//! nothing behind.

use serde_json::Value;

use crate::bad_input::{refused, three};
use crate::common::Project;
use crate::project_or_skip;

/// A project with a snapshot and a promoted restore; the second value is the restore's report.
fn restored(project: &Project) -> Value {
    three(project);
    project.run(&["snapshot", "--json"]).ok();
    project.run(&["restore", "--json"]).ok()
}

fn has(report: &Value, fields: &[&str]) {
    for field in fields {
        // A dot reaches into an object; the field must be there, whatever it holds.
        let pointer = format!("/{}", field.replace('.', "/"));
        assert!(report.pointer(&pointer).is_some(), "no {field} in {report}");
    }
}

/// Restore and drill reports carry at least these.
const FIELDS: &[&str] = &[
    "verb",
    "ok",
    "exit_code",
    "snapshot",
    "documents",
    "documents_skipped",
    "chunks",
    "chunks_embedded",
    "chunks_reused",
    "tokens",
    "parts",
    "parts_reused",
    "seconds.total",
    "seconds.read",
    "seconds.chunk",
    "seconds.embed",
    "seconds.write",
    "seconds.load",
    "seconds.index",
    "seconds.validate",
    "peak_rss_bytes",
    "target.kind",
    "target.collection",
    "target.count",
];

fn complete(report: &Value) {
    has(report, FIELDS);
    for field in FIELDS {
        let value = report.pointer(&format!("/{}", field.replace('.', "/"))).unwrap();
        let right = match *field {
            "verb" | "snapshot" | "target.kind" | "target.collection" => value.is_string(),
            "ok" => value.is_boolean(),
            name if name.starts_with("seconds.") => value.as_f64().is_some_and(|s| s >= 0.0),
            _ => value.is_u64(),
        };
        assert!(right, "{field} is {value}");
    }
    let checks = report["checks"].as_array().unwrap();
    assert!(!checks.is_empty());
    for check in checks {
        has(check, &["name", "outcome", "measured", "expected", "reason"]);
        assert!(["pass", "fail", "skipped"].contains(&check["outcome"].as_str().unwrap()), "{check}");
        assert!(!check["reason"].as_str().unwrap().is_empty(), "{check}");
    }
}

/// The checks that a restore or drill made, by name.
fn outcome(report: &Value, name: &str) -> String {
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("no check {name} in {report}"));
    check["outcome"].as_str().unwrap().to_owned()
}

#[test]
fn every_verb_prints_exactly_one_document() {
    let project = project_or_skip!();
    three(&project);
    project.write("other/readme.md", "# Other\n\nA directory of its own.\n");
    let verbs: &[(&str, &[&str])] = &[
        ("init", &["init", "-p", "second.toml"]),
        ("doctor", &["doctor"]),
        ("status", &["status"]),
        ("snapshot", &["snapshot"]),
        ("snapshot", &["snapshot", "--skip-target"]),
        ("plan", &["plan"]),
        ("plan", &["restore", "--dry-run"]),
        ("restore", &["restore"]),
        ("restore", &["restore", "--fresh", "--no-promote"]),
        ("query", &["query", "tides"]),
        ("query", &["query", "tides", "--exact", "-k", "1"]),
        ("status", &["status"]),
        ("list", &["list"]),
        ("show", &["show"]),
        ("show", &["show", "--documents"]),
        ("verify", &["verify"]),
        ("verify", &["verify", "--quick"]),
        ("repair", &["repair"]),
        ("repair", &["repair", "--dry-run"]),
        ("copy", &["copy", "--to", "./replica"]),
        ("copy", &["copy", "--to", "./replica", "--check"]),
        ("drill", &["drill"]),
        ("drill", &["drill", "--reuse"]),
        ("drill", &["drill", "--history"]),
        ("models", &["models"]),
        ("models", &["models", "list"]),
        ("models", &["models", "show", "minilm"]),
        ("models", &["models", "fetch", "minilm"]),
        ("doctor", &["doctor"]),
        ("completions", &["completions", "bash"]),
        ("quickstart", &["quickstart", "other"]),
    ];
    for (verb, arguments) in verbs {
        let run = project.run(&[arguments, &["--json"][..]].concat());
        let report = run.ok();
        assert_eq!(report["verb"], *verb, "{arguments:?}: {report}");
        assert_eq!((&report["ok"], &report["exit_code"]), (&true.into(), &0.into()), "{arguments:?}: {report}");
        assert!(run.stdout.ends_with("}\n"), "{arguments:?}: {}", run.stdout);
        assert!(!run.stderr.contains("panicked"), "{arguments:?}: {}", run.stderr);
    }
}

#[test]
fn people_get_the_result_on_stdout_and_progress_on_stderr() {
    let project = project_or_skip!();
    three(&project);
    for (arguments, first) in [
        (&["snapshot"][..], "snapshot "),
        (&["plan"], "plan"),
        (&["restore"], "restored test-"),
        (&["drill"], "drill "),
        (&["query", "tides"], "tides\n"),
        (&["status"], "pipeline test"),
        (&["verify"], "all is as written"),
    ] {
        let run = project.run(arguments);
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(run.stdout.to_lowercase().starts_with(first), "{arguments:?}: {}", run.stdout);
        assert!(!run.stdout.contains("started") && !run.stdout.contains('\u{1b}'), "{}", run.stdout);
        if arguments == ["snapshot"] {
            assert!(run.stderr.contains("read"), "no progress: {}", run.stderr);
        }
    }
}

#[test]
fn log_lines_can_be_json() {
    let project = project_or_skip!();
    three(&project);
    let run = project.run(&["snapshot", "--json", "--log-format", "json"]);
    run.ok();
    assert!(!run.stderr.is_empty());
    for line in run.stderr.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(line.is_object());
    }
}

#[test]
fn quiet_runs_say_nothing_on_stderr() {
    let project = project_or_skip!();
    three(&project);
    for arguments in
        [&["snapshot"][..], &["plan"], &["restore"], &["drill"], &["verify"], &["status"], &["query", "x"], &["doctor"]]
    {
        let run = project.run(&[arguments, &["--quiet"][..]].concat());
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{arguments:?}");
        assert!(!run.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn restore_reports_carry_what_others_build_on() {
    let project = project_or_skip!();
    let report = restored(&project);
    complete(&report);
    assert_eq!((&report["documents"], &report["chunks"]), (&3.into(), &3.into()));
    assert_eq!((&report["chunks_embedded"], &report["chunks_reused"]), (&3.into(), &0.into()));
    assert!(report["tokens"].as_u64().unwrap() > 20);
    assert_eq!((&report["target"]["kind"], &report["target"]["promoted"]), (&"embedded".into(), &"test".into()));
    for check in ["canaries", "chunk_digests"] {
        assert_eq!(outcome(&report, check), "pass", "{report}");
    }

    let again = project.run(&["restore", "--json"]).ok();
    complete(&again);
    assert_eq!((&again["chunks_embedded"], &again["tokens"]), (&0.into(), &0.into()));
    assert_eq!((&again["chunks_reused"], &again["parts_reused"]), (&report["chunks"], &report["parts"]));
    // Nothing was cut, and the report does not claim that it was.
    assert_eq!(outcome(&again, "chunk_digests"), "skipped");

    let fresh = project.run(&["restore", "--fresh", "--no-promote", "--json"]).ok();
    assert_ne!(fresh["target"]["collection"], report["target"]["collection"]);
    assert_eq!(fresh["target"]["promoted"], Value::Null);
    let status = project.run(&["status", "--json"]).ok();
    assert_eq!(status["collections"].as_array().unwrap().len(), 2, "{status}");
}

#[test]
fn a_drill_leaves_nothing_behind_but_its_record() {
    let project = project_or_skip!();
    let before = restored(&project);
    let payloads = project.payloads();
    let status = project.run(&["status", "--json"]).ok();
    let parts = files(&project, ".regrow/repository/vectors");
    let sets = project.names(".regrow/repository/vector-sets");

    let report = project.run(&["drill", "--json"]).ok();
    complete(&report);
    has(&report, &["drill", "pipeline", "started", "objectives", "cleaned_up", "machine", "tool_version"]);
    assert_eq!((&report["verb"], &report["cleaned_up"]), (&"drill".into(), &true.into()));
    // All of it was computed again, although the repository has it.
    assert_eq!(report["chunks_embedded"], before["chunks"]);
    assert_eq!((&report["chunks_reused"], &report["parts_reused"]), (&0.into(), &0.into()));
    assert_eq!(outcome(&report, "chunk_digests"), "pass");
    assert_eq!(report["target"]["promoted"], Value::Null);
    assert!(report["target"]["collection"].as_str().unwrap().starts_with("test-drill-"), "{report}");

    assert_eq!(project.payloads(), payloads);
    assert_eq!(files(&project, ".regrow/repository/vectors"), parts);
    assert_eq!(project.names(".regrow/repository/vector-sets"), sets);
    assert!(project.names(".regrow/repository/restores").is_empty(), "receipts are left");
    assert_eq!(project.names(".regrow/repository/drills"), [format!("{}.json", report["drill"].as_str().unwrap())]);
    let after = project.run(&["status", "--json"]).ok();
    assert_eq!(after["collections"], status["collections"]);
    assert_eq!(after["last_drill"]["drill"], report["drill"]);

    let reused = project.run(&["drill", "--reuse", "--json"]).ok();
    assert_eq!((&reused["chunks_embedded"], &reused["chunks_reused"]), (&0.into(), &before["chunks"]));
    let history = project.run(&["drill", "--history", "--json"]).ok();
    let ids: Vec<&Value> = history["drills"].as_array().unwrap().iter().map(|d| &d["drill"]).collect();
    assert_eq!(ids, [&report["drill"], &reused["drill"]]);
    assert_eq!(history["drills"][0]["checks"], report["checks"]);
}

/// Every file below a folder.
fn files(project: &Project, folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    for name in project.names(folder) {
        let path = format!("{folder}/{name}");
        if project.path(&path).is_dir() { found.extend(files(project, &path)) } else { found.push(path) }
    }
    found
}

#[test]
fn a_drill_without_any_restore_before_serves_nothing() {
    let project = project_or_skip!();
    three(&project);
    project.run(&["snapshot", "--json"]).ok();
    project.run(&["drill", "--json"]).ok();
    let status = project.run(&["status", "--json"]).ok();
    assert!(status["collections"].as_array().unwrap().is_empty(), "{status}");
    refused(&project, &["query", "tides"], 2, "not_found");
    assert!(files(&project, ".regrow/repository/vectors").is_empty());
}

#[test]
fn missed_objectives_fail_a_drill() {
    let project = project_or_skip!();
    three(&project);
    project.run(&["snapshot", "--json"]).ok();
    for (key, code) in [("rto_seconds", 40), ("rpo_seconds", 41)] {
        let set = format!("drill.{key}=0.001");
        let report = project.run(&["drill", "--json", "--set", &set]).failed(code);
        assert_eq!((&report["ok"], &report["exit_code"]), (&false.into(), &code.into()));
        let missed: Vec<&Value> =
            report["objectives"].as_array().unwrap().iter().filter(|o| o["reached"] == false).collect();
        assert_eq!(missed.len(), 1, "{report}");
        assert_eq!((&missed[0]["name"], &missed[0]["allowed"]), (&key.into(), &0.001.into()));
        assert!(missed[0]["measured"].as_f64().unwrap() > 0.001);
        assert_eq!(report["cleaned_up"], true);
        // The record says so too.
        let last = project.run(&["status", "--json"]).ok()["last_drill"].clone();
        assert_eq!((&last["drill"], &last["exit_code"]), (&report["drill"], &code.into()));
    }
    let reached = ["drill", "--json", "--set", "drill.rto_seconds=3600", "--set", "drill.rpo_seconds=3600"];
    let report = project.run(&reached).ok();
    assert!(report["objectives"].as_array().unwrap().iter().all(|o| o["reached"] == true && o["allowed"] == 3600.0));
    let e = refused(&project, &["drill", "--set", "drill.rto_seconds=0"], 2, "configuration");
    assert_eq!(e.context("key"), "drill.rto_seconds");
}

#[test]
fn a_failing_check_fails_restore_and_drill() {
    let project = project_or_skip!();
    let good = restored(&project);
    project.write("golden.jsonl", "{\"query\": \"ships and tides\", \"expected\": [\"bread.md\"], \"k\": 1}\n");
    let golden = ["--json", "--set", "validation.golden=golden.jsonl"];
    let report = project.run(&[&["drill"][..], &golden].concat()).failed(30);
    complete(&report);
    assert_eq!((&report["ok"], &report["exit_code"]), (&false.into(), &30.into()));
    assert!(report["checks"].as_array().unwrap().iter().any(|c| c["outcome"] == "fail"));
    assert_eq!(report["cleaned_up"], true);

    let report = project.run(&[&["restore", "--fresh"][..], &golden].concat()).failed(30);
    complete(&report);
    assert_eq!(report["target"]["promoted"], Value::Null);
    // What was served is still served.
    let hits = project.run(&["query", "ships and tides", "-k", "1", "--json"]).ok();
    assert_eq!(hits["collection"], good["target"]["collection"]);
    assert_eq!(hits["hits"][0]["document_id"], "harbour.md");
}

#[test]
fn status_tells_what_changed_since_the_snapshot() {
    let project = project_or_skip!();
    let report = restored(&project);
    let status = project.run(&["status", "--json"]).ok();
    assert_eq!((&status["snapshots"], &status["latest"]["id"]), (&1.into(), &report["snapshot"]));
    for key in ["added", "changed", "vanished", "suspect", "documents_changed", "documents_vanished", "bytes"] {
        assert_eq!(status["exposure"][key], 0, "{key}");
    }
    assert_eq!(
        (&status["exposure"]["oldest_unsaved"], &status["exposure"]["examples"]),
        (&Value::Null, &serde_json::json!([]))
    );
    assert!(status["age_seconds"].as_f64().unwrap() >= 0.0);
    assert_eq!(status["collections"][0]["name"], report["target"]["collection"]);
    assert_eq!(status["collections"][0]["aliases"], serde_json::json!(["test"]));
    assert_eq!((&status["last_drill"], &status["problems"]), (&Value::Null, &serde_json::json!([])));

    project.write("docs/new.md", "# New\n");
    project.write("docs/newer/still.txt", "new");
    project.write("docs/bread.md", "# Bread\n\nOther words.\n");
    std::fs::remove_file(project.path("docs/stars.md")).unwrap();
    // No document, so no exposure.
    project.write("docs/picture.png", [0x89, b'P', b'N', b'G']);
    let exposure = project.run(&["status", "--json"]).ok()["exposure"].clone();
    assert_eq!((&exposure["added"], &exposure["changed"], &exposure["vanished"]), (&2.into(), &1.into(), &1.into()));
    let examples = exposure["examples"].to_string();
    assert!(examples.contains("added: new.md") && examples.contains("changed: bread.md"), "{examples}");

    project.run(&["snapshot", "--json"]).ok();
    let status = project.run(&["status", "--json"]).ok();
    assert_eq!(status["snapshots"], 2);
    assert_eq!((&status["exposure"]["added"], &status["exposure"]["vanished"]), (&0.into(), &0.into()));
}

#[test]
fn status_names_vanished_documents() {
    let project = project_or_skip!();
    three(&project);
    project.run(&["snapshot", "--json"]).ok();
    std::fs::remove_file(project.path("docs/stars.md")).unwrap();
    let exposure = project.run(&["status", "--json"]).ok()["exposure"].clone();
    assert!(exposure["examples"].to_string().contains("vanished: stars.md"), "{exposure}");
}

#[test]
fn a_plan_of_what_is_there_already_has_nothing_to_compute() {
    let project = project_or_skip!();
    three(&project);
    project.run(&["snapshot", "--json"]).ok();
    let plan = project.run(&["plan", "--json"]).ok();
    assert_eq!((&plan["parts_stored"], &plan["chunks_to_compute"]), (&0.into(), &3.into()));
    assert!(plan["tokens_to_compute"].as_u64().unwrap() > 0 && plan["rto_seconds"].as_f64().unwrap() > 0.0);
    assert!(plan["tokens_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(plan["canaries"]["outcome"], "pass");
    assert!(!plan["cannot_restore"].as_array().unwrap().is_empty());
    // A plan writes nothing.
    assert!(project.names(".regrow/repository/vectors").is_empty());

    let dry = project.run(&["restore", "--dry-run", "--json"]).ok();
    assert_eq!(dry["vector_set"], plan["vector_set"]);
    let report = project.run(&["restore", "--json"]).ok();
    assert_eq!((&report["vector_set"], &report["parts"]), (&plan["vector_set"], &plan["parts"]));
    let plan = project.run(&["plan", "--json"]).ok();
    assert_eq!(plan["parts_stored"], plan["parts"]);
    assert_eq!((&plan["chunks_to_compute"], &plan["tokens_to_compute"]), (&0.into(), &0.into()));
    assert_eq!(plan["embed_seconds"], 0.0);
}

#[test]
fn quickstart_takes_a_directory_and_reuses_what_it_did() {
    let project = project_or_skip!();
    three(&project);
    project.write("docs/broken.txt", b"text\0text");
    let arguments = ["quickstart", "docs", "--query", "what do ships wait for?", "--state", "state", "--json"];
    let first = project.run(&arguments).ok();
    assert_eq!((&first["snapshot"]["documents"], &first["snapshot"]["documents_skipped"]), (&3.into(), &1.into()));
    complete(&first["restore"]);
    assert_eq!(first["restore"]["chunks_embedded"], 3);
    assert_eq!(first["queries"][0]["hits"][0]["document_id"], "harbour.md");
    assert_eq!(first["pipeline"], "state/regrow.toml");

    let second = project.run(&arguments).ok();
    assert_eq!(second["restore"]["chunks_embedded"], 0, "{second}");
    assert_eq!(second["restore"]["target"]["reused"], true);
    // The pipeline it wrote is one like any other.
    let hits = project.run(&["query", "-p", "state/regrow.toml", "telescope", "-k", "1", "--json"]).ok();
    assert_eq!(hits["hits"][0]["document_id"], "stars.md");
    let text = project.run(&["quickstart", "docs", "--state", "state", "--quiet"]);
    assert!(text.code == 0 && text.stdout.contains("next:"), "{}", text.stdout);

    std::fs::create_dir(project.path("empty")).unwrap();
    let e = refused(&project, &["quickstart", "empty"], 2, "configuration");
    assert!(e.message().contains("no documents"), "{}", e.message());
    let e = refused(&project, &["quickstart", "nowhere"], 2, "configuration");
    assert!(e.context("directory").ends_with("nowhere"));
}

#[test]
fn completions_are_scripts() {
    let project = project_or_skip!();
    for (shell, part) in [("bash", "complete -F"), ("zsh", "#compdef regrow"), ("fish", "complete -c regrow")] {
        let run = project.run(&["completions", shell]);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""));
        assert!(run.stdout.contains(part) && run.stdout.contains("quickstart"), "{shell}: {}", run.stdout);
        assert_eq!(project.run(&["completions", shell, "--json"]).ok()["script"], run.stdout.as_str());
    }
}

#[test]
fn models_are_listed_and_shown() {
    let project = project_or_skip!();
    let list = project.run(&["models", "--json"]).ok();
    let models = list["models"].as_array().unwrap();
    assert!(models.len() >= 15);
    let mini = models.iter().find(|m| m["card"]["name"] == "all-MiniLM-L6-v2").unwrap();
    assert_eq!(mini["cached"], true);
    let shown = project.run(&["models", "show", "sentence-transformers/all-MiniLM-L6-v2", "--json"]).ok();
    assert_eq!(shown["card"], mini["card"]);
    assert_eq!((&shown["card"]["dimension"], &shown["card"]["max_tokens"]), (&384.into(), &256.into()));
    let fetched = project.run(&["models", "fetch", "minilm", "--offline", "--json"]).ok();
    assert_eq!(fetched["directory"], shown["cached"]);
    three(&project);
    let snapshot = project.run(&["snapshot", "--json"]).ok();
    assert_eq!(snapshot["model_fingerprint"], fetched["fingerprint"]);
    let run = project.run(&["models"]);
    assert!(run.code == 0 && run.stdout.contains("all-MiniLM-L6-v2"), "{}", run.stdout);
}

#[test]
fn the_environment_sets_keys_and_flags_win() {
    let project = project_or_skip!();
    three(&project);
    let run = project.shell("REGROW__CHUNKING__SIZE=64 \"$REGROW\" snapshot --json");
    run.ok();
    let rules = |project: &Project| project.run(&["show", "--json"]).ok()["manifest"]["rules"]["size"].clone();
    assert_eq!(rules(&project), 64);
    project.shell("REGROW__CHUNKING__SIZE=64 \"$REGROW\" snapshot --json --set chunking.size=96").ok();
    assert_eq!(rules(&project), 96);
    let run = project.shell("REGROW__CHUNKING__SIEZ=64 \"$REGROW\" snapshot --json");
    let document = run.failed(2);
    assert_eq!(document["error"]["context"]["variable"], "REGROW__CHUNKING__SIEZ", "{document}");
}

#[test]
fn doctor_looks_at_the_model_that_the_pipeline_asks_for() {
    let project = project_or_skip!();
    three(&project);
    let good = project.run(&["doctor", "--json"]).ok();
    for name in ["pipeline", "corpus", "model", "target"] {
        assert_eq!(outcome(&good, name), "pass", "{good}");
    }
    assert_eq!(outcome(&good, "repository"), "skipped");
    project.write("model/config.json", "{}");
    let bad = project.run(&["doctor", "--json", "--set", "model.source=model"]).failed(2);
    assert_eq!(outcome(&bad, "model"), "fail", "{bad}");
}

/// The pipeline's own target, in turns with another command; nothing is left of it.
#[test]
fn a_load_is_measured_beside_another_client() {
    let project = project_or_skip!();
    restored(&project);
    let before = project.run(&["list", "--json"]).ok();
    let collections = project.names(".regrow/database/collections");
    let says = r#"sh -c 'echo starting; echo "{\"load_seconds\": 1000000, \"index_seconds\": $REGROW_BENCH_POINTS}"'"#;
    let small = ["bench", "load", "--points", "600", "--dimension", "8", "--rounds", "2"];
    let report = project.run(&[&small[..], &["--peer", says, "--json"]].concat()).ok();
    let rounds = report["load"].as_array().unwrap();
    assert_eq!(rounds.len(), 2);
    for round in rounds {
        assert_eq!((&round["regrow"]["points"], &round["regrow"]["target"]), (&600.into(), &"embedded".into()));
        has(&round["regrow"], &["server", "bytes", "writers", "batch_points", "load_seconds", "index_seconds"]);
        assert_eq!((&round["peer"]["load_seconds"], &round["peer"]["index_seconds"]), (&1e6.into(), &600.0.into()));
    }
    assert!(report["ratios"]["load"].as_f64().unwrap() > 100.0);
    assert!(report["ratios"]["index"].is_f64());
    assert!(project.run(&[&small[..], &["--json"]].concat()).ok()["ratios"].is_null());
    for bad in ["exit 1", "echo nothing", "true"] {
        refused(&project, &[&small[..], &["--peer", bad]].concat(), 2, "configuration");
    }
    assert_eq!(project.names(".regrow/database/collections"), collections);
    assert_eq!(project.run(&["list", "--json"]).ok(), before);
}
