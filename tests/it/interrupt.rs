//! Ctrl-C and TERM: the run stops at a safe point, says so, and the same command continues.

use crate::common::Project;
use crate::project_or_skip;

/// Many small chunks, so that there are several parts, in little time.
pub const SMALL_CHUNKS: [&str; 4] = ["--set", "chunking.size=16", "--set", "chunking.overlap=0"];

/// Documents of 30 chunks each.
pub fn harbours(project: &Project, documents: usize) {
    for i in 0..documents {
        let text: String = (0..30).map(|j| format!("Harbour {i} has {j} ships and {} tides.\n\n", i * j)).collect();
        project.write(&format!("docs/{i}.txt"), text);
    }
}

/// A restore that gets a signal once the first part is stored.
const INTERRUPTED: &str = r#"
"$REGROW" restore --json & pid=$!
while [ -z "$(find .regrow/repository/vectors -name '*.parquet' 2>/dev/null)" ] && kill -0 $pid 2>/dev/null; do sleep 0.02; done
kill -SIGNAL $pid
wait $pid
"#;

#[cfg(unix)]
#[test]
fn an_interrupted_restore_says_so_and_continues() {
    let project = project_or_skip!();
    harbours(&project, 40);
    project.run(&[&["snapshot", "--json"][..], &SMALL_CHUNKS].concat()).ok();
    for signal in ["INT", "TERM"] {
        let mut stopped = None;
        for _ in 0..5 {
            for folder in ["database", "repository/vectors", "repository/vector-sets"] {
                drop(std::fs::remove_dir_all(project.path(".regrow").join(folder)));
            }
            let run = project.shell(&INTERRUPTED.replace("SIGNAL", signal));
            // It may have come to its end just before.
            if run.code == 130 {
                stopped = Some(run);
                break;
            }
            assert_eq!(run.code, 0, "{}", run.stderr);
        }
        let stopped = stopped.expect("one of five was stopped");
        let document = stopped.json();
        assert_eq!((&document["ok"], &document["exit_code"]), (&false.into(), &130.into()));
        assert_eq!(document["error"]["kind"], "cancelled", "{document}");
        assert!(document["error"]["next"].as_str().is_some_and(|next| next.contains("again")), "{document}");
        assert!(!stopped.stderr.contains("panicked"), "{}", stopped.stderr);
        let report = project.run(&["restore", "--json"]).ok();
        assert!(report["parts_reused"].as_u64().unwrap() >= 1, "{report}");
        assert_eq!((&report["documents"], &report["target"]["count"]), (&40.into(), &report["chunks"]));
    }
    // A drill that is stopped cleans up after itself.
    let line = INTERRUPTED.replace("restore", "drill").replace("SIGNAL", "INT");
    let line = line.replace(".regrow/repository/vectors", ".regrow/repository/drills");
    let collections = project.run(&["status", "--json"]).ok()["collections"].clone();
    if project.shell(&line).code == 130 {
        assert!(project.names(".regrow/repository/drills").iter().all(|name| name.ends_with(".json")));
        assert_eq!(project.run(&["status", "--json"]).ok()["collections"], collections);
    }
}
