//! What can go wrong with images.

use std::io;
use std::path::{Path, PathBuf};

use sampan_types::{ErrorKind, Kind};
use thiserror::Error;

use crate::archive::ArchiveError;
use crate::{ChangeError, Digest, DigestError, ReferenceError};

/// Why an operation on images failed.
#[derive(Debug, Error)]
pub enum ImageError {
    /// No image has this name or id.
    #[error("No such image: {0}")]
    NotFound(String),
    /// The content is not in the store.
    #[error("blob {0} is not in the content store")]
    NoBlob(Digest),
    /// No snapshot exists for the container.
    #[error("no file system of container {0} exists")]
    NoSnapshot(String),
    /// A short id that more than one image has.
    #[error("ambiguous image id {0:?}: more than one image begins with it")]
    Ambiguous(String),
    /// The name is not a reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The text is not a digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// A `--change` is wrong.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The state of the image forbids it; the text is Docker's.
    #[error("{0}")]
    Conflict(String),
    /// The request is wrong.
    #[error("{0}")]
    Invalid(String),
    /// Content is not what its digest says.
    #[error("{what} has digest {actual}, expected {expected}")]
    DigestMismatch {
        /// What was read.
        what: String,
        /// What it should have been.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// Content has not the length that its descriptor says.
    #[error("{what} has {actual} bytes, expected {expected}")]
    SizeMismatch {
        /// What was read.
        what: String,
        /// The length that was announced.
        expected: u64,
        /// The length that was found, or was reached when it was cut off.
        actual: u64,
    },
    /// An image archive, manifest or configuration is broken.
    #[error("invalid image: {0}")]
    Broken(String),
    /// A tar archive is broken or hostile, or a path in a container is wrong.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The file system failed.
    #[error("{operation} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The caller's stream failed.
    #[error("reading the request: {0}")]
    Input(#[source] io::Error),
    /// This engine does not do that.
    #[error("{0}")]
    NotImplemented(String),
    /// The engine is stopping, or a worker died.
    #[error("the operation was interrupted")]
    Interrupted,
}

impl ImageError {
    /// For `map_err`: an I/O failure of `operation` on `path`.
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { operation, path, source }
    }
}

impl Kind for ImageError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) | Self::NoBlob(_) | Self::NoSnapshot(_) => ErrorKind::NotFound,
            Self::Ambiguous(_)
            | Self::Reference(_)
            | Self::Digest(_)
            | Self::Change(_)
            | Self::Invalid(_)
            | Self::DigestMismatch { .. }
            | Self::SizeMismatch { .. }
            | Self::Broken(_)
            | Self::Input(_) => ErrorKind::InvalidParameter,
            Self::Conflict(_) => ErrorKind::Conflict,
            Self::Archive(e) => e.kind(),
            Self::NotImplemented(_) => ErrorKind::NotImplemented,
            Self::Io { .. } | Self::Interrupted => ErrorKind::System,
        }
    }
}
