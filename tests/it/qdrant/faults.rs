//! Servers that are killed, connections that break, and keys that are wrong.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use regrow::ErrorKind;
use regrow::event::Events;
use regrow::model::Metric;
use regrow::secret::Secret;
use regrow::targets::conformance::{sample, spec, wait_for_index};
use regrow::targets::qdrant::{QdrantOptions, QdrantTarget};
use regrow::targets::wrappers::{Retry, RetryPolicy};
use regrow::targets::{Filter, Target};

use super::server::{Served, options};

fn patient() -> RetryPolicy {
    RetryPolicy { attempts: 100, first_wait: Duration::from_millis(50), longest_wait: Duration::from_millis(300) }
}

#[tokio::test]
async fn qdrant_errors_say_what_is_wrong() {
    let server = Served::start_as("1.18.3", Some("t0p-s3cret"));
    let with = |key: Option<&str>| QdrantOptions { api_key: key.map(Secret::new), ..options(server.port) };
    let target = QdrantTarget::new(&with(Some("t0p-s3cret"))).unwrap();
    target.server().await.unwrap();
    target.create(&spec("one", 4, Metric::Dot)).await.unwrap();
    for wrong in [None, Some("an0ther-s3cret")] {
        let target = QdrantTarget::new(&with(wrong)).unwrap();
        let error = target.list().await.unwrap_err();
        assert_eq!((error.kind(), error.retryable()), (ErrorKind::Denied, false), "{error:?}");
        assert!(!format!("{error:?} {error} {target:?}").contains("s3cret"));
    }
    if !Served::is_real() {
        for (version, word) in [("1.15.5", "too old"), ("0.11.0", "too old"), ("2.0.0", "major"), ("dev", "version")] {
            let server = Served::start_as(version, None);
            let target = QdrantTarget::new(&options(server.port)).unwrap();
            for error in [target.server().await.unwrap_err(), target.list().await.unwrap_err()] {
                assert_eq!((error.kind(), error.retryable()), (ErrorKind::Target, false));
                assert!(error.message().contains(word), "{error:?}");
            }
        }
    }
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let patience =
        QdrantOptions { timeout: Duration::from_millis(300), ..options(silent.local_addr().unwrap().port()) };
    let error = QdrantTarget::new(&patience).unwrap().list().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Target && error.retryable(), "{error:?}");
    drop(silent);
    let error = QdrantTarget::new(&patience).unwrap().list().await.unwrap_err();
    assert!(error.retryable() && error.message().contains("reached"), "{error:?}");
    for url in ["ftp://host", "http://user:pass@host", "http://host?x=1"] {
        let error = QdrantTarget::new(&QdrantOptions::new(url.parse().unwrap())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(!format!("{error:?}").contains("pass@"));
    }
}

/// The server is killed while points are written, and comes back: nothing confirmed is lost, nothing is there twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qdrant_is_killed_and_comes_back() {
    let mut running = Served::start();
    let target = Arc::new(QdrantTarget::new(&options(running.port)).unwrap());
    let owned = target.create(&spec("one", 16, Metric::Cosine)).await.unwrap();
    target.promote("live", &owned).await.unwrap();
    let (sender, mut confirmed) = tokio::sync::mpsc::channel(1);
    let retry = Retry::new(target.clone(), patient(), Events::silent());
    let writing = owned.clone();
    let writer = tokio::spawn(async move {
        for batch in 0..30_u64 {
            let points = (batch * 100..batch * 100 + 100).map(|n| sample(n, 16)).collect();
            assert_eq!(retry.write(&writing, points).await.unwrap().written, 100);
            if batch % 5 == 4 {
                retry.flush(&writing).await.unwrap();
            }
            sender.send(batch).await.unwrap();
        }
        retry.flush(&writing).await.unwrap();
    });
    while let Some(batch) = confirmed.recv().await {
        if batch == 6 || batch == 18 {
            running = tokio::task::spawn_blocking(move || running.killed_and_started()).await.unwrap();
        }
    }
    writer.await.unwrap();
    let mut expected: Vec<_> = (0..3000).map(|n| sample(n, 16)).collect();
    expected.sort_by_key(|p| p.id);
    let fresh = QdrantTarget::new(&options(running.port)).unwrap();
    assert_eq!(fresh.count("live", &Filter::default()).await.unwrap(), 3000);
    let page = fresh.scroll("live", None, 3001).await.unwrap();
    assert!(page.points == expected && page.next.is_none());
    wait_for_index(&fresh, &owned).await;
}

/// Passes bytes on, until it breaks every connection.
struct Wire {
    port: u16,
    open: Arc<Mutex<Vec<TcpStream>>>,
    bytes: Arc<AtomicUsize>,
}

impl Wire {
    fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Self { port: listener.local_addr().unwrap().port(), open: Arc::default(), bytes: Arc::default() };
        let (open, bytes) = (wire.open.clone(), wire.bytes.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                open.lock().unwrap().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                for (mut from, mut to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
                {
                    let bytes = bytes.clone();
                    std::thread::spawn(move || {
                        let mut chunk = [0; 16 << 10];
                        while let Ok(read @ 1..) = from.read(&mut chunk) {
                            bytes.fetch_add(read, Ordering::SeqCst);
                            if to.write_all(&chunk[..read]).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        wire
    }

    fn cut(&self) {
        for socket in self.open.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Connections break in the middle of requests; what is written again is written once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_qdrant_break() {
    let server = Served::start();
    let wire = Arc::new(Wire::to(server.port));
    let target = Arc::new(QdrantTarget::new(&options(wire.port)).unwrap());
    let retry = Arc::new(Retry::new(target, patient(), Events::silent()));
    let owned = retry.create(&spec("one", 64, Metric::Cosine)).await.unwrap();
    let (saw, done) = (wire.clone(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let stop = done.clone();
    // Every 300 KB, wherever that is in a request or an answer.
    let breaker = std::thread::spawn(move || {
        let (mut next, mut cuts) = (300_000, 0);
        while !stop.load(Ordering::SeqCst) {
            if saw.bytes.load(Ordering::SeqCst) > next && cuts < 8 {
                saw.cut();
                (next, cuts) = (saw.bytes.load(Ordering::SeqCst) + 300_000, cuts + 1);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        cuts
    });
    let writers = (0..4_u64).map(|writer| {
        let (retry, owned) = (retry.clone(), owned.clone());
        tokio::spawn(async move {
            for batch in 0..6 {
                let from = writer * 1200 + batch * 200;
                let outcome = retry.write(&owned, (from..from + 200).map(|n| sample(n, 64)).collect()).await.unwrap();
                assert_eq!(outcome.written, 200);
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    retry.flush(&owned).await.unwrap();
    done.store(true, Ordering::SeqCst);
    assert!(breaker.join().unwrap() >= 3, "hardly anything broke");
    let direct = QdrantTarget::new(&options(server.port)).unwrap();
    let mut expected: Vec<_> = (0..4800).map(|n| sample(n, 64)).collect();
    expected.sort_by_key(|p| p.id);
    let page = direct.scroll("one", None, 5000).await.unwrap();
    assert!(page.points == expected && page.next.is_none());
}

/// What was taken and never applied is noticed by a flush, and not before: a log that is lost, a write that failed.
#[tokio::test]
async fn lost_writes_are_noticed() {
    let server = Served::start();
    let target = QdrantTarget::new(&options(server.port)).unwrap();
    let owned = target.create(&spec("one", 4, Metric::Dot)).await.unwrap();
    target.write(&owned, (0..100).map(|n| sample(n, 4)).collect()).await.unwrap();
    // Another client deletes some of them before they are confirmed.
    super::server::delete_point(server.port, "one", sample(50, 4).id.0).await;
    let error = target.flush(&owned).await.unwrap_err();
    assert_eq!((error.kind(), error.context_value("found")), (ErrorKind::Target, Some("99")), "{error:?}");
    // Written again, they are confirmed.
    target.write(&owned, vec![sample(50, 4)]).await.unwrap();
    target.flush(&owned).await.unwrap();
    assert_eq!(target.count("one", &Filter::default()).await.unwrap(), 100);
}
