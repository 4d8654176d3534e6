//! Looking after volumes: snapshots, clones, restoring, other sizes.
//!
//! Be aware: what takes its time is a stream of messages. Dropping the stream
//! stops the copy, and nothing of it is kept; containers that were held still
//! are let go in any case.

use std::collections::BTreeMap;

use sampan_image::{Progress, ProgressSink};
use sampan_types::{SnapshotName, Timestamp, VolumeName};
use sampan_volume::{CloneSpec, Snapshot, Watch};
use serde::Deserialize;
use serde_json::{Value, json};

use super::shown;
use crate::filters::Filters;
use crate::images::{Messages, messages};
use crate::{Engine, EngineError, Result};

/// What a user asks of a new snapshot.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
pub struct SnapshotRequest {
    /// Its name; made of the time when there is none.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether those who write are held still.
    pub freeze: bool,
}

/// What a user asks of a clone.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
pub struct CloneRequest {
    /// The new volume's name.
    pub name: String,
    /// The snapshot that it begins with; what the volume holds now without.
    pub snapshot: String,
    /// Labels that are added, or that replace those of the source.
    pub labels: BTreeMap<String, String>,
    /// Options that are added, or that replace those of the source.
    pub driver_opts: BTreeMap<String, String>,
    /// Whether those who write are held still.
    pub freeze: bool,
}

impl Engine {
    /// Keeps what a volume holds now; the last message has the snapshot.
    ///
    /// # Errors
    /// No such volume; wrong or taken names; a driver that can't; a hook that
    /// fails.
    pub async fn volume_snapshot(&self, name: &str, request: SnapshotRequest) -> Result<Messages> {
        let volume = self.volume_store().get(name)?.name;
        let snapshot = if request.name.is_empty() {
            self.free_snapshot_name(&volume).await?
        } else {
            snapshot_name(&request.name)?
        };
        let engine = self.clone();
        messages::run(move |progress| async move {
            let watch = watch(&progress, &volume, "Copying");
            let made = {
                let (engine, volume, watch) = (engine.clone(), volume.clone(), watch.clone());
                let labels = request.labels;
                async move {
                    let store = engine.volume_store();
                    Ok(store.snapshot(volume.as_str(), &snapshot, &labels, &watch).await?)
                }
            };
            let made = engine.while_still(&volume, request.freeze, &watch, made).await?;
            let of = engine.volume_store().get(volume.as_str())?;
            engine.volume_event_with(&of, "snapshot", &[("snapshot", made.name.as_str())]);
            result(&progress, snapshot_shown(&made)).await;
            Ok(())
        })
        .await
    }

    /// The snapshots of a volume, or of all.
    ///
    /// # Errors
    /// No such volume.
    pub async fn volume_snapshots(&self, name: Option<&str>) -> Result<Value> {
        let volumes = match name {
            Some(name) => vec![self.volume_store().get(name)?],
            None => self.volume_store().list(),
        };
        let mut all = Vec::new();
        for volume in volumes {
            let snapshots = self.volume_store().snapshots(volume.name.as_str()).await?;
            all.extend(snapshots.iter().map(snapshot_shown));
        }
        Ok(Value::Array(all))
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// No such volume or snapshot; it is being copied.
    pub async fn volume_snapshot_remove(&self, name: &str, snapshot: &str) -> Result<()> {
        let volume = self.volume_store().get(name)?;
        let snapshot = snapshot_name(snapshot)?;
        let engine = self.clone();
        self.detached(async move {
            engine.volume_store().remove_snapshot(volume.name.as_str(), &snapshot).await?;
            let more = [("snapshot", snapshot.as_str())];
            engine.volume_event_with(&volume, "snapshot-remove", &more);
            Ok(())
        })
        .await
    }

    /// Makes a volume with the content of another one, or of a snapshot; the
    /// last message has the new volume.
    ///
    /// # Errors
    /// No such volume or snapshot; a wrong or taken name; wrong options; a
    /// driver that can't; a hook that fails.
    pub async fn volume_clone(&self, from: &str, request: CloneRequest) -> Result<Messages> {
        let source = self.volume_store().get(from)?.name;
        let snapshot = Some(request.snapshot.as_str()).filter(|s| !s.is_empty());
        let snapshot = snapshot.map(snapshot_name).transpose()?;
        // A snapshot holds still by itself.
        let freeze = request.freeze && snapshot.is_none();
        let engine = self.clone();
        messages::run(move |progress| async move {
            let watch = watch(&progress, &source, "Copying");
            let made = {
                let (engine, source, watch) = (engine.clone(), source.clone(), watch.clone());
                let spec = CloneSpec { labels: request.labels, options: request.driver_opts };
                let to = request.name;
                async move {
                    let (store, from) = (engine.volume_store(), source.as_str());
                    let made = store.clone_volume(from, snapshot.as_ref(), &to, &spec, &watch);
                    Ok(made.await?)
                }
            };
            let made = engine.while_still(&source, freeze, &watch, made).await?;
            engine.volume_event_with(&made, "clone", &[("from", source.as_str())]);
            result(&progress, shown(&made)).await;
            Ok(())
        })
        .await
    }

    /// Gives a volume the content of one of its snapshots.
    ///
    /// # Errors
    /// No such volume or snapshot; a running container has it mounted.
    pub async fn volume_roll_back(&self, name: &str, snapshot: &str) -> Result<Messages> {
        let volume = self.volume_store().get(name)?;
        let snapshot = snapshot_name(snapshot)?;
        self.refuse_mounted(&volume.name, "restore")?;
        let engine = self.clone();
        messages::run(move |progress| async move {
            let watch = watch(&progress, &volume.name, "Copying");
            let work = {
                let (engine, volume) = (engine.clone(), volume.name.clone());
                let (snapshot, watch) = (snapshot.clone(), watch.clone());
                async move {
                    let store = engine.volume_store();
                    Ok(store.roll_back(volume.as_str(), &snapshot, &watch).await?)
                }
            };
            engine.while_still(&volume.name, false, &watch, work).await?;
            engine.volume_event_with(&volume, "restore", &[("snapshot", snapshot.as_str())]);
            result(&progress, shown(&volume)).await;
            Ok(())
        })
        .await
    }

    /// Changes how much a volume may hold.
    ///
    /// # Errors
    /// No such volume; a wrong size, or one that it can't have.
    pub async fn volume_resize(&self, name: &str, size: &str) -> Result<Value> {
        let (engine, name, size) = (self.clone(), name.to_owned(), size.to_owned());
        self.detached(async move {
            let resized = engine.volume_store().resize(&name, &size).await?;
            engine.volume_event_with(&resized, "resize", &[("size", size.as_str())]);
            Ok(shown(&resized))
        })
        .await
    }

    /// What pruning with these filters would remove, and how much that is.
    ///
    /// # Errors
    /// When a filter is wrong.
    pub async fn volume_prunable(&self, filters: &Filters) -> Result<Value> {
        let mut volumes = Vec::new();
        let mut reclaimed = 0u64;
        for (volume, size) in self.volumes_to_prune(filters).await? {
            reclaimed = reclaimed.saturating_add(size);
            volumes.push(json!({ "Name": volume.name, "Size": size }));
        }
        Ok(json!({ "Volumes": volumes, "SpaceReclaimed": reclaimed }))
    }

    /// A name for a snapshot that has none: the time, to the second.
    async fn free_snapshot_name(&self, volume: &VolumeName) -> Result<SnapshotName> {
        let taken = self.volume_store().snapshots(volume.as_str()).await?;
        let now = Timestamp::now().to_string();
        let digits: String = now.chars().take(19).filter(char::is_ascii_digit).collect();
        let (day, time) = digits.split_at(digits.len().min(8));
        let base = format!("{day}T{time}Z");
        let names = (1u32..).map(|n| if n == 1 { base.clone() } else { format!("{base}-{n}") });
        let free = names.into_iter().find(|name| taken.iter().all(|s| s.name.as_str() != name));
        snapshot_name(&free.unwrap_or(base))
    }
}

pub(super) fn snapshot_name(text: &str) -> Result<SnapshotName> {
    text.parse().map_err(|e: sampan_types::NameError| EngineError::Invalid(e.to_string()))
}

/// Tells of a copy's progress as far as the listener has room.
fn watch(progress: &ProgressSink, volume: &VolumeName, status: &'static str) -> Watch {
    let (progress, id) = (progress.clone(), volume.to_string());
    Watch::new(move |done| {
        let total = Some(done.total).filter(|t| *t > 0);
        progress.try_send(Progress::bytes(&id, status, done.bytes, total));
    })
}

/// The message with what was made.
pub(super) async fn result(progress: &ProgressSink, value: Value) {
    progress.send(Progress { aux: Some(value), ..Progress::default() }).await;
}

fn snapshot_shown(snapshot: &Snapshot) -> Value {
    json!({
        "Volume": snapshot.volume,
        "Name": snapshot.name,
        "CreatedAt": snapshot.created.to_string(),
        "Labels": snapshot.labels,
    })
}
