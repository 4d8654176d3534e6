//! Attaching clients to a container's or an exec's standard streams.

use std::future::Future;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use sampan_runtime::{AttachStream, StdStream};
use tokio::sync::oneshot;

use crate::Engine;
use crate::error::Result;

/// What a client asks for when it attaches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// Stay attached to what comes.
    pub stream: bool,
    /// First replay the log.
    pub logs: bool,
    /// Send standard input.
    pub stdin: bool,
    /// Receive standard output.
    pub stdout: bool,
    /// Receive standard error.
    pub stderr: bool,
    /// Keys that detach, as `ctrl-p,ctrl-q`; `None`: the default when there
    /// is a terminal.
    pub detach_keys: Option<String>,
}

/// The two directions of an attached client.
pub struct Attachment {
    /// Whether there is a terminal: then the output is raw, not multiplexed.
    pub tty: bool,
    /// What the process writes. Ends when the process has ended, or when the
    /// client has typed the detach keys.
    pub output: BoxStream<'static, (StdStream, Bytes)>,
    /// What the process reads.
    pub input: AttachInput,
}

/// What became of bytes that a client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// They went to the process, or wait for the rest of the detach keys.
    Passed,
    /// The detach keys were typed: the client is detached, the output ends.
    Detached,
}

/// The input half of an attached client. Dropping it leaves the container
/// alone, but see `StdinOnce`.
pub struct AttachInput {}

impl AttachInput {
    /// Sends bytes to the process; waits for its start, and while it does not
    /// read.
    ///
    /// # Errors
    /// When the process has ended.
    pub async fn write(&mut self, bytes: Bytes) -> Result<Written> {
        let _ = bytes;
        todo!()
    }

    /// Says that nothing more comes.
    ///
    /// # Errors
    /// When the process has ended.
    pub async fn close(&mut self) -> Result<()> {
        todo!()
    }
}

/// A client that attached before the start.
#[derive(Debug)]
pub struct Waiting {
    /// Which streams it wants.
    pub(crate) options: sampan_runtime::AttachOptions,
    /// Where its streams are handed over.
    pub(crate) ready: oneshot::Sender<AttachStream>,
}

impl Engine {
    /// Attaches to a container, also before it is started.
    ///
    /// # Errors
    /// No such container; it is paused or about to restart.
    pub fn container_attach(
        &self,
        id: &str,
        options: AttachOptions,
    ) -> impl Future<Output = Result<Attachment>> + Send {
        let _ = (id, options);
        async { todo!() }
    }
}
