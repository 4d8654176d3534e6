//! The daemon itself: ping, version, info, disk usage; and credentials.

use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json as Out, Router};
use http::{HeaderName, HeaderValue, StatusCode, header};
use sampan_image::registry::AuthConfig;

use super::{Answer, Api};
use crate::body::Json;
use crate::error::ApiError;
use crate::query::Query;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/_ping", get(ping))
        .route("/version", get(version))
        .route("/info", get(info))
        .route("/system/df", get(disk_usage))
        .route("/auth", post(auth))
}

async fn ping(State(api): State<Api>) -> Answer {
    let mut response = (
        [
            (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
            (header::CACHE_CONTROL, "no-cache, no-store, must-revalidate"),
            (header::PRAGMA, "no-cache"),
        ],
        "OK",
    )
        .into_response();
    for (name, value) in api.engine.ping_headers() {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&value)) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

async fn version(State(api): State<Api>) -> Answer {
    Ok(Out(api.engine.version()).into_response())
}

async fn info(State(api): State<Api>) -> Answer {
    Ok(Out(api.engine.system_info().await).into_response())
}

async fn disk_usage(State(api): State<Api>, query: Query) -> Answer {
    Ok(Out(api.engine.system_df(&query.all("type")).await?).into_response())
}

/// Checks credentials with their registry. Nothing of them is kept.
async fn auth(State(api): State<Api>, Json(body): Json<AuthConfig>) -> Answer {
    let credentials =
        body.ok_or_else(|| ApiError::invalid("invalid JSON: got EOF while reading request body"))?;
    let answer = api.engine.registry_auth(credentials).await?;
    Ok((StatusCode::OK, Out(answer)).into_response())
}
