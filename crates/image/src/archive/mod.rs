//! Files out of and into a container's file system as tar archives, for
//! `docker cp`, volumes that are filled from the image, and export.
//!
//! Be aware:
//! - The root may be that of a running, hostile container. Paths are resolved
//!   by the kernel within the root, links included; what is there may change
//!   at any time, and no change of it leads outside.
//! - The root is given as an open directory, so that it can be
//!   `/proc/<pid>/root` as well as a mounted snapshot.

mod copy;
mod place;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use sampan_sys::{fsid, inroot};
use sampan_types::{ErrorKind, Kind, Timestamp};
use thiserror::Error;
use tokio::io::AsyncRead;

use place::Place;

use crate::stream::{blocking_reader, produce};
use crate::tarball::{Policy, TarReader, TreeWriter, decompress, unpack};
use crate::{ByteStream, Limits};

/// Why an archive, or a path in a container, was refused.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// The path doesn't exist in the container.
    #[error("Could not find the file {path} in container {container}")]
    NoSuchFile {
        /// The path as it was asked for.
        path: String,
        /// Filled in by the caller who knows the container.
        container: String,
    },
    /// A directory was needed, by the path's form or the operation.
    #[error("{0}: not a directory")]
    NotADirectory(String),
    /// The path to unpack at is not a directory.
    #[error("extraction point is not a directory")]
    ExtractionPoint,
    /// A directory would replace a file, or a file a directory.
    #[error("cannot overwrite {existing} {path:?} with {new}")]
    Overwrite {
        /// What is there: `directory` or `non-directory`.
        existing: &'static str,
        /// Where.
        path: String,
        /// What the archive has.
        new: &'static str,
    },
    /// The archive has not the form of a tar archive.
    #[error("invalid tar archive: {0}")]
    Malformed(String),
    /// An entry asks for something that archives may not have.
    #[error("refused archive entry {entry:?}: {reason}")]
    Refused {
        /// The entry's path.
        entry: String,
        /// Why.
        reason: String,
    },
    /// The archive asks for more than the limits allow.
    #[error("archive refused: {0}")]
    TooLarge(String),
    /// The disk is full.
    #[error("no space left on device while writing {0}")]
    NoSpace(String),
    /// The file system, or the stream of the archive, failed.
    #[error("{operation} {path:?}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which path within the root.
        path: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The worker died.
    #[error("the operation was interrupted")]
    Interrupted,
}

impl ArchiveError {
    /// Names the container in the error, which this crate doesn't know.
    #[must_use]
    pub fn in_container(self, name: &str) -> Self {
        match self {
            Self::NoSuchFile { path, .. } => Self::NoSuchFile { path, container: name.to_owned() },
            other => other,
        }
    }

    /// An I/O failure; one that carries an error of this type is that error,
    /// and a full disk is told apart.
    pub(crate) fn from_io(operation: &'static str, path: &str, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(code) if code == Errno::ENOSPC as i32 || code == Errno::EDQUOT as i32 => {
                return Self::NoSpace(path.to_owned());
            }
            Some(code) if code == Errno::EOVERFLOW as i32 => {
                return Self::Refused {
                    entry: path.to_owned(),
                    reason: "nothing there can belong to its owner: name a path within the mount \
                             that has other owners (idmap)"
                        .to_owned(),
                };
            }
            _ => {}
        }
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(source) => Self::Io { operation, path: path.to_owned(), source },
        }
    }
}

impl Kind for ArchiveError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchFile { .. } => ErrorKind::NotFound,
            Self::NotADirectory(_)
            | Self::ExtractionPoint
            | Self::Overwrite { .. }
            | Self::Malformed(_)
            | Self::Refused { .. }
            | Self::TooLarge(_) => ErrorKind::InvalidParameter,
            Self::NoSpace(_) | Self::Io { .. } | Self::Interrupted => ErrorKind::System,
        }
    }
}

/// What is at a path: the header `X-Docker-Container-Path-Stat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// The last part of the path.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Type and permissions as Go's `os.FileMode` has them.
    pub mode: u32,
    /// When it was last changed.
    pub mtime: Timestamp,
    /// Where a symbolic link leads, within the root; empty otherwise.
    pub link_target: String,
}

/// How to unpack an archive into a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExtractOptions {
    /// Refuse to replace a directory by something else, and the reverse.
    pub no_overwrite_dir_non_dir: bool,
    /// Keep the archive's owners; otherwise everything belongs to `owner`.
    pub copy_uid_gid: bool,
    /// Whom new files belong to when the archive's owners aren't kept.
    pub owner: (u32, u32),
    /// For a mount that shows other owners than its source has.
    pub stand_in: Option<StandIn>,
    /// Bounds on the archive.
    pub limits: Limits,
}

/// The one user and the one group that have no counterpart in a mount with
/// other owners, since they are shown as somebody else, and who that is: what
/// would be the former's becomes the latter's, who make all the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandIn {
    /// User and group as the source has them.
    pub stored: (u32, u32),
    /// Who they are in the mount.
    pub shown: (u32, u32),
}

impl StandIn {
    /// Who can own what `owner` would.
    pub(crate) fn of(self, owner: (u32, u32)) -> (u32, u32) {
        (
            if owner.0 == self.stored.0 { self.shown.0 } else { owner.0 },
            if owner.1 == self.stored.1 { self.shown.1 } else { owner.1 },
        )
    }
}

/// What is at `path` within `root`. The path may be relative (to the root); a
/// final symbolic link is not followed unless the path ends in `/` or `/.`.
///
/// # Errors
/// [`ArchiveError::NoSuchFile`], [`ArchiveError::NotADirectory`].
pub async fn stat(root: PathBuf, path: &str) -> Result<PathStat, ArchiveError> {
    let path = path.to_owned();
    blocking(move || Ok(Place::find(&root, &path)?.stat)).await
}

/// The file or tree at `path` within `root` as a tar archive, as Docker's
/// `GET /containers/{id}/archive` gives it: entries begin with the last part of
/// the path, or with `./` for its content when it ends in `/.`.
///
/// # Errors
/// As [`stat`]; errors after the first byte end the stream.
pub async fn read(root: PathBuf, path: &str) -> Result<(PathStat, ByteStream), ArchiveError> {
    let path = path.to_owned();
    let place = blocking(move || Place::find(&root, &path)).await?;
    let stream = produce(move |out| {
        let mut tree = TreeWriter::new(out);
        tree.tree(place.fd, &place.archive_name)?;
        tree.finish()?;
        Ok(())
    });
    Ok((place.stat, stream))
}

/// Unpacks `archive` (compressed or not) into the directory `path` within
/// `root`, as Docker's `PUT /containers/{id}/archive` does.
///
/// # Errors
/// [`ArchiveError`] of every kind; what was unpacked before stays.
pub async fn write<R>(
    root: PathBuf,
    path: &str,
    options: ExtractOptions,
    archive: R,
) -> Result<(), ArchiveError>
where
    R: AsyncRead + Unpin + Send + 'static,
{
    let path = path.to_owned();
    let input = blocking_reader(archive);
    blocking(move || {
        let root = open_root(&root)?;
        let target = PathBuf::from(&path);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        match inroot::open_in_root(&root, &target, flags, Mode::empty()) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                return Err(ArchiveError::ExtractionPoint);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(ArchiveError::NoSuchFile { path, container: String::new() });
            }
            Err(e) => return Err(ArchiveError::from_io("open", &path, e)),
        }
        let (plain, _) = decompress(input, options.limits)?;
        let mut reader = TarReader::new(plain, options.limits);
        let policy = Policy {
            layer: false,
            root: false,
            owner: (!options.copy_uid_gid).then_some(options.owner),
            no_overwrite_dir_non_dir: options.no_overwrite_dir_non_dir,
            stand_in: options.stand_in,
        };
        let _acting = match options.stand_in {
            Some(StandIn { shown: (user, group), .. }) => Some(
                fsid::act_as(user, group)
                    .map_err(|e| ArchiveError::from_io("act as the owner of", &path, e))?,
            ),
            None => None,
        };
        unpack(&mut reader, &root, &target, policy, options.limits).map(|_| ())
    })
    .await
}

/// Copies the content of the directory `path` within `root` to the directory
/// `target`, with owners, modes, times, links and attributes: how a new volume
/// is filled from the image. Nothing happens when `path` is not a directory.
///
/// # Errors
/// Those of the file systems.
pub async fn copy_out(root: PathBuf, path: &Path, target: &Path) -> Result<(), ArchiveError> {
    let (path, target) = (path.to_owned(), target.to_owned());
    blocking(move || copy::directory(&root, &path, &target)).await
}

/// Reads an archive, compressed or not, to its end without making anything of
/// it, and gives the number of its entries. Blocks.
///
/// # Errors
/// [`ArchiveError::Malformed`] or [`ArchiveError::TooLarge`].
pub fn check<R: io::Read + Send + 'static>(
    archive: R,
    limits: Limits,
) -> Result<u64, ArchiveError> {
    let (plain, _) = decompress(archive, limits)?;
    let mut reader = TarReader::new(plain, limits);
    let mut entries = 0;
    while reader.next()?.is_some() {
        entries += 1;
    }
    Ok(entries)
}

fn open_root(root: &Path) -> Result<OwnedFd, ArchiveError> {
    inroot::open_root(root)
        .map_err(|e| ArchiveError::from_io("open the root", &root.to_string_lossy(), e))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArchiveError> + Send + 'static,
) -> Result<T, ArchiveError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ArchiveError::Interrupted)?
}
