//! Sending volumes to other daemons, and receiving them.
//!
//! Be aware:
//! - What is sent is read while the client takes it: a slow client holds those
//!   still for long who are frozen. A snapshot that is sent needs no freezing.
//! - A client that goes away ends either; nothing half received is kept.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::{StreamExt as _, stream};
use sampan_image::{ByteStream, Progress};
use sampan_volume::transfer::{Incoming, ReceiveOptions, SendOptions, StreamId};
use sampan_volume::{VolumeError, Watch};
use serde_json::json;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::SyncIoBridge;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tokio_util::task::AbortOnDropHandle;

use super::care::{result, snapshot_name};
use super::shown;
use crate::images::{Messages, messages};
use crate::{Engine, EngineError, Result};

/// What of a volume is to be sent.
#[derive(Debug, Clone, Default)]
pub struct SendRequest {
    /// One of its snapshots; what it holds now without.
    pub snapshot: Option<String>,
    /// Everything, whatever was sent before.
    pub full: bool,
    /// The changes since this stream; without, since the last one.
    pub since: Option<String>,
    /// Whether those who write are held still.
    pub freeze: bool,
}

/// What is to become of a stream.
#[derive(Debug, Clone, Default)]
pub struct ReceiveRequest {
    /// The volume's name; the one that it has at the sender without.
    pub name: Option<String>,
    /// Whether a stream with everything may take the place of what is there.
    pub replace: bool,
    /// Labels of a new volume that are added, or that replace the sender's.
    pub labels: BTreeMap<String, String>,
    /// Options of a new volume.
    pub options: BTreeMap<String, String>,
}

impl Engine {
    /// What a volume holds, or what changed since it was sent before, as a
    /// stream for [`Self::volume_receive`].
    ///
    /// # Errors
    /// No such volume or snapshot; it is not known what was sent; a driver that
    /// can't; a hook that fails. What fails later ends the stream with an error.
    pub async fn volume_send(&self, name: &str, request: SendRequest) -> Result<ByteStream> {
        let volume = self.volume_store().get(name)?;
        let snapshot = request.snapshot.as_deref().map(snapshot_name).transpose()?;
        let since = request.since.as_deref().map(str::parse::<StreamId>).transpose();
        let since = since.map_err(|e| EngineError::Invalid(e.to_string()))?;
        let options = SendOptions { full: request.full, since };
        // A snapshot holds still by itself.
        let freeze = request.freeze && snapshot.is_none();
        let (writer, mut pieces) = sampan_image::pipe();
        let engine = self.clone();
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let watch = Watch::default();
            let send = {
                let (engine, volume) = (engine.clone(), volume.name.clone());
                let (watch, output) = (watch.clone(), Box::new(writer));
                async move {
                    let (store, name) = (engine.volume_store(), volume.as_str());
                    let sent = store.send(name, snapshot.as_ref(), &options, output, &watch);
                    Ok(sent.await?)
                }
            };
            let sent = engine.while_still(&volume.name, freeze, &watch, send).await?;
            let since = sent.since.as_ref().map(|since| ("since", since.as_str()));
            let more = [("stream", sent.stream.as_str())].into_iter().chain(since);
            engine.volume_event_with(&volume, "send", &more.collect::<Vec<_>>());
            Ok::<_, EngineError>(())
        }));
        // What goes wrong before the first byte is the request's failure.
        let Some(first) = pieces.next().await else {
            return match task.await {
                Ok(done) => done.map(|()| stream::empty().boxed()),
                Err(e) => Err(EngineError::Fault(e.to_string())),
            };
        };
        let rest = stream::unfold((pieces, Some(task)), |(mut pieces, task)| async move {
            if let Some(piece) = pieces.next().await {
                return Some((piece, (pieces, task)));
            }
            let error = match task?.await {
                Ok(Ok(())) => return None,
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            tracing::error!(error, "sending a volume failed");
            Some((Err(io::Error::other(error)), (pieces, None)))
        });
        Ok(stream::iter([first]).chain(rest).boxed())
    }

    /// Makes or changes a volume as a stream of [`Self::volume_send`] says; the
    /// last message has the volume.
    ///
    /// # Errors
    /// What is wrong with the stream; it does not fit what the volume holds; a
    /// running container has it mounted; a wrong name or option.
    pub async fn volume_receive<R>(&self, input: R, request: ReceiveRequest) -> Result<Messages>
    where
        R: AsyncRead + Unpin + Send + 'static,
    {
        let engine = self.clone();
        messages::run(move |progress| async move {
            // Whoever reads must not wait for a client that sends no more.
            let stop = engine.inner.stop.child_token();
            let _gone = stop.clone().drop_guard();
            let input = Until { input, stop: Box::pin(stop.cancelled_owned()) };
            let input = Box::new(SyncIoBridge::new(input));
            let stream =
                engine.blocking(move || Incoming::open(input).map_err(EngineError::from)).await?;
            let options = ReceiveOptions {
                name: request.name,
                replace: request.replace,
                labels: request.labels,
                options: request.options,
            };
            let name = options.name.as_deref().unwrap_or(&stream.header.volume).to_owned();
            match engine.volume_store().get(&name) {
                Ok(volume) => engine.refuse_mounted(&volume.name, "receive")?,
                Err(VolumeError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            let watch = {
                let (progress, name) = (progress.clone(), name.clone());
                Watch::new(move |done| {
                    progress.try_send(Progress::bytes(&name, "Receiving", done.bytes, None));
                })
            };
            let guard = watch.stop_on_drop();
            let received = engine.volume_store().receive(stream, &options, &watch).await?;
            guard.disarm();
            let since = received.since.as_ref().map(|since| ("since", since.as_str()));
            let more = [("stream", received.stream.as_str())].into_iter().chain(since);
            if received.new {
                engine.volume_event(&received.volume, "create");
            }
            engine.volume_event_with(&received.volume, "receive", &more.collect::<Vec<_>>());
            let mut told = shown(&received.volume);
            told["Stream"] = json!(received.stream);
            told["Since"] = json!(received.since);
            result(&progress, told).await;
            Ok(())
        })
        .await
    }
}

/// What is read until something stops.
struct Until<R> {
    input: R,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Until<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.stop.as_mut().poll(cx).is_ready() {
            let error = "the daemon stops, or whoever sends has gone away";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, error)));
        }
        Pin::new(&mut self.input).poll_read(cx, buffer)
    }
}
