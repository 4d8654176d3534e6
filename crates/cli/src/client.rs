//! The daemon's API: typed calls through bollard, and raw requests for what
//! bollard's types would lose (rows, streams, upgraded connections).

use std::time::Duration;

use anyhow::{Context, Result};
use bollard::{BollardRequest, ClientVersion, Docker};
use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncRead, BufReader};
use tokio_util::io::{ReaderStream, StreamReader};

use crate::connect::Endpoint;
use crate::failure::DaemonError;
use crate::query::Query;

/// The newest version of the API that this command was made for.
const NEWEST: (usize, usize) = (1, 53);
/// bollard limits every request; nothing here may be cut off while it works.
const NO_LIMIT: u64 = Duration::from_secs(10 * 365 * 86_400).as_secs();

/// The body of a request.
pub type Payload = UnsyncBoxBody<Bytes, std::io::Error>;

/// A connection that was taken over from HTTP.
pub type Stream = TokioIo<Upgraded>;

/// The daemon.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: Endpoint,
    docker: Docker,
    version: (usize, usize),
    debug: bool,
}

impl Client {
    /// Finds out which version of the API the daemon speaks.
    ///
    /// # Errors
    /// When it can't be reached.
    pub async fn connect(endpoint: Endpoint, debug: bool) -> Result<Self> {
        let ping = Request::head("/_ping").body(nothing())?;
        let answer = endpoint.send(ping).await?;
        let spoken = answer.headers().get("api-version").and_then(|v| v.to_str().ok());
        let wanted = std::env::var("DOCKER_API_VERSION").ok().and_then(|v| version(&v));
        let version = match (wanted, spoken.and_then(version)) {
            (Some(wanted), _) => wanted,
            (None, Some(spoken)) => spoken.min(NEWEST),
            (None, None) => NEWEST,
        };
        let docker = typed(endpoint.clone(), version)?;
        Ok(Self { endpoint, docker, version, debug })
    }

    /// The typed calls.
    #[must_use]
    pub fn docker(&self) -> &Docker {
        &self.docker
    }

    /// The version of the API in use.
    #[must_use]
    pub fn version(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    /// Sends any request; an answer that isn't a success becomes an error.
    ///
    /// # Errors
    /// [`DaemonError`], or what went wrong with the connection.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        query: &Query,
        headers: HeaderMap,
        body: Payload,
    ) -> Result<Response<Incoming>> {
        let uri = format!("/v{}{path}{}", self.version(), query.text());
        let mut request = Request::builder().method(method.clone()).uri(&uri).body(body)?;
        request.headers_mut().extend(headers);
        let agent = concat!("sampan/", env!("CARGO_PKG_VERSION"));
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(agent));
        let answer = self.endpoint.send(request).await?;
        if self.debug {
            eprintln!("debug: {method} {uri}: {}", answer.status());
        }
        let status = answer.status();
        if status.is_success() || status.is_informational() || status.as_u16() == 304 {
            return Ok(answer);
        }
        Err(refusal(status.as_u16(), answer).await.into())
    }

    /// Gets JSON.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn get(&self, path: &str, query: &Query) -> Result<Value> {
        let text = self.get_raw(path, query).await?;
        serde_json::from_slice(&text).with_context(|| format!("read the answer of GET {path}"))
    }

    /// Gets the bytes of an answer.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn get_raw(&self, path: &str, query: &Query) -> Result<Bytes> {
        let answer = self.send(Method::GET, path, query, HeaderMap::new(), nothing()).await?;
        Ok(answer.into_body().collect().await?.to_bytes())
    }

    /// Gets a stream of bytes.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn get_stream(&self, path: &str, query: &Query) -> Result<impl AsyncBufRead + use<>> {
        let answer = self.send(Method::GET, path, query, HeaderMap::new(), nothing()).await?;
        Ok(reader(answer))
    }

    /// Posts JSON (or nothing) and gets JSON (or null).
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn post(&self, path: &str, query: &Query, body: Option<&Value>) -> Result<Value> {
        let (headers, payload) = json(body);
        let answer = self.send(Method::POST, path, query, headers, payload).await?;
        let text = answer.into_body().collect().await?.to_bytes();
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&text).with_context(|| format!("read the answer of POST {path}"))
    }

    /// Posts JSON and takes the connection over.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn hijack(&self, path: &str, query: &Query, body: Option<&Value>) -> Result<Stream> {
        let (mut headers, payload) = json(body);
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
        let answer = self.send(Method::POST, path, query, headers, payload).await?;
        let upgraded = hyper::upgrade::on(answer).await;
        Ok(TokioIo::new(upgraded.with_context(|| format!("take the connection of {path} over"))?))
    }
}

fn version(text: &str) -> Option<(usize, usize)> {
    let (major, minor) = text.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn typed(endpoint: Endpoint, (major, minor): (usize, usize)) -> Result<Docker> {
    let transport = move |request: BollardRequest| {
        let endpoint = endpoint.clone();
        async move {
            endpoint.send(request).await.map_err(|e| bollard::errors::Error::IOError {
                err: std::io::Error::other(format!("{e:#}")),
            })
        }
    };
    let version = ClientVersion { major_version: major, minor_version: minor };
    let docker =
        Docker::connect_with_custom_transport(transport, Some("http://sampan"), NO_LIMIT, &version);
    docker.context("set up the API's client")
}

/// The daemon's message; a body that isn't JSON is the message itself.
async fn refusal(status: u16, answer: Response<Incoming>) -> DaemonError {
    let body = answer.into_body().collect().await.map(http_body_util::Collected::to_bytes);
    let text = String::from_utf8_lossy(&body.unwrap_or_default()).trim().to_owned();
    let parsed: Option<Value> = serde_json::from_str(&text).ok();
    let message = parsed.as_ref().and_then(|v| v["message"].as_str()).map_or(text, str::to_owned);
    let message = if message.is_empty() { format!("HTTP status {status}") } else { message };
    DaemonError { status, message: message.trim_end().to_owned() }
}

/// The error of a typed call in the words of the raw ones.
pub fn plain(error: bollard::errors::Error) -> anyhow::Error {
    use bollard::errors::Error;
    match error {
        Error::DockerResponseServerError { status_code, message } => {
            DaemonError { status: status_code, message: message.trim_end().to_owned() }.into()
        }
        Error::DockerStreamError { error } => anyhow::anyhow!(error),
        Error::IOError { err } => err.into(),
        other => other.into(),
    }
}

/// An empty body.
pub fn nothing() -> Payload {
    full(Bytes::new())
}

/// A body that is at hand.
pub fn full(bytes: Bytes) -> Payload {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A body that is read while it is sent.
pub fn streamed(input: impl AsyncRead + Send + 'static) -> Payload {
    let frames = ReaderStream::with_capacity(input, 64 * 1024).map_ok(Frame::data);
    StreamBody::new(frames).boxed_unsync()
}

/// The body of an answer, to be read piece by piece.
pub fn reader(answer: Response<Incoming>) -> impl AsyncBufRead + Send + Unpin {
    let pieces = BodyStream::new(answer.into_body())
        .try_filter_map(|frame| async { Ok(frame.into_data().ok()) })
        .map_err(std::io::Error::other);
    BufReader::with_capacity(64 * 1024, StreamReader::new(Box::pin(pieces)))
}

fn json(body: Option<&Value>) -> (HeaderMap, Payload) {
    let Some(body) = body else { return (HeaderMap::new(), nothing()) };
    let json = HeaderValue::from_static("application/json");
    (headers(header::CONTENT_TYPE, json), full(Bytes::from(body.to_string())))
}

/// One header.
pub fn headers(name: HeaderName, value: HeaderValue) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(name, value);
    headers
}
