//! Which objects are needed, and by what cannot be known.
//!
//! Needed are: what a manifest names; the parts that follow from a snapshot's inventory, stored by a finished restore or
//! not; the vector sets with these parts, and those that were computed from a snapshot that is there, with all their
//! parts; and of every model that a snapshot uses the newest vector set under each chunking rules, from which later
//! restores take vectors.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use futures::TryStreamExt;
use jiff::Timestamp;

use super::catalog::{CONCURRENT, CONTENT, Found, Name, describe, lasting, name_of, read_some, snapshots};
use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::repository::{InventoryReader, Manifest, Repository, path};
use crate::vectors::{PartName, VectorSetRecord};

/// What a part name depends on besides the documents.
type Context = (Digest, Digest, u8);

/// Reads references; remembers what inventories say, so that reading them again under the lock takes little.
pub(super) struct ReferenceReader<'a> {
    repository: &'a Repository,
    cancel: &'a Cancel,
    /// 48 bytes per part of every inventory object that differs.
    parts: HashMap<(Digest, Context), Vec<PartName>>,
}

/// What is needed: 16 bytes per object.
#[derive(Debug, Default)]
pub(super) struct References {
    needed: HashSet<Name>,
    /// Parts that nothing needs, of vector sets whose records stay for now.
    held: HashSet<Name>,
    unreadable_snapshots: BTreeSet<String>,
    unreadable_sets: BTreeSet<String>,
    /// Folders of parts that an unreadable inventory may need.
    unknown_parts: BTreeSet<String>,
    pub(super) snapshots: u64,
    /// What cannot be read, and what stays for its sake.
    pub(super) refused: Vec<String>,
}

impl References {
    /// Whether an object waits for another to go first: a vector set that is recorded is whole, needed or not.
    pub(super) fn held(&self, object: &str) -> bool {
        self.held.contains(&name_of(object))
    }

    /// Whether an object may go, as far as references say. Everything that is not known here stays.
    pub(super) fn removable(&self, object: &str) -> bool {
        let mut segments = object.split('/');
        let (folder, second) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
        let deeper = segments.next().is_some();
        let needed = || self.needed.contains(&name_of(object));
        let known = self.unreadable_snapshots.is_empty();
        match folder {
            // A folder without a manifest is a snapshot that was never committed, or was forgotten.
            path::SNAPSHOTS => {
                deeper
                    && !object.ends_with("/manifest.json")
                    && !self.unreadable_snapshots.contains(second)
                    && !needed()
            }
            path::VECTORS => {
                let parts = object.rsplit_once('/').map_or("", |(parts, _)| parts);
                known && self.unreadable_sets.is_empty() && !self.unknown_parts.contains(parts) && !needed()
            }
            path::VECTOR_SETS => {
                known && self.unknown_parts.is_empty() && !self.unreadable_sets.contains(object) && !needed()
            }
            // Receipts serve the run that continues a load; without them a part is loaded again.
            path::RESTORES => deeper,
            // A record stays; parts lie below a folder while a drill runs.
            path::DRILLS => deeper,
            folder if CONTENT.contains(&folder) => known && !needed(),
            _ => false,
        }
    }
}

/// Id of the vector set that a record's object is for.
fn id_of(object: &str) -> &str {
    object.rsplit('/').next().unwrap_or_default().trim_end_matches(".json")
}

/// Newest vector set under one model and rules.
type Newest = BTreeMap<(Digest, Digest), (Timestamp, String)>;

impl<'a> ReferenceReader<'a> {
    pub(super) fn new(repository: &'a Repository, cancel: &'a Cancel) -> Self {
        Self { repository, cancel, parts: HashMap::new() }
    }

    /// Reads every manifest, inventory and vector set's record.
    pub(super) async fn read(&mut self) -> Result<References> {
        let mut references = References::default();
        let stored = self.stored_contexts().await?;
        let (mut sets, mut ids, mut models) = (HashSet::new(), HashSet::new(), BTreeSet::new());
        for some in snapshots(self.repository).await?.chunks(CONCURRENT) {
            self.cancel.check()?;
            for (id, found) in read_some(self.repository, some).await? {
                let manifest = match found {
                    Found::Readable(manifest, _) => manifest,
                    Found::Unreadable(e) => {
                        references.cannot_read_snapshot(id, &e);
                        continue;
                    }
                };
                references.snapshots += 1;
                references.needed.extend(manifest.objects().map(|o| name_of(&o.path)));
                ids.insert(name_of(&id));
                models.insert(manifest.model_fingerprint);
                let (model, rules) = (manifest.model_fingerprint, manifest.rules_fingerprint);
                if !stored.contains(&(self.repository.name(&model), self.repository.name(&rules))) {
                    continue;
                }
                let folder = self.repository.parts_folder(path::VECTORS, &model, &rules);
                match self.parts_of(&manifest).await {
                    Ok(parts) => {
                        references.needed.extend(parts.iter().map(|part| name_of(&format!("{folder}/{part}"))));
                        sets.insert(name_of(&VectorSetRecord::id(self.repository, &model, &rules, parts.into_iter())?));
                    }
                    Err(e) if lasting(&e) => references.cannot_read_inventory(&id, folder, &e),
                    Err(e) => return Err(e),
                }
            }
        }
        let newest = self.sets(&mut references, &sets, &ids).await?;
        for ((model, _), (_, id)) in newest {
            if models.contains(&model)
                && let Some(record) = self.record(&mut references, &id).await?
            {
                references.need_set(&record);
            }
        }
        Ok(references)
    }

    /// Vector sets that a snapshot can use are needed; returns the newest under each model and rules.
    async fn sets(&self, references: &mut References, sets: &HashSet<Name>, ids: &HashSet<Name>) -> Result<Newest> {
        let records: Vec<(String, Timestamp)> = self
            .repository
            .list(path::VECTOR_SETS)
            .map_ok(|(name, _, modified)| (name, modified))
            .try_collect()
            .await?;
        let mut newest = Newest::new();
        for (name, modified) in records {
            self.cancel.check()?;
            let id = id_of(&name).to_owned();
            let Some(record) = self.record(references, &id).await? else { continue };
            if sets.contains(&name_of(&id)) || ids.contains(&name_of(&record.snapshot)) {
                references.need_set(&record);
            }
            let candidate = (modified, id);
            let best = newest.entry((record.model_fingerprint, record.rules_fingerprint)).or_insert(candidate.clone());
            if candidate > *best {
                *best = candidate;
            }
        }
        Ok(newest)
    }

    /// Keeps the parts of a vector set whose record stays for now, though nothing needs it.
    pub(super) async fn hold(&self, references: &mut References, object: &str) -> Result<()> {
        if let Some(record) = self.record(references, id_of(object)).await? {
            references.held.extend(record.parts.iter().map(|part| name_of(&part.object.path)));
        }
        Ok(())
    }

    async fn record(&self, references: &mut References, id: &str) -> Result<Option<VectorSetRecord>> {
        match VectorSetRecord::read(self.repository, id).await {
            Ok(record) => Ok(Some(record)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) if lasting(&e) => {
                let name = path::vector_set(id);
                let why = format!("the record of vector set {id} cannot be read: {}", describe(&e));
                if references.unreadable_sets.insert(name) {
                    references.refused.push(format!("{why}; all vectors stay"));
                }
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Models and rules with stored parts: without any, no inventory needs to be read.
    async fn stored_contexts(&self) -> Result<HashSet<(Digest, Digest)>> {
        let mut stored = HashSet::new();
        for model in self.repository.folders(path::VECTORS).await? {
            for rules in self.repository.folders(&format!("{}/{model}", path::VECTORS)).await? {
                if let (Ok(model), Ok(rules)) = (model.parse(), rules.parse()) {
                    stored.insert((model, rules));
                }
            }
        }
        Ok(stored)
    }

    /// The parts that follow from a snapshot's inventory, in bucket order.
    async fn parts_of(&mut self, manifest: &Manifest) -> Result<Vec<PartName>> {
        let context = (manifest.model_fingerprint, manifest.rules_fingerprint, manifest.buckets.bits);
        let mut reader = InventoryReader::new(self.repository, manifest);
        let mut all = Vec::new();
        for object in &manifest.inventory {
            let key = (object.digest, context);
            if let Some(parts) = self.parts.get(&key) {
                all.extend_from_slice(parts);
                continue;
            }
            let (first, last) = object.buckets.ok_or_else(|| {
                Error::new(ErrorKind::Damaged, "an inventory object without buckets").with("object", &object.path)
            })?;
            let mut parts = Vec::new();
            for bucket in first..=last {
                self.cancel.check()?;
                let rows = reader.bucket(bucket).await?;
                parts.extend(PartName::of_bucket(self.repository, manifest, bucket, &rows));
            }
            all.extend_from_slice(&parts);
            self.parts.insert(key, parts);
        }
        Ok(all)
    }
}

impl References {
    fn cannot_read_snapshot(&mut self, id: String, e: &Error) {
        let why = format!("the manifest of snapshot {id} cannot be read: {}", describe(e));
        self.refused.push(format!("{why}; everything that it may need stays"));
        self.unreadable_snapshots.insert(id);
    }

    fn cannot_read_inventory(&mut self, id: &str, folder: String, e: &Error) {
        let why = format!("the inventory of snapshot {id} cannot be read: {}", describe(e));
        self.refused.push(format!("{why}; all vectors under its model and rules stay"));
        self.unknown_parts.insert(folder);
    }

    fn need_set(&mut self, record: &VectorSetRecord) {
        self.needed.insert(name_of(&path::vector_set(&record.id)));
        self.needed.extend(record.parts.iter().map(|part| name_of(&part.object.path)));
    }
}
