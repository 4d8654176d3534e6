//! Logs of containers.

use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Extension, Router};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use sampan_engine::container_view::{Logs, LogsOptions};

use super::attach::channel;
use super::{Answer, Api, stream};
use crate::frame::{Channel, Framing};
use crate::query::Query;
use crate::version::ApiVersion;

/// How many ready pieces go into one.
const BATCH: usize = 32;

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/containers/{id}/logs", get(logs))
}

async fn logs(
    State(api): State<Api>,
    Path(id): Path<String>,
    query: Query,
    Extension(version): Extension<ApiVersion>,
) -> Answer {
    let options = LogsOptions {
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        follow: query.flag("follow"),
        since: query.time("since")?,
        until: query.time("until")?,
        timestamps: query.flag("timestamps"),
        details: query.flag("details"),
        // As dockerd: `all`, and what is no number, is everything.
        tail: query.get("tail").and_then(|t| t.parse().ok()),
    };
    let Logs { tty, stream: pieces } = api.engine.container_logs(&id, options).await?;
    let framing = Framing::of(tty);
    let pieces = pieces.ready_chunks(BATCH).map(move |pieces| {
        let mut buffer = BytesMut::new();
        for piece in pieces {
            match piece {
                Ok(p) => framing.put(&mut buffer, channel(p.stream), &p.data),
                Err(e) => {
                    let text = Bytes::from(format!("Error grabbing logs: {e}\n"));
                    framing.put(&mut buffer, Channel::Stderr, &text);
                }
            }
        }
        Ok(buffer.freeze())
    });
    Ok(stream::endless(api.stop, framing.content_type(version), pieces))
}
