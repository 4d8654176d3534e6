//! Volumes as the API shows them, with who refers to them.
//!
//! Be aware: a container refers to a volume from its creation to its removal,
//! whether it runs or not.

mod care;
mod freeze;
mod rename;
mod transfer;

pub(crate) mod backup;

use std::collections::BTreeSet;

use sampan_types::EventType;
use sampan_types::docker::VolumeCreateRequest;
use sampan_volume::{Volume, VolumeError, VolumeSpec};
use serde_json::{Value, json};

use crate::container_view::null_if_empty;
pub use backup::{
    BackupRequest, FileName, RepositoryRequest, RestoreRequest, Secret, ServedRepository,
};

use crate::filters::Filters;
use crate::{Engine, EngineError, Result};

pub use care::{CloneRequest, SnapshotRequest};
pub use freeze::{POST, PRE};
pub use transfer::{ReceiveRequest, SendRequest};

impl Engine {
    /// The volumes that pass the filters: `{"Volumes": […], "Warnings": […]}`.
    ///
    /// # Errors
    /// When a filter is wrong.
    pub async fn volume_list(&self, filters: &Filters) -> Result<Value> {
        filters.validate(&["dangling", "driver", "label", "name"])?;
        let dangling = filters.flag("dangling")?;
        let warnings = self.volume_store().refresh().await;
        let used = self.volumes_referred_to();
        let shown: Vec<Value> = self
            .volume_store()
            .list()
            .iter()
            .filter(|v| {
                filters.pattern("name", v.name.as_str())
                    && filters.exact("driver", &v.driver)
                    && filters.labels("label", |key| v.labels.get(key).map(String::as_str))
                    && dangling.is_none_or(|d| d != used.contains(v.name.as_str()))
            })
            .map(shown)
            .collect();
        Ok(json!({ "Volumes": shown, "Warnings": null_if_empty(&warnings) }))
    }

    /// Makes a volume, or gives the one that has the name.
    ///
    /// # Errors
    /// Wrong names, drivers and options.
    pub async fn volume_create(&self, request: VolumeCreateRequest) -> Result<Value> {
        if request.cluster_volume_spec.is_some() {
            return Err(EngineError::NotSupported(
                "cluster volumes are not supported: leave ClusterVolumeSpec out".to_owned(),
            ));
        }
        let spec = VolumeSpec {
            name: request.name,
            driver: request.driver.unwrap_or_default(),
            options: request.driver_opts.unwrap_or_default().into_iter().collect(),
            labels: request.labels.unwrap_or_default().into_iter().collect(),
        };
        Ok(shown(&self.make_volume(spec).await?))
    }

    /// Makes a volume, or gives the one that has the name, and tells of a new
    /// one.
    pub(crate) async fn make_volume(&self, spec: VolumeSpec) -> Result<Volume> {
        Self::check_backup_labels(&spec.labels)?;
        let created = self.volume_store().create(spec).await?;
        if created.new {
            self.reschedule_backups();
            self.volume_event(&created.volume, "create");
        }
        Ok(created.volume)
    }

    /// One volume.
    ///
    /// # Errors
    /// No such volume.
    pub async fn volume_inspect(&self, name: &str) -> Result<Value> {
        let volume = match self.volume_store().get(name) {
            Err(VolumeError::NotFound { .. }) => {
                // A plugin may have made it meanwhile.
                self.volume_store().refresh().await;
                self.volume_store().get(name)?
            }
            found => found?,
        };
        let details = self.volume_store().details(name).await?;
        let mut value = shown(&volume);
        if details.global {
            value["Scope"] = json!("global");
        }
        if !details.status.is_empty() {
            value["Status"] = Value::Object(details.status);
        }
        if let Some(status) = self.backup_status(&volume) {
            value["Status"]["Backup"] = status;
        }
        Ok(value)
    }

    /// Removes a volume; with `force`, its absence is success, and one whose
    /// plugin fails is forgotten.
    ///
    /// # Errors
    /// No such volume; a container refers to it.
    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        let volume = match self.volume_store().get(name) {
            Err(VolumeError::NotFound { .. }) if force => return Ok(()),
            found => found?,
        };
        let users = self.volume_users(name);
        if !users.is_empty() {
            let name = name.to_owned();
            return Err(VolumeError::InUse { name, users }.into());
        }
        self.refuse_beside(&volume.name).await?;
        match self.volume_store().remove(name).await {
            Err(error @ VolumeError::Plugin { .. }) if force => {
                tracing::warn!(%error, "the volume is forgotten, its content may stay");
                self.volume_store().forget(name).await?;
            }
            removed => removed?,
        }
        self.volume_event(&volume, "destroy");
        self.forget_outcome(name).await
    }

    /// Removes the volumes that no container refers to: those without a name,
    /// with the filter `all` the others too.
    ///
    /// # Errors
    /// When a filter is wrong.
    pub async fn volume_prune(&self, filters: &Filters) -> Result<Value> {
        let (mut removed, mut reclaimed) = (Vec::new(), 0u64);
        for (volume, size) in self.volumes_to_prune(filters).await? {
            let name = volume.name.as_str();
            match self.volume_remove(name, true).await {
                Ok(()) => {
                    removed.push(name.to_owned());
                    reclaimed += size;
                }
                // One that came into use meanwhile, or that resists.
                Err(error) => tracing::warn!(volume = name, %error, "it is not pruned"),
            }
        }
        let carried = [("reclaimed", reclaimed.to_string())];
        self.event_bus().publish(EventType::Volume, "prune", "", carried);
        Ok(json!({ "VolumesDeleted": removed, "SpaceReclaimed": reclaimed }))
    }

    /// The volumes that pruning with these filters removes, with their sizes
    /// as far as they are known.
    async fn volumes_to_prune(&self, filters: &Filters) -> Result<Vec<(Volume, u64)>> {
        filters.validate(&["all", "label", "label!"])?;
        let all = filters.flag("all")?.unwrap_or(false);
        let used = self.volumes_referred_to();
        let mut wanted = Vec::new();
        for volume in self.volume_store().list() {
            let name = volume.name.as_str();
            let label = |key: &str| volume.labels.get(key).map(String::as_str);
            let fits = (all || volume.is_anonymous()) && filters.labels_and_not(label);
            if fits && !used.contains(name) && !backup::is_beside(&volume.name) {
                let size = self.volume_store().size(name).await.ok().flatten().unwrap_or(0);
                wanted.push((volume, size));
            }
        }
        Ok(wanted)
    }

    /// The containers that refer to a volume.
    pub(crate) fn volume_users(&self, name: &str) -> Vec<String> {
        self.containers()
            .iter()
            .map(|c| c.record())
            .filter(|r| {
                r.mounts.iter().any(|m| m.volume.as_ref().is_some_and(|v| v.as_str() == name))
            })
            .map(|r| r.id.to_string())
            .collect()
    }

    /// The volumes that any container refers to.
    fn volumes_referred_to(&self) -> BTreeSet<String> {
        let records = self.containers();
        let names = records.iter().flat_map(|c| {
            let record = c.record();
            record.mounts.iter().filter_map(|m| m.volume.clone()).collect::<Vec<_>>()
        });
        names.map(String::from).collect()
    }

    fn volume_event(&self, volume: &Volume, action: &str) {
        self.volume_event_with(volume, action, &[]);
    }

    /// Tells of something that happened to a volume, with more about it.
    fn volume_event_with(&self, volume: &Volume, action: &str, more: &[(&str, &str)]) {
        let carried = [("driver", volume.driver.as_str())].into_iter().chain(more.iter().copied());
        self.event_bus().publish(EventType::Volume, action, volume.name.as_str(), carried);
    }

    /// All volumes with their sizes and how many containers refer to each.
    pub(crate) async fn volumes_with_usage(&self) -> Result<Vec<Value>> {
        let mut out = Vec::new();
        for volume in self.volume_store().list() {
            let name = volume.name.as_str();
            // -1: not known without mounting.
            let size = match self.volume_store().size(name).await {
                Ok(Some(size)) => json!(size),
                Ok(None) => json!(-1),
                Err(VolumeError::NotFound { .. }) => continue,
                // One that can't be read must not hide the others.
                Err(error) => {
                    tracing::warn!(volume = name, %error, "its size is not known");
                    json!(-1)
                }
            };
            let mut value = shown(&volume);
            value["UsageData"] = json!({ "Size": size, "RefCount": self.volume_users(name).len() });
            out.push(value);
        }
        Ok(out)
    }
}

/// One `Volume` as dockerd writes it.
fn shown(volume: &Volume) -> Value {
    let or_null = |map: &std::collections::BTreeMap<String, String>| {
        if map.is_empty() { Value::Null } else { json!(map) }
    };
    let seconds = volume.created.seconds().saturating_mul(1_000_000_000);
    json!({
        "CreatedAt": sampan_types::Timestamp::from_nanos(seconds).to_string(),
        "Driver": volume.driver,
        "Labels": or_null(&volume.labels),
        "Mountpoint": volume.mountpoint.to_string_lossy(),
        "Name": volume.name,
        "Options": or_null(&volume.shown_options()),
        "Scope": "local",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_dockerds_shape() {
        let mut volume = Volume {
            name: "data".parse().unwrap(),
            driver: "local".to_owned(),
            mountpoint: "/v/data/_data".into(),
            created: sampan_types::Timestamp::from_nanos(1_700_000_000_500_000_000),
            options: Default::default(),
            labels: Default::default(),
        };
        assert_eq!(
            shown(&volume),
            json!({
                "CreatedAt": "2023-11-14T22:13:20Z",
                "Driver": "local",
                "Labels": null,
                "Mountpoint": "/v/data/_data",
                "Name": "data",
                "Options": null,
                "Scope": "local",
            })
        );
        volume.labels.insert("a".to_owned(), String::new());
        assert_eq!(shown(&volume)["Labels"], json!({"a": ""}));
    }
}
