//! A snapshot and the corpus as it is now.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures::StreamExt;

use super::compare::{Compared, Verdict, compare};
use super::report::{DiffReport, Difference, DifferenceKind, Embedding, Matcher, Side, Tally, price};
use super::snapshots::side;
use super::state::DocumentState;
use super::{DiffOptions, settings};
use crate::aside::{Aside, PARTITIONS, partition_of};
use crate::corpus::{Corpus, Document, SourceObject};
use crate::error::{ErrorKind, Result};
use crate::event::Stage;
use crate::measure::cores;
use crate::repository::{DocumentBrief, Manifest, Repository, payload_digest};
use crate::snapshot::{Listed, skipped};
use crate::workspace::Workspace;

/// Opens the corpus where the pipeline says it is, to be read as the snapshot recorded.
pub(crate) fn recorded_corpus(workspace: &Workspace, manifest: &Manifest) -> Result<Corpus> {
    let mut settings = manifest.corpus.settings.clone();
    settings.url = workspace.pipeline.corpus.url.clone();
    settings.store = workspace.pipeline.corpus.store.clone();
    workspace.corpus(&settings)
}

pub(super) async fn diff_corpus(
    workspace: &Workspace,
    repository: &Repository,
    manifest: &Manifest,
    options: &DiffOptions,
) -> Result<DiffReport> {
    let now = jiff::Timestamp::now();
    let corpus = recorded_corpus(workspace, manifest)?;
    let mut listed = Listed::new(&corpus, &workspace.cancel).await?;
    let left_out = skipped(repository, manifest).await?.into_iter().map(|s| s.path);
    let mut sides = Sides {
        rehash: options.rehash,
        rate: Rate::of(manifest),
        left_out: left_out.collect(),
        files: BTreeMap::new(),
        matcher: Matcher::new(options.limit)?,
        unchanged: 0,
        old: Aside::new(PARTITIONS)?,
        to_read: Aside::new(PARTITIONS)?,
    };
    compare(repository, manifest, Some(&mut listed), &workspace.cancel, &mut sides).await?;
    let documents_read = sides.finish(workspace, &corpus).await?;
    let named = sides.matcher.finish()?;

    let matcher = sides.matcher;
    let mut embed = Embedding { estimated: true, ..Embedding::default() };
    for kind in [DifferenceKind::Added, DifferenceKind::Text, DifferenceKind::Changed] {
        embed.chunks += matcher.tally(kind).chunks;
        embed.tokens += matcher.tally(kind).tokens;
    }
    embed.usd = price(workspace, embed.tokens);
    let from = side(manifest);
    let [chunks, tokens, bytes] = matcher.change;
    let documents = matcher.tally(DifferenceKind::Added).documents;
    let gone = matcher.tally(DifferenceKind::Removed).documents;
    let total = Tally {
        documents: (from.total.documents + documents).saturating_sub(gone),
        chunks: from.total.chunks.saturating_add_signed(chunks),
        tokens: from.total.tokens.saturating_add_signed(tokens),
        bytes: from.total.bytes.saturating_add_signed(bytes),
    };
    Ok(DiffReport {
        verb: "diff",
        ok: true,
        exit_code: 0,
        from,
        to: Side { snapshot: None, created: now, total },
        unchanged: sides.unchanged + matcher.same,
        differences: matcher.tallies,
        chunks_change: chunks,
        tokens_change: tokens,
        bytes_change: bytes,
        embed,
        settings: settings::of_pipeline(manifest, &workspace.pipeline),
        named,
        documents_read,
    })
}

/// Chunks and tokens per byte of the snapshot's documents, for those that are not cut.
#[derive(Clone, Copy)]
struct Rate {
    chunks: f64,
    tokens: f64,
}

impl Rate {
    fn of(manifest: &Manifest) -> Self {
        let counts = &manifest.counts;
        if counts.bytes == 0 {
            return Self { chunks: 1.0 / 1000.0, tokens: 1.0 / 4.0 };
        }
        let per_byte = |n: u64| n as f64 / counts.bytes as f64;
        Self { chunks: per_byte(counts.chunks), tokens: per_byte(counts.tokens) }
    }

    fn chunks(self, bytes: u64) -> u64 {
        if bytes == 0 { 0 } else { ((bytes as f64 * self.chunks).round() as u64).max(1) }
    }

    fn tokens(self, bytes: u64) -> u64 {
        (bytes as f64 * self.tokens).round() as u64
    }

    fn difference(self, document_id: String, kind: DifferenceKind, bytes: u64) -> Difference {
        let (chunks, tokens) = (self.chunks(bytes), self.tokens(bytes));
        Difference { document_id, kind, moved_from: None, bytes, chunks, tokens }
    }
}

/// A record file of the snapshot that is not the same any more.
struct RecordFile {
    now: SourceObject,
    before: Tally,
}

struct Sides {
    rehash: bool,
    rate: Rate,
    /// Objects that the snapshot left out, wholly or in part: they are not new, unless they can be read by now.
    left_out: HashSet<String>,
    /// Record files that differ, by path; with `None` those to be read.
    files: BTreeMap<String, Option<RecordFile>>,
    matcher: Matcher,
    unchanged: u64,
    /// Documents of objects that are gone or will be read.
    old: Aside<DocumentState>,
    to_read: Aside<SourceObject>,
}

impl Compared for Sides {
    fn known(&mut self, _: (u32, usize), row: DocumentBrief, now: Option<(&SourceObject, Verdict)>) -> Result<()> {
        let Some((now, verdict)) = now else {
            return self.old.push(partition_of(&row.document_id), &row.into());
        };
        if self.rehash || verdict == Verdict::Suspect {
            let first = row.line.is_none() || self.files.insert(now.path.clone(), None).is_none();
            if first {
                self.to_read.push(partition_of(&now.path), now)?;
            }
            return self.old.push(partition_of(&row.document_id), &row.into());
        }
        if verdict == Verdict::Same {
            self.unchanged += 1;
            return Ok(());
        }
        let state = DocumentState::from(row.clone());
        if row.line.is_none() {
            let difference = self.rate.difference(row.document_id, DifferenceKind::Changed, now.size);
            self.matcher.count(difference, state.tally());
            return Ok(());
        }
        let fresh = || Some(RecordFile { now: now.clone(), before: Tally::default() });
        if let Some(file) = self.files.entry(now.path.clone()).or_insert_with(fresh) {
            file.before.add(state.tally());
        }
        Ok(())
    }

    fn unknown(&mut self, object: SourceObject) -> Result<()> {
        if self.rehash {
            return self.to_read.push(partition_of(&object.path), &object);
        }
        if self.left_out.contains(&object.path) {
            return Ok(());
        }
        let difference = self.rate.difference(object.path, DifferenceKind::Added, object.size);
        self.matcher.count(difference, Tally::default());
        Ok(())
    }
}

impl Sides {
    /// Counts record files that differ, reads what must be read, and matches it with what the snapshot has. Returns
    /// how many documents were read.
    async fn finish(&mut self, workspace: &Workspace, corpus: &Corpus) -> Result<u64> {
        for (path, file) in std::mem::take(&mut self.files) {
            if let Some(file) = file {
                let difference = self.rate.difference(path, DifferenceKind::Changed, file.now.size);
                self.matcher.count(difference, file.before);
            }
        }
        self.old.seal()?;
        let mut new = Aside::new(PARTITIONS)?;
        let mut unreadable = HashSet::new();
        self.to_read.seal()?;
        let started = std::time::Instant::now();
        workspace.events.start(Stage::Read, None, "documents");
        for partition in 0..PARTITIONS {
            let objects = self.to_read.rows(partition)?;
            let each = objects.iter().map(|object| corpus.read(object));
            let mut documents = futures::stream::iter(each).flatten_unordered(cores() + 1);
            while let Some(document) = documents.next().await {
                workspace.cancel.check()?;
                match document {
                    Ok(document) => {
                        new.push(partition_of(&document.id), &self.state(document)?)?;
                        workspace.events.progress(Stage::Read, 1);
                    }
                    Err(e) if e.kind() == ErrorKind::BadDocument => {
                        let path = e.context_value("file").unwrap_or_default().to_owned();
                        // A bad record is one that is not there; a bad file is named, unless it was bad before.
                        let known = corpus.holds_records(&path) || self.left_out.contains(&path);
                        if !known && unreadable.insert(path.clone()) {
                            let difference = self.rate.difference(path, DifferenceKind::Unreadable, 0);
                            self.matcher.count(difference, Tally::default());
                        }
                    }
                    Err(e) => return Err(e),
                }
            }
        }
        workspace.events.finish(Stage::Read, started.elapsed().as_secs_f64());
        let read = new.len();
        for partition in 0..PARTITIONS {
            let mut old = self.old.rows(partition)?;
            old.retain(|state| !unreadable.contains(&state.document_id));
            let mut new = new.rows(partition)?;
            let known: HashMap<&str, &DocumentState> = old.iter().map(|s| (s.document_id.as_str(), s)).collect();
            for state in &mut new {
                // The same text is cut into the same chunks.
                if let Some(before) = known.get(state.document_id.as_str())
                    && before.text_digest == state.text_digest
                {
                    (state.chunks, state.tokens) = (before.chunks, before.tokens);
                }
            }
            self.matcher.documents(old, new)?;
        }
        Ok(read)
    }

    fn state(&self, document: Document) -> Result<DocumentState> {
        let text = document.text.len() as u64;
        Ok(DocumentState {
            bytes: document.bytes,
            digest: document.digest,
            text_digest: document.text_digest,
            payload_digest: payload_digest(&document)?,
            chunks: self.rate.chunks(text),
            tokens: self.rate.tokens(text),
            moved_from: Vec::new(),
            document_id: document.id,
        })
    }
}
