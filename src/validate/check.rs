//! What validation says: checks, and the verdict they make up.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::golden::QueryOutcome;
use super::latency::Latency;
use crate::error::{Error, ErrorKind};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// What was measured is what was expected.
    Pass,
    /// It is not.
    Fail,
    /// There was nothing to measure; the reason says why.
    Skipped,
}

impl Outcome {
    /// Lower-case name, as in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Skipped => "skipped",
        }
    }
}

/// One check with its outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Name, as in reports: `count`, `recall`.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found; null when skipped.
    pub measured: Value,
    /// What was asked for; null when skipped.
    pub expected: Value,
    /// One or two sentences for people: what was compared, and where it differs.
    pub reason: String,
}

impl Check {
    /// A check that passed.
    pub fn pass(
        name: impl Into<String>,
        measured: impl Into<Value>,
        expected: impl Into<Value>,
        reason: impl Into<String>,
    ) -> Self {
        Self::judge(name, true, measured, expected, reason)
    }

    /// A check that failed.
    pub fn fail(
        name: impl Into<String>,
        measured: impl Into<Value>,
        expected: impl Into<Value>,
        reason: impl Into<String>,
    ) -> Self {
        Self::judge(name, false, measured, expected, reason)
    }

    /// A check that had nothing to measure.
    pub fn skipped(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            outcome: Outcome::Skipped,
            measured: Value::Null,
            expected: Value::Null,
            reason: reason.into(),
        }
    }

    /// A check that passed when `holds`, else failed.
    pub fn judge(
        name: impl Into<String>,
        holds: bool,
        measured: impl Into<Value>,
        expected: impl Into<Value>,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            outcome: if holds { Outcome::Pass } else { Outcome::Fail },
            measured: measured.into(),
            expected: expected.into(),
            reason: reason.into(),
        }
    }
}

/// The result of a validation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// Every check, in the order they were made.
    pub checks: Vec<Check>,
    /// Search latency, for information; `None` when nothing was searched.
    #[serde(default)]
    pub latency: Option<Latency>,
    /// What each golden query found, worst first; empty when none were given.
    #[serde(default)]
    pub golden: Vec<QueryOutcome>,
    /// Wall time of the validation.
    #[serde(default)]
    pub seconds: f64,
}

impl Verdict {
    /// True when at least one check passed and none failed.
    pub fn passed(&self) -> bool {
        self.checks.iter().any(|c| c.outcome == Outcome::Pass) && self.failed().next().is_none()
    }

    /// The checks that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|c| c.outcome == Outcome::Fail)
    }

    /// The check of this name.
    pub fn check(&self, name: &str) -> Option<&Check> {
        self.checks.iter().find(|c| c.name == name)
    }

    /// Puts checks that were made earlier in front.
    #[must_use]
    pub fn after(mut self, mut earlier: Vec<Check>) -> Self {
        earlier.append(&mut self.checks);
        self.checks = earlier;
        self
    }

    /// The error of a verdict that did not pass ([`ErrorKind::ValidationFailed`]), naming the checks.
    pub fn error(&self) -> Option<Error> {
        if self.passed() {
            return None;
        }
        let names: Vec<&str> = self.failed().map(|c| c.name.as_str()).collect();
        let Some(first) = self.failed().next() else {
            return Some(
                Error::new(ErrorKind::ValidationFailed, "no check could be made")
                    .guidance("look at the reasons of the skipped checks: something must be there to be measured"),
            );
        };
        Some(
            Error::new(ErrorKind::ValidationFailed, "the validation failed")
                .with("checks", names.join(", "))
                .with("first", &first.reason)
                .guidance("the collection was not promoted; look at the failing checks in the report"),
        )
    }
}

/// The first few of many, for reasons: `a, b, c and 4 more`.
pub(super) fn some_of<T: std::fmt::Display>(items: impl IntoIterator<Item = T>, shown: usize) -> String {
    let mut items = items.into_iter();
    let first: Vec<String> = items.by_ref().take(shown).map(|i| i.to_string()).collect();
    match items.count() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_passes_only_with_a_pass_and_without_a_fail() {
        let verdict = |checks: Vec<Check>| Verdict { checks, ..Verdict::default() };
        let pass = Check::pass("a", 1, 1, "same");
        let fail = Check::fail("b", 1, 2, "differs");
        let skipped = Check::skipped("c", "nothing there");
        assert!(!verdict(vec![]).passed());
        assert!(!verdict(vec![skipped.clone()]).passed());
        assert!(verdict(vec![skipped.clone(), pass.clone()]).passed());
        let failing = verdict(vec![fail]).after(vec![pass, skipped]);
        assert!(!failing.passed());
        let e = failing.error().unwrap();
        assert_eq!((e.exit_code(), e.context_value("checks")), (30, Some("b")));
        assert_eq!(verdict(vec![]).error().unwrap().exit_code(), 30);
        assert_eq!(failing.checks.last().unwrap().name, "b");
    }

    #[test]
    fn checks_keep_their_json_form() {
        let json = serde_json::json!({"name": "count", "outcome": "fail", "measured": 1, "expected": 2, "reason": "one is missing"});
        let check: Check = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(check, Check::fail("count", 1, 2, "one is missing"));
        assert_eq!(serde_json::to_value(&check).unwrap(), json);
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(some_of([1, 2], 3), "1, 2");
        assert_eq!(some_of(1..=7, 3), "1, 2, 3 and 4 more");
    }
}
