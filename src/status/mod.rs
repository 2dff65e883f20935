//! `regrow status`: what would be lost now, what is served now, when it was last proven.

mod answers;

use serde::Serialize;

pub use crate::diff::{Exposure, exposure};
use crate::error::{ErrorKind, Result};
use crate::repository::{Manifest, Repository, SnapshotSummary, path};
use crate::targets::{CollectionInfo, Target};
use crate::workspace::Workspace;

pub use answers::{Answer, ReplicaState, Standing};

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
    match crate::verify::last_verification(repository).await {
        Ok(record) => report.last_verification = record.and_then(|r| serde_json::to_value(r).ok()),
        Err(e) => report.problems.push(e.to_string()),
    }
    if let Some(manifest) = &latest {
        report.replicas = replicas(workspace, &manifest.id).await;
    }
    answer(workspace, Some(repository), latest.as_ref(), &times, report).await
}

/// Whether each replica has the snapshot.
async fn replicas(workspace: &Workspace, snapshot: &str) -> Vec<ReplicaState> {
    let mut states = Vec::new();
    for place in &workspace.pipeline.repository.replicas {
        let there = async {
            let replica = workspace.open_replica(place).await?;
            Ok::<_, crate::Error>(replica.size(&path::manifest(snapshot)).await?.is_some())
        };
        let (current, problem) = match there.await {
            Ok(current) => (current, None),
            Err(e) if e.kind() == ErrorKind::NotFound => (false, None),
            Err(e) => (false, Some(e.to_string())),
        };
        states.push(ReplicaState {
            name: place.name.clone(),
            url: crate::store::display(&place.url),
            current,
            problem,
        });
    }
    states
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
    let slots = match repository {
        Some(repository) if repository.is_encrypted() => {
            let keys = crate::repository::list_keys(repository.clone(), &workspace.unlock().await?).await?;
            Some(keys.slots.len())
        }
        _ => None,
    };
    report.answers.push(answers::encrypted(slots));
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
