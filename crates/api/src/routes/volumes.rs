//! Volumes.

use axum::extract::{Path, State};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Extension, Json as Out, Router};
use http::StatusCode;
use sampan_types::ErrorKind;
use sampan_types::docker::VolumeCreateRequest;

use super::{Answer, Api, filters, run};
use crate::body::Json;
use crate::error::ApiError;
use crate::query::Query;
use crate::version::ApiVersion;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/volumes", get(list))
        .route("/volumes/create", post(create))
        .route("/volumes/prune", post(prune))
        .route("/volumes/{name}", get(inspect).delete(remove).put(update))
}

async fn list(State(api): State<Api>, query: Query) -> Answer {
    Ok(Out(api.engine.volume_list(&filters(&query)?).await?).into_response())
}

async fn create(State(api): State<Api>, Json(body): Json<VolumeCreateRequest>) -> Answer {
    let body = body.unwrap_or_default();
    let answer = run(async move { api.engine.volume_create(body).await }).await?;
    Ok((StatusCode::CREATED, Out(answer)).into_response())
}

async fn inspect(State(api): State<Api>, Path(name): Path<String>) -> Answer {
    Ok(Out(api.engine.volume_inspect(&name).await?).into_response())
}

async fn remove(State(api): State<Api>, Path(name): Path<String>, query: Query) -> Answer {
    let force = query.flag("force");
    run(async move { api.engine.volume_remove(&name, force).await }).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Only cluster volumes can be changed.
async fn update() -> ApiError {
    ApiError::new(
        ErrorKind::Unavailable,
        "volume update only valid for cluster volumes, but swarm is unavailable",
    )
}

/// Before API 1.42 pruning took volumes with names, too.
async fn prune(
    State(api): State<Api>,
    Extension(version): Extension<ApiVersion>,
    query: Query,
) -> Answer {
    let mut filters = filters(&query)?;
    if version < ApiVersion::one(42) && !filters.has("all") {
        filters.add("all", "true");
    }
    let answer = run(async move { api.engine.volume_prune(&filters).await }).await?;
    Ok(Out(answer).into_response())
}
