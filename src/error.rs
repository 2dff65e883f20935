//! The one error type: what failed, where, why, and what to do next.
//!
//! Callers decide on [`Error::kind`] and [`Error::retryable`], never on message text.

use std::fmt;

/// Result with regrow's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it is; each kind has one documented exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A defect or an environment failure nobody planned for.
    Unexpected,
    /// Reading or writing a file or an object failed.
    Storage,
    /// The device or bucket has no room left.
    StorageFull,
    /// A pipeline file, flag or environment value is wrong.
    Configuration,
    /// The thing named does not exist.
    NotFound,
    /// Something is there already and will not be overwritten.
    AlreadyExists,
    /// A stored object is not what was written: truncated, changed or unreadable.
    Damaged,
    /// The store refused: no permission, no credentials, or the object is locked against deletion.
    Denied,
    /// The repository is encrypted and no key was given.
    KeyMissing,
    /// The key that was given does not open the repository.
    KeyWrong,
    /// Another run holds what this one needs to have for itself.
    Locked,
    /// A document could not be read, decoded or parsed.
    BadDocument,
    /// The corpus is not what the snapshot recorded.
    CorpusDiffers,
    /// The model is not the one that is required, or its files are wrong.
    ModelMismatch,
    /// The model's files could not be had from any source.
    ModelUnavailable,
    /// The target refused, failed or could not be reached.
    Target,
    /// A validation check failed.
    ValidationFailed,
    /// The restore took longer than the objective allows.
    RtoMissed,
    /// More corpus change would be lost than the objective allows.
    RpoMissed,
    /// The user stopped the run.
    Cancelled,
}

impl ErrorKind {
    /// What helps with most errors of this kind.
    fn usual_step(self) -> Option<&'static str> {
        Some(match self {
            Self::Unexpected | Self::Cancelled => return None,
            Self::Storage => {
                "check that the path or URL is there and may be read and written, then run the same command again"
            }
            Self::StorageFull => "free some room and run the same command again: it continues where it stopped",
            Self::Configuration => "correct it; `regrow init` writes a pipeline file with every setting explained",
            Self::NotFound => "`regrow list` shows the snapshots, `regrow status` the collections",
            Self::AlreadyExists => "choose another name, or remove what is there first",
            Self::Damaged => {
                "`regrow verify` names everything that is damaged, `regrow repair` mends it from a replica or from the corpus; for what it cannot mend take a new snapshot"
            }
            Self::Denied => {
                "check the credentials and what they may do in this store; `regrow doctor` tries each operation"
            }
            Self::KeyMissing => "give the key with [repository.encryption] in the pipeline",
            Self::KeyWrong => "check the passphrase or key command; `regrow key list` shows which keys there are",
            Self::Locked => "wait until the other run has ended, then run the same command again",
            Self::BadDocument => {
                "repair the document, exclude it with `corpus.exclude`, or set `corpus.on_bad_document = \"skip\"`"
            }
            Self::CorpusDiffers => "bring the documents back as they were, or take a new snapshot",
            Self::ModelMismatch => {
                "use the files of the model that the card describes: `regrow models show NAME` says where they come from"
            }
            Self::ModelUnavailable => "check the network, or give a directory with the model's files as `model.source`",
            Self::Target => {
                "`regrow doctor` checks the target; then run the same command again: it continues where it stopped"
            }
            Self::ValidationFailed => {
                "the failed checks say what differs; the collection was kept for a look and not promoted"
            }
            Self::RtoMissed | Self::RpoMissed => {
                "the report's stage times and the snapshot's age say where the time went"
            }
        })
    }

    /// The process exit code for this kind; the table is public interface.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Unexpected | Self::Storage | Self::StorageFull | Self::Damaged | Self::Denied | Self::Locked => 1,
            Self::Configuration | Self::NotFound | Self::AlreadyExists | Self::KeyMissing | Self::KeyWrong => 2,
            Self::BadDocument | Self::CorpusDiffers => 10,
            Self::ModelMismatch | Self::ModelUnavailable => 11,
            Self::Target => 20,
            Self::ValidationFailed => 30,
            Self::RtoMissed => 40,
            Self::RpoMissed => 41,
            Self::Cancelled => 130,
        }
    }

    /// The name used in JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unexpected => "unexpected",
            Self::Storage => "storage",
            Self::StorageFull => "storage_full",
            Self::Configuration => "configuration",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Damaged => "damaged",
            Self::Denied => "denied",
            Self::KeyMissing => "key_missing",
            Self::KeyWrong => "key_wrong",
            Self::Locked => "locked",
            Self::BadDocument => "bad_document",
            Self::CorpusDiffers => "corpus_differs",
            Self::ModelMismatch => "model_mismatch",
            Self::ModelUnavailable => "model_unavailable",
            Self::Target => "target",
            Self::ValidationFailed => "validation_failed",
            Self::RtoMissed => "rto_missed",
            Self::RpoMissed => "rpo_missed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// An error with context (key/value), guidance and a cause.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    context: Vec<(&'static str, String)>,
    guidance: Option<String>,
    retryable: bool,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A new error; `message` says what failed.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            context: Vec::new(),
            guidance: None,
            retryable: false,
            source: None,
        }))
    }

    /// Adds where it happened: a file, an object, a line, a record, a collection.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((key, value.to_string()));
        self
    }

    /// Says what the user should do next.
    #[must_use]
    pub fn guidance(mut self, text: impl Into<String>) -> Self {
        self.0.guidance = Some(text.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Marks the error as worth trying again.
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.0.retryable = true;
        self
    }

    /// The kind, for decisions.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed later.
    pub fn retryable(&self) -> bool {
        self.0.retryable
    }

    /// What failed, without context and cause.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Key/value context in the order it was added.
    pub fn context(&self) -> &[(&'static str, String)] {
        &self.0.context
    }

    /// The value of one context key.
    pub fn context_value(&self, key: &str) -> Option<&str> {
        self.0.context.iter().find(|(k, _)| *k == key).map(|(_, v)| v.as_str())
    }

    /// What to do next: what the place of the error knows, or else what its kind suggests.
    pub fn next_step(&self) -> Option<&str> {
        self.0.guidance.as_deref().or(self.0.kind.usual_step())
    }

    /// The process exit code.
    pub fn exit_code(&self) -> u8 {
        self.0.kind.exit_code()
    }

    /// The causes, outermost first, as text.
    pub fn causes(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            let text = cause.to_string();
            // Many libraries repeat their source in their own text.
            if !out.last().is_some_and(|last: &String| last.contains(&text)) {
                out.push(text);
            }
            next = cause.source();
        }
        out
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        for (i, (key, value)) in self.0.context.iter().enumerate() {
            write!(f, "{}{key}: {value}", if i == 0 { " (" } else { ", " })?;
        }
        if !self.0.context.is_empty() {
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|s| s as _)
    }
}

/// True when an I/O error, or one inside its chain, says that the device is full.
pub(crate) fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(io) = e.downcast_ref::<std::io::Error>()
            && matches!(
                io.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::FileTooLarge
            )
        {
            return true;
        }
        next = e.source();
    }
    false
}

/// True when the store refused: no permission, a device that is mounted read-only, an object that is locked against
/// deletion, also where that is only the cause.
pub(crate) fn refused(error: &Error) -> bool {
    use std::io::ErrorKind as Io;
    if error.kind() == ErrorKind::Denied {
        return true;
    }
    let mut next = std::error::Error::source(error);
    while let Some(e) = next {
        let io = e.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if matches!(io, Some(Io::PermissionDenied | Io::ReadOnlyFilesystem))
            || matches!(e.downcast_ref::<object_store::Error>(), Some(object_store::Error::PermissionDenied { .. }))
        {
            return true;
        }
        next = e.source();
    }
    false
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        if is_full(&e) {
            return Self::new(ErrorKind::StorageFull, "no room left on the device")
                .guidance("free some room and run the same command again: it continues where it stopped")
                .because(e);
        }
        Self::new(ErrorKind::Storage, "reading or writing a file failed").because(e)
    }
}

impl From<parquet::errors::ParquetError> for Error {
    fn from(e: parquet::errors::ParquetError) -> Self {
        let kind = if is_full(&e) { ErrorKind::StorageFull } else { ErrorKind::Damaged };
        Self::new(kind, "reading or writing Parquet failed").because(e)
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(e: arrow::error::ArrowError) -> Self {
        let kind = if is_full(&e) { ErrorKind::StorageFull } else { ErrorKind::Damaged };
        Self::new(kind, "converting columns failed").because(e)
    }
}

impl From<tokio::task::JoinError> for Error {
    fn from(e: tokio::task::JoinError) -> Self {
        if e.is_cancelled() {
            return Self::new(ErrorKind::Cancelled, "stopped");
        }
        Self::new(ErrorKind::Unexpected, "a worker panicked")
            .guidance("this is a defect in regrow: please report it with the log")
            .because(e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_has_message_and_context() {
        let e = Error::new(ErrorKind::BadDocument, "record is not JSON").with("file", "a.jsonl").with("line", 3);
        assert_eq!(e.to_string(), "record is not JSON (file: a.jsonl, line: 3)");
        assert_eq!(e.exit_code(), 10);
    }

    #[test]
    fn a_full_disk_is_recognised_through_the_chain() {
        let io = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let store = object_store::Error::Generic { store: "local", source: Box::new(io) };
        assert_eq!(Error::from(store).kind(), ErrorKind::StorageFull);
    }
}
