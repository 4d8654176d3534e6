//! Bounded streams between blocking threads and async code.

use std::io::{self, Read, Write};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio_util::io::SyncIoBridge;

use crate::ImageError;

/// Pieces of an archive as they are made. Dropping it ends the work.
pub type ByteStream = BoxStream<'static, io::Result<Bytes>>;

const CHUNK: usize = 128 << 10;
const IN_FLIGHT: usize = 8;

/// Runs `work` on a blocking thread and gives what it writes as a stream. An
/// error of `work` is the stream's last item.
pub(crate) fn produce<F>(work: F) -> ByteStream
where
    F: FnOnce(&mut ChannelWriter) -> io::Result<()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    tokio::task::spawn_blocking(move || {
        let mut writer = ChannelWriter { sender, buffer: BytesMut::with_capacity(CHUNK) };
        let result = work(&mut writer).and_then(|()| writer.flush());
        if let Err(error) = result {
            // A reader that left does not want the reason either.
            let _ = writer.sender.blocking_send(Err(error));
        }
    });
    stream::unfold(receiver, |mut r| async move { r.recv().await.map(|item| (item, r)) }).boxed()
}

/// A writer for a blocking thread, and what it writes as a stream, which ends
/// when the writer is dropped. Writing fails when the stream is.
#[must_use]
pub fn pipe() -> (ChannelWriter, ByteStream) {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    let writer = ChannelWriter { sender, buffer: BytesMut::with_capacity(CHUNK) };
    (
        writer,
        stream::unfold(receiver, |mut r| async move { r.recv().await.map(|i| (i, r)) }).boxed(),
    )
}

/// Writes into a bounded channel, in chunks.
#[derive(Debug)]
pub struct ChannelWriter {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: BytesMut,
}

impl Write for ChannelWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = data.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&data[..n]);
        if self.buffer.len() == CHUNK {
            self.flush()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, BytesMut::with_capacity(CHUNK)).freeze();
        self.sender
            .blocking_send(Ok(chunk))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the reader has gone away"))
    }
}

/// Runs `work` on a blocking thread with a blocking view of `input`.
pub(crate) async fn consume<R, T, F>(input: R, work: F) -> Result<T, ImageError>
where
    R: AsyncRead + Unpin + Send + 'static,
    T: Send + 'static,
    F: FnOnce(Box<dyn Read + Send>) -> Result<T, ImageError> + Send + 'static,
{
    let input = blocking_reader(input);
    blocking(move || work(input)).await
}

/// A view of `input` that blocks; for blocking threads only.
pub(crate) fn blocking_reader<R>(input: R) -> Box<dyn Read + Send>
where
    R: AsyncRead + Unpin + Send + 'static,
{
    Box::new(io::BufReader::with_capacity(CHUNK, SyncIoBridge::new(input)))
}

/// Runs `work` on a blocking thread.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T, ImageError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, ImageError> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(|_| ImageError::Interrupted)?
}
