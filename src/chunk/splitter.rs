//! The splitter; the rule it follows is in the module's documentation.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use unicode_segmentation::UnicodeSegmentation;

use super::boundaries::{LINE, Level, SENTENCE_LINE, Structure, line_level};
use super::rules::{Chunk, ChunkingRules, SPLITTER_VERSION};
use super::tokens::{Tokens, Words};
use crate::corpus::TextFormat;
use crate::embed::{Locality, Tokenizer};
use crate::error::{Error, ErrorKind, Result};

/// Most bytes of a chunk per token of its size.
const BYTES_PER_TOKEN: usize = 64;
/// Text after a boundary that segmentation looks at.
const LOOK_AHEAD: usize = 128;

const SENTENCE: Level = 4;
const SPACE: Level = 3;
const WORD: Level = 2;
const GRAPHEME: Level = 1;

/// Cuts texts into chunks by fixed rules; shared by threads.
#[derive(Debug, Clone)]
pub struct Chunker {
    rules: ChunkingRules,
    tokenizer: Tokenizer,
    locality: Locality,
    /// Words that calls before have seen; one set for each thread that is at work.
    words: Arc<Mutex<Vec<Words>>>,
}

impl Chunker {
    /// A chunker for `rules`.
    ///
    /// # Errors
    /// `ModelMismatch` when `tokenizer` is not the one of the rules; `Configuration` for another splitter
    /// version or unit, a size of 0, or an overlap that is not smaller than the size.
    pub fn new(rules: ChunkingRules, tokenizer: Tokenizer) -> Result<Self> {
        let wrong = |what: &str| Error::new(ErrorKind::Configuration, what);
        if rules.splitter_version != SPLITTER_VERSION {
            return Err(wrong("the chunking rules ask for another version of the splitter")
                .with("required", rules.splitter_version)
                .with("here", SPLITTER_VERSION)
                .guidance("use the version of regrow that made the snapshot, or make a new snapshot with this one"));
        }
        if rules.unit != "tokens" {
            return Err(wrong("the unit of chunk sizes is not known")
                .with("unit", &rules.unit)
                .guidance("the only unit is `tokens`"));
        }
        if rules.size == 0 {
            return Err(wrong("the chunk size is 0").guidance("set `chunking.size` to at least 1"));
        }
        if rules.overlap >= rules.size {
            return Err(wrong("the overlap of chunks must be smaller than their size")
                .with("size", rules.size)
                .with("overlap", rules.overlap)
                .guidance("lower `chunking.overlap`; a tenth of the size is usual"));
        }
        if rules.tokenizer != tokenizer.digest() {
            return Err(Error::new(ErrorKind::ModelMismatch, "the tokenizer is not the one of the chunking rules")
                .with("required", rules.tokenizer)
                .with("here", tokenizer.digest())
                .guidance("use the model that the snapshot names"));
        }
        let locality = tokenizer.locality();
        Ok(Self { rules, tokenizer, locality, words: Arc::default() })
    }

    /// The rules.
    pub fn rules(&self) -> &ChunkingRules {
        &self.rules
    }

    /// Spans of the chunks of `text`, in order. White space alone has none.
    ///
    /// # Errors
    /// `BadDocument` when a single grapheme cluster has more tokens than a chunk may have, with its offset.
    pub fn chunk(&self, text: &str, format: TextFormat) -> Result<Vec<Chunk>> {
        self.chunk_counted(text, format).map(|(chunks, _)| chunks)
    }

    /// As [`Chunker::chunk`], with the number of bytes that were given to the tokenizer.
    pub(super) fn chunk_counted(&self, text: &str, format: TextFormat) -> Result<(Vec<Chunk>, u64)> {
        // What is remembered changes no result, so one that panicked has spoilt nothing.
        let pool = || self.words.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let words = (self.locality != Locality::Nowhere).then(|| pool().unwrap_or_default());
        let mut cutter = Cutter {
            text,
            size: self.rules.size as usize,
            overlap: self.rules.overlap as usize,
            structure: Structure::new(text, format),
            tokens: Tokens::new(text, &self.tokenizer, &self.locality, words),
            solid_fits: None,
        };
        let mut chunks: Vec<Chunk> = Vec::new();
        // Every byte before `covered` that is not white space is in a chunk.
        let (mut covered, mut start) = (0, cutter.skip_space(0));
        while start < text.len() {
            let Some((end, tokens)) = cutter.cut(start, covered)? else {
                // The overlap left no room for anything new.
                start = cutter.skip_space(covered);
                continue;
            };
            let ordinal = u32::try_from(chunks.len()).map_err(|_| too_many())?;
            let tokens = u32::try_from(tokens).map_err(|_| too_many())?;
            chunks.push(Chunk { ordinal, start, end, tokens });
            let rest = cutter.skip_space(end);
            if rest == text.len() {
                break;
            }
            covered = end;
            start = cutter.overlap_start(start, end, rest)?.unwrap_or(rest);
            cutter.tokens.forget(start);
        }
        let bytes = cutter.tokens.bytes;
        if let Some(words) = cutter.tokens.into_words() {
            self.words.lock().unwrap_or_else(PoisonError::into_inner).push(words);
        }
        Ok((chunks, bytes))
    }
}

fn too_many() -> Error {
    Error::new(ErrorKind::BadDocument, "the document has more chunks than can be numbered")
}

struct Cutter<'a> {
    text: &'a str,
    size: usize,
    overlap: usize,
    structure: Structure,
    tokens: Tokens<'a>,
    /// The last code block or table asked for, and whether it fits into a chunk.
    solid_fits: Option<(usize, bool)>,
}

impl Cutter<'_> {
    fn skip_space(&self, at: usize) -> usize {
        self.text.len() - self.text[at..].trim_start().len()
    }

    fn trim_end(&self, start: usize, end: usize) -> usize {
        start + self.text[start..end].trim_end().len()
    }

    /// End and tokens of the chunk at `start`; `None` when it cannot reach beyond `covered`.
    fn cut(&mut self, start: usize, covered: usize) -> Result<Option<(usize, usize)>> {
        let overlapping = start < covered;
        // A cut must be beyond this.
        let floor = if overlapping { self.skip_space(covered) } else { start };
        let most = start + self.size.saturating_mul(BYTES_PER_TOKEN).min(self.text.len() - start);
        let cap = self.text.floor_char_boundary(most);
        let mut budget = self.size;
        let mut tries = 0;
        while budget > 0 {
            self.tokens.need(start, budget + 1, cap)?;
            let by_tokens = self.tokens.nth(start, budget).map_or(cap, |t| self.text.floor_char_boundary(t));
            let limit = by_tokens.min(cap);
            let end = if limit == self.text.len() {
                Some(limit)
            } else {
                let half = if by_tokens <= cap {
                    self.tokens.nth(start, budget / 2).unwrap_or(start)
                } else {
                    start + (limit - start) / 2
                };
                self.choose(start, floor, half, limit)?
            };
            let Some(end) = end else { break };
            let end = self.trim_end(start, end);
            if end > floor {
                let tokens = self.tokens.count(start, end)?;
                if tokens <= self.size {
                    return Ok(Some((end, tokens)));
                }
                tries += 1;
                // The tokenizer makes more tokens of the piece than of the same bytes in the whole.
                budget = if tries < 4 { budget.saturating_sub((tokens - self.size).max(1)) } else { budget / 2 };
            } else {
                break;
            }
        }
        if overlapping {
            return Ok(None);
        }
        self.one_grapheme(start).map(Some)
    }

    /// The last resort: one grapheme cluster.
    fn one_grapheme(&mut self, start: usize) -> Result<(usize, usize)> {
        let first = self.text[start..].graphemes(true).next().map_or(0, str::len);
        let end = self.trim_end(start, start + first);
        let tokens = self.tokens.count(start, end)?;
        if tokens > self.size {
            return Err(Error::new(ErrorKind::BadDocument, "one character has more tokens than a chunk may have")
                .with("byte", start)
                .with("tokens", tokens)
                .with("size", self.size)
                .guidance("raise `chunking.size`, or leave the document out"));
        }
        Ok((end, tokens))
    }

    /// Where a chunk that begins at `start` ends at best: beyond `floor` and not beyond `limit`.
    fn choose(&mut self, start: usize, floor: usize, half: usize, limit: usize) -> Result<Option<usize>> {
        let low = if half >= limit { floor } else { half.max(floor) };
        if let Some(at) = self.strongest_last(start, low, limit, true)? {
            return Ok(Some(at));
        }
        let first_half = floor + 1..low + 1;
        if first_half.start < first_half.end {
            let candidates: Vec<usize> = self.structure.within(first_half).iter().map(|b| b.0).collect();
            for at in candidates.into_iter().rev() {
                if self.allowed(at)? {
                    return Ok(Some(at));
                }
            }
        }
        if let Some(at) = self.strongest_last(start, low, limit, false)? {
            return Ok(Some(at));
        }
        self.strongest_last(start, floor, limit, false)
    }

    /// The last of the strongest boundaries in `low + 1..=limit`.
    fn strongest_last(&mut self, start: usize, low: usize, limit: usize, keep: bool) -> Result<Option<usize>> {
        if low >= limit {
            return Ok(None);
        }
        let range = low + 1..limit + 1;
        let mut best: Option<(Level, usize)> = None;
        let structural: Vec<(usize, Level)> = self.structure.within(range.clone()).to_vec();
        for (at, level) in structural {
            if best.is_none_or(|b| (level, at) > b) && (!keep || self.allowed(at)?) {
                best = Some((level, at));
            }
        }
        if let Some((_, at)) = best {
            return Ok(Some(at));
        }
        for level in [SENTENCE_LINE, LINE, SENTENCE, SPACE, WORD, GRAPHEME] {
            for at in self.boundaries(level, start, range.clone()).into_iter().rev() {
                if !keep || self.allowed(at)? {
                    return Ok(Some(at));
                }
            }
        }
        Ok(None)
    }

    /// Whether a cut at `at` keeps together what should be.
    fn allowed(&mut self, at: usize) -> Result<bool> {
        if self.structure.parts_heading(at) {
            return Ok(false);
        }
        match self.structure.solid(at) {
            Some(block) => Ok(!self.fits(block)?),
            None => Ok(true),
        }
    }

    /// Whether a code block or table fits into a chunk by itself.
    fn fits(&mut self, block: Range<usize>) -> Result<bool> {
        if let Some((start, fits)) = self.solid_fits
            && start == block.start
        {
            return Ok(fits);
        }
        let short = block.len() <= self.size.saturating_mul(BYTES_PER_TOKEN);
        let fits = short && {
            self.tokens.need(block.start, self.size + 1, block.end)?;
            self.tokens.between(block.start, block.end) <= self.size
        };
        self.solid_fits = Some((block.start, fits));
        Ok(fits)
    }

    /// Boundaries of one level below the structural ones, in `range`, in order.
    fn boundaries(&self, level: Level, start: usize, range: Range<usize>) -> Vec<usize> {
        let text = self.text;
        let ahead = text.ceil_char_boundary((range.end + LOOK_AHEAD).min(text.len()));
        let from = |it: &mut dyn Iterator<Item = usize>| {
            it.map(|i| start + i).skip_while(|&at| at < range.start).take_while(|at| range.contains(at)).collect()
        };
        match level {
            SENTENCE_LINE | LINE => {
                let bytes = text.as_bytes();
                range
                    .filter(|&at| matches!(bytes[at - 1], b'\n' | b'\r') && line_level(text, at) == Some(level))
                    .collect()
            }
            // Without white space, `?` and `!` are rather part of a URL or of code than ends of sentences.
            SENTENCE => from(&mut text[start..ahead].split_sentence_bound_indices().map(|(i, _)| i).filter(|&i| {
                text[start..start + i].chars().next_back().is_some_and(|c| c.is_whitespace() || !c.is_ascii())
            })),
            SPACE => {
                let low = text.ceil_char_boundary(range.start);
                let mut after_space = text[..low].chars().next_back().is_some_and(char::is_whitespace);
                let mut out = Vec::new();
                for (i, c) in text[low..].char_indices().take_while(|(i, _)| low + i < range.end) {
                    if after_space && !c.is_whitespace() {
                        out.push(low + i);
                    }
                    after_space = c.is_whitespace();
                }
                out
            }
            WORD => from(&mut text[start..ahead].split_word_bound_indices().map(|(i, _)| i)),
            _ => from(&mut text[start..ahead].grapheme_indices(true).map(|(i, _)| i)),
        }
    }

    /// Where the chunk after `start..end` begins if it shares something; `rest` is where it begins if not.
    fn overlap_start(&mut self, start: usize, end: usize, rest: usize) -> Result<Option<usize>> {
        let section = self.structure.section(rest);
        if self.overlap == 0 || section == Some(rest) {
            return Ok(None);
        }
        // As with chunks, a bound in bytes: text without tokens must not be shared for nothing.
        let farthest = end.saturating_sub(self.overlap.saturating_mul(BYTES_PER_TOKEN));
        let lowest = section.unwrap_or(0).max(start + 1).max(farthest);
        if lowest >= end {
            return Ok(None);
        }
        let mut budget = self.overlap;
        for _ in 0..2 {
            let low = self.tokens.nth_before(end, budget).unwrap_or(lowest).clamp(lowest, end);
            let half = self.tokens.nth_before(end, budget.div_ceil(2)).unwrap_or(end).clamp(low, end);
            let Some(at) = self.strongest_first(start, low, half, end) else { return Ok(None) };
            let at = self.skip_space(at);
            if at <= start || at >= end {
                return Ok(None);
            }
            let shared = self.tokens.count(at, end)?;
            if shared <= self.overlap {
                return Ok(Some(at));
            }
            budget = budget.saturating_sub(shared - self.overlap);
            if budget == 0 {
                break;
            }
        }
        Ok(None)
    }

    /// The first of the strongest boundaries in `low..=half`, else of those up to `end`.
    fn strongest_first(&self, start: usize, low: usize, half: usize, end: usize) -> Option<usize> {
        for range in [low..half + 1, half + 1..end] {
            if range.start >= range.end {
                continue;
            }
            let mut best: Option<(Level, usize)> = None;
            for &(at, level) in self.structure.within(range.clone()) {
                if best.is_none_or(|b| level > b.0) && !self.structure.parts_heading(at) {
                    best = Some((level, at));
                }
            }
            if best.is_some() {
                return best.map(|b| b.1);
            }
            for level in [SENTENCE_LINE, LINE, SENTENCE, SPACE, WORD] {
                let found = self.boundaries(level, start, range.clone());
                if let Some(at) = found.into_iter().find(|&at| !self.structure.parts_heading(at)) {
                    return Some(at);
                }
            }
        }
        None
    }
}
