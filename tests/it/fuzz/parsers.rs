//! The parsers, each as a function of bytes that must return, and the bytes it begins with.

use std::path::Path as FilePath;
use std::sync::Arc;

use futures::StreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use regrow::corpus::Corpus;
use regrow::embed::{Engine, Tokenizer, Weights};
use regrow::ids::{Digest, fingerprint};
use regrow::model::{FetchOptions, ModelCard, ModelFiles, ModelStore};
use regrow::pipeline::{CorpusSettings, ModelSettings, Pipeline};
use regrow::repository::{FileSeal, InventoryReader, Manifest, ObjectRef, Repository};
use regrow::validate::parse_golden;
use regrow::vectors::{PartName, VectorSetRecord, read_part};
use regrow::{ErrorKind, Workspace};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::seeds;

pub type Parse = Box<dyn FnMut(&[u8]) -> Result<(), String>>;

pub struct Parser {
    pub name: &'static str,
    pub seeds: Vec<Vec<u8>>,
    /// The seeds are JSON.
    pub json: bool,
    /// An `Err` says what is wrong with the parser; that it refuses the bytes is not.
    pub parse: Parse,
}

const FIXTURE: &str = "tests/fixtures/v1/repository";

/// What a parser may answer: anything but that something panicked inside.
fn answer<T>(outcome: regrow::Result<T>) -> Result<(), String> {
    match outcome {
        Err(e) if e.kind() == ErrorKind::Unexpected => Err(format!("{e}: {}", e.causes().join(": "))),
        _ => Ok(()),
    }
}

fn runtime() -> Arc<Runtime> {
    Arc::new(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap())
}

pub fn all() -> Vec<Parser> {
    let mut parsers = stored();
    parsers.extend(configured());
    parsers.extend(documents());
    parsers.extend(models());
    parsers
}

fn store_with(runtime: &Runtime, name: &str, bytes: &[u8]) -> Arc<InMemory> {
    let store = Arc::new(InMemory::new());
    runtime.block_on(store.put(&Path::from(name), bytes.to_vec().into())).unwrap();
    store
}

/// Reads every bucket that a manifest speaks of, from a repository where the inventory is there.
async fn read_inventory(repository: &Repository, manifest: &Manifest) -> regrow::Result<()> {
    let mut reader = InventoryReader::new(repository, manifest);
    for bucket in 0..(1u32 << manifest.buckets.bits).min(64) {
        reader.bucket(bucket).await?;
    }
    Ok(())
}

/// What the repository holds.
fn stored() -> Vec<Parser> {
    let manifests = seeds::files(FIXTURE, "manifest.json");
    let good = Manifest::parse(&manifests[0]).unwrap();
    let shared = runtime();
    let mut parsers = Vec::new();

    parsers.push(Parser {
        name: "manifest",
        seeds: manifests.clone(),
        json: true,
        parse: Box::new(|bytes| answer(Manifest::parse(bytes))),
    });

    // With a seal that fits: anybody can compute one.
    let inventories = seeds::files(FIXTURE, "inventory-00000.parquet");
    let (rt, inventory) = (shared.clone(), inventories[0].clone());
    parsers.push(Parser {
        name: "sealed-manifest",
        seeds: manifests,
        json: true,
        parse: Box::new(move |bytes| {
            let Ok(mut sealed) = serde_json::from_slice::<Value>(bytes) else { return Ok(()) };
            let Some(manifest) = sealed.get("manifest") else { return Ok(()) };
            let digest = fingerprint("manifest/1", manifest).map_err(|e| e.to_string())?;
            sealed["digest"] = Value::String(digest.to_string());
            let Ok(manifest) = Manifest::parse(&serde_json::to_vec(&sealed).unwrap()) else { return Ok(()) };
            let name = manifest.inventory.first().map_or("x", |o| o.path.as_str()).to_owned();
            let store = store_with(&rt, &name, &inventory);
            answer(rt.block_on(read_inventory(&Repository::over(store, "memory"), &manifest)))
        }),
    });

    let (rt, template) = (shared.clone(), good.clone());
    parsers.push(Parser {
        name: "inventory",
        seeds: inventories,
        json: false,
        parse: Box::new(move |bytes| {
            // As if it had been written like this.
            let mut manifest = template.clone();
            let reference = &manifest.inventory[0];
            let (path, buckets) = (reference.path.clone(), reference.buckets);
            let (length, digest) = (bytes.len() as u64, Digest::of(bytes));
            let store = store_with(&rt, &path, bytes);
            manifest.inventory = vec![ObjectRef { path, bytes: length, digest, rows: None, buckets }];
            answer(rt.block_on(read_inventory(&Repository::over(store, "memory"), &manifest)))
        }),
    });

    let folder = seeds::root(FIXTURE).join("vectors");
    let name = part_name(&folder);
    parsers.push(Parser {
        name: "part",
        seeds: seeds::files(&format!("{FIXTURE}/vectors"), ".parquet"),
        json: false,
        parse: Box::new(move |bytes| answer(read_part(&name, bytes.to_vec().into(), &FileSeal::none()))),
    });

    let rt = shared.clone();
    parsers.push(Parser {
        name: "vector-set",
        seeds: seeds::files(&format!("{FIXTURE}/vector-sets"), ".json"),
        json: true,
        parse: Box::new(move |bytes| {
            let store = store_with(&rt, "vector-sets/x.json", bytes);
            let record = rt.block_on(VectorSetRecord::read(&Repository::over(store, "memory"), "x"));
            if let Ok(record) = &record {
                record.parts.iter().for_each(|part| drop(part.name()));
            }
            answer(record)
        }),
    });

    let models = || ModelStore::new(std::env::temp_dir().join("regrow-no-models"), FetchOptions::default());
    let pipeline = Pipeline::from_toml(&template_pipeline(), "x").unwrap();
    let rt = shared.clone();
    parsers.push(Parser {
        name: "repository-record",
        seeds: seeds::files(FIXTURE, "repository.json"),
        json: true,
        parse: Box::new(move |bytes| {
            let store = store_with(&rt, "repository.json", bytes) as Arc<dyn ObjectStore>;
            let workspace =
                Workspace::new(pipeline.clone(), std::env::temp_dir(), models()).with_repository_store(store);
            answer(rt.block_on(workspace.repository()).map(drop))
        }),
    });

    let rt = shared;
    parsers.push(Parser {
        name: "drill-record",
        seeds: seeds::texts(&[
            r#"{"verb":"drill","ok":true,"pipeline":"x","checks":[{"name":"a"}],"seconds":{"total":1.5}}"#,
        ]),
        json: true,
        parse: Box::new(move |bytes| {
            let store = store_with(&rt, "drills/20260101T000000Z-00000000.json", bytes);
            answer(rt.block_on(regrow::drill::history(&Repository::over(store, "memory"))))
        }),
    });
    parsers
}

fn part_name(folder: &FilePath) -> PartName {
    let mut at = folder.to_owned();
    while at.is_dir() {
        at = std::fs::read_dir(&at).unwrap().next().unwrap().unwrap().path();
    }
    at.file_name().unwrap().to_str().unwrap().parse().unwrap()
}

fn template_pipeline() -> String {
    std::fs::read_to_string(seeds::root("tests/fixtures/v1/regrow.toml")).unwrap()
}

/// What people write.
fn configured() -> Vec<Parser> {
    let mut pipelines = seeds::files("pipelines", ".toml");
    pipelines.push(template_pipeline().into_bytes());
    vec![
        Parser {
            name: "pipeline",
            seeds: pipelines,
            json: false,
            parse: Box::new(|bytes| {
                let text = String::from_utf8_lossy(bytes);
                answer(Pipeline::from_toml(&text, "fuzz").and_then(|p| p.validate(FilePath::new("/nowhere")).map(drop)))
            }),
        },
        Parser {
            name: "pipeline-key",
            seeds: seeds::texts(&[
                "chunking.size=256",
                "corpus.records.0.id=doc.id",
                "target.payload_indexes.\"metadata.year\"=integer",
                "corpus.include=[\"*.md\", \"*.txt\"]",
                "target={ kind = \"memory\" }",
            ]),
            json: false,
            parse: Box::new(|bytes| {
                let text = String::from_utf8_lossy(bytes);
                let (key, value) = text.split_once('=').unwrap_or((&text, ""));
                let mut pipeline = Pipeline::from_toml(&template_pipeline(), "x").unwrap();
                answer(pipeline.set(key, value))
            }),
        },
        Parser {
            name: "model-card",
            seeds: seeds::files("models", ".toml"),
            json: false,
            parse: Box::new(|bytes| answer(ModelCard::parse(&String::from_utf8_lossy(bytes), "fuzz"))),
        },
        Parser {
            name: "golden-queries",
            seeds: seeds::texts(&[
                "{\"query\": \"how to cancel\", \"tenant\": \"a\", \"expected\": [\"faq.md\", {\"id\": \"terms.md\", \"grade\": 3}]}\n\n",
                "{\"query\": \"glass\", \"filter\": {\"year\": {\"gte\": 2026}}, \"expected\": [\"a.md\"]}\n{\"query\": \"x\"}\n",
            ]),
            json: false,
            parse: Box::new(|bytes| answer(parse_golden(&String::from_utf8_lossy(bytes), "fuzz"))),
        },
    ]
}

const RECORDS: &str = r#"
url = "corpus"
max_document_bytes = 1000000
[[records]]
include = ["*.jsonl", "*.csv", "*.parquet"]
id = "id"
text = ["text"]
tenant = "tenant"
acl = "acl"
metadata = ["*"]
markup = "MARKUP"
"#;

/// Reads one object as a corpus does.
fn reads(name: &'static str, object: &'static str, markup: &str, seeds: Vec<Vec<u8>>) -> Parser {
    let runtime = runtime();
    let settings: CorpusSettings = toml::from_str(&RECORDS.replace("MARKUP", markup)).unwrap();
    let json = object.ends_with(".jsonl");
    let parse = move |bytes: &[u8]| {
        let store = store_with(&runtime, object, bytes) as Arc<dyn ObjectStore>;
        let corpus = Corpus::with_store(&settings, store, Path::default()).unwrap();
        runtime.block_on(async {
            let listed: Vec<_> = corpus.list().collect().await;
            for source in listed.into_iter().flatten() {
                let mut documents = corpus.read(&source);
                while let Some(document) = documents.next().await {
                    answer(document)?;
                }
            }
            Ok(())
        })
    };
    Parser { name, seeds, json, parse: Box::new(parse) }
}

fn documents() -> Vec<Parser> {
    let markdown = || {
        let mut seeds = seeds::files("docs", ".md");
        seeds.iter_mut().for_each(|text| text.truncate(6000));
        seeds.extend(seeds::texts(&[
            "---\ntitle: Glass\ntenant: acme\nacl: [staff, \"team, a\"]\nyear: 2026\nnested: {a: [1, 2, {b: c}]}\n---\n# Glass\n\nSand.\n",
            "+++\ntitle = \"Glass\"\n[extra]\nyear = 2026\n+++\nText\n\n| a | b |\n| - | - |\n| 1 | 2 |\n",
            "---\na: &x [1, 2]\nb: [*x, *x, *x]\nc: !!str 5\nd: |\n  block\n---\ntext",
        ]));
        seeds
    };
    let html = || {
        let mut seeds = seeds::files("tests/fixtures/v1/docs", ".html");
        seeds.extend(seeds::texts(&[
            "<!doctype html><html><head><meta charset=utf-8><title>T</title><script>x</script></head><body><h1>A</h1><p>b <b>c</b> &amp; \
             &#x41;<table><tr><th>a<td>b</table><ul><li>x<ol><li>y</ol></ul><pre><code>z</code></pre><a href=\"x\">l</a><blockquote>q",
        ]));
        seeds
    };
    vec![
        reads("text", "a.txt", "plain", seeds::texts(&["Plain text.\r\nTwo lines.\n\nAnother paragraph: über, 海, \u{1f6a2}.\n"])),
        reads("markdown", "a.md", "plain", markdown()),
        reads("html", "a.html", "plain", html()),
        reads(
            "jsonl",
            "a.jsonl",
            "markdown",
            [
                seeds::files("tests/fixtures/v1/docs", ".jsonl"),
                seeds::texts(&[r#"{"id": 1, "text": "Sand", "tenant": "acme", "acl": ["a", "b"], "year": 2026, "deep": {"a": [1.5e3, null]}}"#]),
            ]
            .concat(),
        ),
        reads(
            "csv",
            "a.csv",
            "html",
            seeds::texts(&["id,text,tenant,acl,year\n1,\"Sand, and \"\"glass\"\"\",acme,\"a,b\",2026\n2,<p>x</p>,,,\n"]),
        ),
        reads("parquet", "a.parquet", "plain", seeds::parquet()),
    ]
}

fn models() -> Vec<Parser> {
    const TINY: &str = "models/golden/tiny-distilbert";
    let read = |name: &str| std::fs::read(seeds::root(TINY).join(name)).unwrap();
    let directory = || {
        let directory = TempDir::new().unwrap();
        for name in ["config.json", "tokenizer.json", "model.safetensors"] {
            std::fs::write(directory.path().join(name), read(name)).unwrap();
        }
        directory
    };
    let card = ModelCard::find(seeds::root("tests/fixtures/v1/card.toml").to_str().unwrap()).unwrap();
    let opens = move |name: &'static str, file: &'static str| {
        let (directory, card) = (directory(), card.clone());
        let settings = ModelSettings { workers: 1, dtype: Some(regrow::model::Dtype::F32), ..ModelSettings::default() };
        let parse = move |bytes: &[u8]| {
            std::fs::write(directory.path().join(file), bytes).unwrap();
            answer(ModelFiles::open(&card, directory.path()).and_then(|files| Engine::open(&files, &settings)))
        };
        Parser { name, seeds: vec![read(file)], json: file.ends_with(".json"), parse: Box::new(parse) }
    };
    let weights = TempDir::new().unwrap();
    vec![
        Parser {
            name: "tokenizer",
            seeds: vec![read("tokenizer.json")],
            json: true,
            parse: Box::new(|bytes| {
                let Ok(tokenizer) = Tokenizer::from_bytes(bytes) else { return Ok(()) };
                for text in ["", "Sand melts into glass.", "über 海 \u{1f6a2} \u{0} don't"] {
                    drop(tokenizer.spans(text));
                    drop(tokenizer.encode(text));
                }
                Ok(())
            }),
        },
        Parser {
            name: "safetensors",
            seeds: vec![read("model.safetensors")],
            json: false,
            parse: Box::new(move |bytes| {
                std::fs::write(weights.path().join("m.safetensors"), bytes).unwrap();
                let opened = Weights::open(weights.path(), &["m.safetensors"]);
                if let Ok(weights) = &opened {
                    weights.names().iter().for_each(|name| drop(weights.read(name)));
                }
                answer(opened)
            }),
        },
        opens("model-config", "config.json"),
        opens("model-weights", "model.safetensors"),
    ]
}
