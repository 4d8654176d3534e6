//! A container's shim, as the daemon sees it.

use sampan_types::{ContainerId, Timestamp};

use super::attach::{AttachOptions, AttachStream};
use super::types::ExitStatus;
use crate::error::RuntimeError;

/// A connection to a container's shim. Clones share it.
#[derive(Debug, Clone)]
pub struct Shim {}

impl Shim {
    /// The container's id.
    #[must_use]
    pub fn id(&self) -> &ContainerId {
        todo!()
    }

    /// The process id of the container's init, on the host.
    #[must_use]
    pub fn pid(&self) -> u32 {
        todo!()
    }

    /// Which start of the container this is.
    #[must_use]
    pub fn generation(&self) -> u64 {
        todo!()
    }

    /// When the container was started; `None` when it only was created.
    #[must_use]
    pub fn started(&self) -> Option<Timestamp> {
        todo!()
    }

    /// Runs the user's program and answers when that was.
    ///
    /// # Errors
    /// When it already runs, or the program can't be executed.
    pub async fn start(&self) -> Result<Timestamp, RuntimeError> {
        todo!()
    }

    /// Sends a signal to the container's init.
    ///
    /// # Errors
    /// [`RuntimeError::NotRunning`] when it has ended.
    pub async fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        let _ = signal;
        todo!()
    }

    /// Gives the terminal a new size.
    ///
    /// # Errors
    /// When there is no terminal.
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<(), RuntimeError> {
        let _ = (rows, columns);
        todo!()
    }

    /// Attaches a client to the standard streams. Before the start, it sees
    /// the first byte.
    ///
    /// # Errors
    /// When the shim is gone.
    pub async fn attach(&self, options: AttachOptions) -> Result<AttachStream, RuntimeError> {
        let _ = options;
        todo!()
    }

    /// Waits until the container has ended and its output is in the log and
    /// was handed to the attached clients. Many may wait; a wait can be
    /// dropped. When the shim was killed, the container is killed and the
    /// code is 137 with [`ExitStatus::error`] set.
    pub async fn wait(&self) -> ExitStatus {
        todo!()
    }

    /// Kills the container, if it still is there, and ends the shim.
    ///
    /// # Errors
    /// When the shim does not end.
    pub async fn delete(&self) -> Result<(), RuntimeError> {
        todo!()
    }
}
