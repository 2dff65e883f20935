//! Sealed and Parquet objects: every changed byte is noticed, and each is bound to its place and its key.

use proptest::prelude::*;

use super::*;
use crate::corpus::SourceObject;
use crate::repository::inventory::{DocumentRow, InventoryWriter, read_bucket};

#[tokio::test]
async fn every_changed_byte_of_a_sealed_object_is_noticed() {
    let (_, repository) = made(&pass("p")).await;
    for contents in [&b""[..], b"{}", &[7; 5000]] {
        let sealed = repository.seal("drills/a.json", contents.to_vec().into()).unwrap();
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
    repository.seal(place, contents.to_vec().into()).unwrap()
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
        cut in any::<prop::sample::Index>(),
    ) {
        let repository = runtime().block_on(made(&pass("p"))).1;
        let sealed = repository.seal(&place, contents.clone().into()).unwrap();
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
        let again = repository.seal(&place, repository.unseal(&place, sealed.clone()).unwrap()).unwrap();
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
