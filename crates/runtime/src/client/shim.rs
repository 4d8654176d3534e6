//! A container's shim, as the daemon sees it.

use sampan_types::{ContainerId, Timestamp};

use super::attach::{AttachOptions, AttachStream, attach};
use super::link::Link;
use super::types::ExitStatus;
use crate::error::RuntimeError;
use crate::protocol::Op;

/// A connection to a container's shim. Clones share it.
#[derive(Debug, Clone)]
pub struct Shim {
    id: ContainerId,
    link: Link,
}

impl Shim {
    pub(super) fn new(id: ContainerId, link: Link) -> Self {
        Self { id, link }
    }

    /// The container's id.
    #[must_use]
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// The process id of the container's init, on the host.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.link.info().pid.unwrap_or(0)
    }

    /// The process id of the shim itself.
    #[must_use]
    pub fn shim_pid(&self) -> u32 {
        self.link.info().shim
    }

    /// Which start of the container this is.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.link.info().generation
    }

    /// When the container was started; `None` when it only was created.
    #[must_use]
    pub fn started(&self) -> Option<Timestamp> {
        self.link.info().started
    }

    /// Runs the user's program and answers when that was.
    ///
    /// # Errors
    /// When it already runs, or the program can't be executed; the container
    /// is over then.
    pub async fn start(&self) -> Result<Timestamp, RuntimeError> {
        let info = self.link.ask("starting", Op::Start).await?;
        Ok(info.started.unwrap_or_else(Timestamp::now))
    }

    /// Sends a signal to the container's init.
    ///
    /// # Errors
    /// [`RuntimeError::NotRunning`] when it has ended.
    pub async fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        self.link.ask_living("signalling", Op::Signal(signal)).await
    }

    /// Gives the terminal a new size.
    ///
    /// # Errors
    /// When there is no terminal.
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<(), RuntimeError> {
        self.link.ask_living("resizing", Op::Resize { rows, columns }).await
    }

    /// Attaches a client to the standard streams. Before the start, it sees
    /// the first byte.
    ///
    /// # Errors
    /// When the shim is gone.
    pub async fn attach(&self, options: AttachOptions) -> Result<AttachStream, RuntimeError> {
        attach(&self.link, options).await
    }

    /// Waits until the container has ended and its output is in the log and
    /// was handed to the attached clients (to a client that does not read, for
    /// two seconds). Many may wait; a wait can be dropped. When the shim was
    /// killed, the container is killed and the code is 137 with
    /// [`ExitStatus::error`] set.
    pub async fn wait(&self) -> ExitStatus {
        self.link.wait().await
    }

    /// Kills the container, if it still is there, and waits for its end. It
    /// leaves nothing but the directory, which [`crate::Runtime::cleanup`]
    /// removes.
    ///
    /// # Errors
    /// When the shim refuses.
    pub async fn delete(&self) -> Result<(), RuntimeError> {
        self.link.shut_down().await
    }
}
