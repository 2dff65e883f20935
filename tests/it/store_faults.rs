//! Requests that go wrong on their way to a real server: what is tried again, what counts as done, what is told.

use std::path::Path;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{ObjectStoreExt, path::Path as ObjectPath};
use regrow::error::{Error, ErrorKind};
use regrow::repository::{Repository, Unlock};
use regrow::store;

use crate::servers::{Kind, Proxy, Server, Trouble};

struct Faulty {
    server: Server,
    proxy: Proxy,
    options: Vec<(String, String)>,
}

impl Faulty {
    async fn new() -> Option<Self> {
        let server = Server::start(Kind::Gcs)?;
        server.bucket("repo").await;
        let proxy = Proxy::before(&server);
        let options = server.options_with(&[
            ("endpoint", &format!("http://127.0.0.1:{}", proxy.port)),
            ("max_retries", "3"),
            // A busy machine answers late: only what is never answered may run out of time.
            ("timeout", "120s"),
        ]);
        Some(Self { server, proxy, options })
    }

    async fn open(&self) -> Result<Repository, Error> {
        Repository::open_or_create("gs://repo/x", Path::new("/"), &self.options, &Unlock::default()).await
    }

    /// The repository for one trouble: where nothing answers, the wait is short.
    async fn open_for(&self, troubles: &[Trouble]) -> Repository {
        let mut options = self.options.clone();
        if troubles.iter().any(|t| matches!(t, Trouble::Silence)) {
            options.retain(|(k, _)| k != "timeout");
            options.push(("timeout".to_owned(), "2s".to_owned()));
        }
        Repository::open_or_create("gs://repo/x", Path::new("/"), &options, &Unlock::default()).await.unwrap()
    }

    /// The bucket itself, past the proxy.
    fn raw(&self) -> std::sync::Arc<dyn object_store::ObjectStore> {
        store::connect("gs://repo/x", Path::new("/"), &self.server.options()).unwrap()
    }
}

fn instead(status: &'static str, headers: &str, code: &str) -> Trouble {
    let body = format!("<?xml version='1.0'?><Error><Code>{code}</Code><Message>said the proxy</Message></Error>");
    Trouble::Instead(status, headers.to_owned(), body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_is_lost_counts_once() {
    let Some(faulty) = Faulty::new().await else { return };
    let repository = faulty.open().await.unwrap();
    for (n, troubles) in [
        vec![Trouble::AnswerLost],
        vec![Trouble::AnswerLost, Trouble::AnswerLost],
        vec![instead("503 Slow Down", "retry-after: 0\r\n", "SlowDown"), Trouble::AnswerLost],
        vec![instead("500 Error", "", "InternalError")],
        vec![Trouble::Silence],
    ]
    .into_iter()
    .enumerate()
    {
        faulty.proxy.once("PUT", &troubles);
        let (name, bytes) = (format!("objects/{n}"), Bytes::from(format!("contents {n}")));
        let troubled = faulty.open_for(&troubles).await;
        let object = troubled.put_new(&name, bytes.clone()).await.unwrap_or_else(|e| panic!("{troubles:?}: {e}"));
        assert_eq!(faulty.proxy.left(), 0);
        assert_eq!(repository.get_checked(&object).await.unwrap(), bytes);
        // Without a doubt, the same bytes are somebody else's.
        assert_eq!(repository.put_new(&name, bytes).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
        // With a doubt, other bytes are.
        faulty.proxy.once("PUT", &[Trouble::AnswerLost]);
        let other = repository.put_new(&name, Bytes::from_static(b"other")).await;
        assert_eq!(other.unwrap_err().kind(), ErrorKind::AlreadyExists, "{troubles:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_requests_are_made_at_once_than_the_settings_say() {
    let Some(mut faulty) = Faulty::new().await else { return };
    faulty.options.push(("concurrency".to_owned(), "3".to_owned()));
    let repository = faulty.open().await.unwrap();
    let writes = (0..24).map(|i| {
        let repository = repository.clone();
        tokio::spawn(async move { repository.put_new(&format!("many/{i}"), Bytes::from(vec![1; 10_000])).await })
    });
    for written in futures::future::join_all(writes).await {
        written.unwrap().unwrap();
    }
    assert!((1..=3).contains(&faulty.proxy.most_waiting()), "{}", faulty.proxy.most_waiting());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_continued() {
    let Some(faulty) = Faulty::new().await else { return };
    let repository = faulty.open().await.unwrap();
    let bytes = Bytes::from((0..500_000_u32).map(|i| (i % 251) as u8).collect::<Vec<_>>());
    let object = repository.put_new("object", bytes.clone()).await.unwrap();
    faulty.proxy.once("GET", &[Trouble::Cut(100_000), Trouble::AnswerLost, Trouble::Cut(1)]);
    assert_eq!(repository.get_checked(&object).await.unwrap(), bytes);
    assert_eq!(faulty.proxy.left(), 0);
    faulty.proxy.once("GET", &[Trouble::AnswerLost, instead("503 Slow Down", "", "SlowDown")]);
    let listed: Vec<_> = repository.list("").try_collect().await.unwrap();
    assert_eq!(listed.len(), 2, "{listed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_pass_is_told_as_what_it_is() {
    let Some(faulty) = Faulty::new().await else { return };
    let repository = faulty.open().await.unwrap();
    repository.put_new("object", Bytes::from_static(b"x")).await.unwrap();
    for (trouble, kind, retryable, requests, says) in [
        (instead("429 Too Many", "retry-after: 0\r\n", "TooManyRequests"), ErrorKind::Storage, true, 4, "rate"),
        (instead("503 Down", "", "ServiceUnavailable"), ErrorKind::Storage, true, 4, "failed"),
        (Trouble::Silence, ErrorKind::Storage, true, 4, "in time"),
        (Trouble::AnswerLost, ErrorKind::Storage, true, 4, "broke"),
        (instead("403 No", "", "AccessDenied"), ErrorKind::Denied, false, 1, "read"),
        (instead("401 Who", "", "AuthenticationRequired"), ErrorKind::Denied, false, 1, "credentials"),
        (instead("403 No", "", "RequestTimeTooSkewed"), ErrorKind::Configuration, false, 1, "clock"),
        (
            instead("403 No", "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", "SignatureDoesNotMatch"),
            ErrorKind::Configuration,
            false,
            1,
            "clock",
        ),
        (instead("301 Elsewhere", "x-amz-bucket-region: mars-1\r\n", ""), ErrorKind::Configuration, false, 1, "region"),
        (instead("507 Full", "", "InsufficientStorage"), ErrorKind::StorageFull, false, 1, "room"),
        (instead("400 Bad", "", "InvalidArgument"), ErrorKind::Storage, false, 1, "refused"),
    ] {
        let troubled = faulty.open_for(std::slice::from_ref(&trouble)).await;
        faulty.proxy.always(Some(("GET", trouble.clone())));
        let e = troubled.get("object").await.unwrap_err();
        let made = faulty.proxy.requests();
        faulty.proxy.always(None);
        let all = format!("{trouble:?}: {e} {:?}", e.causes());
        assert_eq!((e.kind(), e.retryable()), (kind, retryable), "{all}");
        assert!(e.message().contains(says), "{all}");
        // The client's own tries; the repository goes through them at most once more, and only where that may help.
        assert!(made == requests || (retryable && made == 2 * requests), "{made} requests: {all}");
    }
    assert_eq!(repository.get("object").await.unwrap().as_ref(), b"x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_conditional_writes_is_refused() {
    let Some(faulty) = Faulty::new().await else { return };
    faulty.proxy.always(Some(("PUT", Trouble::Without("x-goog-if-generation-match"))));
    let e = faulty.open().await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Configuration, "{e}");
    assert!(e.message().contains("conditional"), "{e}");
    assert_eq!(faulty.raw().list(None).try_collect::<Vec<_>>().await.unwrap().len(), 0, "nothing stays behind");
    let probes = store::probe("gs://repo/x", Path::new("/"), &faulty.options, Some(uuid::Uuid::new_v4())).await;
    let found: Vec<_> = probes.iter().map(|p| (p.operation, p.found.is_ok())).collect();
    assert_eq!(
        found,
        [("list", true), ("write", true), ("create", false), ("read", true), ("delete", true), ("clock", true)]
    );
    let not_done = instead("501 No", "", "NotImplemented");
    faulty.proxy.always(Some(("PUT", not_done)));
    assert_eq!(faulty.open().await.unwrap_err().kind(), ErrorKind::Configuration);
    faulty.proxy.always(None);
    faulty.open().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_finds_what_is_not_allowed_and_leaves_nothing_behind() {
    let Some(faulty) = Faulty::new().await else { return };
    let probe = async || {
        let id = uuid::Uuid::new_v4();
        let probes = store::probe("gs://repo/x", Path::new("/"), &faulty.options, Some(id)).await;
        let failed = probes.iter().find_map(|p| Some((p.operation, p.found.as_ref().err()?.kind())));
        (probes.len(), failed)
    };
    assert_eq!(probe().await, (6, None));
    assert!(faulty.raw().list(None).try_collect::<Vec<_>>().await.unwrap().is_empty());
    let no = || instead("403 No", "", "AccessDenied");
    faulty.proxy.always(Some(("PUT", no())));
    assert_eq!(probe().await, (3, Some(("write", ErrorKind::Denied))));
    faulty.proxy.always(Some(("GET /repo?", no())));
    assert_eq!(probe().await, (6, Some(("list", ErrorKind::Denied))));
    faulty.proxy.always(Some(("DELETE", no())));
    assert_eq!(probe().await, (6, Some(("delete", ErrorKind::Denied))));
    let location = faulty.raw().list(None).try_collect::<Vec<_>>().await.unwrap().remove(0).location;
    assert!(location.as_ref().starts_with("doctor/"), "what may not be deleted stays, and is named: {location}");
    faulty.raw().delete(&ObjectPath::from(location.as_ref())).await.unwrap();
    let late = instead("503 Down", "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", "ServiceUnavailable");
    faulty.proxy.always(Some(("GET", late)));
    assert_eq!(probe().await.1, Some(("list", ErrorKind::Storage)));
}
