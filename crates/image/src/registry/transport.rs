//! HTTP as registries need it: one client for each host, redirects by hand,
//! bounded answers, and errors without secrets.
//!
//! Be aware:
//! - `Authorization` goes to the host that it was made for and no further: a
//!   redirect to storage elsewhere is followed without it.
//! - A redirect never leads from HTTPS to plain HTTP, but to a host that is
//!   listed as insecure.
//! - Loopback is never reached through a proxy of the environment.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION};
use http::{Method, StatusCode};
use reqwest::{Client, Response, Url};
use serde::Deserialize;

use super::config::{RegistryConfig, host_name};
use super::dns::{self, SystemDns};
use super::error::{Code, RegistryError, StatusError};
use super::tls;

/// How long a connection may take to come about, TLS included.
const CONNECT: Duration = Duration::from_secs(30);
/// How long a registry may be silent.
pub(super) const SILENCE: Duration = Duration::from_secs(60);
/// How long idle connections are kept.
const IDLE: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 10;
const MAX_ERROR_BODY: u64 = 64 << 10;
const MAX_ERROR_TEXT: usize = 1000;

/// The body of a request. It can be made again after a redirect.
#[derive(Clone)]
pub(super) enum Body {
    /// None.
    Empty,
    /// These bytes.
    Bytes(Bytes),
    /// So many bytes from a stream that is opened for every attempt. Its user
    /// watches whether it moves: there is no time limit on the answer.
    Stream(u64, Arc<dyn Fn() -> reqwest::Body + Send + Sync>),
}

/// A request to a registry.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

impl Request {
    pub(super) fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: Body::Empty }
    }

    pub(super) fn header(mut self, name: http::HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.append(name, value);
        }
        self
    }

    pub(super) fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }
}

/// The HTTP clients of this engine.
pub(super) struct Transport {
    pub(super) config: RegistryConfig,
    /// By host and whether its certificate is verified. Locked for look-ups only.
    clients: Mutex<HashMap<(String, bool), Client>>,
}

impl Transport {
    pub(super) fn new(config: RegistryConfig) -> Self {
        Self { config, clients: Mutex::default() }
    }

    /// Whether plain HTTP and unverified TLS are allowed towards `host`.
    pub(super) async fn is_insecure(&self, host: &str) -> bool {
        let insecure = &self.config.insecure;
        if insecure.lists(host) {
            return true;
        }
        if insecure.networks.is_empty() {
            return false;
        }
        dns::lookup(host_name(host))
            .await
            .is_ok_and(|addresses| addresses.into_iter().any(|a| insecure.covers(a)))
    }

    /// Whether the registry at `base` speaks HTTP; its answer doesn't matter.
    pub(super) async fn reach(&self, base: &Url) -> Result<(), RegistryError> {
        let mut url = base.clone();
        url.set_path("/v2/");
        let request = Request::new(Method::GET, url.clone());
        self.once(&request, &url, None).await.map(drop)
    }

    /// Sends a request and follows redirects. Any status is a success here.
    pub(super) async fn send(
        &self,
        request: &Request,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, RegistryError> {
        let mut authorization = authorization;
        let mut url = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.once(request, &url, authorization).await?;
            let (method, status) = (&request.method, response.status().as_u16());
            tracing::debug!(%method, url = %display_url(&url), status, "registry answered");
            let Some(target) = redirect_target(&request.method, &response) else {
                return Ok(response);
            };
            let target = url
                .join(&target)
                .map_err(|_| self.unsafe_target(request, &target, "it is not an address"))?;
            self.check_target(request, &url, &target).await?;
            if target.origin() != url.origin() {
                authorization = None;
            }
            url = target;
        }
        Err(self.unsafe_target(request, &display_url(&url), "too many redirects"))
    }

    pub(super) async fn check_target(
        &self,
        request: &Request,
        from: &Url,
        target: &Url,
    ) -> Result<(), RegistryError> {
        let refuse = |reason| Err(self.unsafe_target(request, &display_url(target), reason));
        match target.scheme() {
            "https" => {}
            "http" if from.scheme() == "http" || self.is_insecure(&host_of(target)).await => {}
            "http" => return refuse("it leads from HTTPS to plain HTTP"),
            _ => return refuse("it is neither HTTP nor HTTPS"),
        }
        if target.username().is_empty() && target.password().is_none() {
            Ok(())
        } else {
            refuse("it holds credentials")
        }
    }

    #[expect(clippy::unused_self, reason = "reads as a sentence where it is used")]
    fn unsafe_target(
        &self,
        request: &Request,
        target: &str,
        reason: &'static str,
    ) -> RegistryError {
        RegistryError::UnsafeRedirect {
            method: request.method.to_string(),
            url: display_url(&request.url),
            target: printable(target),
            reason,
        }
    }

    async fn once(
        &self,
        request: &Request,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, RegistryError> {
        let client = self.client(url).await?;
        let mut builder =
            client.request(request.method.clone(), url.clone()).headers(request.headers.clone());
        if let Some(value) = authorization {
            builder = builder.header(AUTHORIZATION, value.clone());
        }
        let fail = |e: reqwest::Error| self.transport_error(&request.method, url, &e);
        match &request.body {
            Body::Stream(length, open) => {
                builder = builder.header(CONTENT_LENGTH, *length).body(open());
                return builder.send().await.map_err(fail);
            }
            Body::Bytes(bytes) => builder = builder.body(bytes.clone()),
            Body::Empty if request.method == Method::POST || request.method == Method::PUT => {
                builder = builder.header(CONTENT_LENGTH, 0);
            }
            Body::Empty => {}
        }
        match tokio::time::timeout(SILENCE, builder.send()).await {
            Ok(sent) => sent.map_err(fail),
            Err(_) => Err(silent(&request.method, url)),
        }
    }

    /// The client for the host of `url`.
    async fn client(&self, url: &Url) -> Result<Client, RegistryError> {
        let host = host_of(url);
        let verify = !self.is_insecure(&host).await;
        let key = (host, verify);
        let known = || self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = known().get(&key) {
            return Ok(client.clone());
        }
        let (dir, host) = (self.config.certs_dir.clone(), key.0.clone());
        let tls = tokio::task::spawn_blocking(move || tls::client_config(&dir, &host, verify))
            .await
            .map_err(|_| RegistryError::Interrupted("reading certificates"))??;
        let mut builder = Client::builder()
            .user_agent(concat!("sampan/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(tls)
            .dns_resolver(Arc::new(SystemDns))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .tcp_keepalive(IDLE);
        if is_loopback(&key.0) {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|e| self.transport_error(&Method::GET, url, &e))?;
        known().insert(key, client.clone());
        Ok(client)
    }

    /// What happened, by the innermost cause, without the URL's query.
    fn transport_error(&self, method: &Method, url: &Url, error: &reqwest::Error) -> RegistryError {
        let mut cause = error.source();
        while let Some(inner) = cause.and_then(std::error::Error::source) {
            cause = Some(inner);
        }
        let mut text = cause.map_or_else(|| "request failed".to_owned(), ToString::to_string);
        if text.contains("UnknownIssuer") {
            let path = self.config.certs_dir.join(host_of(url)).join("ca.crt");
            text = format!(
                "tls: failed to verify certificate: signed by unknown authority (its certificate can be \
                 placed at {})",
                path.display()
            );
        }
        RegistryError::Transport {
            method: verb(method),
            url: display_url(url),
            cause: text,
            connected: !error.is_connect(),
        }
    }
}

/// Where a response redirects to, if it does. Requests with a body are sent
/// elsewhere only when the method is to be kept.
fn redirect_target(method: &Method, response: &Response) -> Option<String> {
    let follow = match response.status() {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => {
            method == Method::GET || method == Method::HEAD
        }
        _ => false,
    };
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    follow.then(|| location.to_owned())
}

/// `name[:port]` of a URL, the port only when it isn't the scheme's own.
pub(super) fn host_of(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (host, _) => host.unwrap_or_default().to_owned(),
    }
}

fn is_loopback(host: &str) -> bool {
    let name = host_name(host);
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback())
}

/// The URL as errors and logs show it: queries hold signatures and tokens.
pub(super) fn display_url(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// `GET` as Go's client writes it, "Get".
pub(super) fn verb(method: &Method) -> String {
    let text = method.as_str();
    let (first, rest) = text.split_at(1);
    format!("{first}{}", rest.to_lowercase())
}

fn silent(method: &Method, url: &Url) -> RegistryError {
    RegistryError::Transport {
        method: verb(method),
        url: display_url(url),
        cause: format!("no answer for {} seconds", SILENCE.as_secs()),
        connected: true,
    }
}

/// The next piece of a body, or `None` at its end.
pub(super) async fn next_chunk(
    transport: &Transport,
    response: &mut Response,
) -> Result<Option<Bytes>, RegistryError> {
    match tokio::time::timeout(SILENCE, response.chunk()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(e)) => Err(transport.transport_error(&Method::GET, &response.url().clone(), &e)),
        Err(_) => Err(silent(&Method::GET, response.url())),
    }
}

/// The whole body, if it has no more than `limit` bytes.
pub(super) async fn read_limited(
    transport: &Transport,
    mut response: Response,
    what: &str,
    limit: u64,
) -> Result<Bytes, RegistryError> {
    let too_large = || RegistryError::TooLarge { what: what.into(), limit };
    if response.content_length().is_some_and(|n| n > limit) {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = next_chunk(transport, &mut response).await? {
        if (body.len() + chunk.len()) as u64 > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Turns an answer with an unexpected status into its error.
pub(super) async fn status_error(
    transport: &Transport,
    method: &Method,
    response: Response,
    challenge: Option<Code>,
) -> RegistryError {
    let status = response.status();
    let url = display_url(response.url());
    let body = read_limited(transport, response, "error", MAX_ERROR_BODY).await;
    let mut code = challenge.or_else(|| first_code(&body.unwrap_or_default()));
    if code.is_none() && status == StatusCode::UNAUTHORIZED {
        code =
            Some(Code { code: "UNAUTHORIZED".into(), message: "authentication required".into() });
    }
    let status = status.as_u16();
    RegistryError::Status(Box::new(StatusError { method: verb(method), url, status, code }))
}

/// The first error of an error body: the distribution specification's form,
/// that of OAuth, or that of Docker Hub's token server.
fn first_code(body: &[u8]) -> Option<Code> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Body {
        errors: Vec<Item>,
        error: Option<String>,
        error_description: Option<String>,
        details: Option<String>,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Item {
        code: String,
        message: String,
    }
    let body: Body = serde_json::from_slice(body).ok()?;
    let (code, message) = if let Some(first) = body.errors.into_iter().next() {
        (first.code, first.message)
    } else {
        let message = body.details.or(body.error_description)?;
        (body.error.unwrap_or_else(|| "UNAUTHORIZED".into()), message)
    };
    (!code.is_empty()).then(|| Code { code: printable(&code), message: printable(&message) })
}

/// Text of a registry as it may be shown: no control characters, not endless.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_ERROR_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_secrets() {
        let url = Url::parse("https://u:p@cdn.example/x?X-Signature=abc#f").unwrap();
        assert_eq!(display_url(&url), "https://cdn.example/x");
        assert_eq!(host_of(&Url::parse("http://[::1]:5000/v2/").unwrap()), "[::1]:5000");
        assert_eq!(host_of(&Url::parse("https://a.b:443/").unwrap()), "a.b");
    }

    #[test]
    fn errors_are_read_in_their_three_forms() {
        let read = |text: &str| first_code(text.as_bytes()).map(|c| c.to_string());
        assert_eq!(
            read(
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}}]}"#
            ),
            Some("manifest unknown: manifest unknown".into())
        );
        assert_eq!(
            read(r#"{"details":"incorrect username or password"}"#),
            Some("unauthorized: incorrect username or password".into())
        );
        assert_eq!(
            read(r#"{"error":"invalid_grant","error_description":"a\u0007b"}"#),
            Some("invalid grant: a b".into())
        );
        assert_eq!(read("<html>"), None);
        assert_eq!(read(r#"{"errors":[]}"#), None);
    }
}
