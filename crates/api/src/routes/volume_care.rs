//! Looking after volumes, which Docker's API can't: snapshots, clones, other
//! names and sizes, and what pruning would take.

use axum::extract::{Path, State};
use axum::response::IntoResponse;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use http::StatusCode;
use sampan_engine::volumes::{CloneRequest, SnapshotRequest};
use serde::Deserialize;

use super::{Answer, Api, filters, run, stream};
use crate::body;
use crate::error::ApiError;
use crate::query::Query;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/sampan/volumes/prunable", get(prunable))
        .route("/sampan/volumes/snapshots", get(all_snapshots))
        .route("/sampan/volumes/{name}/snapshots", get(snapshots).post(snapshot))
        .route("/sampan/volumes/{name}/snapshots/{snapshot}", delete(remove_snapshot))
        .route("/sampan/volumes/{name}/clone", post(clone))
        .route("/sampan/volumes/{name}/rollback", post(roll_back))
        .route("/sampan/volumes/{name}/rename", post(rename))
        .route("/sampan/volumes/{name}/resize", post(resize))
}

/// `filters`: as for pruning.
async fn prunable(State(api): State<Api>, query: Query) -> Answer {
    Ok(Json(api.engine.volume_prunable(&filters(&query)?).await?).into_response())
}

async fn all_snapshots(State(api): State<Api>) -> Answer {
    Ok(Json(api.engine.volume_snapshots(None).await?).into_response())
}

async fn snapshots(State(api): State<Api>, Path(name): Path<String>) -> Answer {
    Ok(Json(api.engine.volume_snapshots(Some(&name)).await?).into_response())
}

/// A stream of messages; the last one has the snapshot in `aux`.
async fn snapshot(
    State(api): State<Api>,
    Path(name): Path<String>,
    body::Json(body): body::Json<SnapshotRequest>,
) -> Answer {
    let progress = api.engine.volume_snapshot(&name, body.unwrap_or_default()).await?;
    Ok(stream::messages(api.stop, progress))
}

async fn remove_snapshot(
    State(api): State<Api>,
    Path((name, snapshot)): Path<(String, String)>,
) -> Answer {
    run(async move { api.engine.volume_snapshot_remove(&name, &snapshot).await }).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// A stream of messages; the last one has the new volume in `aux`.
async fn clone(
    State(api): State<Api>,
    Path(name): Path<String>,
    body::Json(body): body::Json<CloneRequest>,
) -> Answer {
    let body = body.ok_or_else(|| ApiError::invalid("Name is missing: name the new volume"))?;
    let progress = api.engine.volume_clone(&name, body).await?;
    Ok(stream::messages(api.stop, progress))
}

/// Which of its snapshots a volume goes back to.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct RollBack {
    snapshot: String,
}

/// A stream of messages; the last one has the volume in `aux`.
async fn roll_back(
    State(api): State<Api>,
    Path(name): Path<String>,
    body::Json(body): body::Json<RollBack>,
) -> Answer {
    let body = body.ok_or_else(|| ApiError::invalid("Snapshot is missing: name one"))?;
    let progress = api.engine.volume_roll_back(&name, &body.snapshot).await?;
    Ok(stream::messages(api.stop, progress))
}

/// The volume's new name.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Rename {
    name: String,
}

async fn rename(
    State(api): State<Api>,
    Path(name): Path<String>,
    body::Json(body): body::Json<Rename>,
) -> Answer {
    let body = body.ok_or_else(|| ApiError::invalid("Name is missing: give the new name"))?;
    let renamed = run(async move { api.engine.volume_rename(&name, &body.name).await }).await?;
    Ok(Json(renamed).into_response())
}

/// How much the volume may hold: `10g`, `0` for no bound.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Resize {
    size: String,
}

async fn resize(
    State(api): State<Api>,
    Path(name): Path<String>,
    body::Json(body): body::Json<Resize>,
) -> Answer {
    let body = body.ok_or_else(|| ApiError::invalid("Size is missing: 10g, or 0 for no bound"))?;
    let resized = run(async move { api.engine.volume_resize(&name, &body.size).await }).await?;
    Ok(Json(resized).into_response())
}
