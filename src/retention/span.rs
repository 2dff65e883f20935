//! Spans of time as people write them: `90s`, `10m`, `12h`, `30d`, `8w`, `6mo`, `1y`.

use jiff::SignedDuration;

use crate::error::{Error, ErrorKind, Result};

/// Units with their seconds. A month is 30 days and a year 365: a span must not depend on when it is asked.
const UNITS: [(&str, i64); 7] =
    [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400), ("w", 7 * 86_400), ("mo", 30 * 86_400), ("y", 365 * 86_400)];

/// Parses a span: numbers with units, largest first or not, such as `30d` or `1d12h`.
///
/// # Errors
/// [`ErrorKind::Configuration`] for anything else, and for more than a thousand years.
pub fn parse_span(text: &str) -> Result<SignedDuration> {
    let wrong = || {
        Error::new(ErrorKind::Configuration, "this is not a span of time").with("span", text).guidance(
            "write a number and a unit, such as 10m, 12h, 30d, 8w, 6mo or 1y (m is minutes, mo is months of 30 days)",
        )
    };
    let mut seconds: i64 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let after = &rest[digits..];
        let letters = after.len() - after.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let number: i64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = UNITS.iter().find(|(name, _)| *name == &after[..letters]).ok_or_else(wrong)?;
        seconds = number.checked_mul(unit.1).and_then(|n| seconds.checked_add(n)).ok_or_else(wrong)?;
        rest = after[letters..].trim_start();
    }
    if seconds > 1000 * 365 * 86_400 {
        return Err(wrong());
    }
    Ok(SignedDuration::from_secs(seconds))
}

/// A span in its largest unit that divides it: `30d`, `36h`.
pub fn span_text(span: SignedDuration) -> String {
    let seconds = span.as_secs();
    let (name, size) = [("d", 86_400), ("h", 3600), ("m", 60)]
        .into_iter()
        .find(|(_, size)| seconds >= *size && seconds % size == 0)
        .unwrap_or(("s", 1));
    format!("{}{name}", seconds / size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spans_are_read_as_people_write_them() {
        for (text, seconds) in [
            ("90s", 90),
            ("10m", 600),
            ("12h", 43_200),
            (" 30d ", 2_592_000),
            ("8w", 4_838_400),
            ("1mo", 2_592_000),
            ("1y", 31_536_000),
            ("1d12h", 129_600),
            ("1d 12h", 129_600),
            ("0h", 0),
        ] {
            assert_eq!(parse_span(text).unwrap().as_secs(), seconds, "{text}");
        }
        for text in [
            "",
            " ",
            "30",
            "d",
            "-1d",
            "30 d",
            "1.5h",
            "30D",
            "1001y",
            "99999999999999999999d",
            "9223372036854775807w",
            "1d-2h",
            "٣d",
        ] {
            assert_eq!(parse_span(text).unwrap_err().kind(), ErrorKind::Configuration, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_span_or_an_error(text in "\\PC{0,20}") {
            if let Ok(span) = parse_span(&text) {
                prop_assert!(span.as_secs() >= 0);
                prop_assert_eq!(parse_span(&span_text(span)).unwrap(), span);
            }
        }
    }
}
