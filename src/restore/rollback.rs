//! The way back: the production name points at a collection that was served before.

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::targets::{CollectionState, Purpose, Target};
use crate::workspace::Workspace;

/// A collection that this pipeline's restores made, or took over.
#[derive(Debug, Clone, Serialize)]
pub struct KeptCollection {
    /// Physical name.
    pub name: String,
    /// When it was made; the beginning of 1970 for one that was taken over.
    pub created: jiff::Timestamp,
    /// Snapshot it was made from.
    pub snapshot: String,
    /// How far it is.
    pub state: CollectionState,
    /// The production name points at it.
    pub served: bool,
}

/// Report of `regrow rollback`.
#[derive(Debug, Clone, Serialize)]
pub struct RollbackReport {
    /// Always `rollback`.
    pub verb: &'static str,
    /// Always true: what cannot be done is an error.
    pub ok: bool,
    /// Always 0.
    pub exit_code: u8,
    /// Production name.
    pub production: String,
    /// What it points at now.
    pub collection: Option<String>,
    /// What it pointed at before, where that changed.
    pub previous: Option<String>,
    /// What was deleted.
    pub deleted: Option<String>,
    /// All that are there now, newest first.
    pub collections: Vec<KeptCollection>,
}

/// What to do.
#[derive(Debug, Clone, Default)]
pub enum Rollback {
    /// To the newest complete collection that is older than the one served.
    #[default]
    Previous,
    /// To this one.
    To(String),
    /// Nothing but look.
    List,
    /// Delete this one, which must not be served.
    Delete(String),
}

/// Points the production name at another collection of this pipeline, or deletes one that is not served.
///
/// # Errors
/// `NotFound` when there is nothing to go back to, or no such collection; `Target` for one that regrow did not make, or, to
/// be deleted, that is served.
pub async fn rollback(workspace: &Workspace, what: &Rollback) -> Result<RollbackReport> {
    let target = workspace.target()?;
    let name = workspace.pipeline.collection();
    let served = target.describe(name).await?.map(|info| info.name);
    let mut report = RollbackReport {
        verb: "rollback",
        ok: true,
        exit_code: 0,
        production: name.to_owned(),
        collection: served.clone(),
        previous: None,
        deleted: None,
        collections: Vec::new(),
    };
    let chosen = match what {
        Rollback::List => None,
        Rollback::Delete(wanted) => {
            target.delete(target.open_owned(wanted).await?).await?;
            report.deleted = Some(wanted.clone());
            None
        }
        Rollback::To(wanted) => Some(target.open_owned(wanted).await?),
        Rollback::Previous => {
            let all = kept(target.as_ref(), name, served.as_deref()).await?;
            let now = all.iter().find(|c| c.served).map(|c| c.created);
            let older = |c: &&KeptCollection| {
                !c.served && c.state == CollectionState::Ready && now.is_none_or(|now| c.created < now)
            };
            let Some(found) = all.iter().find(older) else {
                return Err(Error::new(ErrorKind::NotFound, "there is no earlier collection to go back to")
                    .with("production", name)
                    .guidance("`regrow rollback --list` shows those that are kept, --to names one of them"));
            };
            Some(target.open_owned(&found.name).await?)
        }
    };
    if let Some(chosen) = chosen {
        if chosen.marker().state != CollectionState::Ready {
            return Err(Error::new(ErrorKind::Target, "this collection is not complete, or did not pass its checks")
                .with("collection", chosen.name())
                .guidance("choose another one: `regrow rollback --list`"));
        }
        report.previous = target.promote(name, &chosen).await?.filter(|before| before != chosen.name());
        report.collection = Some(chosen.name().to_owned());
    }
    report.collections = kept(target.as_ref(), name, report.collection.as_deref()).await?;
    Ok(report)
}

/// The pipeline's collections, newest first. Drills' are not among them.
async fn kept(target: &dyn Target, production: &str, served: Option<&str>) -> Result<Vec<KeptCollection>> {
    let prefix = target.capabilities().names.fit(production);
    let mut all = Vec::new();
    for name in target.list().await? {
        if !name.starts_with(&prefix) {
            continue;
        }
        let owned = match target.open_owned(&name).await {
            Ok(owned) => owned,
            Err(e) if e.retryable() => return Err(e),
            // Somebody else's, or gone by now.
            Err(_) => continue,
        };
        let marker = owned.marker();
        if marker.purpose == Purpose::Restore {
            all.push(KeptCollection {
                created: marker.created,
                snapshot: marker.snapshot.clone(),
                state: marker.state,
                served: served == Some(name.as_str()),
                name,
            });
        }
    }
    all.sort_by(|a, b| b.created.cmp(&a.created).then(a.name.cmp(&b.name)));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{FetchOptions, Metric, ModelStore};
    use crate::pipeline::Pipeline;
    use crate::targets::Marker;
    use crate::targets::conformance::spec;
    use crate::targets::memory::MemoryTarget;

    #[tokio::test]
    async fn the_name_goes_back_and_forth_and_what_is_served_stays() {
        let target = Arc::new(MemoryTarget::new());
        let pipeline = Pipeline::starter("docs", "docs", "repository");
        let models = tempfile::tempdir().unwrap();
        let workspace =
            Workspace::new(pipeline, ".".into(), ModelStore::new(models.path().to_owned(), FetchOptions::default()))
                .with_target(target.clone());
        for (second, state) in [(1, CollectionState::Ready), (2, CollectionState::Failed), (3, CollectionState::Ready)]
        {
            let mut spec = spec(&format!("docs-{second}"), 4, Metric::Dot);
            let created = jiff::Timestamp::from_second(second).unwrap();
            spec.marker = Marker { created, state, purpose: Purpose::Restore, ..spec.marker };
            let owned = target.create(&spec).await.unwrap();
            if second == 3 {
                target.promote("docs", &owned).await.unwrap();
            }
        }
        target.create(&spec("docs-drill-1", 4, Metric::Dot)).await.unwrap();

        let report = rollback(&workspace, &Rollback::Previous).await.unwrap();
        assert_eq!(report.collection.as_deref(), Some("docs-1"));
        assert_eq!(report.previous.as_deref(), Some("docs-3"));
        let names: Vec<(&str, bool)> = report.collections.iter().map(|c| (c.name.as_str(), c.served)).collect();
        assert_eq!(names, [("docs-3", false), ("docs-2", false), ("docs-1", true)]);

        let none = rollback(&workspace, &Rollback::Previous).await.unwrap_err();
        assert_eq!(none.kind(), ErrorKind::NotFound);
        for name in ["docs-2", "docs-1"] {
            let wrong = if name == "docs-2" { Rollback::To(name.into()) } else { Rollback::Delete(name.into()) };
            assert_eq!(rollback(&workspace, &wrong).await.unwrap_err().kind(), ErrorKind::Target, "{name}");
        }
        let forth = rollback(&workspace, &Rollback::To("docs-3".into())).await.unwrap();
        assert_eq!(forth.previous.as_deref(), Some("docs-1"));
        let deleted = rollback(&workspace, &Rollback::Delete("docs-1".into())).await.unwrap();
        assert_eq!((deleted.deleted.as_deref(), deleted.collections.len()), (Some("docs-1"), 2));
        assert_eq!(deleted.collection.as_deref(), Some("docs-3"));
    }
}
