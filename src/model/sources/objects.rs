//! An object-store prefix.

use std::sync::Arc;

use object_store::ObjectStoreExt;

use super::unavailable;
use crate::error::{Error, ErrorKind, Result};
use crate::model::card::ModelCard;
use crate::model::staging::Staging;
use crate::model::store::FetchOptions;

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
    let (store, prefix) = object_store::parse_url_opts(&parsed, options.store_options.iter().map(|(k, v)| (k, v)))
        .map_err(|e| wrong(e.to_string()))?;
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
