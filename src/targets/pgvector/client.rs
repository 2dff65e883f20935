//! Connections: TLS, a pool, and what PostgreSQL's errors mean.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::{Client, Config};

use super::sql::quoted;
use crate::error::{Error, ErrorKind, Result};
use crate::targets::connect::Connection;
use crate::targets::types::ServerInfo;

/// Oldest PostgreSQL that is used.
const LEAST_SERVER: u32 = 130_000;

/// Version of the extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Extension(pub(super) u32, pub(super) u32, pub(super) u32);

impl Extension {
    /// The first with HNSW.
    const LEAST: Self = Self(0, 5, 0);
    /// The first whose scans go on until enough points have passed a filter.
    pub(super) const ITERATIVE: Self = Self(0, 8, 0);
    /// Parallel builds of earlier ones can overflow a buffer.
    pub(super) const PARALLEL: Self = Self(0, 8, 2);

    fn parse(text: &str) -> Self {
        let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
        let mut next = || parts.next().unwrap_or(0);
        Self(next(), next(), next())
    }
}

/// What is known of the server once a connection was made.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) info: ServerInfo,
    pub(super) extension: Extension,
    /// `server_version_num`.
    pub(super) number: u32,
}

/// Connections to one database.
pub(super) struct Pool {
    config: Config,
    tls: Tls,
    place: String,
    /// Schema of the collections.
    pub(super) schema: String,
    timeout_ms: u128,
    idle: Mutex<Vec<Client>>,
    known: tokio::sync::OnceCell<Known>,
}

/// A connection in use; goes back to the pool by [`Lease::done`], else it is closed, because nobody knows its state.
pub(super) struct Lease<'a> {
    pool: &'a Pool,
    client: Client,
}

impl std::ops::Deref for Lease<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl std::ops::DerefMut for Lease<'_> {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Lease<'_> {
    /// Nothing is under way on it any more.
    pub(super) fn done(self) {
        if !self.client.is_closed() {
            self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(self.client);
        }
    }
}

impl Pool {
    pub(super) fn new(connection: &Connection, schema: String) -> Result<Self> {
        let mut config = Config::new();
        config
            .host(connection.url.host_str().unwrap_or("localhost").trim_matches(['[', ']']))
            .port(connection.url.port().unwrap_or(5432))
            .user(connection.user.as_deref().unwrap_or("postgres"))
            .dbname(connection.database.as_deref().unwrap_or("postgres"))
            .application_name("regrow")
            .connect_timeout(connection.timeout.min(std::time::Duration::from_secs(15)))
            .tcp_user_timeout(connection.timeout);
        if let Some(password) = &connection.password {
            config.password(password.reveal());
        }
        let secure = connection.url.scheme() == "postgresqls" || connection.ca.is_some();
        config.ssl_mode(if secure { SslMode::Require } else { SslMode::Disable });
        Ok(Self {
            config,
            tls: Tls::new(connection.ca.as_deref(), secure)?,
            place: connection.place(),
            schema,
            timeout_ms: connection.timeout.as_millis(),
            idle: Mutex::default(),
            known: tokio::sync::OnceCell::new(),
        })
    }

    /// A connection that nobody else uses.
    pub(super) async fn lease(&self) -> Result<Lease<'_>> {
        self.known().await?;
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match idle {
                Some(client) if client.is_closed() => {}
                Some(client) => return Ok(Lease { pool: self, client }),
                None => return Ok(Lease { pool: self, client: self.connect().await? }),
            }
        }
    }

    /// Connects at the first call, and refuses what cannot be used.
    pub(super) async fn known(&self) -> Result<&Known> {
        let look = async {
            let client = self.connect().await?;
            let known = self.look(&client).await?;
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(client);
            Ok(known)
        };
        self.known.get_or_try_init(|| look).await
    }

    async fn connect(&self) -> Result<Client> {
        let (client, connection) = self.config.connect(self.tls.clone()).await.map_err(|e| self.unreachable(e))?;
        // Ends with the client.
        tokio::spawn(async move { drop(connection.await) });
        // The extension's operators are found wherever it was installed.
        let settings = format!(
            "SET statement_timeout = {}; SET lock_timeout = {}; SET client_min_messages = warning; \
             SET extra_float_digits = 1; SET timezone = 'UTC'; \
             SELECT set_config('search_path', concat_ws(', ', {}, (SELECT quote_ident(nspname) FROM pg_extension e \
             JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'vector'), 'public'), false)",
            self.timeout_ms,
            self.timeout_ms,
            super::sql::literal(&quoted(&self.schema)),
        );
        client.batch_execute(&settings).await.map_err(|e| wrong("preparing a connection", e))?;
        Ok(client)
    }

    async fn look(&self, client: &Client) -> Result<Known> {
        let query = "SELECT current_setting('server_version'), current_setting('server_version_num')::int, \
                     (SELECT extversion FROM pg_extension WHERE extname = 'vector'), \
                     EXISTS (SELECT 1 FROM pg_available_extensions WHERE name = 'vector')";
        let ask = async || client.query_one(query, &[]).await.map_err(|e| wrong("asking for the server's version", e));
        let mut row = ask().await?;
        let number = u32::try_from(row.get::<_, i32>(1)).unwrap_or(0);
        let version: String = row.get(0);
        if number < LEAST_SERVER {
            return Err(self.refused("PostgreSQL is too old", &version).guidance("13 is the oldest that is used"));
        }
        if row.get::<_, Option<String>>(2).is_none() {
            if !row.get::<_, bool>(3) {
                return Err(self
                    .refused("the server has no pgvector", &version)
                    .guidance("install pgvector on the server"));
            }
            // Two at a time may collide in the catalog; then it is there.
            if let Err(e) = client.batch_execute("CREATE EXTENSION IF NOT EXISTS vector").await
                && !matches!(e.code(), Some(code) if *code == SqlState::UNIQUE_VIOLATION || *code == SqlState::DUPLICATE_OBJECT)
            {
                return Err(wrong("making the extension pgvector", e)
                    .guidance("let an administrator of the database run CREATE EXTENSION vector"));
            }
            row = ask().await?;
        }
        let extension: String = row.get::<_, Option<String>>(2).unwrap_or_default();
        let parsed = Extension::parse(&extension);
        if parsed < Extension::LEAST {
            return Err(self
                .refused("pgvector is too old", &extension)
                .guidance("0.5.0 is the first with HNSW: update it, then ALTER EXTENSION vector UPDATE"));
        }
        let details = [("pgvector".to_owned(), extension)].into();
        Ok(Known { info: ServerInfo { name: "PostgreSQL".to_owned(), version, details }, extension: parsed, number })
    }

    fn refused(&self, why: &str, version: &str) -> Error {
        Error::new(ErrorKind::Target, why).with("server", &self.place).with("version", version)
    }

    fn unreachable(&self, e: tokio_postgres::Error) -> Error {
        if e.as_db_error().is_some() {
            return wrong("connecting", e).with("server", &self.place);
        }
        let mut causes = std::error::Error::source(&e).map(ToString::to_string).unwrap_or_default();
        causes.make_ascii_lowercase();
        let error = Error::new(ErrorKind::Target, "the server cannot be reached").with("server", &self.place);
        let error = match causes.contains("certificate") || causes.contains("tls") {
            true => error.guidance(
                "check the certificate: target.ca_file names further authorities; postgresql:// is without TLS",
            ),
            false => error
                .guidance("check target.url, and that the server runs and accepts connections from here")
                .transient(),
        };
        error.because(e)
    }
}

/// What an error of the server means.
pub(super) fn wrong(doing: &str, e: tokio_postgres::Error) -> Error {
    let Some(db) = e.as_db_error() else {
        // The connection was lost, most likely: the same call may succeed on another one.
        return Error::new(ErrorKind::Target, format!("{doing} failed: no answer from PostgreSQL"))
            .transient()
            .because(e);
    };
    let code = db.code();
    let class = &code.code()[..2];
    let kind = match class {
        "28" => ErrorKind::Denied,
        "42" if *code == SqlState::INSUFFICIENT_PRIVILEGE => ErrorKind::Denied,
        "42" if *code == SqlState::UNDEFINED_TABLE => ErrorKind::NotFound,
        "42" if *code == SqlState::DUPLICATE_TABLE || *code == SqlState::DUPLICATE_OBJECT => ErrorKind::AlreadyExists,
        "53" if *code == SqlState::DISK_FULL => ErrorKind::StorageFull,
        _ => ErrorKind::Target,
    };
    let mut error = Error::new(kind, format!("{doing} failed: {}", db.message())).with("code", code.code());
    // A detail may quote the contents of rows; a hint does not.
    if let Some(hint) = db.hint() {
        error = error.guidance(hint);
    } else if kind == ErrorKind::Denied {
        error = error.guidance("check target.user, target.password and what this user may do");
    } else if *code == SqlState::UNDEFINED_COLUMN {
        error = error.guidance("the table has other columns than regrow's: id, tenant, embedding, payload, exact");
    }
    // Connection, resources, administration, rollbacks by deadlock, time-outs of locks.
    let again = matches!(class, "08" | "57" | "40" | "55") || (class == "53" && kind == ErrorKind::Target);
    if again { error.transient() } else { error }
}

/// rustls for PostgreSQL; verifies certificate and name.
#[derive(Clone)]
pub(super) struct Tls(Option<tokio_rustls::TlsConnector>);

impl Tls {
    fn new(ca: Option<&[u8]>, secure: bool) -> Result<Self> {
        if !secure {
            return Ok(Self(None));
        }
        let bad = |e: &dyn std::fmt::Display| {
            Error::new(ErrorKind::Configuration, "TLS cannot be set up")
                .because(e.to_string())
                .guidance("target.ca_file must be a PEM file with certificates")
        };
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for certificate in CertificateDer::pem_slice_iter(ca.unwrap_or_default()) {
            roots.add(certificate.map_err(|e| bad(&e))?).map_err(|e| bad(&e))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| bad(&e))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(Some(Arc::new(config).into())))
    }
}

pub(super) struct Connecting(Option<(tokio_rustls::TlsConnector, ServerName<'static>)>);

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Tls {
    type Stream = Secured<S>;
    type TlsConnect = Connecting;
    type Error = rustls::pki_types::InvalidDnsNameError;

    fn make_tls_connect(&mut self, domain: &str) -> std::result::Result<Connecting, Self::Error> {
        let Some(connector) = &self.0 else { return Ok(Connecting(None)) };
        Ok(Connecting(Some((connector.clone(), ServerName::try_from(domain)?.to_owned()))))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Connecting {
    type Stream = Secured<S>;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, std::io::Result<Secured<S>>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            match self.0 {
                Some((connector, name)) => Ok(Secured(Box::new(connector.connect(name, stream).await?))),
                None => Err(std::io::Error::other("this connection is without TLS")),
            }
        })
    }
}

/// A stream with TLS.
pub(super) struct Secured<S>(Box<tokio_rustls::client::TlsStream<S>>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Secured<S> {
    fn channel_binding(&self) -> ChannelBinding {
        // SCRAM without binding; the certificate is verified.
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Secured<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Secured<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }
}
