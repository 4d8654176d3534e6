//! Where the files of a repository are kept.
//!
//! The layout is restic's: `config`, `keys/ID`, `snapshots/ID`, `index/ID`,
//! `data/XX/ID`. A [`Store`] knows paths and bytes alone.

pub(crate) mod directory;
mod http_client;
mod rest;
mod s3;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::{BackupError, Location, S3Keys};

/// The directories of a repository; their files are named after their content.
pub(crate) const KINDS: [&str; 5] = ["data", "index", "keys", "locks", "snapshots"];

/// Whether an entry of a directory belongs to no repository that has no
/// configuration yet.
pub(crate) fn is_foreign(name: &str) -> bool {
    !KINDS.contains(&name) && !name.starts_with(directory::TEMPORARY) && name != "lost+found"
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    /// The last part of its path.
    pub(crate) name: String,
    /// In bytes.
    pub(crate) size: u64,
    /// Seconds since 1970, when the storage tells.
    pub(crate) modified: Option<i64>,
}

/// A place for the files of one repository. All calls block; none is made on
/// a thread of an async runtime.
pub(crate) trait Store: Send + Sync {
    /// The place, as errors name it.
    fn location(&self) -> &str;

    /// Makes what must be there before the first file; repeatable.
    fn create(&self) -> Result<(), BackupError>;

    /// The files below the directory `dir`, its own directories included;
    /// none when it does not exist. What is half written is not listed.
    fn list(&self, dir: &str) -> Result<Vec<Stored>, BackupError>;

    /// The size of one file; `None` when there is none.
    fn size(&self, path: &str) -> Result<Option<u64>, BackupError>;

    /// A whole file.
    fn read(&self, path: &str) -> Result<Bytes, BackupError>;

    /// Exactly `length` bytes from `offset`.
    fn read_range(&self, path: &str, offset: u64, length: u64) -> Result<Bytes, BackupError>;

    /// Writes a file: whole and durable when this returns, or not at all.
    fn write(&self, path: &str, content: &[Bytes]) -> Result<(), BackupError>;

    /// Removes a file; that it is absent is success.
    fn remove(&self, path: &str) -> Result<(), BackupError>;

    /// Removes what interrupted writes left.
    fn clear_leftovers(&self) -> Result<(), BackupError>;

    /// Whether reading a little costs as much as reading more of the same
    /// file.
    fn is_remote(&self) -> bool;
}

/// Opens the place. Nothing is read yet.
///
/// # Errors
/// When the keys of S3 are missing or a client can't be made.
pub(crate) fn open(
    location: &Location,
    keys: Option<&S3Keys>,
    certificates: Option<&Path>,
    runtime: &tokio::runtime::Handle,
) -> Result<Arc<dyn Store>, BackupError> {
    Ok(match location {
        Location::Directory(path) => Arc::new(directory::Directory::new(path.clone())),
        Location::S3 { endpoint, bucket, prefix } => Arc::new(s3::S3::open(
            location.to_string(),
            endpoint.as_deref(),
            bucket,
            prefix,
            keys,
            runtime.clone(),
        )?),
        Location::Rest { url } => {
            Arc::new(rest::Rest::open(location.to_string(), url, certificates, runtime.clone())?)
        }
    })
}
