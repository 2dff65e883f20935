//! Millions of objects: what only lists them holds none of them.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use regrow::Workspace;
use regrow::corpus::Corpus;
use regrow::embed::{Engine, Tokenizer};
use regrow::model::{FetchOptions, ModelStore};
use regrow::pipeline::Pipeline;
use regrow::repository::{Manifest, Repository};
use regrow::snapshot::{SnapshotOptions, snapshot};
use regrow::status::status;
use regrow::targets::memory::MemoryTarget;

use crate::fuzz::allocator::held;

/// A store with a few real objects and any number of others that exist only in listings.
#[derive(Debug)]
struct Generated {
    real: InMemory,
    folder: &'static str,
    ending: &'static str,
    count: u64,
}

impl fmt::Display for Generated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Generated({})", self.count)
    }
}

impl Generated {
    fn others(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let folder = Path::from(self.folder);
        if !prefix.is_none_or(|prefix| prefix.as_ref().is_empty() || *prefix == folder) {
            return stream::empty().boxed();
        }
        let (ending, modified) = (self.ending, epoch());
        stream::iter(0..self.count)
            .map(move |n| {
                Ok(ObjectMeta {
                    location: Path::from(format!("{folder}/{:03}/{n:012}{ending}", n % 1000)),
                    last_modified: modified,
                    size: n,
                    e_tag: Some(format!("{n:x}")),
                    version: None,
                })
            })
            .boxed()
    }
}

/// The time type of the crate below, without naming it.
fn epoch<T: Default>() -> T {
    T::default()
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for Generated {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.real.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.real.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.real.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.real.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.real.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.real.list(prefix).chain(self.others(prefix)).boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let offset = offset.clone();
        self.list(prefix).try_filter(move |m| std::future::ready(m.location > offset)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.real.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.real.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.real.rename_opts(from, to, options).await
    }
}

const PIPELINE: &str = r#"
name = "huge"
[corpus]
url = "corpus"
[chunking]
size = 16
overlap = 2
[repository]
url = "repository"
[target]
kind = "memory"
"#;

/// What may be held more than before: less than ten million of anything, and more than other tests take beside it.
const ROOM: u64 = 400 << 20;
const OBJECTS: u64 = 10_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listing_ten_million_objects_holds_none_of_them() {
    let repository = Generated { real: InMemory::new(), folder: "vectors", ending: ".parquet", count: OBJECTS };
    let corpus = Generated { real: InMemory::new(), folder: "archive", ending: ".txt", count: OBJECTS };
    corpus.real.put(&Path::from("archive/real.txt"), "A harbour and its tides.".into()).await.unwrap();
    let quiet = Arc::new(InMemory::new());
    quiet.put(&Path::from("archive/real.txt"), "A harbour and its tides.".into()).await.unwrap();

    let pipeline = Pipeline::from_toml(PIPELINE, "huge").unwrap();
    let tokenizer = super::fuzz::seeds::root("models/golden/tiny-distilbert/tokenizer.json");
    let models = ModelStore::new(std::env::temp_dir().join("regrow-no-models"), FetchOptions::default());
    let repository: Arc<dyn ObjectStore> = Arc::new(repository);
    let mut workspace = Workspace::new(pipeline.clone(), std::env::temp_dir(), models)
        .with_target(Arc::new(MemoryTarget::new()))
        .with_repository_store(repository.clone());
    workspace.engine = Some(Arc::new(Engine::noop(Tokenizer::open(&tokenizer).unwrap(), 8).unwrap()));
    let taken = snapshot(&workspace.clone().with_corpus_store(quiet), &SnapshotOptions::default()).await.unwrap();

    let before = held();
    let room = |what: &str| {
        let more = held().saturating_sub(before);
        assert!(more < ROOM, "{what}: {more} bytes more than before");
    };
    let opened = Repository::over(repository, "memory");
    let mut count = 0;
    let mut listed = opened.list("vectors");
    while let Some(object) = listed.try_next().await.unwrap() {
        count += 1;
        if count % 1_000_000 == 0 {
            room(&object.0);
        }
    }
    assert_eq!(count, OBJECTS);
    assert_eq!(Manifest::ids(&opened).await.unwrap(), std::slice::from_ref(&taken.snapshot));
    room("ids");

    let corpus: Arc<dyn ObjectStore> = Arc::new(corpus);
    let open = Corpus::with_store(&pipeline.corpus, corpus.clone(), Path::default()).unwrap();
    let mut count = 0;
    let mut listed = open.list();
    while let Some(object) = listed.try_next().await.unwrap() {
        count += 1;
        if count % 1_000_000 == 0 {
            room(&object.path);
        }
    }
    assert_eq!(count, OBJECTS + 1);

    // All but one are new since the snapshot: counted, and a few named.
    let report = status(&workspace.with_corpus_store(corpus)).await.unwrap();
    room("status");
    assert_eq!(report.latest.unwrap().id, taken.snapshot);
    let exposure = report.exposure.unwrap_or_else(|| panic!("{:?}", report.problems));
    assert_eq!(exposure.added, OBJECTS);
    assert!(exposure.examples.len() < 100);
}
