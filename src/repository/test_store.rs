//! A store for tests: in memory, with a clock of its own, failures and refusals on demand, and random yields.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What a test does to the store; clones of the `Arc` share it.
#[derive(Debug)]
pub(crate) struct Control {
    /// The store's clock, in microseconds since 1970; every write takes one microsecond.
    pub(crate) clock: AtomicI64,
    /// Deletions are refused.
    pub(crate) no_delete: AtomicBool,
    /// Writes and deletions are refused.
    pub(crate) read_only: AtomicBool,
    /// Operations that still succeed; all later ones fail, as after a kill.
    pub(crate) operations_left: AtomicI64,
    /// Operations so far.
    pub(crate) operations: AtomicU64,
    /// Seed of random yields before every operation; 0 for none.
    pub(crate) yields: AtomicU64,
    written: Mutex<HashMap<Path, i64>>,
}

/// The store; keep the control and hand the store to a repository.
#[derive(Debug, Clone)]
pub(crate) struct TestStore {
    inner: Arc<InMemory>,
    pub(crate) control: Arc<Control>,
}

impl TestStore {
    /// An empty store whose clock stands at `now`.
    pub(crate) fn new(now: jiff::Timestamp) -> Self {
        let control = Control {
            clock: AtomicI64::new(now.as_microsecond()),
            no_delete: AtomicBool::new(false),
            read_only: AtomicBool::new(false),
            operations_left: AtomicI64::new(i64::MAX),
            operations: AtomicU64::new(0),
            yields: AtomicU64::new(0),
            written: Mutex::default(),
        };
        Self { inner: Arc::new(InMemory::new()), control: Arc::new(control) }
    }

    /// Moves the store's clock on.
    pub(crate) fn pass(&self, seconds: i64) {
        self.control.clock.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }

    /// Names of all objects, sorted.
    pub(crate) async fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.inner.list(None).map(|m| m.unwrap().location.to_string()).collect().await;
        names.sort();
        names
    }

    /// Replaces an object's bytes behind everyone's back; its time stays.
    pub(crate) async fn damage(&self, name: &str, bytes: &'static [u8]) {
        self.inner.put(&Path::from(name), PutPayload::from_static(bytes)).await.unwrap();
    }

    /// Removes an object behind everyone's back.
    pub(crate) async fn lose(&self, name: &str) {
        self.inner.delete(&Path::from(name)).await.unwrap();
    }

    async fn step(&self, change: Option<(&Path, bool)>) -> Result<()> {
        let mut random = self.control.yields.load(Ordering::SeqCst);
        if random != 0 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            self.control.yields.store(random, Ordering::SeqCst);
            for _ in 0..random % 7 {
                tokio::task::yield_now().await;
            }
        }
        self.control.operations.fetch_add(1, Ordering::SeqCst);
        if self.control.operations_left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            self.control.operations_left.store(0, Ordering::SeqCst);
            return Err(Error::Generic { store: "test", source: "the connection is gone".into() });
        }
        if let Some((path, delete)) = change {
            let on = |flag: &AtomicBool| flag.load(Ordering::SeqCst);
            if on(&self.control.read_only) || (delete && on(&self.control.no_delete)) {
                return Err(Error::PermissionDenied { path: path.to_string(), source: "not allowed".into() });
            }
        }
        Ok(())
    }
}

impl Control {
    fn wrote(&self, location: &Path) {
        let now = self.clock.fetch_add(1, Ordering::SeqCst);
        self.written.lock().unwrap().insert(location.clone(), now);
    }

    fn dated(&self, mut meta: ObjectMeta) -> ObjectMeta {
        let written = self.written.lock().unwrap();
        if let Some(time) = written.get(&meta.location).and_then(|t| jiff::Timestamp::from_microsecond(*t).ok()) {
            let time = std::time::SystemTime::from(time);
            meta.last_modified = time.into();
        }
        meta
    }
}

impl fmt::Display for TestStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("test")
    }
}

#[async_trait]
impl ObjectStore for TestStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.step(Some((location, false))).await?;
        let result = self.inner.put_opts(location, payload, options).await?;
        self.control.wrote(location);
        Ok(result)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.step(Some((location, false))).await?;
        self.control.wrote(location);
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.step(None).await?;
        let mut result = self.inner.get_opts(location, options).await?;
        result.meta = self.control.dated(result.meta);
        Ok(result)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        locations
            .then(move |location| {
                let this = this.clone();
                async move {
                    let location = location?;
                    this.step(Some((&location, true))).await?;
                    this.inner.delete(&location).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        futures::stream::once(async move {
            this.step(None).await?;
            let control = this.control.clone();
            Ok::<_, Error>(this.inner.list(prefix.as_ref()).map(move |meta| Ok(control.dated(meta?))))
        })
        .map(|listed| match listed {
            Ok(stream) => stream.boxed(),
            Err(e) => futures::stream::once(async move { Err(e) }).boxed(),
        })
        .flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.step(None).await?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.step(Some((to, false))).await?;
        self.inner.copy_opts(from, to, options).await?;
        self.control.wrote(to);
        Ok(())
    }
}
