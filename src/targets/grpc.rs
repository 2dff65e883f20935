//! gRPC: the channel to a server, and what its statuses mean.

use std::error::Error as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use url::Url;

use super::http::WORDS;
use crate::error::{Error, ErrorKind, Result};

/// How a server is reached.
pub(super) struct Access<'a> {
    /// What it is, such as `Qdrant`.
    pub(super) server: &'static str,
    /// Scheme, host and port; `https` uses TLS.
    pub(super) url: &'a Url,
    /// Metadata of every request, such as the one with the token; none is shown.
    pub(super) headers: Vec<(&'static str, String)>,
    /// Certificates to trust beside the machine's, in PEM.
    pub(super) ca: Option<&'a [u8]>,
    /// For a request and its answer: the caller waits with [`Grpc::within`].
    pub(super) timeout: Duration,
    /// What errors say about the place, such as `("database", …)`.
    pub(super) context: Vec<(&'static str, String)>,
}

/// A channel with the headers of every request.
pub(super) type Service = InterceptedService<Channel, Headers>;

/// A connection to one server: it is made by the first request, and again when it broke.
#[derive(Clone)]
pub(super) struct Grpc {
    endpoint: Endpoint,
    /// Made by the first request: it needs a Tokio runtime, and whoever opens a target may have none.
    channel: Arc<OnceLock<Channel>>,
    headers: Headers,
    url: String,
    timeout: Duration,
    context: Vec<(&'static str, String)>,
}

impl std::fmt::Debug for Grpc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grpc").field("url", &self.url).field("context", &self.context).finish_non_exhaustive()
    }
}

/// Puts headers on every request.
#[derive(Clone)]
pub(super) struct Headers(Vec<(AsciiMetadataKey, AsciiMetadataValue)>);

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> std::result::Result<Request<()>, Status> {
        for (key, value) in &self.0 {
            request.metadata_mut().insert(key.clone(), value.clone());
        }
        Ok(request)
    }
}

impl Grpc {
    /// Connects to nothing yet.
    ///
    /// [`ErrorKind::Configuration`] for a URL, certificate or token that cannot be used.
    pub(super) fn open(access: Access<'_>) -> Result<Self> {
        let wrong = |message: &str| {
            Error::new(ErrorKind::Configuration, message)
                .with("server", access.server)
                .guidance("write the server's address as `url = \"http://HOST:PORT\"`; the token goes to `api_key`")
        };
        let url = access.url;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(wrong("the server's URL is not one of HTTP").with("scheme", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return Err(wrong("the server's URL holds more than an address"));
        }
        let mut headers = Vec::new();
        for (name, value) in &access.headers {
            let mut value = AsciiMetadataValue::try_from(value.as_str()).map_err(|_| {
                Error::new(ErrorKind::Configuration, "the server's token holds characters that no header can carry")
                    .with("header", name)
                    .guidance("check what `target.api_key` or `target.password` refers to")
            })?;
            value.set_sensitive(true);
            headers.push((AsciiMetadataKey::from_static(name), value));
        }
        let setup = |e: tonic::transport::Error| wrong("the client of the server cannot be set up").because(e);
        let address = url.as_str().trim_end_matches('/').to_owned();
        let mut endpoint = Endpoint::from_shared(address.clone())
            .map_err(setup)?
            .user_agent(concat!("regrow/", env!("CARGO_PKG_VERSION")))
            .map_err(setup)?
            .connect_timeout(access.timeout.min(Duration::from_secs(10)))
            .tcp_nodelay(true)
            // A server that died without a word is noticed although a request may last for minutes.
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            // Vectors fill the default window of 64 KiB at once.
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20);
        if url.scheme() == "https" {
            let mut tls = ClientTlsConfig::new().with_native_roots();
            if let Some(pem) = access.ca {
                tls = tls.ca_certificate(Certificate::from_pem(pem));
            }
            endpoint = endpoint.tls_config(tls).map_err(setup)?;
        }
        Ok(Self {
            endpoint,
            channel: Arc::default(),
            headers: Headers(headers),
            url: address,
            timeout: access.timeout,
            context: access.context,
        })
    }

    /// What a generated client is made of. Must be called within a Tokio runtime.
    pub(super) fn service(&self) -> Service {
        let channel = self.channel.get_or_init(|| self.endpoint.connect_lazy());
        InterceptedService::new(channel.clone(), self.headers.clone())
    }

    /// Waits for an answer for `times` the timeout, and says what went wrong. A call that is given up is cancelled.
    pub(super) async fn within<T>(
        &self,
        doing: &'static str,
        times: u32,
        call: impl Future<Output = std::result::Result<T, Status>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.timeout.saturating_mul(times), call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => Err(self.refused(&status, doing)),
            Err(_) => Err(self.error(ErrorKind::Target, "the server did not answer in time", doing).transient()),
        }
    }

    /// An error that says where.
    pub(super) fn error(&self, kind: ErrorKind, message: &str, doing: &'static str) -> Error {
        let error = Error::new(kind, message).with("doing", doing).with("url", &self.url);
        self.context.iter().fold(error, |error, (key, value)| error.with(key, value))
    }

    /// What a status means. The context `status` is its name, `said` the server's words.
    pub(super) fn refused(&self, status: &Status, doing: &'static str) -> Error {
        let said: String = status.message().chars().filter(|c| !c.is_control()).take(WORDS).collect();
        // What the channel reports has a cause here; what the server says has none.
        if let Some(cause) = status.source() {
            return self
                .error(ErrorKind::Target, "the server cannot be reached, or the connection to it broke", doing)
                .with("said", causes(cause))
                .guidance(
                    "check `target.url`, that the server runs, and `target.ca_file` where its certificate is your own",
                )
                .transient();
        }
        let error = |kind, message: &str| {
            self.error(kind, message, doing).with("status", format!("{:?}", status.code())).with("said", &said)
        };
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => {
                error(ErrorKind::Denied, "the server refused the credentials, or they may not do this")
                    .guidance("check what `target.api_key` or `target.password` refers to, and what it may do")
            }
            Code::NotFound => error(ErrorKind::NotFound, "the server does not know what was asked for")
                .guidance("check `target.url` and the names in `[target]`"),
            Code::AlreadyExists => error(ErrorKind::AlreadyExists, "the name is taken"),
            Code::ResourceExhausted => error(ErrorKind::Target, "the server asks to wait, or the message is too large")
                .guidance("lower `target.writers` or `target.batch_bytes`, or raise the server's quota")
                .transient(),
            Code::Unavailable | Code::Aborted | Code::Cancelled | Code::DeadlineExceeded => {
                error(ErrorKind::Target, "the server cannot serve this now").transient()
            }
            Code::Unimplemented => error(ErrorKind::Target, "the server does not know this call")
                .guidance("check that `target.url` is its gRPC address, and the server's version"),
            Code::Internal | Code::Unknown | Code::DataLoss => {
                error(ErrorKind::Target, "the server failed").guidance("look into the server's log")
            }
            _ => error(ErrorKind::Target, "the server refused the request"),
        }
    }
}

/// An error's causes in one line: the first is only "transport error".
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        words.push_str(": ");
        words.push_str(&cause.to_string());
        next = cause.source();
    }
    words.chars().filter(|c| !c.is_control()).take(WORDS).collect()
}
