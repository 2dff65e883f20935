//! Bytes → text, strictly: what cannot be decoded is an error, never a replacement character.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

use crate::error::{Error, ErrorKind, Result};

/// Bytes at the start of a page that are searched for the name of its encoding.
const PRESCAN: usize = 1024;

/// Looks up a WHATWG label from a pipeline file.
pub(super) fn by_label(label: &str) -> Result<&'static Encoding> {
    Encoding::for_label(label.as_bytes()).ok_or_else(|| {
        Error::new(ErrorKind::Configuration, "unknown character encoding")
            .with("corpus.encoding", label)
            .guidance("use a WHATWG label such as `utf-8`, `windows-1252`, `shift_jis` or `gb18030`")
    })
}

fn bad(what: &str) -> Error {
    Error::new(ErrorKind::BadDocument, what)
}

/// Decodes a text file: byte order mark, then the configured encoding, then the one that an HTML page
/// declares, then UTF-8, then detection.
pub(super) fn text(bytes: &[u8], configured: Option<&'static Encoding>, html: bool) -> Result<String> {
    let text = if let Some(text) = by_mark(bytes)? {
        text
    } else if let Some(encoding) = configured {
        strict(bytes, encoding, "the configured encoding")?
    } else if let Some(encoding) = html.then(|| declared(bytes)).flatten() {
        strict(bytes, encoding, "the encoding that the page declares")?
    } else if let Some(encoding) = unmarked_utf16(bytes) {
        strict(bytes, encoding, "UTF-16")?
    } else if let Ok(text) = std::str::from_utf8(bytes) {
        text.to_owned()
    } else {
        detected(bytes)?
    };
    if text.contains('\0') {
        return Err(bad("the file is binary, not text").guidance("leave it out with `corpus.exclude`"));
    }
    Ok(text)
}

/// Decodes all of `bytes`, or names the encoding that they are not in.
pub(super) fn strict(bytes: &[u8], encoding: &'static Encoding, what: &str) -> Result<String> {
    match encoding.decode_without_bom_handling_and_without_replacement(bytes) {
        Some(text) => Ok(text.into_owned()),
        None => Err(bad("the text is malformed in its encoding")
            .with("encoding", encoding.name())
            .with("named by", what)
            .guidance("convert the file to UTF-8, or correct the name of its encoding")),
    }
}

fn by_mark(bytes: &[u8]) -> Result<Option<String>> {
    const MARK: &str = "its byte order mark";
    Ok(Some(match bytes {
        [0xFF, 0xFE, 0, 0, rest @ ..] => utf32(rest, u32::from_le_bytes)?,
        [0, 0, 0xFE, 0xFF, rest @ ..] => utf32(rest, u32::from_be_bytes)?,
        [0xEF, 0xBB, 0xBF, rest @ ..] => strict(rest, UTF_8, MARK)?,
        [0xFF, 0xFE, rest @ ..] => strict(rest, UTF_16LE, MARK)?,
        [0xFE, 0xFF, rest @ ..] => strict(rest, UTF_16BE, MARK)?,
        _ => return Ok(None),
    }))
}

fn utf32(bytes: &[u8], unit: fn([u8; 4]) -> u32) -> Result<String> {
    let (units, rest) = bytes.as_chunks::<4>();
    let text: Option<String> = units.iter().map(|u| char::from_u32(unit(*u))).collect();
    text.filter(|_| rest.is_empty())
        .ok_or_else(|| bad("the text is malformed in its encoding").with("encoding", "UTF-32"))
}

/// UTF-16 without a mark: of mostly Latin text every other byte is 0.
fn unmarked_utf16(bytes: &[u8]) -> Option<&'static Encoding> {
    let sample = &bytes[..bytes.len().min(4096)];
    let (pairs, _) = sample.as_chunks::<2>();
    if !bytes.len().is_multiple_of(2) || pairs.len() < 2 {
        return None;
    }
    let first = pairs.iter().filter(|p| p[0] == 0).count();
    let second = pairs.iter().filter(|p| p[1] == 0).count();
    match (first, second) {
        (0, n) if n * 2 > pairs.len() => Some(UTF_16LE),
        (n, 0) if n * 2 > pairs.len() => Some(UTF_16BE),
        _ => None,
    }
}

fn detected(bytes: &[u8]) -> Result<String> {
    let undecided = || {
        bad("the text is not UTF-8, and its encoding could not be detected")
            .guidance("set `corpus.encoding`, convert the file to UTF-8, or leave it out with `corpus.exclude`")
    };
    // Detection always guesses something: text with control characters is rather not text.
    if bytes.iter().any(|&b| b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r' | 0x0C | 0x1B)) {
        return Err(undecided());
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    detector.feed(bytes, true);
    let encoding = detector.guess(None, Utf8Detection::Deny);
    let text = encoding.decode_without_bom_handling_and_without_replacement(bytes).ok_or_else(undecided)?;
    Ok(text.into_owned())
}

/// The encoding in `<meta charset>`, `<meta http-equiv>` or an XML declaration.
fn declared(bytes: &[u8]) -> Option<&'static Encoding> {
    let head = bytes[..bytes.len().min(PRESCAN)].to_ascii_lowercase();
    let mut at = 0;
    while let Some(open) = find(&head[at..], b"<") {
        at += open;
        let tag = &head[at..];
        if tag.starts_with(b"<!--") {
            at += find(tag, b"-->").map_or(tag.len(), |i| i + 3);
            continue;
        }
        let end = find(tag, b">").unwrap_or(tag.len());
        let key: &[u8] = match () {
            () if tag.starts_with(b"<meta") => b"charset",
            () if tag.starts_with(b"<?xml") => b"encoding",
            () => b"",
        };
        if !key.is_empty()
            && let Some(encoding) = attribute(&tag[..end], key).and_then(Encoding::for_label)
        {
            // A page that can be read this far is not UTF-16, whatever it says.
            return Some(if encoding == UTF_16LE || encoding == UTF_16BE { UTF_8 } else { encoding });
        }
        at += end.max(1);
    }
    None
}

/// The value after `key` and `=`.
fn attribute<'b>(tag: &'b [u8], key: &[u8]) -> Option<&'b [u8]> {
    let mut rest = tag;
    while let Some(i) = find(rest, key) {
        rest = &rest[i + key.len()..];
        let value = rest.trim_ascii_start();
        if let Some(value) = value.strip_prefix(b"=") {
            let value = value.trim_ascii_start();
            let value = value.strip_prefix(b"\"").or_else(|| value.strip_prefix(b"'")).unwrap_or(value);
            let end = value.iter().position(|b| matches!(b, b'"' | b'\'' | b';' | b' ' | b'\t' | b'\n' | b'/'));
            return value.get(..end.unwrap_or(value.len()));
        }
    }
    None
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|w| w == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(bytes: &[u8]) -> Result<String> {
        text(bytes, None, false)
    }

    #[test]
    fn marks_decide_first() {
        assert_eq!(plain(b"\xEF\xBB\xBFa\xC3\xA9").unwrap(), "aé");
        assert_eq!(plain(b"\xFF\xFEa\0\xE9\0").unwrap(), "aé");
        assert_eq!(plain(b"\xFE\xFF\0a\0\xE9").unwrap(), "aé");
        assert_eq!(plain(b"\xFF\xFE\0\0a\0\0\0\xE9\0\0\0").unwrap(), "aé");
        assert_eq!(plain(b"\0\0\xFE\xFF\0\0\0a\0\0\0\xE9").unwrap(), "aé");
        assert_eq!(plain(b"\xFF\xFE\0\0a\0\0").unwrap_err().kind(), ErrorKind::BadDocument);
        assert_eq!(plain(b"\xEF\xBB\xBF\xFF").unwrap_err().kind(), ErrorKind::BadDocument);
    }

    #[test]
    fn unmarked_text_is_utf8_or_detected() {
        assert_eq!(plain("naïve 漢字".as_bytes()).unwrap(), "naïve 漢字");
        assert_eq!(
            plain(b"Gr\xFC\xDFe aus K\xF6ln, sch\xF6ne Tage f\xFCr alle").unwrap(),
            "Grüße aus Köln, schöne Tage für alle"
        );
        let (sjis, ..) = encoding_rs::SHIFT_JIS.encode("これは日本語の文章です。文字コードを判定します。");
        assert_eq!(plain(&sjis).unwrap(), "これは日本語の文章です。文字コードを判定します。");
        let utf16: Vec<u8> = "plain text".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(plain(&utf16).unwrap(), "plain text");
    }

    #[test]
    fn configured_and_declared_encodings_are_strict() {
        let koi = by_label("koi8-r").unwrap();
        assert_eq!(text(b"\xF0\xD2\xC9", Some(koi), false).unwrap(), "При");
        assert_eq!(text(b"a\xFF", Some(UTF_8), false).unwrap_err().kind(), ErrorKind::BadDocument);
        assert_eq!(by_label("klingon").unwrap_err().kind(), ErrorKind::Configuration);
        assert_eq!(text(b"<meta charset=koi8-r>\xF0\xD2\xC9", None, true).unwrap(), "<meta charset=koi8-r>При");
        let long =
            b"<!-- <meta charset=big5> --><META http-equiv=Content-Type content=\"text/html; charset=ISO-8859-1\">\xE9";
        assert!(text(long, None, true).unwrap().ends_with('é'));
        assert!(text(b"<?xml version=\"1.0\" encoding='windows-1251'?>\xCF", None, true).unwrap().ends_with('П'));
        let e = text(b"<meta charset=utf-8>\xE9", None, true).unwrap_err();
        assert_eq!(e.context_value("encoding"), Some("UTF-8"));
    }

    #[test]
    fn binary_is_refused() {
        assert_eq!(plain(b"PK\x03\x04\0\0\xFF\xFE\x80").unwrap_err().kind(), ErrorKind::BadDocument);
        assert_eq!(plain(b"text\0text, an odd one").unwrap_err().kind(), ErrorKind::BadDocument);
        assert_eq!(plain(b"\x01\x02\xFF\xFE\x81").unwrap_err().kind(), ErrorKind::BadDocument);
    }
}
