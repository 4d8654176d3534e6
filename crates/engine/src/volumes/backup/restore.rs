//! Restoring a volume from a backup.
//!
//! Be aware:
//! - The content is written into a volume beside, which takes the name when it
//!   is whole. A death before that leaves what was there; a death after it is
//!   finished at the next start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sampan_backup::{Restored, Snapshot, Wanted};
use sampan_image::{Progress, ProgressSink};
use sampan_types::{EventType, VolumeName};
use sampan_volume::{Volume, VolumeError, VolumeSpec};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::record::Restoring;
use super::{RepositoryRequest, blocking, snapshot_json};
use crate::images::{Messages, messages};
use crate::{Engine, EngineError, Result};

/// Options that a backup brings along for a new volume. Others reach for
/// something outside: files, devices, commands.
const BROUGHT_OPTIONS: [&str; 4] = ["size", "uid", "gid", "mode"];

/// Damaged files that an error names.
const NAMED: usize = 10;

/// What is restored, and where.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// Where from.
    pub from: RepositoryRequest,
    /// The beginning of the backup's id; the volume's newest without it.
    pub id: Option<String>,
    /// Whether a volume that has content loses it.
    pub replace: bool,
    /// Whether the rest is restored when something is damaged.
    pub partial: bool,
}

impl Engine {
    /// Restores a volume, which is new, empty, or may be replaced.
    ///
    /// # Errors
    /// A volume that is in use or has content. What fails later is the last
    /// message.
    pub async fn volume_restore_backup(
        &self,
        name: &str,
        request: RestoreRequest,
    ) -> Result<Messages> {
        let to: VolumeName =
            name.parse().map_err(|_| VolumeError::InvalidName { name: name.to_owned() })?;
        let engine = self.clone();
        messages::run(|sink| async move {
            sink.send(Progress::about(to.as_str(), "Preparing")).await;
            let stop = engine.inner.stop.child_token();
            let _ends = stop.clone().drop_guard();
            let (worker, told) = (engine.clone(), sink.clone());
            let done = engine
                .detached(async move {
                    let done = worker.restore_now(&to, &request, &told, stop).await;
                    worker.trim_after(usize::MAX);
                    done
                })
                .await?;
            sink.send(Progress { aux: Some(done), ..Progress::default() }).await;
            Ok(())
        })
        .await
    }

    async fn restore_now(
        &self,
        to: &VolumeName,
        request: &RestoreRequest,
        sink: &ProgressSink,
        stop: CancellationToken,
    ) -> Result<Value> {
        let turn = self.repository(&request.from).await?;
        let existing = self.volume_store().get(to.as_str()).ok();
        if let Some(volume) = &existing {
            self.refuse_restore_over(volume, request.replace).await?;
        }
        let wanted = match &request.id {
            Some(id) => Wanted::Id(id.clone()),
            None => Wanted::Latest(Some(to.to_string())),
        };
        let repository = Arc::clone(&turn.repository);
        let found = wanted.clone();
        let snapshot = blocking(move || repository.find(&found)).await?;
        if existing.is_none() && snapshot.about.options.contains_key("encrypted") {
            return Err(EngineError::Conflict(format!(
                "backup {} is one of an encrypted volume: make volume {to} with its key first, \
                 and restore into that",
                snapshot.id
            )));
        }
        let restoring =
            Restoring { beside: super::beside("restore", to)?, to: to.clone(), whole: false };
        crate::fault!("backup-restore:before-record");
        self.put_restoring(&restoring).await?;
        crate::fault!("backup-restore:after-record");
        let watch = Self::watch(to.as_str(), "Restoring", sink, stop);
        let repository = Arc::clone(&turn.repository);
        let wanted = Wanted::Id(snapshot.id.clone());
        let fill = |path: PathBuf| blocking(move || repository.restore(&wanted, &path, &watch));
        let spec = spec_of(&restoring, existing.as_ref(), &snapshot);
        let filled = self.fill_beside(spec, &restoring, fill).await;
        let checked = filled.and_then(|done| refuse_damage(done, request.partial));
        let done = match checked {
            Ok(done) => done,
            Err(error) => {
                self.give_restoring_up(&restoring).await;
                return Err(error);
            }
        };
        crate::fault!("backup-restore:before-whole");
        let whole = Restoring { whole: true, ..restoring };
        self.put_restoring(&whole).await?;
        self.finish_restoring(&whole).await?;
        let repository = turn.location.to_string();
        self.tell_of_restoring(to, &repository, &done);
        Ok(done_json(&done))
    }

    async fn fill_beside<F>(
        &self,
        spec: VolumeSpec,
        restoring: &Restoring,
        fill: impl FnOnce(PathBuf) -> F,
    ) -> Result<Restored>
    where
        F: Future<Output = Result<Restored>>,
    {
        let user = format!("restore {}", restoring.to);
        let beside = restoring.beside.as_str();
        self.volume_store().create(spec).await?;
        crate::fault!("backup-restore:after-create");
        let path = self.volume_store().mount(beside, &user).await?;
        let filled = fill(path).await;
        crate::fault!("backup-restore:after-fill");
        self.volume_store().unmount(beside, &user).await?;
        filled
    }

    /// Lets what is whole take its place. Repeatable.
    async fn finish_restoring(&self, restoring: &Restoring) -> Result<()> {
        crate::fault!("backup-restore:after-whole");
        let beside_is_there = self.volume_store().get(restoring.beside.as_str()).is_ok();
        if beside_is_there {
            match self.volume_store().remove(restoring.to.as_str()).await {
                Ok(()) | Err(VolumeError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            crate::fault!("backup-restore:after-remove");
            self.volume_store().rename(restoring.beside.as_str(), restoring.to.as_str()).await?;
            crate::fault!("backup-restore:after-rename");
        }
        self.delete_restoring(restoring).await
    }

    /// Removes what is half restored.
    pub(super) async fn give_restoring_up(&self, restoring: &Restoring) {
        let removed = match self.volume_store().remove(restoring.beside.as_str()).await {
            Err(VolumeError::NotFound { .. }) => Ok(()),
            removed => removed.map_err(EngineError::from),
        };
        let done = match removed {
            Ok(()) => self.delete_restoring(restoring).await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            tracing::warn!(
                volume = restoring.beside.as_str(), %error,
                "what is half restored is removed at the next start"
            );
        }
    }

    /// Refuses to touch a volume that a backup or a restoring has beside
    /// another one.
    pub(crate) async fn refuse_beside(&self, name: &VolumeName) -> Result<()> {
        if !super::is_beside(name) {
            return Ok(());
        }
        match self.restorings().await?.into_iter().find(|r| r.beside == *name) {
            None => Ok(()),
            Some(restoring) => Err(EngineError::Conflict(format!(
                "volume {name} is of a backup or a restoring of volume {} that is under way",
                restoring.to
            ))),
        }
    }

    /// Finishes or undoes what an earlier daemon was restoring.
    pub(crate) async fn end_restorings(&self) -> Result<()> {
        for restoring in self.restorings().await? {
            if !restoring.whole {
                self.give_restoring_up(&restoring).await;
            } else if let Err(error) = self.finish_restoring(&restoring).await {
                tracing::error!(
                    volume = restoring.to.as_str(), beside = restoring.beside.as_str(), %error,
                    "a restored volume waits beside the old one"
                );
            }
        }
        Ok(())
    }

    /// Refuses to write over a volume that is in use, or that has content
    /// unless it may be replaced.
    async fn refuse_restore_over(&self, volume: &Volume, replace: bool) -> Result<()> {
        let name = volume.name.as_str();
        let users = self.volume_users(name);
        let runs = |id: &String| self.container(id).is_ok_and(|c| c.record().state.has_process());
        let running: Vec<String> = users.into_iter().filter(runs).collect();
        if !running.is_empty() {
            return Err(VolumeError::InUse { name: name.to_owned(), users: running }.into());
        }
        if volume.driver != "local" {
            return Err(EngineError::NotSupported(format!(
                "volume {name}: its driver {} can't exchange a volume for a restored one; \
                 restore into a new volume",
                volume.driver
            )));
        }
        if volume.options.contains_key("type") {
            return Err(EngineError::NotSupported(format!(
                "volume {name}: what it mounts lies elsewhere, and can't be exchanged; restore \
                 into a new volume"
            )));
        }
        if !self.volume_store().snapshots(name).await?.is_empty() {
            return Err(EngineError::Conflict(format!(
                "volume {name} has snapshots, which would go with it: restore into a new volume"
            )));
        }
        if replace {
            return Ok(());
        }
        let user = "restore";
        let path = self.volume_store().mount(name, user).await?;
        let looked = super::blocking_engine(move || is_empty(&path)).await;
        self.volume_store().unmount(name, user).await?;
        if looked? {
            return Ok(());
        }
        Err(EngineError::Conflict(format!(
            "volume {name} is not empty: --replace gives its content up"
        )))
    }

    fn tell_of_restoring(&self, to: &VolumeName, repository: &str, done: &Restored) {
        let carried = [
            ("repository", repository.to_owned()),
            ("snapshot", done.snapshot.id.clone()),
            ("damaged", done.damaged.len().to_string()),
        ];
        self.event_bus().publish(EventType::Volume, "restore", to.as_str(), carried);
    }
}

fn is_empty(path: &Path) -> Result<bool> {
    let entries =
        std::fs::read_dir(path).map_err(|e| EngineError::io("read", path.display(), e))?;
    let mut others = entries.flatten().filter(|e| e.file_name() != "lost+found");
    Ok(others.next().is_none())
}

/// The volume beside: like the one that it replaces, else like the one that
/// was backed up.
fn spec_of(restoring: &Restoring, existing: Option<&Volume>, snapshot: &Snapshot) -> VolumeSpec {
    let (labels, options) = match existing {
        Some(volume) => (volume.labels.clone(), volume.options.clone()),
        None => {
            let mut options = snapshot.about.options.clone();
            options.retain(|key, _| BROUGHT_OPTIONS.contains(&key.as_str()));
            let mut labels = snapshot.about.labels.clone();
            // Another volume isn't backed up because this one was.
            if snapshot.about.volume != restoring.to.as_str() {
                labels.retain(|key, _| !super::schedule::is_label(key));
            }
            (labels, options)
        }
    };
    let name = Some(restoring.beside.to_string());
    VolumeSpec { name, driver: "local".to_owned(), options, labels }
}

fn refuse_damage(done: Restored, partial: bool) -> Result<Restored> {
    if partial || done.damaged.is_empty() {
        return Ok(done);
    }
    let named: Vec<String> = done.damaged.iter().take(NAMED).map(damage_text).collect();
    let more = done.damaged.len().saturating_sub(NAMED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    Err(EngineError::Conflict(format!(
        "backup {} is damaged: {}{more}; --partial restores the rest",
        done.snapshot.id,
        named.join("; ")
    )))
}

fn damage_text(damage: &sampan_backup::Damage) -> String {
    let pack = damage.pack.as_ref().map_or_else(String::new, |p| format!(" (pack {p})"));
    format!("{}{pack}: {}", damage.path.display(), damage.reason)
}

fn done_json(done: &Restored) -> Value {
    json!({
        "Backup": snapshot_json(&done.snapshot),
        "Files": done.files,
        "Size": done.bytes,
        "Damaged": done.damaged.iter().map(damage_text).collect::<Vec<_>>(),
    })
}
