//! A pipeline as a file for people: every key with its meaning.

use serde_json::Value;

use super::schema::{exemplar, to_json};
use super::settings::Pipeline;
use crate::error::{Error, ErrorKind, Result};

const HEAD: &str = "\
# A regrow pipeline: which corpus, how it is cut, which model, and where the vectors go.
# Keys with a # in front are optional; the value shown is an example.
# Relative paths start at the directory of this file. Unknown keys are errors.
";

/// A table and its keys, in the order of the file.
struct Section {
    /// Dotted path; empty at the top level.
    table: &'static str,
    about: &'static str,
    keys: &'static [(&'static str, &'static str)],
}

const SECTIONS: &[Section] = &[
    Section {
        table: "",
        about: "",
        keys: &[("name", "Name of the pipeline: groups snapshots, and is the default collection name.")],
    },
    Section {
        table: "corpus",
        about: "Where the documents are: the actual backup.",
        keys: &[
            ("url", "A directory, or a URL: file://, s3://, gs://, az://. Credentials never go in here."),
            ("include", "Globs of paths to take; [] takes every path with a known extension."),
            ("exclude", "Globs of paths to leave out."),
            ("hidden", "Whether names that begin with a dot are taken."),
            ("encoding", "Character encoding of text files (a WHATWG label); detected when absent."),
            (
                "on_bad_document",
                "A document that cannot be read, decoded or parsed: \"fail\" the run, or \"skip\" and count it.",
            ),
            ("max_document_bytes", "Largest document in bytes; a larger one is a bad document."),
            ("path_metadata", "Named path segments become metadata; {tenant} becomes the tenant."),
            (
                "store",
                "Settings of the object store as object_store names them (endpoint, region, access_key_id = \"env:NAME\", ...).",
            ),
        ],
    },
    Section {
        table: "corpus.records",
        about: "Files that hold one document per record; the first entry whose globs match a path is used.",
        keys: &[
            ("include", "Globs of the files."),
            ("format", "\"jsonl\", \"csv\" or \"parquet\"; by the file's extension when absent."),
            ("id", "Field with the record's id; dots reach into objects."),
            ("text", "Fields whose texts are joined by a blank line."),
            ("markup", "Structure of the text: \"plain\", \"markdown\" or \"html\"."),
            ("title", "Field with the title."),
            ("tenant", "Field with the tenant."),
            ("acl", "Field with the acl: a list, or text separated by commas."),
            ("metadata", "Fields kept as metadata; [\"*\"] keeps all that are not used otherwise."),
            ("delimiter", "CSV separator, one character."),
        ],
    },
    Section {
        table: "chunking",
        about: "How documents are cut. A change makes other chunks: everything is embedded again.",
        keys: &[
            ("size", "Most tokens in a chunk, special tokens not counted; 0 means as many as the model takes."),
            ("overlap", "Most tokens that a chunk shares with the one before it."),
        ],
    },
    Section {
        table: "model",
        about: "What turns chunks into vectors.",
        keys: &[
            ("name", "Name of a model card (`regrow models` lists them), or path of a card file."),
            ("source", "A directory or URL with the model's files, used instead of the card's own sources."),
            (
                "dtype",
                "\"f32\" (exact), \"bf16\" (cosine 0.9999 to it, twice as fast where the processor has it) or \"int8\" (fastest, cosine about 0.99). When absent: as the last snapshot; a first one takes bf16 where it is fast, or else f32.",
            ),
            (
                "dimension",
                "Length of the vectors, shorter than the model's own: for models whose card says `matryoshka`.",
            ),
            (
                "device",
                "Where to compute: \"auto\" (every GPU that this build can use, or else the CPU), \"cpu\", \"cuda:N\" or \"metal\".",
            ),
            ("workers", "Workers on the CPU, each on one core; 0 means one per core."),
            ("batch_tokens", "Most tokens in a batch; when absent 2048 on the CPU and 32768 on a GPU."),
        ],
    },
    Section {
        table: "repository",
        about: "Where snapshots and vector sets are kept.",
        keys: &[
            ("url", "A directory or a URL, outside the corpus."),
            ("store", "Settings of the object store, as in [corpus]."),
        ],
    },
    Section {
        table: "repository.encryption",
        about: "Encryption at rest: give a passphrase, a key or both when the repository is made; either opens it ever after. Both are references: env:NAME, file:PATH or cmd:COMMAND.",
        keys: &[
            ("passphrase", "A passphrase."),
            ("key", "A key of 32 bytes in hexadecimal or base64; cmd: asks a key service."),
        ],
    },
    Section {
        table: "repository.replicas",
        about: "Further repositories that `regrow copy` replicates to, and that a restore can read from.",
        keys: &[
            ("name", "Name, for --to and --from."),
            ("url", "A directory or a URL."),
            ("store", "Settings of the object store, as in [corpus]."),
        ],
    },
    Section {
        table: "capture",
        about: "Whether the documents themselves go into the repository.",
        keys: &[(
            "mode",
            "\"reference\" (path, version and digest: the corpus stays the only copy), \"copy\" (the bytes, each once, compressed) or \"text\" (extracted text and payload).",
        )],
    },
    Section {
        table: "retention",
        about: "Which snapshots `regrow forget` keeps: those that any rule keeps, and always the last good one.",
        keys: &[
            ("preset", "\"30d\", \"90d\" or \"365d\"; the keys below add to it."),
            ("keep_last", "The newest n."),
            ("keep_hourly", "The newest of each of n hours that have one."),
            ("keep_daily", "The newest of each of n days."),
            ("keep_weekly", "The newest of each of n weeks."),
            ("keep_monthly", "The newest of each of n months."),
            ("keep_yearly", "The newest of each of n years."),
            ("keep_within", "All of this span before now, such as 30d or 12h: what nobody can push out."),
            ("keep_tags", "All with one of these tags."),
            ("grace", "How long `prune` leaves an object that nothing refers to any more; 24h when absent."),
        ],
    },
    Section {
        table: "target",
        about: "Where the vectors are served from.",
        keys: &[
            (
                "kind",
                "\"embedded\" (in process, in a directory), \"qdrant\", \"pgvector\", \"weaviate\", \"milvus\", \"chroma\", \"pinecone\", or \"memory\" (gone when the process ends).",
            ),
            ("path", "Directory of the embedded database."),
            ("url", "Where the server is. No user, password or key in here."),
            ("api_key", "API key or token, by reference: env:NAME, file:PATH or cmd:COMMAND."),
            ("user", "User name."),
            ("password", "The user's password, by reference."),
            ("ca_file", "PEM file with further certificate authorities."),
            ("timeout", "Longest wait for an answer; building an index and loading wait as long as it takes."),
            ("writers", "Writes under way at once; what suits the database when absent."),
            ("batch_bytes", "Most bytes in one write; what suits the database when absent."),
            ("database", "Database in the server."),
            ("collection", "Production name of the collection; the pipeline's name when absent."),
            (
                "payload_indexes",
                "Payload fields that get an index: \"keyword\", \"integer\", \"float\", \"bool\" or \"datetime\". document_id, tenant and acl always get one.",
            ),
            ("promote", "Whether a passing restore becomes the production collection: \"on_pass\" or \"never\"."),
            ("keep_previous", "Whether the collection that was served before is kept, for `regrow rollback`."),
        ],
    },
    Section {
        table: "target.index",
        about: "HNSW.",
        keys: &[
            ("m", "Links per node."),
            ("ef_construct", "Candidates while building."),
            ("ef_search", "Candidates while searching."),
            ("threads", "Build threads; 0 means one per core."),
        ],
    },
    Section {
        table: "target.qdrant",
        about: "What only Qdrant has; an absent key is as the snapshot recorded it.",
        keys: &[
            ("shards", "Shards of the collection."),
            ("replication_factor", "Copies of each shard."),
            ("write_consistency", "Copies that must have a write before it is confirmed."),
            ("vector_name", "Name of the vector; unnamed when absent."),
            ("on_disk", "Vectors stay on disk, read as needed."),
            ("hnsw_on_disk", "The graph stays on disk."),
            ("payload_on_disk", "Payload stays on disk."),
            ("quantization", "\"scalar\", \"binary\" or \"product\"; none when absent."),
            ("quantization_in_memory", "The quantized vectors stay in memory."),
            ("optimizer_threads", "Threads of a build; 0 means as many as the server has."),
        ],
    },
    Section {
        table: "target.pgvector",
        about: "What only pgvector has; an absent key is as the snapshot recorded it.",
        keys: &[
            ("schema", "Schema of the tables; it is made where it is missing."),
            ("type", "\"vector\" (32-bit floats) or \"halfvec\" (16-bit floats: values are rounded)."),
            ("index", "\"hnsw\" or \"ivfflat\"."),
            ("lists", "IVFFlat: lists; from the number of points when absent."),
            ("probes", "IVFFlat: lists that a search looks into; the square root of `lists` when absent."),
            ("partitions", "Partitions by the hash of the tenant; one table when absent."),
            (
                "maintenance_memory",
                "What a build of the index may use (maintenance_work_mem); from the size of the graph when absent.",
            ),
            (
                "switch",
                "How the production name points at a table: \"view\", or \"rename\" (the table itself has the name).",
            ),
            ("policies", "Row-level security: what follows CREATE POLICY name ON table, by name."),
        ],
    },
    Section {
        table: "target.weaviate",
        about: "What only Weaviate has; an absent key is as the snapshot recorded it.",
        keys: &[
            ("grpc_url", "Where gRPC is; the URL's host with port 50051 when absent."),
            ("multi_tenancy", "Each tenant in a shard of its own."),
            ("shards", "Shards of the class; as many as nodes when absent."),
            ("replication_factor", "Copies of each shard."),
            ("vector_name", "Name of the vector; the class's own when absent."),
            ("quantization", "\"bq\", \"pq\", \"sq\" or \"rq\"; none when absent."),
        ],
    },
    Section {
        table: "target.milvus",
        about: "What only Milvus has; an absent key is as the snapshot recorded it.",
        keys: &[
            ("shards", "Shards of the collection."),
            ("partitions", "The tenant is the partition key: this many partitions."),
            ("consistency", "\"strong\", \"bounded\", \"session\" or \"eventually\"."),
            ("import_url", "Bucket that the server imports files from; without it points are inserted."),
            ("replicas", "Replicas in memory."),
        ],
    },
    Section {
        table: "target.chroma",
        about: "What only Chroma has; an absent key is as the snapshot recorded it.",
        keys: &[("tenant", "Chroma's own tenant, the owner of databases.")],
    },
    Section {
        table: "target.pinecone",
        about: "What only Pinecone has; an absent key is as the snapshot recorded it.",
        keys: &[
            ("cloud", "\"aws\", \"gcp\" or \"azure\"."),
            ("region", "Region of the cloud."),
            ("host", "Address of the index, where it is not to be asked for."),
            ("namespaces", "A namespace per tenant."),
            ("import_url", "Bucket that Pinecone imports files from; without it points are upserted."),
            ("import_integration", "Id of the storage integration for that bucket."),
            ("deletion_protection", "Whether the index refuses to be deleted."),
        ],
    },
    Section {
        table: "validation",
        about: "How a restore is checked.",
        keys: &[
            (
                "golden",
                "JSONL file of golden queries, one per line: {\"query\": \"...\", \"expected\": [\"document id\"]}.",
            ),
            ("sample", "Chunks sampled for vector, payload and self-retrieval checks."),
            ("recall_queries", "Queries for recall of the index against exact search."),
            ("k", "k of recall@k."),
            ("min_recall", "Least mean recall@k of the index against exact search."),
            ("min_self_retrieval", "Least share of sampled chunks that find themselves first."),
            (
                "min_canary_cosine",
                "Least cosine between a canary's recorded and recomputed vector. When absent: 0.9999 in f32, 0.999 in bf16, 0.99 in int8.",
            ),
        ],
    },
    Section {
        table: "validation.golden_thresholds",
        about: "What golden queries must reach: recall@k over all of them, and the first hit.",
        keys: &[
            ("mean", "Least mean recall@k."),
            ("median", "Least median recall@k."),
            ("p5", "Least 5th percentile of recall@k."),
            ("top1", "Least share of queries whose first hit is the recorded or an expected one."),
        ],
    },
    Section {
        table: "drill",
        about: "What a drill must reach.",
        keys: &[
            ("rto_seconds", "Longest allowed time from start to a passing validation, in seconds."),
            ("rpo_seconds", "Longest allowed age of the snapshot, in seconds."),
            ("reuse", "Use vectors that are in the repository instead of computing all of them again."),
        ],
    },
];

impl Pipeline {
    /// The pipeline as a commented TOML file that parses back to the same pipeline; optional keys that are
    /// not set stand there as comments.
    pub fn to_toml(&self) -> Result<String> {
        let own = to_json(self)?;
        let example = to_json(&exemplar())?;
        let mut out = HEAD.to_owned();
        for section in SECTIONS {
            let pointer = format!("/{}", section.table.replace('.', "/"));
            let pointer = if section.table.is_empty() { "" } else { &pointer };
            let (own, example) = (own.pointer(pointer), example.pointer(pointer));
            let of_a_kind = section.table.strip_prefix("target.").filter(|t| *t != "index");
            let absent = own.is_none_or(Value::is_null);
            if absent && of_a_kind.is_some_and(|kind| kind != self.target.kind.name()) {
                continue;
            }
            out.push('\n');
            if !section.about.is_empty() {
                comment(&mut out, section.about);
            }
            match own {
                Some(Value::Array(entries)) if entries.is_empty() => {
                    let example = example.and_then(|e| e.get(0));
                    out.push_str(&format!("# [[{}]]\n", section.table));
                    keys(&mut out, section, None, example, &|_| true)?;
                }
                Some(Value::Array(entries)) => {
                    for entry in entries {
                        out.push_str(&format!("[[{}]]\n", section.table));
                        keys(&mut out, section, Some(entry), example.and_then(|e| e.get(0)), &|_| true)?;
                    }
                }
                _ => {
                    if !section.table.is_empty() {
                        // An empty table would be a table of its own, and not the same pipeline.
                        let mark = if of_a_kind.is_some() && absent { "# " } else { "" };
                        out.push_str(&format!("{mark}[{}]\n", section.table));
                    }
                    let kind = self.target.kind;
                    keys(&mut out, section, own, example, &|key| section.table != "target" || kind.takes(key))?;
                }
            }
        }
        Ok(out)
    }
}

/// The keys of a section; those that are not set only where they are `wanted`.
fn keys(
    out: &mut String,
    section: &Section,
    own: Option<&Value>,
    example: Option<&Value>,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<()> {
    for (key, about) in section.keys {
        let set = own.and_then(|o| o.get(key)).filter(|v| !v.is_null());
        if set.is_none() && !wanted(key) {
            continue;
        }
        comment(out, about);
        let empty_table = set.is_some_and(|v| v.as_object().is_some_and(serde_json::Map::is_empty));
        let (mark, value) = match set {
            Some(value) if !empty_table => ("", Some(value)),
            _ => ("# ", example.and_then(|e| e.get(key))),
        };
        let value = value.unwrap_or(&Value::Null);
        let value = toml::Value::try_from(value)
            .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot write a key as TOML").with("key", key).because(e))?;
        out.push_str(&format!("{mark}{key} = {value}\n"));
    }
    Ok(())
}

fn comment(out: &mut String, text: &str) {
    out.push_str("# ");
    out.push_str(text);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{TargetKind, TargetSettings};

    fn small() -> Pipeline {
        let text = "name='docs'\n[corpus]\nurl='docs'\n[repository]\nurl='repo'\n[target]\nkind='embedded'\npath='db'";
        Pipeline::from_toml(text, "p.toml").unwrap()
    }

    #[test]
    fn the_file_parses_back_to_the_same_pipeline() {
        for pipeline in [small(), exemplar()] {
            let text = pipeline.to_toml().unwrap();
            assert_eq!(Pipeline::from_toml(&text, "init").unwrap(), pipeline, "{text}");
        }
    }

    #[test]
    fn awkward_text_survives() {
        let mut p = exemplar();
        p.corpus.url = "C:\\docs \"quoted\" # not a comment\tü".into();
        p.corpus.records.push(p.corpus.records[0].clone());
        p.corpus.records[1].delimiter = "\t".into();
        p.target.payload_indexes.insert("metadata.a b".into(), crate::pipeline::FieldType::Bool);
        assert_eq!(Pipeline::from_toml(&p.to_toml().unwrap(), "init").unwrap(), p);
    }

    /// Taking the # from in front of every optional key gives a valid pipeline: no example is wrong.
    #[test]
    fn the_examples_in_comments_are_valid() {
        for kind in TargetKind::ALL {
            let mut p = small();
            p.target = TargetSettings {
                url: kind.is_server().then(|| kind.url_example().into()),
                ..TargetSettings::new(kind)
            };
            p.target.path = (kind == TargetKind::Embedded).then(|| "db".into());
            examples_are_valid(&p.to_toml().unwrap());
        }
    }

    fn examples_are_valid(text: &str) {
        let is_key = |l: &str| {
            l.strip_prefix("# ").is_some_and(|l| {
                l.starts_with('[')
                    || l.split_once(" = ").is_some_and(|(k, _)| k.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
            })
        };
        let all: String = text.lines().map(|l| if is_key(l) { &l[2..] } else { l }).map(|l| format!("{l}\n")).collect();
        let p = Pipeline::from_toml(&all, "init").unwrap_or_else(|e| panic!("{e}\n{all}"));
        assert_eq!(p.corpus.records, exemplar().corpus.records);
        assert_eq!(p.target.payload_indexes, exemplar().target.payload_indexes);
        p.validate(std::path::Path::new("/base")).unwrap();
    }

    #[test]
    fn every_key_is_explained() {
        fn leaves(path: String, value: &Value, out: &mut Vec<String>) {
            match value {
                Value::Object(map)
                    if !["target.payload_indexes", "target.pgvector.policies"].contains(&path.as_str())
                        && !path.ends_with(".store") =>
                {
                    map.iter().for_each(|(k, v)| {
                        leaves(if path.is_empty() { k.clone() } else { format!("{path}.{k}") }, v, out)
                    })
                }
                Value::Array(items) if items.iter().all(Value::is_object) => {
                    items.iter().for_each(|v| leaves(path.clone(), v, out))
                }
                _ => out.push(path),
            }
        }
        let mut known = Vec::new();
        leaves(String::new(), &to_json(&exemplar()).unwrap(), &mut known);
        known.sort();
        let mut explained: Vec<String> = SECTIONS
            .iter()
            .flat_map(|s| {
                s.keys
                    .iter()
                    .map(|(k, _)| if s.table.is_empty() { (*k).to_owned() } else { format!("{}.{k}", s.table) })
            })
            .collect();
        explained.sort();
        assert_eq!(explained, known);
    }
}
