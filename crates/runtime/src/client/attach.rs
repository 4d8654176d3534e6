//! A client's connection to a process's standard streams.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;

use crate::error::RuntimeError;
use crate::logs::StdStream;

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
    /// What the process reads.
    pub input: StdinWriter,
}

/// The output half of an attached client: a stream of chunks. Who stops
/// reading it holds the process up when its buffers are full.
#[derive(Debug)]
pub struct OutputStream {}

impl Stream for OutputStream {
    type Item = (StdStream, Bytes);

    fn poll_next(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        todo!()
    }
}

/// The input half of an attached client.
#[derive(Debug)]
pub struct StdinWriter {}

impl StdinWriter {
    /// Sends `bytes` to the process; waits when it does not read.
    ///
    /// # Errors
    /// When the process has ended or the shim is gone.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), RuntimeError> {
        let _ = bytes;
        todo!()
    }

    /// Says that nothing more comes.
    ///
    /// # Errors
    /// When the shim is gone.
    pub async fn close(&mut self) -> Result<(), RuntimeError> {
        todo!()
    }
}
