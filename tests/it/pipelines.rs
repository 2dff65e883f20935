//! Every shipped pipeline is a test case.

use std::path::{Path, PathBuf};

use regrow::model::ModelCard;
use regrow::pipeline::Pipeline;

/// The files of `pipelines/`.
fn shipped() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    let entries = std::fs::read_dir(folder).expect("pipelines/");
    let mut files: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "toml"));
    files.sort();
    files
}

#[test]
fn every_shipped_pipeline_loads_validates_and_round_trips() {
    let files = shipped();
    assert!(!files.is_empty(), "no pipeline is shipped");
    let mut names = std::collections::BTreeSet::new();
    for file in &files {
        let shown = file.display();
        let (pipeline, base) = Pipeline::load(file).unwrap_or_else(|e| panic!("{shown}: {e}: {:?}", e.next_step()));
        let warnings = pipeline.validate(&base).unwrap_or_else(|e| panic!("{shown}: {e}: {:?}", e.next_step()));
        assert!(warnings.is_empty(), "{shown}: {warnings:?}");
        let text = pipeline.to_toml().unwrap();
        let again = Pipeline::from_toml(&text, "again.toml").unwrap_or_else(|e| panic!("{shown}: {e}\n{text}"));
        assert_eq!(again, pipeline, "{shown}");
        let model = &pipeline.model.name;
        let card = if model.ends_with(".toml") { base.join(model).display().to_string() } else { model.clone() };
        ModelCard::find(&card).unwrap_or_else(|e| panic!("{shown}: {e}"));
        if let Some(golden) = &pipeline.validation.golden {
            regrow::validate::load_golden(&base.join(golden)).unwrap_or_else(|e| panic!("{shown}: {e}"));
        }
        assert!(names.insert(pipeline.name.clone()), "{shown}: the name {} is used twice", pipeline.name);
    }
}
