//! Networks.

use axum::extract::{Path, State};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json as Out, Router};
use http::StatusCode;
use sampan_types::docker::{NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest};

use super::{Answer, Api, filters, run};
use crate::body::Json;
use crate::error::ApiError;
use crate::query::Query;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/networks", get(list))
        .route("/networks/", get(list))
        .route("/networks/create", post(create))
        .route("/networks/prune", post(prune))
        .route("/networks/{name}", get(inspect).delete(remove))
        .route("/networks/{name}/connect", post(connect))
        .route("/networks/{name}/disconnect", post(disconnect))
}

/// The body, which must be there.
fn required<T>(body: Option<T>) -> Answer<T> {
    body.ok_or_else(|| ApiError::invalid("invalid JSON: got EOF while reading request body"))
}

async fn list(State(api): State<Api>, query: Query) -> Answer {
    Ok(Out(api.engine.network_list(&filters(&query)?).await?).into_response())
}

async fn inspect(State(api): State<Api>, Path(name): Path<String>, query: Query) -> Answer {
    let (scope, verbose) = (query.text("scope"), query.flag("verbose"));
    Ok(Out(api.engine.network_inspect(&name, scope, verbose).await?).into_response())
}

async fn create(State(api): State<Api>, Json(body): Json<NetworkCreateRequest>) -> Answer {
    let body = required(body)?;
    let answer = run(async move { api.engine.network_create(body).await }).await?;
    Ok((StatusCode::CREATED, Out(answer)).into_response())
}

async fn connect(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(body): Json<NetworkConnectRequest>,
) -> Answer {
    let body = required(body)?;
    run(async move {
        api.engine.network_connect(&name, &body.container, body.endpoint_config).await
    })
    .await?;
    Ok(StatusCode::OK.into_response())
}

async fn disconnect(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(body): Json<NetworkDisconnectRequest>,
) -> Answer {
    let body = required(body)?;
    let force = body.force.unwrap_or_default();
    run(async move { api.engine.network_disconnect(&name, &body.container, force).await }).await?;
    Ok(StatusCode::OK.into_response())
}

async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Answer {
    run(async move { api.engine.network_remove(&name).await }).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn prune(State(api): State<Api>, query: Query) -> Answer {
    let filters = filters(&query)?;
    let answer = run(async move { api.engine.network_prune(&filters).await }).await?;
    Ok(Out(answer).into_response())
}
