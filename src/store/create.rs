//! Writing an object that must not exist yet.
//!
//! | store | up to 32 MiB | larger |
//! | --- | --- | --- |
//! | directory | a temporary file, linked under its name: atomic | the same |
//! | S3 | one request with `If-None-Match: *`: atomic | parts; the last request carries `If-None-Match: *` |
//! | Azure | one request with `If-None-Match: *`: atomic | the same (a store's limit is 5,000 MiB) |
//! | GCS | one request with `x-goog-if-generation-match: 0`: atomic | the same (5 TiB) |
//!
//! Azure and GCS cannot create conditionally from parts. A store that speaks S3 and ignores the condition of the last
//! request of an upload in parts is only looked at before: two writers of the same name at the same moment could then
//! replace one another's object.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::StoreKind;
use super::error::transient;
use super::http::Doubt;

/// Larger objects are written in parts.
pub(crate) const LARGE: usize = 32 << 20;
/// Size of a part: 10,000 of them may make up an object.
const PART: usize = 16 << 20;
/// Parts under way at once.
const PARTS_AHEAD: usize = 4;
/// Tries, beyond those of the client: it does not repeat a request by itself when an answer to it went missing.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);

/// Creates the object. `AlreadyExists` when it is there, unless an earlier try of this very call may have made it and it
/// holds exactly these bytes.
pub(crate) async fn create(
    store: &dyn ObjectStore,
    kind: StoreKind,
    location: &Path,
    bytes: &Bytes,
) -> object_store::Result<()> {
    let doubt = Doubt::default();
    let mut maybe_ours = false;
    for n in 1.. {
        let done = if kind == StoreKind::S3 && bytes.len() > LARGE {
            in_parts(store, location, bytes, maybe_ours).await
        } else {
            let mut options = PutOptions { mode: PutMode::Create, ..Default::default() };
            options.extensions.insert(doubt.clone());
            store.put_opts(location, bytes.clone().into(), options).await.map(drop)
        };
        let error = match done {
            Ok(()) => return Ok(()),
            Err(e) => e,
        };
        let (again, in_doubt) = transient(&error);
        maybe_ours |= in_doubt || doubt.there_is();
        let last = n == TRIES;
        if maybe_ours && (last || !again) && holds(store, location, bytes).await.unwrap_or(false) {
            return Ok(());
        }
        if last || !again {
            return Err(error);
        }
        tokio::time::sleep(PAUSE * n).await;
    }
    unreachable!("the last try returns")
}

/// Whether the object is there and holds these bytes.
async fn holds(store: &dyn ObjectStore, location: &Path, bytes: &Bytes) -> object_store::Result<bool> {
    if store.head(location).await?.size != bytes.len() as u64 {
        return Ok(false);
    }
    Ok(store.get(location).await?.bytes().await? == *bytes)
}

/// An upload in parts. The request that ends it is repeated by the client, so one that finds an object there may have
/// found its own.
async fn in_parts(store: &dyn ObjectStore, location: &Path, bytes: &Bytes, again: bool) -> object_store::Result<()> {
    let there =
        |source: Box<dyn std::error::Error + Send + Sync>| Error::AlreadyExists { path: location.to_string(), source };
    match store.head(location).await {
        Ok(_) if !again => return Err(there("found before the upload".into())),
        Ok(_) | Err(Error::NotFound { .. }) => {}
        Err(e) => return Err(e),
    }
    let mut upload = store.put_multipart(location).await?;
    let parts: Vec<_> = (0..bytes.len())
        .step_by(PART)
        .map(|at| upload.put_part(PutPayload::from(bytes.slice(at..bytes.len().min(at + PART)))))
        .collect();
    let sent = stream::iter(parts).buffer_unordered(PARTS_AHEAD).try_collect::<Vec<()>>().await;
    if let Err(e) = sent {
        // What stays behind is the store's to remove: a rule for unfinished uploads.
        drop(upload.abort().await);
        return Err(e);
    }
    match upload.complete().await {
        Ok(_) => Ok(()),
        Err(e) => {
            drop(upload.abort().await);
            match e {
                // The upload is gone: a repeated request finds its own work done.
                Error::Precondition { .. } | Error::AlreadyExists { .. } | Error::NotFound { .. } => {
                    if holds(store, location, bytes).await.unwrap_or(false) {
                        return Ok(());
                    }
                    Err(there(Box::new(e)))
                }
                e => Err(e),
            }
        }
    }
}
