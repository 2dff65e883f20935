//! Any sequence of edits: a snapshot that builds on others is as one that reads everything.

use super::*;

/// What happens to a corpus between two snapshots.
#[derive(Debug, Clone)]
enum Edit {
    Write(u8, u16),
    Remove(u8),
    Rename(u8, u8),
    Copy(u8, u8),
    Touch(u8),
    Bad(u8),
    Records(u8, Vec<(u8, u16)>),
    AppendRecord(u8, u8, u16),
}

fn edit() -> impl Strategy<Value = Edit> {
    let records = proptest::collection::vec((any::<u8>(), any::<u16>()), 0..12);
    prop_oneof![
        4 => (any::<u8>(), any::<u16>()).prop_map(|(n, s)| Edit::Write(n, s)),
        2 => any::<u8>().prop_map(Edit::Remove),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Edit::Rename(a, b)),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Edit::Copy(a, b)),
        1 => any::<u8>().prop_map(Edit::Touch),
        1 => any::<u8>().prop_map(Edit::Bad),
        1 => (any::<u8>(), records).prop_map(|(n, r)| Edit::Records(n, r)),
        1 => (any::<u8>(), any::<u8>(), any::<u16>()).prop_map(|(n, id, s)| Edit::AppendRecord(n, id, s)),
    ]
}

/// Few enough names that edits meet.
fn name(n: u8) -> String {
    format!("{}/{}.txt", n % 3, n % 40)
}

fn apply(f: &Fixture, edit: &Edit, clock: &mut u64) {
    *clock += 1;
    let record = |id: u8, s: u16| {
        if s.is_multiple_of(11) {
            "not a record\n".to_owned()
        } else {
            format!(
                "{{\"id\": {}, \"text\": \"{}\", \"n\": {s}}}\n",
                id % 16,
                sentence(s.into(), 1 + usize::from(s % 40))
            )
        }
    };
    let file = |n: u8| format!("records/{}.jsonl", n % 3);
    match edit {
        Edit::Write(n, s) => f.write(&name(*n), &sentence((*s).into(), usize::from(s % 60)), *clock),
        Edit::Remove(n) => drop(std::fs::remove_file(f.path(&name(*n)))),
        Edit::Rename(a, b) => {
            std::fs::create_dir_all(f.path(&name(*b)).parent().unwrap()).unwrap();
            drop(std::fs::rename(f.path(&name(*a)), f.path(&name(*b))));
        }
        Edit::Copy(a, b) => {
            if let Ok(text) = std::fs::read(f.path(&name(*a))) {
                f.write(&name(*b), "", 0);
                std::fs::write(f.path(&name(*b)), text).unwrap();
                f.touch(&name(*b), *clock);
            }
        }
        Edit::Touch(n) => {
            if f.path(&name(*n)).exists() {
                f.touch(&name(*n), *clock);
            }
        }
        Edit::Bad(n) => {
            f.write(&name(*n), "", 0);
            std::fs::write(f.path(&name(*n)), b"\x00\x01\xfe\xff\x00").unwrap();
            f.touch(&name(*n), *clock);
        }
        Edit::Records(n, records) => {
            let text: String = records.iter().map(|(id, s)| record(*id, *s)).collect();
            f.write(&file(*n), &text, *clock);
        }
        Edit::AppendRecord(n, id, s) => {
            let mut text = std::fs::read_to_string(f.path(&file(*n))).unwrap_or_default();
            text += &record(*id, *s);
            f.write(&file(*n), &text, *clock);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]
    /// A chain of incremental snapshots holds what reading everything each time holds.
    #[test]
    fn building_on_the_previous_snapshot_is_reading_everything(
        rounds in proptest::collection::vec(proptest::collection::vec(edit(), 0..25), 1..6)
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let f = Fixture::new();
        let mut clock = 0;
        let mut before: BTreeMap<String, DocumentRow> = BTreeMap::new();
        for round in rounds {
            for edit in &round {
                apply(&f, edit, &mut clock);
            }
            let (built, read) = runtime.block_on(async { (f.snapshot("built").await, f.rehash("read").await) });
            let (mut rows, mut wanted) = runtime.block_on(async { (f.rows("built").await, f.rows("read").await) });
            let skipped = |r: &SnapshotReport| (r.documents_skipped, r.skipped.clone());
            prop_assert_eq!(skipped(&built), skipped(&read));
            prop_assert_eq!(built.objects, read.objects);
            // What the report counts is what there is.
            let same = |a: &DocumentRow, b: &DocumentRow| {
                (a.digest, a.text_digest, a.payload_digest) == (b.digest, b.text_digest, b.payload_digest)
            };
            let c = built.changes;
            let of = |wanted: &dyn Fn(Option<&DocumentRow>, &DocumentRow) -> bool| {
                rows.values().filter(|row| wanted(before.get(&row.document_id), row)).count() as u64
            };
            prop_assert_eq!(c.documents_added, of(&|old, _| old.is_none()));
            prop_assert_eq!(c.documents_unchanged, of(&|old, row| old.is_some_and(|old| same(old, row))));
            prop_assert_eq!(c.documents_changed, of(&|old, row| old.is_some_and(|old| !same(old, row))));
            prop_assert_eq!(c.documents_removed, before.keys().filter(|id| !rows.contains_key(*id)).count() as u64);
            // Earlier ids are ids of the same text.
            for row in rows.values().filter(|row| row.chunks > 0) {
                let known: Vec<_> = before.values().filter(|old| old.text_digest == row.text_digest).collect();
                let stayed = known.iter().any(|old| old.document_id == row.document_id);
                prop_assert_eq!(!stayed && !known.is_empty(), !stayed && row.moved_from.first().is_some_and(
                    |id| known.iter().any(|old| old.document_id == *id)), "{:?}", row);
                prop_assert!(row.moved_from.len() <= 4 && !row.moved_from.contains(&row.document_id));
            }
            before.clone_from(&rows);
            rows.values_mut().for_each(|row| row.moved_from.clear());
            wanted.values_mut().for_each(|row| row.moved_from.clear());
            prop_assert_eq!(rows, wanted);
        }
    }
}
