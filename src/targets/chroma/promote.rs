//! Taking a production name.

use super::ChromaTarget;
use super::client::Remote;
use super::collection::{self, Taking, stored};
use crate::error::{Error, ErrorKind, Result};
use crate::targets::checks;
use crate::targets::contract::OwnedCollection;

/// The new collection says that it is taking the name; the one that has it gets its physical name back; the new one gets
/// the production name. Whatever happens in between, the collections themselves say what is to be done.
pub(super) async fn promote(target: &ChromaTarget, alias: &str, held: &OwnedCollection) -> Result<Option<String>> {
    let client = target.client();
    let new = target.owned(held).await?;
    let (mut holder, mut takers) = (None, Vec::new());
    for remote in client.list().await? {
        if remote.name == stored(alias) {
            holder = Some(remote);
        } else if remote.physical() == alias {
            // Under its production name at the server.
            return Err(checks::alias_is_physical(alias));
        } else if let Some(taking) = remote.taking()?.filter(|t| t.alias == alias) {
            takers.push((remote, taking));
        }
    }
    if let Some(holder) = &holder {
        if holder.alias().is_none() && (holder.marker()?.is_none() || holder.id == new.id) {
            return Err(checks::alias_is_physical(alias));
        }
        if holder.id == new.id {
            return Ok(Some(new.physical().to_owned()));
        }
    }
    if let Some(other) = new.alias() {
        return Err(one_name_only(held.name(), other));
    }
    // The name is with whoever has it; else with whoever was interrupted while taking it.
    let mut previous = holder.as_ref().map(|holder| match holder.alias() {
        Some(_) => holder.physical().to_owned(),
        // Its own name is wanted: it gets another one.
        None => format!("{alias}-before-{}", &held.marker().instance.simple().to_string()[..8]),
    });
    for (taker, taking) in takers {
        if taker.id == new.id {
            previous = previous.or(taking.previous);
        } else {
            previous = previous.or_else(|| Some(taker.physical().to_owned()));
            let mut metadata = taker.metadata();
            metadata.remove(collection::TAKING);
            client.update(&taker.id, &metadata, None).await?;
        }
    }
    let mut metadata = new.metadata();
    let taking = Taking { alias: alias.to_owned(), previous: previous.clone() };
    metadata.insert(collection::TAKING.to_owned(), collection::text(&taking)?.into());
    client.update(&new.id, &metadata, None).await?;
    if let (Some(holder), Some(previous)) = (&holder, &previous) {
        give_back(target, holder, previous).await?;
    }
    metadata.remove(collection::TAKING);
    metadata.insert(collection::ALIAS.to_owned(), alias.into());
    client.update(&new.id, &metadata, Some(&stored(alias))).await?;
    Ok(previous)
}

/// The collection gets its physical name back, or its new one.
async fn give_back(target: &ChromaTarget, holder: &Remote, physical: &str) -> Result<()> {
    let mut metadata = holder.metadata();
    metadata.remove(collection::ALIAS);
    metadata.insert(collection::NAME.to_owned(), physical.into());
    match target.client().update(&holder.id, &metadata, Some(&stored(physical))).await {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(Error::new(
            ErrorKind::Target,
            "the collection in production cannot get a name of its own back: another collection has that name now",
        )
        .with("collection", physical)
        .guidance("rename or delete that other collection, then promote again")
        .because(e)),
        other => other,
    }
}

fn one_name_only(collection: &str, alias: &str) -> Error {
    Error::new(
        ErrorKind::Target,
        "the collection has a production name already, and in Chroma a collection has one name",
    )
    .with("collection", collection)
    .with("alias", alias)
    .guidance("restore into another collection for the other name, or go on with this one")
}
