//! Every section of a pipeline, right and wrong.

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

fn with_target(target: &str) -> Result<Vec<String>> {
    let text = format!("name='docs'\n[corpus]\nurl='docs'\n[repository]\nurl='repo'\n[target]\n{target}");
    Pipeline::from_toml(&text, "p.toml")?.validate(Path::new("/base"))
}

#[test]
fn every_server_is_reached_by_its_url() {
    for kind in TargetKind::ALL.into_iter().filter(|kind| kind.is_server()) {
        let good = format!("kind='{}'\nurl='{}'", kind.name(), kind.url_example());
        assert_eq!(with_target(&good).unwrap(), Vec::<String>::new(), "{kind:?}");
        let missing = with_target(&format!("kind='{}'", kind.name()));
        assert_eq!(missing.is_ok(), kind == TargetKind::Pinecone, "{kind:?}");
        for url in [
            "ftp://host",
            "no url",
            "http://",
            "https://me:hunter2@host",
            "postgresqls://me:hunter2@host",
            "https://h/?key=hunter2",
        ] {
            let e = with_target(&format!("kind='{}'\nurl='{url}'", kind.name())).unwrap_err();
            assert_eq!(e.context_value("key"), Some("target.url"), "{kind:?} {url}");
            assert!(!format!("{e} {e:?}").contains("hunter2"), "{e:?}");
        }
    }
}

#[test]
fn keys_and_tables_of_other_databases_are_refused() {
    for (target, key) in [
        ("kind='memory'\nurl='http://h'", "target.url"),
        ("kind='embedded'\npath='db'\nwriters=3", "target.writers"),
        ("kind='pgvector'\nurl='postgresql://h'\napi_key='env:K'", "target.api_key"),
        ("kind='pgvector'\nurl='postgresql://h'\npath='db'", "target.path"),
        ("kind='pgvector'\nurl='postgresql://h/docs'", "target.url"),
        ("kind='pgvector'\nurl='postgresql://h'\npassword='env:P'", "target.user"),
        ("kind='qdrant'\nurl='http://h'\ntimeout='soon'", "target.timeout"),
        ("kind='qdrant'\nurl='http://h'\nwriters=0", "target.writers"),
        ("kind='qdrant'\nurl='http://h'\nbatch_bytes=7", "target.batch_bytes"),
        ("kind='qdrant'\nurl='http://h'\n[target.pgvector]\nschema='x'", "target.pgvector"),
        ("kind='embedded'\npath='db'\n[target.chroma]", "target.chroma"),
    ] {
        let e = with_target(target).unwrap_err();
        assert_eq!((e.kind(), e.context_value("key")), (ErrorKind::Configuration, Some(key)), "{target}: {e}");
        assert!(e.next_step().is_some());
    }
    let e = with_target("kind='pgvector'\nurl='postgresql://h'\n[target.pgvector]\nshema='x'").unwrap_err();
    assert!(e.next_step().unwrap().contains("`schema`"), "{e:?}");
    let e = with_target("kind='qdrant'\nurl='http://h'\napi_key='hunter2'").unwrap_err();
    assert!(!format!("{e} {e:?}").contains("hunter2"), "{e:?}");
    assert_eq!(with_target("kind='qdrant'\nurl='http://far'\napi_key='env:K'").unwrap().len(), 1);
}

#[test]
fn what_a_table_sets_overrides_what_was_recorded() {
    let own = |target: &str| toml::from_str::<TargetSettings>(target).unwrap().own();
    assert!(own("kind='embedded'").is_empty() && own("kind='pgvector'").is_empty());
    let set = own("kind='pgvector'\n[pgvector]\ntype='halfvec'\npartitions=4");
    assert_eq!(serde_json::Value::from(set), serde_json::json!({"type": "halfvec", "partitions": 4}));
}
