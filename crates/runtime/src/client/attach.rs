//! A client's connection to a process's standard streams.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::link::{Link, first};
use crate::error::RuntimeError;
use crate::logs::StdStream;
use crate::protocol::{HEADER, Kind, Op, Parsed, header, parse};

/// How much is read at once.
const CHUNK: usize = 64 << 10;
/// How much input goes in one frame, which the shim keeps until it is whole.
const INPUT_CHUNK: usize = 16 << 10;

/// Which streams a client attaches to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttachOptions {
    /// Send standard input.
    pub stdin: bool,
    /// Receive standard output.
    pub stdout: bool,
    /// Receive standard error.
    pub stderr: bool,
}

/// The two directions of an attached client. Dropping both leaves the
/// container alone (but see [`IoConfig::stdin_once`](crate::IoConfig)).
#[derive(Debug)]
pub struct AttachStream {
    /// What the process writes; ends when its output ends.
    pub output: OutputStream,
    /// What the process reads. Dropping it is the same as
    /// [`StdinWriter::close`].
    pub input: StdinWriter,
}

/// Attaches to the process of `link`.
pub(super) async fn attach(
    link: &Link,
    options: AttachOptions,
) -> Result<AttachStream, RuntimeError> {
    let AttachOptions { stdin, stdout, stderr } = options;
    let mut stream = link.connect_again().await?;
    let mut received = BytesMut::new();
    let answer = first(&mut stream, &Op::Attach { stdin, stdout, stderr }, &mut received).await;
    let object = "the standard streams";
    let answer = answer.map_err(|e| RuntimeError::io("attaching to", object, e))?;
    match answer {
        Some(Ok(_)) => {}
        Some(Err(failure)) => return Err(link.error("attaching to", failure)),
        None => return Err(link.died("attaching to")),
    }
    let (read, write) = stream.into_split();
    let output = OutputStream { read, received, ended: false };
    Ok(AttachStream { output, input: StdinWriter { write: Some(write) } })
}

/// The output half of an attached client: a stream of chunks. Who stops
/// reading it holds the process up when its buffers are full.
#[derive(Debug)]
pub struct OutputStream {
    read: OwnedReadHalf,
    received: BytesMut,
    ended: bool,
}

impl OutputStream {
    /// The next chunk that was received whole, or `Ready(None)` at the end.
    fn take(&mut self) -> Poll<Option<(StdStream, Bytes)>> {
        loop {
            let (kind, length) = match parse(&self.received) {
                Parsed::Incomplete => return Poll::Pending,
                Parsed::Frame { kind, payload, .. } => (kind, payload.len()),
                Parsed::Invalid => (Kind::OutputEnd, 0),
            };
            let stream = match kind {
                Kind::Stdout => StdStream::Stdout,
                Kind::Stderr => StdStream::Stderr,
                _ => {
                    self.ended = true;
                    return Poll::Ready(None);
                }
            };
            self.received.advance(HEADER);
            let bytes = self.received.split_to(length).freeze();
            if !bytes.is_empty() {
                return Poll::Ready(Some((stream, bytes)));
            }
        }
    }
}

impl Stream for OutputStream {
    type Item = (StdStream, Bytes);

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if this.ended {
                return Poll::Ready(None);
            }
            if let ready @ Poll::Ready(_) = this.take() {
                return ready;
            }
            let start = this.received.len();
            this.received.resize(start + CHUNK, 0);
            let mut space = ReadBuf::new(&mut this.received[start..]);
            let polled = Pin::new(&mut this.read).poll_read(cx, &mut space);
            let count = space.filled().len();
            this.received.truncate(start + count);
            // A shim that was killed ends the output, too.
            if ready!(polled).is_err() || count == 0 {
                this.ended = true;
            }
        }
    }
}

/// The input half of an attached client.
#[derive(Debug)]
pub struct StdinWriter {
    /// `None` once it was closed.
    write: Option<OwnedWriteHalf>,
}

impl StdinWriter {
    /// Sends `bytes` to the process; waits when it does not read.
    ///
    /// # Errors
    /// When the process has ended, the shim is gone, or the input was closed.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), RuntimeError> {
        let Some(write) = &mut self.write else {
            return Err(input_error(std::io::Error::from(std::io::ErrorKind::BrokenPipe)));
        };
        for part in bytes.chunks(INPUT_CHUNK) {
            write.write_all(&header(Kind::Stdin, part.len())).await.map_err(input_error)?;
            write.write_all(part).await.map_err(input_error)?;
        }
        Ok(())
    }

    /// Says that nothing more comes. Can be repeated.
    ///
    /// # Errors
    /// When the shim is gone.
    pub async fn close(&mut self) -> Result<(), RuntimeError> {
        match self.write.take() {
            Some(mut write) => {
                write.write_all(&header(Kind::StdinEnd, 0)).await.map_err(input_error)
            }
            None => Ok(()),
        }
    }
}

fn input_error(error: std::io::Error) -> RuntimeError {
    RuntimeError::io("writing to", "standard input", error)
}
