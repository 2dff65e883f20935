//! Settings, rules, model and target of two snapshots, or of a snapshot and the pipeline, as lines for people.

use serde::Serialize;
use serde_json::{Value, json};

use crate::pipeline::{CorpusSettings, Pipeline, StoreSettings};
use crate::repository::Manifest;

/// `key: before → after` for every value that differs.
fn differences(key: &str, before: &Value, after: &Value, out: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in keys {
                let at = |o: &serde_json::Map<String, Value>| o.get(name).cloned().unwrap_or_default();
                differences(&format!("{key}.{name}"), &at(a), &at(b), out);
            }
        }
        (a, b) if a != b => out.push(format!("{key}: {a} → {b}")),
        _ => {}
    }
}

fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}

/// Of two snapshots.
pub(super) fn of_snapshots(from: &Manifest, to: &Manifest) -> Vec<String> {
    let target = |m: &Manifest| {
        let mut target = value(&m.target);
        // What was served then is no setting.
        if let Some(target) = target.as_object_mut() {
            target.remove("live_count");
            target.remove("live_collection");
        }
        target
    };
    let mut out = Vec::new();
    let sides = |m: &Manifest| {
        [
            ("corpus", value(&m.corpus.settings)),
            ("capture", json!({ "mode": m.corpus.capture })),
            ("chunking", value(&m.rules)),
            ("model", value(&m.model)),
            ("target", target(m)),
            ("pipeline", json!(m.pipeline)),
        ]
    };
    for ((key, before), (_, after)) in sides(from).into_iter().zip(sides(to)) {
        differences(key, &before, &after, &mut out);
    }
    out
}

/// Of a snapshot and the pipeline as it is now; the model's own values are known to the next snapshot only.
pub(super) fn of_pipeline(from: &Manifest, pipeline: &Pipeline) -> Vec<String> {
    let mut out = Vec::new();
    let corpus = CorpusSettings { store: StoreSettings::new(), ..pipeline.corpus.clone() };
    differences("corpus", &value(&from.corpus.settings), &value(&corpus), &mut out);
    differences("capture.mode", &value(&from.corpus.capture), &value(&pipeline.capture.mode), &mut out);
    if pipeline.chunking.size != 0 {
        differences("chunking.size", &json!(from.rules.size), &json!(pipeline.chunking.size), &mut out);
    }
    differences("chunking.overlap", &json!(from.rules.overlap), &json!(pipeline.chunking.overlap), &mut out);
    differences("model.name", &json!(from.model_card), &json!(pipeline.model.name), &mut out);
    if let Some(dtype) = pipeline.model.dtype {
        differences("model.dtype", &json!(from.model.dtype), &json!(dtype), &mut out);
    }
    if let Some(dimension) = pipeline.model.dimension {
        differences("model.dimension", &json!(from.model.dimension), &json!(dimension), &mut out);
    }
    differences("target.kind", &json!(from.target.kind), &json!(pipeline.target.kind.name()), &mut out);
    differences("target.collection", &json!(from.target.collection), &json!(pipeline.collection()), &mut out);
    differences(
        "target.payload_indexes",
        &value(&from.target.payload_indexes),
        &value(&pipeline.target.payload_indexes),
        &mut out,
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_named() {
        let mut out = Vec::new();
        let (a, b) =
            (json!({"x": 1, "y": {"z": null, "w": [1]}}), json!({"x": 1, "y": {"z": "u", "w": [1]}, "n": true}));
        differences("k", &a, &b, &mut out);
        assert_eq!(out, ["k.n: null → true", "k.y.z: null → \"u\""]);
    }
}
