//! Encrypted repositories: what opens them, what is noticed, what survives an interruption, what leaks.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};
use proptest::prelude::*;

use super::frame::Padding;
use super::inventory::{DocumentRow, InventoryWriter, read_bucket};
use super::*;
use crate::corpus::SourceObject;
use crate::error::{ErrorKind, Result};
use crate::ids::{ChunkId, Digest};
use crate::vectors::{PartKey, PartName, VectorRow, read_part, write_part};

mod leaks;

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

#[tokio::test]
async fn every_changed_byte_of_a_sealed_object_is_noticed() {
    let (_, repository) = made(&pass("p")).await;
    for contents in [&b""[..], b"{}", &[7; 5000]] {
        let sealed = repository.seal("drills/a.json", contents.to_vec().into(), Padding::Padded).unwrap();
        assert_eq!(repository.unseal("drills/a.json", sealed.clone()).unwrap(), contents);
        for at in 0..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[at] ^= 1 << (at % 8);
            let outcome = repository.unseal("drills/a.json", changed.into());
            assert_eq!(kind(outcome), ErrorKind::Damaged, "byte {at}");
        }
    }
}

fn sealed_in(repository: &Repository, place: &str, contents: &[u8]) -> Bytes {
    repository.seal(place, contents.to_vec().into(), Padding::Padded).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn sealed_objects_come_back_and_only_where_they_belong(
        contents in proptest::collection::vec(any::<u8>(), 0..9000),
        place in "[a-z/]{1,20}", other in "[a-z/]{1,20}",
        exact in any::<bool>(), cut in any::<prop::sample::Index>(),
    ) {
        let repository = runtime().block_on(made(&pass("p"))).1;
        let padding = if exact { Padding::Exact } else { Padding::Padded };
        let sealed = repository.seal(&place, contents.clone().into(), padding).unwrap();
        prop_assert_eq!(repository.unseal(&place, sealed.clone()).unwrap(), contents.clone());
        prop_assert_eq!(kind(repository.unseal(&place, sealed.slice(..cut.index(sealed.len())))), ErrorKind::Damaged);
        if other != place {
            prop_assert_eq!(kind(repository.unseal(&other, sealed.clone())), ErrorKind::Damaged);
        }
        prop_assert_eq!(kind(repository.unseal(&place, contents.into())), ErrorKind::Damaged);
        let mut longer = sealed.to_vec();
        longer.push(0);
        prop_assert_eq!(kind(repository.unseal(&place, longer.into())), ErrorKind::Damaged);
        // The same contents look different each time, and another repository's are no contents of this one.
        let again = repository.seal(&place, repository.unseal(&place, sealed.clone()).unwrap(), padding).unwrap();
        prop_assert_ne!(again, sealed.clone());
        let stranger = runtime().block_on(made(&pass("p"))).1;
        prop_assert_eq!(kind(stranger.unseal(&place, sealed)), ErrorKind::Damaged);
    }
}

#[tokio::test]
async fn an_object_put_in_the_place_of_another_is_noticed() {
    let (store, repository) = made(&pass("p")).await;
    repository.put_json("drills/a.json", &"a").await.unwrap();
    repository.put_json("drills/b.json", &"b").await.unwrap();
    let a = repository.get("drills/a.json").await.unwrap();
    overwrite(&store, "drills/b.json", a).await;
    let e = repository.get_json::<String>("drills/b.json").await.unwrap_err();
    assert_eq!((e.kind(), e.context_value("object")), (ErrorKind::Damaged, Some("drills/b.json")));
    // Something that was never encrypted is not taken either.
    overwrite(&store, "drills/b.json", Bytes::from_static(b"\"b\"")).await;
    assert_eq!(kind(repository.get_json::<String>("drills/b.json").await), ErrorKind::Damaged);
    // And in a repository that is not encrypted, a sealed object is not mistaken for JSON.
    let (_, plain) = made(&Unlock::nothing()).await;
    plain.put_new("drills/c.json", sealed_in(&repository, "drills/c.json", b"{}")).await.unwrap();
    assert_eq!(kind(plain.get_json::<String>("drills/c.json").await), ErrorKind::Damaged);
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

fn inventory_row(i: u32) -> DocumentRow {
    DocumentRow {
        document_id: format!("d{i:04}"),
        object: SourceObject { path: format!("a/{i}.md"), size: 1, modified: 5, etag: None, version: None },
        line: None,
        bytes: 7,
        digest: Digest::of(&i.to_le_bytes()),
        text_digest: Digest::of(b"t"),
        payload_digest: Digest::of(b"p"),
        tenant: None,
        acl: Vec::new(),
        metadata: "{}".to_owned(),
        chunks: 1,
        tokens: 9,
        chunk_digest: Digest::of(b"c"),
        moved_from: Vec::new(),
    }
}

#[tokio::test]
async fn every_changed_byte_of_a_parquet_object_is_noticed() {
    let (_, repository) = made(&pass("p")).await;
    let d = Digest::of(b"m");
    let (name, place) = (part_name(5), "vectors/m/r/part.parquet");
    let seal = repository.file_seal(place).unwrap();
    let part = write_part(&name, &part_rows(9), 2, &d, &d, &seal).unwrap();
    assert_eq!(read_part(&name, part.clone(), &seal).unwrap(), part_rows(9));

    let mut writer = InventoryWriter::new(&repository);
    let rows: Vec<_> = (0..6).map(inventory_row).collect();
    writer.bucket(1, &rows[..2]).await.unwrap();
    writer.bucket(2, &rows[2..]).await.unwrap();
    let inventory = repository.get(&writer.finish().await.unwrap()[0].path).await.unwrap();
    let inventory_seal = repository.file_seal(path::INVENTORIES).unwrap();
    assert_eq!(read_bucket(&inventory_seal, inventory.clone(), 2).unwrap(), rows[2..]);
    assert!(read_bucket(&inventory_seal, inventory.clone(), 3).unwrap().is_empty());

    let read = |which: usize, bytes: Bytes| match which {
        0 => read_part(&name, bytes, &seal).map(drop),
        _ => guarded(|| read_bucket(&inventory_seal, bytes, 2)).map(drop),
    };
    for (which, good) in [part, inventory].into_iter().enumerate() {
        for at in 0..good.len() {
            let mut changed = good.to_vec();
            changed[at] ^= 1 << (at % 8);
            assert_eq!(kind(read(which, changed.into())), ErrorKind::Damaged, "{which}: byte {at}");
        }
        for length in (0..good.len()).step_by(7) {
            assert_eq!(kind(read(which, good.slice(..length))), ErrorKind::Damaged, "{which}: {length} bytes");
        }
        let longer = [&good[..], b"PARE"].concat();
        assert_eq!(kind(read(which, longer.into())), ErrorKind::Damaged);
    }
}

#[tokio::test]
async fn a_parquet_object_is_bound_to_its_place_and_its_key() {
    let (_, repository) = made(&pass("p")).await;
    let d = Digest::of(b"m");
    let seal = |repository: &Repository, place| repository.file_seal(place).unwrap();
    let own = seal(&repository, "vectors/a");
    let part = write_part(&part_name(5), &part_rows(3), 2, &d, &d, &own).unwrap();
    let moved = seal(&repository, "vectors/b");
    assert_eq!(kind(read_part(&part_name(5), part.clone(), &moved)), ErrorKind::Damaged);
    assert_eq!(kind(read_part(&part_name(5), part.clone(), &FileSeal::none())), ErrorKind::Damaged);
    let stranger = made(&pass("p")).await.1;
    assert_eq!(kind(read_part(&part_name(5), part.clone(), &seal(&stranger, "vectors/a"))), ErrorKind::Damaged);
    // One that is not encrypted, and one that is so without proof, are not taken for this repository's.
    let plain = write_part(&part_name(5), &part_rows(3), 2, &d, &d, &FileSeal::none()).unwrap();
    assert_eq!(kind(read_part(&part_name(5), plain, &own)), ErrorKind::Damaged);
    // Twice the same rows share no key, so not even a page looks the same.
    let again = write_part(&part_name(5), &part_rows(3), 2, &d, &d, &own).unwrap();
    let pages = |bytes: &Bytes| bytes.windows(16).map(<[u8]>::to_vec).collect::<std::collections::HashSet<_>>();
    assert!(pages(&part).is_disjoint(&pages(&again)));
    // A plain reader says that it lacks the key, and nothing else.
    let e = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(part).unwrap_err();
    assert!(e.to_string().contains("encrypted"), "{e}");
}

#[tokio::test]
async fn names_are_keyed_and_stay_through_rotations() {
    let (store, repository) = made(&pass("p")).await;
    let digest = Digest::of(b"something that can be guessed");
    let name = repository.name(&digest);
    assert_ne!(name, digest);
    rotate_keys(&repository, &pass("p"), &[]).await.unwrap();
    assert_eq!(over(&store).unlock(&pass("p")).await.unwrap().name(&digest), name);
    assert_ne!(made(&pass("p")).await.1.name(&digest), name);
    assert_eq!(made(&Unlock::nothing()).await.1.name(&digest), digest);
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
async fn a_rotation_that_is_cut_off_anywhere_loses_nothing() {
    let (mine, second, new) = (pass("mine"), raw_key(9), pass("new"));
    for cut in 0.. {
        assert!(cut < 20, "a rotation does not come to its end");
        let (store, repository) = with_old_data(&mine).await;
        add_keys(&repository, &mine, &[second.clone(), pass("leaver")]).await.unwrap();
        store.cut_after(Some(cut));
        let outcome = rotate_keys(&repository, &mine, &[second.clone(), new.clone()]).await;
        store.cut_after(None);
        // What is written by whoever opens it now is readable by them, and so is all that was before.
        let written = over(&store).unlock(&pass("mine")).await.unwrap();
        written.put_json("drills/new.json", &"drills/new.json").await.unwrap();
        reads_all(&store, &pass("mine"), &["drills/old.json", "drills/new.json"]).await;
        reads_all(&store, &second, &["drills/old.json"]).await;
        if let Ok(report) = outcome {
            reads_all(&store, &raw_key(9), &["drills/old.json", "drills/new.json"]).await;
            reads_all(&store, &pass("new"), &["drills/old.json", "drills/new.json"]).await;
            assert_eq!(kind(over(&store).unlock(&pass("leaver")).await), ErrorKind::KeyWrong);
            assert_eq!((report.added.len(), report.removed.len(), report.slots.len()), (3, 3, 3));
            assert!(report.slots.iter().all(|slot| slot.keys.len() == 2));
            assert!(cut > 5);
            break;
        }
        // Run again, it comes to the same end.
        let report = rotate_keys(&written, &pass("mine"), &[second.clone(), new.clone()]).await.unwrap();
        assert_eq!(report.slots.len(), 3, "cut after {cut}: {report:?}");
        for unlock in [&mine, &second, &new] {
            reads_all(&store, unlock, &["drills/old.json", "drills/new.json"]).await;
        }
        assert_eq!(kind(over(&store).unlock(&pass("leaver")).await), ErrorKind::KeyWrong);
    }
}

#[tokio::test]
async fn two_rotations_at_once_keep_both_keys() {
    let (store, first) = with_old_data(&pass("p")).await;
    let second = over(&store).unlock(&pass("p")).await.unwrap();
    let report = rotate_keys(&first, &pass("p"), &[]).await.unwrap();
    let first = over(&store).unlock(&pass("p")).await.unwrap();
    first.put_json("drills/first.json", &"drills/first.json").await.unwrap();
    // The second one opened the repository before the first began, and does not know its key.
    let other = rotate_keys(&second, &pass("p"), &[]).await.unwrap();
    assert!(other.removed.is_empty() && report.removed.len() == 1);
    assert_eq!(slot_names(&first).await.len(), 2);
    let both = over(&store).unlock(&pass("p")).await.unwrap();
    both.put_json("drills/both.json", &"drills/both.json").await.unwrap();
    reads_all(&store, &pass("p"), &["drills/old.json", "drills/first.json", "drills/both.json"]).await;
    // The next rotation brings them together.
    let report = rotate_keys(&both, &pass("p"), &[]).await.unwrap();
    assert_eq!((report.slots.len(), report.slots[0].keys.len()), (1, 4));
    reads_all(&store, &pass("p"), &["drills/old.json", "drills/first.json", "drills/both.json"]).await;
}

#[tokio::test]
async fn a_run_that_opened_before_a_rotation_can_finish_and_says_what_it_cannot_read() {
    let (store, repository) = with_old_data(&pass("p")).await;
    rotate_keys(&repository, &pass("p"), &[]).await.unwrap();
    repository.put_json("drills/late.json", &"drills/late.json").await.unwrap();
    reads_all(&store, &pass("p"), &["drills/late.json"]).await;
    // A slot made from old keys meanwhile opens what is old, and says why it does not open the rest.
    add_keys(&repository, &pass("p"), &[pass("late")]).await.unwrap();
    let newest = over(&store).unlock(&pass("p")).await.unwrap();
    newest.put_json("drills/new.json", &"drills/new.json").await.unwrap();
    let late = over(&store).unlock(&pass("late")).await.unwrap();
    assert_eq!(late.get_json::<String>("drills/old.json").await.unwrap(), "drills/old.json");
    assert_eq!(kind(late.get_json::<String>("drills/new.json").await), ErrorKind::KeyWrong);
    let states: Vec<_> =
        list_keys(over(&store), &pass("p")).await.unwrap().slots.iter().map(|slot| slot.state).collect();
    assert_eq!(states, [SlotState::Opens, SlotState::Outdated]);
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

/// Whether `needle` is in the bytes as it is, in hexadecimal or in base64 at any alignment.
fn readable(haystack: &[u8], needle: &[u8]) -> bool {
    let hexadecimal: String = needle.iter().map(|b| format!("{b:02x}")).collect();
    let mut forms = vec![needle.to_vec(), hexadecimal.to_uppercase().into_bytes(), hexadecimal.into_bytes()];
    for shift in 0..3 {
        let shifted = [&vec![0; shift][..], needle].concat();
        let whole = shifted.len() / 3 * 3;
        for engine in [base64::engine::general_purpose::STANDARD, base64::engine::general_purpose::URL_SAFE] {
            let text = engine.encode(&shifted[..whole]).into_bytes();
            // The first characters also depend on what stands before.
            forms.push(text[text.len().min(4)..].to_vec());
        }
    }
    forms.iter().any(|form| form.len() > 7 && haystack.windows(form.len()).any(|window| window == form))
}
