//! Nothing readable is ever stored.

use base64::Engine as _;

use super::*;
use crate::drill::{DrillOptions, drill};
use crate::embed::{Engine, Tokenizer};
use crate::model::{FetchOptions, ModelStore};
use crate::pipeline::Pipeline;
use crate::restore::{OnChanged, RestoreOptions, restore};
use crate::snapshot::{SnapshotOptions, snapshot};
use crate::targets::memory::MemoryTarget;
use crate::vectors::{PartInput, VectorSetRecord};
use crate::workspace::Workspace;

const TEXT: &str = "confidential remuneration of directors quarterly settlement northwind";

/// Whether `needle` is in the bytes as it is, in hexadecimal or in base64 at any alignment.
fn readable(haystack: &[u8], needle: &[u8]) -> bool {
    let hexadecimal: String = needle.iter().map(|b| format!("{b:02x}")).collect();
    let mut forms = vec![needle.to_vec(), hexadecimal.to_uppercase().into_bytes(), hexadecimal.into_bytes()];
    for shift in 0..3 {
        let shifted = [&vec![0; shift][..], needle].concat();
        let whole = shifted.len() / 3 * 3;
        for engine in [base64::engine::general_purpose::STANDARD, base64::engine::general_purpose::URL_SAFE] {
            let text = engine.encode(&shifted[..whole]).into_bytes();
            // The first characters also depend on what stands before.
            forms.push(text[text.len().min(4)..].to_vec());
        }
    }
    forms.iter().any(|form| form.len() > 7 && haystack.windows(form.len()).any(|window| window == form))
}

fn tokenizer() -> Tokenizer {
    let words = ["[UNK]", "confidential", "remuneration", "of", "directors"];
    let vocab: serde_json::Map<_, _> =
        words.iter().enumerate().map(|(i, w)| ((*w).to_owned(), serde_json::json!(i))).collect();
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}
    });
    Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap()
}

async fn everything(store: &Arc<Recorder>, unlock: &Unlock, directory: &std::path::Path) -> Manifest {
    let docs = directory.join("docs");
    std::fs::create_dir_all(docs.join("tenant-contoso")).unwrap();
    for i in 0..40 {
        let text = format!("{TEXT} paragraph {i}\n\n").repeat(30);
        std::fs::write(docs.join(format!("tenant-contoso/minutes-{i:03}.md")), text).unwrap();
    }
    let records: String = (0..50)
        .map(|i| {
            let record = serde_json::json!({ "id": format!("personnel-{i}"), "text": format!("{TEXT} {i}"),
                "team": "subsidiary-fabrikam", "readers": ["auditors-only"], "grade": "compensation-band" });
            format!("{record}\n")
        })
        .collect();
    std::fs::write(docs.join("records.jsonl"), records).unwrap();
    std::fs::write(docs.join("unreadable-memorandum.jsonl"), "{\"id\": \"broken\"\n").unwrap();
    let mut pipeline = Pipeline::from_toml(
        r#"name = "payroll-archive"
        [corpus]
        url = "docs"
        on_bad_document = "skip"
        [[corpus.records]]
        include = ["*.jsonl"]
        id = "id"
        text = ["text"]
        tenant = "team"
        acl = "readers"
        metadata = ["grade"]
        [repository]
        url = "unused"
        [target]
        kind = "memory""#,
        "test",
    )
    .unwrap();
    // Vectors of a model without a network are the same for texts that look the same to it.
    pipeline.validation.min_self_retrieval = 0.0;
    pipeline.chunking.size = 20;
    pipeline.chunking.overlap = 0;
    let models = ModelStore::new(directory.join("models"), FetchOptions::default());
    let repository = over(store).create(unlock).await.unwrap();
    let mut workspace = Workspace::new(pipeline, directory.to_owned(), models)
        .with_target(Arc::new(MemoryTarget::new()))
        .with_repository(repository.clone());
    workspace.engine = Some(Arc::new(Engine::noop(tokenizer(), 8).unwrap()));
    let report = snapshot(&workspace, &SnapshotOptions::default()).await.unwrap();
    assert!(report.documents >= 90 && report.documents_skipped == 1, "{report:?}");
    let report = restore(&workspace, RestoreOptions::default()).await.unwrap();
    assert!(report.ok, "{:?}", report.checks);
    let options = DrillOptions {
        snapshot: "latest".to_owned(),
        reuse: false,
        on_changed: OnChanged::Fail,
        documents: crate::restore::DocumentSource::Auto,
    };
    let report = drill(&workspace, &options).await.unwrap();
    assert!(report.restore.ok && report.cleaned_up);
    assert!(verify(&repository, &VerifyOptions::default(), &workspace.events, &workspace.cancel).await.unwrap().ok);
    // Taken again, nothing is embedded: names are stable.
    let report = restore(&workspace, RestoreOptions { fresh: true, ..RestoreOptions::default() }).await.unwrap();
    assert_eq!((report.ok, report.chunks_embedded), (true, 0));
    assert_eq!(crate::drill::history(&repository).await.unwrap().len(), 1);
    Manifest::find(&repository, "latest", None).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_readable_is_ever_stored() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Recorder::default());
    let manifest = everything(&store, &pass("correct horse battery"), directory.path()).await;
    let opened = over(&store).unlock(&pass("correct horse battery")).await.unwrap();

    let mut needles: Vec<Vec<u8>> = [
        "remuneration",
        "settlement",
        "northwind",
        "minutes-0",
        "personnel-",
        "tenant-contoso",
        "subsidiary-fabrikam",
        "auditors-only",
        "compensation-band",
        "payroll-archive",
        "unreadable-memorandum",
        "all-MiniLM-L6-v2",
        "correct horse",
        "regrow.part",
        "document_id",
        "chunk_digest",
        "model_fingerprint",
    ]
    .iter()
    .map(|word| word.as_bytes().to_vec())
    .collect();
    let mut digests =
        vec![manifest.model_fingerprint, manifest.rules_fingerprint, manifest.model.weights, manifest.model.tokenizer];
    let mut reader = InventoryReader::new(&opened, &manifest);
    let (model, rules, bits) = (manifest.model_fingerprint, manifest.rules_fingerprint, manifest.buckets.bits);
    let mut names = Vec::new();
    for bucket in 0..1u32 << bits {
        let rows = reader.bucket(bucket).await.unwrap();
        let inputs = rows.iter().map(PartInput::from);
        let key = PartKey::new(&model, &rules, bits, bucket, inputs);
        digests.push(key.0);
        names.push(PartName { bits, bucket, key: key.named(&opened) });
        for row in rows {
            digests.extend([row.digest, row.text_digest, row.payload_digest, row.chunk_digest]);
            digests.push(Digest::of(row.document_id.as_bytes()));
        }
    }
    for canary in crate::snapshot::read_canaries(&opened, &manifest).await.unwrap() {
        digests.push(canary.chunk_digest);
        needles.push(canary.chunk_id.to_string().into_bytes());
        digests.push(Digest::from_bytes(bytemuck::cast_slice(&canary.vector).try_into().unwrap()));
    }
    let seal::Protection::Open(keys) = &opened.protection else { panic!("it is not open") };
    digests.push(Digest::from_bytes(*keys.ring.names));
    digests.extend(keys.ring.keys.iter().map(|key| Digest::from_bytes(*key.secret)));
    // A set's id is no fingerprint that somebody could make from the names that are there to see.
    let (_, plain) = made(&Unlock::nothing()).await;
    let id = VectorSetRecord::id(&plain, &model, &rules, names.iter().copied()).unwrap();
    needles.push(id.into_bytes());
    needles.extend(digests.iter().map(|digest| digest.as_bytes().to_vec()));

    let put = store.put.lock().unwrap().clone();
    let kinds = |folder: &str| put.iter().filter(|(name, _)| name.starts_with(folder)).count();
    for folder in [
        "snapshots/",
        "inventories/",
        "canaries/",
        "skipped/",
        "vectors/",
        "vector-sets/",
        "restores/",
        "drills/",
        "keys/",
    ] {
        assert!(kinds(folder) > 0, "nothing was put into {folder}");
    }
    // Every 16 consecutive bytes, so that a digest is noticed without a search per digest and object.
    for (name, bytes) in &put {
        if name == path::REPOSITORY {
            continue;
        }
        for needle in &needles {
            if needle.len() == 32 {
                continue;
            }
            assert!(!readable(bytes, needle), "{name} shows {:?}", String::from_utf8_lossy(needle));
            assert!(!readable(name.as_bytes(), needle), "{name} is named after {needle:?}");
        }
    }
    let whole: Vec<u8> = put
        .iter()
        .filter(|(name, _)| name != path::REPOSITORY)
        .flat_map(|(name, bytes)| [name.as_bytes(), b"\n", bytes].concat())
        .collect();
    let mut forms: std::collections::HashMap<[u8; 12], usize> = std::collections::HashMap::new();
    for (i, needle) in needles.iter().enumerate().filter(|(_, needle)| needle.len() == 32) {
        let hexadecimal: String = needle.iter().map(|b| format!("{b:02x}")).collect();
        let mut add = |form: &[u8]| {
            forms.insert(form[..12].try_into().unwrap(), i);
        };
        add(needle);
        add(hexadecimal.as_bytes());
        for shift in 0..3 {
            let shifted = [&vec![0; shift][..], needle].concat();
            add(&base64::engine::general_purpose::STANDARD.encode(shifted).as_bytes()[4..]);
        }
    }
    assert!(forms.len() > 1000);
    for window in whole.windows(12) {
        let found = forms.get(window);
        assert!(found.is_none(), "a digest is readable: {:?}", found.map(|i| &needles[*i]));
    }
    // Nothing of the sort is claimed of a repository that is not encrypted: the search finds what is there.
    let (store, directory) = (Arc::new(Recorder::default()), tempfile::tempdir().unwrap());
    everything(&store, &Unlock::nothing(), directory.path()).await;
    let put = store.put.lock().unwrap().clone();
    for word in ["payroll-archive", "unreadable-memorandum", "all-MiniLM-L6-v2", "regrow.part", "document_id"] {
        assert!(put.iter().any(|(_, bytes)| readable(bytes, word.as_bytes())), "{word}");
    }
    assert!(put.iter().any(|(name, _)| readable(name.as_bytes(), manifest.model_fingerprint.to_string().as_bytes())));
}
