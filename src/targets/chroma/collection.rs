//! What regrow writes on a collection, and how a name leads to one.
//!
//! Chroma has no aliases: a collection has one name. A production name is taken by renaming, so that every client finds
//! the collection under it; the physical name stays in the collection's metadata and comes back when another one
//! takes over.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::client::Remote;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::model::Metric;
use crate::pipeline::IndexSettings;
use crate::targets::checks;
use crate::targets::types::*;

/// The physical name.
pub(super) const NAME: &str = "regrow_name";
/// The marker, as JSON.
pub(super) const MARKER: &str = "regrow_marker";
const SPEC: &str = "regrow_spec";
/// True once the index was asked for.
pub(super) const INDEXED: &str = "regrow_indexed";
/// The production name that the collection has now.
pub(super) const ALIAS: &str = "regrow_alias";
/// The production name that it is about to take: see [`Taking`].
pub(super) const TAKING: &str = "regrow_taking";

/// Longest name that every server takes.
const LONGEST: usize = 128;
/// Before names that Chroma cannot hold.
const DIGESTED: &str = "regrow-name-";

/// What a collection was made with, beside what Chroma itself keeps.
#[derive(Debug, Serialize, Deserialize)]
struct Spec {
    dimension: usize,
    metric: Metric,
    index: IndexSettings,
    payload_indexes: std::collections::BTreeMap<String, crate::pipeline::FieldType>,
}

/// Written on a collection before the collection that has a production name gives it up. While nothing has that
/// name, this one answers to it, and the next promotion finishes what was interrupted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Taking {
    pub(super) alias: String,
    /// Physical name of the collection that had it.
    pub(super) previous: Option<String>,
}

/// The name at the server: the name itself, or one made from its digest where Chroma does not take it.
pub(super) fn stored(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric();
    let fits = (3..=LONGEST).contains(&name.len())
        && name.chars().all(|c| plain(c) || "._-".contains(c))
        && name.starts_with(plain)
        && name.ends_with(plain)
        && !name.contains("..")
        && !name.starts_with(DIGESTED)
        && name.parse::<std::net::Ipv4Addr>().is_err();
    if fits {
        return name.to_owned();
    }
    let digest = Digest::of(name.as_bytes()).to_string();
    format!("{DIGESTED}{}", digest.get(..40).unwrap_or(&digest))
}

/// Chroma's names of distances that serve a metric, the usual one first. Vectors of cosine collections have length 1, or
/// are given it before they are written, so that the dot product is the cosine; Chroma's own cosine changes their bits.
fn spaces(metric: Metric) -> &'static [&'static str] {
    match metric {
        Metric::Cosine => &["ip", "cosine"],
        Metric::Dot => &["ip"],
        Metric::Euclidean => &["l2"],
    }
}

/// The space as the snapshot recorded it, where it serves the metric.
fn space(spec: &CollectionSpec) -> &'static str {
    let fitting = spaces(spec.metric);
    let recorded = spec.own.get("space").and_then(Value::as_str);
    fitting.iter().find(|s| Some(**s) == recorded).unwrap_or(&fitting[0])
}

/// Parameters of the index that have no place in [`IndexSettings`].
const OWN: [&str; 2] = ["sync_threshold", "resize_factor"];

/// What of the specification cannot be had.
pub(super) fn unsupported(spec: &CollectionSpec, cloud: bool) -> Vec<String> {
    let mut said = Vec::new();
    for (key, value) in &spec.own {
        match key.as_str() {
            "tenant" => {}
            "space" if value.as_str() == Some(space(spec)) => {}
            "spann" if cloud => {}
            "spann" => said.push("the index of Chroma's cloud (spann): this server builds HNSW".to_owned()),
            key if OWN.contains(&key) && !cloud => {}
            key => said.push(format!("{key} = {value}: Chroma has no such parameter")),
        }
    }
    said.extend(spec.roles.iter().map(|role| format!("the rights of {}: Chroma has no roles", role.name)));
    said
}

/// The request that creates a collection.
pub(super) fn creation(spec: &CollectionSpec, cloud: bool) -> Result<Value> {
    let made = Spec {
        dimension: spec.dimension,
        metric: spec.metric,
        index: spec.index.clone(),
        payload_indexes: spec.payload_indexes.clone(),
    };
    let configuration = match spec.own.get("spann") {
        Some(spann) if cloud => json!({"spann": spann}),
        _ => {
            let mut hnsw = json!({
                "space": space(spec),
                "max_neighbors": spec.index.m,
                "ef_construction": spec.index.ef_construct,
                "ef_search": spec.index.ef_search,
            });
            for key in OWN.into_iter().filter(|_| !cloud) {
                if let Some(value) = spec.own.get(key) {
                    hnsw[key] = value.clone();
                }
            }
            json!({"hnsw": hnsw})
        }
    };
    Ok(json!({
        "name": stored(&spec.name),
        "configuration": configuration,
        "metadata": {NAME: spec.name, MARKER: text(&spec.marker)?, SPEC: text(&made)?},
    }))
}

/// A value as the text of a metadata field.
pub(super) fn text<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::new(ErrorKind::Unexpected, "cannot write metadata").because(e))
}

impl Remote {
    pub(super) fn metadata(&self) -> Map<String, Value> {
        self.metadata.clone().unwrap_or_default()
    }

    fn said(&self, key: &str) -> Option<&str> {
        self.metadata.as_ref()?.get(key)?.as_str()
    }

    fn parsed<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let parse = |text: &str| {
            serde_json::from_str(text).map_err(|e| {
                Error::new(ErrorKind::Target, "what regrow wrote on the collection cannot be read")
                    .with("collection", self.physical())
                    .with("field", key)
                    .guidance("another version of regrow may have written it; or delete the collection by hand")
                    .because(e)
            })
        };
        self.said(key).map(parse).transpose()
    }

    pub(super) fn physical(&self) -> &str {
        self.said(NAME).unwrap_or(&self.name)
    }

    /// The production name that it has at the server.
    pub(super) fn alias(&self) -> Option<&str> {
        if stored(self.physical()) == self.name || self.said(NAME).is_none() {
            return None;
        }
        // Renamed by hand: the name that it was given.
        Some(self.said(ALIAS).filter(|alias| stored(alias) == self.name).unwrap_or(&self.name))
    }

    pub(super) fn taking(&self) -> Result<Option<Taking>> {
        self.parsed(TAKING)
    }

    pub(super) fn marker(&self) -> Result<Option<Marker>> {
        self.parsed(MARKER)
    }

    pub(super) fn indexed(&self) -> bool {
        self.metadata.as_ref().and_then(|m| m.get(INDEXED)).and_then(Value::as_bool).unwrap_or(false)
    }

    fn configured(&self, key: &str) -> Option<&Value> {
        ["hnsw", "spann"].into_iter().find_map(|kind| self.configuration_json.get(kind)?.get(key))
    }

    /// How distances are to be read: the server's, and what they mean.
    pub(super) fn distance(&self) -> Result<(Space, Metric)> {
        let space = match self.configured("space").and_then(Value::as_str) {
            Some("cosine") => Space::Cosine,
            Some("ip") => Space::Product,
            // Chroma's own default.
            _ => Space::Squared,
        };
        let metric = match self.parsed::<Spec>(SPEC)? {
            Some(spec) => spec.metric,
            None => match space {
                Space::Cosine => Metric::Cosine,
                Space::Product => Metric::Dot,
                Space::Squared => Metric::Euclidean,
            },
        };
        Ok((space, metric))
    }

    pub(super) fn dimension(&self) -> Result<usize> {
        Ok(self.parsed::<Spec>(SPEC)?.map(|s| s.dimension).or(self.dimension).unwrap_or(0))
    }

    /// Whether records may hold floats under this key; true where the server does not tell.
    pub(super) fn floats(&self, key: &str) -> bool {
        let keys = self.schema.as_ref().and_then(|schema| schema.get("keys")?.as_object());
        keys.is_none_or(|keys| keys.get(key).is_some_and(|types| types.get("float").is_some_and(|f| !f.is_null())))
    }

    fn own(&self) -> Map<String, Value> {
        let mut own = Map::new();
        if let Some(spann) = self.configuration_json.get("spann").filter(|spann| spann.is_object()) {
            own.insert("spann".to_owned(), spann.clone());
        }
        if let Some(hnsw) = self.configuration_json.get("hnsw") {
            for key in OWN.into_iter().chain(["space"]) {
                own.extend(hnsw.get(key).filter(|v| !v.is_null()).map(|v| (key.to_owned(), v.clone())));
            }
        }
        own
    }

    pub(super) fn info(&self, aliases: Vec<String>, count: u64) -> Result<CollectionInfo> {
        let spec = self.parsed::<Spec>(SPEC)?;
        let number = |key: &str, otherwise: u32| {
            self.configured(key).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()).unwrap_or(otherwise)
        };
        let default = IndexSettings::default();
        let index = IndexSettings {
            m: number("max_neighbors", default.m),
            ef_construct: number("ef_construction", default.ef_construct),
            ef_search: number("ef_search", default.ef_search),
            threads: spec.as_ref().map_or(0, |s| s.index.threads),
        };
        Ok(CollectionInfo {
            name: self.physical().to_owned(),
            aliases,
            dimension: self.dimension()?,
            metric: self.distance()?.1,
            index,
            payload_indexes: spec.map(|s| s.payload_indexes).unwrap_or_default(),
            count,
            tenants: Tenants { count: None, kept: TenantKeeping::Payload },
            roles: Vec::new(),
            own: self.own(),
            marker: self.marker()?,
        })
    }

    /// The marker, which must be of this instance.
    pub(super) fn held_by(&self, name: &str, instance: uuid::Uuid) -> Result<Marker> {
        let marker = self.marker()?.ok_or_else(|| checks::not_owned(name))?;
        checks::same_instance(name, instance, marker.instance)?;
        Ok(marker)
    }
}

/// The server's distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    /// 1 less the cosine.
    Cosine,
    /// 1 less the dot product.
    Product,
    /// The square of the Euclidean distance.
    Squared,
}

impl Space {
    /// The score that a distance means.
    pub(super) fn score(self, distance: f32) -> f32 {
        match self {
            Self::Cosine | Self::Product => 1.0 - distance,
            Self::Squared => distance.max(0.0).sqrt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_where_chroma_takes_them() {
        for name in ["docs", "a.b-c_d", "A1b", &"x".repeat(128)] {
            assert_eq!(stored(name), name);
        }
        let others = ["", "ab", "a/b", "ä.ö.ü", "-abc", "abc.", "a..b", "1.2.3.4", "regrow-name-x", &"x".repeat(129)];
        let mut all: Vec<String> = others.iter().map(|name| stored(name)).collect();
        assert!(all.iter().all(|name| name.len() == 52 && name.starts_with(DIGESTED)));
        all.sort();
        all.dedup();
        assert_eq!(all.len(), others.len());
        // A name that looks like a digested one does not reach it.
        assert_ne!(stored(&stored("ab")), stored("ab"));
    }
}
