//! Volumes as repositories of backups that others make: restic's REST
//! protocol, version 2 (restic's documentation, "REST Backend").

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::{HeaderMap, Method, StatusCode, header};
use sampan_engine::volumes::{FileName, ServedRepository};
use sampan_types::ErrorKind;
use serde_json::json;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::{Answer, Api, stream};
use crate::error::ApiError;
use crate::query::Query;

const BYTES: &str = "application/octet-stream";
/// The version in which lists have sizes.
const LIST: &str = "application/vnd.x.restic.rest.v2";
/// How much is read of a file at a time.
const PIECE: usize = 256 << 10;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/sampan/repositories/{volume}", any(whole))
        .route("/sampan/repositories/{volume}/", any(whole))
        .route("/sampan/repositories/{volume}/{kind}", any(kind))
        .route("/sampan/repositories/{volume}/{kind}/", any(kind))
        .route("/sampan/repositories/{volume}/{kind}/{name}", any(named))
}

/// `POST` with `create=true` makes it.
async fn whole(
    State(api): State<Api>,
    Path(volume): Path<String>,
    method: Method,
    query: Query,
) -> Answer {
    if method != Method::POST || !query.flag("create") {
        return Err(not_allowed(&method));
    }
    api.engine.served_repository(&volume, true).await?;
    Ok(StatusCode::OK.into_response())
}

/// The configuration, or the list of a kind.
async fn kind(
    State(api): State<Api>,
    Path((volume, kind)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let repository = api.engine.served_repository(&volume, false).await?;
    if kind == "config" {
        return file(api, repository, FileName::config(), method, &headers, body).await;
    }
    if method != Method::GET {
        return Err(not_allowed(&method));
    }
    let list = repository.list(kind).await?.ok_or_else(absent)?;
    let list: Vec<_> =
        list.into_iter().map(|(name, size)| json!({ "name": name, "size": size })).collect();
    Ok(([(header::CONTENT_TYPE, LIST)], json!(list).to_string()).into_response())
}

async fn named(
    State(api): State<Api>,
    Path((volume, kind, name)): Path<(String, String, String)>,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let name = FileName::of(&kind, &name).ok_or_else(absent)?;
    let repository = api.engine.served_repository(&volume, false).await?;
    file(api, repository, name, method, &headers, body).await
}

async fn file(
    api: Api,
    repository: ServedRepository,
    name: FileName,
    method: Method,
    headers: &HeaderMap,
    body: Body,
) -> Answer {
    match method {
        Method::HEAD | Method::GET => {
            let (file, size) = repository.open(name).await?.ok_or_else(absent)?;
            if method == Method::HEAD {
                let about = [(header::CONTENT_LENGTH, size.to_string())];
                return Ok((about, StatusCode::OK).into_response());
            }
            content(api, file, size, headers).await
        }
        Method::POST => {
            let pieces = Box::pin(body.into_data_stream());
            tokio::select! {
                taken = repository.receive(name, pieces) => taken?,
                () = api.stop.cancelled() => {
                    let message = "the daemon is shutting down";
                    return Err(ApiError::new(ErrorKind::Unavailable, message));
                }
            }
            Ok(StatusCode::OK.into_response())
        }
        Method::DELETE if repository.remove(name).await? => Ok(StatusCode::OK.into_response()),
        Method::DELETE => Err(absent()),
        method => Err(not_allowed(&method)),
    }
}

/// A file, or the part of it that is asked for (RFC 9110, 14.2; one range).
async fn content(api: Api, mut file: File, size: u64, headers: &HeaderMap) -> Answer {
    let wanted = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let Some((from, to)) = wanted.and_then(range) else {
        let answer = pieces(api, file, size);
        return Ok(([(header::CONTENT_LENGTH, size.to_string())], answer).into_response());
    };
    if from >= size {
        let status = StatusCode::RANGE_NOT_SATISFIABLE;
        return Ok((status, [(header::CONTENT_RANGE, format!("bytes */{size}"))]).into_response());
    }
    let end = to.map_or(size, |to| to.saturating_add(1).min(size));
    let sought = tokio::task::spawn_blocking(move || {
        file.seek(SeekFrom::Start(from))?;
        Ok::<_, std::io::Error>(file)
    });
    let file = sought.await.map_err(std::io::Error::other).and_then(|file| file);
    let file = file.map_err(|e| ApiError::new(ErrorKind::System, format!("can't seek: {e}")))?;
    let about = [
        (header::CONTENT_RANGE, format!("bytes {from}-{}/{size}", end - 1)),
        (header::CONTENT_LENGTH, (end - from).to_string()),
    ];
    Ok((StatusCode::PARTIAL_CONTENT, about, pieces(api, file, end - from)).into_response())
}

fn pieces(api: Api, file: File, length: u64) -> Response {
    let read = tokio::fs::File::from_std(file).take(length);
    stream::bytes(api.stop, BYTES, ReaderStream::with_capacity(read, PIECE))
}

/// `bytes=from-[to]`.
fn range(text: &str) -> Option<(u64, Option<u64>)> {
    let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
    let (from, to) =
        (from.parse().ok()?, if to.is_empty() { None } else { Some(to.parse().ok()?) });
    to.is_none_or(|to: u64| from <= to).then_some((from, to))
}

fn absent() -> ApiError {
    ApiError::new(ErrorKind::NotFound, "no such file in the repository")
}

fn not_allowed(method: &Method) -> ApiError {
    ApiError::invalid(format!("{method} means nothing here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(range("bytes=0-0"), Some((0, Some(0))));
        assert_eq!(range("bytes=5-"), Some((5, None)));
        for wrong in ["bytes=-5", "bytes=3-2", "bytes=1-2,4-5", "lines=1-2", ""] {
            assert_eq!(range(wrong), None, "{wrong}");
        }
    }
}
