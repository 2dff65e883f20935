//! Memory, with a listing that is made up.

use super::*;

/// A store that lists objects it makes up, in the order of their names, and holds none.
#[derive(Debug)]
struct MadeUp(u64);

impl std::fmt::Display for MadeUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("made up")
    }
}

type Stream<T> = futures::stream::BoxStream<'static, object_store::Result<T>>;

#[async_trait::async_trait]
impl object_store::ObjectStore for MadeUp {
    fn list(&self, _: Option<&object_store::path::Path>) -> Stream<object_store::ObjectMeta> {
        use futures::StreamExt;
        let meta = |i| object_store::ObjectMeta {
            location: object_store::path::Path::from(format!("library/section-{}/document-{i:09}.md", i % 100)),
            last_modified: jiff_to_chrono(OLD),
            size: 1000 + i % 7,
            e_tag: Some(format!("{i:032x}")),
            version: None,
        };
        futures::stream::iter((0..self.0).map(move |i| Ok(meta(i)))).boxed()
    }

    async fn put_opts(
        &self,
        _: &object_store::path::Path,
        _: object_store::PutPayload,
        _: object_store::PutOptions,
    ) -> object_store::Result<object_store::PutResult> {
        Err(object_store::Error::NotImplemented { operation: "put".into(), implementer: "made up".into() })
    }

    async fn put_multipart_opts(
        &self,
        _: &object_store::path::Path,
        _: object_store::PutMultipartOptions,
    ) -> object_store::Result<Box<dyn object_store::MultipartUpload>> {
        Err(object_store::Error::NotImplemented { operation: "put".into(), implementer: "made up".into() })
    }

    async fn get_opts(
        &self,
        _: &object_store::path::Path,
        _: object_store::GetOptions,
    ) -> object_store::Result<object_store::GetResult> {
        Err(object_store::Error::NotImplemented { operation: "get".into(), implementer: "made up".into() })
    }

    fn delete_stream(&self, locations: Stream<object_store::path::Path>) -> Stream<object_store::path::Path> {
        locations
    }

    async fn list_with_delimiter(
        &self,
        _: Option<&object_store::path::Path>,
    ) -> object_store::Result<object_store::ListResult> {
        Err(object_store::Error::NotImplemented { operation: "list".into(), implementer: "made up".into() })
    }

    async fn copy_opts(
        &self,
        _: &object_store::path::Path,
        _: &object_store::path::Path,
        _: object_store::CopyOptions,
    ) -> object_store::Result<()> {
        Err(object_store::Error::NotImplemented { operation: "copy".into(), implementer: "made up".into() })
    }
}

/// The store's type of time is another crate's; it reads RFC 3339.
fn jiff_to_chrono<T: std::str::FromStr>(seconds: u64) -> T
where
    T::Err: std::fmt::Debug,
{
    jiff::Timestamp::from_second(seconds as i64).unwrap().to_string().parse().unwrap()
}

const ALONE: &str = "REGROW_TEST_ALONE";

/// Objects in a listing that memory must not grow with.
const MANY: u64 = 3_000_000;

/// Three million objects are listed and compared with a snapshot that has none of them; afterwards all are to be read.
/// Memory is that of the process, so the test runs in one of its own.
#[test]
fn memory_does_not_grow_with_the_listing() {
    if std::env::var_os(ALONE).is_none() {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "snapshot::tests::memory::memory_does_not_grow_with_the_listing", "--nocapture"]);
        let output = child.env(ALONE, "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        use crate::snapshot::select::{Keep, select};
        let f = Fixture::new();
        f.write("a.txt", "one document", 0);
        f.snapshot("r").await;
        let (repository, manifest) = f.manifest("r").await;
        let settings = &f.workspace("r").pipeline.corpus;
        let store = Arc::new(MadeUp(MANY));
        let corpus = crate::corpus::Corpus::with_store(settings, store, object_store::path::Path::default()).unwrap();
        let cancel = crate::cancel::Cancel::default();
        let before = crate::measure::anonymous_rss_bytes();
        let mut listed = crate::snapshot::Listed::new(&corpus, &cancel).await.unwrap();
        assert_eq!(listed.listing.objects, MANY);
        let after_listing = crate::measure::anonymous_rss_bytes();
        let keep =
            Keep::Unchanged { listed: &mut listed, skipped: Vec::new(), canaries: Default::default(), capture: None };
        let selected = select(&repository, &manifest, keep, &cancel).await.unwrap();
        assert_eq!((selected.to_read.len(), selected.counts.documents), (MANY, 0));
        let sent = Arc::default();
        let mut to_read = crate::snapshot::listing::stream_of(Vec::new(), Vec::new(), selected.to_read, sent);
        let mut streamed = 0;
        while let Some(object) = futures::StreamExt::next(&mut to_read).await {
            assert!(object.unwrap().size >= 1000);
            streamed += 1;
        }
        assert_eq!(streamed, MANY);
        let after = crate::measure::anonymous_rss_bytes();
        // 20 and 30 bytes per object: one path alone is longer.
        assert!(after_listing.saturating_sub(before) < 20 * MANY, "{before} {after_listing}");
        assert!(after.saturating_sub(before) < 30 * MANY, "{before} {after}");
    });
}
