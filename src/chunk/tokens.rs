//! Where the tokens of a text begin, window by window.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use crate::embed::Tokenizer;
use crate::error::Result;

/// Most bytes tokenised at once; bounds the memory of a huge document.
const WINDOW: usize = 64 << 10;

/// Longest word that is remembered, and how many are.
const WORD: usize = 32;
const WORDS: usize = 1 << 16;

/// Where the tokens of common words begin, so that a word-local tokenizer sees each of them once.
#[derive(Debug, Default)]
pub(super) struct Words(HashMap<Box<str>, Box<[u8]>>);

/// Starts of the tokens around the place where the splitter works.
pub(super) struct Tokens<'a> {
    text: &'a str,
    tokenizer: &'a Tokenizer,
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
    pub(super) fn new(text: &'a str, tokenizer: &'a Tokenizer, words: Option<Words>) -> Self {
        Self { text, tokenizer, starts: VecDeque::new(), to: 0, rough: VecDeque::new(), words, bytes: 0 }
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
        let parts = || text.split(|c: char| u8::try_from(c).is_ok_and(is_space));
        // The words that are new, tokenised together: a call has its price.
        let mut joined = String::new();
        let mut new: HashMap<&str, usize> = HashMap::new();
        for word in parts().filter(|word| !word.is_empty() && !words.0.contains_key(*word)) {
            new.entry(word).or_insert_with(|| {
                joined.push_str(word);
                joined.push(' ');
                joined.len() - 1 - word.len()
            });
        }
        let mut found = Vec::new();
        if !joined.is_empty() {
            self.bytes += joined.len() as u64;
            let mut last = 0;
            for (start, _) in self.tokenizer.spans(&joined)? {
                last = last.max(start);
                found.push(last);
            }
        }
        let mut at = range.start;
        for word in parts() {
            if let Some(starts) = words.0.get(word) {
                self.starts.extend(starts.iter().map(|&start| at + usize::from(start)));
            } else if let Some(&from) = new.get(word) {
                let first = found.partition_point(|&start| start < from);
                let end = found.partition_point(|&start| start < from + word.len());
                let starts = found[first..end].iter().map(|start| start - from);
                self.starts.extend(starts.clone().map(|start| at + start));
                if word.len() <= WORD && words.0.len() < WORDS {
                    // A word is shorter than 256 bytes.
                    words.0.insert(word.into(), starts.map(|start| start as u8).collect());
                }
            }
            at += word.len() + 1;
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

/// White space at which a word-local tokenizer is sure to cut: others (such as U+0085) some drop.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn beside_space(text: &str, at: usize) -> bool {
    let bytes = text.as_bytes();
    at == 0 || at >= bytes.len() || is_space(bytes[at]) || is_space(bytes[at - 1])
}
