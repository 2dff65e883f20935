//! Comparisons on real files and repositories.

use super::{DiffOptions, DiffReport, Difference, DifferenceKind, diff, exposure};
use crate::error::ErrorKind;
use crate::snapshot::tests::Fixture;

async fn between(f: &Fixture, options: DiffOptions) -> DiffReport {
    diff(&f.workspace("r"), &options).await.unwrap()
}

async fn with_corpus(f: &Fixture, rehash: bool) -> DiffReport {
    between(f, DiffOptions { corpus: true, rehash, ..DiffOptions::default() }).await
}

fn named(report: &DiffReport) -> Vec<(DifferenceKind, &str, Option<&str>)> {
    let each = |d: &'_ Difference| (d.kind, d.document_id.clone(), d.moved_from.clone());
    assert_eq!(
        report.named.iter().map(each).len() as u64,
        report.differences.values().map(|t| t.documents).sum::<u64>()
    );
    report.named.iter().map(|d| (d.kind, d.document_id.as_str(), d.moved_from.as_deref())).collect()
}

/// A corpus in which every kind of difference comes about.
fn before(f: &Fixture) {
    for i in 0..40 {
        f.write(&format!("stays/{i}.txt"), &format!("this is page {i} of those that stay"), 0);
    }
    f.write("text.md", "the harbour is open", 0);
    f.write("payload.md", "---\ntitle: A\n---\nthe same text", 0);
    f.write("bytes.txt", "the same again", 0);
    f.write("gone.txt", "nobody will miss this one", 0);
    f.write("old-name.txt", "to be moved elsewhere", 0);
    f.write("r.jsonl", "{\"id\": 1, \"text\": \"one record\"}\n{\"id\": 2, \"text\": \"another\"}\n", 0);
}

fn after(f: &Fixture) {
    f.write("text.md", "the harbour is closed", 1);
    f.write("payload.md", "---\ntitle: B\n---\nthe same text", 1);
    // A byte order mark is no text.
    f.write("bytes.txt", "\u{feff}the same again", 1);
    f.write("new.txt", "a page that was not there before", 1);
    std::fs::remove_file(f.path("gone.txt")).unwrap();
    std::fs::rename(f.path("old-name.txt"), f.path("new-name.txt")).unwrap();
    f.write("r.jsonl", "{\"id\": 1, \"text\": \"one record\"}\n{\"id\": 3, \"text\": \"a third\"}\n", 1);
}

const EVERYTHING: [(DifferenceKind, &str, Option<&str>); 8] = [
    (DifferenceKind::Added, "new.txt", None),
    (DifferenceKind::Added, "r.jsonl#3", None),
    (DifferenceKind::Removed, "gone.txt", None),
    (DifferenceKind::Removed, "r.jsonl#2", None),
    (DifferenceKind::Moved, "new-name.txt", Some("old-name.txt")),
    (DifferenceKind::Text, "text.md", None),
    (DifferenceKind::Payload, "payload.md", None),
    (DifferenceKind::Bytes, "bytes.txt", None),
];

#[tokio::test(flavor = "multi_thread")]
async fn two_snapshots_differ_in_what_was_changed() {
    let f = Fixture::new();
    before(&f);
    let first = f.snapshot("r").await;
    let lone = diff(&f.workspace("r"), &DiffOptions::default()).await.unwrap_err();
    assert_eq!(lone.kind(), ErrorKind::NotFound);
    after(&f);
    let second = f.snapshot("r").await;
    let report = between(&f, DiffOptions::default()).await;
    assert_eq!(named(&report), EVERYTHING);
    assert_eq!(report.unchanged, 41);
    assert_eq!(report.chunks_change, second.chunks as i64 - first.chunks as i64);
    assert_eq!(report.tokens_change, second.tokens as i64 - first.tokens as i64);
    assert_eq!(report.bytes_change, second.bytes as i64 - first.bytes as i64);
    let new = [DifferenceKind::Added, DifferenceKind::Text].map(|kind| report.differences[&kind].chunks);
    assert_eq!((report.embed.chunks, report.embed.estimated), (new.iter().sum(), false));
    assert!(report.settings.is_empty(), "{:?}", report.settings);

    // The other way round, by the beginnings of ids.
    let options =
        DiffOptions { from: Some(second.snapshot.clone()), to: Some(first.snapshot.clone()), ..DiffOptions::default() };
    let back = between(&f, options).await;
    assert_eq!(back.chunks_change, -report.chunks_change);
    assert_eq!(back.differences[&DifferenceKind::Removed].documents, 2);
    // All are counted, few are named.
    let few = between(&f, DiffOptions { limit: 1, ..DiffOptions::default() }).await;
    assert_eq!((few.named.len(), few.differences[&DifferenceKind::Added].documents), (6, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_numbers_of_buckets_and_other_settings_are_compared() {
    let f = Fixture::new();
    before(&f);
    f.snapshot("r").await;
    for i in 0..3000 {
        f.write(&format!("more/{i}.txt"), &format!("page {i} of many more pages that say next to nothing"), 0);
    }
    let changed = f.with("r", "path_metadata = \"{folder}/**\"");
    crate::snapshot::snapshot(&changed, &crate::snapshot::SnapshotOptions::default()).await.unwrap();
    let report = between(&f, DiffOptions::default()).await;
    assert_eq!(report.differences[&DifferenceKind::Added].documents, 3000);
    assert_eq!(report.differences[&DifferenceKind::Payload].documents, 40);
    assert_eq!(report.settings, ["corpus.path_metadata: null → \"{folder}/**\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_corpus_is_compared_by_state_and_on_demand_by_content() {
    let f = Fixture::new();
    before(&f);
    f.snapshot("r").await;
    let same = with_corpus(&f, false).await;
    assert_eq!((named(&same), same.unchanged, same.documents_read), (vec![], 47, 0));
    assert_eq!(
        exposure(&f.workspace("r"), &f.manifest("r").await.0, &f.manifest("r").await.1).await.unwrap(),
        Default::default()
    );
    after(&f);
    let report = with_corpus(&f, false).await;
    let by_state = [
        (DifferenceKind::Added, "new-name.txt", None),
        (DifferenceKind::Added, "new.txt", None),
        (DifferenceKind::Removed, "gone.txt", None),
        (DifferenceKind::Removed, "old-name.txt", None),
        (DifferenceKind::Changed, "bytes.txt", None),
        (DifferenceKind::Changed, "payload.md", None),
        (DifferenceKind::Changed, "r.jsonl", None),
        (DifferenceKind::Changed, "text.md", None),
    ];
    assert_eq!((named(&report), report.unchanged, report.documents_read), (by_state.to_vec(), 40, 0));
    assert!(report.embed.estimated && report.embed.chunks > 0);

    let (repository, manifest) = f.manifest("r").await;
    let exposed = exposure(&f.workspace("r"), &repository, &manifest).await.unwrap();
    assert_eq!((exposed.added, exposed.changed, exposed.vanished, exposed.suspect), (2, 4, 2, 0));
    assert_eq!((exposed.documents_changed, exposed.documents_vanished), (5, 2));
    let sizes = ["new-name.txt", "new.txt", "bytes.txt", "payload.md", "r.jsonl", "text.md"];
    assert_eq!(exposed.bytes, sizes.iter().map(|p| std::fs::metadata(f.path(p)).unwrap().len()).sum::<u64>());
    assert_eq!(exposed.oldest_unsaved, Some(manifest.created));
    assert_eq!(exposed.examples.len(), 8);

    let read = with_corpus(&f, true).await;
    assert_eq!(named(&read), EVERYTHING);
    assert_eq!((read.unchanged, read.documents_read), (41, 47));
    // What the next snapshot will find.
    let next = f.snapshot("r").await;
    assert_eq!((next.documents, next.bytes), (read.to.total.documents, read.to.total.bytes));
    assert_eq!((next.changes.documents_changed, next.changes.documents_added), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_out_by_name_is_not_new_and_what_became_unreadable_is_named() {
    let f = Fixture::new();
    f.write("good.txt", "good", 0);
    f.write("fine.txt", "fine", 0);
    std::fs::write(f.path("bad.txt"), b"\x00\x01\x02\xff").unwrap();
    f.touch("bad.txt", 0);
    f.snapshot("r").await;
    assert!(named(&with_corpus(&f, false).await).is_empty());
    std::fs::write(f.path("fine.txt"), b"\x00\x01\x02\xff").unwrap();
    let report = with_corpus(&f, true).await;
    assert_eq!(named(&report), [(DifferenceKind::Unreadable, "fine.txt", None)]);
    assert_eq!(report.unchanged, 1);
    // One that was bad and has been repaired is new.
    f.write("bad.txt", "repaired", 2);
    f.write("fine.txt", "fine", 0);
    let report = with_corpus(&f, true).await;
    assert_eq!((named(&report), report.unchanged), (vec![(DifferenceKind::Added, "bad.txt", None)], 2));
}
