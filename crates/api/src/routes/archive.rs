//! Files into and out of containers, as `docker cp` moves them.

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, StatusCode};
use sampan_engine::container_view::{ArchiveOptions, PathStat};
use serde_json::json;

use super::{Answer, Api, run, stream};
use crate::body;
use crate::error::ApiError;
use crate::query::Query;

const STAT_HEADER: &str = "x-docker-container-path-stat";

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/containers/{id}/archive", get(read).head(stat).put(write))
}

fn path(query: &Query) -> Answer<String> {
    query
        .text("path")
        .map(str::to_owned)
        .ok_or_else(|| ApiError::invalid("bad parameter: 'path' cannot be empty"))
}

async fn stat(State(api): State<Api>, Path(id): Path<String>, query: Query) -> Answer {
    let stat = api.engine.archive_stat(&id, &path(&query)?).await?;
    Ok(with_stat(StatusCode::OK.into_response(), &stat))
}

async fn read(State(api): State<Api>, Path(id): Path<String>, query: Query) -> Answer {
    let (stat, archive) = api.engine.archive_get(&id, &path(&query)?).await?;
    Ok(with_stat(stream::bytes(api.stop, "application/x-tar", archive), &stat))
}

async fn write(
    State(api): State<Api>,
    Path(id): Path<String>,
    query: Query,
    request: Request,
) -> Answer {
    let path = path(&query)?;
    let options = ArchiveOptions {
        no_overwrite_dir_non_dir: query.flag("noOverwriteDirNonDir"),
        copy_uid_gid: query.flag("copyUIDGID"),
    };
    let archive = body::reader(request.into_body());
    // A client that leaves is a read error in the archive: the work ends by
    // it, in its own order.
    run(async move { api.engine.archive_put(&id, &path, options, archive).await }).await?;
    Ok(StatusCode::OK.into_response())
}

fn with_stat(mut response: Response, stat: &PathStat) -> Response {
    let text = json!({
        "name": stat.name,
        "size": stat.size,
        "mode": stat.mode,
        "mtime": stat.mtime.to_string(),
        "linkTarget": stat.link_target,
    });
    if let Ok(value) = HeaderValue::from_str(&STANDARD.encode(text.to_string())) {
        response.headers_mut().insert(STAT_HEADER, value);
    }
    response
}
