//! A store that can only be read, with a temporary directory above it that takes what is written.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// Reads come from above, else from below; writes and deletions stay above and are gone with it.
#[derive(Debug, Clone)]
pub(super) struct Overlay {
    below: Arc<dyn ObjectStore>,
    above: Arc<LocalFileSystem>,
    /// Objects that were deleted: what is below is not seen any more.
    hidden: Arc<Mutex<HashSet<Path>>>,
    /// Removed when the last clone is dropped.
    _directory: Arc<tempfile::TempDir>,
}

impl Overlay {
    pub(super) fn new(below: Arc<dyn ObjectStore>) -> crate::Result<Self> {
        let directory = tempfile::Builder::new().prefix("regrow-overlay-").tempdir()?;
        let above = Arc::new(LocalFileSystem::new_with_prefix(directory.path())?);
        Ok(Self { below, above, hidden: Arc::default(), _directory: Arc::new(directory) })
    }

    fn is_hidden(&self, location: &Path) -> bool {
        self.hidden.lock().unwrap_or_else(PoisonError::into_inner).contains(location)
    }

    fn hide(&self, location: &Path) {
        self.hidden.lock().unwrap_or_else(PoisonError::into_inner).insert(location.clone());
    }
}

impl fmt::Display for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, read-only", self.below)
    }
}

#[async_trait]
impl ObjectStore for Overlay {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if options.mode == PutMode::Create && !self.is_hidden(location) {
            match self.below.head(location).await {
                Err(Error::NotFound { .. }) => {}
                Ok(_) => return Err(Error::AlreadyExists { path: location.to_string(), source: "it is below".into() }),
                Err(e) => return Err(e),
            }
        }
        self.above.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.above.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.above.get_opts(location, options.clone()).await {
            Err(Error::NotFound { .. }) if !self.is_hidden(location) => self.below.get_opts(location, options).await,
            other => other,
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let delete = move |location: Result<Path>| {
            let this = this.clone();
            async move {
                let location = location?;
                this.hide(&location);
                match this.above.delete(&location).await {
                    Ok(()) | Err(Error::NotFound { .. }) => Ok(location),
                    Err(e) => Err(e),
                }
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        let all = async move {
            let above: Vec<ObjectMeta> = this.above.list(prefix.as_ref()).try_collect().await?;
            let known: HashSet<Path> = above.iter().map(|meta| meta.location.clone()).collect();
            let below = this.below.list(prefix.as_ref()).try_filter(move |meta| {
                let seen = !known.contains(&meta.location) && !this.is_hidden(&meta.location);
                futures::future::ready(seen)
            });
            Ok::<_, Error>(futures::stream::iter(above).map(Ok).chain(below))
        };
        futures::stream::once(all).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut above = self.above.list_with_delimiter(prefix).await?;
        let below = self.below.list_with_delimiter(prefix).await?;
        let known: HashSet<Path> = above.objects.iter().map(|meta| meta.location.clone()).collect();
        let seen = |meta: &ObjectMeta| !known.contains(&meta.location) && !self.is_hidden(&meta.location);
        above.objects.extend(below.objects.into_iter().filter(seen));
        above.common_prefixes.extend(below.common_prefixes);
        above.common_prefixes.sort();
        above.common_prefixes.dedup();
        Ok(above)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let bytes = self.get_opts(from, GetOptions::default()).await?.bytes().await?;
        let mode = match options.mode {
            object_store::CopyMode::Create => PutMode::Create,
            object_store::CopyMode::Overwrite => PutMode::Overwrite,
        };
        self.put_opts(to, bytes.into(), PutOptions { mode, ..Default::default() }).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use bytes::Bytes;

    use super::super::test_store::TestStore;
    use crate::error::ErrorKind;
    use crate::repository::Repository;
    use futures::TryStreamExt;
    use std::sync::Arc;

    #[tokio::test]
    async fn what_is_written_is_seen_and_what_is_below_stays() {
        let store = TestStore::new("2031-05-05T05:05:05Z".parse().unwrap());
        let base = Repository::over(Arc::new(store.clone()), "test");
        for name in ["vectors/m/r/a", "vectors/m/r/b"] {
            base.put_new(name, Bytes::from_static(b"below")).await.unwrap();
        }
        store.control.read_only.store(true, SeqCst);
        let over = base.clone().over_scratch().unwrap();
        let e = over.put_new("vectors/m/r/a", Bytes::from_static(b"x")).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::AlreadyExists);
        over.put_new("vectors/n/r/c", Bytes::from_static(b"above")).await.unwrap();
        over.delete("vectors/m/r/b").await.unwrap();
        assert_eq!(over.get("vectors/m/r/b").await.unwrap_err().kind(), ErrorKind::NotFound);
        let names = async |prefix: &str| {
            let mut names: Vec<String> = over.list(prefix).map_ok(|(name, ..)| name).try_collect().await.unwrap();
            names.sort();
            names
        };
        assert_eq!(names("vectors").await, ["vectors/m/r/a", "vectors/n/r/c"]);
        over.put_new("vectors/m/r/b", Bytes::from_static(b"anew")).await.unwrap();
        assert_eq!(over.get("vectors/m/r/b").await.unwrap(), Bytes::from_static(b"anew"));
        assert_eq!(names("").await.len(), 3);
        assert_eq!(over.folders("vectors").await.unwrap(), ["m", "n"]);
        assert_eq!(store.names().await, ["vectors/m/r/a", "vectors/m/r/b"]);
        assert_eq!(base.get("vectors/m/r/b").await.unwrap(), Bytes::from_static(b"below"));
    }
}
