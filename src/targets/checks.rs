//! Rules that are the same for every target, and the errors that say so.

use uuid::Uuid;

use super::types::*;
use crate::error::{Error, ErrorKind, Result};

/// Longest name of a collection or alias, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 512;

/// Why a point cannot be written to a collection of this dimension, if it cannot.
pub(crate) fn refusal(point: &Point, dimension: usize) -> Option<String> {
    if point.vector.len() != dimension {
        return Some(format!("the vector has {} values, the collection takes {dimension}", point.vector.len()));
    }
    let bad = point.vector.iter().position(|v| !v.is_finite())?;
    Some(format!("value {bad} of the vector is {}", point.vector[bad]))
}

/// Splits a batch into the points that can be written and those that are refused, by id.
pub(crate) fn sort_out(points: Vec<Point>, dimension: usize) -> (Vec<Point>, Vec<(crate::ids::ChunkId, String)>) {
    let mut refused = Vec::new();
    let mut good = Vec::with_capacity(points.len());
    for point in points {
        match refusal(&point, dimension) {
            None => good.push(point),
            Some(reason) => refused.push((point.id, reason)),
        }
    }
    (good, refused)
}

/// A name that every target can hold.
pub(crate) fn name(what: &'static str, name: &str) -> Result<()> {
    let problem = if name.is_empty() {
        "is empty"
    } else if name.len() > MAX_NAME_BYTES {
        "is longer than 512 bytes"
    } else if name.chars().any(char::is_control) {
        "holds a control character"
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Configuration, format!("the name of the {what} {problem}"))
        .with("name", name.escape_debug())
        .guidance("choose another name in the pipeline file"))
}

/// A specification that every target can serve.
pub(crate) fn spec(spec: &CollectionSpec) -> Result<()> {
    name("collection", &spec.name)?;
    let wrong = |message: &str| {
        Err(Error::new(ErrorKind::Configuration, message)
            .with("collection", &spec.name)
            .guidance("correct `[target.index]` or `[target.payload_indexes]` in the pipeline file"))
    };
    if spec.dimension == 0 {
        return wrong("a collection's vectors need at least one value");
    }
    if spec.index.m < 2 {
        return wrong("`m` of the index must be at least 2");
    }
    if spec.index.ef_construct < 4 {
        return wrong("`ef_construct` of the index must be at least 4");
    }
    if spec.index.ef_search < 1 {
        return wrong("`ef_search` of the index must be at least 1");
    }
    for field in spec.payload_indexes.keys() {
        super::filter::path(field)?;
    }
    Ok(())
}

/// A query vector that fits the collection.
pub(crate) fn query(collection: &str, vector: &[f32], dimension: usize) -> Result<()> {
    if vector.len() != dimension {
        return Err(Error::new(ErrorKind::Target, "the query vector has the wrong dimension")
            .with("collection", collection)
            .with("expected", dimension)
            .with("found", vector.len())
            .guidance("query with the model the collection was made with"));
    }
    if vector.iter().any(|v| !v.is_finite()) {
        return Err(Error::new(ErrorKind::Target, "the query vector holds a value that is not finite")
            .with("collection", collection));
    }
    Ok(())
}

/// A name that this target can hold.
pub(crate) fn fits(what: &'static str, text: &str, names: &Names) -> Result<()> {
    name(what, text)?;
    if names.allow(text) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Configuration, format!("the target cannot have a {what} of this name"))
        .with("name", text)
        .with("most bytes", names.max_bytes)
        .guidance(format!("set target.collection in the pipeline file, for example to \"{}\"", names.fit(text))))
}

/// The collection is regrow's already.
pub(crate) fn owned_already(name: &str) -> Error {
    Error::new(ErrorKind::AlreadyExists, "the collection carries regrow's marker already")
        .with("collection", name)
        .guidance("it needs no adoption")
}

/// The marker may change, but not whose it is.
pub(crate) fn same_instance(collection: &str, held: Uuid, found: Uuid) -> Result<()> {
    if held == found {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Target, "the collection was deleted and made again by someone else in the meantime")
        .with("collection", collection)
        .with("expected", held)
        .with("found", found)
        .guidance("run the command again: it starts from the collection that is there now"))
}

/// No such collection.
pub(crate) fn not_found(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, "no such collection")
        .with("collection", name)
        .guidance("check the name against the target's list of collections")
}

/// The physical name is taken.
pub(crate) fn taken(name: &str, by: &'static str) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("the name is taken by {by}"))
        .with("collection", name)
        .guidance("choose another name, or delete what is there if it is not needed")
}

/// The collection does not carry regrow's marker.
pub(crate) fn not_owned(name: &str) -> Error {
    Error::new(ErrorKind::Target, "the collection was not made by regrow: it carries no marker")
        .with("collection", name)
        .guidance("regrow writes to and deletes only what it made; choose another name, or take it over with --adopt")
}

/// A production name cannot be the physical name of a collection.
pub(crate) fn alias_is_physical(alias: &str) -> Error {
    Error::new(ErrorKind::Target, "the production name is the physical name of a collection")
        .with("alias", alias)
        .guidance("choose another production name (`target.collection`), or rename or delete that collection first; where the database can rename, --adopt takes it over and renames it")
}

/// A collection in production is not deleted.
pub(crate) fn in_production(name: &str, aliases: &[String]) -> Error {
    Error::new(ErrorKind::Target, "the collection is in production: it is not deleted")
        .with("collection", name)
        .with("aliases", aliases.join(", "))
        .guidance("promote another collection first")
}
