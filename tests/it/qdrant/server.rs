//! Servers for tests: the double in a process of its own, or the real one.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use qdrant_client::qdrant as q;
use qdrant_client::qdrant::collections_client::CollectionsClient;
use regrow::targets::CollectionSpec;
use regrow::targets::qdrant::QdrantOptions;
use tempfile::TempDir;
use tonic::transport::Channel;

use super::double::Settings;

/// What the double's process is told.
pub const DOUBLE: &str = "REGROW_QDRANT_DOUBLE";
/// The program of a real server.
const REAL: &str = "REGROW_QDRANT_SERVER";

pub fn options(port: u16) -> QdrantOptions {
    QdrantOptions {
        timeout: Duration::from_secs(30),
        ..QdrantOptions::new(format!("http://127.0.0.1:{port}").parse().unwrap())
    }
}

/// A server that runs until this is dropped.
pub struct Served {
    pub port: u16,
    http: u16,
    child: Child,
    settings: Settings,
    directory: TempDir,
}

fn free() -> [u16; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}

impl Served {
    pub fn start() -> Self {
        Self::start_as("1.18.3", None)
    }

    /// One that says it is of this version, and wants this key. A real one is of its own version.
    pub fn start_as(version: &str, api_key: Option<&str>) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let [port, http] = free();
        let settings = Settings {
            port,
            directory: directory.path().to_owned(),
            version: version.to_owned(),
            api_key: api_key.map(str::to_owned),
            shards: 3,
        };
        let child = spawn(&settings, http);
        let mut served = Self { port, http, child, settings, directory };
        served.wait();
        served
    }

    pub fn is_real() -> bool {
        std::env::var_os(REAL).is_some()
    }

    fn wait(&mut self) {
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = || std::fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default();
            assert!(self.child.try_wait().expect("a child").is_none(), "it ended: {}", log());
            assert!(begin.elapsed() < Duration::from_secs(60), "it does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Killed, and started again on the same port and data.
    pub fn killed_and_started(mut self) -> Self {
        self.child.kill().expect("it runs");
        self.child.wait().expect("a child");
        self.child = spawn(&self.settings, self.http);
        self.wait();
        self
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(settings: &Settings, http: u16) -> Child {
    let mut command = match std::env::var_os(REAL) {
        None => {
            let mut command = Command::new(std::env::current_exe().expect("a path"));
            command.args(["qdrant::serves", "--exact", "--nocapture"]).env(DOUBLE, settings.text());
            command
        }
        Some(program) => {
            let mut command = Command::new(program);
            command.args(["--disable-telemetry"]).env("QDRANT__SERVICE__HOST", "127.0.0.1");
            command.env("QDRANT__SERVICE__GRPC_PORT", settings.port.to_string());
            command.env("QDRANT__SERVICE__HTTP_PORT", http.to_string());
            command.env("QDRANT__STORAGE__COLLECTION__SHARD_NUMBER_PER_NODE", settings.shards.to_string());
            if let Some(key) = &settings.api_key {
                command.env("QDRANT__SERVICE__API_KEY", key);
            }
            command
        }
    };
    let log = std::fs::File::create(settings.directory.join("stderr")).expect("a file");
    command.current_dir(&settings.directory).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
    command.spawn().expect("the server starts")
}

async fn collections(port: u16) -> CollectionsClient<Channel> {
    let address = format!("http://127.0.0.1:{port}");
    CollectionsClient::new(Channel::from_shared(address).unwrap().connect().await.unwrap())
}

/// What the server says, as another tool would ask.
pub async fn info(port: u16, name: &str) -> q::CollectionInfo {
    let request = q::GetCollectionInfoRequest { collection_name: name.to_owned() };
    collections(port).await.get(request).await.unwrap().into_inner().result.unwrap()
}

pub async fn config(port: u16, name: &str) -> q::CollectionConfig {
    info(port, name).await.config.unwrap()
}

async fn create(port: u16, name: &str, dimension: usize, metadata: Option<(&str, String)>) {
    let params =
        q::VectorParams { size: dimension as u64, distance: q::Distance::Dot.into(), ..q::VectorParams::default() };
    let text = |text| q::Value { kind: Some(q::value::Kind::StringValue(text)) };
    let request = q::CreateCollection {
        collection_name: name.to_owned(),
        vectors_config: Some(q::VectorsConfig { config: Some(q::vectors_config::Config::Params(params)) }),
        metadata: metadata.into_iter().map(|(key, value)| (key.to_owned(), text(value))).collect(),
        ..q::CreateCollection::default()
    };
    assert!(collections(port).await.create(request).await.unwrap().into_inner().result);
}

/// A collection as another tool makes it.
pub async fn create_foreign(port: u16, spec: &CollectionSpec) {
    create(port, &spec.name, spec.dimension, Some(("theirs", "yes".to_owned()))).await;
}

/// The first of the steps in which regrow makes a collection.
pub async fn begin(port: u16, name: &str, instance: uuid::Uuid) {
    create(port, name, 4, Some(("regrow_building", format!("\"{instance}\"")))).await;
}

/// As another tool would.
pub async fn delete_point(port: u16, name: &str, id: uuid::Uuid) {
    use q::points_selector::PointsSelectorOneOf;
    let id = q::PointId { point_id_options: Some(q::point_id::PointIdOptions::Uuid(id.to_string())) };
    let ids = PointsSelectorOneOf::Points(q::PointsIdsList { ids: vec![id] });
    let request = q::DeletePoints {
        collection_name: name.to_owned(),
        wait: Some(true),
        points: Some(q::PointsSelector { points_selector_one_of: Some(ids) }),
        ..q::DeletePoints::default()
    };
    let address = format!("http://127.0.0.1:{port}");
    let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
    q::points_client::PointsClient::new(channel).delete(request).await.unwrap();
}
