//! A model behind a service: snapshot, plan, restore and query through a server that fails now and then.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::common::Project;

const DIMENSION: usize = 8;
const KEY: &str = "hunter2-hunter2";

/// A service whose vectors depend on the text and on which `model` it has loaded; every third
/// request is throttled.
struct Server {
    address: String,
    model: Arc<AtomicU64>,
    texts: Arc<AtomicU64>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/v1", listener.local_addr().unwrap());
        let (model, texts) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicU64::new(0)));
        let server = Self { address, model: Arc::clone(&model), texts: Arc::clone(&texts) };
        std::thread::spawn(move || {
            for (n, socket) in listener.incoming().flatten().enumerate() {
                let (model, texts) = (Arc::clone(&model), Arc::clone(&texts));
                std::thread::spawn(move || answer(socket, n, model.load(Ordering::SeqCst), &texts));
            }
        });
        server
    }
}

fn answer(mut socket: std::net::TcpStream, n: usize, model: u64, texts: &AtomicU64) {
    let mut bytes = Vec::new();
    let (start, length) = loop {
        let mut chunk = [0; 8192];
        let read = socket.read(&mut chunk).unwrap_or(0);
        if read == 0 {
            return;
        }
        bytes.extend_from_slice(&chunk[..read]);
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            assert!(head.contains(&format!("bearer {KEY}")), "{head}");
            let length =
                head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap().parse::<usize>().unwrap();
            break (end + 4, length);
        }
    };
    while bytes.len() < start + length {
        let mut chunk = [0; 8192];
        let read = socket.read(&mut chunk).unwrap();
        bytes.extend_from_slice(&chunk[..read]);
    }
    let body: Value = serde_json::from_slice(&bytes[start..]).unwrap();
    let (status, body) = if n % 3 == 2 {
        ("429 Too Many Requests\r\nretry-after: 0", json!({}))
    } else {
        let data: Vec<Value> = body["input"]
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
            .map(|(index, text)| {
                texts.fetch_add(1, Ordering::SeqCst);
                json!({"index": index, "embedding": vector(text.as_str().unwrap(), model)})
            })
            .rev()
            .collect();
        ("200 OK", json!({ "data": data }))
    };
    let body = body.to_string();
    let _ = write!(socket, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
}

fn vector(text: &str, model: u64) -> Vec<f32> {
    (0..DIMENSION)
        .map(|i| {
            let mut hasher = DefaultHasher::new();
            (text, model, i).hash(&mut hasher);
            (hasher.finish() % 2001) as f32 / 1000.0 - 1.0
        })
        .collect()
}

fn project(server: &Server) -> Option<Project> {
    let project = Project::new()?;
    let tokenizer = include_bytes!("../../models/golden/tiny-distilbert/tokenizer.json");
    project.write("model/tokenizer.json", tokenizer);
    project.write("card.toml", format!(
        "name = \"far\"\ndescription = \"behind a service\"\nlicence = \"none\"\narchitecture = \"service\"\npooling = \"mean\"\n\
         normalize = true\nmax_tokens = 256\ndimension = {DIMENSION}\nmetric = \"cosine\"\n[[file]]\nname = \"tokenizer.json\"\n\
         [service]\nurl = \"{}\"\nmodel = \"far-1\"\nkey_variable = \"FAR_KEY\"\nmax_texts = 7\nusd_per_million_tokens = 1000000.0\n",
        server.address
    ));
    for i in 0..40 {
        let text = "the corpus is backup and vectors are derived from it on a schedule ".repeat(1 + i % 5);
        project.write(&format!("docs/{i}.md"), format!("# Document {i}\n\n{text} {i}\n"));
    }
    Some(project)
}

/// Runs with the key in the environment.
fn run(project: &Project, arguments: &str, key: &str) -> crate::common::Run {
    project.shell(&format!(
        "FAR_KEY={key} \"$REGROW\" {arguments} --json --set model.name=card.toml --set model.source=model"
    ))
}

#[test]
fn a_service_computes_the_vectors_and_canaries_notice_another_model() {
    let server = Server::start();
    let Some(project) = project(&server) else { return };
    let snapshot = run(&project, "snapshot", KEY).ok();
    let chunks = snapshot["chunks"].as_u64().unwrap();
    assert!(chunks >= 40, "{snapshot}");
    let plan = run(&project, "plan", KEY).ok();
    let tokens = plan["tokens_to_compute"].as_f64().unwrap();
    assert!((plan["embed_usd"].as_f64().unwrap() - tokens).abs() < 1e-6, "{plan}");
    let before = server.texts.load(Ordering::SeqCst);
    let restored = run(&project, "restore", KEY);
    assert!(!restored.stdout.contains(KEY) && !restored.stderr.contains(KEY));
    assert_eq!(restored.ok()["checks"].as_array().unwrap().iter().filter(|c| c["outcome"] == "fail").count(), 0);
    assert!(server.texts.load(Ordering::SeqCst) - before >= chunks, "every chunk was embedded by the service");
    let found = run(&project, "query 'the corpus is backup'", KEY).ok();
    assert!(!found["hits"].as_array().unwrap().is_empty());

    let error = run(&project, "restore", "").failed(2);
    assert!(error["error"]["next"].as_str().unwrap().contains("FAR_KEY"), "{error}");

    // The service loads another model under the same name.
    server.model.store(2, Ordering::SeqCst);
    let error = run(&project, "restore --fresh", KEY).failed(11);
    assert!(error["error"]["message"].as_str().unwrap().contains("canaries"), "{error}");
}
