//! Encrypted repositories: what opens them, what is noticed, what survives an interruption, what leaks.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};

use super::*;
use crate::error::{ErrorKind, Result};
use crate::ids::{ChunkId, Digest};
use crate::vectors::{PartKey, PartName, VectorRow, read_part, write_part};

mod leaks;
mod objects;
mod rotation;

/// A store that keeps everything that was ever put into it, and can be cut off after some operations.
#[derive(Debug, Default)]
struct Recorder {
    inner: InMemory,
    put: Mutex<Vec<(String, Bytes)>>,
    left: Mutex<Option<usize>>,
}

impl Recorder {
    /// Every operation after the next `n` that write or remove fails, and so does every reading one after them.
    fn cut_after(&self, n: Option<usize>) {
        *self.left.lock().unwrap() = n;
    }

    fn step(&self, writes: bool) -> object_store::Result<()> {
        let mut left = self.left.lock().unwrap();
        match left.as_mut() {
            Some(0) => Err(object_store::Error::Generic { store: "recorder", source: "cut off".into() }),
            Some(n) => {
                *n -= usize::from(writes);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl std::fmt::Display for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("recorder")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Recorder {
    async fn put_opts(&self, at: &ObjectPath, load: PutPayload, how: PutOptions) -> object_store::Result<PutResult> {
        self.step(true)?;
        let bytes: Vec<u8> = load.iter().flat_map(|part| part.to_vec()).collect();
        let result = self.inner.put_opts(at, load, how).await?;
        self.put.lock().unwrap().push((at.to_string(), bytes.into()));
        Ok(result)
    }

    async fn put_multipart_opts(
        &self,
        at: &ObjectPath,
        how: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, how).await
    }

    async fn get_opts(&self, at: &ObjectPath, how: GetOptions) -> object_store::Result<GetResult> {
        self.step(false)?;
        self.inner.get_opts(at, how).await
    }

    fn delete_stream(
        &self,
        at: BoxStream<'static, object_store::Result<ObjectPath>>,
    ) -> BoxStream<'static, object_store::Result<ObjectPath>> {
        match self.step(true) {
            Ok(()) => self.inner.delete_stream(at),
            Err(e) => futures::stream::once(async { Err(e) }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        match self.step(false) {
            Ok(()) => self.inner.list(prefix),
            Err(e) => futures::stream::once(async { Err(e) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> object_store::Result<ListResult> {
        self.step(false)?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, how: CopyOptions) -> object_store::Result<()> {
        self.step(true)?;
        self.inner.copy_opts(from, to, how).await
    }
}

const CHEAP: PassphraseCost = PassphraseCost { memory_kib: 8, passes: 1, lanes: 1 };

fn pass(text: &str) -> Unlock {
    Unlock::passphrase(text).with_cost(CHEAP)
}

fn raw_key(byte: u8) -> Unlock {
    Unlock::key(format!("{byte:02x}").repeat(32)).with_cost(CHEAP)
}

fn over(store: &Arc<Recorder>) -> Repository {
    Repository::over(store.clone(), "memory")
}

async fn made(unlock: &Unlock) -> (Arc<Recorder>, Repository) {
    let store = Arc::new(Recorder::default());
    let repository = over(&store).create(unlock).await.unwrap();
    (store, repository)
}

fn kind<T>(outcome: Result<T>) -> ErrorKind {
    match outcome {
        Ok(_) => panic!("this must fail"),
        Err(e) => e.kind(),
    }
}

async fn overwrite(store: &Arc<Recorder>, name: &str, bytes: Bytes) {
    store.inner.put_opts(&ObjectPath::from(name), bytes.into(), PutOptions::default()).await.unwrap();
}

async fn slot_names(repository: &Repository) -> Vec<String> {
    let mut names: Vec<String> = repository.list(path::KEYS).map_ok(|(name, ..)| name).try_collect().await.unwrap();
    names.sort();
    names
}

#[tokio::test]
async fn a_missing_a_wrong_and_a_needless_key_are_told_apart() {
    let (store, _) = made(&pass("correct horse")).await;
    over(&store).unlock(&pass("correct horse")).await.unwrap();
    assert_eq!(kind(over(&store).unlock(&Unlock::nothing()).await), ErrorKind::KeyMissing);
    assert_eq!(kind(over(&store).create(&Unlock::nothing()).await), ErrorKind::KeyMissing);
    assert_eq!(kind(over(&store).unlock(&pass("wrong horse")).await), ErrorKind::KeyWrong);
    assert_eq!(kind(over(&store).unlock(&raw_key(7)).await), ErrorKind::KeyWrong);
    assert_eq!(kind(over(&store).unlock(&Unlock::key("no key").with_cost(CHEAP)).await), ErrorKind::Configuration);
    // Not opened, nothing can be sealed or read by mistake.
    let locked = over(&store).locked().await.unwrap();
    assert_eq!(kind(locked.put_sealed("drills/x.json", Bytes::new()).await), ErrorKind::KeyMissing);
    assert_eq!(kind(locked.file_seal("vectors/x")), ErrorKind::KeyMissing);

    let (store, _) = made(&Unlock::nothing()).await;
    assert_eq!(kind(over(&store).unlock(&pass("correct horse")).await), ErrorKind::Configuration);
    assert_eq!(kind(over(&store).create(&pass("correct horse")).await), ErrorKind::Configuration);

    // Both given: either opens.
    let both = Unlock::new(pass("correct horse").passphrase, raw_key(3).key).with_cost(CHEAP);
    let (store, _) = made(&both).await;
    over(&store).unlock(&pass("correct horse")).await.unwrap();
    over(&store).unlock(&raw_key(3)).await.unwrap();
    let mixed = Unlock::new(pass("wrong horse").passphrase, raw_key(3).key).with_cost(CHEAP);
    over(&store).unlock(&mixed).await.unwrap();
}

#[tokio::test]
async fn a_damaged_slot_is_not_a_wrong_passphrase() {
    let (store, repository) = made(&pass("p")).await;
    let name = slot_names(&repository).await.remove(0);
    let good = repository.get(&name).await.unwrap();
    for at in 0..good.len() {
        let mut bytes = good.to_vec();
        bytes[at] ^= 1;
        overwrite(&store, &name, bytes.into()).await;
        match over(&store).unlock(&pass("p")).await {
            // White space is not part of what the digest is over.
            Ok(_) => assert!(good[at].is_ascii_whitespace(), "byte {at}"),
            Err(e) => assert_eq!(e.kind(), ErrorKind::Damaged, "byte {at}: {e}"),
        }
    }
    for length in 0..good.len() {
        overwrite(&store, &name, good.slice(..length)).await;
        assert_eq!(kind(over(&store).unlock(&pass("p")).await), ErrorKind::Damaged, "{length}");
    }
    overwrite(&store, &name, good.clone()).await;
    over(&store).unlock(&pass("p")).await.unwrap();
    // With no slot left nothing opens it any more, which is not the passphrase's fault.
    repository.delete(&name).await.unwrap();
    assert_eq!(kind(over(&store).unlock(&pass("p")).await), ErrorKind::Damaged);
}

#[tokio::test]
async fn slots_that_nobody_with_the_keys_wrote_change_nothing() {
    let (store, repository) = made(&pass("p")).await;
    repository.put_json("drills/a.json", &"kept").await.unwrap();
    // Another repository's slot under the same passphrase, made to look newer and fuller.
    let (_, other) = made(&pass("p")).await;
    let other = rotate_keys(&other, &pass("p"), &[]).await.map(|_| other).unwrap();
    for name in slot_names(&other).await {
        let bytes = other.get(&name).await.unwrap();
        overwrite(&store, &name, bytes).await;
    }
    let opened = over(&store).unlock(&pass("p")).await.unwrap();
    assert_eq!(opened.get_json::<String>("drills/a.json").await.unwrap(), "kept");
    let report = list_keys(over(&store), &pass("p")).await.unwrap();
    let states: Vec<_> = report.slots.iter().map(|slot| slot.state).collect();
    assert_eq!(states, [SlotState::Opens, SlotState::Foreign]);
}

fn part_name(bucket: u32) -> PartName {
    PartName { bits: 3, bucket, key: PartKey(Digest::of(b"key")) }
}

fn part_rows(count: u32) -> Vec<VectorRow> {
    (0..count)
        .map(|i| {
            let text = format!("the text of chunk {i}");
            let digest = Digest::of(text.as_bytes());
            VectorRow {
                chunk_id: ChunkId::new("doc", i, &digest),
                document_id: "doc".to_owned(),
                ordinal: i,
                start: 0,
                end: text.len() as u64,
                text,
                title: None,
                tenant: Some("tenant".to_owned()),
                acl: vec!["group".to_owned()],
                metadata: serde_json::Map::new(),
                chunk_digest: digest,
                vector: vec![i as f32, 0.5],
            }
        })
        .collect()
}

/// What must be readable with each of the given, after everything.
async fn reads_all(store: &Arc<Recorder>, unlock: &Unlock, names: &[&str]) {
    let repository = over(store).unlock(unlock).await.unwrap();
    for name in names {
        assert_eq!(repository.get_json::<String>(name).await.unwrap(), *name);
    }
    let part = repository.get("vectors/old").await.unwrap();
    let seal = repository.file_seal("vectors/old").unwrap();
    assert_eq!(read_part(&part_name(1), part, &seal).unwrap(), part_rows(2));
}

async fn with_old_data(unlock: &Unlock) -> (Arc<Recorder>, Repository) {
    let (store, repository) = made(unlock).await;
    repository.put_json("drills/old.json", &"drills/old.json").await.unwrap();
    let seal = repository.file_seal("vectors/old").unwrap();
    let d = Digest::of(b"m");
    repository
        .put_new("vectors/old", write_part(&part_name(1), &part_rows(2), 2, &d, &d, &seal).unwrap())
        .await
        .unwrap();
    (store, repository)
}

#[tokio::test]
async fn a_repository_that_is_cut_off_while_it_is_made_can_be_made_again() {
    let both = Unlock::new(pass("p").passphrase, raw_key(3).key).with_cost(CHEAP);
    for cut in 0.. {
        assert!(cut < 10, "it is never made");
        let store = Arc::new(Recorder::default());
        store.cut_after(Some(cut));
        let outcome = over(&store).create(&both).await;
        store.cut_after(None);
        let repository = over(&store).create(&both).await.unwrap();
        repository.put_json("drills/a.json", &"drills/a.json").await.unwrap();
        for unlock in [pass("p"), raw_key(3)] {
            let opened = over(&store).unlock(&unlock).await.unwrap();
            assert_eq!(opened.get_json::<String>("drills/a.json").await.unwrap(), "drills/a.json");
        }
        if outcome.is_ok() {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn makers_at_the_same_time_make_one_repository() {
    let store = Arc::new(Recorder::default());
    let unlock = pass("p");
    let make = || {
        let (store, unlock) = (store.clone(), pass("p"));
        tokio::spawn(async move { over(&store).create(&unlock).await.unwrap() })
    };
    let made: Vec<_> = futures::future::join_all([make(), make(), make()]).await;
    for (i, repository) in made.into_iter().enumerate() {
        repository.unwrap().put_json(&format!("drills/{i}.json"), &i).await.unwrap();
    }
    let opened = over(&store).unlock(&unlock).await.unwrap();
    for i in 0..3 {
        assert_eq!(opened.get_json::<usize>(&format!("drills/{i}.json")).await.unwrap(), i);
    }
    assert_eq!(slot_names(&opened).await.len(), 1);
}

#[tokio::test]
async fn the_last_slot_that_opens_stays() {
    let (store, repository) = with_old_data(&pass("p")).await;
    let report = list_keys(over(&store), &pass("p")).await.unwrap();
    let own = report.slots[0].id.clone();
    assert_eq!(kind(remove_key(&repository, &pass("p"), &own).await), ErrorKind::Configuration);
    let added = add_keys(&repository, &pass("p"), &[pass("other")]).await.unwrap().added;
    // Another's slot does not count: whoever removes must be able to come back.
    assert_eq!(kind(remove_key(&repository, &pass("p"), &own).await), ErrorKind::Configuration);
    assert_eq!(kind(remove_key(&repository, &pass("p"), "nonsense").await), ErrorKind::NotFound);
    let other = over(&store).unlock(&pass("other")).await.unwrap();
    let report = remove_key(&other, &pass("other"), &own).await.unwrap();
    assert_eq!((report.removed, report.slots.len()), (vec![own], 1));
    assert_eq!(report.slots[0].id, added[0]);
    assert_eq!(kind(over(&store).unlock(&pass("p")).await), ErrorKind::KeyWrong);
    reads_all(&store, &pass("other"), &["drills/old.json"]).await;
    // Removed by somebody else at the same moment, the last slot is made again by whoever still can.
    let (store, repository) = with_old_data(&pass("p")).await;
    let added = add_keys(&repository, &pass("p"), &[pass("p")]).await.unwrap().added;
    let slots = slot_names(&repository).await;
    assert_eq!(slots.len(), 2);
    store.cut_after(None);
    remove_key(&repository, &pass("p"), &added[0]).await.unwrap();
    reads_all(&store, &pass("p"), &["drills/old.json"]).await;
}

#[tokio::test]
async fn an_opened_key_is_used_again_until_its_slot_is_gone() {
    let (store, _) = with_old_data(&pass("p")).await;
    let unlock = pass("p");
    let repository = over(&store).unlock(&unlock).await.unwrap();
    over(&store).unlock(&unlock).await.unwrap();
    add_keys(&repository, &unlock, &[pass("other")]).await.unwrap();
    let own = slot_names(&repository).await.remove(0);
    repository.delete(&own).await.unwrap();
    assert_eq!(kind(over(&store).unlock(&unlock).await), ErrorKind::KeyWrong);
}
