//! Starting a container, and undoing a start that failed.
//!
//! Be aware:
//! - The order is: take addresses and ports, write the record (generation
//!   plus one), then mounts and network in parallel, then the runtime. Each
//!   step can be repeated; a daemon that dies in between is healed at its
//!   next start, because the record says that the container shall run.
//! - A start that fails gives everything back and leaves the reason in
//!   `State.Error`. One that waits for a volume can be called off, and fails.
//! - The end of the daemon leaves one that waits for a volume to the next.

use std::sync::Arc;
use std::time::Instant;

use sampan_runtime::RuntimeError;
use sampan_types::{EventType, Kind};

use super::network::NetPlan;
use super::state::{Status, Transition};
use super::{Container, network};
use crate::Engine;
use crate::error::{EngineError, Result};
use crate::record::{self, ContainerRecord, Desired};

/// Who starts a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Starter {
    /// A user.
    User,
    /// The restart policy, after the container ended.
    Policy,
    /// The daemon, at its own start.
    Daemon,
}

impl Engine {
    /// Starts a container.
    ///
    /// # Errors
    /// [`EngineError::NotModified`] when it runs already; everything that
    /// keeps it from starting.
    pub async fn container_start(&self, id: &str) -> Result<()> {
        let (engine, c) = (self.clone(), self.container(id)?);
        self.detached(async move {
            let _ops = c.ops.lock().await;
            engine.start_locked(&c, Starter::User).await
        })
        .await
    }

    /// Starts a container whose `ops` lock the caller holds.
    pub(crate) async fn start_locked(&self, c: &Arc<Container>, starter: Starter) -> Result<()> {
        check_startable(&c.record(), starter)?;
        let begun = Instant::now();
        let _starting = c.starts();
        if starter != Starter::Policy {
            c.reset_delay();
        }
        let mut connected = false;
        match self.launch(c, starter, &mut connected).await {
            Ok(()) => {
                self.inner.metrics.started("ok");
                self.inner.metrics.start_seconds.observe(begun.elapsed().as_secs_f64());
                Ok(())
            }
            // The next daemon begins it anew.
            Err(EngineError::ShuttingDown) => Err(EngineError::ShuttingDown),
            Err(e) => {
                self.inner.metrics.started("error");
                self.abandon(c, &e, connected).await;
                Err(e)
            }
        }
    }

    /// The start itself. `connected` becomes true when the network's events
    /// were published.
    async fn launch(
        &self,
        c: &Arc<Container>,
        starter: Starter,
        connected: &mut bool,
    ) -> Result<()> {
        let before = c.record();
        let cgroups = Arc::clone(&self.inner.cgroups);
        drop(tokio::task::spawn_blocking(move || cgroups.move_ahead()));
        let (networking, plan) = self.allocate_network(&before).await?;
        crate::fault!("start:before-record");
        let wished = self.commit_change(c, |r| {
            r.generation += 1;
            r.desired = Desired::Running;
            r.restart_wanted = false;
            r.networking.clone_from(&networking);
            r.boot_id.clone_from(&self.inner.boot_id);
            if starter != Starter::Policy {
                r.restart_count = 0;
            }
            if starter == Starter::User {
                r.manually_stopped = false;
            }
        });
        if let Err(e) = wished.await {
            if !matches!(plan, NetPlan::Kept(_)) {
                self.give_back(c.id(), &networking);
            }
            return Err(e);
        }
        crate::fault!("start:after-record");
        let mut stages = Stages::begin();
        let record = c.record();
        let mut attachments = Vec::new();
        let joined = async {
            let spec = match &plan {
                NetPlan::Sandbox(spec) => spec,
                NetPlan::Kept(path) => return Ok(Some(path.clone())),
                NetPlan::Host | NetPlan::Join(_) => return Ok(None),
            };
            // Before there is an interface that could send anything.
            self.refresh_policies().await.map_err(|e| e.context("network policies"))?;
            let made = self.inner.networks.join(spec.clone()).await;
            let sandbox = made.map_err(|e| network::network_failure(&e))?;
            crate::fault!("start:after-join");
            attachments = sandbox.attachments;
            Ok::<_, EngineError>(sandbox.netns)
        };
        let (prepared, netns) = tokio::join!(self.prepare_files(c, &record), joined);
        let (prepared, netns) = (prepared?, netns?);
        self.note_chosen(c, &attachments).await;
        self.network_events(c, &networking, "connect");
        *connected = true;
        stages.done("files and network");
        let shim = self.create_process(&record, &plan, prepared, netns).await?;
        crate::fault!("start:after-create");
        stages.done("create");
        c.set_shim(Some(shim.clone()));
        self.attach_waiting(c, &shim).await;
        self.copy_record(&record).await?;
        crate::fault!("start:before-start");
        let at = shim.start().await.map_err(start_failure)?;
        crate::fault!("start:after-start");
        stages.done("start");
        let health = crate::health::is_checked(&record.config);
        c.change(|r| step(r, Transition::Started { pid: shim.pid(), at, health }));
        self.persist_later(c);
        self.container_event(c, "start", &[]);
        crate::fault!("start:after-running");
        self.supervise(c, shim);
        self.refresh_links_to(&c.record()).await;
        Ok(())
    }

    /// Gives back what a failed start took and notes why it failed.
    async fn abandon(&self, c: &Arc<Container>, e: &EngineError, connected: bool) {
        c.set_shim(None);
        let record = c.record();
        if connected {
            self.network_events(c, &record.networking, "disconnect");
        }
        let kept = self.release_run(&record).await;
        let code = match e {
            EngineError::Start { exit_code, .. } => *exit_code,
            _ => 128,
        };
        let error = e.to_string();
        c.change(|r| {
            if !kept {
                clear_run(r);
            }
            r.desired = Desired::Stopped;
            step(r, Transition::Failed { code, error });
        });
        self.release_kept_later(&record);
        self.relax_policies().await;
        // Clients that attached before the start see the end.
        c.take_waiting();
        if record.auto_remove() {
            if let Err(error) = self.remove_locked(c, true).await {
                tracing::error!(container = c.id().short(), %error, "removal failed");
            }
        } else if let Err(error) = self.persist(c).await {
            tracing::error!(container = c.id().short(), %error, "state is not written");
        }
    }

    /// Keeps a copy of the record beside the bundle: with it, a running
    /// container is adopted even when the store is lost.
    async fn copy_record(&self, record: &ContainerRecord) -> Result<()> {
        let dir = self.inner.config.exec_root.join("containers").join(record.id.as_str());
        let bytes = record::encode(record)?;
        self.blocking(move || {
            let path = dir.join("record.json");
            std::fs::create_dir_all(&dir)
                .and_then(|()| sampan_sys::file::write_replace(&path, &bytes, 0o600))
                .map_err(|e| EngineError::io("write", path.display(), e))
        })
        .await?;
        crate::fault!("start:after-copy");
        Ok(())
    }

    /// Publishes an event about a container with Docker's attributes: name,
    /// image, labels, and `more`.
    pub(crate) fn container_event(&self, c: &Container, action: &str, more: &[(&str, &str)]) {
        let record = c.record();
        let labels = record.config.labels.iter().flatten();
        let own = [
            ("name", record.name.as_str()),
            ("image", record.config.image.as_deref().unwrap_or_default()),
        ];
        let attributes =
            labels.map(|(k, v)| (k.as_str(), v.as_str())).chain(own).chain(more.iter().copied());
        self.event_bus().publish(EventType::Container, action, c.id().as_str(), attributes);
    }
}

/// How long the stages of a start took, for whoever looks for slow ones.
struct Stages(Instant);

impl Stages {
    fn begin() -> Self {
        Self(Instant::now())
    }

    fn done(&mut self, stage: &str) {
        tracing::trace!(stage, micros = self.0.elapsed().as_micros(), "stage of a start");
        self.0 = Instant::now();
    }
}

/// Steps a record's state; a step that does not fit is a fault of the program
/// and is logged.
pub(super) fn step(record: &mut ContainerRecord, transition: Transition) {
    if let Err(refused) = record.state.step(transition.clone()) {
        tracing::error!(container = record.id.short(), %refused, ?transition, "wrong step");
    }
}

/// Takes out of a record what belonged to its last run.
pub(crate) fn clear_run(record: &mut ContainerRecord) {
    record.networking.sandbox = None;
    record.networking.ports.clear();
    for endpoint in record.networking.endpoints.values_mut() {
        endpoint.live = None;
    }
}

fn check_startable(record: &ContainerRecord, starter: Starter) -> Result<()> {
    let id = &record.id;
    match record.state.status {
        Status::Created | Status::Exited => Ok(()),
        Status::Restarting if starter == Starter::Policy => Ok(()),
        Status::Running | Status::Restarting => {
            Err(EngineError::NotModified(format!("container {id} is already running")))
        }
        Status::Paused => Err(EngineError::Conflict(
            "cannot start a paused container, try unpause instead".to_owned(),
        )),
        Status::Removing | Status::Dead => Err(EngineError::Conflict(
            "container is marked for removal and cannot be started".to_owned(),
        )),
    }
}

/// A failure of the runtime, as the API and `State.Error` show it.
pub(crate) fn start_failure(e: RuntimeError) -> EngineError {
    EngineError::Start { kind: e.kind(), exit_code: e.exit_code(), message: e.to_string() }
}
