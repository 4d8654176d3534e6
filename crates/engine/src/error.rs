//! What can go wrong, with Docker's words where clients match on them.

use std::error::Error as StdError;

use sampan_types::{ContainerId, ErrorKind, Kind};
use thiserror::Error;

use crate::container::CallOff;

/// The engine's result.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// Why the engine did not do as asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// No container has this name, id or beginning of an id.
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    /// No exec process has this id.
    #[error("No such exec instance: {0}")]
    NoSuchExec(String),
    /// Several ids begin with this text.
    #[error("multiple IDs found with provided prefix: {0}")]
    AmbiguousPrefix(String),
    /// The name belongs to another container.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameInUse {
        /// The wanted name.
        name: String,
        /// Who has it.
        owner: ContainerId,
    },
    /// The operation needs a running container.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// The operation needs a container that is not paused.
    #[error("container {0} is paused, unpause the container before exec")]
    PausedExec(String),
    /// The container waits for its next start by the restart policy.
    #[error("container {0} is restarting, wait until the container is running")]
    Restarting(String),
    /// Nothing to do: the object is already as wanted.
    #[error("{0}")]
    NotModified(String),
    /// The request is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The object's state or another object forbids it.
    #[error("{0}")]
    Conflict(String),
    /// It waited for a volume, and somebody called it off.
    #[error("the {operation} of container {container} was cancelled: {why}")]
    CalledOff {
        /// `start`, `creation` or `copy`.
        operation: &'static str,
        /// The container's name.
        container: String,
        /// Why.
        why: CallOff,
    },
    /// Something that the request names is not there.
    #[error("{0}")]
    NotFound(String),
    /// This engine does not do that.
    #[error("{0}")]
    NotSupported(String),
    /// The container could not be started.
    #[error("{message}")]
    Start {
        /// What kind of failure, for the status code.
        kind: ErrorKind,
        /// Docker's exit code: 125, 126, 127 or 128.
        exit_code: i32,
        /// Why, as `State.Error` shows it.
        message: String,
    },
    /// One of the engine's parts failed; its message says which and why.
    #[error("{context}{source}")]
    Part {
        /// What kind of failure.
        kind: ErrorKind,
        /// Said before the part's own message; empty or ending in `: `.
        context: String,
        /// The part's error.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The operating system refused something.
    #[error("{operation} {object}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        object: String,
        /// The cause.
        source: std::io::Error,
    },
    /// A task of the engine ended by a fault of the program.
    #[error("the engine failed: {0}; this is a fault of the program, please report it")]
    Fault(String),
    /// The daemon is going down.
    #[error("the daemon is shutting down")]
    ShuttingDown,
}

impl Kind for EngineError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchContainer(_) | Self::NoSuchExec(_) | Self::NotFound(_) => {
                ErrorKind::NotFound
            }
            Self::AmbiguousPrefix(_) | Self::Invalid(_) => ErrorKind::InvalidParameter,
            Self::NameInUse { .. }
            | Self::NotRunning(_)
            | Self::PausedExec(_)
            | Self::Restarting(_)
            | Self::CalledOff { .. }
            | Self::Conflict(_) => ErrorKind::Conflict,
            Self::NotModified(_) => ErrorKind::NotModified,
            Self::NotSupported(_) => ErrorKind::NotImplemented,
            Self::Start { kind, .. } | Self::Part { kind, .. } => *kind,
            Self::Io { .. } | Self::Fault(_) => ErrorKind::System,
            Self::ShuttingDown => ErrorKind::Unavailable,
        }
    }
}

impl EngineError {
    /// An error of a part, with its own words and kind.
    pub fn part<E: Kind + StdError + Send + Sync + 'static>(source: E) -> Self {
        Self::Part { kind: source.kind(), context: String::new(), source: Box::new(source) }
    }

    /// An error of the operating system.
    pub fn io(
        operation: &'static str,
        object: impl std::fmt::Display,
        source: std::io::Error,
    ) -> Self {
        Self::Io { operation, object: object.to_string(), source }
    }

    /// Puts words before the message and keeps the kind.
    #[must_use]
    pub fn context(self, context: impl std::fmt::Display) -> Self {
        Self::Part { kind: self.kind(), context: format!("{context}: "), source: Box::new(self) }
    }
}

macro_rules! parts {
    ($($error:ty),* $(,)?) => {
        $(impl From<$error> for EngineError {
            fn from(e: $error) -> Self {
                Self::part(e)
            }
        })*
    };
}

parts!(
    sampan_store::StoreError,
    sampan_image::ImageError,
    sampan_volume::VolumeError,
    sampan_backup::BackupError,
    sampan_net::NetError,
    sampan_net::PortError,
    sampan_runtime::RuntimeError,
    sampan_runtime::cgroup::CgroupError,
    sampan_runtime::spec::SpecError,
    sampan_runtime::user::UserError,
    sampan_runtime::signal::SignalError,
    sampan_runtime::logs::LogOptError,
    crate::filters::FilterError,
    crate::record::RecordError,
);

impl From<crate::container::validate::Refusal> for EngineError {
    fn from(e: crate::container::validate::Refusal) -> Self {
        Self::Invalid(e.0)
    }
}

impl From<crate::container::mounts::MountError> for EngineError {
    fn from(e: crate::container::mounts::MountError) -> Self {
        match e {
            crate::container::mounts::MountError::Unsupported(text) => Self::NotSupported(text),
            other => Self::Invalid(other.to_string()),
        }
    }
}
