//! How a server is reached: the settings, with secrets resolved and files read.

use std::path::Path;
use std::time::Duration;

use url::Url;

use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::TargetSettings;
use crate::secret::{Secret, SecretRef};
use crate::workspace::Variables;

/// What a target needs to connect. Shows no secret.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    /// Where the server is.
    pub(crate) url: Url,
    /// API key or token.
    pub(crate) api_key: Option<Secret>,
    /// User.
    pub(crate) user: Option<String>,
    /// The user's password.
    pub(crate) password: Option<Secret>,
    /// Further certificate authorities, PEM.
    pub(crate) ca: Option<Vec<u8>>,
    /// Longest wait for an answer.
    pub(crate) timeout: Duration,
    /// Writes under way at once, where the pipeline says so.
    pub(crate) writers: Option<usize>,
    /// Database in the server.
    pub(crate) database: Option<String>,
}

impl Connection {
    /// Resolves secrets and reads files; blocks meanwhile. Connects to nothing.
    pub(crate) fn resolve(settings: &TargetSettings, base: &Path, variables: &Variables) -> Result<Self> {
        let secret = |reference: &Option<SecretRef>| reference.as_ref().map(|r| r.resolve(variables, base)).transpose();
        let kind = settings.kind;
        let text = settings.url.as_deref().unwrap_or(kind.url_example());
        let url = Url::parse(text).map_err(|e| {
            Error::new(ErrorKind::Configuration, "the target's URL is none")
                .with("key", "target.url")
                .guidance(format!("write it like {}", kind.url_example()))
                .because(e)
        })?;
        let ca = settings.ca_file.as_deref().map(|file| {
            std::fs::read(base.join(file)).map_err(|e| {
                Error::new(ErrorKind::Configuration, "the certificate authorities cannot be read")
                    .with("key", "target.ca_file")
                    .with("file", file)
                    .guidance("name a PEM file, relative to the pipeline file")
                    .because(e)
            })
        });
        Ok(Self {
            url,
            api_key: secret(&settings.api_key)?,
            user: settings.user.clone(),
            password: secret(&settings.password)?,
            ca: ca.transpose()?,
            timeout: settings.timeout()?,
            writers: settings.writers,
            database: settings.database.clone(),
        })
    }

    /// Host and port, for errors.
    pub(crate) fn place(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        self.url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }
}
