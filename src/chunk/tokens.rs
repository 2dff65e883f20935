//! Where the tokens of a text begin, window by window.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use crate::embed::{Locality, Tokenizer};
use crate::error::Result;

/// Most bytes tokenised at once; bounds the memory of a huge document.
const WINDOW: usize = 64 << 10;

/// Longest word that is remembered, and how many are: about 10 MB.
const WORD: usize = 32;
const WORDS: usize = 1 << 17;

/// Where the tokens of common words begin, so that a word-local tokenizer sees each of them once.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// One bit for each byte at which a token begins.
    known: HashMap<Box<str>, u32, foldhash::fast::RandomState>,
    joined: String,
}

/// Where the tokens of a word are looked up.
enum Found {
    Known(u32),
    /// They are tokenised now, at this place.
    New(usize),
}

/// Starts of the tokens around the place where the splitter works.
pub(super) struct Tokens<'a> {
    text: &'a str,
    tokenizer: &'a Tokenizer,
    locality: &'a Locality,
    /// Byte offsets at which tokens begin, non-decreasing.
    starts: VecDeque<usize>,
    /// How far the text is tokenised.
    to: usize,
    /// Window ends that may have cut a word: counts around them are approximate.
    rough: VecDeque<usize>,
    /// For a word-local tokenizer: words are looked up, and counts beside white space are exact.
    words: Option<Words>,
    /// Bytes given to the tokenizer so far: the cost.
    pub(super) bytes: u64,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a str, tokenizer: &'a Tokenizer, locality: &'a Locality, words: Option<Words>) -> Self {
        Self { text, tokenizer, locality, starts: VecDeque::new(), to: 0, rough: VecDeque::new(), words, bytes: 0 }
    }

    /// Forgets tokens that begin before `at`.
    pub(super) fn forget(&mut self, at: usize) {
        let n = self.index(at);
        self.starts.drain(..n);
        while self.rough.front().is_some_and(|&r| r < at) {
            self.rough.pop_front();
        }
    }

    /// Tokenises until `tokens` tokens begin at or after `from`, or `upto` is reached.
    pub(super) fn need(&mut self, from: usize, tokens: usize, upto: usize) -> Result<()> {
        let upto = upto.min(self.text.len());
        while self.to < upto && self.starts.len() - self.index(from) < tokens {
            let end = self.window_end();
            match self.words.take() {
                Some(mut words) => {
                    self.words_of(self.to..end, &mut words)?;
                    self.words = Some(words);
                }
                None => self.all_of(self.to..end)?,
            }
            if end < self.text.len() && !beside_space(self.text, end) {
                self.rough.push_back(end);
            }
            self.to = end;
        }
        Ok(())
    }

    fn all_of(&mut self, range: Range<usize>) -> Result<()> {
        self.bytes += range.len() as u64;
        // Some tokenizers give several tokens of one character the same span, or spans out of order.
        let mut last = range.start;
        for (start, _) in self.tokenizer.spans(&self.text[range.clone()])? {
            last = last.max(range.start + start);
            self.starts.push_back(last);
        }
        Ok(())
    }

    fn words_of(&mut self, range: Range<usize>, words: &mut Words) -> Result<()> {
        let text = &self.text[range.clone()];
        let (known, joined) = (&mut words.known, &mut words.joined);
        // The words that are new are tokenised together: a call has its price.
        joined.clear();
        let mut new: HashMap<&str, usize, foldhash::fast::RandomState> = HashMap::default();
        let mut found: Vec<(Range<usize>, Found)> = Vec::with_capacity(text.len() / 4);
        pieces(text, self.locality, |piece| {
            let word = &text[piece.clone()];
            let place = match known.get(word) {
                Some(starts) => Found::Known(*starts),
                None => Found::New(*new.entry(word).or_insert_with(|| {
                    joined.push_str(word);
                    joined.push(' ');
                    joined.len() - 1 - word.len()
                })),
            };
            found.push((piece, place));
        });
        let mut tokens = Vec::new();
        if !joined.is_empty() {
            self.bytes += joined.len() as u64;
            let mut last = 0;
            for (start, _) in self.tokenizer.spans(joined)? {
                last = last.max(start);
                tokens.push(last);
            }
        }
        for (piece, place) in found {
            let at = range.start + piece.start;
            match place {
                Found::Known(mut starts) => {
                    while starts != 0 {
                        self.starts.push_back(at + starts.trailing_zeros() as usize);
                        starts &= starts - 1;
                    }
                }
                Found::New(from) => {
                    let first = tokens.partition_point(|&start| start < from);
                    let end = tokens.partition_point(|&start| start < from + piece.len());
                    self.starts.extend(tokens[first..end].iter().map(|start| at + start - from));
                }
            }
        }
        for (word, from) in new {
            if word.len() > WORD || known.len() >= WORDS {
                continue;
            }
            let first = tokens.partition_point(|&start| start < from);
            let end = tokens.partition_point(|&start| start < from + word.len());
            let starts = tokens[first..end].iter().fold(0_u32, |bits, start| bits | 1 << (start - from));
            // Tokens that begin at the same byte cannot be told by bits.
            if starts.count_ones() as usize == end - first {
                known.insert(word.into(), starts);
            }
        }
        Ok(())
    }

    /// The remembered words, for the next text.
    pub(super) fn into_words(self) -> Option<Words> {
        self.words
    }

    /// A paragraph's, line's or word's end within the next window.
    fn window_end(&self) -> usize {
        if self.text.len() - self.to <= WINDOW {
            return self.text.len();
        }
        let end = self.text.floor_char_boundary(self.to + WINDOW);
        let half = self.text.floor_char_boundary(self.to + WINDOW / 2);
        let tail = &self.text[half..end];
        tail.rfind("\n\n")
            .map(|i| i + 2)
            .or_else(|| tail.rfind('\n').map(|i| i + 1))
            .or_else(|| tail.rfind([' ', '\t', '\r']).map(|i| i + 1))
            .map_or(end, |i| half + i)
    }

    fn index(&self, at: usize) -> usize {
        self.starts.partition_point(|&s| s < at)
    }

    /// Tokens that begin in `from..to`.
    pub(super) fn between(&self, from: usize, to: usize) -> usize {
        self.index(to) - self.index(from)
    }

    /// Start of the `n`-th token (from 0) that begins at or after `from`.
    pub(super) fn nth(&self, from: usize, n: usize) -> Option<usize> {
        self.starts.get(self.index(from) + n).copied()
    }

    /// Start of the `n`-th token (from 1) before `to`, or `None` when fewer are known.
    pub(super) fn nth_before(&self, to: usize, n: usize) -> Option<usize> {
        self.starts.get(self.index(to).checked_sub(n)?).copied()
    }

    /// Tokens of `text[start..end]` on its own.
    pub(super) fn count(&mut self, start: usize, end: usize) -> Result<usize> {
        let exact = self.words.is_some()
            && (start == 0 || is_space(self.text.as_bytes()[start - 1]))
            && self.text.as_bytes().get(end).is_none_or(|&b| is_space(b))
            && end <= self.to
            && !self.rough.iter().any(|&r| start < r && r < end);
        if exact {
            return Ok(self.between(start, end));
        }
        self.bytes += (end - start) as u64;
        self.tokenizer.count(&self.text[start..end])
    }
}

/// The pieces of a text that a word-local tokenizer sees one by one, without the white space between them.
fn pieces(text: &str, locality: &Locality, mut piece: impl FnMut(Range<usize>)) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if is_space(bytes[at]) {
            at += 1;
            continue;
        }
        let length = bytes[at..].iter().position(|&b| is_space(b)).unwrap_or(bytes.len() - at);
        let word = at..at + length;
        at = word.end;
        match locality {
            Locality::Punctuation { whole } if falls_apart(&bytes[word.clone()], whole) => {
                let mut from = word.start;
                for mark in word.clone().filter(|&i| bytes[i].is_ascii_punctuation()) {
                    if from < mark {
                        piece(from..mark);
                    }
                    piece(mark..mark + 1);
                    from = mark + 1;
                }
                if from < word.end {
                    piece(from..word.end);
                }
            }
            _ => piece(word),
        }
    }
}

/// Whether this word is seen by the tokenizer as its punctuation and what is between.
fn falls_apart(word: &[u8], whole: &[String]) -> bool {
    if !word.is_ascii() {
        return false;
    }
    !whole.iter().any(|token| {
        let token = token.as_bytes();
        let begins = |at: &usize| word[*at].eq_ignore_ascii_case(&token[0]);
        (0..(word.len() + 1).saturating_sub(token.len()))
            .filter(begins)
            .any(|at| word[at..at + token.len()].eq_ignore_ascii_case(token))
    })
}

/// White space at which a word-local tokenizer is sure to cut: others (such as U+0085) some drop.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn beside_space(text: &str, at: usize) -> bool {
    let bytes = text.as_bytes();
    at == 0 || at >= bytes.len() || is_space(bytes[at]) || is_space(bytes[at - 1])
}
