//! What is kept without being read, and what is read again.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_corpus_is_listed_and_nothing_more() {
    let f = Fixture::new();
    for i in 0..300 {
        f.write(&format!("a/{i}.txt"), &sentence(i, 60), 0);
    }
    f.write("r.jsonl", "{\"id\": 1, \"text\": \"one\"}\n{\"id\": 2, \"text\": \"two\"}\n", 0);
    let first = f.snapshot("r").await;
    assert_eq!((first.objects_read, counts(&first)), (301, [0, 302, 302, 0, 0, 0]));
    let (_, before) = f.manifest("r").await;
    assert!(before.buckets.bits > 2, "{:?}", before.buckets);

    let second = f.snapshot("r").await;
    assert_eq!((second.objects_read, second.bytes_read, counts(&second)), (0, 0, [302, 0, 0, 0, 0, 0]));
    let (_, after) = f.manifest("r").await;
    assert_eq!(
        (&after.inventory, &after.canaries, &after.counts),
        (&before.inventory, &before.canaries, &before.counts)
    );
    assert_eq!(after.corpus.listing, before.corpus.listing);
    assert_eq!(after.previous, Some(before.id));

    // One document more: it is read, and all groups of buckets but its own are shared.
    f.write("a/new.txt", "a new page", 5);
    let third = f.snapshot("r").await;
    assert_eq!((third.objects_read, third.bytes_read, counts(&third)), (1, 10, [302, 1, 1, 0, 0, 0]));
    let (_, more) = f.manifest("r").await;
    let shared = more.inventory.iter().filter(|o| after.inventory.contains(o)).count();
    assert_eq!(shared, after.inventory.len() - 1);
    assert_eq!(f.rows("r").await.len(), 303);

    // Everything read again gives the same objects, and so shares all of them.
    let all = f.rehash("r").await;
    assert_eq!((all.objects_read, counts(&all)), (302, [303, 303, 0, 0, 0, 0]));
    assert_eq!(f.manifest("r").await.1.inventory, more.inventory);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_around_the_previous_snapshot_is_read_again() {
    let f = Fixture::new();
    f.write("old.txt", "old", 0);
    std::fs::write(f.path("young.txt"), "young").unwrap();
    f.snapshot("r").await;
    let second = f.snapshot("r").await;
    assert_eq!((second.objects_read, counts(&second)), (1, [2, 1, 0, 0, 0, 0]));
    // The same size and, within its resolution, the same time.
    let modified = std::fs::metadata(f.path("young.txt")).unwrap().modified().unwrap();
    std::fs::write(f.path("young.txt"), "YOUNG").unwrap();
    std::fs::File::options().write(true).open(f.path("young.txt")).unwrap().set_modified(modified).unwrap();
    let third = f.snapshot("r").await;
    assert_eq!(third.changes.documents_changed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_gone_before_it_was_read_is_read_when_it_is_back() {
    /// Takes the directory away as soon as the first document was read, when everything is listed.
    struct Thief(PathBuf, std::sync::atomic::AtomicBool);
    impl crate::event::Reporter for Thief {
        fn event(&self, event: &crate::event::Event) {
            let read = matches!(event, crate::event::Event::Progress { stage: crate::event::Stage::Read, delta: 1 });
            if read && !self.1.swap(true, std::sync::atomic::Ordering::Relaxed) {
                std::fs::rename(self.0.join("many"), self.0.join(".many")).unwrap();
            }
        }
    }
    let f = Fixture::new();
    f.write("old.txt", "old", 0);
    f.snapshot("r").await;
    for n in 0..400 {
        f.write(&format!("many/{n}.txt"), &sentence(n, 5), 1);
    }
    let mut workspace = f.workspace("r");
    workspace.events = crate::event::Events::new(Arc::new(Thief(f.path(""), std::sync::atomic::AtomicBool::default())));
    let second = snapshot(&workspace, &SnapshotOptions::default()).await.unwrap();
    assert!(second.objects_vanished > 0 && second.documents < 401, "{second:?}");
    assert_eq!(second.objects, 401);
    // As they were listed, with the times they had.
    std::fs::rename(f.path(".many"), f.path("many")).unwrap();
    let third = f.snapshot("r").await;
    assert_eq!((third.documents, third.objects_vanished), (401, 0));
    let fourth = f.snapshot("r").await;
    assert_eq!((fourth.documents, fourth.objects_read), (401, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_keeps_size_and_time_is_seen_where_files_have_tags() {
    let f = Fixture::new();
    f.write("a.txt", "before", 0);
    f.write("b.txt", "stays", 0);
    f.snapshot("r").await;
    if f.rows("r").await["a.txt"].object.etag.is_none() {
        return;
    }
    f.write("a.txt", "after!", 0);
    let second = f.snapshot("r").await;
    assert_eq!((second.objects_read, counts(&second)), (1, [1, 1, 0, 0, 1, 0]));
    f.write("a.txt", "after?", 0);
    let options = crate::diff::DiffOptions { corpus: true, ..Default::default() };
    let report = crate::diff::diff(&f.workspace("r"), &options).await.unwrap();
    assert_eq!((report.documents_read, report.unchanged), (1, 1));
    assert_eq!(report.differences[&crate::diff::DifferenceKind::Text].documents, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_settings_read_everything_again() {
    let f = Fixture::new();
    for i in 0..5 {
        f.write(&format!("acme/{i}.txt"), &sentence(i, 9), 0);
    }
    f.snapshot("r").await;
    let changed = f.with("r", "path_metadata = \"{tenant}/**\"");
    let second = snapshot(&changed, &SnapshotOptions::default()).await.unwrap();
    assert_eq!((second.objects_read, counts(&second)), (5, [0, 5, 0, 0, 5, 0]));
    assert!(f.rows("r").await.values().all(|r| r.tenant.as_deref() == Some("acme")));
    // Globs only decide what is listed.
    let fewer = f.with("r", "path_metadata = \"{tenant}/**\"\nexclude = [\"4.txt\"]");
    let third = snapshot(&fewer, &SnapshotOptions::default()).await.unwrap();
    assert_eq!((third.objects_read, counts(&third)), (0, [4, 0, 0, 0, 0, 1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_files_are_tried_again_and_bad_records_stay_bad() {
    let f = Fixture::new();
    f.write("good.txt", "good", 0);
    f.write("r.jsonl", "{\"id\": 1, \"text\": \"one\"}\nnonsense\n{\"id\": 1, \"text\": \"again\"}\n", 0);
    std::fs::write(f.path("bad.txt"), b"\x00\x01\x02\xff").unwrap();
    f.touch("bad.txt", 0);
    let first = f.snapshot("r").await;
    assert_eq!((first.documents, first.documents_skipped), (2, 3), "{:?}", first.skipped);
    let second = f.snapshot("r").await;
    assert_eq!((second.objects_read, second.documents, second.documents_skipped), (1, 2, 3));
    let (_, one) = f.manifest("r").await;
    f.rehash("r").await;
    assert_eq!(f.manifest("r").await.1.skipped, one.skipped);

    std::fs::remove_file(f.path("bad.txt")).unwrap();
    let third = f.snapshot("r").await;
    assert_eq!((third.objects_read, third.documents_skipped), (0, 2));
    let fourth = f.snapshot("r").await;
    assert_eq!((fourth.objects_read, fourth.documents_skipped, fourth.skipped.len()), (0, 2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_may_become_more_and_fewer() {
    let f = Fixture::new();
    for i in 0..10 {
        f.write(&format!("{i}.txt"), &sentence(i, 9), 0);
    }
    f.snapshot("r").await;
    assert_eq!(f.manifest("r").await.1.buckets.bits, 0);
    for i in 10..1500 {
        f.write(&format!("{i}.txt"), &sentence(i, 30), 0);
    }
    let more = f.snapshot("r").await;
    assert_eq!(counts(&more), [10, 1490, 1490, 0, 0, 0]);
    assert!(f.manifest("r").await.1.buckets.bits > 2);
    f.rehash("s").await;
    assert_eq!(f.rows("r").await, f.rows("s").await);
    for i in 20..1500 {
        std::fs::remove_file(f.path(&format!("{i}.txt"))).unwrap();
    }
    let fewer = f.snapshot("r").await;
    assert_eq!(counts(&fewer), [20, 0, 0, 0, 0, 1480]);
    // For canaries only.
    assert!(fewer.objects_read <= 16, "{fewer:?}");
    assert_eq!(f.manifest("r").await.1.buckets.bits, 0);
    f.rehash("s").await;
    assert_eq!(f.rows("r").await, f.rows("s").await);
}
