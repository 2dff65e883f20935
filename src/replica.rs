//! Which repository is meant: the pipeline's own, called `primary`, or one of its replicas.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::{ReplicaSettings, StoreSettings};
use crate::repository::{Manifest, Repository};
use crate::workspace::Workspace;

/// The name of the pipeline's own repository among its replicas.
pub(crate) const PRIMARY: &str = "primary";

/// How long a replica may take to answer when an error asks which of them could serve.
const ANSWER: Duration = Duration::from_secs(10);

impl Workspace {
    /// The pipeline's own repository, and then its replicas.
    fn places(&self) -> Vec<ReplicaSettings> {
        let own = &self.pipeline.repository;
        let primary = ReplicaSettings { name: PRIMARY.to_owned(), url: own.url.clone(), store: own.store.clone() };
        std::iter::once(primary).chain(own.replicas.iter().cloned()).collect()
    }

    /// The repository that is used: the pipeline's, unless a replica was chosen.
    pub(crate) fn chosen(&self) -> Result<ReplicaSettings> {
        self.place(self.replica.as_deref().unwrap_or(PRIMARY))
    }

    /// All but the one that is used.
    pub fn other_repositories(&self) -> Result<Vec<ReplicaSettings>> {
        let chosen = self.chosen()?;
        Ok(self.places().into_iter().filter(|place| place.name != chosen.name && place.url != chosen.url).collect())
    }

    /// A place by its name; a URL or a path is one without a name.
    ///
    /// # Errors
    /// `Configuration` for a name that the pipeline does not have.
    pub fn place(&self, wanted: &str) -> Result<ReplicaSettings> {
        let places = self.places();
        if let Some(place) = places.iter().find(|place| place.name == wanted) {
            return Ok(place.clone());
        }
        if wanted.contains(['/', '\\']) {
            return Ok(ReplicaSettings {
                name: wanted.to_owned(),
                url: wanted.to_owned(),
                store: StoreSettings::new(),
            });
        }
        let names: Vec<&str> = places.iter().map(|place| place.name.as_str()).collect();
        Err(Error::new(ErrorKind::Configuration, "there is no replica of this name")
            .with("name", wanted)
            .with("repositories", names.join(", "))
            .guidance("add it to the pipeline as [[repository.replicas]], or give a URL or a path (./copy)"))
    }

    /// Opens a replica.
    pub async fn open_replica(&self, place: &ReplicaSettings) -> Result<Repository> {
        self.open_repository(place).await.map_err(|e| e.with("replica", &place.name))
    }

    /// The place of a replica, whether there is a repository or not. With `create`, a local directory is made.
    pub(crate) fn bare_replica(&self, place: &ReplicaSettings, create: bool) -> Result<Repository> {
        Repository::bare(&place.url, &self.base, &self.options(&place.store)?, create)
            .map_err(|e| e.with("replica", &place.name))
    }

    /// Snapshots begin in the pipeline's own repository: replicas get them by `copy`.
    pub(crate) fn refuse_replica(&self) -> Result<()> {
        match &self.replica {
            None => Ok(()),
            Some(name) if name == PRIMARY => Ok(()),
            Some(name) => Err(Error::new(ErrorKind::Configuration, "a snapshot is not taken into a replica")
                .with("replica", name)
                .guidance("take it without --repository; `regrow copy` brings it to the replicas")),
        }
    }

    /// Adds to the error of a repository that cannot be opened which other one could serve.
    pub(crate) async fn suggest_replicas(&self, error: Error) -> Error {
        let hopeless = [ErrorKind::KeyMissing, ErrorKind::KeyWrong, ErrorKind::Cancelled];
        let others = self.other_repositories().unwrap_or_default();
        if hopeless.contains(&error.kind()) || others.is_empty() {
            return error;
        }
        let look = async |place: &ReplicaSettings| {
            let repository = self.open_repository(place).await?;
            let ids = Manifest::ids(&repository).await?;
            Ok::<_, Error>((ids.len(), ids.last().cloned()))
        };
        let asked = others.iter().map(|place| async {
            match tokio::time::timeout(ANSWER, look(place)).await {
                Ok(Ok((count, Some(newest)))) => Some((place.name.as_str(), count, newest)),
                _ => None,
            }
        });
        let best = futures::future::join_all(asked).await.into_iter().flatten().max_by(|a, b| a.2.cmp(&b.2));
        let next = error.next_step().unwrap_or_default().to_owned();
        error.guidance(match best {
            Some((name, count, newest)) => format!(
                "{next}; or read from the replica `{name}`, which has {count} snapshot(s), the newest {newest}: \
                 `regrow restore --from {name}`, and `--repository {name}` for every other verb"
            ),
            None => format!("{next}; no replica could be opened either ({} asked)", others.len()),
        })
    }
}
