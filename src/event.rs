//! What the library tells while it works. The library never prints: the binary draws these.

use std::sync::Arc;

use serde::Serialize;

/// A stage of the pipeline, as it appears in reports and on progress bars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stage {
    /// Getting the model's files.
    Fetch,
    /// Reading documents from the corpus.
    Read,
    /// Cutting documents into chunks.
    Chunk,
    /// Turning chunks into vectors.
    Embed,
    /// Writing parts.
    Write,
    /// Writing points into the target.
    Load,
    /// Building the collection's index.
    Index,
    /// Checking the result.
    Validate,
    /// Re-reading stored objects.
    Verify,
    /// Copying objects to replicas, or from one.
    Copy,
}

impl Stage {
    /// Lower-case name, as in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Read => "read",
            Self::Chunk => "chunk",
            Self::Embed => "embed",
            Self::Write => "write",
            Self::Load => "load",
            Self::Index => "index",
            Self::Validate => "validate",
            Self::Verify => "verify",
            Self::Copy => "copy",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A stage began; `total` is in `unit`s where it is known.
    StageStarted {
        /// Which stage.
        stage: Stage,
        /// How much there is to do, if known.
        total: Option<u64>,
        /// What is counted: `documents`, `chunks`, `bytes`, `points`.
        unit: &'static str,
    },
    /// The total of a running stage became known or changed.
    StageTotal {
        /// Which stage.
        stage: Stage,
        /// How much there is to do.
        total: u64,
    },
    /// `delta` more units are done.
    Progress {
        /// Which stage.
        stage: Stage,
        /// Units done since the last event of this stage.
        delta: u64,
    },
    /// A stage ended.
    StageFinished {
        /// Which stage.
        stage: Stage,
        /// Wall time of the stage.
        seconds: f64,
    },
    /// A document was left out; it is counted and named.
    DocumentSkipped {
        /// The object that holds it.
        uri: String,
        /// Line or record number in that object, from 1.
        line: Option<u64>,
        /// Why.
        reason: String,
    },
    /// A fact worth a line: what was decided, found or finished.
    Note {
        /// The text.
        text: String,
    },
    /// Nothing is lost, but someone should know.
    Warning {
        /// The text.
        text: String,
    },
}

/// Receives events; must not block for long.
pub trait Reporter: Send + Sync {
    /// Called for every event, from any thread.
    fn event(&self, event: &Event);
}

/// A handle to the reporter, cheap to clone.
#[derive(Clone)]
pub struct Events(Arc<dyn Reporter>);

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

struct Silent;
impl Reporter for Silent {
    fn event(&self, _: &Event) {}
}

impl Default for Events {
    fn default() -> Self {
        Self::silent()
    }
}

impl Events {
    /// Sends events to `reporter`.
    pub fn new(reporter: Arc<dyn Reporter>) -> Self {
        Self(reporter)
    }

    /// Drops every event.
    pub fn silent() -> Self {
        Self(Arc::new(Silent))
    }

    /// Sends one event.
    pub fn send(&self, event: Event) {
        self.0.event(&event);
    }

    /// A stage began.
    pub fn start(&self, stage: Stage, total: Option<u64>, unit: &'static str) {
        self.send(Event::StageStarted { stage, total, unit });
    }

    /// `delta` more units are done.
    pub fn progress(&self, stage: Stage, delta: u64) {
        self.send(Event::Progress { stage, delta });
    }

    /// A stage ended after `seconds`.
    pub fn finish(&self, stage: Stage, seconds: f64) {
        self.send(Event::StageFinished { stage, seconds });
    }

    /// A fact worth a line.
    pub fn note(&self, text: impl Into<String>) {
        self.send(Event::Note { text: text.into() });
    }

    /// Nothing is lost, but someone should know.
    pub fn warn(&self, text: impl Into<String>) {
        self.send(Event::Warning { text: text.into() });
    }
}
