//! One task for each running container: it waits for the shim, then records
//! the end, releases what the run had, and asks the restart policy.
//!
//! Be aware: nothing polls. The task ends with the container or the daemon.

use std::sync::Arc;

use sampan_runtime::{ExitStatus, Shim};
use sampan_types::EventType;

use super::start::{Starter, clear_run, step};
use super::state::{Status, Transition};
use super::{Container, Exit};
use crate::Engine;
use crate::record::Desired;

impl Engine {
    /// Begins to supervise a container that was just started or adopted.
    pub(crate) fn supervise(&self, c: &Arc<Container>, shim: Shim) {
        let generation = c.record().generation;
        crate::health::begin(self, c);
        let (engine, c) = (self.clone(), Arc::clone(c));
        self.inner.tasks.spawn(async move {
            let status = tokio::select! {
                status = shim.wait() => status,
                () = engine.inner.stop.cancelled() => return,
            };
            let _ops = c.ops.lock().await;
            let record = c.record();
            if record.generation != generation || !record.state.has_process() {
                return;
            }
            if let Err(error) = shim.delete().await {
                tracing::debug!(container = c.id().short(), %error, "shim");
            }
            engine.ended(&c, status).await;
        });
    }

    /// Records the end of a container's process and does what follows from
    /// it. The caller holds `ops`.
    pub(crate) async fn ended(&self, c: &Arc<Container>, status: ExitStatus) {
        c.end_health();
        c.set_shim(None);
        let record = c.record();
        let stopping = self.inner.stop.is_cancelled();
        let restarts = !stopping
            && !record.auto_remove()
            && record.restart_policy().restarts(
                status.code,
                record.restart_count,
                record.manually_stopped,
            );
        let kept = self.release_run(&record).await;
        let ran = status.finished.since(record.state.started);
        let exit = Exit { code: status.code, error: status.error.clone().unwrap_or_default() };
        c.change_at_exit(exit, |r| {
            if !kept {
                clear_run(r);
            }
            if !restarts && r.desired == Desired::Running {
                r.desired = Desired::Stopped;
            }
            step(
                r,
                Transition::Ended {
                    code: status.code,
                    at: status.finished,
                    oom_killed: status.oom_killed,
                    restarts,
                },
            );
            r.state.error = status.error.clone().unwrap_or_default();
        });
        self.release_kept_later(&record);
        self.relax_policies().await;
        self.inner.metrics.exits.inc();
        if status.oom_killed {
            self.container_event(c, "oom", &[]);
        }
        let code = status.code.to_string();
        let duration = ran.as_secs().to_string();
        self.container_event(c, "die", &[("exitCode", &code), ("execDuration", &duration)]);
        self.network_events(c, &record.networking, "disconnect");
        self.volume_events(&record, "unmount");
        if restarts {
            self.persist_later(c);
            self.restart_later(c, ran);
        } else if record.auto_remove() && !stopping && !c.is_held() {
            if let Err(error) = self.remove_locked(c, true).await {
                tracing::error!(container = c.id().short(), %error, "removal failed");
            }
        } else {
            self.persist_later(c);
            crate::fault!("exit:after-record");
        }
    }

    /// Lets the restart policy start the container after its wait. Stop,
    /// remove and the daemon's end call it off.
    pub(crate) fn restart_later(&self, c: &Arc<Container>, ran: std::time::Duration) {
        let (delay, cancelled) = c.plan_restart(ran);
        let (engine, c) = (self.clone(), Arc::clone(c));
        self.inner.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = cancelled.cancelled() => return,
                () = engine.inner.stop.cancelled() => return,
            }
            let _ops = c.ops.lock().await;
            let record = c.record();
            let waits = record.state.status == Status::Restarting && !record.manually_stopped;
            if !waits || cancelled.is_cancelled() {
                return;
            }
            c.change(|r| r.restart_count += 1);
            crate::fault!("restart:before-start");
            engine.inner.metrics.restarts.inc();
            if let Err(error) = engine.start_locked(&c, Starter::Policy).await {
                tracing::error!(container = c.id().short(), %error, "restart failed");
            }
        });
    }

    /// Publishes an event for each of a container's volumes.
    pub(crate) fn volume_events(&self, record: &crate::record::ContainerRecord, action: &str) {
        for m in &record.mounts {
            let Some(name) = &m.volume else { continue };
            let driver = m.driver.as_deref().unwrap_or("local");
            let mut attributes = vec![("container", record.id.as_str()), ("driver", driver)];
            let destination = m.destination.to_string_lossy();
            if action == "mount" {
                attributes.push(("destination", &destination));
                attributes.push(("read/write", if m.rw { "true" } else { "false" }));
                attributes.push(("propagation", &m.propagation));
            }
            self.event_bus().publish(EventType::Volume, action, name.as_str(), attributes);
        }
    }
}
