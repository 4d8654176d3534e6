//! Finishing what an earlier daemon began, and carrying out what follows from
//! what happened while no daemon was there.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use sampan_runtime::ExitStatus;

use super::AT_ONCE;
use super::decide::Verdict;
use crate::container::state::{Status, Transition};
use crate::container::{Container, Starter, clear_run};
use crate::error::Result;
use crate::record::{ContainerRecord, Desired, NetworkMode};
use crate::{Engine, RemoveOptions, StopOptions};

/// How long the daemon's start waits for the containers' starts; they go on
/// afterwards.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long one start keeps others from beginning: it may wait for a volume
/// whose server says nothing.
const SLOW: Duration = Duration::from_secs(3);

impl Engine {
    /// Finishes every container; starts those that shall run.
    pub(super) async fn finish_all(&self, verdicts: Vec<(Arc<Container>, Verdict)>) {
        let pending: Vec<Option<Arc<Container>>> = futures_util::stream::iter(verdicts)
            .map(|(c, verdict)| async move {
                match self.finish(&c, verdict).await {
                    Ok(starts) => starts.then_some(c),
                    Err(error) => {
                        tracing::error!(container = c.id().short(), %error, "not healed");
                        None
                    }
                }
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let (late, early): (Vec<_>, Vec<_>) =
            pending.into_iter().flatten().partition(|c| !joined(&c.record()).is_empty());
        let engine = self.clone();
        let started = self.inner.tasks.spawn(async move {
            engine.start_all(early).await;
            engine.start_all(late).await;
        });
        if tokio::time::timeout(PATIENCE, started).await.is_err() {
            tracing::warn!("containers are still being started");
        }
    }

    async fn start_all(&self, pending: Vec<Arc<Container>>) {
        futures_util::stream::iter(pending)
            .for_each_concurrent(AT_ONCE, |c| async move {
                let engine = self.clone();
                let started = self.inner.tasks.spawn(async move { engine.start_again(c).await });
                if tokio::time::timeout(SLOW, started).await.is_err() {
                    tracing::warn!("the start of a container takes long, others go on");
                }
            })
            .await;
    }

    async fn start_again(&self, c: Arc<Container>) {
        for other in joined(&c.record()) {
            // Which may wait for a volume, and is started before.
            if let Ok(other) = self.container(&other)
                && other.is_starting()
            {
                drop(other.ops.lock().await);
            }
        }
        let _ops = c.ops.lock().await;
        if let Err(error) = self.start_locked(&c, Starter::Daemon).await {
            tracing::error!(container = c.id().short(), %error, "start failed");
        }
    }

    /// Heals one container; says whether it shall be started.
    async fn finish(&self, c: &Arc<Container>, verdict: Verdict) -> Result<bool> {
        match verdict {
            Verdict::Adopted => {
                self.finish_wishes(c);
                Ok(false)
            }
            Verdict::Ended(exit) => self.finish_end(c, exit).await,
            Verdict::HalfStarted => {
                let _ops = c.ops.lock().await;
                if !self.release_run(&c.record()).await {
                    c.change(clear_run);
                }
                Ok(true)
            }
            Verdict::HalfMade => {
                let _ops = c.ops.lock().await;
                self.remove_locked(c, true).await?;
                Ok(false)
            }
            Verdict::HalfRemoved => {
                let volumes = matches!(c.record().desired, Desired::Removed { volumes: true });
                let _ops = c.ops.lock().await;
                self.remove_locked(c, volumes).await?;
                Ok(false)
            }
            Verdict::Idle => self.finish_idle(c).await,
        }
    }

    /// A running container that was being stopped or removed: that goes on.
    fn finish_wishes(&self, c: &Arc<Container>) {
        let (engine, id) = (self.clone(), c.id().to_string());
        match c.record().desired {
            Desired::Stopped => {
                let again = c.record().restart_wanted;
                self.inner.tasks.spawn(async move {
                    let options = StopOptions::default();
                    let stopped = if again {
                        engine.container_restart(&id, options).await
                    } else {
                        engine.container_stop(&id, options).await
                    };
                    if let Err(error) = stopped {
                        tracing::warn!(container = id, %error, "the stop is not finished");
                    }
                });
            }
            Desired::Removed { volumes } => {
                self.inner.tasks.spawn(async move {
                    let options = RemoveOptions { force: true, volumes, link: false };
                    if let Err(error) = engine.container_remove(&id, options).await {
                        tracing::warn!(container = id, %error, "the removal is not finished");
                    }
                });
            }
            Desired::Creating | Desired::Running => {}
        }
    }

    /// A container that ended meanwhile: its true end, then its policy.
    async fn finish_end(&self, c: &Arc<Container>, exit: ExitStatus) -> Result<bool> {
        let _ops = c.ops.lock().await;
        let record = c.record();
        if !record.state.has_process() {
            // It was started, but that was not written any more.
            c.change(|r| {
                r.state.status = Status::Created;
                let at = exit.finished;
                let step = Transition::Started { pid: 0, at, health: false };
                if let Err(refused) = r.state.step(step) {
                    tracing::error!(container = r.id.short(), %refused, "wrong step");
                }
            });
        }
        let (code, removed) = (exit.code, matches!(record.desired, Desired::Removed { .. }));
        let policy = record.restart_policy();
        let starts = !removed
            && !record.auto_remove()
            && (record.restart_wanted
                || policy.starts_with_daemon(
                    true,
                    code,
                    record.restart_count,
                    record.manually_stopped,
                ));
        if removed {
            // The end needs no restart, and then the removal is finished.
            c.change(|r| r.manually_stopped = true);
        }
        self.ended(c, exit).await;
        // The policy's own restart comes now, without waiting.
        if c.cancel_restart() || starts {
            c.change(|r| {
                if r.state.status == Status::Restarting {
                    let _ = r.state.step(Transition::RestartCancelled);
                }
            });
        }
        if removed && !c.is_removed() {
            let volumes = matches!(record.desired, Desired::Removed { volumes: true });
            self.remove_locked(c, volumes).await?;
        }
        Ok(starts)
    }

    /// A container that does not run, as its record says. Leftovers of its
    /// last run are taken away, a missing file system is made.
    async fn finish_idle(&self, c: &Arc<Container>) -> Result<bool> {
        let _ops = c.ops.lock().await;
        let record = c.record();
        let kept = self.release_run(&record).await;
        if record.networking.sandbox.is_some() && !kept {
            c.change(clear_run);
            self.persist(c).await?;
        }
        match record.state.status {
            Status::Removing | Status::Dead => {
                let volumes = matches!(record.desired, Desired::Removed { volumes: true });
                self.remove_locked(c, volumes || record.auto_remove()).await?;
                return Ok(false);
            }
            // It ended and its own removal was cut off.
            Status::Exited if record.auto_remove() => {
                self.remove_locked(c, true).await?;
                return Ok(false);
            }
            Status::Created if self.image_store().snapshot(c.id()).is_err() => {
                self.build(c, &[], &mut Vec::new()).await?;
            }
            _ => {}
        }
        let was_restarting = record.state.status == Status::Restarting;
        let by_policy = record.restart_policy().starts_with_daemon(
            was_restarting,
            record.state.exit_code,
            record.restart_count,
            record.manually_stopped,
        );
        let starts = record.state.status != Status::Created && (by_policy || record.restart_wanted);
        if was_restarting {
            c.change(|r| {
                let _ = r.state.step(Transition::RestartCancelled);
                if !starts {
                    r.desired = Desired::Stopped;
                }
            });
            self.persist_later(c);
        }
        Ok(starts)
    }
}

/// The containers that have to run before this one.
fn joined(record: &ContainerRecord) -> Vec<String> {
    let host = &record.host_config;
    let network = match &record.networking.mode {
        NetworkMode::Container(id) => Some(id.to_string()),
        _ => None,
    };
    let others = [&host.pid_mode, &host.ipc_mode].into_iter();
    let others = others.filter_map(|m| m.as_deref()?.strip_prefix("container:"));
    network.into_iter().chain(others.map(str::to_owned)).collect()
}
