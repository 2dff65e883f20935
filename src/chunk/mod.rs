//! How a document is cut into chunks, reproducibly.
//!
//! # The rule
//!
//! Text is cut left to right. A chunk begins at a character that is not white space and holds at most
//! `size` tokens, counted by the model's tokenizer on the chunk's own text, and at most 64 bytes per
//! token of `size` (so that a long run without tokens cannot make an endless chunk). When the rest of
//! the text fits, it is the last chunk. Otherwise the end is chosen among these boundaries, strongest first:
//!
//! 1. headings, `#` before `##` and so on; thematic breaks; top-level blocks (paragraphs, lists, code
//!    blocks, tables, quotes; in plain text, what a blank line separates)
//! 2. list items, outer before inner; blocks inside items and quotes; table rows
//! 3. line ends after the end of a sentence; other line ends; sentences (UAX #29, but not between ASCII characters without white space)
//! 4. white space; words (UAX #29); grapheme clusters
//!
//! The chunk ends at the strongest boundary in its second half, counted in tokens, and at the last one
//! of that strength. Two things are kept together: a heading with the block that follows it, and a code
//! block or table that fits into a chunk by itself. If the second half has no boundary outside these, the
//! chunk ends at the last block or item boundary of its first half; only if there is none either are they cut.
//!
//! The next chunk begins where this one ends, or earlier by at most `overlap` tokens (and 64 bytes for
//! each): at the strongest boundary that shares at least half of that, else the first that shares less. A chunk that begins
//! with a top-level heading shares nothing, and no overlap reaches back over the start of its section.
//!
//! Spans are trimmed of white space at both ends. Line ends are kept as they are in the text: spans are
//! byte offsets into exactly the text that the corpus yields. Every byte that is not white space is in
//! some chunk; starts and ends strictly increase. Text without any token (control characters only) is
//! still a chunk, with 0 tokens. A single grapheme cluster of more than `size` tokens is an error.
//!
//! The text is tokenised once, in windows (a word once, where the tokenizer works word by word), and a chunk is counted again only where the tokenizer does
//! not guarantee that a cut at white space leaves the tokens beside it alone.
//!
//! A change of any of this, or an update of the Markdown parser or the Unicode tables that moves the
//! pinned spans in the tests, must raise [`SPLITTER_VERSION`].

mod boundaries;
mod rules;
mod splitter;
mod tokens;

pub use rules::{Chunk, ChunkingRules, SPLITTER_VERSION};
pub use splitter::Chunker;

#[cfg(test)]
mod tests;
