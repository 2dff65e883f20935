//! Every operation of a store, with what goes wrong.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    RenameTargetMode, Result,
};

use super::upload::FaultyUpload;
use super::{Fault, Faulty, Operation, failure};

/// Whether the operation is done, and whether the caller hears of it.
pub(super) fn effect(fault: Option<Fault>) -> (bool, Option<Fault>) {
    match fault {
        None | Some(Fault::Short(..) | Fault::Flipped(_)) => (true, None),
        Some(f @ (Fault::After | Fault::TimeoutAfter | Fault::Killed(true))) => (true, Some(f)),
        Some(f) => (false, Some(f)),
    }
}

impl Faulty {
    /// Does something once, with whatever goes wrong.
    async fn once<T>(&self, operation: Operation, path: &Path, work: impl Future<Output = Result<T>>) -> Result<T> {
        let (done, told) = effect(self.draw(operation, path));
        // An operation that fails by itself tells more than a made-up failure.
        let value = if done { Some(work.await?) } else { None };
        match (value, told) {
            (Some(value), None) => Ok(value),
            (_, told) => Err(self.error(told.unwrap_or(Fault::Before)).await),
        }
    }

    pub(super) fn wrote(&self, path: &Path) {
        let mut state = self.state();
        state.deleted.remove(path);
        if state.faults.lag > 0 {
            let now = state.operations;
            state.written.insert(path.clone(), now);
        }
    }

    async fn remove(&self, path: Path) -> Result<Path> {
        let lagging = self.state().faults.lag > 0;
        let before = if lagging { self.inner.head(&path).await.ok() } else { None };
        let work = async {
            self.inner.delete(&path).await?;
            if let Some(meta) = before {
                let mut state = self.state();
                state.written.remove(&path);
                let now = state.operations;
                state.deleted.insert(path.clone(), (now, meta));
            }
            Ok(())
        };
        self.once(Operation::Delete, &path, work).await.map(|()| path)
    }

    fn list_from(&self, prefix: Option<&Path>, offset: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let at = prefix.cloned().unwrap_or_default();
        let fault = self.draw(Operation::List, &at);
        let (done, told) = effect(fault);
        if !done || told.is_some() {
            let (this, told) = (self.clone(), told.unwrap_or(Fault::Before));
            return stream::once(async move { Err(this.error(told).await) }).boxed();
        }
        let (hidden, shown) = self.lagging(&at);
        let listed = match offset {
            Some(offset) => self.inner.list_with_offset(prefix, offset),
            None => self.inner.list(prefix),
        };
        let after = offset.cloned();
        let ghosts = shown.into_iter().filter(move |m| after.as_ref().is_none_or(|o| m.location > *o)).map(Ok);
        let listed =
            listed.try_filter(move |m| std::future::ready(!hidden.contains(&m.location))).chain(stream::iter(ghosts));
        match fault {
            // A listing that stops says so: otherwise nobody could tell.
            Some(Fault::Short(share, _)) => listed
                .take(usize::from(share % 8))
                .chain(stream::once(async move { Err(failure(Fault::Before)) }))
                .boxed(),
            _ => listed.boxed(),
        }
    }

    /// What a listing below a prefix does not show yet, and what it still shows.
    fn lagging(&self, prefix: &Path) -> (HashSet<Path>, Vec<ObjectMeta>) {
        let state = self.state();
        let hidden = state.written.keys().cloned().collect();
        let shown = state.deleted.values().filter(|(_, m)| m.location.prefix_matches(prefix)).map(|(_, m)| m.clone());
        (hidden, shown.collect())
    }
}

/// The body with what goes wrong with it.
async fn spoil(result: GetResult, fault: Fault) -> Result<GetResult> {
    let (meta, range, attributes) = (result.meta.clone(), result.range.clone(), result.attributes.clone());
    let bytes = result.bytes().await?;
    let body = match fault {
        Fault::Flipped(at) if !bytes.is_empty() => {
            let mut wrong = BytesMut::from(&bytes[..]);
            let at = (at % (bytes.len() as u64 * 8)) as usize;
            wrong[at / 8] ^= 1 << (at % 8);
            stream::iter(vec![Ok(wrong.freeze())]).boxed()
        }
        Fault::Short(share, told) => {
            let kept = bytes.slice(..bytes.len() * usize::from(share) / 65536);
            let mut parts: Vec<Result<Bytes>> = vec![Ok(kept)];
            if told {
                parts.push(Err(failure(fault)));
            }
            stream::iter(parts).boxed()
        }
        _ => stream::iter(vec![Ok(bytes)]).boxed(),
    };
    Ok(GetResult { payload: GetResultPayload::Stream(body), meta, range, attributes })
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let work = async {
            let done = self.inner.put_opts(location, payload, options).await?;
            self.wrote(location);
            Ok(done)
        };
        self.once(Operation::Put, location, work).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.once(Operation::Put, location, self.inner.put_multipart_opts(location, options)).await?;
        Ok(Box::new(FaultyUpload::new(self.clone(), location.clone(), inner)))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let head = options.head;
        let fault = self.draw(Operation::Get, location);
        let (done, told) = effect(fault);
        if !done || told.is_some() {
            return Err(self.error(told.unwrap_or(Fault::Before)).await);
        }
        let result = self.inner.get_opts(location, options).await?;
        match fault {
            Some(fault) if !head => spoil(result, fault).await,
            _ => Ok(result),
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let mut parts = Vec::with_capacity(ranges.len());
        for range in ranges {
            let options = GetOptions { range: Some(range.clone().into()), ..GetOptions::default() };
            parts.push(self.get_opts(location, options).await?.bytes().await?);
        }
        Ok(parts)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        locations
            .then(move |path| {
                let this = this.clone();
                async move { this.remove(path?).await }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list_from(prefix, None)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list_from(prefix, Some(offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let at = prefix.cloned().unwrap_or_default();
        let mut listed = self.once(Operation::List, &at, self.inner.list_with_delimiter(prefix)).await?;
        let (hidden, shown) = self.lagging(&at);
        listed.objects.retain(|m| !hidden.contains(&m.location));
        // A folder is what objects below it make: one whose objects are all hidden is hidden, too.
        let mut folders = Vec::with_capacity(listed.common_prefixes.len());
        for folder in listed.common_prefixes {
            let inside: Vec<ObjectMeta> = self.inner.list(Some(&folder)).try_collect().await?;
            if inside.iter().any(|m| !hidden.contains(&m.location)) {
                folders.push(folder);
            }
        }
        for meta in shown {
            let below: Vec<_> = meta.location.prefix_match(&at).into_iter().flatten().collect();
            match below.as_slice() {
                [] | [_] => listed.objects.push(meta),
                [first, ..] => {
                    let folder = at.clone().join(first.as_ref());
                    if !folders.contains(&folder) {
                        folders.push(folder);
                    }
                }
            }
        }
        listed.common_prefixes = folders;
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let work = async {
            self.inner.copy_opts(from, to, options).await?;
            self.wrote(to);
            Ok(())
        };
        self.once(Operation::Copy, from, work).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let mode = match options.target_mode {
            RenameTargetMode::Overwrite => CopyMode::Overwrite,
            RenameTargetMode::Create => CopyMode::Create,
        };
        self.copy_opts(from, to, CopyOptions { mode, extensions: options.extensions }).await?;
        self.remove(from.clone()).await.map(drop)
    }
}

/// For uploads in parts.
impl Faulty {
    pub(super) async fn part(&self, location: &Path, work: impl Future<Output = Result<()>>) -> Result<()> {
        self.once(Operation::Put, location, work).await
    }

    pub(super) async fn finish<T>(&self, location: &Path, work: impl Future<Output = Result<T>>) -> Result<T> {
        let work = async {
            let done = work.await?;
            self.wrote(location);
            Ok(done)
        };
        self.once(Operation::Put, location, work).await
    }

    /// The same store with all that was made to go wrong with it, as the repository takes it.
    pub fn shared(&self) -> Arc<dyn ObjectStore> {
        Arc::new(self.clone())
    }
}

/// Whether an error is one that was made here.
pub fn is_injected(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(e) = next {
        if matches!(e.downcast_ref::<Error>(), Some(Error::Generic { store: "Faulty", .. })) {
            return true;
        }
        next = e.source();
    }
    false
}
