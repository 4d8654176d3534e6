//! A further process in a running container, as the daemon sees it.

use sampan_types::{ExecId, Timestamp};

use super::attach::{AttachOptions, AttachStream};
use super::types::ExitStatus;
use crate::error::RuntimeError;

/// A connection to the shim of an exec. Clones share it.
#[derive(Debug, Clone)]
pub struct ExecProcess {}

impl ExecProcess {
    /// The exec's id.
    #[must_use]
    pub fn id(&self) -> &ExecId {
        todo!()
    }

    /// Its process id on the host; `None` before it was started.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        todo!()
    }

    /// Runs the program and answers when that was.
    ///
    /// # Errors
    /// [`RuntimeError::Command`] when the program can't be executed; the exec
    /// is over then.
    pub async fn start(&self) -> Result<Timestamp, RuntimeError> {
        todo!()
    }

    /// Attaches a client to the standard streams; before the start, it sees
    /// the first byte.
    ///
    /// # Errors
    /// When the shim is gone.
    pub async fn attach(&self, options: AttachOptions) -> Result<AttachStream, RuntimeError> {
        let _ = options;
        todo!()
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// [`RuntimeError::NotRunning`] when it has ended or was not started.
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

    /// Waits until the process has ended and its output was handed to the
    /// attached clients.
    pub async fn wait(&self) -> ExitStatus {
        todo!()
    }

    /// Kills the process, if it still is there, and ends its shim.
    ///
    /// # Errors
    /// When the shim does not end.
    pub async fn delete(&self) -> Result<(), RuntimeError> {
        todo!()
    }
}
