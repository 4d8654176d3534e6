//! A further process in a running container, as the daemon sees it.

use sampan_types::{ExecId, Timestamp};

use super::attach::{AttachOptions, AttachStream, attach};
use super::link::Link;
use super::types::ExitStatus;
use crate::error::RuntimeError;
use crate::protocol::Op;

/// A connection to the shim of an exec. Clones share it.
#[derive(Debug, Clone)]
pub struct ExecProcess {
    id: ExecId,
    link: Link,
}

impl ExecProcess {
    pub(super) fn new(id: ExecId, link: Link) -> Self {
        Self { id, link }
    }

    /// The exec's id.
    #[must_use]
    pub fn id(&self) -> &ExecId {
        &self.id
    }

    /// Its process id on the host; `None` before it was started.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.link.info().pid
    }

    /// Runs the program and answers when that was.
    ///
    /// # Errors
    /// [`RuntimeError::Command`] when the program can't be executed; the exec
    /// is over then.
    pub async fn start(&self) -> Result<Timestamp, RuntimeError> {
        let info = self.link.ask("starting", Op::Start).await?;
        Ok(info.started.unwrap_or_else(Timestamp::now))
    }

    /// Attaches a client to the standard streams; before the start, it sees
    /// the first byte.
    ///
    /// # Errors
    /// When the shim is gone.
    pub async fn attach(&self, options: AttachOptions) -> Result<AttachStream, RuntimeError> {
        attach(&self.link, options).await
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// [`RuntimeError::NotRunning`] when it has ended or was not started.
    pub async fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        self.link.ask_living("signalling", Op::Signal(signal)).await
    }

    /// Gives the terminal a new size; before the start, its first one.
    ///
    /// # Errors
    /// When there is no terminal.
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<(), RuntimeError> {
        self.link.ask_living("resizing", Op::Resize { rows, columns }).await
    }

    /// Waits until the process has ended and its output was handed to the
    /// attached clients.
    pub async fn wait(&self) -> ExitStatus {
        self.link.wait().await
    }

    /// Kills the process, if it still is there, and ends its shim.
    ///
    /// # Errors
    /// When the shim refuses.
    pub async fn delete(&self) -> Result<(), RuntimeError> {
        self.link.shut_down().await
    }
}
