//! A container's life: start, stop, kill, wait and the like.

use std::io;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use axum::routing::{delete, post};
use axum::{Json as Out, Router};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, StatusCode, header};
use sampan_engine::{EngineError, RemoveOptions, StopOptions, WaitCondition};
use sampan_types::docker::ContainerUpdateBody;
use serde_json::json;

use super::{Answer, Api, filters, refuse, run};
use crate::body::Json;
use crate::error::ApiError;
use crate::query::Query;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/containers/{id}/start", post(start))
        .route("/containers/{id}/stop", post(stop))
        .route("/containers/{id}/restart", post(restart))
        .route("/containers/{id}/kill", post(kill))
        .route("/containers/{id}/pause", post(pause))
        .route("/containers/{id}/unpause", post(unpause))
        .route("/containers/{id}/rename", post(rename))
        .route("/containers/{id}/update", post(update))
        .route("/containers/{id}/resize", post(resize))
        .route("/containers/{id}/wait", post(wait))
        .route("/containers/{id}", delete(remove))
        .route("/containers/{id}/{alias}", delete(remove_link))
        .route("/containers/prune", post(prune))
}

const DONE: StatusCode = StatusCode::NO_CONTENT;

async fn start(
    State(api): State<Api>,
    Path(id): Path<String>,
    query: Query,
    headers: HeaderMap,
) -> Answer {
    refuse(&query, &[("checkpoint", "starting from a checkpoint")])?;
    // Old clients sent a HostConfig here. `{}` and `null` say nothing.
    let length = headers.get(header::CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse().ok());
    if length.unwrap_or(0u64) > 7 || headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(ApiError::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and \
             removed in v1.24",
        ));
    }
    run(async move { api.engine.container_start(&id).await }).await?;
    Ok(DONE.into_response())
}

fn stop_options(query: &Query) -> Answer<StopOptions> {
    Ok(StopOptions { signal: query.text("signal").map(str::to_owned), timeout: query.number("t")? })
}

async fn stop(State(api): State<Api>, Path(id): Path<String>, query: Query) -> Answer {
    let options = stop_options(&query)?;
    run(async move { api.engine.container_stop(&id, options).await }).await?;
    Ok(DONE.into_response())
}

async fn restart(State(api): State<Api>, Path(id): Path<String>, query: Query) -> Answer {
    let options = stop_options(&query)?;
    run(async move { api.engine.container_restart(&id, options).await }).await?;
    Ok(DONE.into_response())
}

async fn kill(State(api): State<Api>, Path(id): Path<String>, query: Query) -> Answer {
    run(async move { api.engine.container_kill(&id, query.text("signal")).await }).await?;
    Ok(DONE.into_response())
}

async fn pause(State(api): State<Api>, Path(id): Path<String>) -> Answer {
    run(async move { api.engine.container_pause(&id).await }).await?;
    Ok(DONE.into_response())
}

async fn unpause(State(api): State<Api>, Path(id): Path<String>) -> Answer {
    run(async move { api.engine.container_unpause(&id).await }).await?;
    Ok(DONE.into_response())
}

async fn rename(State(api): State<Api>, Path(id): Path<String>, query: Query) -> Answer {
    let name = query.get("name").unwrap_or_default().to_owned();
    run(async move { api.engine.container_rename(&id, &name).await }).await?;
    Ok(DONE.into_response())
}

async fn update(
    State(api): State<Api>,
    Path(id): Path<String>,
    Json(body): Json<ContainerUpdateBody>,
) -> Answer {
    let body = body.unwrap_or_default();
    let warnings = run(async move { api.engine.container_update(&id, body).await }).await?;
    Ok(Out(json!({ "Warnings": warnings })).into_response())
}

async fn resize(State(api): State<Api>, Path(id): Path<String>, query: Query) -> Answer {
    let (rows, columns) = (query.required_number("h")?, query.required_number("w")?);
    api.engine.container_resize(&id, rows, columns).await?;
    Ok(StatusCode::OK.into_response())
}

/// The head of the answer goes out at once: clients start the container when
/// they have it, and nothing that happens from then on is missed.
async fn wait(State(api): State<Api>, Path(id): Path<String>, query: Query) -> Answer {
    let condition = match query.get("condition").unwrap_or_default() {
        "" | "not-running" => WaitCondition::NotRunning,
        "next-exit" => WaitCondition::NextExit,
        "removed" => WaitCondition::Removed,
        other => return Err(ApiError::invalid(format!("invalid condition: {other:?}"))),
    };
    let handle = api.engine.container_wait(&id, condition)?;
    let body = stream::once(async move {
        let Some(result) = api.stop.run_until_cancelled(handle.result()).await else {
            return Err(io::Error::other("the daemon is shutting down"));
        };
        let mut answer = json!({ "StatusCode": result.status_code });
        if let Some(message) = result.error {
            answer["Error"] = json!({ "Message": message });
        }
        Ok(Bytes::from(answer.to_string() + "\n"))
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response())
}

async fn remove(State(api): State<Api>, Path(id): Path<String>, query: Query) -> Answer {
    let options = RemoveOptions {
        force: query.flag("force"),
        volumes: query.flag("v"),
        link: query.flag("link"),
    };
    run(async move { api.engine.container_remove(&id, options).await }).await?;
    Ok(DONE.into_response())
}

/// `docker rm --link CONTAINER/ALIAS`: a link has a name of two parts.
async fn remove_link(
    State(api): State<Api>,
    Path((id, alias)): Path<(String, String)>,
    query: Query,
) -> Answer {
    let name = format!("{id}/{alias}");
    if !query.flag("link") {
        return Err(EngineError::NoSuchContainer(name).into());
    }
    run(async move { api.engine.link_remove(&name).await }).await?;
    Ok(DONE.into_response())
}

async fn prune(State(api): State<Api>, query: Query) -> Answer {
    let filters = filters(&query)?;
    let answer = run(async move { api.engine.container_prune(&filters).await }).await?;
    Ok(Out(answer).into_response())
}
