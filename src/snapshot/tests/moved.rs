//! Vectors and canaries stay with the text, whatever it is called.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_renamed_files_keep_their_vectors() {
    let f = Fixture::new();
    for i in 0..10_000 {
        f.write(&format!("before/{}/{i}.txt", i % 10), &sentence(i, 5), 0);
    }
    f.write("stays.txt", "this one stays", 0);
    f.snapshot("r").await;
    let first = f.restore("r").await;
    assert_eq!(first.chunks_embedded, first.chunks);
    std::fs::rename(f.path("before"), f.path("after")).unwrap();
    f.write("copy.txt", "this one stays", 0);
    let second = f.snapshot("r").await;
    assert_eq!(counts(&second), [1, 10_001, 10_001, 10_001, 0, 10_000]);
    let rows = f.rows("r").await;
    assert_eq!(rows["after/3/3.txt"].moved_from, ["before/3/3.txt"]);
    assert_eq!((&rows["copy.txt"].moved_from, &rows["stays.txt"].moved_from), (&vec!["stays.txt".to_owned()], &vec![]));
    let report = f.restore("r").await;
    assert_eq!((report.chunks_embedded, report.chunks), (0, first.chunks + 1));

    // Twice without a restore in between: the earlier ids are handed on.
    std::fs::rename(f.path("after/3/3.txt"), f.path("third.txt")).unwrap();
    f.snapshot("r").await;
    std::fs::rename(f.path("third.txt"), f.path("fourth.txt")).unwrap();
    f.snapshot("r").await;
    assert_eq!(f.rows("r").await["fourth.txt"].moved_from, ["third.txt", "after/3/3.txt", "before/3/3.txt"]);
    assert_eq!(f.restore("r").await.chunks_embedded, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_metadata_embeds_nothing() {
    let f = Fixture::new();
    for i in 0..20 {
        f.write(&format!("{i}.md"), &format!("---\ntitle: A\n---\n{}", sentence(i, 20)), 0);
    }
    f.snapshot("r").await;
    f.restore("r").await;
    f.write("7.md", &format!("---\ntitle: B\n---\n{}", sentence(7, 20)), 1);
    let second = f.snapshot("r").await;
    assert_eq!(counts(&second), [19, 1, 0, 0, 1, 0]);
    assert_eq!(f.restore("r").await.chunks_embedded, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn canaries_of_documents_that_are_gone_are_replaced() {
    let f = Fixture::new();
    for i in 0..200 {
        f.write(&format!("{i}.txt"), &sentence(i, 5), 0);
    }
    f.snapshot("r").await;
    let (repository, manifest) = f.manifest("r").await;
    let first = read_canaries(&repository, &manifest).await.unwrap();
    assert_eq!(first.len(), 32);
    // A few that go are not replaced: those that stay are enough.
    for canary in &first[..10] {
        std::fs::remove_file(f.path(&canary.document_id)).unwrap();
    }
    let second = f.snapshot("r").await;
    assert_eq!((second.objects_read, second.canaries), (0, 22));
    let (_, manifest) = f.manifest("r").await;
    let kept = read_canaries(&repository, &manifest).await.unwrap();
    assert_eq!(kept, first[10..]);
    for canary in &kept[3..] {
        std::fs::remove_file(f.path(&canary.document_id)).unwrap();
    }
    let third = f.snapshot("r").await;
    assert!(third.objects_read > 0 && third.canaries >= 16, "{third:?}");
    assert_eq!(third.changes.documents_read, 0);
    let (_, manifest) = f.manifest("r").await;
    let rows = f.rows("r").await;
    let canaries = read_canaries(&repository, &manifest).await.unwrap();
    assert_eq!(canaries[..3].iter().filter(|c| kept[..3].contains(c)).count().min(3), 3.min(canaries.len()));
    for canary in &canaries {
        assert!(rows.contains_key(&canary.document_id));
        let text = std::fs::read_to_string(f.path(&canary.document_id)).unwrap();
        assert_eq!(text[canary.start as usize..canary.end as usize], canary.text);
        assert!((canary.vector.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-3);
    }
    // The restore embeds the canaries and compares.
    assert!(f.restore("r").await.chunks > 0);
}
