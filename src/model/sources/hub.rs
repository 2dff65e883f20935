//! The Hugging Face hub, or a server with the same addresses.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;

use super::{below, unavailable};
use crate::error::{Error, ErrorKind, Result};
use crate::model::card::{CardFile, ModelCard};
use crate::model::staging::Staging;
use crate::model::store::FetchOptions;

pub(super) async fn fetch(
    repo: &str,
    revision: &str,
    path: &str,
    card: &ModelCard,
    staging: &Arc<Staging>,
    options: &FetchOptions,
) -> Result<()> {
    if options.offline {
        return Err(unavailable("not tried: offline"));
    }
    let client = reqwest::Client::builder()
        .connect_timeout(options.connect_timeout)
        .read_timeout(options.read_timeout)
        .user_agent(concat!("regrow/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot set up an HTTP client").because(e))?;
    for file in &card.files {
        let url = format!(
            "{}/{repo}/resolve/{revision}/{}",
            options.hub_endpoint.trim_end_matches('/'),
            below(path, &file.name)
        );
        let mut attempt = 1;
        loop {
            match download(&client, &url, file, staging, options).await {
                Err(e) if e.retryable() && attempt < options.attempts => {
                    tokio::time::sleep(Duration::from_millis(250 << attempt.min(6))).await;
                    attempt += 1;
                }
                outcome => break outcome?,
            }
        }
    }
    Ok(())
}

async fn download(
    client: &reqwest::Client,
    url: &str,
    file: &CardFile,
    staging: &Staging,
    options: &FetchOptions,
) -> Result<()> {
    let mut request = client.get(url);
    if let Some(token) = &options.hub_token {
        request = request.bearer_auth(token);
    }
    let response = request.send().await.map_err(|e| {
        // A server that cannot be reached at all is not asked again.
        let transient = !e.is_connect();
        let e = unavailable("the hub could not be reached").with("url", url).because(e.without_url());
        if transient { e.transient() } else { e }
    })?;
    let status = response.status();
    if !status.is_success() {
        let e = unavailable(format!("the hub answered {status}")).with("url", url);
        return Err(match status.as_u16() {
            401 | 403 => e.guidance("the model may be gated: accept its licence on the hub and give a token"),
            429 | 500.. => e.transient(),
            _ => e,
        });
    }
    let announced = response.content_length();
    let mut to = staging.begin(file)?;
    let mut body = response.bytes_stream();
    while let Some(bytes) = body.next().await {
        match bytes {
            // Writing into the page cache takes microseconds: not worth a thread.
            Ok(bytes) => to.write(&bytes)?,
            Err(e) if e.is_timeout() => {
                return Err(unavailable(format!("the hub fell silent for {:?}", options.read_timeout))
                    .with("url", url)
                    .because(e.without_url())
                    .transient());
            }
            Err(e) => return Err(cut(url, file, announced, to.bytes()).because(e.without_url())),
        }
    }
    if announced.is_some_and(|n| to.bytes() < n) {
        return Err(cut(url, file, announced, to.bytes()));
    }
    to.finish()
}

/// The connection ended before the file did.
fn cut(url: &str, file: &CardFile, announced: Option<u64>, found: u64) -> Error {
    let expected = file.bytes.or(announced).map_or_else(|| "more".to_owned(), |n| format!("{n} bytes"));
    Error::new(ErrorKind::ModelMismatch, "a file of the model is truncated")
        .with("file", &file.name)
        .with("expected", expected)
        .with("found", format!("{found} bytes"))
        .with("url", url)
        .guidance("run the same command again; a proxy or a full disk on the way may cut downloads")
        .transient()
}
