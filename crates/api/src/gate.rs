//! What every request passes: the version prefix, the common headers, the
//! access log, and a last net for handlers that panic.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use sampan_types::ErrorKind;
use tower::ServiceExt;

use crate::error::ApiError;
use crate::version;

/// On every answer. `Api-Version` is what the CLI negotiates with.
pub(crate) const COMMON_HEADERS: [(&str, &str); 4] = [
    ("Api-Version", "1.53"),
    ("Docker-Experimental", "false"),
    ("Ostype", "linux"),
    ("Server", concat!("Sampan/", env!("CARGO_PKG_VERSION"), " (linux)")),
];

/// Answers one request.
pub(crate) async fn pass(router: Router, mut request: Request<Body>) -> Response {
    let begun = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let mut response = match enter(&mut request) {
        Ok(()) => AssertUnwindSafe(router.oneshot(request))
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Ok(panicked(&path)))
            .unwrap_or_else(|never| match never {}),
        Err(e) => e.into_response(),
    };
    if is_plain_error(&response) {
        response = as_json(response).await;
    }
    for (name, value) in COMMON_HEADERS {
        response.headers_mut().insert(
            http::HeaderName::from_bytes(name.as_bytes()).unwrap_or(header::SERVER),
            HeaderValue::from_static(value),
        );
    }
    tracing::debug!(%method, path, status = response.status().as_u16(),
        ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX), "request");
    response
}

/// Whether axum refused the request in its own words, as a path that is not
/// UTF-8.
fn is_plain_error(response: &Response) -> bool {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|k| k.to_str().ok());
    (status.is_client_error() || status.is_server_error())
        && kind.is_some_and(|k| k.starts_with("text/plain"))
}

async fn as_json(response: Response) -> Response {
    let status = response.status();
    let text = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap_or_default();
    ApiError { status, message: String::from_utf8_lossy(&text).into_owned() }.into_response()
}

/// Strips the version prefix and remembers the version beside the request.
fn enter(request: &mut Request<Body>) -> Result<(), ApiError> {
    let uri = request.uri();
    let (version, rest) =
        version::split(uri.path()).map_err(|e| ApiError::invalid(e.to_string()))?;
    if rest.len() != uri.path().len() {
        let path_and_query = match uri.query() {
            Some(query) => format!("{rest}?{query}"),
            None => rest.to_owned(),
        };
        let path_and_query: PathAndQuery = path_and_query
            .parse()
            .map_err(|e| ApiError::invalid(format!("invalid path {rest:?}: {e}")))?;
        *request.uri_mut() = Uri::from(path_and_query);
    }
    request.extensions_mut().insert(version);
    Ok(())
}

fn panicked(path: &str) -> Response {
    tracing::error!(path, "a handler panicked");
    ApiError::new(ErrorKind::System, "the request failed by a fault of the engine").into_response()
}

/// The answer to paths that do not exist.
pub(crate) async fn not_found() -> ApiError {
    ApiError::new(ErrorKind::NotFound, "page not found")
}

/// The answer to paths that exist, but not with this method.
pub(crate) async fn method_not_allowed() -> ApiError {
    ApiError { status: StatusCode::METHOD_NOT_ALLOWED, message: "method not allowed".into() }
}
