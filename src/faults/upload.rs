//! An upload in parts whose parts and whose end may fail.

use std::fmt;

use async_trait::async_trait;
use futures::FutureExt;
use object_store::path::Path;
use object_store::{MultipartUpload, PutPayload, PutResult, Result, UploadPart};

use super::Faulty;

pub(super) struct FaultyUpload {
    store: Faulty,
    location: Path,
    inner: Box<dyn MultipartUpload>,
}

impl FaultyUpload {
    pub(super) fn new(store: Faulty, location: Path, inner: Box<dyn MultipartUpload>) -> Self {
        Self { store, location, inner }
    }
}

impl fmt::Debug for FaultyUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyUpload").field("location", &self.location).finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (store, location) = (self.store.clone(), self.location.clone());
        let part = self.inner.put_part(data);
        async move { store.part(&location, part).await }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (store, location) = (self.store.clone(), self.location.clone());
        store.finish(&location, self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
