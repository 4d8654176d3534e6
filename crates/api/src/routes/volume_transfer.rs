//! Moving volumes between daemons, which Docker's API can't.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::routing::{get, post};
use futures_util::StreamExt;
use sampan_engine::volumes::{ReceiveRequest, SendRequest};

use super::{Answer, Api, stream};
use crate::body;
use crate::error::ApiError;
use crate::query::Query;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/sampan/volumes/{name}/send", get(send))
        .route("/sampan/volumes/receive", post(receive))
}

/// `snapshot`, `full`, `since`, `freeze`. An error on the way breaks the
/// connection off.
async fn send(State(api): State<Api>, Path(name): Path<String>, query: Query) -> Answer {
    let request = SendRequest {
        snapshot: query.text("snapshot").map(str::to_owned),
        full: query.flag("full"),
        since: query.text("since").map(str::to_owned),
        freeze: query.flag("freeze"),
    };
    if request.full && request.since.is_some() {
        return Err(ApiError::invalid("full and since exclude each other: give one of them"));
    }
    let pieces = api.engine.volume_send(&name, request).await?;
    Ok(stream::bytes(api.stop, "application/octet-stream", pieces))
}

/// `name`, `replace`, `labels` and `options` (maps as JSON); the stream is the
/// body. A stream of messages; the last one has the volume in `aux`.
async fn receive(State(api): State<Api>, query: Query, request: Request) -> Answer {
    let wanted = ReceiveRequest {
        name: query.text("name").map(str::to_owned),
        replace: query.flag("replace"),
        labels: map(&query, "labels")?,
        options: map(&query, "options")?,
    };
    let input = body::reader(request.into_body());
    let progress = api.engine.volume_receive(input, wanted).await?;
    Ok(stream::messages(api.stop, progress.boxed()))
}

fn map(query: &Query, parameter: &str) -> Answer<BTreeMap<String, String>> {
    let Some(text) = query.text(parameter) else { return Ok(BTreeMap::new()) };
    serde_json::from_str(text).map_err(|e| {
        ApiError::invalid(format!("invalid value of parameter {parameter}: {e}: a map of texts"))
    })
}
