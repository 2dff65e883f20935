//! Which snapshots are kept: rules over facts, without any I/O.
//!
//! A snapshot is kept if any rule keeps it. All calendar units are UTC. Each pipeline is judged for itself, unless
//! all are taken as one group.
//!
//! | rule | keeps | protects against |
//! | --- | --- | --- |
//! | last n | the newest n | nothing that adds n snapshots |
//! | hourly, daily, weekly, monthly, yearly n | the newest of each of the n newest hours, days, ISO weeks, months, years that have one | a flood of snapshots within one unit, not one that is spread over n units |
//! | within a span | all whose point in time, or whose writing by the store's clock, is at most that long before **now** | whatever is added: it depends on no other snapshot |
//! | tags | all with one of the tags | whatever is added |
//! | last good | of each group the newest good snapshot, and the newest good one that is ordinary | rules that would leave nothing to restore |
//!
//! **Who can write snapshots can try to push good ones out.** Three things stand against it.
//! - A snapshot that is *not ordinary* fills no place: every counted rule is applied once to all snapshots and once to
//!   the ordinary ones alone. Not ordinary is one whose objects are not all there, one without documents or chunks,
//!   and one with less than half the documents or chunks of the last ordinary one before it, until such a fall has
//!   lasted 30 days by the store's clock, which a writer cannot set.
//! - A snapshot that is dated in the future (more than ten minutes) is not counted and not removed, but named.
//! - Within a span counts from now.
//!
//! Somebody who adds snapshots that look like the real ones, dated into the past, can use up counted rules. Only
//! *within* and *tags* hold then, and a store that refuses deletions.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::span::{parse_span, span_text};
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::RetentionSettings;

/// What the rules look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Snapshot id.
    pub id: String,
    /// Its point in time, by the clock of the machine that took it.
    pub created: Timestamp,
    /// When the store says that the manifest was written.
    pub last_modified: Timestamp,
    /// Pipeline.
    pub pipeline: String,
    /// Words that the user gave it.
    pub tags: Vec<String>,
    /// Documents in it.
    pub documents: u64,
    /// Chunks in it.
    pub chunks: u64,
    /// The manifest reads, and everything it needs is there with the right size.
    pub good: bool,
}

/// A unit of the calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Interval {
    /// An hour.
    Hourly,
    /// A day.
    Daily,
    /// An ISO week, which begins on Monday.
    Weekly,
    /// A month.
    Monthly,
    /// A year.
    Yearly,
}

impl Interval {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Hourly, Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly];

    /// Lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }

    /// A number that all moments of one unit share.
    fn unit(self, moment: Timestamp) -> (i16, i16, i8) {
        let moment = moment.to_zoned(TimeZone::UTC);
        match self {
            Self::Hourly => (moment.year(), moment.day_of_year(), moment.hour()),
            Self::Daily => (moment.year(), moment.day_of_year(), 0),
            Self::Weekly => {
                let week = moment.date().iso_week_date();
                (week.year(), i16::from(week.week()), 0)
            }
            Self::Monthly => (moment.year(), i16::from(moment.month()), 0),
            Self::Yearly => (moment.year(), 0, 0),
        }
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// The newest n.
    Last(u32),
    /// The newest of each of n units that have one.
    Every(Interval, u32),
    /// All of this span before now.
    Within(SignedDuration),
    /// All with this tag.
    Tag(String),
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Last(n) => write!(f, "last {n}"),
            Self::Every(interval, n) => write!(f, "{} {n}", interval.name()),
            Self::Within(span) => write!(f, "within {}", span_text(*span)),
            Self::Tag(tag) => write!(f, "tag {tag}"),
        }
    }
}

/// Names of presets with their rules.
const PRESETS: [(&str, u32, u32, u32); 3] = [("30d", 30, 0, 0), ("90d", 30, 13, 0), ("365d", 30, 13, 12)];

/// Least `keep_within`: with less, `6m` for six months would remove nearly everything.
const LEAST_WITHIN: SignedDuration = SignedDuration::from_secs(3600);

/// The rules of a preset.
///
/// # Errors
/// [`ErrorKind::Configuration`] for an unknown one.
pub fn preset(name: &str) -> Result<Vec<Rule>> {
    let (_, days, weeks, months) = PRESETS.iter().find(|(preset, ..)| *preset == name).ok_or_else(|| {
        Error::new(ErrorKind::Configuration, "there is no such preset")
            .with("preset", name)
            .guidance("use 30d, 90d or 365d, or single rules such as keep_daily")
    })?;
    let mut rules = vec![Rule::Within(SignedDuration::from_secs(i64::from(*days) * 86_400))];
    if *weeks > 0 {
        rules.push(Rule::Every(Interval::Weekly, *weeks));
    }
    if *months > 0 {
        rules.push(Rule::Every(Interval::Monthly, *months));
    }
    Ok(rules)
}

/// A span for `keep_within`.
///
/// # Errors
/// [`ErrorKind::Configuration`] when it is none, or under an hour.
pub fn within(text: &str) -> Result<Rule> {
    let span = parse_span(text)?;
    if span < LEAST_WITHIN {
        return Err(Error::new(ErrorKind::Configuration, "this keeps less than an hour")
            .with("span", text)
            .guidance("m is minutes; write 6mo for months"));
    }
    Ok(Rule::Within(span))
}

/// The rules of `[retention]`.
///
/// # Errors
/// [`ErrorKind::Configuration`] for an unknown preset or a wrong span.
pub fn rules(settings: &RetentionSettings) -> Result<Vec<Rule>> {
    let mut rules = settings.preset.as_deref().map(preset).transpose()?.unwrap_or_default();
    if settings.keep_last > 0 {
        rules.push(Rule::Last(settings.keep_last));
    }
    let counts =
        [settings.keep_hourly, settings.keep_daily, settings.keep_weekly, settings.keep_monthly, settings.keep_yearly];
    rules.extend(Interval::ALL.into_iter().zip(counts).filter(|(_, n)| *n > 0).map(|(i, n)| Rule::Every(i, n)));
    rules.extend(settings.keep_within.as_deref().map(within).transpose()?);
    rules.extend(settings.keep_tags.iter().cloned().map(Rule::Tag));
    Ok(rules)
}

/// Which snapshots are judged together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Those of one pipeline.
    #[default]
    Pipeline,
    /// All.
    All,
}

/// What becomes of a snapshot, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Snapshot id.
    pub id: String,
    /// What keeps it; empty when it goes.
    pub reasons: Vec<String>,
    /// What is odd about it, if anything.
    pub suspicious: Option<String>,
}

impl Decision {
    /// Whether it stays.
    pub fn kept(&self) -> bool {
        !self.reasons.is_empty()
    }
}

/// A snapshot dated later than this after now is dated in the future; clocks differ by less.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(600);
/// A fall in size that has lasted this long, by the store's clock, is believed.
const BELIEVED: SignedDuration = SignedDuration::from_secs(30 * 86_400);

/// Applies the rules; decisions come in the order of the snapshots.
pub fn decide(snapshots: &[SnapshotInfo], rules: &[Rule], group: Group, now: Timestamp) -> Vec<Decision> {
    let mut reasons: Vec<Vec<String>> = vec![Vec::new(); snapshots.len()];
    let mut suspicious: Vec<Option<String>> = vec![None; snapshots.len()];
    let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, snapshot) in snapshots.iter().enumerate() {
        let key = if group == Group::All { "" } else { snapshot.pipeline.as_str() };
        if snapshot.created.duration_since(now) > TOLERANCE {
            reasons[i].push("dated in the future".to_owned());
            suspicious[i] = Some(format!("it is dated {}, in the future", snapshot.created));
        } else {
            groups.entry(key).or_default().push(i);
        }
        // These look at nothing but the snapshot itself.
        for rule in rules {
            let keeps = match rule {
                Rule::Within(span) => now.duration_since(snapshot.created.max(snapshot.last_modified)) <= *span,
                Rule::Tag(tag) => snapshot.tags.contains(tag),
                Rule::Last(_) | Rule::Every(..) => false,
            };
            if keeps {
                reasons[i].push(rule.to_string());
            }
        }
    }
    for mut members in groups.into_values() {
        members.sort_by(|a, b| {
            (snapshots[*b].created, &snapshots[*b].id).cmp(&(snapshots[*a].created, &snapshots[*a].id))
        });
        let odd = not_ordinary(snapshots, &members);
        for (i, why) in &odd {
            suspicious[*i] = Some(why.clone());
        }
        let ordinary: Vec<usize> = members.iter().copied().filter(|i| !odd.contains_key(i)).collect();
        for rule in rules {
            let kept: BTreeSet<usize> =
                counted(rule, snapshots, &members).chain(counted(rule, snapshots, &ordinary)).collect();
            kept.into_iter().for_each(|i| reasons[i].push(rule.to_string()));
        }
        let good = members.iter().find(|i| snapshots[**i].good);
        let last: BTreeSet<usize> = good.into_iter().chain(ordinary.first()).copied().collect();
        last.into_iter().for_each(|i| reasons[i].push("last good one".to_owned()));
    }
    let decided = snapshots.iter().zip(reasons).zip(suspicious);
    decided.map(|((s, reasons), suspicious)| Decision { id: s.id.clone(), reasons, suspicious }).collect()
}

/// The members, newest first, that a counted rule keeps.
fn counted<'a>(rule: &Rule, snapshots: &[SnapshotInfo], members: &'a [usize]) -> impl Iterator<Item = usize> + use<'a> {
    let kept: Vec<usize> = match rule {
        Rule::Last(n) => members.iter().take(*n as usize).copied().collect(),
        Rule::Every(interval, n) => {
            let mut units = BTreeSet::new();
            let newest = members.iter().filter(|i| units.insert(interval.unit(snapshots[**i].created)));
            newest.take(*n as usize).copied().collect()
        }
        Rule::Within(_) | Rule::Tag(_) => Vec::new(),
    };
    kept.into_iter()
}

/// The members, newest first, that are not ordinary, and why.
fn not_ordinary(snapshots: &[SnapshotInfo], members: &[usize]) -> BTreeMap<usize, String> {
    let mut odd = BTreeMap::new();
    let mut before: Option<&SnapshotInfo> = None;
    let mut fallen: Option<Timestamp> = None;
    for i in members.iter().rev() {
        let snapshot = &snapshots[*i];
        if !snapshot.good {
            odd.insert(*i, "not everything it needs is there".to_owned());
            continue;
        }
        if snapshot.documents == 0 || snapshot.chunks == 0 {
            odd.insert(*i, "it holds nothing".to_owned());
            continue;
        }
        let fell = |now: u64, before: u64| now < before.div_ceil(2);
        if let Some(before) = before
            && (fell(snapshot.documents, before.documents) || fell(snapshot.chunks, before.chunks))
        {
            let since = *fallen.get_or_insert(snapshot.last_modified);
            if snapshot.last_modified.duration_since(since) < BELIEVED {
                odd.insert(
                    *i,
                    format!(
                        "it holds {} documents and {} chunks; before it were {} and {}",
                        snapshot.documents, snapshot.chunks, before.documents, before.chunks
                    ),
                );
                continue;
            }
        }
        fallen = None;
        before = Some(snapshot);
    }
    odd
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
