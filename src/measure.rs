//! Time and memory, as reports show them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Seconds per stage. `read` and `chunk` are busy time summed over workers, which overlaps with `embed`;
/// the others are wall time of their stage. Stages overlap, so their sum may exceed `total`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// Wall time of the whole run.
    pub total: f64,
    /// Reading documents and extracting their text.
    pub read: f64,
    /// Cutting them into chunks.
    pub chunk: f64,
    /// Tokenising and embedding chunks.
    pub embed: f64,
    /// Encoding and storing parts.
    pub write: f64,
    /// Writing points into the target.
    pub load: f64,
    /// Building the index.
    pub index: f64,
    /// Checking the result.
    pub validate: f64,
}

/// A stopwatch that several workers add to.
#[derive(Debug, Default)]
pub(crate) struct Busy(AtomicU64);

impl Busy {
    pub(crate) fn add(&self, duration: Duration) {
        self.0.fetch_add(duration.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Adds the time since `start`.
    pub(crate) fn since(&self, start: Instant) {
        self.add(start.elapsed());
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.0.load(Ordering::Relaxed) as f64 / 1e9
    }
}

/// Most resident memory of this process so far, in bytes; 0 where the system does not tell (only Linux does).
pub fn peak_rss_bytes() -> u64 {
    proc_status("VmHWM:")
}

/// Resident memory of this process that is not backed by files, in bytes; 0 where the system does not tell.
pub fn anonymous_rss_bytes() -> u64 {
    proc_status("RssAnon:")
}

fn proc_status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(field));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The machine class: drills are compared only with drills on the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Processor, as the system names it.
    pub cpu: String,
    /// Cores this process may use.
    pub cores: usize,
    /// Memory in bytes; 0 where the system does not tell.
    pub memory_bytes: u64,
    /// Operating system and architecture.
    pub system: String,
}

impl Machine {
    /// This machine.
    pub fn here() -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = info.lines().find_map(|l| l.strip_prefix("model name")).and_then(|l| l.split_once(':'));
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory = memory.lines().find_map(|l| l.strip_prefix("MemTotal:"));
        Self {
            cpu: cpu.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned()),
            cores: cores(),
            memory_bytes: memory
                .and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok())
                .unwrap_or(0)
                .saturating_mul(1024),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        }
    }
}

/// Cores this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
