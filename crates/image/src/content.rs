//! The content store: blobs addressed by their digest.

use std::fs::File;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::{Digest, ImageError, Lease};

/// The blobs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Content {
    root: PathBuf,
}

/// A blob that is arriving. Dropped before [`Ingest::commit`], what has arrived
/// stays and the next ingest of the same digest goes on from there.
#[derive(Debug)]
pub struct Ingest {}

impl Content {
    pub(crate) fn open(root: &Path) -> Result<Self, ImageError> {
        todo!()
    }

    /// Where the blob is, or would be.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        todo!()
    }

    /// The length of the blob, if it is here, whole and verified.
    #[must_use]
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        todo!()
    }

    /// Whether the blob is here, whole and verified.
    #[must_use]
    pub fn contains(&self, digest: &Digest) -> bool {
        self.size(digest).is_some()
    }

    /// Opens the blob for reading.
    ///
    /// # Errors
    /// [`ImageError::NoBlob`] when it is not here.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, ImageError> {
        todo!()
    }

    /// Reads a small blob (a manifest or configuration, 8 MiB at most).
    /// Blocks for one file read.
    ///
    /// # Errors
    /// [`ImageError::NoBlob`] when it is not here; [`ImageError::Broken`] when
    /// it is too large; [`ImageError::DigestMismatch`] when the file was damaged.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        todo!()
    }

    /// Stores a small blob durably and pins it by `lease`.
    ///
    /// # Errors
    /// Those of the file system.
    pub async fn write(&self, lease: &Lease, bytes: Vec<u8>) -> Result<Digest, ImageError> {
        todo!()
    }

    /// Begins, or resumes, the arrival of a blob, and pins it by `lease`. `None`
    /// when it is here already. While another ingest of the same digest is in
    /// progress this waits for its end.
    ///
    /// # Errors
    /// Those of the file system.
    pub async fn ingest(
        &self,
        lease: &Lease,
        digest: &Digest,
        size: Option<u64>,
    ) -> Result<Option<Ingest>, ImageError> {
        todo!()
    }
}

impl Ingest {
    /// How many bytes are here: from where the source should go on.
    #[must_use]
    pub fn offset(&self) -> u64 {
        todo!()
    }

    /// Adds the next bytes. Waits when the disk is slower than the source.
    ///
    /// # Errors
    /// Those of the file system (a full disk among them), and
    /// [`ImageError::SizeMismatch`] when more comes than was announced.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), ImageError> {
        todo!()
    }

    /// Forgets what has arrived, for a source that can't resume.
    ///
    /// # Errors
    /// Those of the file system.
    pub async fn restart(&mut self) -> Result<(), ImageError> {
        todo!()
    }

    /// Verifies digest and size, and makes the blob part of the store, durably.
    ///
    /// # Errors
    /// [`ImageError::DigestMismatch`] (what arrived is removed then) or
    /// [`ImageError::SizeMismatch`] (what arrived is kept when it was too
    /// short); those of the file system.
    pub async fn commit(self) -> Result<(), ImageError> {
        todo!()
    }
}
