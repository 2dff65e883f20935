//! A store that tries again, below the repository.
//!
//! The clients of object stores repeat requests by themselves, but not all: a write with a condition whose answer went
//! missing, a body that breaks off for the tenth time, a listing that breaks off in the middle, a network share. This
//! wrapper makes every operation of any store one that either succeeds, fails for good, or fails after a bounded number
//! of tries.
//!
//! - Only what may go better the next time is tried again: never "not found", "exists already", "not allowed", "full".
//! - A write that must create, tried again after an error that does not tell whether it was done, and told that the
//!   object exists, compares: the same bytes are its own and count as written.
//! - A deletion tried again that finds nothing has done its work.
//! - A body that ends early, with or without an error, is continued where it stopped; the etag must be the same.
//! - A listing that breaks off is continued after the last name, where it came in order; one that has not begun begins
//!   again. Where neither is possible the error is passed on.
//!
//! Of an upload in parts only the beginning is tried again: a part sent twice would be two parts, and which of them counts
//! is known to the client alone.
//!
//! Wrong bytes are not this wrapper's: [`super::Repository::get_checked`] finds them by digest and reads once more.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    OBJECT_STORE_COALESCE_DEFAULT, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, RenameOptions, RenameTargetMode, Result, coalesce_ranges,
};

use crate::store;

/// How often and how fast an operation is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// Tries in all, at least 1.
    pub tries: u32,
    /// Pause after the first try; each further one is twice as long.
    pub first: Duration,
    /// Longest pause.
    pub longest: Duration,
}

impl Default for Retries {
    /// Five tries over about three seconds: the clients below have had their own already.
    fn default() -> Self {
        Self { tries: 5, first: Duration::from_millis(200), longest: Duration::from_secs(5) }
    }
}

/// Waits: a timer, or in tests nothing.
pub type Sleep = Arc<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>;

/// A store whose operations are tried again. Clones share it.
#[derive(Clone)]
pub struct Reliable {
    inner: Arc<dyn ObjectStore>,
    retries: Retries,
    sleep: Sleep,
}

impl fmt::Debug for Reliable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reliable").field("inner", &self.inner).field("retries", &self.retries).finish_non_exhaustive()
    }
}

impl fmt::Display for Reliable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reliable({})", self.inner)
    }
}

/// Whether the same operation may go better the next time. It may then also have been done already.
fn transient(error: &Error) -> bool {
    store::transient(error).0
}

impl Reliable {
    /// Tries again as `retries` says, and waits in between.
    pub fn new(inner: Arc<dyn ObjectStore>, retries: Retries) -> Self {
        Self::with_sleep(inner, retries, Arc::new(|pause| Box::pin(tokio::time::sleep(pause))))
    }

    /// As [`Reliable::new`], with another way to wait.
    pub fn with_sleep(inner: Arc<dyn ObjectStore>, retries: Retries, sleep: Sleep) -> Self {
        Self { inner, retries, sleep }
    }

    /// Waits before the next try; false when there is none.
    async fn again(&self, tried: u32) -> bool {
        if tried >= self.retries.tries {
            return false;
        }
        let pause = self.retries.first.saturating_mul(1 << (tried - 1).min(16)).min(self.retries.longest);
        (self.sleep)(pause).await;
        true
    }

    /// Tries until it succeeds, fails for good, or was tried often enough. `work` is told whether an earlier try may
    /// have been done.
    async fn tried<T, F: Future<Output = Result<T>>>(&self, mut work: impl FnMut(bool) -> F) -> Result<T> {
        let mut tried = 0;
        loop {
            tried += 1;
            match work(tried > 1).await {
                Err(e) if transient(&e) && self.again(tried).await => {}
                other => return other,
            }
        }
    }

    /// What a listing is after it broke off: continued, begun again, or at its end with the error.
    fn listing(&self, prefix: Option<&Path>, offset: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let state = Listing {
            this: self.clone(),
            prefix: prefix.cloned(),
            offset: offset.cloned(),
            stream: None,
            last: None,
            in_order: true,
            tried: 0,
        };
        stream::unfold(Some(state), |state| async move {
            let mut state = state?;
            match state.next().await {
                Some(Ok(meta)) => Some((Ok(meta), Some(state))),
                Some(Err(e)) => Some((Err(e), None)),
                None => None,
            }
        })
        .boxed()
    }

    /// Removes one object, after a first try that failed.
    async fn delete_again(&self, path: Path, error: Error) -> Result<Path> {
        let mut first = Some(error);
        self.tried(|_| {
            let (first, path) = (first.take(), path.clone());
            async move {
                match first {
                    Some(error) => Err(error),
                    None => match self.inner.delete(&path).await {
                        // The try before did it.
                        Err(Error::NotFound { .. }) => Ok(path),
                        other => other.map(|()| path),
                    },
                }
            }
        })
        .await
    }
}

struct Listing {
    this: Reliable,
    prefix: Option<Path>,
    offset: Option<Path>,
    stream: Option<BoxStream<'static, Result<ObjectMeta>>>,
    last: Option<Path>,
    in_order: bool,
    tried: u32,
}

impl Listing {
    async fn next(&mut self) -> Option<Result<ObjectMeta>> {
        loop {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                none => {
                    let inner = &self.this.inner;
                    let from = self.last.as_ref().or(self.offset.as_ref());
                    none.insert(match from {
                        Some(from) => inner.list_with_offset(self.prefix.as_ref(), from),
                        None => inner.list(self.prefix.as_ref()),
                    })
                }
            };
            match stream.next().await? {
                Ok(meta) => {
                    self.in_order &= self.last.as_ref().is_none_or(|last| *last < meta.location);
                    self.last = Some(meta.location.clone());
                    // It goes on: the next failure is another one.
                    self.tried = 0;
                    return Some(Ok(meta));
                }
                Err(e) => {
                    self.tried += 1;
                    if !transient(&e) || !self.in_order || !self.this.again(self.tried).await {
                        return Some(Err(e));
                    }
                    self.stream = None;
                }
            }
        }
    }
}

/// A body that is continued where it broke off.
struct Body {
    this: Reliable,
    location: Path,
    options: GetOptions,
    range: Range<u64>,
    stream: BoxStream<'static, Result<Bytes>>,
    tried: u32,
}

impl Body {
    async fn next(&mut self) -> Option<Result<Bytes>> {
        loop {
            let error = match self.stream.next().await {
                Some(Ok(bytes)) => {
                    self.range.start += bytes.len() as u64;
                    if !bytes.is_empty() {
                        self.tried = 0;
                    }
                    return Some(Ok(bytes));
                }
                None if self.range.start >= self.range.end => return None,
                None => Error::Generic { store: "Reliable", source: "the body ended early".into() },
                Some(Err(e)) => e,
            };
            self.tried += 1;
            if !transient(&error) || !self.this.again(self.tried).await {
                return Some(Err(error));
            }
            if self.range.start >= self.range.end {
                // Nothing is left to read: what broke was only the end.
                return None;
            }
            let options = GetOptions { range: Some(GetRange::Bounded(self.range.clone())), ..self.options.clone() };
            self.stream = match self.this.inner.get_opts(&self.location, options).await {
                Ok(result) => result.into_stream(),
                Err(e) => stream::iter(vec![Err(e)]).boxed(),
            };
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for Reliable {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let creates = options.mode == PutMode::Create;
        self.tried(|maybe_done| {
            let (payload, options) = (payload.clone(), options.clone());
            async move {
                match self.inner.put_opts(location, payload.clone(), options).await {
                    Err(error @ Error::AlreadyExists { .. }) if maybe_done && creates => {
                        let there = self.get_opts(location, GetOptions::default()).await?;
                        let found = PutResult { e_tag: there.meta.e_tag.clone(), version: there.meta.version.clone() };
                        let same = there.meta.size == payload.content_length() as u64
                            && there.bytes().await? == Bytes::from(payload);
                        if same { Ok(found) } else { Err(error) }
                    }
                    other => other,
                }
            }
        })
        .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.tried(|_| self.inner.put_multipart_opts(location, options.clone())).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let result = self.tried(|_| self.inner.get_opts(location, options.clone())).await?;
        if options.head {
            return Ok(result);
        }
        let GetResult { payload, meta, range, attributes } = result;
        let payload = match payload {
            GetResultPayload::Stream(stream) => {
                // The same object to its end, or an error.
                let options = GetOptions {
                    if_match: meta.e_tag.clone().or(options.if_match),
                    version: options.version.or_else(|| meta.version.clone()),
                    extensions: options.extensions,
                    ..GetOptions::default()
                };
                let body = Body {
                    this: self.clone(),
                    location: location.clone(),
                    options,
                    range: range.clone(),
                    stream,
                    tried: 0,
                };
                let stream = stream::unfold(Some(body), |body| async move {
                    let mut body = body?;
                    match body.next().await? {
                        Ok(bytes) => Some((Ok(bytes), Some(body))),
                        Err(e) => Some((Err(e), None)),
                    }
                });
                GetResultPayload::Stream(stream.boxed())
            }
            file => file,
        };
        Ok(GetResult { payload, meta, range, attributes })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        // Each body is continued for itself: one that is short without an error is noticed by nobody else.
        let read = |range: Range<u64>| async move {
            let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
            self.get_opts(location, options).await?.bytes().await
        };
        coalesce_ranges(ranges, read, OBJECT_STORE_COALESCE_DEFAULT).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        // As many as a store deletes in one request.
        locations
            .ready_chunks(1000)
            .then(move |chunk| {
                let this = this.clone();
                async move { stream::iter(this.delete_chunk(chunk).await) }
            })
            .flatten()
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, None)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, Some(offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.tried(|_| self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.tried(|maybe_done| {
            let options = options.clone();
            async move {
                match self.inner.copy_opts(from, to, options).await {
                    Err(error @ Error::AlreadyExists { .. }) if maybe_done => {
                        let (a, b) = (self.get(from).await?.bytes().await?, self.get(to).await?.bytes().await?);
                        if a == b { Ok(()) } else { Err(error) }
                    }
                    other => other,
                }
            }
        })
        .await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let mode = match options.target_mode {
            RenameTargetMode::Overwrite => CopyMode::Overwrite,
            RenameTargetMode::Create => CopyMode::Create,
        };
        self.copy_opts(from, to, CopyOptions { mode, extensions: options.extensions }).await?;
        self.delete(from).await
    }
}

impl Reliable {
    /// Removes several objects in one go, and those that failed one by one.
    async fn delete_chunk(&self, chunk: Vec<Result<Path>>) -> Vec<Result<Path>> {
        let (mut done, mut paths) = (Vec::with_capacity(chunk.len()), Vec::with_capacity(chunk.len()));
        for entry in chunk {
            match entry {
                Ok(path) => paths.push(path),
                Err(e) => done.push(Err(e)),
            }
        }
        let asked = stream::iter(paths.clone().into_iter().map(Ok)).boxed();
        let answers: Vec<_> = self.inner.delete_stream(asked).collect().await;
        let (mut errors, mut settled) = (Vec::new(), Vec::new());
        for answer in answers {
            match answer {
                Ok(path) => {
                    settled.push(path.clone());
                    done.push(Ok(path));
                }
                Err(e) if transient(&e) => errors.push(e),
                Err(Error::NotFound { path, source }) => {
                    settled.push(Path::from(path.as_str()));
                    done.push(Err(Error::NotFound { path, source }));
                }
                Err(e) => done.push(Err(e)),
            }
        }
        if errors.is_empty() {
            return done;
        }
        // Errors do not say which object they are about: all that are not known to be gone are tried again.
        let open = paths.into_iter().filter(|path| !settled.contains(path));
        let mut errors = errors.into_iter();
        for path in open {
            let error =
                errors.next().unwrap_or_else(|| Error::Generic { store: "Reliable", source: "no answer".into() });
            done.push(self.delete_again(path, error).await);
        }
        done
    }
}

#[cfg(test)]
#[path = "reliable_tests.rs"]
mod tests;
