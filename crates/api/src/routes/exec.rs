//! Further processes in containers.
//!
//! Be aware: as with dockerd, a program that can't be run is told on the
//! hijacked connection, not by a status: the docker CLI then asks `inspect`
//! for the exit code, 126 or 127.

use axum::extract::{Path, State};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Extension, Json as Out, Router};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, StatusCode};
use sampan_engine::ExecStartOptions;
use sampan_types::docker::{ExecConfig, ExecStartConfig};
use serde_json::json;

use super::attach::session;
use super::{Answer, Api, run};
use crate::body::Json;
use crate::error::ApiError;
use crate::frame::{Channel, Framing};
use crate::hijack::{Hijacker, Session};
use crate::query::Query;
use crate::version::ApiVersion;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/containers/{id}/exec", post(create))
        .route("/exec/{id}/start", post(start))
        .route("/exec/{id}/resize", post(resize))
        .route("/exec/{id}/json", get(inspect))
}

async fn create(
    State(api): State<Api>,
    Extension(version): Extension<ApiVersion>,
    Path(id): Path<String>,
    Json(config): Json<ExecConfig>,
) -> Answer {
    let mut config = config.unwrap_or_default();
    if config.cmd.as_ref().is_none_or(Vec::is_empty) {
        return Err(ApiError::invalid("no exec command specified"));
    }
    if version < ApiVersion::one(42) {
        config.console_size = None;
    }
    console_size(config.tty, config.console_size.as_deref())?;
    let exec = run(async move { api.engine.exec_create(&id, config).await }).await?;
    Ok((StatusCode::CREATED, Out(json!({ "Id": exec.as_str() }))).into_response())
}

async fn start(
    State(api): State<Api>,
    Path(exec): Path<String>,
    Extension(hijacker): Extension<Hijacker>,
    Extension(version): Extension<ApiVersion>,
    headers: HeaderMap,
    Json(config): Json<ExecStartConfig>,
) -> Answer {
    let mut config = config.unwrap_or_default();
    if version < ApiVersion::one(42) {
        config.console_size = None;
    }
    let tty = config.tty.unwrap_or_default();
    let options = ExecStartOptions {
        detach: config.detach.unwrap_or_default(),
        tty,
        console_size: console_size(config.tty, config.console_size.as_deref())?,
    };
    let inspected = api.engine.exec_inspect(&exec)?;
    let stdin = inspected.open_stdin.unwrap_or_default();
    let started = run(async move { api.engine.exec_start(&exec, options).await }).await;
    let session = match started {
        Ok(None) => return Ok(StatusCode::OK.into_response()),
        Ok(Some(attachment)) => session(attachment, stdin),
        Err(e) if options.detach || !said_on_the_stream(&e) => return Err(e),
        Err(e) => failed(&e, tty),
    };
    Err(hijacker.take_over(&headers, version, session).await)
}

/// Whether dockerd would have hijacked the connection before this error.
fn said_on_the_stream(error: &ApiError) -> bool {
    !matches!(error.status, StatusCode::NOT_FOUND | StatusCode::CONFLICT)
}

/// A session that says why there is none.
fn failed(error: &ApiError, tty: bool) -> Session {
    let text = Bytes::from(format!("{}\r\n", error.message));
    Session {
        framing: Framing::of(tty),
        output: stream::iter([(Channel::Stdout, text)]).boxed(),
        input: None,
    }
}

/// Rows and columns of a terminal; clients without one send nothing or zeros.
fn console_size(tty: Option<bool>, size: Option<&[usize]>) -> Answer<Option<(u16, u16)>> {
    match size {
        None | Some([] | [0, 0]) => Ok(None),
        Some(_) if !tty.unwrap_or_default() => {
            Err(ApiError::invalid("console size can only be set when a tty is requested"))
        }
        Some([rows, columns]) => match (u16::try_from(*rows), u16::try_from(*columns)) {
            (Ok(rows), Ok(columns)) => Ok(Some((rows, columns))),
            _ => Err(ApiError::invalid(format!("invalid ConsoleSize [{rows}, {columns}]"))),
        },
        Some(other) => Err(ApiError::invalid(format!(
            "invalid ConsoleSize: rows and columns expected, {} numbers given",
            other.len()
        ))),
    }
}

async fn resize(State(api): State<Api>, Path(exec): Path<String>, query: Query) -> Answer {
    let (rows, columns) = (query.required_number("h")?, query.required_number("w")?);
    api.engine.exec_resize(&exec, rows, columns).await?;
    Ok(StatusCode::OK.into_response())
}

async fn inspect(State(api): State<Api>, Path(exec): Path<String>) -> Answer {
    Ok(Out(api.engine.exec_inspect(&exec)?).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_sizes() {
        assert_eq!(console_size(Some(true), Some(&[24, 80])).unwrap(), Some((24, 80)));
        assert_eq!(console_size(None, Some(&[0, 0])).unwrap(), None);
        assert_eq!(console_size(None, None).unwrap(), None);
        assert!(console_size(None, Some(&[24, 80])).is_err());
        assert!(console_size(Some(true), Some(&[1])).is_err());
        assert!(console_size(Some(true), Some(&[1, 70_000])).is_err());
    }
}
