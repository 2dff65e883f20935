//! The model's own tokenizer, with truncation and padding off.

use std::path::Path;

use tokenizers::Encoding;

use crate::error::{Error, ErrorKind, Result};
use crate::guard::guarded;
use crate::ids::Digest;

/// A tokenizer that never truncates and never pads, whatever its file says.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    digest: Digest,
}

/// Where a tokenizer is sure to see the pieces of a text as it sees the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Locality {
    /// Nothing is known.
    Nowhere,
    /// Beside an ASCII space, tab or line end.
    Words,
    /// There, and in a word of ASCII before and after each punctuation mark.
    Punctuation {
        /// Texts, in lower case, that are one token although there may be punctuation in them: a word that holds one, in
        /// whatever case, is not cut up.
        whole: Vec<String>,
    },
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::from(e).with("file", path.display()))?;
        Self::from_bytes(&bytes).map_err(|e| e.with("file", path.display()))
    }

    /// Parses the bytes of a `tokenizer.json`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut inner = guarded(ErrorKind::ModelMismatch, || {
            let inner = tokenizers::Tokenizer::from_bytes(bytes)
                .map_err(|e| Error::new(ErrorKind::ModelMismatch, "this is not a tokenizer file").because(e))?;
            // Some files can be read but not be used: what they refer to is not in them.
            inner.encode_fast("a", true).map_err(failed)?;
            Ok(inner)
        })?;
        inner
            .with_truncation(None)
            .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot switch truncation off").because(e))?;
        inner.with_padding(None);
        Ok(Self { inner, digest: Digest::of(bytes) })
    }

    /// Digest of the tokenizer's file.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Number of tokens in the vocabulary, added tokens included.
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Byte spans in `text` of its tokens, special tokens not counted.
    pub fn spans(&self, text: &str) -> Result<Vec<(usize, usize)>> {
        Ok(encoded(|| self.inner.encode(text, false))?.get_offsets().to_vec())
    }

    /// Number of tokens, special tokens not counted.
    pub fn count(&self, text: &str) -> Result<usize> {
        Ok(encoded(|| self.inner.encode_fast(text, false))?.len())
    }

    /// Token ids as the model takes them, special tokens included.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(encoded(|| self.inner.encode_fast(text, true))?.get_ids().to_vec())
    }

    /// Where a text can be cut without a change of the tokens on either side.
    ///
    /// Beside white space for the BERT family, where words are found by white space first and then cut up one by one:
    /// the splitter then need not count a chunk again. Nowhere is the careful answer: such chunks are counted.
    pub fn locality(&self) -> Locality {
        use tokenizers::{ModelWrapper, NormalizerWrapper, PreTokenizerWrapper};
        let normalizer = matches!(
            self.inner.get_normalizer(),
            None | Some(NormalizerWrapper::BertNormalizer(_) | NormalizerWrapper::Lowercase(_))
        );
        let model = matches!(self.inner.get_model(), ModelWrapper::WordPiece(_) | ModelWrapper::WordLevel(_));
        let added: Vec<String> = self.inner.get_added_tokens_decoder().values().map(|t| t.content.clone()).collect();
        if !normalizer || !model || added.iter().any(|t| t.contains(char::is_whitespace)) {
            return Locality::Nowhere;
        }
        match self.inner.get_pre_tokenizer() {
            // Each ASCII punctuation mark is a word of its own, unless it is part of a token that was added.
            Some(PreTokenizerWrapper::BertPreTokenizer(_)) if added.iter().all(|t| t.is_ascii() && !t.is_empty()) => {
                Locality::Punctuation { whole: added.iter().map(|t| t.to_ascii_lowercase()).collect() }
            }
            Some(
                PreTokenizerWrapper::BertPreTokenizer(_)
                | PreTokenizerWrapper::Whitespace(_)
                | PreTokenizerWrapper::WhitespaceSplit(_),
            ) => Locality::Words,
            _ => Locality::Nowhere,
        }
    }

    /// Number of special tokens that `encode` adds.
    pub fn special_tokens(&self) -> Result<usize> {
        Ok(self.encode("")?.len())
    }
}

fn encoded(encode: impl FnOnce() -> tokenizers::Result<Encoding>) -> Result<Encoding> {
    guarded(ErrorKind::ModelMismatch, || encode().map_err(failed))
}

fn failed(e: tokenizers::Error) -> Error {
    Error::new(ErrorKind::Unexpected, "the tokenizer failed on a text").because(e)
}
