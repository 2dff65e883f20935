//! A double of a Qdrant server, for machines without one: the real protocol, by the generated server traits, over the real engine
//! in as many shards as a collection has. Facts about the server are from the source of version 1.18.3.
//!
//! What is as there: the status codes; the order of operations within a shard; `wait = false` answers when an operation is in
//! the log, and applies it later; operations by filter go to every shard; a write that cannot be applied is an error only
//! for who waits; alias actions are kept one by one, and deleting a collection deletes its aliases; metadata merges, null removes;
//! after a restart the log is applied again and optimizers wait for a change (grey); a change of the optimizers takes effect a
//! moment later, so that for this moment a collection is green.
//!
//! What is not: one node only, replication is a number; strict mode is kept and never enforced; optimizers of one shard run
//! one after another, and writes to it wait meanwhile; memory, performance and file formats tell nothing about the real server.
//! Fields of requests that are not served here are refused.

mod collections;
mod points;
mod shard;
mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use prost::Message;
use qdrant_client::qdrant as q;
use qdrant_client::qdrant::collections_server::CollectionsServer;
use qdrant_client::qdrant::points_server::PointsServer;
use qdrant_client::qdrant::qdrant_server::{Qdrant, QdrantServer};
use tonic::{Request, Response, Status};

pub use self::shard::Shard;

/// What the double is told when it is started.
#[derive(Debug, Clone)]
pub struct Settings {
    pub port: u16,
    pub directory: PathBuf,
    pub version: String,
    pub api_key: Option<String>,
    /// Shards of collections that do not say.
    pub shards: u32,
}

impl Settings {
    /// From `REGROW_QDRANT_DOUBLE`: `PORT VERSION KEY|- SHARDS DIRECTORY`.
    pub fn read(text: &str) -> Self {
        let mut parts = text.splitn(5, ' ');
        let mut next = || parts.next().expect("five parts").to_owned();
        let (port, version, key, shards) = (next().parse().unwrap(), next(), next(), next().parse().unwrap());
        Self { port, version, api_key: (key != "-").then_some(key), shards, directory: next().into() }
    }

    pub fn text(&self) -> String {
        let key = self.api_key.as_deref().unwrap_or("-");
        format!("{} {} {key} {} {}", self.port, self.version, self.shards, self.directory.display())
    }
}

/// One collection.
pub struct Held {
    directory: PathBuf,
    /// Configuration and payload schema, as they are told; counts are not in it.
    pub info: Mutex<q::CollectionInfo>,
    pub shards: Vec<Arc<Shard>>,
}

impl Held {
    /// What is kept of a collection, replaced whole.
    pub fn save(&self, info: &q::CollectionInfo) {
        replace(&self.directory.join("info"), &info.encode_to_vec());
    }

    pub fn info(&self) -> MutexGuard<'_, q::CollectionInfo> {
        self.info.lock().unwrap()
    }

    pub fn shard_of(&self, id: &qdrant_edge::PointId) -> &Arc<Shard> {
        use std::hash::{Hash, Hasher};
        let mut hasher = std::collections::hash_map::DefaultHasher::new();
        id.hash(&mut hasher);
        &self.shards[(hasher.finish() % self.shards.len() as u64) as usize]
    }
}

/// The server.
#[derive(Clone)]
pub struct Double(Arc<Inner>);

pub struct Inner {
    settings: Settings,
    state: Mutex<State>,
}

#[derive(Default)]
pub struct State {
    pub collections: BTreeMap<String, Arc<Held>>,
    pub aliases: BTreeMap<String, String>,
}

fn replace(path: &Path, bytes: &[u8]) {
    let new = path.with_extension("new");
    std::fs::write(&new, bytes).unwrap();
    std::fs::rename(new, path).unwrap();
}

impl Double {
    fn open(settings: Settings) -> Self {
        let mut state = State::default();
        let root = settings.directory.join("collections");
        std::fs::create_dir_all(&root).unwrap();
        if let Ok(text) = std::fs::read(settings.directory.join("aliases")) {
            state.aliases = serde_json::from_slice(&text).unwrap();
        }
        for entry in std::fs::read_dir(&root).unwrap() {
            let directory = entry.unwrap().path();
            let name = std::fs::read_to_string(directory.join("name")).unwrap_or_default();
            // Deleted, or killed while it was made.
            let Ok(info) = std::fs::read(directory.join("info")) else {
                std::fs::remove_dir_all(&directory).unwrap();
                continue;
            };
            let info = q::CollectionInfo::decode(info.as_slice()).unwrap();
            state.collections.insert(name, Arc::new(collections::open(directory, info)));
        }
        Self(Arc::new(Inner { settings, state: Mutex::new(state) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    fn save_aliases(&self, state: &State) {
        replace(&self.0.settings.directory.join("aliases"), &serde_json::to_vec(&state.aliases).unwrap());
    }

    /// By name or alias.
    pub fn held(&self, name: &str) -> Result<Arc<Held>, Status> {
        let state = self.state();
        let physical = state.aliases.get(name).map_or(name, String::as_str);
        let found = state.collections.get(physical);
        found.cloned().ok_or_else(|| Status::not_found(format!("Not found: Collection `{name}` doesn't exist!")))
    }
}

#[tonic::async_trait]
impl Qdrant for Double {
    async fn health_check(&self, _: Request<q::HealthCheckRequest>) -> Result<Response<q::HealthCheckReply>, Status> {
        let version = self.0.settings.version.clone();
        Ok(Response::new(q::HealthCheckReply { title: "a double of Qdrant".to_owned(), version, commit: None }))
    }
}

/// A field of a request that the double does not serve is an error: the request must be what is served of it.
pub fn only<T: PartialEq + std::fmt::Debug>(request: &T, served: &T) -> Result<(), Status> {
    if request == served {
        return Ok(());
    }
    Err(Status::unimplemented(format!("the double does not serve all of this request: {request:?}")))
}

/// Runs until the input of the process ends.
pub fn serve(settings: Settings) {
    let double = Double::open(settings.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let key = settings.api_key.clone();
    let check = move |request: Request<()>| {
        let given = request.metadata().get("api-key").and_then(|key| key.to_str().ok());
        match (&key, given) {
            (Some(key), given) if given != Some(key) => Err(Status::unauthenticated("Invalid API key or JWT")),
            _ => Ok(request),
        }
    };
    runtime.block_on(async move {
        let points = PointsServer::new(double.clone()).max_decoding_message_size(usize::MAX);
        let guard = tower_service(check);
        let router = tonic::transport::Server::builder()
            .layer(guard)
            .add_service(points)
            .add_service(CollectionsServer::new(double.clone()))
            .add_service(QdrantServer::new(double));
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], settings.port));
        tokio::select! {
            ended = router.serve(address) => ended.expect("the port is free"),
            () = input_ends() => {}
        }
    });
    // As if killed: threads of shards are not waited for.
    std::process::exit(0);
}

fn tower_service<F: tonic::service::Interceptor + Clone>(check: F) -> tonic::service::InterceptorLayer<F> {
    tonic::service::InterceptorLayer::new(check)
}

async fn input_ends() {
    tokio::task::spawn_blocking(|| {
        let mut all = Vec::new();
        let _ = std::io::Read::read_to_end(&mut std::io::stdin(), &mut all);
    })
    .await
    .unwrap();
}
