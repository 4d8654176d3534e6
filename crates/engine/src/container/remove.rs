//! Removing containers.

use std::sync::Arc;

use sampan_types::docker::ContainerPruneResponse;
use sampan_types::{Timestamp, VolumeName};

use super::start::step;
use super::state::{Status, Transition};
use super::{CallOff, Container};
use crate::Engine;
use crate::error::{EngineError, Result};
use crate::filters::Filters;
use crate::record::{ContainerRecord, Desired};

/// How to remove a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// Kill it when it runs.
    pub force: bool,
    /// Remove its anonymous volumes too.
    pub volumes: bool,
    /// Remove a link (`CONTAINER/ALIAS`), not a container.
    pub link: bool,
}

impl Engine {
    /// Removes a container.
    ///
    /// # Errors
    /// It runs and `force` is not set.
    pub async fn container_remove(&self, id: &str, options: RemoveOptions) -> Result<()> {
        if options.link {
            return self.link_remove(id).await;
        }
        let found = match self.container(id) {
            Err(EngineError::NoSuchContainer(_)) if options.force => {
                self.inner.containers.being_made(id)
            }
            found => found,
        };
        let (engine, c) = (self.clone(), found?);
        self.detached(async move { engine.remove(&c, options).await }).await
    }

    async fn remove(&self, c: &Arc<Container>, options: RemoveOptions) -> Result<()> {
        // What waits for a volume gives way, also what begins meanwhile.
        let _off = options.force.then(|| c.call_off(CallOff::Removed));
        loop {
            let record = c.record();
            check_removable(&record, options.force)?;
            if c.is_starting() && !options.force {
                return Err(refused(
                    &record,
                    "container is being started: stop it, or force remove",
                ));
            }
            if record.state.is_running() {
                self.kill_for_removal(c, options.volumes).await?;
            }
            let _ops = c.ops.lock().await;
            if c.is_removed() {
                return Ok(());
            }
            // It may have been started again in between.
            let record = c.record();
            if !record.state.is_running() {
                return self.remove_locked(c, options.volumes || record.auto_remove()).await;
            }
            if !options.force {
                return check_removable(&record, false);
            }
        }
    }

    /// Kills a container that is to be removed, and waits for its end.
    async fn kill_for_removal(&self, c: &Arc<Container>, volumes: bool) -> Result<()> {
        self.wish_stopped(c, Desired::Removed { volumes }, false).await;
        self.stop_process(c, nix::libc::SIGKILL, Some(super::stop::KILL_PATIENCE)).await
    }

    /// Removes a container that does not run; the caller holds `ops`. Finding
    /// parts of it gone already is success.
    pub(crate) async fn remove_locked(&self, c: &Arc<Container>, volumes: bool) -> Result<()> {
        c.cancel_restart();
        let record = c.record();
        c.change(|r| {
            r.desired = Desired::Removed { volumes };
            step(r, Transition::RemovalBegan);
        });
        // A container that removes itself says so in its record since it was
        // created: no need to say it again.
        if !record.auto_remove() {
            crate::fault!("remove:before-record");
            if let Err(e) = self.persist(c).await {
                c.restore(record);
                return Err(e);
            }
            crate::fault!("remove:after-record");
        }
        match self.take_apart(c, volumes).await {
            Ok(()) => {
                self.inner.containers.remove(c);
                c.take_waiting();
                self.container_event(c, "destroy", &[]);
                c.mark_removed();
                Ok(())
            }
            Err(e) => {
                let error = e.to_string();
                c.change(|r| step(r, Transition::RemovalFailed { error }));
                self.persist_later(c);
                Err(e.context(format!("cannot remove container \"/{}\"", record.name)))
            }
        }
    }

    /// Every trace of a container, its record last.
    async fn take_apart(&self, c: &Arc<Container>, volumes: bool) -> Result<()> {
        let record = c.record();
        if record.networking.sandbox.is_some() {
            self.release_run(&record).await;
        }
        self.inner.runtime.cleanup(c.id()).await?;
        self.forget_execs(c.id());
        crate::fault!("remove:after-runtime");
        self.unmount_all(&record).await;
        self.image_store().discard(c.id()).await?;
        crate::fault!("remove:after-snapshot");
        let dir = record.data_dir(&self.inner.config.data_root);
        self.blocking(move || {
            sampan_sys::file::remove_tree(&dir)
                .map_err(|e| EngineError::io("remove", dir.display(), e))
        })
        .await?;
        crate::fault!("remove:after-directory");
        if volumes {
            self.remove_anonymous_volumes(&record).await;
            crate::fault!("remove:after-volumes");
        }
        self.delete_record(c).await?;
        crate::fault!("remove:after-delete");
        Ok(())
    }

    /// Removes a container's anonymous volumes that no other container uses.
    async fn remove_anonymous_volumes(&self, record: &ContainerRecord) {
        for m in record.mounts.iter().filter(|m| m.anonymous) {
            let Some(name) = &m.volume else { continue };
            if self.volume_is_used(name, record) {
                continue;
            }
            match self.volume_store().remove(name.as_str()).await {
                Ok(()) => self.event_bus().publish(
                    sampan_types::EventType::Volume,
                    "destroy",
                    name.as_str(),
                    [("driver", m.driver.as_deref().unwrap_or("local"))],
                ),
                Err(sampan_volume::VolumeError::NotFound { .. }) => {}
                Err(error) => {
                    tracing::warn!(container = record.id.short(), %error, "volume is left");
                }
            }
        }
    }

    fn volume_is_used(&self, name: &VolumeName, but: &ContainerRecord) -> bool {
        self.containers().iter().any(|c| {
            let record = c.record();
            record.id != but.id && record.mounts.iter().any(|m| m.volume.as_ref() == Some(name))
        })
    }

    /// Removes all containers that do not run and that the filters `until`,
    /// `label` and `label!` leave over.
    ///
    /// # Errors
    /// Unknown filters.
    pub async fn container_prune(&self, filters: &Filters) -> Result<ContainerPruneResponse> {
        filters.validate(&["until", "label", "label!"])?;
        let until = filters.time("until", Timestamp::now())?;
        let (mut deleted, mut reclaimed) = (Vec::new(), 0u64);
        for c in self.containers() {
            let record = c.record();
            let label = |key: &str| record.config.labels.as_ref()?.get(key).map(String::as_str);
            if record.state.is_running()
                || c.is_starting()
                || until.is_some_and(|until| record.created >= until)
                || !filters.labels_and_not(label)
            {
                continue;
            }
            let size = self.image_store().upper_size(c.id()).await.unwrap_or(0);
            match self.container_remove(c.id().as_str(), RemoveOptions::default()).await {
                Ok(()) => {
                    deleted.push(c.id().to_string());
                    reclaimed += size;
                }
                Err(error) => {
                    tracing::warn!(container = c.id().short(), %error, "prune leaves a container");
                }
            }
        }
        self.event_bus().publish(
            sampan_types::EventType::Container,
            "prune",
            "",
            [("reclaimed", reclaimed.to_string())],
        );
        Ok(ContainerPruneResponse {
            containers_deleted: Some(deleted),
            space_reclaimed: Some(i64::try_from(reclaimed).unwrap_or(i64::MAX)),
        })
    }
}

fn in_progress(record: &ContainerRecord) -> EngineError {
    EngineError::Conflict(format!("removal of container {} is already in progress", record.id))
}

/// Docker's refusals to remove a container that runs.
fn check_removable(record: &ContainerRecord, force: bool) -> Result<()> {
    if force {
        return Ok(());
    }
    let why = match record.state.status {
        Status::Running => {
            "container is running: stop the container before removing or force remove"
        }
        Status::Paused => "container is paused and must be unpaused first",
        Status::Restarting => {
            "container is restarting: stop the container before removing or force remove"
        }
        Status::Removing => return Err(in_progress(record)),
        _ => return Ok(()),
    };
    Err(refused(record, why))
}

fn refused(record: &ContainerRecord, why: &str) -> EngineError {
    EngineError::Conflict(format!("cannot remove container \"/{}\": {why}", record.name))
}
