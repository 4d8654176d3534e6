//! Snapshots: the file system of a container, its image's layers below and a
//! writable directory of its own above, joined by overlayfs.

use std::collections::HashSet;
use std::path::PathBuf;

use sampan_types::{ContainerId, ImageId};

use crate::{ByteStream, ImageError, Images};

/// What happened to a path since the container was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// Changed (0 in the API).
    Modified,
    /// Is new (1).
    Added,
    /// Is gone (2).
    Deleted,
}

/// The directories of a snapshot, as `docker inspect` shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotPaths {
    /// The layers, topmost first.
    pub lower: Vec<PathBuf>,
    /// What the container wrote.
    pub upper: PathBuf,
    /// Overlayfs' own.
    pub work: PathBuf,
    /// Where it is mounted.
    pub merged: PathBuf,
}

impl Images {
    /// Makes the directories of a container's file system; its layers stay
    /// from now on, whatever happens to the image. Repeatable.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] when the image doesn't exist; those of the file
    /// system.
    pub async fn prepare(&self, id: &ContainerId, image: &ImageId) -> Result<(), ImageError> {
        todo!()
    }

    /// Mounts a container's file system and gives the place. Repeatable.
    ///
    /// # Errors
    /// [`ImageError::NoSnapshot`]; those of mount(2).
    pub async fn mount(&self, id: &ContainerId) -> Result<PathBuf, ImageError> {
        todo!()
    }

    /// Takes the mount away. Repeatable.
    ///
    /// # Errors
    /// Those of umount(2).
    pub async fn unmount(&self, id: &ContainerId) -> Result<(), ImageError> {
        todo!()
    }

    /// Removes a container's file system. Repeatable. The files go in the
    /// background; layers that nothing else needs go too.
    ///
    /// # Errors
    /// Those of the file system.
    pub async fn discard(&self, id: &ContainerId) -> Result<(), ImageError> {
        todo!()
    }

    /// The directories of a container's file system.
    ///
    /// # Errors
    /// [`ImageError::NoSnapshot`].
    pub fn snapshot(&self, id: &ContainerId) -> Result<SnapshotPaths, ImageError> {
        todo!()
    }

    /// What the container changed, sorted by path; paths are absolute.
    ///
    /// # Errors
    /// [`ImageError::NoSnapshot`]; those of the file system.
    pub async fn changes(
        &self,
        id: &ContainerId,
    ) -> Result<Vec<(ChangeKind, PathBuf)>, ImageError> {
        todo!()
    }

    /// Bytes that the container wrote (`SizeRw`).
    ///
    /// # Errors
    /// [`ImageError::NoSnapshot`]; those of the file system.
    pub async fn upper_size(&self, id: &ContainerId) -> Result<u64, ImageError> {
        todo!()
    }

    /// Bytes of the container's whole file system (`SizeRootFs`).
    ///
    /// # Errors
    /// As [`Images::upper_size`].
    pub async fn root_size(&self, id: &ContainerId) -> Result<u64, ImageError> {
        todo!()
    }

    /// The container's whole file system as a tar archive. It is mounted for
    /// the duration if it isn't.
    ///
    /// # Errors
    /// [`ImageError::NoSnapshot`]; those of mount(2).
    pub async fn export(&self, id: &ContainerId) -> Result<ByteStream, ImageError> {
        todo!()
    }

    /// Removes the file systems of containers that don't exist.
    ///
    /// # Errors
    /// Those of the file system, after all were tried.
    pub async fn sweep(&self, keep: &HashSet<ContainerId>) -> Result<(), ImageError> {
        todo!()
    }
}
