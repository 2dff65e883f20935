use std::fs;
use std::io::{Seek, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt;

use super::read::{Ended, Reading, Tap};
use super::*;

fn corpus(directory: &Path, toml: &str) -> Corpus {
    let settings: CorpusSettings = toml::from_str(&format!("url = '.'\n{toml}")).unwrap();
    Corpus::open(&settings, directory).unwrap()
}

const RECORDS: &str = "[[records]]\ninclude = ['*.jsonl', '*.parquet']\nid = 'id'\ntext = ['text']\n";

/// Calls a function when the first bytes have been seen; remembers all of them.
struct Meddling<F> {
    meddle: Option<F>,
    seen: Arc<std::sync::Mutex<(Vec<u8>, bool)>>,
}

impl<F: FnOnce() + Send> Tap for Meddling<F> {
    fn bytes(&mut self, part: &[u8]) -> Result<()> {
        if let Some(meddle) = self.meddle.take() {
            meddle();
        }
        self.seen.lock().unwrap().0.extend_from_slice(part);
        Ok(())
    }

    fn end(&mut self, object: &SourceObject) -> Result<()> {
        let mut seen = self.seen.lock().unwrap();
        assert_eq!(seen.0.len() as u64, object.size);
        seen.1 = true;
        Ok(())
    }
}

/// Reads `path` while `meddle` does something to it: documents, end, bytes seen and whether they count.
async fn read(
    corpus: &Corpus,
    path: &str,
    meddle: impl FnOnce() + Send + 'static,
) -> (Vec<Result<Document>>, Option<Ended>, (Vec<u8>, bool)) {
    let object = corpus.head(path).await.unwrap().unwrap();
    let seen = Arc::default();
    let tap = Meddling { meddle: Some(meddle), seen: Arc::clone(&seen) };
    let (mut documents, mut ended) = (Vec::new(), None);
    let mut readings = corpus.read_with(&object, Some(Box::new(tap)));
    while let Some(item) = readings.next().await {
        match item {
            Ok(Reading::Opened(opened)) => assert!(opened.same_state(&object)),
            Ok(Reading::Document(document)) => documents.push(Ok(document)),
            Ok(Reading::Ended(how)) => assert!(ended.replace(how).is_none()),
            Err(e) => documents.push(Err(e)),
        }
    }
    let seen = seen.lock().unwrap().clone();
    (documents, ended, seen)
}

fn append(path: &Path, text: &str) {
    fs::OpenOptions::new().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// Changes one byte in place and sets the modification time back: size and time say nothing.
fn edit_in_place(path: &Path) {
    let before = fs::metadata(path).unwrap().modified().unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(std::io::SeekFrom::Start(0)).unwrap();
    file.write_all(b"#").unwrap();
    file.set_modified(before).unwrap();
}

#[tokio::test]
async fn whatever_happens_to_a_file_while_it_is_read_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let corpus = corpus(directory.path(), RECORDS);
    let lines = |n: usize| (0..n).map(|i| format!("{{\"id\": {i}, \"text\": \"t{i}\"}}\n")).collect::<String>();
    for name in ["a.md", "r.jsonl"] {
        let write = || fs::write(path(name), lines(20_000)).unwrap();
        // Left alone, it is whole, and the tap has seen every byte.
        write();
        let (documents, ended, seen) = read(&corpus, name, || ()).await;
        assert_eq!((ended, seen), (Some(Ended::Whole), (lines(20_000).into_bytes(), true)), "{name}");
        assert!(documents.iter().all(Result::is_ok) && !documents.is_empty());
        let file = path(name);
        type Meddle = Box<dyn FnOnce() + Send>;
        let at = |f: fn(&Path)| {
            let file = file.clone();
            Box::new(move || f(&file)) as Meddle
        };
        let changes: [Meddle; 4] = [
            at(|file| append(file, "{\"id\": \"half a rec")),
            at(|file| fs::OpenOptions::new().write(true).open(file).unwrap().set_len(5000).unwrap()),
            at(|file| fs::write(file, "x").unwrap()),
            at(edit_in_place),
        ];
        for (i, change) in changes.into_iter().enumerate() {
            #[cfg(not(unix))]
            if i == 3 {
                continue; // no change time to tell by
            }
            write();
            let (_, ended, seen) = read(&corpus, name, change).await;
            assert_eq!((ended, seen.1), (Some(Ended::Changed), false), "{name}, change {i}");
        }
        // What is open can be read to its end after it was deleted or replaced.
        #[cfg(unix)]
        {
            write();
            let (documents, ended, seen) = read(&corpus, name, at(|file| fs::remove_file(file).unwrap())).await;
            // Deleting changes the inode's link count, and with it the change time: read again, it has vanished.
            assert_eq!((ended, seen.1), (Some(Ended::Changed), false), "{name}");
            drop(documents);
        }
        write();
        let object = corpus.head(name).await.unwrap().unwrap();
        fs::remove_file(&file).unwrap();
        let ended: Vec<_> = corpus.read_with(&object, None).collect().await;
        assert!(matches!(ended.as_slice(), [Ok(Reading::Ended(Ended::Vanished))]), "{ended:?}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn an_edit_that_keeps_size_and_time_is_another_state() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.md");
    fs::write(&file, "one").unwrap();
    let corpus = corpus(directory.path(), "");
    let before = corpus.head("a.md").await.unwrap().unwrap();
    assert!(before.same_state(&corpus.head("a.md").await.unwrap().unwrap()));
    // Time stamps move in steps.
    std::thread::sleep(std::time::Duration::from_millis(30));
    edit_in_place(&file);
    let after = corpus.head("a.md").await.unwrap().unwrap();
    assert_eq!((before.size, before.modified), (after.size, after.modified));
    assert!(!before.same_state(&after));
    // Of an older version of regrow there is no etag to compare.
    assert!(SourceObject { etag: None, ..before }.same_state(&after));
}

/// A file of many lines that is rewritten in place again and again, in steps: whatever counts must be of one writing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_that_count_are_never_torn() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("r.jsonl");
    let writing = |generation: u32| {
        (0..8000).map(|i| format!("{{\"id\": {i}, \"text\": \"g{generation:06}\"}}\n")).collect::<String>()
    };
    fs::write(&file, writing(0)).unwrap();
    let corpus = corpus(directory.path(), RECORDS);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (stop, path) = (stop.clone(), file.clone());
        move || {
            let mut generation = 0;
            while !stop.load(Ordering::Relaxed) {
                generation += 1;
                let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
                for part in writing(generation).as_bytes().chunks(16 << 10) {
                    file.write_all(part).unwrap();
                }
                // At times there is a pause in which a reading can succeed.
                std::thread::sleep(std::time::Duration::from_millis(u64::from(generation % 4) * 40));
            }
        }
    });
    let (mut whole, mut changed) = (0, 0);
    for _ in 0..60 {
        let object = corpus.head("r.jsonl").await.unwrap().unwrap();
        let (mut texts, mut ended) = (std::collections::BTreeSet::new(), None);
        let mut readings = corpus.read_with(&object, None);
        while let Some(item) = readings.next().await {
            match item {
                Ok(Reading::Document(document)) => drop(texts.insert(document.text)),
                Ok(Reading::Ended(how)) => ended = Some(how),
                _ => {}
            }
        }
        match ended {
            Some(Ended::Whole) => {
                whole += 1;
                assert_eq!(texts.len(), 1, "{texts:?}");
            }
            _ => changed += 1,
        }
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    assert_eq!(whole + changed, 60);
}

#[tokio::test]
async fn documents_can_be_had_from_bytes_alone() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.md"), "---\ntitle: T\n---\n# A\n").unwrap();
    fs::write(directory.path().join("r.jsonl"), "{\"id\": 1, \"text\": \"x\"}\nbad\n{\"id\": 2, \"text\": \"y\"}\n")
        .unwrap();
    let corpus = corpus(directory.path(), RECORDS);
    let settings: CorpusSettings = toml::from_str(&format!("url = 'nowhere'\n{RECORDS}")).unwrap();
    let parser = DocumentParser::new(&settings).unwrap();
    for name in ["a.md", "r.jsonl"] {
        let object = corpus.head(name).await.unwrap().unwrap();
        let bytes = fs::read(directory.path().join(name)).unwrap();
        let there: Vec<_> = corpus.read(&object).collect().await;
        let here: Vec<_> = parser.documents(&object, Box::new(std::io::Cursor::new(bytes))).collect().await;
        assert_eq!(there.len(), here.len());
        for (there, here) in there.iter().zip(&here) {
            match (there, here) {
                (Ok(there), Ok(here)) => assert_eq!(there, here),
                (Err(there), Err(here)) => assert_eq!(there.to_string(), here.to_string()),
                _ => panic!("{there:?} {here:?}"),
            }
        }
    }
}
