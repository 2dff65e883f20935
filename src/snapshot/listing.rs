//! The corpus's listing: how many objects, a sum of their states, and the objects themselves put aside.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::task::JoinHandle;

use crate::aside::{Aside, PARTITIONS, partition_of};
use crate::cancel::Cancel;
use crate::corpus::{Corpus, SourceObject};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::repository::CorpusRecord;

/// Number of objects and a sum of their states that does not depend on their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listing {
    pub(crate) objects: u64,
    /// Latest modification, in microseconds since 1970.
    pub(crate) newest: Option<i64>,
    sum: u128,
}

impl Listing {
    pub(crate) fn add(&mut self, object: &SourceObject) {
        self.objects += 1;
        self.newest = self.newest.max(Some(object.modified));
        let state = (&object.path, object.size, object.modified, &object.etag, &object.version);
        let text = serde_json::to_vec(&state).unwrap_or_default();
        let mut half = [0; 16];
        half.copy_from_slice(&Digest::of(&text).as_bytes()[..16]);
        self.sum = self.sum.wrapping_add(u128::from_be_bytes(half));
    }

    pub(crate) fn digest(&self) -> String {
        format!("{:032x}", self.sum)
    }

    /// Whether these are the objects that a snapshot listed, in the same states.
    pub(crate) fn is(&self, recorded: &CorpusRecord) -> bool {
        self.objects == recorded.objects && self.digest() == recorded.listing
    }
}

/// Objects on their way to being read, and how many they were.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) objects: AtomicU64,
    pub(super) bytes: AtomicU64,
}

impl Sent {
    pub(super) fn add(&self, object: &SourceObject) {
        self.objects.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(object.size, Ordering::Relaxed);
    }
}

/// The corpus's objects as a stream of its own, noting each in `listing`; the task tells whether it came to its end.
pub(super) fn list(
    corpus: Arc<Corpus>,
    listing: Arc<std::sync::Mutex<Listing>>,
    sent: Arc<Sent>,
) -> (BoxStream<'static, Result<SourceObject>>, JoinHandle<()>) {
    let (tx, rx) = tokio::sync::mpsc::channel(256);
    let lister = tokio::spawn(async move {
        let mut objects = corpus.list();
        while let Some(object) = objects.next().await {
            if let (Ok(object), Ok(mut listing)) = (&object, listing.lock()) {
                listing.add(object);
                sent.add(object);
            }
            if tx.send(object).await.is_err() {
                return;
            }
        }
    });
    (stream::unfold(rx, async |mut rx| rx.recv().await.map(|item| (item, rx))).boxed(), lister)
}

/// A listing put aside on disk by the hash of the paths. In memory are record files (whose documents have
/// hashes of their own) and what could not be listed.
pub(crate) struct Listed {
    pub(crate) listing: Listing,
    /// Objects that are one document each.
    pub(crate) files: Aside<SourceObject>,
    /// Objects that hold records, by path.
    pub(crate) records: BTreeMap<String, SourceObject>,
    /// Bad documents of the listing itself.
    pub(crate) bad: Vec<Error>,
}

impl Listed {
    /// Lists the corpus to its end.
    pub(crate) async fn new(corpus: &Corpus, cancel: &Cancel) -> Result<Self> {
        let mut this = Self {
            listing: Listing::default(),
            files: Aside::new(PARTITIONS)?,
            records: BTreeMap::new(),
            bad: Vec::new(),
        };
        let mut objects = corpus.list().ready_chunks(1024);
        while let Some(objects) = objects.next().await {
            cancel.check()?;
            for object in objects {
                match object {
                    Ok(object) => {
                        this.listing.add(&object);
                        if corpus.holds_records(&object.path) {
                            this.records.insert(object.path.clone(), object);
                        } else {
                            this.files.push(partition_of(&object.path), &object)?;
                        }
                    }
                    Err(e) if e.kind() == ErrorKind::BadDocument => this.bad.push(e),
                    Err(e) => return Err(e),
                }
            }
        }
        this.files.seal()?;
        Ok(this)
    }

    /// Everything that was listed, to be read.
    pub(super) fn all(self, sent: Arc<Sent>) -> BoxStream<'static, Result<SourceObject>> {
        let records = self.records.into_values().collect();
        stream_of(self.bad, records, self.files, sent)
    }
}

/// Problems, single objects and objects put aside as one stream to read from.
pub(super) fn stream_of(
    bad: Vec<Error>,
    single: Vec<SourceObject>,
    aside: Aside<SourceObject>,
    sent: Arc<Sent>,
) -> BoxStream<'static, Result<SourceObject>> {
    let first = bad.into_iter().map(Err).chain(single.into_iter().map(Ok));
    let rest = stream::unfold((aside, 0), move |(mut aside, partition)| async move {
        if partition == aside.partitions() {
            return None;
        }
        let items: Vec<Result<SourceObject>> = match aside.rows(partition) {
            Ok(objects) => objects.into_iter().map(Ok).collect(),
            Err(e) => vec![Err(e)],
        };
        Some((stream::iter(items), (aside, partition + 1)))
    });
    stream::iter(first)
        .chain(rest.flatten())
        .inspect(move |item| {
            if let Ok(object) = item {
                sent.add(object);
            }
        })
        .boxed()
}
