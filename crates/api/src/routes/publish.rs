//! Changing the published ports of a container, which Docker's API can't.

use axum::extract::{Path, State};
use axum::response::IntoResponse;
use axum::routing::post;
use axum::{Json as Out, Router};
use sampan_engine::PublishChange;
use sampan_types::docker::PortMap;
use serde::Deserialize;
use serde_json::json;

use super::{Answer, Api, run};
use crate::body::Json;
use crate::error::ApiError;

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/sampan/containers/{id}/ports", post(publish))
}

/// What to publish and what to take back, as `PortBindings`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
struct Change {
    add: PortMap,
    remove: PortMap,
}

async fn publish(
    State(api): State<Api>,
    Path(id): Path<String>,
    Json(body): Json<Change>,
) -> Answer {
    let Change { add, remove } = body.unwrap_or_default();
    if add.is_empty() && remove.is_empty() {
        return Err(ApiError::invalid("Add or Remove has to name a port"));
    }
    let change = PublishChange { add, remove };
    let ports = run(async move { api.engine.container_publish(&id, change).await }).await?;
    Ok(Out(json!({ "Ports": ports })).into_response())
}
