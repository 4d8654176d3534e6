//! Users and groups by name, from the container's own `/etc/passwd` and
//! `/etc/group`.

use std::path::{Path, PathBuf};

use sampan_types::{ErrorKind, Kind};
use thiserror::Error;

/// Who a process in a container runs as.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids, sorted, without the primary one's repetition.
    pub groups: Vec<u32>,
    /// The home directory: `/` when the user has no entry, `/root` for root.
    pub home: PathBuf,
}

/// Why a user can't be resolved.
#[derive(Debug, Error)]
pub enum UserError {
    /// No such user in the image.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    /// No such group in the image.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    /// A number outside of the range of ids.
    #[error("uids and gids must be in range 0-2147483647")]
    Range,
    /// The file can't be read.
    #[error("reading {path} of the container: {source}")]
    Read {
        /// The path in the container.
        path: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

impl Kind for UserError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { .. } => ErrorKind::System,
            _ => ErrorKind::InvalidParameter,
        }
    }
}

/// Resolves `user[:group]` (names or numbers, empty for root) and the
/// additional `groups` in the root file system at `rootfs`. Links in it are
/// followed within it only.
///
/// # Errors
/// [`UserError`]; an absent file counts as an empty one.
pub fn resolve(rootfs: &Path, user: &str, groups: &[String]) -> Result<ResolvedUser, UserError> {
    let _ = (rootfs, user, groups);
    todo!()
}
