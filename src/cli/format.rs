//! Numbers for people.

/// A count with thousands separators: `1,234,567`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A size in powers of 1024: `1.5 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be shown as 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A duration by its two largest units: `850 ms`, `12.3 s`, `3m 05s`, `2h 07m`, `3d 04h`.
pub(crate) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "unknown".to_owned();
    }
    if seconds < 0.9995 {
        return format!("{:.0} ms", seconds * 1e3);
    }
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole {
        0..3600 => format!("{}m {:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h {:02}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d {:02}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// A rate: `1,234/s`, `2.5/s`.
pub(crate) fn rate(per_second: f64) -> String {
    if per_second >= 10.0 { format!("{}/s", count(per_second.round() as u64)) } else { format!("{per_second:.1}/s") }
}

/// An amount of something: `1 document`, `2,000 documents`, `1.0 KiB`.
pub(crate) fn amount(n: u64, unit: &str) -> String {
    if unit == "bytes" {
        return bytes(n);
    }
    let unit = if n == 1 { unit.strip_suffix('s').unwrap_or(unit) } else { unit };
    format!("{} {unit}", count(n))
}

/// Amounts per second.
pub(crate) fn amount_rate(per_second: f64, unit: &str) -> String {
    if unit == "bytes" { format!("{}/s", bytes(per_second.round() as u64)) } else { rate(per_second) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn counts_sizes_and_durations_read_well() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(n), text);
        }
        for (n, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        for (s, text) in [
            (0.0, "0 ms"),
            (0.85, "850 ms"),
            (0.9999, "1.0 s"),
            (12.34, "12.3 s"),
            (59.99, "1m 00s"),
            (185.0, "3m 05s"),
            (3599.7, "1h 00m"),
            (7620.0, "2h 07m"),
            (273_600.0, "3d 04h"),
            (f64::NAN, "unknown"),
        ] {
            assert_eq!(duration(s), text);
        }
        assert_eq!((rate(2.54).as_str(), rate(1234.4).as_str()), ("2.5/s", "1,234/s"));
        assert_eq!((amount(1, "chunks").as_str(), amount(2000, "chunks").as_str()), ("1 chunk", "2,000 chunks"));
        assert_eq!((amount(1, "bytes").as_str(), amount_rate(2048.0, "bytes").as_str()), ("1 B", "2.0 KiB/s"));
    }

    proptest! {
        #[test]
        fn counts_are_the_digits(n in any::<u64>()) {
            prop_assert_eq!(count(n).replace(',', ""), n.to_string());
            prop_assert!(count(n).rsplit(',').skip(1).all(|g| g.len() <= 3 && !g.is_empty()));
        }

        #[test]
        fn durations_never_show_a_full_next_unit(s in 0f64..1e7) {
            let text = duration(s);
            prop_assert!(!text.contains("60") || text.contains("d") || text.contains("ms") || text.contains('.'), "{}", text);
        }
    }
}
