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
            ("kind", "\"embedded\" (in process, in a directory) or \"memory\" (gone when the process ends)."),
            ("path", "Directory of the embedded database."),
            ("collection", "Production name of the collection; the pipeline's name when absent."),
            (
                "payload_indexes",
                "Payload fields that get an index: \"keyword\", \"integer\", \"float\", \"bool\" or \"datetime\". document_id, tenant and acl always get one.",
            ),
            ("promote", "Whether a passing restore becomes the production collection: \"on_pass\" or \"never\"."),
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
            out.push('\n');
            if !section.about.is_empty() {
                comment(&mut out, section.about);
            }
            match own {
                Some(Value::Array(entries)) if entries.is_empty() => {
                    let example = example.and_then(|e| e.get(0));
                    out.push_str(&format!("# [[{}]]\n", section.table));
                    keys(&mut out, section, None, example)?;
                }
                Some(Value::Array(entries)) => {
                    for entry in entries {
                        out.push_str(&format!("[[{}]]\n", section.table));
                        keys(&mut out, section, Some(entry), example.and_then(|e| e.get(0)))?;
                    }
                }
                _ => {
                    if !section.table.is_empty() {
                        out.push_str(&format!("[{}]\n", section.table));
                    }
                    keys(&mut out, section, own, example)?;
                }
            }
        }
        Ok(out)
    }
}

fn keys(out: &mut String, section: &Section, own: Option<&Value>, example: Option<&Value>) -> Result<()> {
    for (key, about) in section.keys {
        comment(out, about);
        let set = own.and_then(|o| o.get(key)).filter(|v| !v.is_null());
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
        let text = small().to_toml().unwrap();
        let is_key = |l: &str| {
            l.strip_prefix("# ").is_some_and(|l| {
                l.starts_with("[[")
                    || l.split_once(" = ").is_some_and(|(k, _)| k.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
            })
        };
        let all: String = text.lines().map(|l| if is_key(l) { &l[2..] } else { l }).map(|l| format!("{l}\n")).collect();
        let p = Pipeline::from_toml(&all, "init").unwrap();
        assert_eq!(p.corpus.records, exemplar().corpus.records);
        assert_eq!(p.target.payload_indexes, exemplar().target.payload_indexes);
        p.validate(std::path::Path::new("/base")).unwrap();
    }

    #[test]
    fn every_key_is_explained() {
        fn leaves(path: String, value: &Value, out: &mut Vec<String>) {
            match value {
                Value::Object(map) if path != "target.payload_indexes" && !path.ends_with(".store") => map
                    .iter()
                    .for_each(|(k, v)| leaves(if path.is_empty() { k.clone() } else { format!("{path}.{k}") }, v, out)),
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
