//! Which objects are read when not all are: a share, an amount, or one of `m` groups that together are all.

use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;

/// What part of the data a verification reads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Subset {
    /// This share of the bytes, chosen at random: 0 to 1.
    Share(f64),
    /// About so many bytes, chosen at random.
    Bytes(u64),
    /// Group `n` of `of`, from 1. An object belongs to the same group every time, so `of` runs read everything.
    Group {
        /// Which group, from 1.
        n: u32,
        /// How many there are.
        of: u32,
    },
}

impl FromStr for Subset {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::new(ErrorKind::Configuration, "this is no part of the data")
                .with("given", text)
                .guidance("give a share (`5%`), an amount (`500M`, `5G`) or one of several groups (`1/7`)")
        };
        let text = text.trim();
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.trim().parse().map_err(|_| wrong())?;
            return if percent > 0.0 && percent <= 100.0 { Ok(Self::Share(percent / 100.0)) } else { Err(wrong()) };
        }
        if let Some((n, of)) = text.split_once('/') {
            let (n, of) = (n.trim().parse().map_err(|_| wrong())?, of.trim().parse().map_err(|_| wrong())?);
            return if n >= 1 && n <= of { Ok(Self::Group { n, of }) } else { Err(wrong()) };
        }
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match text[digits.len()..].to_ascii_uppercase().trim_end_matches("IB").trim_end_matches('B') {
            "" => 0,
            "K" => 10,
            "M" => 20,
            "G" => 30,
            "T" => 40,
            _ => return Err(wrong()),
        };
        let amount: f64 = digits.trim().parse().map_err(|_| wrong())?;
        let bytes = amount * (1u64 << shift) as f64;
        if (1.0..1e18).contains(&bytes) { Ok(Self::Bytes(bytes as u64)) } else { Err(wrong()) }
    }
}

impl Subset {
    /// Whether chance decides.
    pub fn random(&self) -> bool {
        !matches!(self, Self::Group { .. })
    }

    /// The objects to read, of (path, bytes).
    pub(super) fn choose<'a>(&self, seed: u64, objects: impl Iterator<Item = (&'a str, u64)>) -> Vec<&'a str> {
        if let Self::Group { n, of } = *self {
            let mine = |path: &str| Digest::of(path.as_bytes()).prefix() % u64::from(of) == u64::from(n - 1);
            return objects.map(|(path, _)| path).filter(|path| mine(path)).collect();
        }
        let rank = |path: &str| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&seed.to_le_bytes()).update(path.as_bytes());
            Digest::from_hasher(&hasher)
        };
        let mut ranked: Vec<_> = objects.map(|(path, bytes)| (rank(path), path, bytes)).collect();
        ranked.sort_unstable();
        let total: u64 = ranked.iter().map(|(.., bytes)| bytes).sum();
        let wanted = match *self {
            Self::Share(share) => (total as f64 * share).ceil() as u64,
            Self::Bytes(bytes) => bytes,
            Self::Group { .. } => 0,
        };
        let mut sum = 0;
        let mut chosen = Vec::new();
        for (_, path, bytes) in ranked {
            if sum >= wanted {
                break;
            }
            sum += bytes;
            chosen.push(path);
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares_amounts_and_groups_are_read() {
        for (text, subset) in [
            ("1%", Subset::Share(0.01)),
            ("2.5 %", Subset::Share(0.025)),
            ("100%", Subset::Share(1.0)),
            ("5G", Subset::Bytes(5 << 30)),
            ("1.5MiB", Subset::Bytes(3 << 19)),
            ("700", Subset::Bytes(700)),
            ("2/7", Subset::Group { n: 2, of: 7 }),
        ] {
            assert_eq!(text.parse::<Subset>().unwrap(), subset, "{text}");
        }
        for text in ["", "0%", "101%", "-1%", "NaN%", "0/3", "4/3", "1/0", "5X", "G", "0", "é", "1/2/3", "inf"] {
            let e = text.parse::<Subset>().expect_err(text);
            assert_eq!(e.kind(), ErrorKind::Configuration);
        }
    }

    proptest! {
        #[test]
        fn all_groups_together_are_everything_once(count in 0usize..200, of in 1u32..20) {
            let paths: Vec<String> = (0..count).map(|i| format!("vectors/{i}")).collect();
            let mut seen = Vec::new();
            for n in 1..=of {
                seen.extend(Subset::Group { n, of }.choose(7, paths.iter().map(|p| (p.as_str(), 5))));
            }
            seen.sort_unstable();
            let mut all: Vec<&str> = paths.iter().map(String::as_str).collect();
            all.sort_unstable();
            prop_assert_eq!(seen, all);
        }

        #[test]
        fn a_share_reads_at_least_that_share_and_not_one_object_more(
            sizes in proptest::collection::vec(0u64..1000, 1..100), percent in 1u32..=100, seed: u64,
        ) {
            let paths: Vec<String> = (0..sizes.len()).map(|i| i.to_string()).collect();
            let objects = || paths.iter().map(String::as_str).zip(sizes.iter().copied());
            let subset = Subset::Share(f64::from(percent) / 100.0);
            let chosen = subset.choose(seed, objects());
            prop_assert_eq!(&chosen, &subset.choose(seed, objects()));
            let size = |path: &str| sizes[path.parse::<usize>().unwrap()];
            let wanted = (sizes.iter().sum::<u64>() as f64 * f64::from(percent) / 100.0).ceil() as u64;
            let sum: u64 = chosen.iter().map(|p| size(p)).sum();
            prop_assert!(sum >= wanted);
            if let Some(last) = chosen.last() {
                prop_assert!(sum - size(last) < wanted);
            }
        }
    }
}
