//! Long operations as a stream of Docker's JSON messages.
//!
//! Be aware: what fails before the first message fails the request, with its
//! status code; what fails later is the last message. Dropping the stream ends
//! the operation.

use std::future::Future;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use sampan_image::{Progress, ProgressSink};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::{EngineError, Result};

/// Docker's JSON messages, one per item, without line ends. An error that
/// happens on the way is the last message.
pub type Messages = BoxStream<'static, Value>;

/// Messages that wait for a slow client.
const WAITING: usize = 64;

/// Runs an operation and gives its messages as they come.
pub(crate) async fn run<F, T>(operation: impl FnOnce(ProgressSink) -> F) -> Result<Messages>
where
    F: Future<Output = Result<T>> + Send + 'static,
    T: Send + 'static,
{
    let (sender, mut receiver) = mpsc::channel::<Progress>(WAITING);
    let work = operation(ProgressSink::new(sender));
    let task = AbortOnDropHandle::new(tokio::spawn(work));
    let Some(first) = receiver.recv().await else {
        return match task.await {
            Ok(result) => result.map(|_| stream::empty().boxed()),
            Err(e) => Err(EngineError::Fault(e.to_string())),
        };
    };
    let rest = stream::unfold((receiver, Some(task)), |(mut receiver, task)| async move {
        if let Some(message) = receiver.recv().await {
            return Some((message, (receiver, task)));
        }
        let failed = match task?.await {
            Ok(result) => result.err().map(|e| e.to_string()),
            Err(e) => Some(e.to_string()),
        };
        failed.map(|text| (Progress::error(text), (receiver, None)))
    });
    Ok(stream::iter([first]).chain(rest).map(|m| m.to_json()).boxed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal() -> EngineError {
        EngineError::NotFound("no such thing".to_owned())
    }

    #[tokio::test]
    async fn an_early_failure_is_an_error_and_a_late_one_a_message() {
        let early = run(|_sink| async { Err::<(), _>(refusal()) }).await;
        assert!(matches!(early, Err(EngineError::NotFound(_))));
        let late = run(|sink| async move {
            sink.send(Progress::status("begun")).await;
            Err::<(), _>(refusal())
        });
        let all: Vec<Value> = late.await.unwrap().collect().await;
        assert_eq!(all[0]["status"], "begun");
        assert_eq!(all[1]["error"], "no such thing");
        assert_eq!(all.len(), 2);
        let silent = run(|_sink| async { Ok(()) }).await.unwrap();
        assert_eq!(silent.count().await, 0);
    }

    #[tokio::test]
    async fn dropping_the_stream_ends_the_work() {
        let (gone, ended) = tokio::sync::oneshot::channel::<()>();
        let stream = run(|sink| async move {
            let _gone = gone;
            sink.send(Progress::status("begun")).await;
            std::future::pending::<Result<()>>().await
        });
        drop(stream.await.unwrap());
        assert!(ended.await.is_err(), "the work's own end of the channel is dropped");
    }
}
