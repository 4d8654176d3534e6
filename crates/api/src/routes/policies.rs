//! Network policies, which Docker's API does not have.

use axum::extract::{Path, State};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json as Out, Router};
use http::StatusCode;
use sampan_engine::PolicySpec;
use serde_json::json;

use super::{Answer, Api, run};
use crate::body::JsonText;
use crate::error::ApiError;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/sampan/policies", get(list).post(create).put(apply))
        .route("/sampan/policies/{name}", get(inspect).put(set).delete(remove))
}

async fn list(State(api): State<Api>) -> Answer {
    Ok(Out(api.engine.policy_list().await?).into_response())
}

async fn inspect(State(api): State<Api>, Path(name): Path<String>) -> Answer {
    Ok(Out(api.engine.policy_inspect(&name).await?).into_response())
}

async fn create(State(api): State<Api>, JsonText(text): JsonText) -> Answer {
    let spec = PolicySpec::parse(&text)?;
    let answer = json!({ "Name": spec.name });
    run(async move { api.engine.policy_create(spec).await }).await?;
    Ok((StatusCode::CREATED, Out(answer)).into_response())
}

async fn set(State(api): State<Api>, Path(name): Path<String>, JsonText(text): JsonText) -> Answer {
    let spec = PolicySpec::parse(&text)?;
    if spec.name.as_str() != name {
        return Err(ApiError::invalid(format!(
            "the path names policy {name}, the body names {}",
            spec.name
        )));
    }
    let answer = json!({ "Name": spec.name });
    run(async move { api.engine.policy_apply(vec![spec]).await }).await?;
    Ok(Out(answer).into_response())
}

/// All of them, or none.
async fn apply(State(api): State<Api>, JsonText(text): JsonText) -> Answer {
    let specs = PolicySpec::parse_list(&text)?;
    let names: Vec<_> = specs.iter().map(|spec| spec.name.clone()).collect();
    run(async move { api.engine.policy_apply(specs).await }).await?;
    Ok(Out(json!({ "Names": names })).into_response())
}

async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Answer {
    run(async move { api.engine.policy_remove(&name).await }).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
