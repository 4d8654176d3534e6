//! Why an operation on a container's processes failed.

use std::io;

use sampan_types::{ErrorKind, Kind};
use thiserror::Error;

/// Why an operation on a container's processes failed. The texts of the
/// failures of a start are Docker's, because clients match on them.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The program can't be run as asked for: it does not exist (127), or it
    /// is no executable file (126). The request is at fault.
    #[error("{message}")]
    Command {
        /// What `docker run` exits with.
        code: i32,
        /// The whole text, as Docker says it.
        message: String,
    },
    /// The container could not be made for another reason.
    #[error("{message}")]
    Create {
        /// The whole text, as Docker says it.
        message: String,
    },
    /// The request can't be carried out by this engine.
    #[error("{0}")]
    Unsupported(String),
    /// There is no living process with that id.
    #[error("{what} is not running")]
    NotRunning {
        /// `container <id>` or `exec <id>`.
        what: String,
    },
    /// The shim refused a request; its text says why.
    #[error("{operation} {what}: {message}")]
    Refused {
        /// What was asked for: `start`, `signal`, …
        operation: &'static str,
        /// `container <id>` or `exec <id>`.
        what: String,
        /// The shim's reason.
        message: String,
    },
    /// The shim's connection ended in the middle of a request.
    #[error("{operation} {what}: its shim died")]
    ShimDied {
        /// What was asked for.
        operation: &'static str,
        /// `container <id>` or `exec <id>`.
        what: String,
    },
    /// The system refused something.
    #[error("{operation} {object}: {source}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To which file, socket or program.
        object: String,
        /// The system's reason.
        source: io::Error,
    },
}

impl RuntimeError {
    /// The exit code that a container gets when its start failed like this:
    /// 127 for a program that does not exist, 126 for one that can't be run,
    /// 128 for everything else.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Command { code, .. } => *code,
            _ => 128,
        }
    }

    pub(crate) fn io(operation: &'static str, object: impl ToString, source: io::Error) -> Self {
        Self::Io { operation, object: object.to_string(), source }
    }
}

impl Kind for RuntimeError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Command { .. } => ErrorKind::InvalidParameter,
            Self::Unsupported(_) => ErrorKind::NotImplemented,
            Self::NotRunning { .. } => ErrorKind::Conflict,
            Self::Create { .. }
            | Self::Refused { .. }
            | Self::ShimDied { .. }
            | Self::Io { .. } => ErrorKind::System,
        }
    }
}
