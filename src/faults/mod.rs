//! A store that fails on purpose, for tests of everything that has to live with failures.
//!
//! [`Faulty`] wraps any [`ObjectStore`]. What goes wrong follows from a seed alone: every operation of a kind, in a
//! folder, draws the next number of that folder's own sequence, so that operations in other folders that happen to run
//! earlier or later change nothing. With one operation at a time a run is repeated exactly.
//!
//! | fault | what the caller sees | what happened |
//! | --- | --- | --- |
//! | before | an error | nothing |
//! | after | an error | all of it |
//! | timeout | nothing until the deadline, then an error | nothing, or all of it |
//! | throttled | the error of a client whose tries were used up | nothing |
//! | short | a body that ends early, with or without an error | it was read |
//! | flipped | a body with one wrong bit | it was read |
//! | lag | listings without what was just written, and with what was just deleted | it was written, or deleted |
//! | kill | after the n-th operation, errors for ever | of the n-th: nothing, or all of it |

mod store;
mod upload;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::{Error, ObjectMeta, ObjectStore};

use crate::ids::Digest;

pub use store::is_injected;

/// What is asked of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// Writing an object, whole or in parts.
    Put,
    /// Reading an object or its metadata.
    Get,
    /// Listing a prefix.
    List,
    /// Removing an object.
    Delete,
    /// Copying or renaming an object.
    Copy,
}

/// How often each fault happens to one kind of operation: probabilities from 0 to 1; together at most 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// An error, and no effect.
    pub before: f64,
    /// An error after the effect.
    pub after: f64,
    /// No answer until the deadline; then an error, with or without effect.
    pub timeout: f64,
    /// The store is asked too much.
    pub throttled: f64,
    /// Fewer bytes than there are. (Reads and listings only.)
    pub short: f64,
    /// One wrong bit. (Reads only.)
    pub flipped: f64,
}

impl Rates {
    /// Faults that say that they are faults, together with probability `p`.
    pub fn errors(p: f64) -> Self {
        Self { before: p / 4.0, after: p / 4.0, timeout: p / 4.0, throttled: p / 4.0, ..Self::default() }
    }
}

/// What goes wrong, per kind of operation.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Faults {
    /// Of writes.
    pub put: Rates,
    /// Of reads.
    pub get: Rates,
    /// Of listings.
    pub list: Rates,
    /// Of deletions.
    pub delete: Rates,
    /// Of copies.
    pub copy: Rates,
    /// For so many operations a written object is missing from listings and a deleted one still in them.
    pub lag: u64,
}

impl Faults {
    /// Errors of every operation with probability `p`, and as often bodies that are short or wrong.
    pub fn everywhere(p: f64) -> Self {
        let errors = Rates::errors(p);
        Self {
            put: errors,
            get: Rates { short: p / 4.0, flipped: p / 4.0, ..errors },
            list: Rates { short: p / 4.0, ..errors },
            delete: errors,
            copy: errors,
            lag: 0,
        }
    }

    fn of(&self, operation: Operation) -> Rates {
        match operation {
            Operation::Put => self.put,
            Operation::Get => self.get,
            Operation::List => self.list,
            Operation::Delete => self.delete,
            Operation::Copy => self.copy,
        }
    }
}

/// What was made to go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An error without effect.
    Before,
    /// An error after the effect.
    After,
    /// No answer, without effect.
    TimeoutBefore,
    /// No answer after the effect.
    TimeoutAfter,
    /// Asked too much.
    Throttled,
    /// Fewer bytes: this share of them in 65,536ths, and whether an error follows.
    Short(u16, bool),
    /// One wrong bit, at this number modulo the number of bits.
    Flipped(u64),
    /// The store was dead already.
    Dead,
    /// The store died of this operation, before or after its effect.
    Killed(bool),
}

/// One entry of [`Faulty::log`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injected {
    /// Number of the operation, from 1.
    pub number: u64,
    /// What was asked.
    pub operation: Operation,
    /// Of which object or prefix.
    pub path: String,
    /// What went wrong.
    pub fault: Fault,
}

/// A store that fails on purpose. Clones share all they know.
#[derive(Clone)]
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    seed: u64,
    deadline: Duration,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    faults: Faults,
    operations: u64,
    /// Operations left until the kill; `Some(0)` is dead.
    left: Option<u64>,
    kills: u64,
    draws: HashMap<(Operation, String), u64>,
    /// What listings do not show yet, by the operation that wrote it.
    written: HashMap<Path, u64>,
    /// What listings still show, by the operation that deleted it.
    deleted: HashMap<Path, (u64, ObjectMeta)>,
    log: Vec<Injected>,
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").field("inner", &self.inner).field("seed", &self.seed).finish_non_exhaustive()
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({}, seed {})", self.inner, self.seed)
    }
}

impl Faulty {
    /// A store that works until it is told otherwise. A timeout lasts a millisecond unless [`Faulty::deadline`] says
    /// more.
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64) -> Self {
        Self { inner, seed, deadline: Duration::from_millis(1), state: Arc::default() }
    }

    /// How long an operation without an answer lasts.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// From now on these faults happen.
    pub fn set(&self, faults: Faults) {
        let mut state = self.state();
        state.faults = faults;
        if faults.lag == 0 {
            state.written.clear();
            state.deleted.clear();
        }
    }

    /// After `n` more operations the store is dead: the n-th fails with or without its effect, as the seed says, and
    /// every later one fails without. With 0 it is dead at once.
    pub fn kill_after(&self, n: u64) {
        self.state().left = Some(n);
    }

    /// Alive again; what was planned to kill it is forgotten.
    pub fn revive(&self) {
        self.state().left = None;
    }

    /// Whether it was killed and not revived.
    pub fn is_dead(&self) -> bool {
        self.state().left == Some(0)
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// What went wrong since the last call, oldest first. Entries after the kill are left out.
    pub fn log(&self) -> Vec<Injected> {
        std::mem::take(&mut self.state().log)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation and says what goes wrong with it.
    fn draw(&self, operation: Operation, path: &Path) -> Option<Fault> {
        let mut state = self.state();
        state.operations += 1;
        let number = state.operations;
        if state.left == Some(0) {
            return Some(Fault::Dead);
        }
        let State { faults, written, deleted, .. } = &mut *state;
        let recent = number.saturating_sub(faults.lag);
        written.retain(|_, at| *at >= recent);
        deleted.retain(|_, (at, _)| *at >= recent);
        let fault = if state.left == Some(1) {
            state.kills += 1;
            let coin = self.number("kill", &format!("{operation:?}"), state.kills);
            state.left = Some(0);
            Some(Fault::Killed(coin.is_multiple_of(2)))
        } else {
            state.left = state.left.map(|n| n - 1);
            let folder = path.parts().next().map_or_else(String::new, |p| p.as_ref().to_owned());
            let draw = state.draws.entry((operation, folder.clone())).or_default();
            *draw += 1;
            let draw = *draw;
            self.choose(state.faults.of(operation), operation, &folder, draw)
        };
        if let Some(fault) = fault {
            state.log.push(Injected { number, operation, path: path.to_string(), fault });
        }
        fault
    }

    /// A number that the seed, two words and a count give.
    fn number(&self, what: &str, of: &str, count: u64) -> u64 {
        Digest::of(format!("{} {what} {of} {count}", self.seed).as_bytes()).prefix()
    }

    fn choose(&self, rates: Rates, operation: Operation, folder: &str, draw: u64) -> Option<Fault> {
        let kind = format!("{operation:?} {folder}");
        let at = (self.number("fault", &kind, draw) >> 11) as f64 / (1u64 << 53) as f64;
        let detail = self.number("detail", &kind, draw);
        let coin = detail.is_multiple_of(2);
        let faults = [
            (rates.before, Fault::Before),
            (rates.after, Fault::After),
            (rates.timeout, if coin { Fault::TimeoutBefore } else { Fault::TimeoutAfter }),
            (rates.throttled, Fault::Throttled),
            (rates.short, Fault::Short((detail >> 8) as u16, coin)),
            (rates.flipped, Fault::Flipped(detail)),
        ];
        let mut sum = 0.0;
        faults.into_iter().find_map(|(rate, fault)| {
            sum += rate;
            (at < sum).then_some(fault)
        })
    }

    /// What the caller is told; waits for the deadline first where that is the fault.
    async fn error(&self, fault: Fault) -> Error {
        if matches!(fault, Fault::TimeoutBefore | Fault::TimeoutAfter) {
            tokio::time::sleep(self.deadline).await;
        }
        failure(fault)
    }
}

/// The error that a client of a store makes of this fault.
fn failure(fault: Fault) -> Error {
    use std::io::ErrorKind as K;
    let (kind, io, text) = match fault {
        Fault::TimeoutBefore | Fault::TimeoutAfter => (HttpErrorKind::Timeout, K::TimedOut, "no answer in time"),
        Fault::Throttled => (HttpErrorKind::Request, K::ResourceBusy, "429 Too Many Requests: slow down"),
        Fault::Dead | Fault::Killed(_) => (HttpErrorKind::Connect, K::ConnectionRefused, "the store was killed"),
        Fault::Short(..) => (HttpErrorKind::Interrupted, K::UnexpectedEof, "the body ended early"),
        Fault::Before | Fault::After | Fault::Flipped(_) => {
            (HttpErrorKind::Request, K::ConnectionReset, "made to fail")
        }
    };
    Error::Generic { store: "Faulty", source: Box::new(HttpError::new(kind, std::io::Error::new(io, text))) }
}

#[cfg(test)]
mod tests;
