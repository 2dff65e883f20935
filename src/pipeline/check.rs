//! What a pipeline must fulfil beyond keys and types.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use globset::GlobBuilder;
use url::Url;

use super::settings::*;
use crate::corpus::{PathPattern, Selection};
use crate::error::{Error, ErrorKind, Result};
use crate::store::StoreKind;
use crate::targets::field;

/// Schemes of stores that can be listed and written.
const SCHEMES: [&str; 9] = ["file", "s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss"];
/// Schemes whose user part names a container instead of a person.
const CONTAINER_IN_USER: [&str; 2] = ["abfs", "abfss"];

/// A wrong key: dotted path, what is wrong, what to do.
struct Problem {
    key: String,
    what: String,
    next: String,
}

#[derive(Default)]
struct Findings {
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Findings {
    fn problem(&mut self, key: impl Into<String>, what: impl Into<String>, next: impl Into<String>) {
        self.problems.push(Problem { key: key.into(), what: what.into(), next: next.into() });
    }

    fn require(&mut self, holds: bool, key: impl Into<String>, what: &str, next: &str) {
        if !holds {
            self.problem(key, what, next);
        }
    }
}

impl Pipeline {
    /// Checks what types cannot say. `base` is the directory where relative paths start.
    ///
    /// Returns warnings: what works but is hardly meant.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] for the first problem, with `key`; further problems are listed as `also`.
    pub fn validate(&self, base: &Path) -> Result<Vec<String>> {
        let mut f = Findings::default();
        self.check_names(&mut f);
        self.check_corpus(&mut f);
        self.check_places(base, &mut f);
        self.check_stores(base, &mut f);
        self.check_numbers(&mut f);
        self.check_target(&mut f);

        let mut problems = f.problems.into_iter();
        let Some(first) = problems.next() else { return Ok(f.warnings) };
        let mut e = Error::new(ErrorKind::Configuration, first.what).with("key", first.key).guidance(first.next);
        for other in problems {
            e = e.with("also", format!("{}: {}", other.key, other.what));
        }
        Err(e)
    }

    /// The production name of the collection.
    pub fn collection(&self) -> &str {
        self.target.collection.as_deref().unwrap_or(&self.name)
    }

    /// Payload fields that get an index: the asked ones, and those that regrow itself filters by.
    pub fn payload_indexes(&self) -> std::collections::BTreeMap<String, FieldType> {
        let mut all = self.target.payload_indexes.clone();
        for name in [field::DOCUMENT_ID, field::TENANT, field::ACL] {
            all.insert(name.to_owned(), FieldType::Keyword);
        }
        all
    }

    fn check_names(&self, f: &mut Findings) {
        const RULE: &str = "use 1 to 128 letters, digits, `-`, `_` and `.`, and begin with a letter or digit";
        f.require(is_name(&self.name), "name", "this is not a usable name", RULE);
        if let Some(collection) = &self.target.collection {
            f.require(is_name(collection), "target.collection", "this is not a usable name", RULE);
        }
        f.require(
            !self.model.name.trim().is_empty(),
            "model.name",
            "no model is named",
            "`regrow models` lists those that come with regrow",
        );
    }

    fn check_corpus(&self, f: &mut Findings) {
        let corpus = &self.corpus;
        globs("corpus.include", &corpus.include, f);
        globs("corpus.exclude", &corpus.exclude, f);
        if let Some(label) = &corpus.encoding {
            f.require(
                encoding_rs::Encoding::for_label(label.as_bytes()).is_some(),
                "corpus.encoding",
                "this is no known character encoding",
                "use a WHATWG label such as utf-8, windows-1252 or shift_jis, or leave the key out to detect it",
            );
        }
        f.require(
            corpus.max_document_bytes > 0,
            "corpus.max_document_bytes",
            "no document would be small enough",
            "give the largest document in bytes",
        );
        if let Some(pattern) = &corpus.path_metadata {
            const LIKE: &str = "write it like {product}/{version}/**";
            match PathPattern::new(pattern) {
                Err(e) => f.problem("corpus.path_metadata", e.message(), LIKE),
                Ok(_) if !pattern.contains('{') => f.problem("corpus.path_metadata", "no segment is named", LIKE),
                Ok(_) => {}
            }
        }
        for (i, records) in corpus.records.iter().enumerate() {
            let key = |name: &str| format!("corpus.records.{i}.{name}");
            f.require(
                !records.include.is_empty(),
                key("include"),
                "no files are named",
                "give at least one glob, such as **/*.jsonl",
            );
            globs(&key("include"), &records.include, f);
            f.require(!records.id.is_empty(), key("id"), "the field's name is empty", "name the field with the id");
            f.require(!records.text.is_empty(), key("text"), "no field is named", "name at least one field with text");
            for (name, fields) in [("text", &records.text), ("metadata", &records.metadata)] {
                let mut seen = BTreeSet::new();
                for field in fields {
                    f.require(!field.is_empty(), key(name), "a field's name is empty", "remove it");
                    if !seen.insert(field) {
                        f.problem(key(name), format!("the field `{field}` is named twice"), "name it once");
                    }
                }
            }
            if records.metadata.len() > 1 && records.metadata.iter().any(|m| m == "*") {
                f.warnings.push(format!("{}: \"*\" takes every field, so the others need no mention", key("metadata")));
            }
            let mut characters = records.delimiter.chars();
            let single = matches!((characters.next(), characters.next()), (Some(c), None) if c.is_ascii() && c != '"' && c != '\n' && c != '\r');
            f.require(
                single,
                key("delimiter"),
                "the separator must be one ASCII character other than a quote or a line end",
                "use \",\" or \";\" or \"\\t\"",
            );
        }
    }

    fn check_places(&self, base: &Path, f: &mut Findings) {
        let corpus = place("corpus.url", &self.corpus.url, base, &["http", "https"], f);
        let repository = place("repository.url", &self.repository.url, base, &[], f);
        if let Some(source) = &self.model.source {
            place("model.source", source, base, &["http", "https"], f);
        }
        let database = match (&self.target.kind, &self.target.path) {
            (TargetKind::Embedded, Some(path)) if path.trim().is_empty() || path.contains("://") => {
                f.problem("target.path", "this is not a directory", "the embedded database needs a local directory");
                None
            }
            (TargetKind::Embedded, Some(path)) => Some(Place::Local(clean(&base.join(path)))),
            (TargetKind::Embedded, None) => {
                f.problem(
                    "target.path",
                    "the embedded database has no directory",
                    "add path = \"database\" to [target]",
                );
                None
            }
            (TargetKind::Memory, Some(_)) => {
                f.warnings.push("target.path: the memory target keeps nothing on disk, so the path is not used".into());
                None
            }
            (TargetKind::Memory, None) => None,
        };
        if let Some(golden) = &self.validation.golden {
            f.require(!golden.trim().is_empty(), "validation.golden", "the path is empty", "name a JSONL file");
        }

        for (key, own) in [("repository.url", &repository), ("target.path", &database)] {
            let (Some(corpus), Some(own)) = (&corpus, own) else { continue };
            let Some(inside) = own.inside(corpus) else {
                if corpus.inside(own).is_some() {
                    f.warnings.push(format!("{key}: the corpus lies inside it; keep the two apart"));
                }
                continue;
            };
            if inside.is_empty() {
                f.problem(key, "this is the corpus's own place", "give it a place of its own");
            } else if !self.leaves_out(&inside) {
                f.problem(
                    key,
                    "this lies inside the corpus, so every run would read regrow's own files as documents",
                    format!("put it elsewhere, or add \"{inside}/**\" to corpus.exclude"),
                );
            }
        }
        if let (Some(repository), Some(database)) = (&repository, &database)
            && (database.inside(repository).is_some() || repository.inside(database).is_some())
        {
            f.problem("target.path", "repository and database lie in one another", "give each a place of its own");
        }
    }

    /// Settings of stores, and the replicas.
    fn check_stores(&self, base: &Path, f: &mut Findings) {
        store("corpus.store", &self.corpus.url, &self.corpus.store, f);
        store("repository.store", &self.repository.url, &self.repository.store, f);
        // Findings about the URL itself are there already.
        let own = place("repository.url", &self.repository.url, base, &[], &mut Findings::default());
        let mut places: Vec<(String, Option<Place>)> = vec![("the repository".to_owned(), own)];
        let mut names = BTreeSet::new();
        for (i, replica) in self.repository.replicas.iter().enumerate() {
            let key = |name: &str| format!("repository.replicas.{i}.{name}");
            f.require(
                is_name(&replica.name),
                key("name"),
                "this is not a usable name",
                "use 1 to 128 letters, digits, `-`, `_` and `.`, and begin with a letter or digit",
            );
            if !names.insert(&replica.name) {
                f.problem(key("name"), format!("two replicas are named `{}`", replica.name), "give each its own name");
            }
            let found = place(&key("url"), &replica.url, base, &[], f);
            store(&key("store"), &replica.url, &replica.store, f);
            for (other, at) in &places {
                if let (Some(found), Some(at)) = (&found, at)
                    && (found.inside(at).is_some() || at.inside(found).is_some())
                    // The same address may be two places: at two endpoints.
                    && (matches!(found, Place::Local(_)) || endpoints_agree(self, i, other))
                {
                    f.problem(
                        key("url"),
                        format!("the replica lies in {other}, or that lies in it"),
                        "a replica protects only in a place of its own: another disk, bucket, account or provider",
                    );
                }
            }
            places.push((format!("the replica `{}`", replica.name), found));
        }
    }

    /// Whether nothing below this path of the corpus is ever taken.
    fn leaves_out(&self, inside: &str) -> bool {
        if !self.corpus.hidden && inside.split('/').any(|name| name.starts_with('.')) {
            return true;
        }
        Selection::new(&self.corpus).is_ok_and(|s| s.leaves_out(&format!("{inside}/a/b.md")))
    }

    fn check_numbers(&self, f: &mut Findings) {
        let ChunkingSettings { size, overlap } = self.chunking;
        if size > 0 && overlap >= size {
            f.problem(
                "chunking.overlap",
                format!("chunks of {size} tokens cannot share {overlap} with the one before"),
                "make the overlap smaller than the size; a tenth of it is usual",
            );
        } else if size > 0 && overlap > size / 2 {
            f.warnings.push(format!(
                "chunking.overlap: more than half of every chunk repeats the one before, which multiplies the work by {:.1}",
                f64::from(size) / f64::from(size - overlap)
            ));
        }
        f.require(
            self.model.batch_tokens != Some(0),
            "model.batch_tokens",
            "a batch must hold tokens",
            "leave it out for a size that suits the device",
        );

        let v = &self.validation;
        f.require(v.k > 0, "validation.k", "k must be at least 1", "10 is the default");
        let g = &v.golden_thresholds;
        for (key, value) in [
            ("validation.min_recall", v.min_recall),
            ("validation.min_self_retrieval", v.min_self_retrieval),
            ("validation.min_canary_cosine", v.min_canary_cosine.unwrap_or(1.0)),
            ("validation.golden_thresholds.mean", g.mean),
            ("validation.golden_thresholds.median", g.median),
            ("validation.golden_thresholds.p5", g.p5),
            ("validation.golden_thresholds.top1", g.top1),
        ] {
            if !(0.0..=1.0).contains(&value) {
                f.problem(key, format!("{value} is not a share"), "give a number from 0 to 1, such as 0.95");
            }
        }
        if v.sample == 0 {
            f.warnings.push("validation.sample: with 0, no vector, payload or text is compared".into());
        }
        if v.recall_queries == 0 {
            f.warnings.push("validation.recall_queries: with 0, the recall of the index is not measured".into());
        }
        for (key, value) in
            [("drill.rto_seconds", self.drill.rto_seconds), ("drill.rpo_seconds", self.drill.rpo_seconds)]
        {
            if let Some(value) = value
                && !(value.is_finite() && value > 0.0)
            {
                f.problem(key, "an objective must be more than 0 seconds", "give seconds, or leave the key out");
            }
        }
    }

    fn check_target(&self, f: &mut Findings) {
        let index = &self.target.index;
        f.require(index.m >= 2, "target.index.m", "a node needs at least 2 links", "16 is the default");
        f.require(
            index.ef_construct >= index.m,
            "target.index.ef_construct",
            "building needs at least as many candidates as links",
            "128 is the default",
        );
        f.require(index.ef_search > 0, "target.index.ef_search", "a search needs candidates", "128 is the default");
        for (name, kind) in &self.target.payload_indexes {
            let key = format!("target.payload_indexes.{name}");
            f.require(
                !name.is_empty() && name.split('.').all(|part| !part.is_empty()),
                key.clone(),
                "this is not a field",
                "name a payload field, such as metadata.year",
            );
            if [field::DOCUMENT_ID, field::TENANT, field::ACL].contains(&name.as_str()) && *kind != FieldType::Keyword {
                f.problem(key, "regrow filters this field by exact values", "make it a keyword, or leave it out");
            }
        }
    }
}

/// Names become directories, object prefixes and aliases, so they keep to what all of these take.
fn is_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn glob(pattern: &str) -> Result<globset::GlobMatcher, globset::Error> {
    Ok(GlobBuilder::new(pattern).literal_separator(true).build()?.compile_matcher())
}

fn globs(key: &str, patterns: &[String], f: &mut Findings) {
    for pattern in patterns {
        if let Err(e) = glob(pattern) {
            f.problem(key, format!("`{pattern}` is not a glob: {}", e.kind()), "see the examples of `regrow init`");
        } else if pattern.trim().is_empty() {
            f.problem(key, "a glob is empty", "remove it, or use ** for everything");
        } else if pattern.contains('\\') {
            f.warnings.push(format!("{key}: `{pattern}` matches nothing: paths are separated by /"));
        }
    }
}

/// Whether a replica has the same endpoint as the place named `other`.
fn endpoints_agree(pipeline: &Pipeline, replica: usize, other: &str) -> bool {
    let repository = &pipeline.repository;
    let endpoint = |store: &StoreSettings| store.get("endpoint").or_else(|| store.get("base_url")).cloned();
    let other = repository
        .replicas
        .iter()
        .find(|r| format!("the replica `{}`", r.name) == other)
        .map_or(&repository.store, |r| &r.store);
    endpoint(&repository.replicas[replica].store) == endpoint(other)
}

/// Settings of the store at `url`.
fn store(key: &str, url: &str, settings: &StoreSettings, f: &mut Findings) {
    // A scheme that no store has is a finding about the URL.
    let Some(kind) = StoreKind::of(url) else { return };
    if matches!(kind, StoreKind::Directory | StoreKind::Memory) && !settings.is_empty() {
        f.warnings.push(format!("{key}: a directory uses no settings of a store"));
    }
    for (name, what, next) in crate::store::check(kind, settings.iter()) {
        f.problem(format!("{key}.{name}"), what, next);
    }
}

/// Where something is kept, for telling whether one place holds another.
enum Place {
    Local(PathBuf),
    Remote { store: String, path: String },
}

impl Place {
    /// The path of `self` relative to `other`, `/`-separated, when it lies in it; empty when they are the same.
    fn inside(&self, other: &Self) -> Option<String> {
        match (self, other) {
            (Self::Local(own), Self::Local(other)) => {
                let rest = own.strip_prefix(other).ok()?;
                Some(rest.components().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/"))
            }
            (Self::Remote { store: a, path: own }, Self::Remote { store: b, path: other }) if a == b => {
                if other.is_empty() || own == other {
                    return Some(own.strip_prefix(other.as_str())?.to_owned());
                }
                Some(own.strip_prefix(other.as_str())?.strip_prefix('/')?.to_owned())
            }
            _ => None,
        }
    }
}

/// Resolves `.` and `..` by name alone: the place need not exist yet.
fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}

/// Reads a directory or URL, reporting what is wrong with it under `key`.
fn place(key: &str, text: &str, base: &Path, also: &[&str], f: &mut Findings) -> Option<Place> {
    if text.trim().is_empty() {
        f.problem(key, "this is empty", "give a directory or a URL such as s3://bucket/prefix");
        return None;
    }
    if !text.contains("://") {
        return Some(Place::Local(clean(&base.join(text))));
    }
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(e) => {
            f.problem(key, format!("this is not a URL: {e}"), "give a directory or a URL such as s3://bucket/prefix");
            return None;
        }
    };
    // The text itself is never quoted below: it may hold a secret.
    let user_is_a_secret = !url.username().is_empty() && !CONTAINER_IN_USER.contains(&url.scheme());
    if url.password().is_some() || user_is_a_secret {
        f.problem(
            key,
            "the URL holds a user name or password",
            "remove it: credentials come from the store's usual environment variables or the machine's own role",
        );
        return None;
    }
    if url.query().is_some() || url.fragment().is_some() {
        f.problem(
            key,
            "the URL holds a query or fragment, which names no prefix and may be a signed secret",
            "give the plain URL; credentials come from the store's usual environment variables",
        );
        return None;
    }
    let scheme = url.scheme();
    if !SCHEMES.contains(&scheme) && !also.contains(&scheme) {
        let mut known = SCHEMES.to_vec();
        known.extend(also);
        f.problem(
            key,
            format!("`{scheme}://` is no store that regrow knows"),
            format!("use one of {}", known.join(", ")),
        );
        return None;
    }
    if scheme == "file" {
        return match url.to_file_path() {
            Ok(path) => Some(Place::Local(clean(&path))),
            Err(()) => {
                f.problem(key, "this file URL has no absolute path", "write it with three slashes: file:///data/docs");
                None
            }
        };
    }
    if url.host_str().is_none_or(str::is_empty) {
        f.problem(key, "the URL names no bucket", "write it like s3://bucket/prefix");
        return None;
    }
    let store = format!("{scheme}://{}@{}:{:?}", url.username(), url.host_str().unwrap_or_default(), url.port());
    Some(Place::Remote { store, path: url.path().trim_matches('/').to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipeline() -> Pipeline {
        let text = "name='docs'\n[corpus]\nurl='docs'\n[repository]\nurl='repo'\n[target]\nkind='embedded'\npath='db'";
        Pipeline::from_toml(text, "p.toml").unwrap()
    }

    fn with(changes: &[(&str, &str)]) -> Result<Vec<String>> {
        let mut p = pipeline();
        for (key, value) in changes {
            p.set(key, value).unwrap();
        }
        p.validate(Path::new("/base"))
    }

    #[test]
    fn a_plain_pipeline_passes_without_warnings() {
        assert_eq!(with(&[]).unwrap(), Vec::<String>::new());
        assert_eq!(with(&[("corpus.url", "s3://b/docs"), ("repository.url", "s3://b/repo")]).unwrap().len(), 0);
        assert_eq!(with(&[("corpus.url", "abfss://c@account.dfs.core.windows.net/docs")]).unwrap().len(), 0);
    }

    #[test]
    fn a_wrong_value_is_refused_and_named() {
        for (key, value, named) in [
            ("name", "", "name"),
            ("name", ".hidden", "name"),
            ("name", "a/b", "name"),
            ("target.collection", "a b", "target.collection"),
            ("model.name", "''", "model.name"),
            ("corpus.include", "a[", "corpus.include"),
            ("corpus.exclude", "''", "corpus.exclude"),
            ("corpus.encoding", "klingon", "corpus.encoding"),
            ("corpus.max_document_bytes", "0", "corpus.max_document_bytes"),
            ("corpus.path_metadata", "{a}/{a}", "corpus.path_metadata"),
            ("corpus.path_metadata", "a/b", "corpus.path_metadata"),
            ("corpus.url", "''", "corpus.url"),
            ("corpus.url", "ftp://host/x", "corpus.url"),
            ("corpus.url", "s3://", "corpus.url"),
            ("repository.url", "https://host/x", "repository.url"),
            ("chunking.overlap", "200", "chunking.overlap"),
            ("model.batch_tokens", "0", "model.batch_tokens"),
            ("validation.k", "0", "validation.k"),
            ("validation.min_recall", "1.5", "validation.min_recall"),
            ("validation.golden_thresholds.p5", "-0.1", "validation.golden_thresholds.p5"),
            ("drill.rto_seconds", "0", "drill.rto_seconds"),
            ("target.index.m", "1", "target.index.m"),
            ("target.index.ef_construct", "4", "target.index.ef_construct"),
            ("target.payload_indexes.tenant", "integer", "target.payload_indexes.tenant"),
            ("target.path", "s3://b/x", "target.path"),
        ] {
            let e = with(&[(key, value)]).expect_err(key);
            assert_eq!(e.kind(), ErrorKind::Configuration);
            assert_eq!(e.context_value("key"), Some(named), "{e}");
            assert!(e.next_step().is_some(), "{e}");
        }
    }

    #[test]
    fn secrets_in_urls_are_refused_and_not_repeated() {
        for url in ["s3://key:hunter2@bucket/x", "https://hunter2@host/x", "s3://bucket/x?sig=hunter2"] {
            let e = with(&[("corpus.url", url)]).unwrap_err();
            assert_eq!(e.context_value("key"), Some("corpus.url"), "{url}");
            assert!(!format!("{e} {e:?}").contains("hunter2"), "{e:?}");
        }
    }

    fn with_toml(extra: &str) -> Result<Vec<String>> {
        let text = format!(
            "name='docs'\n[corpus]\nurl='s3://docs/x'\n[repository]\nurl='s3://backup/x'\n[target]\nkind='memory'\n{extra}"
        );
        Pipeline::from_toml(&text, "p.toml")?.validate(Path::new("/base"))
    }

    #[test]
    fn settings_of_stores_are_known_keys_and_hold_no_secrets() {
        let good = "[corpus.store]\nregion='eu-west-1'\naccess_key_id='env:A'\nsecret_access_key='file:b'\n\
                    [repository.store]\nendpoint='http://127.0.0.1:9000'\ntimeout='30s'";
        assert_eq!(with_toml(good).unwrap(), Vec::<String>::new());
        for (extra, key, next) in [
            ("[corpus.store]\nreigon='eu-west-1'", "corpus.store.reigon", "`region`"),
            ("[repository.store]\nsecret_access_key='hunter2'", "repository.store.secret_access_key", "env:NAME"),
            (
                "[[repository.replicas]]\nname='b'\nurl='az://c/x'\nstore={account_key='hunter2'}",
                "repository.replicas.0.store.account_key",
                "env:NAME",
            ),
        ] {
            let e = with_toml(extra).unwrap_err();
            assert_eq!((e.kind(), e.context_value("key")), (ErrorKind::Configuration, Some(key)), "{e}");
            assert!(e.next_step().unwrap().contains(next), "{:?}", e.next_step());
            assert!(!format!("{e} {e:?}").contains("hunter2"), "{e:?}");
        }
    }

    #[test]
    fn a_directory_uses_no_settings_of_a_store() {
        let warnings = with_toml("[[repository.replicas]]\nname='b'\nurl='/r'\nstore={region='x'}").unwrap();
        assert!(warnings.len() == 1 && warnings[0].starts_with("repository.replicas.0.store"), "{warnings:?}");
    }

    #[test]
    fn replicas_have_names_and_places_of_their_own() {
        let replica = |name: &str, url: &str, store: &str| {
            format!("[[repository.replicas]]\nname='{name}'\nurl='{url}'\nstore={{{store}}}\n")
        };
        let good = [
            replica("a", "s3://other/x", ""),
            replica("b", "/r", ""),
            replica("c", "s3://backup/x", "endpoint='https://h'"),
        ];
        assert_eq!(with_toml(&good.concat()).unwrap(), Vec::<String>::new());
        for (replicas, key) in [
            (replica("a b", "/r", ""), "repository.replicas.0.name"),
            (replica("a", "/r", "") + &replica("a", "/s", ""), "repository.replicas.1.name"),
            (replica("a", "s3://backup/x", ""), "repository.replicas.0.url"),
            (replica("a", "s3://backup/x/y", ""), "repository.replicas.0.url"),
            (replica("a", "s3://backup", ""), "repository.replicas.0.url"),
            (replica("a", "/r", "") + &replica("b", "/r", ""), "repository.replicas.1.url"),
            (replica("a", "https://host/x", ""), "repository.replicas.0.url"),
        ] {
            assert_eq!(with_toml(&replicas).unwrap_err().context_value("key"), Some(key), "{replicas}");
        }
    }

    #[test]
    fn a_repository_inside_the_corpus_must_be_excluded() {
        for (corpus, repository, ok) in [
            ("docs", "docs", false),
            ("docs", "docs/repo", false),
            ("docs", "docs/x/../repo", false),
            (".", "repo", false),
            ("docs", "docs/.regrow", true),
            ("docs", "docs/repo-excluded", true),
            ("docs", "docs2", true),
            ("s3://b/docs", "s3://b/docs/repo", false),
            ("s3://b", "s3://b/repo", false),
            ("s3://b/docs", "s3://b/docs2", true),
            ("s3://a/docs", "s3://b/docs/repo", true),
        ] {
            let changes = [
                ("corpus.url", corpus),
                ("repository.url", repository),
                ("target.path", "/elsewhere/db"),
                ("corpus.exclude", "repo-excluded/**"),
            ];
            let result = with(&changes);
            assert_eq!(result.is_ok(), ok, "{corpus} {repository}: {result:?}");
            if let Err(e) = result {
                assert_eq!(e.context_value("key"), Some("repository.url"));
            }
        }
    }

    #[test]
    fn a_database_in_the_repository_or_the_corpus_is_refused() {
        assert!(with(&[("target.path", "repo/db")]).is_err());
        assert!(with(&[("target.path", "docs/db")]).is_err());
        let mut p = pipeline();
        p.target.path = None;
        assert_eq!(p.validate(Path::new("/base")).unwrap_err().context_value("key"), Some("target.path"));
    }

    #[test]
    fn records_need_fields_that_are_named_once() {
        let entry = |text: &str| {
            let mut p = pipeline();
            p.corpus.records = toml::from_str::<std::collections::BTreeMap<String, Vec<RecordSettings>>>(&format!(
                "[[r]]\ninclude=['*.csv']\n{text}"
            ))
            .unwrap()["r"]
                .clone();
            p.validate(Path::new("/base"))
        };
        assert!(entry("id='id'\ntext=['a']").is_ok());
        for (text, key) in [
            ("id=''\ntext=['a']", "corpus.records.0.id"),
            ("id='id'\ntext=[]", "corpus.records.0.text"),
            ("id='id'\ntext=['a','a']", "corpus.records.0.text"),
            ("id='id'\ntext=['a']\ndelimiter=';;'", "corpus.records.0.delimiter"),
            ("id='id'\ntext=['a']\nmetadata=['b','b']", "corpus.records.0.metadata"),
        ] {
            assert_eq!(entry(text).unwrap_err().context_value("key"), Some(key));
        }
        assert_eq!(entry("id='id'\ntext=['a']\nmetadata=['*','b']").unwrap().len(), 1);
    }

    #[test]
    fn a_threshold_that_is_not_a_number_is_refused() {
        let mut p = pipeline();
        p.validation.min_recall = f64::NAN;
        assert_eq!(p.validate(Path::new("/base")).unwrap_err().context_value("key"), Some("validation.min_recall"));
    }

    #[test]
    fn all_problems_are_told_at_once_and_doubtful_values_are_warnings() {
        let e = with(&[("validation.k", "0"), ("chunking.overlap", "500")]).unwrap_err();
        assert!(e.to_string().contains("validation.k") && e.to_string().contains("chunking.overlap"), "{e}");
        assert_eq!(with(&[("chunking.overlap", "150"), ("validation.sample", "0")]).unwrap().len(), 2);
    }

    #[test]
    fn payload_indexes_include_what_regrow_filters_by() {
        let mut p = pipeline();
        p.set("target.payload_indexes.\"metadata.year\"", "integer").unwrap();
        let all = p.payload_indexes();
        assert_eq!(all.keys().collect::<Vec<_>>(), ["acl", "document_id", "metadata.year", "tenant"]);
        assert_eq!(p.collection(), "docs");
    }
}
