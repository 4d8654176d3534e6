//! Files into and out of a container, as `docker cp` does.

pub use sampan_image::archive::PathStat;
use sampan_image::ByteStream;
use tokio::io::AsyncRead;

use crate::{Engine, Result};

/// How to unpack into a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ArchiveOptions {
    /// Refuse to replace a directory by something else, and the reverse.
    pub no_overwrite_dir_non_dir: bool,
    /// Keep the archive's owners.
    pub copy_uid_gid: bool,
}

impl Engine {
    /// What is at `path` in a container.
    ///
    /// # Errors
    /// No such container or file.
    pub async fn archive_stat(&self, id: &str, path: &str) -> Result<PathStat> {
        let _ = (id, path);
        todo!()
    }

    /// What is at `path` in a container, as a tar archive.
    ///
    /// # Errors
    /// No such container or file.
    pub async fn archive_get(&self, id: &str, path: &str) -> Result<(PathStat, ByteStream)> {
        let _ = (id, path);
        todo!()
    }

    /// Unpacks a tar archive into the directory `path` of a container.
    ///
    /// # Errors
    /// No such container or directory, a broken or hostile archive, a
    /// read-only target.
    pub async fn archive_put<R>(
        &self,
        id: &str,
        path: &str,
        options: ArchiveOptions,
        archive: R,
    ) -> Result<()>
    where
        R: AsyncRead + Unpin + Send + 'static,
    {
        let _ = (id, path, options, archive);
        todo!()
    }
}
