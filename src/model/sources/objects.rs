//! An object-store prefix.

use std::path::Path;
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};

use super::unavailable;
use crate::error::{Error, ErrorKind, Result};
use crate::model::card::ModelCard;
use crate::model::staging::Staging;
use crate::model::store::FetchOptions;
use crate::store::{self, Opened};

/// Bytes of one request: short enough for any store's time limit, and all that is held in memory.
const RANGE: u64 = 8 << 20;

pub(super) async fn fetch(url: &str, card: &ModelCard, staging: &Arc<Staging>, options: &FetchOptions) -> Result<()> {
    let wrong = |reason: String| {
        Error::new(ErrorKind::Configuration, "this is not an object-store URL")
            .with("url", url)
            .with("reason", reason)
            .guidance("write a directory, or a URL such as s3://bucket/prefix")
    };
    let parsed = url::Url::parse(url).map_err(|e| wrong(e.to_string()))?;
    if options.offline && !matches!(parsed.scheme(), "file" | "memory") {
        return Err(unavailable("not tried: offline"));
    }
    let (store, prefix) = match store::open(url, Path::new(""), &options.store_options)? {
        Opened::Remote(remote) => (remote.store, remote.prefix),
        Opened::Directory(directory) => {
            let store = LocalFileSystem::new_with_prefix(directory)
                .map_err(|e| unavailable("the directory could not be read").because(e))?;
            (Arc::new(store) as Arc<dyn ObjectStore>, ObjectPath::default())
        }
    };
    for file in &card.files {
        let path = file.name.split('/').fold(prefix.clone(), |path, part| path.join(part));
        let failed =
            |e: object_store::Error| unavailable("the object could not be read").with("object", &path).because(e);
        let size = store.head(&path).await.map_err(failed)?.size;
        let mut to = staging.begin(file)?;
        while to.bytes() < size {
            let range = to.bytes()..size.min(to.bytes() + RANGE);
            let bytes = store.get_range(&path, range).await.map_err(failed)?;
            if bytes.is_empty() {
                break;
            }
            to.write(&bytes)?;
        }
        to.finish()?;
    }
    Ok(())
}
