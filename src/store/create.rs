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

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::sync::Mutex;

    use async_trait::async_trait;
    use futures::stream::BoxStream;
    use object_store::memory::InMemory;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions, PutResult,
        Result,
    };

    use super::*;
    use crate::error::ErrorKind;

    /// What happens to a write.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Fate {
        /// It fails before it is done.
        Lost,
        /// It is done, and the answer is lost.
        AnswerLost,
        /// Somebody else writes the same name first, the answer is lost.
        Overtaken,
        Denied,
    }

    #[derive(Debug)]
    struct Unreliable {
        inner: InMemory,
        fates: Mutex<Vec<Fate>>,
    }

    impl fmt::Display for Unreliable {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("unreliable")
        }
    }

    fn broken() -> Error {
        Error::Generic { store: "unreliable", source: "the connection broke".into() }
    }

    #[async_trait]
    impl ObjectStore for Unreliable {
        async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
            let fate = self.fates.lock().unwrap().pop();
            match fate {
                None => self.inner.put_opts(location, payload, opts).await,
                Some(Fate::Lost) => Err(broken()),
                Some(Fate::AnswerLost) => self.inner.put_opts(location, payload, opts).await.and(Err(broken())),
                Some(Fate::Overtaken) => self.inner.put_opts(location, "theirs".into(), opts).await.and(Err(broken())),
                Some(Fate::Denied) => Err(Error::PermissionDenied { path: location.to_string(), source: "no".into() }),
            }
        }

        async fn put_multipart_opts(
            &self,
            at: &Path,
            options: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            self.inner.put_multipart_opts(at, options).await
        }

        async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
            self.inner.get_opts(location, options).await
        }

        fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
            self.inner.delete_stream(locations)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.inner.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.inner.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.inner.copy_opts(from, to, options).await
        }
    }

    /// The error's kind, and what the object holds afterwards; fates of the first, second ... try.
    async fn written(fates: &[Fate]) -> (Option<ErrorKind>, Option<Bytes>) {
        let store = Unreliable { inner: InMemory::new(), fates: Mutex::new(fates.iter().rev().copied().collect()) };
        let location = Path::from("x");
        let done = create(&store, StoreKind::Memory, &location, &Bytes::from_static(b"ours")).await;
        let holds = match store.inner.get(&location).await {
            Ok(got) => Some(got.bytes().await.unwrap()),
            Err(_) => None,
        };
        (done.err().map(|e| crate::Error::from(e).kind()), holds)
    }

    #[tokio::test]
    async fn what_an_interrupted_try_left_counts_as_written() {
        use Fate as F;
        let ours = Some(Bytes::from_static(b"ours"));
        let theirs = Some(Bytes::from_static(b"theirs"));
        let there = Some(ErrorKind::AlreadyExists);
        for (fates, outcome) in [
            (&[][..], (None, ours.clone())),
            (&[F::Lost], (None, ours.clone())),
            (&[F::AnswerLost], (None, ours.clone())),
            (&[F::Lost, F::AnswerLost], (None, ours.clone())),
            (&[F::Lost, F::Lost, F::AnswerLost], (None, ours)),
            (&[F::Overtaken], (there, theirs.clone())),
            (&[F::Lost, F::Overtaken], (there, theirs)),
            (&[F::Lost, F::Lost, F::Lost], (Some(ErrorKind::Storage), None)),
            (&[F::Denied], (Some(ErrorKind::Denied), None)),
        ] {
            assert_eq!(written(fates).await, outcome, "{fates:?}");
        }
    }

    #[tokio::test]
    async fn an_object_with_the_same_bytes_is_somebody_elses_without_a_doubt() {
        let store = InMemory::new();
        let (location, bytes) = (Path::from("x"), Bytes::from_static(b"alike"));
        create(&store, StoreKind::Memory, &location, &bytes).await.unwrap();
        let e = create(&store, StoreKind::Memory, &location, &bytes).await.unwrap_err();
        assert!(matches!(e, Error::AlreadyExists { .. }));
    }

    #[tokio::test]
    async fn a_large_object_is_written_in_parts_and_never_replaced() {
        let store = InMemory::new();
        let location = Path::from("x");
        let large = Bytes::from((0..LARGE + 5).map(|i| (i % 251) as u8).collect::<Vec<_>>());
        create(&store, StoreKind::S3, &location, &large).await.unwrap();
        assert_eq!(store.get(&location).await.unwrap().bytes().await.unwrap(), large);
        let e = create(&store, StoreKind::S3, &location, &Bytes::from(vec![0; LARGE + 1])).await.unwrap_err();
        assert!(matches!(e, Error::AlreadyExists { .. }));
        assert_eq!(store.get(&location).await.unwrap().bytes().await.unwrap(), large);
    }
}
