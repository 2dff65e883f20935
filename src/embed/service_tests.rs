use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const DIMENSION: usize = 3;

/// Status, additional headers, body.
type Reply = (u16, String, String);

/// A server on this machine that answers by `reply(number of the request, headers, body)`; its
/// address and how often it was asked.
fn serve(reply: impl Fn(usize, &str, &Value) -> Reply + Send + Sync + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, reply) = (Arc::clone(&asked), Arc::new(reply));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((mut socket, _)) = listener.accept().await {
                let (count, reply) = (Arc::clone(&count), Arc::clone(&reply));
                tokio::spawn(async move {
                    let mut bytes = Vec::new();
                    let (head, length) = loop {
                        let mut chunk = [0; 4096];
                        let n = socket.read(&mut chunk).await.unwrap_or(0);
                        if n == 0 {
                            return;
                        }
                        bytes.extend_from_slice(&chunk[..n]);
                        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
                            let length = head
                                .lines()
                                .find_map(|l| l.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
                            break (head, end + 4 + length.unwrap().parse::<usize>().unwrap());
                        }
                    };
                    while bytes.len() < length {
                        let mut chunk = [0; 4096];
                        let n = socket.read(&mut chunk).await.unwrap();
                        bytes.extend_from_slice(&chunk[..n]);
                    }
                    let start = head.len() + 4;
                    let body = serde_json::from_slice(&bytes[start..length]).unwrap();
                    let n = count.fetch_add(1, Ordering::SeqCst);
                    let (status, headers, body) = reply(n, &head, &body);
                    let text = format!(
                        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}",
                        body.len()
                    );
                    let _ = socket.write_all(text.as_bytes()).await;
                });
            }
        });
    });
    (url, asked)
}

/// A vector that only its text decides.
fn vector(text: &str) -> Vec<f32> {
    vec![text.len() as f32, text.bytes().map(f32::from).sum(), 1.0]
}

/// What a good service answers.
fn good(body: &Value) -> Value {
    let texts = body["input"].as_array().unwrap();
    let data: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let numbers = vector(text.as_str().unwrap());
            let embedding = match body["encoding_format"].as_str() {
                Some("base64") => {
                    let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
                    json!(base64::engine::general_purpose::STANDARD.encode(bytes))
                }
                _ => json!(numbers),
            };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    json!({"object": "list", "model": body["model"], "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}})
}

fn card(url: &str, more: &str) -> ModelCard {
    let text = format!(
        "name = \"far\"\ndescription = \"for tests\"\nlicence = \"none\"\narchitecture = \"service\"\npooling = \"mean\"\n\
         normalize = false\nmax_tokens = 100\ndimension = {DIMENSION}\nmetric = \"cosine\"\n\
         [[file]]\nname = \"tokenizer.json\"\n[service]\nurl = \"{url}\"\nmodel = \"m1\"\n{more}"
    );
    ModelCard::parse(&text, "test").unwrap()
}

fn embed(url: &str, more: &str, texts: &[&str]) -> Result<Vec<f32>> {
    let texts: Vec<String> = texts.iter().map(|t| (*t).to_owned()).collect();
    let tokens: Vec<usize> = texts.iter().map(|t| t.len()).collect();
    Client::open(&card(url, more), DIMENSION as u32, None)?.embed(&texts, &tokens, &|| false)
}

#[test]
fn vectors_come_back_in_order_however_the_service_cuts_shuffles_and_encodes() {
    for more in ["", "base64 = true\n", "max_texts = 2\nconcurrency = 3\n", "max_tokens = 5\nbase64 = true\n"] {
        let (url, asked) = serve(|_, head, body| {
            assert!(head.starts_with("POST /v1/embeddings "), "{head}");
            assert_eq!(body["model"], "m1");
            let mut answer = good(body);
            answer["data"].as_array_mut().unwrap().reverse();
            (200, String::new(), answer.to_string())
        });
        let texts = ["a", "bbb", "cc", "dddd", "e", "ffffffff", ""];
        let expected: Vec<f32> = texts.iter().flat_map(|t| vector(t)).collect();
        assert_eq!(embed(&url, more, &texts).unwrap(), expected, "{more}");
        let requests = asked.load(Ordering::SeqCst);
        assert_eq!(
            requests,
            if more.contains("max_texts") {
                4
            } else if more.contains("max_tokens") {
                5
            } else {
                1
            }
        );
    }
}

#[test]
fn a_service_that_fails_and_throttles_is_asked_again() {
    let (url, asked) = serve(|n, _, body| match n {
        0 => (500, String::new(), "oops".into()),
        1 => (429, "retry-after: 0\r\n".into(), "{}".into()),
        2 => (503, "retry-after: 0.01\r\n".into(), String::new()),
        _ => (200, String::new(), good(body).to_string()),
    });
    assert_eq!(embed(&url, "", &["abc"]).unwrap(), vector("abc"));
    assert_eq!(asked.load(Ordering::SeqCst), 4);
}

#[test]
fn what_is_wrong_is_an_error_and_not_asked_again() {
    let with = |change: fn(&mut Value)| {
        move |body: &Value| {
            let mut a = good(body);
            change(&mut a);
            (200, String::new(), a.to_string())
        }
    };
    type Make = Box<dyn Fn(&Value) -> Reply + Send + Sync>;
    let cases: Vec<(Make, ErrorKind, &str)> = vec![
        (
            Box::new(with(|a| a["data"][0]["embedding"] = json!([1.0, 2.0]))),
            ErrorKind::ModelMismatch,
            "another dimension",
        ),
        (
            Box::new(with(|a| {
                a["data"].as_array_mut().unwrap().pop();
            })),
            ErrorKind::ModelMismatch,
            "no vector for text 1",
        ),
        (Box::new(with(|a| a["data"][1]["index"] = json!(0))), ErrorKind::ModelMismatch, "twice"),
        (Box::new(with(|a| a["data"][1]["index"] = json!(7))), ErrorKind::ModelMismatch, "for no text"),
        (Box::new(with(|a| a["data"][0]["embedding"] = json!("%%%"))), ErrorKind::ModelMismatch, "base64"),
        (Box::new(|_| (200, String::new(), "<html>".into())), ErrorKind::ModelMismatch, "not what"),
        (Box::new(|_| (401, String::new(), "{}".into())), ErrorKind::Configuration, "401"),
        (Box::new(|_| (404, String::new(), "{}".into())), ErrorKind::Configuration, "404"),
        (Box::new(|_| (400, String::new(), "too long".into())), ErrorKind::Configuration, "400"),
        (Box::new(|_| (429, "retry-after: 86400\r\n".into(), "quota".into())), ErrorKind::ModelUnavailable, "429"),
    ];
    for (reply, kind, words) in cases {
        let (url, asked) = serve(move |_, _, body| reply(body));
        let e = embed(&url, "", &["abc", "de"]).unwrap_err();
        assert_eq!(e.kind(), kind, "{e}");
        assert!(e.message().contains(words), "{words}: {e}");
        assert!(e.next_step().is_some(), "{e}");
        assert_eq!(asked.load(Ordering::SeqCst), 1, "{words}");
    }
}

#[test]
fn a_service_that_never_recovers_or_is_not_there_ends_in_an_error() {
    let (url, asked) = serve(|_, _, _| (500, "retry-after: 0\r\n".into(), String::new()));
    let e = embed(&url, "attempts = 3\n", &["abc"]).unwrap_err();
    assert_eq!((e.kind(), e.context_value("attempts")), (ErrorKind::ModelUnavailable, Some("3")));
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    let e = embed("http://127.0.0.1:1/v1", "attempts = 1\n", &["abc"]).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::ModelUnavailable);
}

#[test]
fn a_key_goes_to_the_service_and_into_no_message() {
    let (url, _) = serve(|_, head, _| {
        assert!(head.contains("Bearer hunter2"), "{head}");
        (403, String::new(), "the key hunter2 may not".to_owned())
    });
    let card = card(&url, "key_variable = \"SOME_KEY\"\n");
    let client = Client::open(&card, DIMENSION as u32, Some("hunter2".to_owned())).unwrap();
    let e = client.embed(&["abc".to_owned()], &[3], &|| false).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Configuration);
    assert!(!format!("{e} {e:?} {client:?}").contains("hunter2"), "{e:?}");
    assert!(e.next_step().unwrap().contains("SOME_KEY"));
    for none in [None, Some(" ".to_owned())] {
        let e = Client::open(&card, DIMENSION as u32, none).unwrap_err();
        assert_eq!(e.context_value("variable"), Some("SOME_KEY"));
    }
}

#[test]
fn a_cancelled_call_stops_while_the_service_is_silent() {
    let (url, _) = serve(|_, _, _| {
        std::thread::sleep(Duration::from_secs(5));
        (500, String::new(), String::new())
    });
    let client = Client::open(&card(&url, ""), DIMENSION as u32, None).unwrap();
    let start = Instant::now();
    let e = client.embed(&["a".to_owned()], &[1], &|| start.elapsed() > Duration::from_millis(60)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Cancelled);
}

#[test]
fn limits_of_a_minute_let_the_first_requests_through() {
    let (url, asked) = serve(|_, _, body| (200, String::new(), good(body).to_string()));
    let more = "max_texts = 1\nconcurrency = 1\nrequests_per_minute = 2\ntokens_per_minute = 100\n";
    let client = Client::open(&card(&url, more), DIMENSION as u32, None).unwrap();
    let start = Instant::now();
    let texts = ["a", "b", "c"].map(str::to_owned);
    // The third request would have to wait for a minute.
    let e = client.embed(&texts, &[1, 1, 1], &|| start.elapsed() > Duration::from_millis(500)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Cancelled);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert_eq!(client.price(10), None);
}

#[test]
fn cards_that_cannot_be_are_refused() {
    for (from, to) in [
        ("[service]\nurl = \"http://h/v1\"\nmodel = \"m1\"\n", ""),
        ("http://h/v1", "ftp://h"),
        ("http://h/v1", "http://user:pass@h"),
        ("model = \"m1\"", "model = \"m1\"\nkey_variable = \"sk-123\""),
    ] {
        let good = "name = \"far\"\ndescription = \"x\"\nlicence = \"none\"\narchitecture = \"service\"\npooling = \"mean\"\nnormalize = false\n\
                    max_tokens = 100\ndimension = 3\nmetric = \"cosine\"\n[[file]]\nname = \"tokenizer.json\"\n\
                    [service]\nurl = \"http://h/v1\"\nmodel = \"m1\"\n";
        assert!(ModelCard::parse(good, "test").is_ok());
        assert!(ModelCard::parse(&good.replace(from, to), "test").is_err(), "{to}");
    }
}

#[test]
fn the_engine_counts_prefixes_and_normalises() {
    let (url, _) = serve(|_, _, body| (200, String::new(), good(body).to_string()));
    let card = ModelCard {
        normalize: true,
        document_prefix: "d: ".to_owned(),
        ..card(&url, "usd_per_million_tokens = 0.02\n")
    };
    let directory = tempfile::tempdir().unwrap();
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/golden/tiny-distilbert/tokenizer.json");
    std::fs::copy(golden, directory.path().join("tokenizer.json")).unwrap();
    let files = crate::model::ModelFiles::open(&card, directory.path()).unwrap();
    let settings = crate::pipeline::ModelSettings::default();
    let engine = crate::embed::Engine::connect(&files, &settings, None).unwrap();
    let embedded = engine.embed(crate::embed::Role::Document, &["the corpus", "backup"], &|| false).unwrap();
    // [CLS] d: the corpus [SEP] and [CLS] d: backup [SEP].
    assert_eq!(embedded.tokens, 5 + 4);
    for (row, text) in embedded.embeddings.rows().zip(["d: the corpus", "d: backup"]) {
        let expected = vector(text);
        let length = expected.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!(row.iter().zip(&expected).all(|(x, e)| (x - e / length).abs() < 1e-6), "{row:?}");
    }
    assert_eq!(engine.price(2_000_000), Some(0.04));
    let long = "the ".repeat(120);
    let e = engine.embed(crate::embed::Role::Document, &[&long], &|| false).unwrap_err();
    assert_eq!((e.kind(), e.context_value("limit")), (ErrorKind::Configuration, Some("100")));
    let settings = crate::pipeline::ModelSettings { dtype: Some(crate::model::Dtype::Bf16), ..settings };
    assert!(crate::embed::Engine::connect(&files, &settings, None).is_err());

    // Another model behind the same address is another vector space.
    let mut other = files.card.clone();
    other.service.as_mut().unwrap().model = "m2".to_owned();
    let other = crate::model::ModelFiles::open(&other, directory.path()).unwrap();
    let dtype = crate::model::Dtype::F32;
    assert_ne!(
        files.context(dtype).unwrap().fingerprint().unwrap(),
        other.context(dtype).unwrap().fingerprint().unwrap()
    );
}
