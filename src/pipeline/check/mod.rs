//! What a pipeline must fulfil beyond keys and types; one file per section of it.

mod corpus;
mod places;
mod stores;
mod target;
#[cfg(test)]
mod tests;

use std::path::Path;

use super::settings::*;
use crate::error::{Error, ErrorKind, Result};
use crate::retention::{parse_span, preset, within};
use crate::targets::field;

/// A wrong key: dotted path, what is wrong, what to do.
struct Problem {
    key: String,
    what: String,
    next: String,
}

#[derive(Default)]
struct Findings {
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Findings {
    fn problem(&mut self, key: impl Into<String>, what: impl Into<String>, next: impl Into<String>) {
        self.problems.push(Problem { key: key.into(), what: what.into(), next: next.into() });
    }

    fn require(&mut self, holds: bool, key: impl Into<String>, what: &str, next: &str) {
        if !holds {
            self.problem(key, what, next);
        }
    }
}

impl Pipeline {
    /// Checks what types cannot say. `base` is the directory where relative paths start.
    ///
    /// Returns warnings: what works but is hardly meant.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] for the first problem, with `key`; further problems are listed as `also`.
    pub fn validate(&self, base: &Path) -> Result<Vec<String>> {
        let mut f = Findings::default();
        self.check_names(&mut f);
        self.check_corpus(&mut f);
        self.check_places(base, &mut f);
        self.check_stores(base, &mut f);
        self.check_numbers(&mut f);
        self.check_target(&mut f);
        self.check_retention(&mut f);

        let mut problems = f.problems.into_iter();
        let Some(first) = problems.next() else { return Ok(f.warnings) };
        let mut e = Error::new(ErrorKind::Configuration, first.what).with("key", first.key).guidance(first.next);
        for other in problems {
            e = e.with("also", format!("{}: {}", other.key, other.what));
        }
        Err(e)
    }

    /// The production name of the collection.
    pub fn collection(&self) -> &str {
        self.target.collection.as_deref().unwrap_or(&self.name)
    }

    /// Payload fields that get an index: the asked ones, and those that regrow itself filters by.
    pub fn payload_indexes(&self) -> std::collections::BTreeMap<String, FieldType> {
        let mut all = self.target.payload_indexes.clone();
        for name in [field::DOCUMENT_ID, field::TENANT, field::ACL] {
            all.insert(name.to_owned(), FieldType::Keyword);
        }
        all
    }

    fn check_retention(&self, f: &mut Findings) {
        let retention = &self.retention;
        let mut report = |key: &str, outcome: Result<()>| {
            if let Err(e) = outcome {
                let given = e.context().iter().map(|(_, value)| format!(": {value}")).collect::<String>();
                f.problem(key, format!("{}{given}", e.message()), e.next_step().unwrap_or_default());
            }
        };
        report("retention.preset", retention.preset.as_deref().map_or(Ok(()), |p| preset(p).map(drop)));
        report("retention.keep_within", retention.keep_within.as_deref().map_or(Ok(()), |w| within(w).map(drop)));
        report("retention.grace", retention.grace.as_deref().map_or(Ok(()), |g| parse_span(g).map(drop)));
        f.require(
            retention.keep_tags.iter().all(|tag| !tag.trim().is_empty()),
            "retention.keep_tags",
            "a tag is empty",
            "name the tags whose snapshots are kept, or leave the list empty",
        );
    }

    fn check_names(&self, f: &mut Findings) {
        const RULE: &str = "use 1 to 128 letters, digits, `-`, `_` and `.`, and begin with a letter or digit";
        f.require(is_name(&self.name), "name", "this is not a usable name", RULE);
        if let Some(collection) = &self.target.collection {
            f.require(is_name(collection), "target.collection", "this is not a usable name", RULE);
        }
        f.require(
            !self.model.name.trim().is_empty(),
            "model.name",
            "no model is named",
            "`regrow models` lists those that come with regrow",
        );
    }

    fn check_numbers(&self, f: &mut Findings) {
        let ChunkingSettings { size, overlap } = self.chunking;
        if size > 0 && overlap >= size {
            f.problem(
                "chunking.overlap",
                format!("chunks of {size} tokens cannot share {overlap} with the one before"),
                "make the overlap smaller than the size; a tenth of it is usual",
            );
        } else if size > 0 && overlap > size / 2 {
            f.warnings.push(format!(
                "chunking.overlap: more than half of every chunk repeats the one before, which multiplies the work by {:.1}",
                f64::from(size) / f64::from(size - overlap)
            ));
        }
        f.require(
            self.model.batch_tokens != Some(0),
            "model.batch_tokens",
            "a batch must hold tokens",
            "leave it out for a size that suits the device",
        );

        let v = &self.validation;
        f.require(v.k > 0, "validation.k", "k must be at least 1", "10 is the default");
        let g = &v.golden_thresholds;
        for (key, value) in [
            ("validation.min_recall", v.min_recall),
            ("validation.min_self_retrieval", v.min_self_retrieval),
            ("validation.min_canary_cosine", v.min_canary_cosine.unwrap_or(1.0)),
            ("validation.golden_thresholds.mean", g.mean),
            ("validation.golden_thresholds.median", g.median),
            ("validation.golden_thresholds.p5", g.p5),
            ("validation.golden_thresholds.top1", g.top1),
        ] {
            if !(0.0..=1.0).contains(&value) {
                f.problem(key, format!("{value} is not a share"), "give a number from 0 to 1, such as 0.95");
            }
        }
        if v.sample == 0 {
            f.warnings.push("validation.sample: with 0, no vector, payload or text is compared".into());
        }
        if v.recall_queries == 0 {
            f.warnings.push("validation.recall_queries: with 0, the recall of the index is not measured".into());
        }
        for (key, value) in
            [("drill.rto_seconds", self.drill.rto_seconds), ("drill.rpo_seconds", self.drill.rpo_seconds)]
        {
            if let Some(value) = value
                && !(value.is_finite() && value > 0.0)
            {
                f.problem(key, "an objective must be more than 0 seconds", "give seconds, or leave the key out");
            }
        }
    }
}

/// Names become directories, object prefixes and aliases, so they keep to what all of these take.
fn is_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}
