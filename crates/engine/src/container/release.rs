//! Taking away what a run of a container had: processes, network, mounts.
//!
//! Be aware: nothing here stops at a failure; what went wrong is logged, and
//! tried again by the next start, removal or start of the daemon.

use sampan_sys::mount;

use super::namespaces::{shares_shm, shm_path};
use super::owners::unmount_owned;
use crate::Engine;
use crate::error::Result;
use crate::record::{ContainerRecord, MountKind, NetworkMode};

impl Engine {
    /// Releases everything of a record's run. Repeatable; an unfinished start
    /// is released the same way. Says whether the network stays, because
    /// others use it: then the record keeps it.
    pub(crate) async fn release_run(&self, record: &ContainerRecord) -> bool {
        crate::fault!("exit:before-cleanup");
        let kept = self.keeps_network(record);
        let network = async {
            if !kept {
                self.leave_network(record).await;
            }
        };
        let rest = async {
            note(record, "processes", self.inner.runtime.cleanup(&record.id).await);
            crate::fault!("exit:after-cleanup");
            self.unmount_all(record).await;
            crate::fault!("exit:after-unmount");
        };
        tokio::join!(network, rest);
        kept
    }

    /// Takes a run's sandbox away and gives its addresses and ports back.
    pub(super) async fn leave_network(&self, record: &ContainerRecord) {
        if let Some(sandbox) = &record.networking.sandbox {
            note(record, "network", self.inner.networks.leave(sandbox).await);
            crate::fault!("exit:after-leave");
        }
        if !matches!(record.networking.mode, NetworkMode::Container(_)) {
            self.give_back(&record.id, &record.networking);
        }
    }

    /// Unmounts the root, the volumes and a shared `/dev/shm`.
    pub(crate) async fn unmount_all(&self, record: &ContainerRecord) {
        if record.mounts.iter().any(|m| m.owner.is_some()) {
            let (of, dir) = (record.clone(), record.data_dir(&self.inner.config.data_root));
            note(record, "owners", self.blocking(move || unmount_owned(&dir, &of)).await);
        }
        for m in record.mounts.iter().filter(|m| m.kind == MountKind::Volume) {
            if let Some(name) = &m.volume {
                let done = self.volume_store().unmount(name.as_str(), record.id.as_str()).await;
                note(record, "volume", done);
            }
        }
        if shares_shm(&record.host_config) {
            let path = shm_path(&record.data_dir(&self.inner.config.data_root));
            let done: Result<()> = self
                .blocking(move || {
                    mount::unmount(&path)
                        .map_err(|e| crate::EngineError::io("unmount", path.display(), e))
                })
                .await;
            note(record, "/dev/shm", done);
        }
        if record.mounts.iter().any(|m| m.image.is_some()) {
            note(record, "image", self.image_store().unmount_views(&record.id).await);
        }
        note(record, "root", self.image_store().unmount(&record.id).await);
    }
}

/// Logs what could not be released.
fn note<T, E: std::fmt::Display>(
    record: &ContainerRecord,
    what: &str,
    result: std::result::Result<T, E>,
) {
    if let Err(error) = result {
        tracing::warn!(container = record.id.short(), what, %error, "not released");
    }
}
