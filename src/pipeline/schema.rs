//! Which keys a pipeline may hold, as data: taken from the settings types themselves, so that it cannot drift.

use serde_json::{Map, Value, json};

use super::settings::*;
use crate::error::{Error, ErrorKind, Result};
use crate::model::Dtype;
use crate::secret::SecretRef;

/// A pipeline with every optional key present. What it serialises to is the tree of known keys, and its
/// values are the examples that `init` shows for keys without a default.
pub(super) fn exemplar() -> Pipeline {
    Pipeline {
        name: "docs".into(),
        corpus: CorpusSettings {
            url: "docs".into(),
            include: vec!["**/*.md".into()],
            exclude: vec!["drafts/**".into()],
            hidden: false,
            encoding: Some("windows-1252".into()),
            on_bad_document: OnBadDocument::Skip,
            max_document_bytes: 1 << 20,
            path_metadata: Some("{product}/{version}/**".into()),
            records: vec![RecordSettings {
                include: vec!["**/*.jsonl".into()],
                format: Some(RecordFormat::Jsonl),
                id: "id".into(),
                text: vec!["text".into()],
                markup: Markup::Plain,
                title: Some("title".into()),
                tenant: Some("tenant".into()),
                acl: Some("acl".into()),
                metadata: vec!["*".into()],
                delimiter: ",".into(),
            }],
            store: [("region".to_owned(), "eu-central-1".to_owned())].into(),
        },
        chunking: ChunkingSettings::default(),
        model: ModelSettings {
            source: Some("models/all-MiniLM-L6-v2".into()),
            dtype: Some(Dtype::F32),
            dimension: Some(256),
            batch_tokens: Some(8192),
            ..Default::default()
        },
        capture: CaptureSettings { mode: CaptureMode::Copy },
        repository: RepositorySettings {
            url: "repository".into(),
            store: [("region".to_owned(), "eu-central-1".to_owned())].into(),
            encryption: EncryptionSettings {
                passphrase: Some(SecretRef::Variable("REGROW_PASSPHRASE".into())),
                key: Some(SecretRef::Command("key-service get regrow".into())),
            },
            replicas: vec![ReplicaSettings {
                name: "elsewhere".into(),
                url: "s3://other-bucket/regrow".into(),
                store: [("region".to_owned(), "eu-west-1".to_owned())].into(),
            }],
        },
        retention: RetentionSettings {
            preset: Some("90d".into()),
            keep_within: Some("30d".into()),
            keep_tags: vec!["release".into()],
            grace: Some("24h".into()),
            ..Default::default()
        },
        target: target(),
        validation: ValidationSettings {
            golden: Some("golden.jsonl".into()),
            min_canary_cosine: Some(0.9999),
            ..Default::default()
        },
        drill: DrillSettings { rto_seconds: Some(3600.0), rpo_seconds: Some(86400.0), reuse: false },
    }
}

/// Every key of every kind: no pipeline that would pass its checks.
fn target() -> TargetSettings {
    let text = |text: &str| Some(text.to_owned());
    TargetSettings {
        path: text("database"),
        url: text("http://127.0.0.1:6334"),
        api_key: Some(SecretRef::Variable("REGROW_TARGET_KEY".into())),
        user: text("regrow"),
        password: Some(SecretRef::Variable("REGROW_TARGET_PASSWORD".into())),
        ca_file: text("ca.pem"),
        timeout: text("60s"),
        writers: Some(4),
        batch_bytes: Some(4 << 20),
        database: text("search"),
        collection: text("docs"),
        payload_indexes: [("metadata.year".to_owned(), FieldType::Integer)].into(),
        qdrant: Some(QdrantSettings {
            shards: Some(2),
            replication_factor: Some(1),
            write_consistency: Some(1),
            vector_name: text("dense"),
            on_disk: Some(false),
            hnsw_on_disk: Some(false),
            payload_on_disk: Some(true),
            quantization: text("scalar"),
            quantization_in_memory: Some(true),
            optimizer_threads: Some(0),
        }),
        pgvector: Some(PgvectorSettings {
            schema: text("public"),
            vector_type: Some(PgvectorType::Vector),
            index: Some(PgvectorIndex::Hnsw),
            lists: Some(1000),
            probes: Some(32),
            partitions: Some(8),
            maintenance_memory: text("2GB"),
            switch: Some(PgvectorSwitch::View),
            policies: Some([("own_rows".to_owned(), "USING (tenant = current_user)".to_owned())].into()),
        }),
        weaviate: Some(WeaviateSettings {
            grpc_url: text("http://127.0.0.1:50051"),
            multi_tenancy: Some(false),
            shards: Some(1),
            replication_factor: Some(1),
            vector_name: text("dense"),
            quantization: text("rq"),
        }),
        milvus: Some(MilvusSettings {
            shards: Some(1),
            partitions: Some(16),
            consistency: text("strong"),
            import_url: text("s3://milvus-bucket/import"),
            replicas: Some(1),
        }),
        chroma: Some(ChromaSettings { tenant: text("default_tenant") }),
        pinecone: Some(PineconeSettings {
            cloud: text("aws"),
            region: text("us-east-1"),
            host: text("https://docs-abc123.svc.pinecone.io"),
            namespaces: Some(false),
            import_url: text("s3://import-bucket/regrow"),
            import_integration: text("integration-id"),
            deletion_protection: Some(false),
        }),
        ..TargetSettings::new(TargetKind::Embedded)
    }
}

/// Keys whose tables are keyed by the user's own words.
const FREE_TABLES: [&str; 5] = [
    "target.payload_indexes",
    "target.pgvector.policies",
    "corpus.store",
    "repository.store",
    "repository.replicas.store",
];

/// What stands at a key path in the tree of known keys.
pub(super) enum Known {
    /// A value, or a table of known keys.
    Node(Value),
    /// An entry of a table that takes any key.
    Free,
    /// Nothing: these keys are known where the path leaves the tree, in the table `table`.
    Unknown { table: String, key: String, siblings: Vec<String> },
}

/// Looks `path` up; list positions may be any number.
pub(super) fn find(path: &[&str]) -> Result<Known> {
    let mut node = to_json(&exemplar())?;
    let mut at: Vec<&str> = Vec::new();
    for key in path {
        let table: Vec<&str> = at.iter().copied().filter(|key| key.parse::<usize>().is_err()).collect();
        if FREE_TABLES.contains(&table.join(".").as_str()) {
            return Ok(Known::Free);
        }
        let next = match &node {
            Value::Object(map) => map.get(*key).cloned(),
            Value::Array(items) if key.parse::<usize>().is_ok() => items.first().cloned(),
            _ => None,
        };
        let Some(next) = next else {
            let siblings = match &node {
                Value::Object(map) => map.keys().cloned().collect(),
                Value::Array(_) => vec!["0".to_owned(), "1".to_owned()],
                _ => Vec::new(),
            };
            return Ok(Known::Unknown { table: at.join("."), key: (*key).to_owned(), siblings });
        };
        node = next;
        at.push(key);
    }
    Ok(Known::Node(node))
}

/// The JSON form of a pipeline; absent optional keys are null.
pub(super) fn to_json(pipeline: &Pipeline) -> Result<Value> {
    serde_json::to_value(pipeline)
        .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot write the pipeline as JSON").because(e))
}

/// Puts `value` at `path`, making the tables and list entries on the way.
pub(super) fn put(root: &mut Value, path: &[&str], value: Value) -> Result<()> {
    let mut node = root;
    for key in path {
        if let Value::Array(items) = node {
            let index = key.parse::<usize>().ok().filter(|i| *i <= items.len());
            let Some(index) = index else {
                return Err(Error::new(ErrorKind::Configuration, "there is no such entry in the list")
                    .with("entry", key)
                    .with("entries", items.len())
                    .guidance("entries count from 0; the next free number adds one"));
            };
            if index == items.len() {
                items.push(json!({}));
            }
            node = &mut items[index];
            continue;
        }
        if !node.is_object() {
            *node = Value::Object(Map::new());
        }
        let Value::Object(map) = node else { break };
        node = map.entry((*key).to_owned()).or_insert(Value::Null);
    }
    *node = value;
    Ok(())
}

/// The known key that is closest to `key`, if one is close enough to be meant.
pub(super) fn nearest<'a>(key: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let close = |a: &str, b: &str| {
        let (a, b) = (a.to_lowercase(), b.to_lowercase());
        if a.len() >= 3 && b.len() >= 3 && (a.starts_with(&b) || b.starts_with(&a)) { 1 } else { distance(&a, &b) }
    };
    let (best, cost) = known.into_iter().map(|k| (k, close(key, k))).min_by_key(|(_, cost)| *cost)?;
    (cost <= best.chars().count().max(key.chars().count()).div_ceil(3)).then_some(best)
}

/// Optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exemplar_has_every_key() {
        fn nulls(path: &str, value: &Value, out: &mut Vec<String>) {
            match value {
                Value::Null => out.push(path.to_owned()),
                Value::Object(map) => map.iter().for_each(|(k, v)| nulls(&format!("{path}.{k}"), v, out)),
                Value::Array(items) => {
                    if items.is_empty() {
                        out.push(path.to_owned());
                    }
                    items.iter().for_each(|v| nulls(path, v, out));
                }
                _ => {}
            }
        }
        let mut out = Vec::new();
        nulls("", &to_json(&exemplar()).unwrap(), &mut out);
        assert!(out.is_empty(), "give these an example: {out:?}");
    }

    #[test]
    fn the_nearest_key_is_found_and_nonsense_is_not() {
        let keys = ["size", "overlap", "include", "on_bad_document"];
        for (typed, meant) in
            [("siez", "size"), ("overlapp", "overlap"), ("Include", "include"), ("on_bad", "on_bad_document")]
        {
            assert_eq!(nearest(typed, keys), Some(meant), "{typed}");
        }
        assert_eq!(nearest("xyzzy", keys), None);
    }

    #[test]
    fn distances_are_those_of_the_textbook() {
        for (a, b, d) in [("", "abc", 3), ("kitten", "sitting", 3), ("ab", "ba", 1), ("same", "same", 0)] {
            assert_eq!(distance(a, b), d, "{a} {b}");
            assert_eq!(distance(b, a), d, "{b} {a}");
        }
    }
}
