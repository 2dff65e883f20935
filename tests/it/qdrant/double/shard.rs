//! One shard: the engine, a log, and a thread that applies what is in it, one after another.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message;
use qdrant_client::qdrant as q;
use qdrant_edge::{EdgeConfig, EdgeShard};
use tonic::Status;

use super::words;

/// Before an operation is applied that nobody waits for: long enough that who does not wait reads too early.
const LATER: Duration = Duration::from_millis(8);
/// Before a change of the optimizers takes effect.
const MOMENT: Duration = Duration::from_millis(30);

/// What is in the log.
#[derive(Clone, PartialEq, Message)]
pub struct Operation {
    #[prost(message, optional, tag = "1")]
    pub upsert: Option<q::UpsertPoints>,
    #[prost(message, optional, tag = "2")]
    pub delete_payload: Option<q::DeletePayloadPoints>,
    #[prost(message, optional, tag = "3")]
    pub index: Option<q::CreateFieldIndexCollection>,
    #[prost(message, optional, tag = "4")]
    pub delete: Option<q::DeletePoints>,
}

enum Signal {
    Apply(Box<Operation>, Option<tokio::sync::oneshot::Sender<Result<(), Status>>>),
    Optimize,
}

pub struct Shard {
    engine: EdgeShard,
    log: Mutex<(std::fs::File, Sender<Signal>)>,
    waiting: AtomicUsize,
    /// Kilobytes of vectors from which a segment gets a graph; 0: none does.
    threshold: AtomicU64,
    dimension: u64,
    optimizing: AtomicBool,
    /// Something changed since the optimizers looked.
    changed: AtomicBool,
    /// The optimizers look at all: after a restart they wait for a change.
    awake: AtomicBool,
}

fn read_log(path: &Path) -> Vec<Operation> {
    let (mut bytes, mut found) = (Vec::new(), Vec::new());
    if let Ok(mut file) = std::fs::File::open(path) {
        file.read_to_end(&mut bytes).unwrap();
    }
    let mut rest = bytes.as_slice();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        // Killed while it was written: nobody was told that it is there.
        if after.len() < length {
            break;
        }
        found.push(Operation::decode(&after[..length]).unwrap());
        rest = &after[length..];
    }
    found
}

impl Shard {
    /// Makes or opens the shard, and applies its log.
    pub fn open(directory: &Path, config: EdgeConfig, dimension: u64, threshold: u64) -> Arc<Self> {
        let (path, log) = (directory.join("engine"), directory.join("log"));
        let fresh = !path.exists();
        std::fs::create_dir_all(&path).unwrap();
        let engine = if fresh { EdgeShard::new(&path, config) } else { EdgeShard::load(&path, Some(config)) }.unwrap();
        for operation in read_log(&log) {
            // What could not be applied before cannot be applied now.
            let _ = words::apply(&engine, &operation);
        }
        engine.flush();
        let file = std::fs::File::create(log).unwrap();
        let (sender, receiver) = channel();
        let shard = Arc::new(Self {
            engine,
            log: Mutex::new((file, sender)),
            waiting: AtomicUsize::new(0),
            threshold: AtomicU64::new(threshold),
            dimension,
            optimizing: AtomicBool::new(false),
            changed: AtomicBool::new(!fresh),
            awake: AtomicBool::new(fresh),
        });
        let worker = Arc::downgrade(&shard);
        std::thread::spawn(move || work(&worker, &receiver));
        shard
    }

    pub fn engine(&self) -> &EdgeShard {
        &self.engine
    }

    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::SeqCst) as u64
    }

    /// In the log when this returns; the receiver hears when it is applied.
    pub fn submit(
        &self,
        operation: Operation,
        wait: bool,
    ) -> Option<tokio::sync::oneshot::Receiver<Result<(), Status>>> {
        let bytes = operation.encode_to_vec();
        let mut log = self.log.lock().unwrap();
        let mut record = u32::try_from(bytes.len()).unwrap().to_le_bytes().to_vec();
        record.extend(bytes);
        log.0.write_all(&record).unwrap();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let (sender, receiver) = tokio::sync::oneshot::channel();
        log.1.send(Signal::Apply(Box::new(operation), wait.then_some(sender))).unwrap();
        wait.then_some(receiver)
    }

    /// The optimizers have another threshold, or are to look again.
    pub fn optimize(&self, threshold: u64) {
        self.threshold.store(threshold, Ordering::SeqCst);
        self.log.lock().unwrap().1.send(Signal::Optimize).unwrap();
    }

    /// Whether a segment is large enough for a graph and has none.
    fn suboptimal(&self) -> bool {
        let (info, threshold) = (self.engine.info(), self.threshold.load(Ordering::SeqCst));
        let bytes = info.points_count.saturating_sub(info.indexed_vectors_count) as u64 * self.dimension * 4;
        threshold > 0 && bytes > threshold * 1024
    }

    pub fn status(&self) -> q::CollectionStatus {
        if self.optimizing.load(Ordering::SeqCst) {
            return q::CollectionStatus::Yellow;
        }
        match (self.changed.load(Ordering::SeqCst) && self.suboptimal(), self.awake.load(Ordering::SeqCst)) {
            (true, true) => q::CollectionStatus::Yellow,
            (true, false) => q::CollectionStatus::Grey,
            (false, _) => q::CollectionStatus::Green,
        }
    }

    fn apply(&self, operation: &Operation, waiter: Option<tokio::sync::oneshot::Sender<Result<(), Status>>>) {
        if waiter.is_none() {
            std::thread::sleep(LATER);
        }
        let outcome = words::apply(&self.engine, operation);
        self.changed.store(true, Ordering::SeqCst);
        self.awake.store(true, Ordering::SeqCst);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        if let Some(waiter) = waiter {
            // Who waited may be gone.
            let _ = waiter.send(outcome);
        }
    }

    fn run_optimizers(&self) {
        self.changed.store(false, Ordering::SeqCst);
        if !self.suboptimal() {
            return;
        }
        self.optimizing.store(true, Ordering::SeqCst);
        let threshold = usize::try_from(self.threshold.load(Ordering::SeqCst)).unwrap();
        let mut optimizers = self.engine.config().optimizers.clone();
        optimizers.indexing_threshold = Some(threshold);
        self.engine.set_optimizers_config(optimizers).unwrap();
        self.engine.flush();
        self.engine.optimize().unwrap();
        self.engine.flush();
        self.optimizing.store(false, Ordering::SeqCst);
    }
}

fn work(shard: &std::sync::Weak<Shard>, signals: &Receiver<Signal>) {
    loop {
        let signal = signals.recv_timeout(Duration::from_millis(20));
        // The collection was deleted.
        let Some(shard) = shard.upgrade() else { return };
        match signal {
            Ok(Signal::Apply(operation, waiter)) => shard.apply(&operation, waiter),
            Ok(Signal::Optimize) => {
                std::thread::sleep(MOMENT);
                shard.changed.store(true, Ordering::SeqCst);
                shard.awake.store(true, Ordering::SeqCst);
            }
            Err(RecvTimeoutError::Timeout) => {
                if shard.awake.load(Ordering::SeqCst) && shard.changed.load(Ordering::SeqCst) {
                    shard.run_optimizers();
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Directories of the shards of a collection.
pub fn directory(collection: &Path, number: u32) -> PathBuf {
    collection.join(format!("shard-{number}"))
}
