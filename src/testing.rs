//! What unit tests share.

use std::path::PathBuf;
use std::sync::OnceLock;

use crate::event::Events;
use crate::model::{FetchOptions, ModelCard, ModelStore};

/// A directory with the files of all-MiniLM-L6-v2: the one that `REGROW_TEST_MODEL` names, else the user's model
/// cache, fetched once as a user would. `None`, after a visible line, when the model cannot be had; with `CI` set
/// that is a failure.
pub(crate) fn model() -> Option<PathBuf> {
    static MODEL: OnceLock<Option<PathBuf>> = OnceLock::new();
    MODEL.get_or_init(find).clone()
}

fn find() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(directory) = variable("REGROW_TEST_MODEL") {
        return Some(directory);
    }
    let cache = variable("REGROW_CACHE").unwrap_or_else(|| {
        let base = variable("XDG_CACHE_HOME")
            .or_else(|| Some(variable("HOME").or_else(|| variable("USERPROFILE"))?.join(".cache")))
            .unwrap_or_else(std::env::temp_dir);
        base.join("regrow")
    });
    // A thread of its own: the caller may be inside a runtime.
    let fetched = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = ModelStore::new(cache, FetchOptions::default());
        runtime.block_on(store.get(&ModelCard::find("all-MiniLM-L6-v2").unwrap(), None, &Events::silent()))
    });
    match fetched.join().unwrap() {
        Ok(files) => Some(files.directory),
        Err(e) => {
            let why = format!("{e}: {}", e.causes().join(": "));
            assert!(std::env::var_os("CI").is_none(), "no model: {why}");
            eprintln!("skipped: no model ({why}); set REGROW_TEST_MODEL to a directory with its files");
            None
        }
    }
}
