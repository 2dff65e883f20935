//! The questions that every backup is asked, answered for this pipeline: is it external, complete, retained,
//! encrypted, tested, and what are RPO and RTO?

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use futures::TryStreamExt;
use serde::Serialize;
use serde_json::Value;

use super::Exposure;
use crate::error::Result;
use crate::pipeline::{CaptureMode, Pipeline, RetentionSettings};
use crate::repository::{Manifest, Repository};

/// How good an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// As it should be.
    Good,
    /// With a reservation that the text names.
    Partly,
    /// Not known, because nothing has measured it yet.
    Unknown,
    /// Not as it should be.
    Bad,
}

/// The answer to one question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// `external`, `complete`, `retained`, `encrypted`, `tested`, `rpo` or `rto`.
    pub question: &'static str,
    /// How good it is.
    pub standing: Standing,
    /// The answer.
    pub text: String,
    /// What would make it better.
    pub next: Option<String>,
}

impl Answer {
    fn new(question: &'static str, standing: Standing, text: impl Into<String>) -> Self {
        Self { question, standing, text: text.into(), next: None }
    }

    fn next(mut self, text: impl Into<String>) -> Self {
        self.next = Some(text.into());
        self
    }
}

/// What can fail together.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Domain {
    /// A device of this machine.
    Device(u64),
    /// A bucket or container, by scheme and host.
    Bucket(String, String),
}

/// Where a directory (which may not exist yet) or URL is.
fn domain(url: &str, base: &Path) -> Option<Domain> {
    let directory = match url.split_once("://") {
        None => base.join(url),
        Some(("file", _)) => url::Url::parse(url).ok()?.to_file_path().ok()?,
        Some((scheme, _)) => {
            let host = url::Url::parse(url).ok()?.host_str()?.to_owned();
            return Some(Domain::Bucket(scheme.to_owned(), host));
        }
    };
    device(&directory).map(Domain::Device)
}

#[cfg(unix)]
fn device(directory: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    directory.ancestors().find_map(|at| std::fs::metadata(at).ok()).map(|meta| meta.dev())
}

#[cfg(not(unix))]
fn device(directory: &Path) -> Option<u64> {
    let root: std::path::PathBuf = directory.components().take(1).collect();
    Some(crate::ids::Digest::of(root.as_os_str().as_encoded_bytes()).prefix())
}

/// How far apart two places are: `None` means that they fail together.
fn apart(a: &Domain, b: &Domain) -> Option<(Standing, &'static str)> {
    match (a, b) {
        (a, b) if a == b => None,
        (Domain::Device(_), Domain::Device(_)) => Some((Standing::Partly, "on another device of the same machine")),
        (Domain::Bucket(one, _), Domain::Bucket(other, _)) if one == other => {
            Some((Standing::Partly, "in another bucket of the same provider"))
        }
        _ => Some((Standing::Good, "elsewhere")),
    }
}

/// A replica, and whether it has the latest snapshot.
#[derive(Debug, Clone, Serialize)]
pub struct ReplicaState {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// Whether the latest snapshot is there.
    pub current: bool,
    /// Why it could not be looked at.
    pub problem: Option<String>,
}

/// Is the backup outside the failure domain of what it protects?
pub(super) fn external(
    pipeline: &Pipeline,
    base: &Path,
    latest: Option<&Manifest>,
    replicas: &[ReplicaState],
) -> Answer {
    const QUESTION: &str = "external";
    let Some(corpus) = domain(&pipeline.corpus.url, base) else {
        return Answer::new(QUESTION, Standing::Unknown, "where the corpus is cannot be told");
    };
    let here = ("the repository".to_owned(), pipeline.repository.url.clone());
    let current = replicas.iter().filter(|r| r.current).map(|r| (format!("replica {}", r.name), r.url.clone()));
    let best = std::iter::once(here)
        .chain(current)
        .filter_map(|(name, url)| {
            let (standing, how) = apart(&corpus, &domain(&url, base)?)?;
            Some((standing, format!("{name} is {how} than the corpus")))
        })
        .min_by_key(|(standing, _)| *standing);
    let capture = latest.map_or(CaptureMode::Reference, |m| m.corpus.capture);
    let documents = match capture {
        CaptureMode::Reference => "; the documents themselves are only in the corpus",
        CaptureMode::Copy => "; it holds the documents",
        CaptureMode::Text => "; it holds the documents' text",
    };
    match best {
        None => Answer::new(
            QUESTION,
            Standing::Bad,
            format!("no: the repository fails together with the corpus{documents}"),
        )
        .next("put it, or a replica ([[repository.replicas]], `regrow copy`), on another device, machine or provider"),
        Some((standing, text)) if capture == CaptureMode::Reference => {
            Answer::new(QUESTION, standing.max(Standing::Partly), text + documents)
                .next("[capture] mode = \"copy\" keeps the documents too")
        }
        Some((standing, text)) => Answer::new(QUESTION, standing, text + documents),
    }
}

/// Is everything that the latest snapshot needs there, and was every document taken?
pub(super) async fn complete(repository: &Repository, latest: Option<&Manifest>) -> Result<Answer> {
    const QUESTION: &str = "complete";
    let Some(manifest) = latest else {
        return Ok(Answer::new(QUESTION, Standing::Bad, "no: there is no snapshot").next("`regrow snapshot`"));
    };
    let folders: BTreeSet<&str> =
        manifest.objects().map(|o| o.path.rsplit_once('/').map_or("", |(folder, _)| folder)).collect();
    let mut sizes: BTreeMap<String, u64> = BTreeMap::new();
    for folder in folders {
        let listed: Vec<_> = repository.list(folder).map_ok(|(name, size, _)| (name, size)).try_collect().await?;
        sizes.extend(listed);
    }
    let missing = manifest.objects().filter(|o| sizes.get(&o.path) != Some(&o.bytes)).count();
    let documents = manifest.counts.documents;
    if missing > 0 {
        let objects = manifest.objects().count();
        let text =
            format!("no: {missing} of the {objects} objects that the latest snapshot needs are missing or cut short");
        return Ok(Answer::new(QUESTION, Standing::Bad, text).next("`regrow verify`, then `regrow repair`"));
    }
    let live = manifest.target.live_count.filter(|live| *live != manifest.counts.chunks);
    let live = live.map_or(String::new(), |live| {
        format!(
            "; the live collection had {live} points when it was taken, the corpus gives {}",
            manifest.counts.chunks
        )
    });
    if manifest.counts.documents_skipped > 0 {
        let text = format!("{documents} documents; {} were skipped as bad{live}", manifest.counts.documents_skipped);
        return Ok(Answer::new(QUESTION, Standing::Partly, text).next("`regrow show` names them"));
    }
    Ok(Answer::new(QUESTION, Standing::Good, format!("all {documents} documents, every object is there{live}")))
}

/// For how long are snapshots kept, and who could push them out?
pub(super) fn retained(settings: &RetentionSettings, snapshots: &[jiff::Timestamp], now: jiff::Timestamp) -> Answer {
    const QUESTION: &str = "retained";
    let (Some(oldest), count) = (snapshots.iter().min(), snapshots.len()) else {
        return Answer::new(QUESTION, Standing::Bad, "there is no snapshot");
    };
    let days = now.duration_since(*oldest).as_secs_f64().max(0.0) / 86_400.0;
    let have = format!("{count} snapshot{}, the oldest {days:.1} days old", if count == 1 { "" } else { "s" });
    if *settings == RetentionSettings::default() {
        return Answer::new(
            QUESTION,
            Standing::Partly,
            format!("{have}; no rule removes any, so the repository only grows"),
        )
        .next("[retention] preset = \"90d\"");
    }
    if settings.preset.is_none() && settings.keep_within.is_none() {
        let text = format!("{have}; without keep_within, snapshots that somebody adds could push these out");
        return Answer::new(QUESTION, Standing::Partly, text).next("[retention] keep_within = \"30d\"");
    }
    Answer::new(QUESTION, Standing::Good, format!("{have}; kept by rules that nobody can push snapshots out of"))
}

/// Is it encrypted at rest?
pub(super) fn encrypted(slots: Option<usize>) -> Answer {
    match slots {
        Some(slots) => {
            let text = format!("yes, {slots} key{} open it", if slots == 1 { "" } else { "s" });
            Answer::new("encrypted", Standing::Good, text)
        }
        None => Answer::new("encrypted", Standing::Partly, "no: whoever reads the repository reads the documents")
            .next("a new repository with [repository.encryption]"),
    }
}

/// A drill or a verification older than this proves little.
const PROOF_DAYS: f64 = 31.0;

/// When was it last proven that it can be restored, and that what is stored is what was written?
pub(super) fn tested(drill: Option<&Value>, verified: Option<&Value>, now: jiff::Timestamp) -> Answer {
    let days = |record: &Value, key: &str| -> Option<f64> {
        let at: jiff::Timestamp = record[key].as_str()?.parse().ok()?;
        Some(now.duration_since(at).as_secs_f64().max(0.0) / 86_400.0)
    };
    let verified = match verified {
        None => (Standing::Partly, "never verified".to_owned()),
        Some(record) => {
            let age = days(record, "started").unwrap_or(f64::INFINITY);
            match record["ok"] == true {
                true => (
                    if age > PROOF_DAYS { Standing::Partly } else { Standing::Good },
                    format!("verified {age:.1} days ago"),
                ),
                false => (Standing::Bad, format!("the verification {age:.1} days ago found damage")),
            }
        }
    };
    let Some(drill) = drill else {
        return Answer::new("tested", Standing::Bad, format!("no drill yet; {}", verified.1)).next("`regrow drill`");
    };
    let age = days(drill, "started").unwrap_or(f64::INFINITY);
    let standing = match (drill["ok"] == true, age > PROOF_DAYS) {
        (false, _) => Standing::Bad,
        (true, old) => verified.0.max(if old { Standing::Partly } else { Standing::Good }),
    };
    let result = if drill["ok"] == true { "passed" } else { "FAILED" };
    let answer = Answer::new("tested", standing, format!("the drill {age:.1} days ago {result}; {}", verified.1));
    match standing {
        Standing::Good => answer,
        _ if drill["ok"] != true || age > PROOF_DAYS => answer.next("`regrow drill`"),
        _ => answer.next("`regrow verify`"),
    }
}

fn span(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

/// How much would be lost now?
pub(super) fn rpo(age: Option<f64>, exposure: Option<&Exposure>, allowed: Option<f64>) -> Answer {
    let Some(age) = age else {
        return Answer::new("rpo", Standing::Bad, "everything would be lost: there is no snapshot")
            .next("`regrow snapshot`");
    };
    let exposed = exposure.map_or("the corpus could not be compared".to_owned(), |e| {
        if *e == Exposure::default() {
            return "nothing has changed since".to_owned();
        }
        format!("{} added, {} changed, {} vanished since", e.added, e.changed, e.vanished)
    });
    let goal = allowed.map_or("no objective".to_owned(), |most| format!("objective {}", span(most)));
    let text = format!("the latest snapshot is {} old ({goal}); {exposed}", span(age));
    let nothing = exposure.is_some_and(|e| *e == Exposure::default());
    match allowed {
        Some(most) if age > most && !nothing => Answer::new("rpo", Standing::Bad, text).next("`regrow snapshot`"),
        Some(_) => Answer::new("rpo", Standing::Good, text),
        None => Answer::new("rpo", Standing::Partly, text).next("[drill] rpo_seconds sets an objective"),
    }
}

/// How long would it take to be back?
pub(super) fn rto(drill: Option<&Value>, allowed: Option<f64>) -> Answer {
    let goal = allowed.map_or("no objective".to_owned(), |most| format!("objective {}", span(most)));
    let measured =
        drill.filter(|d| d["ok"] == true || d["exit_code"] == 40).and_then(|d| d["seconds"]["total"].as_f64());
    let Some(seconds) = measured else {
        return Answer::new("rto", Standing::Unknown, format!("not measured by a drill that passed ({goal})"))
            .next("`regrow drill` measures it; `regrow plan` estimates");
    };
    let text = format!("the last drill took {} ({goal})", span(seconds));
    match allowed {
        Some(most) if seconds > most => Answer::new("rto", Standing::Bad, text),
        Some(_) => Answer::new("rto", Standing::Good, text),
        None => Answer::new("rto", Standing::Partly, text).next("[drill] rto_seconds sets an objective"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn places_that_fail_together_are_not_external() {
        let directory = tempfile::tempdir().unwrap();
        let at = |url: &str| domain(url, directory.path()).unwrap();
        assert_eq!(apart(&at("docs"), &at("not/there/yet")), None);
        assert_eq!(apart(&at("s3://a/x"), &at("s3://a/y")), None);
        assert_eq!(apart(&at("s3://a"), &at("s3://b")).unwrap().0, Standing::Partly);
        assert_eq!(apart(&at("s3://a"), &at("gs://a")).unwrap().0, Standing::Good);
        assert_eq!(apart(&at("docs"), &at("s3://b")).unwrap().0, Standing::Good);
    }

    #[test]
    fn a_replica_elsewhere_makes_it_external_only_when_it_is_current() {
        let mut pipeline = Pipeline::starter("p", "docs", "repository");
        let base = tempfile::tempdir().unwrap();
        let replica = |current| [ReplicaState { name: "r".into(), url: "s3://b/p".into(), current, problem: None }];
        pipeline.capture.mode = CaptureMode::Copy;
        assert_eq!(external(&pipeline, base.path(), None, &replica(false)).standing, Standing::Bad);
        // Without a snapshot nothing says that the documents are copied.
        assert_eq!(external(&pipeline, base.path(), None, &replica(true)).standing, Standing::Partly);
    }

    #[test]
    fn only_a_recent_drill_and_verification_count_as_tested() {
        let now: jiff::Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let record = |ok, at: &str| json!({ "ok": ok, "started": at });
        let recent = record(true, "2026-05-30T00:00:00Z");
        let old = record(true, "2026-01-30T00:00:00Z");
        let failed = record(false, "2026-05-30T00:00:00Z");
        for (drill, verified, standing) in [
            (None, None, Standing::Bad),
            (Some(&recent), None, Standing::Partly),
            (Some(&recent), Some(&recent), Standing::Good),
            (Some(&old), Some(&recent), Standing::Partly),
            (Some(&recent), Some(&failed), Standing::Bad),
            (Some(&failed), Some(&recent), Standing::Bad),
        ] {
            assert_eq!(tested(drill, verified, now).standing, standing, "{drill:?} {verified:?}");
        }
    }

    #[test]
    fn objectives_decide_rpo_and_rto() {
        let changed = Exposure { changed: 1, ..Exposure::default() };
        assert_eq!(rpo(None, None, None).standing, Standing::Bad);
        assert_eq!(rpo(Some(100.0), Some(&changed), Some(50.0)).standing, Standing::Bad);
        // However old: nothing would be lost.
        assert_eq!(rpo(Some(100.0), Some(&Exposure::default()), Some(50.0)).standing, Standing::Good);
        assert_eq!(rpo(Some(10.0), Some(&changed), Some(50.0)).standing, Standing::Good);
        let drill = json!({ "ok": true, "seconds": { "total": 30.0 } });
        assert_eq!(rto(Some(&drill), Some(20.0)).standing, Standing::Bad);
        assert_eq!(rto(Some(&drill), Some(40.0)).standing, Standing::Good);
        assert_eq!(rto(None, Some(40.0)).standing, Standing::Unknown);
    }
}
