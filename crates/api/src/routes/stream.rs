//! Answers that go on: bodies made of streams, which end when the daemon stops.

use std::io;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use http::header;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Said to clients whose stream ends because the daemon does.
const STOPPING: &str = "the daemon is shutting down";

/// JSON values, a line each, for streams whose end means nothing: events,
/// statistics.
pub(crate) fn lines<S>(stop: CancellationToken, values: S) -> Response
where
    S: Stream<Item = Value> + Send + 'static,
{
    let lines = values.map(|v| Ok::<_, io::Error>(line(&v, "\n")));
    let body = Body::from_stream(lines.take_until(stop.cancelled_owned()));
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Progress messages, a line each, for work whose failure has to be seen: when
/// the daemon stops, the last message says so.
pub(crate) fn messages<S>(stop: CancellationToken, values: S) -> Response
where
    S: Stream<Item = Value> + Send + 'static,
{
    let mut values = Box::pin(values);
    let mut stopped = Box::pin(stop.cancelled_owned());
    let mut ended = false;
    let lines = stream::poll_fn(move |cx| {
        use std::task::Poll;
        if ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(next) = values.as_mut().poll_next(cx) {
            ended = next.is_none();
            return Poll::Ready(next.map(|v| line(&v, "\r\n")));
        }
        if Future::poll(stopped.as_mut(), cx).is_ready() {
            ended = true;
            let last = json!({"errorDetail": {"message": STOPPING}, "error": STOPPING});
            return Poll::Ready(Some(line(&last, "\r\n")));
        }
        Poll::Pending
    });
    let body = Body::from_stream(lines.map(Ok::<_, io::Error>));
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Bytes as they are, for streams whose end means nothing: logs.
pub(crate) fn endless<S>(stop: CancellationToken, kind: &'static str, pieces: S) -> Response
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let body = Body::from_stream(pieces.take_until(stop.cancelled_owned()));
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

/// Bytes as they are, for streams that must not look whole when they are not:
/// an error, and the daemon's end, break the connection off.
pub(crate) fn bytes<S>(stop: CancellationToken, kind: &'static str, pieces: S) -> Response
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let broken = stream::once(async move {
        stop.cancelled_owned().await;
        Err(io::Error::other(STOPPING))
    });
    // The end of `pieces` ends the body; `broken` never ends before the stop.
    let body =
        Body::from_stream(EndWithFirst { pieces: Box::pin(pieces), broken: Box::pin(broken) });
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

/// `pieces`, or one item of `broken` where that comes before the end.
struct EndWithFirst<A, B> {
    pieces: std::pin::Pin<Box<A>>,
    broken: std::pin::Pin<Box<B>>,
}

impl<A, B> Stream for EndWithFirst<A, B>
where
    A: Stream<Item = io::Result<Bytes>>,
    B: Stream<Item = io::Result<Bytes>>,
{
    type Item = io::Result<Bytes>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let broken = self.broken.as_mut().poll_next(cx);
        if broken.is_ready() {
            return broken;
        }
        self.pieces.as_mut().poll_next(cx)
    }
}

fn line(value: &Value, end: &str) -> Bytes {
    Bytes::from(value.to_string() + end)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn text(response: Response) -> Option<String> {
        let whole = response.into_body().collect().await.ok()?;
        String::from_utf8(whole.to_bytes().to_vec()).ok()
    }

    fn stopped() -> CancellationToken {
        let stop = CancellationToken::new();
        stop.cancel();
        stop
    }

    #[tokio::test]
    async fn whole_streams_come_whole() {
        let stop = CancellationToken::new();
        let values = stream::iter([json!({"a": 1}), json!({"b": 2})]);
        let got = text(messages(stop.clone(), values.clone())).await.unwrap();
        assert_eq!(got, "{\"a\":1}\r\n{\"b\":2}\r\n");
        assert_eq!(text(lines(stop.clone(), values)).await.unwrap(), "{\"a\":1}\n{\"b\":2}\n");
        let pieces = stream::iter([Ok(Bytes::from_static(b"x"))]);
        assert_eq!(text(bytes(stop, "application/x-tar", pieces)).await.unwrap(), "x");
    }

    #[tokio::test]
    async fn the_daemons_end_is_told_where_it_matters() {
        assert_eq!(text(lines(stopped(), stream::pending())).await.as_deref(), Some(""));
        let told = text(messages(stopped(), stream::pending())).await.unwrap();
        assert!(told.contains("\"error\":\"the daemon is shutting down\""), "{told}");
        assert_eq!(text(bytes(stopped(), "application/x-tar", stream::pending())).await, None);
    }
}
