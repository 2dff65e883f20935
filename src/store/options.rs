//! Settings of stores: which keys there are, what their values must look like, and what a client is made of.

use std::time::Duration;

use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use url::Url;

use crate::error::{Error, ErrorKind, Result};
use crate::secret::SecretRef;

/// What kind of store a URL names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreKind {
    /// A local directory.
    Directory,
    /// In memory, gone with the process: for tests.
    Memory,
    /// Amazon S3 and what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
    /// A web server: read only.
    Http,
}

/// Keys that every store behind HTTP takes, with what they are for.
pub const CLIENT_KEYS: &[(&str, &str)] = &[
    ("connect_timeout", "longest wait for a connection; 5s"),
    ("timeout", "longest wait for an answer, or for the next bytes of one; 60s"),
    ("max_retries", "most times that a request is tried again; 10"),
    ("retry_timeout", "how long a request is tried again; 3m"),
    ("concurrency", "most requests at once; 64"),
    ("allow_http", "whether connections without TLS are allowed; where the endpoint is an http:// URL"),
    ("allow_invalid_certificates", "whether any certificate is taken; false"),
    ("http1_only", "HTTP/1 only"),
    ("http2_only", "HTTP/2 only"),
    ("pool_idle_timeout", "how long an unused connection is kept"),
    ("pool_max_idle_per_host", "most unused connections"),
    ("proxy_url", "proxy for all requests"),
    ("proxy_ca_certificate", "certificate of the proxy, PEM"),
    ("proxy_excludes", "hosts that are reached without the proxy"),
    ("randomize_addresses", "whether the addresses of a host are tried in random order"),
    ("user_agent", "how the client names itself; regrow/<version>"),
];

const S3_KEYS: &[&str] = &[
    "endpoint",
    "region",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "virtual_hosted_style_request",
    "web_identity_token_file",
    "role_arn",
    "role_session_name",
    "endpoint_url_sts",
    "container_credentials_relative_uri",
    "container_credentials_full_uri",
    "container_authorization_token_file",
    "metadata_endpoint",
    "imdsv1_fallback",
    "skip_signature",
    "unsigned_payload",
    "checksum_algorithm",
    "conditional_put",
    "s3_express",
    "request_payer",
    "disable_tagging",
    "server_side_encryption",
    "sse_kms_key_id",
    "sse_bucket_key_enabled",
    "sse_customer_key_base64",
];

const GCS_KEYS: &[&str] =
    &["endpoint", "base_url", "service_account", "service_account_key", "application_credentials", "skip_signature"];

const AZURE_KEYS: &[&str] = &[
    "endpoint",
    "account_name",
    "account_key",
    "sas_token",
    "bearer_token",
    "client_id",
    "client_secret",
    "tenant_id",
    "authority_host",
    "federated_token_file",
    "msi_endpoint",
    "object_id",
    "msi_resource_id",
    "use_emulator",
    "use_fabric_endpoint",
    "use_azure_cli",
    "skip_signature",
    "disable_tagging",
];

/// Other names of the same keys, as the stores' own tools have them.
const ALIASES: &[(StoreKind, &str, &str)] = &[
    (StoreKind::S3, "endpoint_url", "endpoint"),
    (StoreKind::S3, "endpoint_url_s3", "endpoint"),
    (StoreKind::S3, "default_region", "region"),
    (StoreKind::S3, "token", "session_token"),
    (StoreKind::Azure, "access_key", "account_key"),
    (StoreKind::Azure, "master_key", "account_key"),
    (StoreKind::Azure, "sas_key", "sas_token"),
    (StoreKind::Azure, "token", "bearer_token"),
    (StoreKind::Azure, "authority_id", "tenant_id"),
    (StoreKind::Azure, "identity_endpoint", "msi_endpoint"),
    (StoreKind::Gcs, "service_account_path", "service_account"),
    (StoreKind::Gcs, "base_url", "endpoint"),
];

/// Keys whose values are secrets: a pipeline file refers to them and never holds them.
const SECRET_KEYS: &[&str] = &[
    "access_key_id",
    "secret_access_key",
    "session_token",
    "sse_customer_key_base64",
    "account_key",
    "sas_token",
    "bearer_token",
    "client_secret",
    "service_account_key",
];

const BOOLEANS: &[&str] = &[
    "allow_http",
    "allow_invalid_certificates",
    "http1_only",
    "http2_only",
    "randomize_addresses",
    "virtual_hosted_style_request",
    "imdsv1_fallback",
    "skip_signature",
    "unsigned_payload",
    "s3_express",
    "request_payer",
    "disable_tagging",
    "sse_bucket_key_enabled",
    "use_emulator",
    "use_fabric_endpoint",
    "use_azure_cli",
];

impl StoreKind {
    /// The kind of store that a URL, or a directory's path, names; `None` when no store has such a scheme.
    pub fn of(text: &str) -> Option<Self> {
        let Some((scheme, rest)) = text.split_once("://") else { return Some(Self::Directory) };
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        Some(match scheme {
            "file" => Self::Directory,
            "memory" => Self::Memory,
            "s3" | "s3a" => Self::S3,
            "gs" => Self::Gcs,
            "az" | "adl" | "azure" | "abfs" | "abfss" => Self::Azure,
            "https" if host.ends_with(".amazonaws.com") || host.ends_with(".r2.cloudflarestorage.com") => Self::S3,
            "https"
                if [
                    "dfs.core.windows.net",
                    "blob.core.windows.net",
                    "dfs.fabric.microsoft.com",
                    "blob.fabric.microsoft.com",
                ]
                .iter()
                .any(|end| host.ends_with(end)) =>
            {
                Self::Azure
            }
            "http" | "https" => Self::Http,
            _ => return None,
        })
    }

    /// The keys of this kind's own, without those of every client.
    pub fn keys(self) -> &'static [&'static str] {
        match self {
            Self::S3 => S3_KEYS,
            Self::Gcs => GCS_KEYS,
            Self::Azure => AZURE_KEYS,
            Self::Directory | Self::Memory | Self::Http => &[],
        }
    }

    fn is_remote(self) -> bool {
        !matches!(self, Self::Directory | Self::Memory)
    }

    fn prefixes(self) -> &'static [&'static str] {
        match self {
            Self::S3 => &["aws_"],
            Self::Gcs => &["google_"],
            Self::Azure => &["azure_storage_", "azure_"],
            _ => &[],
        }
    }

    /// The key's own name, whatever the store's tools call it; `None` when this kind has no such key.
    pub(super) fn canonical(self, key: &str) -> Option<&'static str> {
        let lower = key.to_ascii_lowercase();
        let short = self.prefixes().iter().find_map(|p| lower.strip_prefix(p)).unwrap_or(&lower);
        let short = ALIASES.iter().find(|(kind, name, _)| *kind == self && *name == short).map_or(short, |a| a.2);
        let own = self.keys().iter().copied().find(|k| *k == short);
        own.or_else(|| self.is_remote().then(|| CLIENT_KEYS.iter().map(|k| k.0).find(|k| *k == short))?)
    }
}

const SECRET_HERE: &str = "a secret stands in the pipeline itself";
const REFER: &str =
    "refer to it: env:NAME, file:PATH or cmd:COMMAND; and replace the secret, for it has been written down";

/// What is wrong with one setting: the key, what, what to do.
pub(crate) type Wrong = (String, String, String);

/// Checks the settings of a store as they stand in a pipeline; values are never quoted, for they may be secrets. A
/// directory uses none, whatever they are.
pub(crate) fn check<'a>(kind: StoreKind, settings: impl Iterator<Item = (&'a String, &'a String)>) -> Vec<Wrong> {
    let mut wrong = Vec::new();
    for (key, value) in settings {
        let mut say = |what: String, next: String| wrong.push((key.clone(), what, next));
        if !kind.is_remote() {
            let secret = [StoreKind::S3, StoreKind::Gcs, StoreKind::Azure]
                .iter()
                .any(|kind| kind.canonical(key).is_some_and(|name| SECRET_KEYS.contains(&name)));
            if secret && value.parse::<SecretRef>().is_err() {
                say(SECRET_HERE.to_owned(), REFER.to_owned());
            }
            continue;
        }
        let Some(name) = kind.canonical(key) else {
            let known: Vec<_> = kind.keys().iter().copied().chain(CLIENT_KEYS.iter().map(|k| k.0)).collect();
            let next = match nearest(key, &known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("use one of {}", known.join(", ")),
            };
            say(format!("there is no such setting of {kind:?} stores"), next);
            continue;
        };
        let reference = value.parse::<SecretRef>().is_ok();
        if SECRET_KEYS.contains(&name) && !reference {
            say(SECRET_HERE.to_owned(), REFER.to_owned());
        } else if name == "proxy_url" && value.contains('@') && !reference {
            say("the proxy's URL holds a user name or password".to_owned(), "refer to it: env:NAME".to_owned());
        } else if !reference && let Err(next) = check_value(name, value) {
            say("this is not a usable value".to_owned(), next);
        }
    }
    wrong
}

fn check_value(name: &str, value: &str) -> Result<(), String> {
    match name {
        "connect_timeout" | "timeout" | "retry_timeout" | "pool_idle_timeout" => {
            duration(value).map(drop).ok_or_else(|| "give a time such as 30s, 500ms or 2m".to_owned())
        }
        "max_retries" | "concurrency" | "pool_max_idle_per_host" => match value.parse::<usize>() {
            Ok(0) if name == "concurrency" => Err("at least 1 request must be possible".to_owned()),
            Ok(_) => Ok(()),
            Err(_) => Err("give a whole number".to_owned()),
        },
        "endpoint" | "base_url" | "metadata_endpoint" | "endpoint_url_sts" | "msi_endpoint" | "proxy_url" => {
            match Url::parse(value) {
                Ok(url)
                    if name != "proxy_url"
                        && (!url.username().is_empty() || url.password().is_some() || url.query().is_some()) =>
                {
                    Err("remove user name, password and query: credentials have keys of their own".to_owned())
                }
                Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(()),
                _ => Err("give a URL such as https://host:9000".to_owned()),
            }
        }
        "conditional_put" if value != "etag" => {
            Err("a repository needs conditional writes: leave the key out".to_owned())
        }
        _ if BOOLEANS.contains(&name) => boolean(value).map(drop).ok_or_else(|| "write true or false".to_owned()),
        _ => Ok(()),
    }
}

/// A time as people write it: `30s`, `500ms`, `2m`, `1h`, `30 seconds`, or a number of seconds.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let milliseconds = match text[digits..].trim() {
        "ms" | "millisecond" | "milliseconds" => 1,
        "" | "s" | "sec" | "secs" | "second" | "seconds" => 1_000,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
        "h" | "hour" | "hours" => 3_600_000,
        _ => return None,
    };
    let duration = Duration::from_millis(number.checked_mul(milliseconds)?);
    (!duration.is_zero()).then_some(duration)
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "on" | "yes" | "y" => Some(true),
        "0" | "false" | "off" | "no" | "n" => Some(false),
        _ => None,
    }
}

/// The known key that takes the fewest changes, if it is near.
fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let (distance, near) = known.iter().map(|k| (changes(key, k), *k)).min()?;
    let shares = known.iter().copied().find(|k| k.len() > 3 && (k.contains(key) || key.contains(k)) && key.len() > 3);
    if distance <= 2.max(key.len() / 3) { Some(near) } else { shares }
}

/// How many characters must be inserted, removed or replaced.
fn changes(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// How requests are made.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) connect_timeout: Duration,
    pub(super) timeout: Duration,
    pub(super) max_retries: usize,
    pub(super) retry_timeout: Duration,
    pub(super) concurrency: usize,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(60),
            max_retries: 10,
            retry_timeout: Duration::from_secs(180),
            concurrency: 64,
        }
    }
}

impl Client {
    pub(super) fn retry(&self) -> RetryConfig {
        RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(15),
                base: 2.0,
            },
            max_retries: self.max_retries,
            retry_timeout: self.retry_timeout,
        }
    }

    /// The limit of the whole request is ours: see `http`.
    pub(super) fn options(&self, allow_http: bool) -> ClientOptions {
        let mut options = ClientOptions::new()
            .with_timeout_disabled()
            .with_connect_timeout(self.connect_timeout)
            .with_allow_http(allow_http);
        if let Ok(agent) = object_store::HeaderValue::from_str(concat!("regrow/", env!("CARGO_PKG_VERSION"))) {
            options = options.with_user_agent(agent);
        }
        options
    }
}

/// Options of one store, by the keys' own names, later ones having won.
#[derive(Default)]
pub(super) struct Resolved {
    pub(super) client: Client,
    /// For the store's builder.
    pub(super) pairs: Vec<(&'static str, String)>,
}

impl Resolved {
    /// Keys that the store does not have are left out: the environment holds those of all stores.
    pub(super) fn new(kind: StoreKind, options: &[(String, String)]) -> Result<Self> {
        let mut this = Self::default();
        for (key, value) in options {
            let Some(name) = kind.canonical(key) else { continue };
            // A default must not win over what was said.
            if name == "region" && key.to_ascii_lowercase().ends_with("default_region") && this.get(name).is_some() {
                continue;
            }
            // The general endpoint does not win over that of S3, unless the pipeline says it.
            if key.eq_ignore_ascii_case("aws_endpoint_url")
                && options.iter().any(|(k, _)| k.eq_ignore_ascii_case("aws_endpoint_url_s3"))
            {
                continue;
            }
            // Keys of one identity belong together: a token of another must not be sent with them.
            for (first, others) in [
                ("access_key_id", &["session_token"][..]),
                ("account_key", &["sas_token", "bearer_token", "client_secret"]),
                ("sas_token", &["account_key", "bearer_token", "client_secret"]),
                ("bearer_token", &["account_key", "sas_token", "client_secret"]),
                ("service_account", &["service_account_key", "application_credentials"]),
                ("service_account_key", &["service_account", "application_credentials"]),
            ] {
                let explicit = name == first && !has_prefix(kind, key);
                if explicit {
                    let environment =
                        |k: &str| options.iter().any(|(o, _)| !has_prefix(kind, o) && kind.canonical(o) == Some(k));
                    this.pairs.retain(|(k, _)| !others.contains(k) || environment(k));
                }
            }
            this.pairs.retain(|(k, _)| *k != name);
            this.pairs.push((name, value.clone()));
        }
        let mut client = Client::default();
        for (name, value) in &this.pairs {
            check_value(name, value).map_err(|next| {
                Error::new(ErrorKind::Configuration, "a setting of the store is not usable")
                    .with("key", name)
                    .guidance(next)
            })?;
            match *name {
                "connect_timeout" => client.connect_timeout = duration(value).unwrap_or(client.connect_timeout),
                "timeout" => client.timeout = duration(value).unwrap_or(client.timeout),
                "retry_timeout" => client.retry_timeout = duration(value).unwrap_or(client.retry_timeout),
                "max_retries" => client.max_retries = value.parse().unwrap_or(client.max_retries),
                "concurrency" => client.concurrency = value.parse().unwrap_or(client.concurrency),
                _ => {}
            }
        }
        this.client = client;
        let ours = ["connect_timeout", "timeout", "retry_timeout", "max_retries", "concurrency"];
        this.pairs.retain(|(k, _)| !ours.contains(k));
        Ok(this)
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(k, _)| *k == name).map(|(_, v)| v.as_str())
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        self.get(name).and_then(boolean) == Some(true)
    }

    pub(super) fn set(&mut self, name: &'static str, value: String) {
        self.pairs.retain(|(k, _)| *k != name);
        self.pairs.push((name, value));
    }
}

/// Whether the key has the prefix that variables of the environment have.
fn has_prefix(kind: StoreKind, key: &str) -> bool {
    kind.prefixes().iter().any(|p| key.to_ascii_lowercase().starts_with(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(options: &[(&str, &str)]) -> Vec<(String, String)> {
        options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn every_key_is_one_of_the_stores() {
        for (kind, prefix) in [(StoreKind::S3, "aws_"), (StoreKind::Gcs, "google_"), (StoreKind::Azure, "azure_")] {
            for key in kind.keys().iter().copied().chain(CLIENT_KEYS.iter().map(|k| k.0)) {
                assert!(kind.canonical(key).is_some(), "{key}");
                assert_eq!(kind.canonical(&format!("{prefix}{key}")), kind.canonical(key), "{key}");
            }
        }
        assert_eq!(StoreKind::Azure.canonical("AZURE_STORAGE_ACCOUNT_NAME"), Some("account_name"));
        assert_eq!(StoreKind::S3.canonical("account_name"), None);
        assert_eq!(StoreKind::Directory.canonical("timeout"), None);
    }

    #[test]
    fn the_pipeline_wins_over_the_environment_as_a_whole() {
        let resolved = Resolved::new(
            StoreKind::S3,
            &pairs(&[
                ("aws_access_key_id", "a"),
                ("aws_secret_access_key", "b"),
                ("aws_session_token", "t"),
                ("aws_endpoint_url", "http://general"),
                ("aws_endpoint_url_s3", "http://s3"),
                ("google_base_url", "http://other"),
                ("endpoint", "http://mine"),
                ("access_key_id", "c"),
                ("secret_access_key", "d"),
                ("timeout", "7s"),
            ]),
        )
        .unwrap();
        assert_eq!(resolved.get("access_key_id"), Some("c"));
        assert_eq!(resolved.get("session_token"), None, "the token of another key");
        assert_eq!(resolved.get("endpoint"), Some("http://mine"));
        assert_eq!(resolved.client.timeout, Duration::from_secs(7));
        assert_eq!(resolved.get("timeout"), None);
        let proxy = pairs(&[("proxy_url", "http://me:pw@proxy:3128")]);
        assert!(Resolved::new(StoreKind::S3, &proxy).unwrap().get("proxy_url").is_some(), "had by reference");
        let own = pairs(&[("session_token", "t"), ("access_key_id", "c"), ("secret_access_key", "d")]);
        assert_eq!(Resolved::new(StoreKind::S3, &own).unwrap().get("session_token"), Some("t"));
    }

    #[test]
    fn wrong_settings_are_named_and_secrets_are_not_repeated() {
        let one = |key: &str, value: &str| {
            let settings = std::collections::BTreeMap::from([(key.to_owned(), value.to_owned())]);
            check(StoreKind::S3, settings.iter())
        };
        assert!(one("endpoint", "http://127.0.0.1:9000").is_empty());
        assert!(one("access_key_id", "env:KEY").is_empty());
        assert!(one("aws_region", "eu-west-1").is_empty());
        for (key, value, next) in [
            ("endpont", "http://h", "`endpoint`"),
            ("acess_key_id", "env:KEY", "`access_key_id`"),
            ("secret_access_key", "hunter2", "env:NAME"),
            ("token", "hunter2", "env:NAME"),
            ("timeout", "soon", "30s"),
            ("concurrency", "0", "at least 1"),
            ("endpoint", "minio:9000", "https://host"),
            ("endpoint", "http://a:hunter2@host", "credentials"),
            ("allow_http", "perhaps", "true or false"),
            ("conditional_put", "disabled", "leave the key out"),
        ] {
            let wrong = one(key, value);
            assert_eq!(wrong.len(), 1, "{key}");
            assert!(wrong[0].2.contains(next), "{key}: {}", wrong[0].2);
            assert!(!format!("{wrong:?}").contains("hunter2"));
        }
        let secret = std::collections::BTreeMap::from([("account_key".to_owned(), "x".to_owned())]);
        assert_eq!(check(StoreKind::Directory, secret.iter()).len(), 1);
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, milliseconds) in
            [("30s", 30_000), ("500ms", 500), ("2m", 120_000), ("30 seconds", 30_000), ("7", 7_000)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "1 fortnight", "-1s", "0", "99999999999999999999", "18446744073709551615h"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn a_url_says_what_kind_of_store_it_is() {
        for (text, kind) in [
            ("docs", Some(StoreKind::Directory)),
            ("file:///docs", Some(StoreKind::Directory)),
            ("s3://b/x", Some(StoreKind::S3)),
            ("https://b.s3.amazonaws.com/x", Some(StoreKind::S3)),
            ("abfss://c@a.dfs.core.windows.net/x", Some(StoreKind::Azure)),
            ("gs://b", Some(StoreKind::Gcs)),
            ("https://host/x", Some(StoreKind::Http)),
            ("ftp://host/x", None),
        ] {
            assert_eq!(StoreKind::of(text), kind, "{text}");
        }
    }
}
