//! What a backup reads: the volume itself, or a clone of it that was taken
//! while those who write were held still.

use std::path::PathBuf;

use sampan_types::VolumeName;
use sampan_volume::{CloneSpec, Volume, Watch};

use super::record::Restoring;
use crate::{Engine, Result};

/// A directory that is read, and what ends its use.
pub(super) struct Source {
    pub(super) path: PathBuf,
    volume: VolumeName,
    user: String,
    /// The clone's record.
    clone: Option<Restoring>,
}

impl Engine {
    /// Makes the volume's content reachable for as long as a backup takes.
    pub(super) async fn backup_source(&self, volume: &Volume, freeze: bool) -> Result<Source> {
        if !freeze {
            return self.mount_source(volume.name.clone(), None).await;
        }
        let beside = super::beside("backup", &volume.name)?;
        // Until it is removed again it is like what is half restored.
        let clone = Restoring { beside, to: volume.name.clone(), whole: false };
        self.put_restoring(&clone).await?;
        crate::fault!("volume-backup:after-clone-record");
        let mounted = match self.clone_source(volume, &clone).await {
            Ok(()) => self.mount_source(clone.beside.clone(), Some(clone.clone())).await,
            Err(error) => Err(error),
        };
        if mounted.is_err() {
            self.give_restoring_up(&clone).await;
        }
        mounted
    }

    async fn clone_source(&self, volume: &Volume, clone: &Restoring) -> Result<()> {
        let watch = Watch::default();
        let (engine, from, to) = (self.clone(), volume.name.clone(), clone.beside.clone());
        let work = {
            let watch = watch.clone();
            async move {
                let (store, spec) = (engine.volume_store(), CloneSpec::default());
                store.clone_volume(from.as_str(), None, to.as_str(), &spec, &watch).await?;
                Ok(())
            }
        };
        self.while_still(&volume.name, true, &watch, work).await?;
        crate::fault!("volume-backup:after-clone");
        Ok(())
    }

    pub(super) async fn mount_source(
        &self,
        volume: VolumeName,
        clone: Option<Restoring>,
    ) -> Result<Source> {
        // As a container's id it is unique: two backups are two users.
        let user = format!("backup {}", super::random()?);
        let path = self.volume_store().mount(volume.as_str(), &user).await?;
        Ok(Source { path, volume, user, clone })
    }

    /// Ends that.
    pub(super) async fn release_source(&self, source: Source) {
        let name = source.volume.as_str();
        if let Err(error) = self.volume_store().unmount(name, &source.user).await {
            tracing::warn!(volume = name, %error, "the volume stays mounted until the next start");
        }
        if let Some(clone) = source.clone {
            self.give_restoring_up(&clone).await;
        }
    }
}
