//! Previous snapshots that are damaged, unfinished or of an earlier format.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_previous_snapshot_is_not_built_on() {
    for missing in [false, true] {
        let f = Fixture::new();
        for i in 0..50 {
            f.write(&format!("{i}.txt"), &sentence(i, 9), 0);
        }
        f.snapshot("r").await;
        let (_, manifest) = f.manifest("r").await;
        let object = f.directory.path().join("r").join(&manifest.inventory[0].path);
        if missing {
            std::fs::remove_file(&object).unwrap();
        } else {
            let mut bytes = std::fs::read(&object).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&object, bytes).unwrap();
        }
        // Something changed, or the inventory would not be looked into.
        f.write("new.txt", "new", 0);
        let second = f.snapshot("r").await;
        assert_eq!((second.objects_read, second.documents), (51, 51));
        f.rehash("s").await;
        assert_eq!(f.rows("r").await, f.rows("s").await);
        // And the one that is there now serves as usual.
        assert_eq!(f.snapshot("r").await.objects_read, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_stopped_leaves_no_snapshot() {
    let f = Fixture::new();
    for i in 0..100 {
        f.write(&format!("{i}.txt"), &sentence(i, 9), 0);
    }
    f.snapshot("r").await;
    let (repository, first) = f.manifest("r").await;
    for i in 0..50 {
        f.write(&format!("{i}.txt"), &sentence(i + 1, 12), 1);
    }
    // Stopped when so many documents have been told.
    struct StopAt(std::sync::atomic::AtomicI64, crate::cancel::Cancel);
    impl crate::event::Reporter for StopAt {
        fn event(&self, event: &crate::event::Event) {
            if let crate::event::Event::Progress { delta, .. } = event
                && self.0.fetch_sub(*delta as i64, std::sync::atomic::Ordering::SeqCst) <= *delta as i64
            {
                self.1.cancel();
            }
        }
    }
    for after in [1, 51, 60, 99] {
        let mut workspace = f.workspace("r");
        let reporter = StopAt(after.into(), workspace.cancel.clone());
        workspace.events = crate::event::Events::new(Arc::new(reporter));
        let stopped = snapshot(&workspace, &SnapshotOptions::default()).await.unwrap_err();
        assert_eq!(stopped.kind(), ErrorKind::Cancelled);
        assert_eq!(Manifest::ids(&repository).await.unwrap(), [first.id.as_str()]);
    }
    let second = f.snapshot("r").await;
    assert_eq!(counts(&second), [50, 50, 0, 0, 50, 0]);
    f.rehash("s").await;
    assert_eq!(f.rows("r").await, f.rows("s").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_format_1_is_built_on() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1");
    let directory = tempfile::tempdir().unwrap();
    copy(&source, directory.path());
    let (mut pipeline, base) = Pipeline::load(&directory.path().join("regrow.toml")).unwrap();
    pipeline.model.source = Some(tiny().display().to_string());
    let models = ModelStore::new(directory.path().join("models"), FetchOptions::default());
    let workspace = Workspace::new(pipeline, base, models);
    let repository = workspace.repository().await.unwrap();
    let old = Manifest::find(&repository, "latest", None).await.unwrap();
    assert_eq!((old.format, old.corpus.newest), (1, None));
    let mut reader = InventoryReader::new(&repository, &old);
    let mut before = Vec::new();
    for bucket in 0..1 << old.buckets.bits {
        before.extend(reader.bucket(bucket).await.unwrap());
    }
    for row in &before {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(row.object.modified as u64);
        let file = std::fs::File::options().write(true).open(directory.path().join("docs").join(&row.object.path));
        file.unwrap().set_modified(time).unwrap();
    }
    let options = SnapshotOptions { skip_target: true, ..SnapshotOptions::default() };
    let report = snapshot(&workspace, &options).await.unwrap();
    assert_eq!(report.changes.documents_unchanged, before.len() as u64, "{report:?}");
    let new = Manifest::find(&repository, "latest", None).await.unwrap();
    assert_eq!((new.format, &new.counts), (2, &old.counts));
    // Nothing of it lies in the folder of the old snapshot.
    assert!(new.objects().all(|o| !o.path.starts_with("snapshots/")));
    let mut reader = InventoryReader::new(&repository, &new);
    let mut after = Vec::new();
    for bucket in 0..1 << new.buckets.bits {
        after.extend(reader.bucket(bucket).await.unwrap());
    }
    // Files had no tags then.
    after.iter_mut().for_each(|row| row.object.etag = None);
    assert_eq!(after, before);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)
        } else {
            std::fs::copy(entry.path(), target).map(|_| ()).unwrap()
        }
    }
}
