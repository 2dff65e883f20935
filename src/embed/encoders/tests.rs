use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;
use crate::embed::kernels::Cpu;
use crate::embed::{Engine, Role};
use crate::model::{Dtype, ModelCard};
use crate::pipeline::ModelSettings;

/// Tiny networks with random weights, and the vectors that the reference implementations compute.
const TINY: [(&str, &str, &str); 8] = [
    ("tiny-xlm-roberta", "xlm_roberta", "mean"),
    ("tiny-distilbert", "distil_bert", "mean"),
    ("tiny-mpnet", "mpnet", "mean"),
    ("tiny-gte", "gte", "cls"),
    ("tiny-modernbert", "modern_bert", "cls"),
    ("tiny-nomic-bert", "nomic_bert", "mean"),
    ("tiny-qwen3", "qwen3", "last_token"),
    ("tiny-gemma3", "gemma3", "mean"),
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/golden").join(name)
}

fn card(architecture: &str, pooling: &str) -> ModelCard {
    let mut files = vec!["config.json", "tokenizer.json", "model.safetensors"];
    if architecture == "gemma3" {
        files.extend(["2_Dense/model.safetensors", "3_Dense/model.safetensors"]);
    }
    let files: String = files.iter().map(|f| format!("[[file]]\nname = \"{f}\"\n")).collect();
    let text = format!(
        "name = \"tiny\"\ndescription = \"for tests\"\nlicence = \"MIT\"\narchitecture = \"{architecture}\"\n\
         pooling = \"{pooling}\"\nnormalize = true\nmax_tokens = 48\ndimension = 16\nmetric = \"cosine\"\n{files}"
    );
    ModelCard::parse(&text, "test").unwrap()
}

fn open_engine(directory: &Path, architecture: &str, pooling: &str) -> Result<Engine> {
    let files = ModelFiles::open(&card(architecture, pooling), directory)?;
    Engine::open(
        &files,
        &ModelSettings { workers: 2, batch_tokens: Some(50), dtype: Some(Dtype::F32), ..ModelSettings::default() },
    )
}

/// Every precision through every way of this machine; `f32` must be exact, the others near it.
#[test]
fn every_path_and_precision_computes_every_architecture() {
    for (name, architecture, pooling) in TINY {
        let golden: Value = serde_json::from_slice(&std::fs::read(folder(name).join("golden.json")).unwrap()).unwrap();
        let records = golden["texts"].as_array().unwrap();
        let texts: Vec<&str> = records.iter().map(|t| t["text"].as_str().unwrap()).collect();
        let files = ModelFiles::open(&card(architecture, pooling), &folder(name)).unwrap();
        // Tiny networks with large random weights lose more than trained ones.
        for (dtype, least) in [(Dtype::F32, 0.999_99), (Dtype::Bf16, 0.999), (Dtype::Int8, 0.97)] {
            let settings = ModelSettings { workers: 1, dtype: Some(dtype), ..ModelSettings::default() };
            for cpu in Cpu::all() {
                let engine = Engine::on(&files, &settings, &Place::Cpu(cpu)).unwrap();
                let embedded = engine.embed(Role::Document, &texts, &|| false).unwrap();
                for (row, record) in embedded.embeddings.rows().zip(records) {
                    let expected = crate::embed::engine::floats(record["vector"].as_str().unwrap());
                    let cosine: f32 = row.iter().zip(&expected).map(|(x, y)| x * y).sum();
                    assert!(cosine > least, "{name} {dtype:?} on {}: {cosine}", cpu.name());
                }
            }
        }
    }
}

/// Candle's CPU stands for its GPUs: the same operations on other hardware.
fn on_device(name: &str, architecture: &str, pooling: &str, dtype: Dtype) -> Result<Engine> {
    let files = ModelFiles::open(&card(architecture, pooling), &folder(name)).unwrap();
    let settings = ModelSettings { dtype: Some(dtype), ..ModelSettings::default() };
    Engine::on(&files, &settings, &Place::Devices(vec![candle_core::Device::Cpu]))
}

#[test]
fn a_device_computes_every_architecture() {
    for (name, architecture, pooling) in TINY {
        let golden: Value = serde_json::from_slice(&std::fs::read(folder(name).join("golden.json")).unwrap()).unwrap();
        let records = golden["texts"].as_array().unwrap();
        let texts: Vec<&str> = records.iter().map(|t| t["text"].as_str().unwrap()).collect();
        for (dtype, least) in [(Dtype::F32, 0.999_99), (Dtype::F16, 0.999_9), (Dtype::Bf16, 0.999)] {
            let engine = on_device(name, architecture, pooling, dtype).unwrap();
            // Together, and each alone: texts of other lengths must not show.
            let together = engine.embed(Role::Document, &texts, &|| false).unwrap();
            for (i, record) in records.iter().enumerate() {
                let expected = crate::embed::engine::floats(record["vector"].as_str().unwrap());
                let alone = engine.embed(Role::Document, &texts[i..=i], &|| false).unwrap();
                for row in [together.embeddings.rows().nth(i).unwrap(), &alone.embeddings.data] {
                    let cosine: f32 = row.iter().zip(&expected).map(|(x, y)| x * y).sum();
                    assert!(cosine > least, "{name} {dtype:?} {i}: {cosine}");
                }
            }
        }
    }
}

#[test]
fn a_device_refuses_what_it_cannot_compute() {
    let e = on_device("tiny-qwen3", "qwen3", "last_token", Dtype::Int8).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Configuration);
    let engine = open_engine(&folder("tiny-qwen3"), "qwen3", "last_token").unwrap();
    assert!(engine.place().starts_with(Cpu::detect().name()));
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

#[test]
fn every_architecture_computes_the_reference_vectors() {
    for (name, architecture, pooling) in TINY {
        let engine = open_engine(&folder(name), architecture, pooling).unwrap();
        let golden: Value = serde_json::from_slice(&std::fs::read(folder(name).join("golden.json")).unwrap()).unwrap();
        let texts: Vec<&str> =
            golden["texts"].as_array().unwrap().iter().map(|t| t["text"].as_str().unwrap()).collect();
        // Twice, and with one worker doing several texts: nothing may stay from text to text.
        let mut doubled = texts.clone();
        doubled.extend(&texts);
        let batch = engine.embed(Role::Document, &doubled, &|| false).unwrap();
        for (i, record) in golden["texts"].as_array().unwrap().iter().enumerate() {
            let expected = crate::embed::engine::floats(record["vector"].as_str().unwrap());
            let one = engine.embed(Role::Document, &texts[i..=i], &|| false).unwrap();
            assert_eq!(one.tokens, record["tokens"].as_u64().unwrap());
            assert!(
                worst(&one.embeddings.data, &expected) < 2e-5,
                "{name} {i}: {:?} {expected:?}",
                one.embeddings.data
            );
            for again in [i, i + texts.len()] {
                let row = batch.embeddings.rows().nth(again).unwrap();
                assert!(worst(row, &one.embeddings.data) < 1e-5, "{name} {i}");
            }
        }
    }
}

#[test]
fn shortened_vectors_are_the_beginning_scaled_to_length_one() {
    let name = "tiny-nomic-bert";
    let mut card = card("nomic_bert", "mean");
    let open = |card: &ModelCard, dimension: u32| {
        let files = ModelFiles::open(card, &folder(name)).unwrap();
        let dimension = Some(dimension);
        Engine::open(&files, &ModelSettings { dimension, dtype: Some(Dtype::F32), ..ModelSettings::default() })
    };
    assert_eq!(open(&card, 6).unwrap_err().kind(), ErrorKind::Configuration);
    card.matryoshka = true;
    for wrong in [0, 17] {
        assert_eq!(open(&card, wrong).unwrap_err().context_value("model.dimension"), Some(wrong.to_string().as_str()));
    }
    let (whole, short) = (open(&card, 16).unwrap(), open(&card, 6).unwrap());
    let of = |engine: &Engine| engine.embed(Role::Document, &["corpus is backup"], &|| false).unwrap().embeddings;
    let (whole_vector, short_vector) = (of(&whole), of(&short));
    assert_eq!((short_vector.dimension, short_vector.data.len()), (6, 6));
    let begin = &whole_vector.data[..6];
    let length = begin.iter().map(|x| x * x).sum::<f32>().sqrt();
    assert!(begin.iter().zip(&short_vector.data).all(|(b, s)| (b / length - s).abs() < 1e-6));
    assert_ne!(whole.context().fingerprint().unwrap(), short.context().fingerprint().unwrap());
}

/// A copy of a tiny model with another configuration.
fn with_config(name: &str, change: &dyn Fn(&mut Value)) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(folder(name).join(file), directory.path().join(file)).unwrap();
    }
    for dense in ["2_Dense", "3_Dense"].iter().filter(|d| folder(name).join(d).is_dir()) {
        std::fs::create_dir(directory.path().join(dense)).unwrap();
        let file = Path::new(dense).join("model.safetensors");
        std::fs::copy(folder(name).join(&file), directory.path().join(&file)).unwrap();
    }
    let path = directory.path().join("config.json");
    let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(path, config.to_string()).unwrap();
    directory
}

#[test]
fn what_would_be_wrong_is_refused() {
    for (name, key, value) in [
        ("tiny-xlm-roberta", "hidden_act", json!("gelu_new")),
        ("tiny-xlm-roberta", "position_embedding_type", json!("relative_key")),
        ("tiny-xlm-roberta", "intermediate_size", json!(48)),
        ("tiny-xlm-roberta", "num_hidden_layers", json!(4)),
        ("tiny-modernbert", "hidden_activation", json!("relu")),
        ("tiny-modernbert", "mlp_bias", json!(true)),
        ("tiny-modernbert", "local_rope_theta", Value::Null),
        ("tiny-modernbert", "intermediate_size", json!(48)),
        ("tiny-nomic-bert", "activation_function", json!("gelu")),
        ("tiny-nomic-bert", "rotary_scaling_factor", json!(2)),
        ("tiny-qwen3", "use_sliding_window", json!(true)),
        ("tiny-qwen3", "rope_scaling", json!({"type": "yarn"})),
        ("tiny-qwen3", "num_hidden_layers", json!(4)),
        ("tiny-qwen3", "num_key_value_heads", json!(3)),
        ("tiny-gemma3", "use_bidirectional_attention", json!(false)),
        ("tiny-gemma3", "attn_logit_softcapping", json!(50.0)),
        ("tiny-gemma3", "layer_types", json!(["full_attention"])),
        ("tiny-gemma3", "hidden_activation", json!("gelu")),
        ("tiny-distilbert", "activation", json!("relu")),
        ("tiny-distilbert", "n_heads", json!(16)),
        ("tiny-mpnet", "relative_attention_num_buckets", json!(64)),
        ("tiny-gte", "rope_scaling", json!({"type": "dynamic", "factor": 2.0})),
        ("tiny-gte", "position_embedding_type", json!("absolute")),
    ] {
        let (_, architecture, pooling) = TINY.iter().find(|t| t.0 == name).unwrap();
        let directory = with_config(name, &|config| config[key] = value.clone());
        let e = open_engine(directory.path(), architecture, pooling).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::ModelMismatch, "{name} {key}: {e}");
    }
}

#[test]
fn an_unended_text_has_no_last_token_vector() {
    let directory = with_config("tiny-qwen3", &|_| {});
    let path = directory.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    tokenizer["post_processor"] = Value::Null;
    std::fs::write(path, tokenizer.to_string()).unwrap();
    let e = open_engine(directory.path(), "qwen3", "last_token").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::ModelMismatch);
    assert!(e.to_string().contains("end token"), "{e}");
}
