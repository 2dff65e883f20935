//! Taking a production name: an alias.

use qdrant_client::qdrant as q;
use qdrant_client::qdrant::alias_operations::Action;

use super::QdrantTarget;
use super::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::targets::checks;
use crate::targets::contract::OwnedCollection;

/// One action: making an alias that is there already points it elsewhere, by one write of one file at the server. Taking it
/// away and making it again in one list is one step for readers too, but the server keeps each action by itself, and
/// killed between the two it would come back without the name.
pub(super) async fn promote(target: &QdrantTarget, alias: &str, held: &OwnedCollection) -> Result<Option<String>> {
    target.owned(held).await?;
    let client = target.client();
    let previous = points_at(client, alias).await?;
    if previous.as_deref() == Some(held.name()) {
        return Ok(previous);
    }
    if previous.is_none() && client.get(alias).await?.is_some() {
        return Err(checks::alias_is_physical(alias));
    }
    let name = held.name().to_owned();
    client
        .change_aliases(vec![Action::CreateAlias(q::CreateAlias {
            collection_name: name,
            alias_name: alias.to_owned(),
        })])
        .await?;
    target.forget_all();
    match points_at(client, alias).await? {
        Some(now) if now == held.name() => Ok(previous),
        now => Err(Error::new(ErrorKind::Target, "the production name was given to another collection meanwhile")
            .with("alias", alias)
            .with("wanted", held.name())
            .with("found", now.unwrap_or_default())
            .guidance("see who else promotes, then promote again")),
    }
}

async fn points_at(client: &Client, alias: &str) -> Result<Option<String>> {
    let aliases = client.aliases().await?;
    Ok(aliases.into_iter().find(|a| a.alias_name == alias).map(|a| a.collection_name))
}
