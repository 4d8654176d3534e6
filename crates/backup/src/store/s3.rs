//! A repository in a bucket of an S3-compatible storage.
//!
//! Be aware:
//! - Requests go through the HTTP client that the whole program uses (one TLS
//!   provider); what fails for a moment is tried again.
//! - The calls block on the runtime: they are made on threads of their own.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use opendal::layers::RetryLayer;
use opendal::options::ListOptions;
use opendal::services;
use opendal::{Buffer, ErrorKind, HttpBody, HttpTransport, OperationContext, Operator};
use tokio::runtime::Handle;

use super::{Store, Stored, http_client};
use crate::{BackupError, S3Keys};

/// How long the first try after a failure waits; further ones double it.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// How often a request is made that fails for reasons that may pass.
const TRIES: usize = 7;

/// The bucket.
pub(crate) struct S3 {
    location: String,
    operator: Operator,
    runtime: Handle,
}

impl S3 {
    pub(crate) fn open(
        location: String,
        endpoint: Option<&str>,
        bucket: &str,
        prefix: &str,
        keys: Option<&S3Keys>,
        runtime: Handle,
    ) -> Result<Self, BackupError> {
        let refuse = |reason: String| BackupError::Storage {
            location: location.clone(),
            operation: "open",
            object: "the bucket".to_owned(),
            reason,
            absent: false,
        };
        let Some(keys) = keys else {
            return Err(refuse("no keys for it are given; name a file that holds them".to_owned()));
        };
        let mut builder = services::S3::default()
            .bucket(bucket)
            .root(&format!("/{prefix}"))
            .region(keys.region.as_deref().unwrap_or("us-east-1"))
            .access_key_id(&keys.access_key_id)
            .secret_access_key(&keys.secret_access_key)
            .disable_config_load()
            .disable_ec2_metadata();
        if let Some(token) = &keys.session_token {
            builder = builder.session_token(token);
        }
        if let Some(endpoint) = endpoint {
            builder = builder.endpoint(endpoint);
        }
        let client = http_client::new(None).map_err(refuse)?;
        let context = OperationContext::new()
            .with_http_transport(opendal::HttpTransporter::new(Transport { client }));
        let operator =
            Operator::new(builder).map_err(|e| refuse(e.to_string()))?.with_context(context).layer(
                RetryLayer::new().with_min_delay(FIRST_WAIT).with_max_times(TRIES).with_jitter(),
            );
        Ok(Self { location, operator, runtime })
    }

    fn error<'a>(
        &'a self,
        operation: &'static str,
        object: &'a str,
    ) -> impl FnOnce(opendal::Error) -> BackupError + 'a {
        move |error| BackupError::Storage {
            location: self.location.clone(),
            operation,
            object: object.to_owned(),
            reason: error.to_string(),
            absent: error.kind() == ErrorKind::NotFound,
        }
    }
}

impl Store for S3 {
    fn location(&self) -> &str {
        &self.location
    }

    fn create(&self) -> Result<(), BackupError> {
        Ok(())
    }

    fn list(&self, dir: &str) -> Result<Vec<Stored>, BackupError> {
        let path = format!("{dir}/");
        let options = ListOptions { recursive: true, ..ListOptions::default() };
        let entries = self
            .runtime
            .block_on(self.operator.list_options(&path, options))
            .map_err(self.error("list", dir))?;
        let files = entries.into_iter().filter(|e| e.metadata().is_file());
        Ok(files
            .map(|entry| Stored {
                name: entry.name().to_owned(),
                size: entry.metadata().content_length(),
                modified: entry.metadata().last_modified().map(|at| at.into_inner().as_second()),
            })
            .collect())
    }

    fn size(&self, path: &str) -> Result<Option<u64>, BackupError> {
        match self.runtime.block_on(self.operator.stat(path)) {
            Ok(metadata) => Ok(Some(metadata.content_length())),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.error("look at", path)(e)),
        }
    }

    fn read(&self, path: &str) -> Result<Bytes, BackupError> {
        let read = self.runtime.block_on(self.operator.read(path));
        read.map(|b| b.to_bytes()).map_err(self.error("read", path))
    }

    fn read_range(&self, path: &str, offset: u64, length: u64) -> Result<Bytes, BackupError> {
        let read = async {
            self.operator.read_with(path).range(offset..offset.saturating_add(length)).await
        };
        let read = self.runtime.block_on(read).map_err(self.error("read", path))?.to_bytes();
        if read.len() as u64 == length {
            return Ok(read);
        }
        Err(BackupError::Storage {
            location: self.location.clone(),
            operation: "read",
            object: path.to_owned(),
            reason: format!("it ends before byte {}", offset.saturating_add(length)),
            absent: false,
        })
    }

    fn write(&self, path: &str, content: &[Bytes]) -> Result<(), BackupError> {
        let content = Buffer::from(content.to_vec());
        let written = self.runtime.block_on(self.operator.write(path, content));
        written.map(drop).map_err(self.error("write", path))
    }

    fn remove(&self, path: &str) -> Result<(), BackupError> {
        self.runtime.block_on(self.operator.delete(path)).map_err(self.error("remove", path))
    }

    fn clear_leftovers(&self) -> Result<(), BackupError> {
        // An object appears whole or not at all.
        Ok(())
    }

    fn is_remote(&self) -> bool {
        true
    }
}

/// Sends the requests.
struct Transport {
    client: reqwest::Client,
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let (parts, body) = request.into_parts();
        let uri = parts.uri.to_string();
        let response = self
            .client
            .request(parts.method, &uri)
            .headers(parts.headers)
            .body(body.to_bytes())
            .send()
            .await
            .map_err(|e| passing("no answer", &e))?;
        let mut answer = Response::builder().status(response.status());
        if let Some(headers) = answer.headers_mut() {
            *headers = response.headers().clone();
        }
        let bytes = response.bytes().await.map_err(|e| passing("the answer broke off", &e))?;
        let size = bytes.len() as u64;
        let body = stream::iter([Ok(Buffer::from(bytes))]);
        answer
            .body(HttpBody::new(body, Some(size)))
            .map_err(|e| opendal::Error::new(ErrorKind::Unexpected, e.to_string()))
    }
}

/// An error that may be gone at the next try.
fn passing(what: &str, error: &reqwest::Error) -> opendal::Error {
    let text = format!("{what}: {}", http_client::told(error));
    opendal::Error::new(ErrorKind::Unexpected, text).set_temporary()
}
