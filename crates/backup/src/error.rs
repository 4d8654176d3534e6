//! What can go wrong with a backup.

use std::io;
use std::path::PathBuf;

use rustic_core::RusticError;
use sampan_types::{ErrorKind, Kind};

/// An error of this crate. The messages never hold a secret.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The name of a repository has a form that is not known.
    #[error(
        "repository {given:?}: {reason}: write /a/directory, s3://BUCKET/PREFIX, \
         s3:https://HOST/BUCKET/PREFIX, sampan://HOST/VOLUME or rest:https://HOST/PATH"
    )]
    Location {
        /// What was given.
        given: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A retention rule has a form that is not known.
    #[error(
        "retention {given:?}: {reason}: write numbers with units, e.g. 24h,7d,4w,12m,2y, or 10 \
         for the last ten"
    )]
    Retention {
        /// What was given.
        given: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A schedule has a form that is not known.
    #[error(
        "schedule {given:?}: {reason}: write @hourly, @daily, @weekly or cron's five fields, e.g. \
         \"30 2 * * *\""
    )]
    Schedule {
        /// What was given.
        given: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file with the secret or with the keys of S3 is not as it must be.
    #[error("file {}: {reason}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no repository at the place.
    #[error("repository {location}: there is none; the first backup makes it")]
    NoRepository {
        /// The repository.
        location: String,
    },
    /// The secret opens no key of the repository.
    #[error(
        "repository {location}: the passphrase is wrong: use the one that the repository was made \
         with"
    )]
    WrongSecret {
        /// The repository.
        location: String,
    },
    /// No snapshot has the id.
    #[error("repository {location}: no backup {wanted}; `backup ls` shows those that exist")]
    NoSnapshot {
        /// The repository.
        location: String,
        /// What was asked for.
        wanted: String,
    },
    /// The storage refuses.
    #[error("repository {location}: can't {operation} {object}: {reason}")]
    Storage {
        /// The repository.
        location: String,
        /// What was done.
        operation: &'static str,
        /// The file of the repository.
        object: String,
        /// Why it failed.
        reason: String,
        /// Whether the object is not there.
        absent: bool,
    },
    /// Another program has the repository locked.
    #[error(
        "repository {location}: restic holds the lock {lock}: wait until it has finished, or \
         remove a forgotten one with `restic unlock`"
    )]
    Locked {
        /// The repository.
        location: String,
        /// The name of the lock.
        lock: String,
    },
    /// A file system refuses.
    #[error("can't {operation} {}: {source}", path.display())]
    Io {
        /// What was done.
        operation: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The caller wants no more.
    #[error("cancelled")]
    Cancelled,
    /// What the format's library says.
    #[error("repository {location}: {reason}")]
    Repository {
        /// The repository.
        location: String,
        /// What it says.
        reason: String,
    },
}

impl BackupError {
    /// For `map_err`: names the operation and the file.
    pub(crate) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }

    /// Whether the object of the storage is absent.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Storage { absent: true, .. })
    }

    /// One line of what the library tells in many.
    pub(crate) fn library(location: &str, error: &RusticError) -> Self {
        let location = location.to_owned();
        if error.is_incorrect_password() {
            return Self::WrongSecret { location };
        }
        let text = error.display_log();
        let reason = text.strip_prefix("Error: ").unwrap_or(&text).trim().replace('\n', " ");
        Self::Repository { location, reason }
    }
}

impl Kind for BackupError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Location { .. }
            | Self::Retention { .. }
            | Self::Schedule { .. }
            | Self::Credentials { .. } => ErrorKind::InvalidParameter,
            Self::NoRepository { .. } | Self::NoSnapshot { .. } => ErrorKind::NotFound,
            Self::WrongSecret { .. } => ErrorKind::Forbidden,
            Self::Locked { .. } => ErrorKind::Conflict,
            Self::Cancelled => ErrorKind::Unavailable,
            Self::Storage { .. } | Self::Io { .. } | Self::Repository { .. } => ErrorKind::System,
        }
    }
}
