//! What this engine does not have: plugins, the builder, checkpoints,
//! BuildKit's sessions. Lists are truly empty; everything else is refused in
//! plain words.

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use sampan_types::ErrorKind;
use serde_json::json;

use crate::error::ApiError;

pub(super) fn routes() -> Router {
    Router::new()
        .route("/plugins", get(|| async { Json(json!([])) }))
        .route("/plugins/privileges", get(no_plugins))
        .route("/plugins/pull", post(no_plugins))
        .route("/plugins/create", post(no_plugins))
        .route("/plugins/{*rest}", any(no_such_plugin))
        .route("/build", post(no_builder))
        .route("/build/cancel", post(no_builder))
        .route("/build/prune", post(prune_build_cache))
        .route("/session", post(no_session))
        .route("/grpc", post(no_session))
        .route("/containers/{id}/checkpoints", any(no_checkpoints))
        .route("/containers/{id}/checkpoints/{name}", any(no_checkpoints))
}

async fn no_plugins() -> ApiError {
    ApiError::not_implemented("plugins are not supported by this engine")
}

async fn no_such_plugin(Path(rest): Path<String>) -> ApiError {
    let name = rest.rsplit_once('/').map_or(rest.as_str(), |(name, _)| name);
    ApiError::new(ErrorKind::NotFound, format!("plugin {name:?} not found"))
}

async fn no_builder() -> ApiError {
    ApiError::not_implemented(
        "building images is not supported by this version of the engine; build elsewhere and \
         load the image with `docker load` or pull it from a registry",
    )
}

/// There is no cache: nothing to remove. `docker system prune` asks.
async fn prune_build_cache() -> Response {
    Json(json!({"CachesDeleted": null, "SpaceReclaimed": 0})).into_response()
}

async fn no_session() -> ApiError {
    ApiError::not_implemented("BuildKit sessions are not supported by this version of the engine")
}

async fn no_checkpoints() -> ApiError {
    ApiError::not_implemented("checkpoints are not supported by this engine")
}
