//! `[target]`.

use url::Url;

use super::Findings;
use crate::pipeline::settings::*;
use crate::targets::field;

impl Pipeline {
    pub(super) fn check_target(&self, f: &mut Findings) {
        self.check_server(f);
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

    /// Where the server is, how to get in, and keys that only other kinds have.
    fn check_server(&self, f: &mut Findings) {
        let target = &self.target;
        let kind = target.kind;
        for other in target.tables().into_iter().filter(|other| *other != kind) {
            f.problem(
                format!("target.{}", other.name()),
                format!("this table is for {}, and the target is {}", other.name(), kind.name()),
                format!("remove it, or set target.kind = \"{}\"", other.name()),
            );
        }
        for (key, there) in [
            ("url", target.url.is_some()),
            ("api_key", target.api_key.is_some()),
            ("user", target.user.is_some()),
            ("password", target.password.is_some()),
            ("ca_file", target.ca_file.is_some()),
            ("timeout", target.timeout.is_some()),
            ("writers", target.writers.is_some()),
            ("batch_bytes", target.batch_bytes.is_some()),
            ("database", target.database.is_some()),
        ] {
            if there && !kind.takes(key) {
                f.problem(format!("target.{key}"), format!("{} has no such key", kind.name()), "remove it");
            }
        }
        if kind.is_server() && target.path.is_some() {
            f.problem("target.path", format!("{} is a server, without a directory here", kind.name()), "remove it");
        }
        if let Err(e) = target.timeout() {
            f.problem("target.timeout", e.message(), e.next_step().unwrap_or_default());
        }
        f.require(
            target.writers != Some(0),
            "target.writers",
            "nobody would write",
            "leave it out, or give at least 1",
        );
        f.require(
            target.batch_bytes.is_none_or(|bytes| bytes >= 1 << 16),
            "target.batch_bytes",
            "a write would hold hardly a point",
            "leave it out, or give at least 65536",
        );
        if target.password.is_some() && target.user.is_none() {
            f.problem("target.user", "there is a password for nobody", "name the user the password belongs to");
        }
        if kind.is_server() {
            self.check_url(f);
        }
    }

    fn check_url(&self, f: &mut Findings) {
        const KEY: &str = "target.url";
        let kind = self.target.kind;
        let like = format!("write it like {}", kind.url_example());
        let Some(text) = &self.target.url else {
            // Pinecone's service has one address for everybody.
            f.require(
                kind == TargetKind::Pinecone,
                KEY,
                &format!("{} needs to know where the server is", kind.name()),
                &like,
            );
            return;
        };
        // The text itself is never quoted: it may hold a secret.
        let url = match Url::parse(text) {
            Ok(url) => url,
            Err(e) => return f.problem(KEY, format!("this is not a URL: {e}"), like),
        };
        if !kind.schemes().contains(&url.scheme()) {
            return f.problem(KEY, format!("{} is not reached by `{}`", kind.name(), url.scheme()), like);
        }
        f.require(url.host_str().is_some_and(|host| !host.is_empty()), KEY, "the URL names no server", &like);
        if url.password().is_some() || !url.username().is_empty() {
            f.problem(
                KEY,
                "the URL holds a user name or password",
                "use target.user and target.password = \"env:NAME\" instead",
            );
        } else if url.query().is_some() || url.fragment().is_some() {
            f.problem(
                KEY,
                "the URL holds a query or fragment, which may be a secret",
                "give the plain URL; settings have keys of their own",
            );
        } else if kind == TargetKind::Pgvector && !url.path().trim_matches('/').is_empty() {
            f.problem(KEY, "the database is not part of the URL", "use target.database = \"NAME\" instead");
        }
        let remote = !matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let plain = matches!(url.scheme(), "http" | "postgresql" | "postgres");
        if remote && plain && (self.target.api_key.is_some() || self.target.password.is_some()) {
            f.warnings.push(format!("{KEY}: the credentials are sent in the clear; use TLS ({}s://)", url.scheme()));
        }
    }
}
