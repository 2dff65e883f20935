//! The one place where a parser of somebody else's may panic over bytes that are not right.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, ErrorKind, Result};

/// Parses bytes that are stored or come from outside; where the parser panics over them, they are what `kind` says:
/// damaged, or a bad document.
pub(crate) fn guarded<T>(kind: ErrorKind, parse: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(parse)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
        Err(Error::new(kind, "the file is malformed").because(format!("its parser gave up: {said}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_of_the_kind_and_says_why() {
        let list: Vec<u8> = Vec::new();
        let error = guarded(ErrorKind::Damaged, || Ok(list[1])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert!(error.causes()[0].contains("index out of bounds"), "{:?}", error.causes());
        assert_eq!(guarded(ErrorKind::Damaged, || Ok(1)).unwrap(), 1);
    }
}
