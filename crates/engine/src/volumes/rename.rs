//! Giving a volume another name, together with the containers that refer to
//! it.
//!
//! Be aware: the volume's directory and the containers' records lie in two
//! stores. What is to be done is written down first, every step can be
//! repeated, and the next daemon finishes what this one did not.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sampan_store::Transaction;
use sampan_types::VolumeName;
use sampan_types::docker::MountType;
use sampan_volume::Volume;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::shown;
use crate::container::Container;
use crate::envelope::Envelope;
use crate::record::ContainerRecord;
use crate::{Engine, EngineError, Result};

/// The store's prefix of renamings that are under way.
const PREFIX: &str = "volume-renames/";
const ENVELOPE: Envelope = Envelope { noun: "rename", version: 1 };

/// A renaming that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Rename {
    old: VolumeName,
    new: VolumeName,
}

impl Engine {
    /// Gives a volume another name. Stopped containers that refer to it refer
    /// to the new name then.
    ///
    /// # Errors
    /// No such volume; the name is wrong or taken; a running container has it
    /// mounted; the driver can't.
    pub async fn volume_rename(&self, old: &str, new: &str) -> Result<Value> {
        let volume = self.volume_store().get(old)?.name;
        let new = self.volume_store().check_rename(old, new)?;
        self.refuse_mounted(&volume, "rename")?;
        let engine = self.clone();
        self.detached(async move {
            let rename = Rename { old: volume, new };
            let key = format!("{PREFIX}{}", rename.old);
            let bytes = ENVELOPE.encode(|| key.clone(), &rename)?;
            engine.store().commit(Transaction::put(key.clone(), bytes)).await?;
            crate::fault!("volume-rename:after-record");
            let done = engine.carry_out(&rename).await;
            engine.store().commit(Transaction::delete(key)).await?;
            let renamed = done?;
            let more = [("oldName", rename.old.as_str())];
            engine.volume_event_with(&renamed, "rename", &more);
            Ok(shown(&renamed))
        })
        .await
    }

    /// Repeatable: the volume first, then all who refer to it.
    async fn carry_out(&self, rename: &Rename) -> Result<Volume> {
        let (old, new) = (rename.old.as_str(), rename.new.as_str());
        // Nobody of them starts while the name changes.
        let users = self.referring_to(&rename.old);
        let mut held = Vec::new();
        for c in &users {
            held.push(c.ops.lock().await);
        }
        let renamed = self.volume_store().rename(old, new).await?;
        crate::fault!("volume-rename:after-volume");
        for c in &users {
            self.refer_to(c, rename, &renamed.mountpoint).await?;
            crate::fault!("volume-rename:after-container");
        }
        drop(held);
        // Those that were being made meanwhile.
        for c in self.referring_to(&rename.old) {
            let _ops = c.ops.lock().await;
            self.refer_to(&c, rename, &renamed.mountpoint).await?;
        }
        Ok(renamed)
    }

    async fn refer_to(&self, c: &Container, rename: &Rename, mountpoint: &Path) -> Result<()> {
        let mountpoint = mountpoint.to_owned();
        self.commit_change(c, |record| change(record, rename, &mountpoint)).await
    }

    /// The containers that refer to a volume, in the order of their ids.
    fn referring_to(&self, volume: &VolumeName) -> Vec<Arc<Container>> {
        let mut users = self.containers();
        users.retain(|c| c.record().mounts.iter().any(|m| m.volume.as_ref() == Some(volume)));
        users.sort_by(|a, b| a.id().as_str().cmp(b.id().as_str()));
        users
    }

    /// Refuses what would pull the rug from under running containers, and
    /// names them.
    pub(super) fn refuse_mounted(&self, volume: &VolumeName, operation: &str) -> Result<()> {
        // One that is being started may wait for the volume, with its lock held.
        let mut running = self.referring_to(volume);
        running.retain(|c| c.record().state.has_process() || c.is_starting());
        let names: Vec<String> = running.iter().map(|c| c.record().name.to_string()).collect();
        if names.is_empty() {
            return Ok(());
        }
        Err(EngineError::Conflict(format!(
            "{operation} {volume}: it is mounted by running containers [{}]: stop them first",
            names.join(", ")
        )))
    }

    /// Finishes the renamings that an earlier daemon began.
    pub(crate) async fn finish_renames(&self) -> Result<()> {
        for (key, value) in self.store().list(PREFIX).await?.entries {
            let rename: Rename = match ENVELOPE.decode(&key, &value.value) {
                Ok(rename) => rename,
                Err(error) => {
                    tracing::error!(%error, "the renaming of a volume is left as it is");
                    continue;
                }
            };
            match self.carry_out(&rename).await {
                Ok(_) => tracing::info!(old = %rename.old, new = %rename.new, "volume renamed"),
                Err(error) => tracing::error!(%error, "a volume keeps its name"),
            }
            self.store().commit(Transaction::delete(key)).await?;
        }
        Ok(())
    }
}

/// Lets a container's record refer to the volume by its new name. Pure.
fn change(record: &mut ContainerRecord, rename: &Rename, mountpoint: &Path) {
    let (old, new) = (rename.old.as_str(), rename.new.as_str());
    for mount in record.mounts.iter_mut().filter(|m| m.volume.as_ref() == Some(&rename.old)) {
        mount.volume = Some(rename.new.clone());
        mount.source = PathBuf::from(mountpoint);
    }
    for bind in record.host_config.binds.iter_mut().flatten() {
        if let Some(rest) = bind.strip_prefix(old).filter(|rest| rest.starts_with(':')) {
            *bind = format!("{new}{rest}");
        }
    }
    for mount in record.host_config.mounts.iter_mut().flatten() {
        if mount.typ == Some(MountType::VOLUME) && mount.source.as_deref() == Some(old) {
            mount.source = Some(new.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use sampan_types::docker::Mount;

    use super::*;
    use crate::record::{MountKind, MountRecord};

    #[test]
    fn a_container_refers_to_the_new_name_everywhere() {
        let mut record = crate::container::tests::record(&"ab".repeat(32), "web");
        for name in ["data", "database"] {
            let mut mount = MountRecord::new(MountKind::Volume, format!("/{name}").into(), true);
            mount.volume = Some(name.parse().unwrap());
            mount.source = format!("/v/{name}/_data").into();
            record.mounts.push(mount);
        }
        let binds = ["data:/data:ro", "database:/database", "/data:/x"];
        record.host_config.binds = Some(binds.map(str::to_owned).to_vec());
        let typed = |typ, source: &str| Mount {
            typ: Some(typ),
            source: Some(source.to_owned()),
            ..Default::default()
        };
        record.host_config.mounts =
            Some(vec![typed(MountType::VOLUME, "data"), typed(MountType::BIND, "data")]);
        let rename = Rename { old: "data".parse().unwrap(), new: "files".parse().unwrap() };
        for _ in 0..2 {
            change(&mut record, &rename, Path::new("/v/files/_data"));
            let named: Vec<_> = record.mounts.iter().map(|m| m.volume.clone().unwrap()).collect();
            assert_eq!(
                named.iter().map(VolumeName::as_str).collect::<Vec<_>>(),
                ["files", "database"]
            );
            assert_eq!(record.mounts[0].source, Path::new("/v/files/_data"));
            let binds = record.host_config.binds.clone().unwrap();
            assert_eq!(binds, ["files:/data:ro", "database:/database", "/data:/x"]);
            let mounts = record.host_config.mounts.clone().unwrap();
            assert_eq!(mounts[0].source.as_deref(), Some("files"));
            assert_eq!(mounts[1].source.as_deref(), Some("data"));
        }
    }
}
