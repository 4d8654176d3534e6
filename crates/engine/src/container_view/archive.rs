//! Files into and out of a container, as `docker cp` does.

use std::sync::Arc;

use futures_util::StreamExt as _;
pub use sampan_image::archive::PathStat;
use sampan_image::archive::{self, ArchiveError, ExtractOptions, StandIn};
use sampan_image::{ByteStream, Limits};
use sampan_runtime::user;
use sampan_types::EventType;
use tokio::io::AsyncRead;

use super::attributes;
use super::mounted::{View, mount_of};
use crate::container::Container;
use crate::record::{ContainerRecord, Status};
use crate::{Engine, EngineError, Result};

/// How to unpack into a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ArchiveOptions {
    /// Refuse to replace a directory by something else, and the reverse.
    pub no_overwrite_dir_non_dir: bool,
    /// Let everything belong to the container's user, when it has one.
    /// Otherwise the archive's owners are kept.
    pub copy_uid_gid: bool,
}

impl Engine {
    /// What is at `path` in a container.
    ///
    /// # Errors
    /// No such container or file.
    pub async fn archive_stat(&self, id: &str, path: &str) -> Result<PathStat> {
        let container = self.copyable(id, path)?;
        let view = self.view(&container, path).await?;
        archive::stat(view.root.clone(), &view.path).await.map_err(|e| failed(e, id, path))
    }

    /// What is at `path` in a container, as a tar archive.
    ///
    /// # Errors
    /// No such container or file.
    pub async fn archive_get(&self, id: &str, path: &str) -> Result<(PathStat, ByteStream)> {
        let container = self.copyable(id, path)?;
        let view = self.view(&container, path).await?;
        let read = archive::read(view.root.clone(), &view.path).await;
        let (stat, stream) = read.map_err(|e| failed(e, id, path))?;
        self.copied(&container.record(), "archive-path");
        Ok((stat, holding(stream, view)))
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
        let container = self.copyable(id, path)?;
        let record = container.record();
        check_writable(&record, path)?;
        let name = record.config.user.clone().unwrap_or_default();
        let owner = if options.copy_uid_gid && !name.is_empty() {
            // Its names are in the container's root, wherever the target is.
            // That one's view comes later: a stopped container has one at a time.
            let root = self.view(&container, "/").await?;
            let within = root.root.clone();
            let found = self
                .blocking(move || user::resolve(&within, &name, &[]).map_err(EngineError::part))
                .await?;
            Some((found.uid, found.gid))
        } else {
            None
        };
        let view = self.view(&container, path).await?;
        let extract = ExtractOptions {
            no_overwrite_dir_non_dir: options.no_overwrite_dir_non_dir,
            copy_uid_gid: owner.is_none(),
            owner: owner.unwrap_or_default(),
            stand_in: view.owner.map(|o| StandIn { stored: o.stored, shown: o.shown }),
            limits: Limits::default(),
        };
        let written = archive::write(view.root.clone(), &view.path, extract, archive).await;
        written.map_err(|e| failed(e, id, path))?;
        self.copied(&record, "extract-to-dir");
        Ok(())
    }

    /// The container, when files can be copied from and to it.
    fn copyable(&self, id: &str, path: &str) -> Result<Arc<Container>> {
        let container = self.container(id)?;
        if path.is_empty() {
            return Err(EngineError::Invalid("bad parameter: \"path\" is empty".to_owned()));
        }
        if matches!(container.record().state.status, Status::Removing | Status::Dead) {
            return Err(EngineError::Conflict(format!(
                "container {} is being removed: files can't be copied",
                container.id()
            )));
        }
        Ok(container)
    }

    fn copied(&self, record: &ContainerRecord, action: &str) {
        let id = record.id.as_str();
        self.event_bus().publish(EventType::Container, action, id, attributes(record));
    }
}

/// Refuses targets that the container's own configuration makes read-only.
fn check_writable(record: &ContainerRecord, path: &str) -> Result<()> {
    let refused = match mount_of(record, path) {
        Some((mount, _)) => (!mount.rw).then_some("mounted volume is marked read-only"),
        None => record
            .host_config
            .readonly_rootfs
            .unwrap_or(false)
            .then_some("container rootfs is marked read-only"),
    };
    refused.map_or(Ok(()), |text| Err(EngineError::Invalid(text.to_owned())))
}

/// The stream, with the view kept until it ends or is dropped.
fn holding(stream: ByteStream, view: View) -> ByteStream {
    stream
        .map(move |item| {
            let _kept = &view;
            item
        })
        .boxed()
}

/// The error with the names that the client gave.
fn failed(error: ArchiveError, container: &str, path: &str) -> EngineError {
    EngineError::part(match error {
        ArchiveError::NoSuchFile { .. } => {
            ArchiveError::NoSuchFile { path: path.to_owned(), container: container.to_owned() }
        }
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::record as blank;

    #[test]
    fn a_read_only_root_is_refused() {
        let mut record = blank(&"ab".repeat(32), "web");
        assert!(check_writable(&record, "/etc").is_ok());
        record.host_config.readonly_rootfs = Some(true);
        let error = check_writable(&record, "/etc").unwrap_err();
        assert_eq!(error.to_string(), "container rootfs is marked read-only");
    }
}
