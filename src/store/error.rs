//! Errors of stores as regrow's own: what failed, why, and what to do about it.

use std::io;

use super::fault::Fault;
use crate::error::{Error, ErrorKind, is_full};

/// The first I/O error in the chain: a local directory's own.
fn io_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(io) = e.downcast_ref::<io::Error>() {
            return Some(io);
        }
        next = e.source();
    }
    None
}

/// Whether the same call may succeed later, and whether it may have been done although it failed.
pub(crate) fn transient(error: &object_store::Error) -> (bool, bool) {
    match Fault::find(error) {
        Some(fault) => (fault.transient(), fault.in_doubt()),
        None => {
            let generic = matches!(error, object_store::Error::Generic { .. });
            let settled = is_full(error) || io_error(error).is_some_and(settled);
            (generic && !settled, generic && !settled)
        }
    }
}

/// Whether the file system says the same every time.
fn settled(io: &io::Error) -> bool {
    use io::ErrorKind as K;
    let names = matches!(io.kind(), K::NotADirectory | K::IsADirectory | K::InvalidFilename);
    names || denied(io).is_some() || matches!(io.kind(), K::InvalidInput | K::Unsupported)
}

/// Why the file system does not allow it.
fn denied(io: &io::Error) -> Option<&'static str> {
    match io.kind() {
        io::ErrorKind::PermissionDenied => Some("the directory or file may not be used by this user"),
        io::ErrorKind::ReadOnlyFilesystem => Some("the directory is read only"),
        _ => None,
    }
}

impl From<object_store::Error> for Error {
    fn from(e: object_store::Error) -> Self {
        use object_store::Error as S;
        if is_full(&e) {
            return Self::new(ErrorKind::StorageFull, "no room left in the store")
                .guidance("free some room and run the same command again: it continues where it stopped")
                .because(e);
        }
        if let Some(fault) = Fault::find(&e) {
            return fault.clone().into_error();
        }
        if let Some(why) = io_error(&e).and_then(denied) {
            return Self::new(ErrorKind::Denied, why)
                .guidance("check its owner and permissions, and how its file system is mounted")
                .because(e);
        }
        let error = match &e {
            S::NotFound { path, .. } => Self::new(ErrorKind::NotFound, "object not found").with("object", path),
            S::AlreadyExists { path, .. } => {
                Self::new(ErrorKind::AlreadyExists, "object exists already").with("object", path)
            }
            S::Precondition { path, .. } | S::NotModified { path, .. } => {
                Self::new(ErrorKind::Storage, "the object is not the one that was expected").with("object", path)
            }
            S::PermissionDenied { path, .. } => {
                Self::new(ErrorKind::Denied, "the store does not allow this").with("object", path)
            }
            S::Unauthenticated { .. } => Self::new(ErrorKind::Denied, "the store does not accept the credentials"),
            S::NotSupported { .. } | S::NotImplemented { .. } => {
                Self::new(ErrorKind::Configuration, "the store cannot do this")
                    .guidance("use a store that can write conditionally: `regrow doctor` tries each operation")
            }
            S::InvalidPath { .. } => Self::new(ErrorKind::Storage, "this is not the name of an object"),
            S::UnknownConfigurationKey { .. } => Self::new(ErrorKind::Configuration, "the store has no such setting"),
            S::JoinError { .. } => Self::new(ErrorKind::Unexpected, "a worker panicked"),
            _ => Self::new(ErrorKind::Storage, "an operation on the object store failed").transient(),
        };
        error.because(e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(kind: io::ErrorKind) -> Error {
        let source = Box::new(io::Error::from(kind));
        Error::from(object_store::Error::Generic { store: "local", source })
    }

    #[test]
    fn what_a_directory_does_not_allow_is_denied_and_not_tried_again() {
        for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem] {
            let e = local(kind);
            assert_eq!((e.kind(), e.retryable()), (ErrorKind::Denied, false));
        }
        assert!(local(io::ErrorKind::TimedOut).retryable());
        assert_eq!(local(io::ErrorKind::StorageFull).kind(), ErrorKind::StorageFull);
    }

    #[test]
    fn what_is_settled_is_not_transient() {
        let source = || Box::new(io::Error::from(io::ErrorKind::Other));
        for (e, kind) in [
            (object_store::Error::NotFound { path: "x".into(), source: source() }, ErrorKind::NotFound),
            (object_store::Error::AlreadyExists { path: "x".into(), source: source() }, ErrorKind::AlreadyExists),
            (object_store::Error::PermissionDenied { path: "x".into(), source: source() }, ErrorKind::Denied),
            (object_store::Error::NotSupported { source: source() }, ErrorKind::Configuration),
        ] {
            assert_eq!(transient(&e), (false, false));
            let e = Error::from(e);
            assert_eq!((e.kind(), e.retryable()), (kind, false));
        }
    }
}
