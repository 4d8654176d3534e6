//! Containers: create, list, inspect and what else is read about them.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json as Out, Router};
use http::StatusCode;
use sampan_engine::container_view::{CommitOptions, ListOptions};
use sampan_types::docker::ContainerConfig;
use serde_json::json;

use super::{Answer, Api, filters, run, stream};
use crate::body::{Json, JsonText};
use crate::create;
use crate::error::ApiError;
use crate::query::Query;
use crate::version::ApiVersion;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/containers/create", post(create))
        .route("/containers/json", get(list))
        .route("/containers/{id}/json", get(inspect))
        .route("/containers/{id}/top", get(top))
        .route("/containers/{id}/stats", get(stats))
        .route("/containers/{id}/changes", get(changes))
        .route("/containers/{id}/export", get(export))
        .route("/commit", post(commit))
}

async fn create(
    State(api): State<Api>,
    Extension(version): Extension<ApiVersion>,
    query: Query,
    JsonText(text): JsonText,
) -> Answer {
    if text.is_empty() {
        return Err(ApiError::invalid("config cannot be empty in order to create a container"));
    }
    let body = create::parse(&text, version)?;
    // In a task of its own there, which learns that the client went away.
    let platform = query.text("platform");
    let answer = api.engine.container_create(query.text("name"), platform, body).await?;
    Ok((StatusCode::CREATED, Out(answer)).into_response())
}

async fn list(State(api): State<Api>, query: Query) -> Answer {
    let limit = query.number::<i64>("limit")?.and_then(|n| usize::try_from(n).ok());
    let options = ListOptions {
        all: query.flag("all"),
        limit: limit.filter(|n| *n > 0),
        size: query.flag("size"),
        filters: filters(&query)?,
    };
    Ok(Out(api.engine.container_list(options).await?).into_response())
}

async fn inspect(State(api): State<Api>, Path(id): Path<String>, query: Query) -> Answer {
    Ok(Out(api.engine.container_inspect(&id, query.flag("size")).await?).into_response())
}

async fn top(State(api): State<Api>, Path(id): Path<String>, query: Query) -> Answer {
    let ps_args = query.get("ps_args").unwrap_or_default();
    Ok(Out(api.engine.container_top(&id, ps_args).await?).into_response())
}

async fn stats(State(api): State<Api>, Path(id): Path<String>, query: Query) -> Answer {
    let (stream, one_shot) = (query.flag_or("stream", true), query.flag("one-shot"));
    if stream && one_shot {
        return Err(ApiError::invalid("cannot have stream=true and one-shot=true"));
    }
    let samples = api.engine.container_stats(&id, stream, one_shot).await?;
    Ok(stream::lines(api.stop, samples))
}

async fn changes(State(api): State<Api>, Path(id): Path<String>) -> Answer {
    Ok(Out(api.engine.container_changes(&id).await?).into_response())
}

async fn export(State(api): State<Api>, Path(id): Path<String>) -> Answer {
    let archive = api.engine.container_export(&id).await?;
    Ok(stream::bytes(api.stop, "application/octet-stream", archive))
}

async fn commit(
    State(api): State<Api>,
    query: Query,
    Json(config): Json<ContainerConfig>,
) -> Answer<Response> {
    let container = query
        .text("container")
        .ok_or_else(|| ApiError::invalid("parameter container is missing"))?
        .to_owned();
    let text = |name| query.get(name).unwrap_or_default().to_owned();
    let options = CommitOptions {
        repo: text("repo"),
        tag: text("tag"),
        comment: text("comment"),
        author: text("author"),
        pause: query.text("pause").is_none() || query.flag("pause"),
        changes: instructions(&query.all("changes")),
        config,
    };
    let id = run(async move { api.engine.container_commit(&container, options).await }).await?;
    Ok((StatusCode::CREATED, Out(json!({"Id": id.as_str()}))).into_response())
}

/// Dockerfile instructions, one each: clients send several parameters, or
/// several lines in one. A line that ends in a backslash goes on.
pub(super) fn instructions(parameters: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for parameter in parameters {
        let mut begun = String::new();
        for line in parameter.lines() {
            if let Some(part) = line.trim_end().strip_suffix('\\') {
                begun.push_str(part);
                continue;
            }
            begun.push_str(line);
            found.push(std::mem::take(&mut begun));
        }
        found.push(begun);
    }
    found.retain(|i| !i.trim().is_empty());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_come_in_many_ways() {
        let given = ["ENV a=b\nUSER x".to_owned(), String::new(), "RUN a \\\n b".to_owned()];
        assert_eq!(instructions(&given), ["ENV a=b", "USER x", "RUN a  b"]);
    }
}
