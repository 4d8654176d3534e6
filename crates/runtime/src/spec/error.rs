//! Why a container can't be made as asked.

use sampan_types::{ErrorKind, Kind};
use thiserror::Error;

/// Why a container can't be made as asked. The message is what the client
/// shows; where Docker has words for it, they are Docker's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpecError {
    /// An option's value is wrong.
    #[error("{0}")]
    Invalid(String),
    /// Two options exclude each other.
    #[error("{0}")]
    Conflict(String),
    /// The option is understood, but this engine or this kernel has no such thing.
    #[error("{0}")]
    Unsupported(String),
    /// A device of the host can't be used.
    #[error("{0}")]
    Device(String),
}

impl Kind for SpecError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(_) | Self::Conflict(_) => ErrorKind::InvalidParameter,
            Self::Unsupported(_) => ErrorKind::NotImplemented,
            Self::Device(_) => ErrorKind::System,
        }
    }
}
