//! `regrow status`: what would be lost now, what is served now, when it was last proven.

mod answers;

use std::collections::HashMap;

use futures::StreamExt;
use serde::Serialize;

use crate::corpus::SourceObject;
use crate::error::{ErrorKind, Result};
use crate::ids::Digest;
use crate::repository::{InventoryReader, Manifest, Repository, SkippedDocument, SnapshotSummary};
use crate::snapshot::Listing;
use crate::targets::{CollectionInfo, Target};
use crate::workspace::Workspace;

pub use answers::{Answer, ReplicaState, Standing};

/// How the corpus differs from the latest snapshot, by size and modification time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Exposure {
    /// Objects that the snapshot does not have.
    pub added: u64,
    /// Objects with another size or modification time.
    pub changed: u64,
    /// Objects that are gone.
    pub vanished: u64,
    /// The first few of each, by path.
    pub examples: Vec<String>,
}

/// Report of `regrow status`.
#[derive(Debug, Clone, Serialize)]
pub struct StatusReport {
    /// Always `status`.
    pub verb: &'static str,
    /// Always true.
    pub ok: bool,
    /// Always 0.
    pub exit_code: u8,
    /// Pipeline.
    pub pipeline: String,
    /// Repository.
    pub repository: String,
    /// Snapshots of this pipeline.
    pub snapshots: u64,
    /// The latest one.
    pub latest: Option<SnapshotSummary>,
    /// Its age: what RPO would be now.
    pub age_seconds: Option<f64>,
    /// Corpus change since then; `None` when there is no snapshot or the corpus cannot be listed.
    pub exposure: Option<Exposure>,
    /// Collections of the target that belong to this pipeline, and what production points at.
    pub collections: Vec<CollectionInfo>,
    /// The last drill's record.
    pub last_drill: Option<serde_json::Value>,
    /// The last verification's record.
    pub last_verification: Option<serde_json::Value>,
    /// Replicas, and whether they have the latest snapshot.
    pub replicas: Vec<ReplicaState>,
    /// External, complete, retained, encrypted, tested, RPO, RTO.
    pub answers: Vec<Answer>,
    /// What could not be found out, and why.
    pub problems: Vec<String>,
}

/// Looks at repository, corpus and target. What cannot be reached is named among the problems.
pub async fn status(workspace: &Workspace) -> Result<StatusReport> {
    let pipeline = &workspace.pipeline;
    let mut report = StatusReport {
        verb: "status",
        ok: true,
        exit_code: 0,
        pipeline: pipeline.name.clone(),
        repository: pipeline.repository.url.clone(),
        snapshots: 0,
        latest: None,
        age_seconds: None,
        exposure: None,
        collections: Vec::new(),
        last_drill: None,
        last_verification: None,
        replicas: Vec::new(),
        answers: Vec::new(),
        problems: Vec::new(),
    };
    match workspace.repository().await {
        Ok(repository) => of_repository(workspace, &repository, &mut report).await?,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            report.problems.push(format!("no snapshot yet: {e}"));
            answer(workspace, None, None, &[], &mut report).await?;
        }
        Err(e) => return Err(e),
    }
    match workspace.target() {
        Ok(target) => of_target(target.as_ref(), pipeline.collection(), &mut report).await?,
        Err(e) => report.problems.push(e.to_string()),
    }
    Ok(report)
}

async fn of_repository(workspace: &Workspace, repository: &Repository, report: &mut StatusReport) -> Result<()> {
    report.repository = repository.url().to_owned();
    let mut latest = None;
    let mut times = Vec::new();
    for id in Manifest::ids(repository).await? {
        match Manifest::read(repository, &id).await {
            Ok(manifest) if manifest.pipeline == workspace.pipeline.name => {
                report.snapshots += 1;
                times.push(manifest.created);
                latest = Some(manifest);
            }
            Ok(_) => {}
            Err(e) => report.problems.push(e.to_string()),
        }
    }
    match crate::drill::history(repository).await {
        Ok(mut drills) => {
            drills.retain(|d| d.get("pipeline").and_then(|p| p.as_str()) == Some(&workspace.pipeline.name));
            report.last_drill = drills.pop();
        }
        Err(e) => report.problems.push(e.to_string()),
    }
    if let Some(manifest) = &latest {
        report.latest = Some(SnapshotSummary::from(manifest));
        let age = jiff::Timestamp::now().duration_since(manifest.created).as_secs_f64();
        report.age_seconds = Some(age.max(0.0));
        match exposure(workspace, repository, manifest).await {
            Ok(exposure) => report.exposure = Some(exposure),
            Err(e) => report.problems.push(e.to_string()),
        }
    }
    answer(workspace, Some(repository), latest.as_ref(), &times, report).await
}

/// Answers the questions from what has been found out.
async fn answer(
    workspace: &Workspace,
    repository: Option<&Repository>,
    latest: Option<&Manifest>,
    snapshots: &[jiff::Timestamp],
    report: &mut StatusReport,
) -> Result<()> {
    let pipeline = &workspace.pipeline;
    let now = jiff::Timestamp::now();
    let external = answers::external(pipeline, &workspace.base, latest, &report.replicas);
    report.answers.push(external);
    if let Some(repository) = repository {
        report.answers.push(answers::complete(repository, latest).await?);
    }
    report.answers.push(answers::retained(&pipeline.retention, snapshots, now));
    report.answers.push(answers::encrypted(None));
    report.answers.push(answers::tested(report.last_drill.as_ref(), report.last_verification.as_ref(), now));
    report.answers.push(answers::rpo(report.age_seconds, report.exposure.as_ref(), pipeline.drill.rpo_seconds));
    report.answers.push(answers::rto(report.last_drill.as_ref(), pipeline.drill.rto_seconds));
    Ok(())
}

async fn of_target(target: &dyn Target, production: &str, report: &mut StatusReport) -> Result<()> {
    for name in target.list().await? {
        match target.describe(&name).await {
            Ok(Some(info)) => {
                if made_for(&info.name, production)
                    || info.name == production
                    || info.aliases.iter().any(|a| a == production)
                {
                    report.collections.push(info);
                }
            }
            Ok(None) => {}
            Err(e) => report.problems.push(e.to_string()),
        }
    }
    Ok(())
}

/// Whether a restore or a drill of this production name chose the physical name: `<name>-<8 hexadecimal digits>`,
/// perhaps numbered, or `<name>-drill-…`. (Another pipeline's name may begin like this one's.)
fn made_for(name: &str, production: &str) -> bool {
    let Some(rest) = name.strip_prefix(production).and_then(|rest| rest.strip_prefix('-')) else { return false };
    let key = rest.split('-').next().unwrap_or_default();
    rest.starts_with("drill-") || (key.len() == 8 && key.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Paths shown per kind of difference.
const EXAMPLES: usize = 5;

/// Compares the corpus's listing with the inventory. An equal listing needs no more than the listing; otherwise
/// 24 bytes per object are held.
pub async fn exposure(workspace: &Workspace, repository: &Repository, manifest: &Manifest) -> Result<Exposure> {
    let mut settings = manifest.corpus.settings.clone();
    settings.url = workspace.pipeline.corpus.url.clone();
    settings.store = workspace.pipeline.corpus.store.clone();
    let corpus = workspace.corpus(&settings)?;
    let mut listing = Listing::default();
    let mut objects = corpus.list();
    while let Some(object) = objects.next().await {
        if let Ok(object) = object {
            listing.add(&object);
        }
    }
    if listing.objects == manifest.corpus.objects && listing.digest() == manifest.corpus.listing {
        return Ok(Exposure::default());
    }
    let mut recorded: HashMap<u64, (u64, bool)> = HashMap::new();
    let mut reader = InventoryReader::new(repository, manifest);
    for bucket in 0..1u32 << manifest.buckets.bits {
        for row in reader.bucket(bucket).await? {
            recorded.insert(key(&row.object.path), (state(&row.object), false));
        }
    }
    // What the snapshot left out by name is known, too: it is neither new nor compared.
    let mut left_out = std::collections::HashSet::new();
    if let Some(skipped) = &manifest.skipped {
        for line in repository.get_sealed_content(skipped).await?.split(|byte| *byte == b'\n').filter(|l| !l.is_empty())
        {
            if let Ok(document) = serde_json::from_slice::<SkippedDocument>(line) {
                left_out.insert(key(&document.path));
            }
        }
    }
    let mut found = Exposure::default();
    let mut examples = [Vec::new(), Vec::new()];
    let mut objects = corpus.list();
    while let Some(object) = objects.next().await {
        let Ok(object) = object else { continue };
        let kind = match recorded.get_mut(&key(&object.path)) {
            None if left_out.contains(&key(&object.path)) => continue,
            None => 0,
            Some((recorded, seen)) => {
                *seen = true;
                if *recorded == state(&object) {
                    continue;
                }
                1
            }
        };
        if kind == 0 {
            found.added += 1;
        } else {
            found.changed += 1;
        }
        if examples[kind].len() < EXAMPLES {
            examples[kind].push(format!("{}: {}", ["added", "changed"][kind], object.path));
        }
    }
    found.vanished = recorded.values().filter(|(_, seen)| !seen).count() as u64;
    found.examples = examples.concat();
    let mut unnamed = EXAMPLES.min(found.vanished as usize);
    for bucket in 0..1u32 << manifest.buckets.bits {
        if unnamed == 0 {
            break;
        }
        for row in reader.bucket(bucket).await? {
            // Once named it counts as seen: a record file comes with each of its records.
            if let Some((_, seen @ false)) = recorded.get_mut(&key(&row.object.path))
                && unnamed > 0
            {
                *seen = true;
                unnamed -= 1;
                found.examples.push(format!("vanished: {}", row.object.path));
            }
        }
    }
    Ok(found)
}

fn key(path: &str) -> u64 {
    Digest::of(path.as_bytes()).prefix()
}

fn state(object: &SourceObject) -> u64 {
    Digest::of(format!("{} {} {:?}", object.size, object.modified, object.etag).as_bytes()).prefix()
}
