//! Attaching to a container's standard streams.

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Extension, Router};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use http::HeaderMap;
use sampan_engine::{AttachInput, AttachOptions, Attachment, StdStream, Written};

use super::Api;
use crate::error::ApiError;
use crate::frame::{Channel, Framing};
use crate::hijack::{Hijacker, Input, Session};
use crate::query::Query;
use crate::version::ApiVersion;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/containers/{id}/attach", post(attach))
        .route("/containers/{id}/attach/ws", get(attach_websocket))
}

async fn attach(
    State(api): State<Api>,
    Path(id): Path<String>,
    query: Query,
    Extension(hijacker): Extension<Hijacker>,
    Extension(version): Extension<ApiVersion>,
    headers: HeaderMap,
) -> ApiError {
    let options = AttachOptions {
        stream: query.flag("stream"),
        logs: query.flag("logs"),
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        detach_keys: query.text("detachKeys").map(str::to_owned),
    };
    let stdin = options.stdin && options.stream;
    match api.engine.container_attach(&id, options).await {
        Ok(attachment) => {
            let session = session(attachment, stdin);
            hijacker.take_over(&headers, version, session).await
        }
        Err(e) => e.into(),
    }
}

async fn attach_websocket() -> ApiError {
    ApiError::not_implemented(
        "attaching over a websocket is not supported by this engine; use POST \
         /containers/{id}/attach",
    )
}

/// What runs on the connection of an attached client.
pub(super) fn session(attachment: Attachment, stdin: bool) -> Session {
    let Attachment { tty, output, input } = attachment;
    let output = output.map(|(stream, piece)| (channel(stream), piece)).boxed();
    // Without stdin the input is kept, not dropped: dropping it might detach.
    let input: Box<dyn Input> =
        if stdin { Box::new(Engine(input)) } else { Box::new(Held { _input: input }) };
    Session { framing: Framing::of(tty), output, input: Some(input) }
}

pub(super) fn channel(stream: StdStream) -> Channel {
    match stream {
        StdStream::Stdout => Channel::Stdout,
        StdStream::Stderr => Channel::Stderr,
    }
}

/// Input that goes to the process.
struct Engine(AttachInput);

impl Input for Engine {
    fn write(&mut self, piece: Bytes) -> BoxFuture<'_, bool> {
        async move { matches!(self.0.write(piece).await, Ok(Written::Passed)) }.boxed()
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        async move {
            if let Err(error) = self.0.close().await {
                tracing::debug!(%error, "the process ended before its input");
            }
        }
        .boxed()
    }
}

/// Input of a client that did not ask for stdin: thrown away.
struct Held {
    _input: AttachInput,
}

impl Input for Held {
    fn write(&mut self, _: Bytes) -> BoxFuture<'_, bool> {
        std::future::ready(true).boxed()
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}
