use super::*;

fn remote(url: &str, options: &[(&str, &str)]) -> Result<Remote> {
    let options: Vec<_> = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    match open(url, FilePath::new("/base"), &options)? {
        Opened::Remote(remote) => Ok(remote),
        Opened::Directory(directory) => panic!("{}", directory.display()),
    }
}

#[test]
fn urls_open_the_store_they_name() {
    let keys = [("access_key_id", "a"), ("secret_access_key", "b"), ("account_name", "c"), ("account_key", "ZA==")];
    for (url, kind, prefix) in [
        ("s3://bucket/a/b", StoreKind::S3, "a/b"),
        ("gs://bucket", StoreKind::Gcs, ""),
        ("az://container/a", StoreKind::Azure, "a"),
        ("abfss://container@account.dfs.core.windows.net/a", StoreKind::Azure, "a"),
        ("https://host/a/b", StoreKind::Http, "a/b"),
        ("memory:///a", StoreKind::Memory, "a"),
    ] {
        let remote = remote(url, &keys).unwrap_or_else(|e| panic!("{url}: {e} {:?}", e.causes()));
        assert_eq!((remote.kind, remote.prefix.as_ref()), (kind, prefix), "{url}");
        assert_eq!(remote.clock_ahead(), None);
    }
    for (text, directory) in [("docs", "/base/docs"), ("/docs", "/docs"), ("file:///a%20b", "/a b")] {
        match open(text, FilePath::new("/base"), &[]).unwrap() {
            Opened::Directory(found) => assert_eq!(found, FilePath::new(directory)),
            Opened::Remote(_) => panic!("{text}"),
        }
    }
}

#[test]
fn what_cannot_be_opened_is_named_without_secrets() {
    for url in ["", "ftp://host/x", "s3:///x", "s3://bucket/a//b", "abfss://c@elsewhere.example/x?sig=hunter2"] {
        let e = open(url, FilePath::new("/"), &[("aws_access_key_id".into(), "hunter2".into())]).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Configuration, "{url}");
        assert!(!format!("{e} {e:?} {:?}", e.causes()).contains("hunter2"), "{e:?}");
    }
}

#[test]
fn the_bucket_goes_into_the_host_name_only_where_it_belongs() {
    let with = |endpoint: &str, style: &str| {
        let options = [
            ("endpoint", endpoint),
            ("virtual_hosted_style_request", style),
            ("access_key_id", "a"),
            ("secret_access_key", "b"),
        ];
        remote("s3://docs/x", &options)
    };
    assert_eq!(
        addressed("https://s3.example", "docs", true).ok().flatten().as_deref(),
        Some("https://docs.s3.example")
    );
    assert!(matches!(addressed("https://docs.s3.example", "docs", true), Ok(None)));
    assert!(matches!(addressed("https://s3.example", "docs", false), Ok(None)));
    assert!(with("https://s3.example", "true").is_ok());
    for (endpoint, style) in [("https://docs.s3.example", "false"), ("http://127.0.0.1:9000", "true")] {
        let e = with(endpoint, style).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Configuration);
        assert!(e.causes()[0].contains("virtual_hosted_style_request"), "{:?}", e.causes());
    }
}

#[test]
fn secrets_in_a_url_are_not_shown() {
    assert_eq!(display("https://u:p@host/x?sig=1#f"), "https://host/x");
    assert_eq!(display("s3://bucket/x"), "s3://bucket/x");
    assert_eq!(display("docs/x"), "docs/x");
    assert_eq!(display("abfss://c@a.dfs.core.windows.net/x"), "abfss://c@a.dfs.core.windows.net/x");
}
