//! Looking after networks, which Docker's API can't: what is wrong, what
//! passed, and where a packet would go.

use axum::extract::{Path, State};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use ipnet::IpNet;
use serde::Deserialize;

use super::{Answer, Api, run};
use crate::body;
use crate::error::ApiError;
use crate::query::Query;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/sampan/networks/check", get(check))
        .route("/sampan/networks/stats", get(all_stats))
        .route("/sampan/networks/trace", get(trace))
        .route("/sampan/networks/{name}/stats", get(stats))
        .route("/sampan/networks/{name}/migrate", post(migrate))
}

/// `network`: the one to look at; all of them without it.
async fn check(State(api): State<Api>, query: Query) -> Answer {
    Ok(Json(api.engine.network_check(query.text("network")).await?).into_response())
}

async fn all_stats(State(api): State<Api>) -> Answer {
    Ok(Json(api.engine.network_stats(None).await?).into_response())
}

async fn stats(State(api): State<Api>, Path(name): Path<String>) -> Answer {
    Ok(Json(api.engine.network_stats(Some(&name)).await?).into_response())
}

/// The subnets that a network moves to; chosen ones when none is named.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
struct Migration {
    subnets: Vec<IpNet>,
}

async fn migrate(
    State(api): State<Api>,
    Path(name): Path<String>,
    body::Json(body): body::Json<Migration>,
) -> Answer {
    let subnets = body.unwrap_or_default().subnets;
    let moved = run(async move { api.engine.network_migrate(&name, subnets).await }).await?;
    Ok(Json(moved).into_response())
}

/// `from`, `to`, and `port` as `80/tcp`.
async fn trace(State(api): State<Api>, query: Query) -> Answer {
    let end =
        |name| query.text(name).ok_or_else(|| ApiError::invalid(format!("{name} is missing")));
    let (from, to) = (end("from")?, end("to")?);
    Ok(Json(api.engine.network_trace(from, to, query.text("port")).await?).into_response())
}
