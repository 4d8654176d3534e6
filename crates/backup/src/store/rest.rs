//! A repository at a server of restic's REST protocol: another Sampan, which
//! keeps it in a volume, or restic's own server.
//!
//! Be aware: what fails for a moment is tried again; every request may be
//! repeated, since files are named after their content.
//!
//! Source: restic's documentation, "REST Backend", version 2 of its API.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Method, StatusCode, header};
use reqwest::{Body, Client, Response};
use serde::Deserialize;
use tokio::runtime::Handle;

use super::{Store, Stored, http_client};
use crate::BackupError;

/// The version of the protocol, in which lists have sizes.
const V2: &str = "application/vnd.x.restic.rest.v2";

/// How often a request is made that fails for reasons that may pass.
const TRIES: u32 = 6;

/// How long the first try after a failure waits; further ones double it.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// The server.
pub(super) struct Rest {
    location: String,
    url: String,
    client: Client,
    runtime: Handle,
}

/// A file in a list.
#[derive(Deserialize)]
struct Listed {
    name: String,
    size: u64,
}

/// Why there is no answer that can be used.
struct Failure {
    reason: String,
    absent: bool,
    /// Whether another try may help.
    passing: bool,
}

impl Rest {
    pub(super) fn open(
        location: String,
        url: &str,
        certificates: Option<&Path>,
        runtime: Handle,
    ) -> Result<Self, BackupError> {
        let client = http_client::new(certificates).map_err(|reason| BackupError::Storage {
            location: location.clone(),
            operation: "open",
            object: "the server".to_owned(),
            reason,
            absent: false,
        })?;
        Ok(Self { location, url: url.to_owned(), client, runtime })
    }

    fn error<'a>(
        &'a self,
        operation: &'static str,
        object: &'a str,
    ) -> impl FnOnce(Failure) -> BackupError + 'a {
        move |failure| BackupError::Storage {
            location: self.location.clone(),
            operation,
            object: object.to_owned(),
            reason: failure.reason,
            absent: failure.absent,
        }
    }

    /// Sends a request until it is answered, and takes what it needs of the
    /// answer.
    fn ask<T, F: Future<Output = reqwest::Result<T>>>(
        &self,
        method: &Method,
        path: &str,
        headers: &[(header::HeaderName, String)],
        content: &[Bytes],
        mut take: impl FnMut(Response) -> F,
    ) -> Result<T, Failure> {
        let url = format!("{}/{path}", self.url);
        let length: usize = content.iter().map(Bytes::len).sum();
        let once = async || {
            let mut request = self.client.request(method.clone(), &url).header(header::ACCEPT, V2);
            for (name, value) in headers {
                request = request.header(name, value);
            }
            if *method == Method::POST {
                let parts: Vec<_> = content.iter().cloned().map(Ok::<_, std::io::Error>).collect();
                let body = Body::wrap_stream(stream::iter(parts));
                request = request.header(header::CONTENT_LENGTH, length).body(body);
            }
            let answer = request.send().await.map_err(|e| broken("no answer", &e))?;
            let status = answer.status();
            if !status.is_success() {
                return Err(refused(status, answer).await);
            }
            take(answer).await.map_err(|e| broken("the answer broke off", &e))
        };
        self.runtime.block_on(async {
            let mut once = once;
            let mut wait = FIRST_WAIT;
            for _ in 1..TRIES {
                match once().await {
                    Err(failure) if failure.passing => tokio::time::sleep(wait).await,
                    done => return done,
                }
                wait *= 2;
            }
            once().await
        })
    }

    fn get(&self, path: &str, range: Option<(u64, u64)>) -> Result<Bytes, Failure> {
        let range = range.map(|(from, to)| (header::RANGE, format!("bytes={from}-{to}")));
        self.ask(&Method::GET, path, range.as_slice(), &[], Response::bytes)
    }
}

fn broken(what: &str, error: &reqwest::Error) -> Failure {
    let told = http_client::told(error);
    if http_client::is_refused_by_tls(error) {
        let reason = format!("{told}: check the directory with the certificates");
        return Failure { reason, absent: false, passing: false };
    }
    // What the client can't even send will not be sent later.
    Failure { reason: format!("{what}: {told}"), absent: false, passing: !error.is_builder() }
}

async fn refused(status: StatusCode, answer: Response) -> Failure {
    let text = answer.text().await.unwrap_or_default();
    // What Docker's API says, or a line of text.
    let message = serde_json::from_str::<serde_json::Value>(&text);
    let message = message.ok().and_then(|m| m["message"].as_str().map(str::to_owned));
    let line = message.unwrap_or_else(|| text.lines().next().unwrap_or_default().to_owned());
    let passing = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    let reason = if line.is_empty() { status.to_string() } else { format!("{status}: {line}") };
    Failure { reason, absent: status == StatusCode::NOT_FOUND, passing }
}

/// The protocol names data files without the directory that they are in.
fn flat(path: &str) -> String {
    match path.strip_prefix("data/").and_then(|rest| rest.split_once('/')) {
        Some((_, name)) => format!("data/{name}"),
        None => path.to_owned(),
    }
}

impl Store for Rest {
    fn location(&self) -> &str {
        &self.location
    }

    fn create(&self) -> Result<(), BackupError> {
        let done = async |_| Ok(());
        self.ask(&Method::POST, "?create=true", &[], &[], done)
            .map_err(self.error("make", "the repository"))
    }

    fn list(&self, dir: &str) -> Result<Vec<Stored>, BackupError> {
        let text = match self.get(&format!("{dir}/"), None) {
            Err(failure) if failure.absent => return Ok(Vec::new()),
            text => text.map_err(self.error("list", dir))?,
        };
        let list: Vec<Listed> = serde_json::from_slice(&text)
            .map_err(|e| Failure {
                reason: format!("the answer is no list: {e}"),
                absent: false,
                passing: false,
            })
            .map_err(self.error("list", dir))?;
        let stored = |file: Listed| Stored { name: file.name, size: file.size, modified: None };
        Ok(list.into_iter().map(stored).collect())
    }

    fn size(&self, path: &str) -> Result<Option<u64>, BackupError> {
        let length = async |answer: Response| {
            let length = answer.headers().get(header::CONTENT_LENGTH);
            Ok(length.and_then(|l| l.to_str().ok()).and_then(|l| l.parse().ok()).unwrap_or(0))
        };
        match self.ask(&Method::HEAD, &flat(path), &[], &[], length) {
            Ok(length) => Ok(Some(length)),
            Err(failure) if failure.absent => Ok(None),
            Err(failure) => Err(self.error("look at", path)(failure)),
        }
    }

    fn read(&self, path: &str) -> Result<Bytes, BackupError> {
        self.get(&flat(path), None).map_err(self.error("read", path))
    }

    fn read_range(&self, path: &str, offset: u64, length: u64) -> Result<Bytes, BackupError> {
        let last = offset.saturating_add(length.saturating_sub(1));
        if length == 0 {
            return Ok(Bytes::new());
        }
        let read = self.get(&flat(path), Some((offset, last))).and_then(|read| {
            if read.len() as u64 == length {
                return Ok(read);
            }
            let reason = format!("it ends before byte {}", offset.saturating_add(length));
            Err(Failure { reason, absent: false, passing: false })
        });
        read.map_err(self.error("read", path))
    }

    fn write(&self, path: &str, content: &[Bytes]) -> Result<(), BackupError> {
        let done = async |_| Ok(());
        self.ask(&Method::POST, &flat(path), &[], content, done).map_err(self.error("write", path))
    }

    fn remove(&self, path: &str) -> Result<(), BackupError> {
        let done = async |_| Ok(());
        match self.ask(&Method::DELETE, &flat(path), &[], &[], done) {
            Err(failure) if !failure.absent => Err(self.error("remove", path)(failure)),
            _ => Ok(()),
        }
    }

    fn clear_leftovers(&self) -> Result<(), BackupError> {
        // A file appears whole or not at all; what else there is, is the
        // server's.
        Ok(())
    }

    fn is_remote(&self) -> bool {
        true
    }
}
