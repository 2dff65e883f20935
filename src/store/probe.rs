//! Trying out a store: each operation that regrow needs of it, once.

use std::path::Path as FilePath;

use bytes::Bytes;
use futures::StreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::{Opened, display, open, over};
use crate::error::{Error, ErrorKind, Result};

/// Clocks further apart make stores refuse requests (a quarter of an hour), and blur which of two snapshots is newer.
const CLOCK_SECONDS: i64 = 60;
/// Objects that a listing is followed for.
const LISTED: usize = 1000;

/// One operation that was tried.
#[derive(Debug)]
pub struct Probe {
    /// `list`, `write`, `create`, `read`, `delete` or `clock`.
    pub operation: &'static str,
    /// What was found, or what is wrong and what to do.
    pub found: Result<String>,
}

/// Tries a store. With `id` it is written to as well: one object `doctor/<id>` below the place, which is removed again.
/// Ends at the first operation without which the next ones make no sense.
pub async fn probe(url: &str, base: &FilePath, options: &[(String, String)], id: Option<uuid::Uuid>) -> Vec<Probe> {
    let mut probes = Vec::new();
    let opened = open(url, base, options).and_then(|opened| Ok((over(&opened, url)?, opened)));
    let (store, remote, directory) = match opened {
        Ok((store, Opened::Remote(remote))) => (store, Some(remote), None),
        Ok((store, Opened::Directory(directory))) => (store, None, Some(directory)),
        Err(e) => return vec![Probe { operation: "open", found: Err(e) }],
    };
    let at = |e: object_store::Error| Error::from(e).with("url", display(url));
    let mut listed = store.list(None).take(LISTED);
    let mut count = 0;
    let failed = loop {
        match listed.next().await {
            Some(Ok(_)) => count += 1,
            Some(Err(e)) => break Some(at(e)),
            None => break None,
        }
    };
    let stop = failed.as_ref().is_some_and(|e| e.kind() != ErrorKind::Denied);
    let count = if count == LISTED { format!("{LISTED} objects or more") } else { format!("{count} objects") };
    probes.push(Probe { operation: "list", found: failed.map_or(Ok(count), Err) });
    if !stop && let Some(id) = id {
        write(store.as_ref(), &Path::from(format!("doctor/{id}")), &at, &mut probes).await;
        if let Some(directory) = directory {
            // Object stores have no folders; one that is not empty stays.
            drop(std::fs::remove_dir(directory.join("doctor")));
        }
    }
    if let Some(ahead) = remote.and_then(|r| r.clock_ahead()) {
        let found = if ahead.abs() > CLOCK_SECONDS {
            Err(Error::new(ErrorKind::Configuration, "this machine's clock and the store's are apart")
                .with("store ahead by seconds", ahead)
                .guidance("set this machine's clock (NTP): stores refuse requests that are a quarter of an hour off"))
        } else {
            Ok(format!("{} s apart from this machine's", ahead.abs()))
        };
        probes.push(Probe { operation: "clock", found });
    }
    probes
}

async fn write(
    store: &dyn ObjectStore,
    location: &Path,
    at: &dyn Fn(object_store::Error) -> Error,
    probes: &mut Vec<Probe>,
) {
    let (first, second) = (Bytes::from_static(b"regrow doctor\n"), Bytes::from_static(b"regrow doctor, again\n"));
    let put = async |bytes: &Bytes| {
        let options = PutOptions { mode: PutMode::Create, ..Default::default() };
        store.put_opts(location, bytes.clone().into(), options).await
    };
    let written = put(&first).await;
    let stop = written.is_err();
    probes.push(Probe { operation: "write", found: written.map(|_| location.to_string()).map_err(at) });
    if stop {
        return;
    }
    let twice = match put(&second).await {
        Ok(_) => Err(ignores_conditions()),
        Err(object_store::Error::AlreadyExists { .. }) => {
            Ok("a second writer of the same object is refused".to_owned())
        }
        Err(e) => Err(at(e)),
    };
    let expected = if twice.is_ok() { first } else { second };
    probes.push(Probe { operation: "create", found: twice });
    let read = async { store.get(location).await?.bytes().await };
    let read = match read.await {
        Ok(bytes) if bytes == expected => Ok(format!("{} bytes, as they were written", bytes.len())),
        Ok(_) => Err(Error::new(ErrorKind::Damaged, "the store gives back other bytes than were written")
            .guidance("use another store: what lies between it and this machine may also be at fault")),
        Err(e) => Err(at(e)),
    };
    probes.push(Probe { operation: "read", found: read });
    let deleted = match store.delete(location).await {
        Ok(()) => match store.head(location).await {
            Err(object_store::Error::NotFound { .. }) => Ok("the object is gone".to_owned()),
            Ok(_) => Err(Error::new(ErrorKind::Storage, "a deleted object is still there")
                .guidance("the store may keep answers for a while: put no cache before a repository")),
            Err(e) => Err(at(e)),
        },
        Err(e) => Err(at(e)),
    };
    probes.push(Probe { operation: "delete", found: deleted });
}

/// A store that replaces objects although it was told not to: snapshots of two runs could destroy one another.
pub(crate) fn ignores_conditions() -> Error {
    Error::new(ErrorKind::Configuration, "the store ignores conditional writes, so a repository is not safe in it")
        .guidance("use a store that honours If-None-Match: a newer version of it may; Amazon S3, MinIO, Cloudflare R2, Ceph, Azure and Google do")
}
