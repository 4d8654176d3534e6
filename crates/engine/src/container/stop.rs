//! Stopping, killing and restarting containers.
//!
//! Be aware: the wish to stop is written first, then the signal is sent; no
//! lock is held while waiting for the end. Concurrent stops wait for the same
//! end, and a start that hangs does not keep a kill away. A container that is
//! being started counts as running here: one that waits for a volume is called
//! off.

use std::sync::Arc;
use std::time::Duration;

use sampan_runtime::{RuntimeError, signal};
use tokio::time::timeout;

use super::start::{Starter, step};
use super::state::{Status, Transition};
use super::{CallOff, Container, Exit};
use crate::Engine;
use crate::error::{EngineError, Result};
use crate::record::{ContainerRecord, Desired};

/// Seconds between the stop signal and SIGKILL when nothing else is said.
const DEFAULT_TIMEOUT: i64 = 10;

/// How long a container may take to end after SIGKILL.
pub(super) const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// What ends a container that is being started, and has no program yet that
/// could take it another way.
const ENDS: [i32; 5] = {
    use nix::libc::{SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM};
    [SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM]
};

/// How to stop a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopOptions {
    /// The signal; `None`: the container's own, else SIGTERM.
    pub signal: Option<String>,
    /// Seconds until SIGKILL; negative: never. `None`: the container's own, else 10.
    pub timeout: Option<i64>,
}

impl Engine {
    /// Stops a container.
    ///
    /// # Errors
    /// [`EngineError::NotModified`] when it does not run; no such signal.
    pub async fn container_stop(&self, id: &str, options: StopOptions) -> Result<()> {
        let (engine, c) = (self.clone(), self.container(id)?);
        let (signal, patience) = plan(&c.record(), &options)?;
        self.detached(async move {
            if c.is_starting() && !engine.call_off_start(&c, CallOff::Stopped).await {
                return Ok(());
            }
            if !c.record().state.is_running() {
                return Err(EngineError::NotModified(format!(
                    "container {} is already stopped",
                    c.id()
                )));
            }
            engine.stop(&c, signal, patience, false).await
        })
        .await
    }

    /// Stops a container, when it runs, and starts it.
    ///
    /// # Errors
    /// As stop and start.
    pub async fn container_restart(&self, id: &str, options: StopOptions) -> Result<()> {
        let (engine, c) = (self.clone(), self.container(id)?);
        let (signal, patience) = plan(&c.record(), &options)?;
        self.detached(async move {
            if c.record().state.is_running() {
                c.hold(true);
                let stopped = engine.stop(&c, signal, patience, true).await;
                c.hold(false);
                stopped?;
            }
            {
                let _ops = c.ops.lock().await;
                match engine.start_locked(&c, Starter::User).await {
                    Ok(()) | Err(EngineError::NotModified(_)) => {}
                    Err(e) => return Err(e),
                }
            }
            engine.container_event(&c, "restart", &[]);
            Ok(())
        })
        .await
    }

    async fn stop(
        &self,
        c: &Arc<Container>,
        signal: i32,
        patience: Option<Duration>,
        again: bool,
    ) -> Result<()> {
        self.wish_stopped(c, Desired::Stopped, again).await;
        self.stop_process(c, signal, patience).await?;
        self.container_event(c, "stop", &[]);
        Ok(())
    }

    /// Notes that a user wants the container stopped, and started `again`
    /// after that. That it can't be
    /// written (a full disk) keeps nobody from stopping it.
    pub(super) async fn wish_stopped(&self, c: &Arc<Container>, desired: Desired, again: bool) {
        crate::fault!("stop:before-record");
        c.change(|r| {
            r.manually_stopped = true;
            r.desired = desired;
            r.restart_wanted = again;
        });
        if let Err(error) = self.persist(c).await {
            tracing::error!(container = c.id().short(), %error, "the stop is not written");
        }
        crate::fault!("stop:after-record");
    }

    /// Ends a container's process: the signal, and after `patience` (`None`:
    /// never) SIGKILL. Returns when it has ended. Calls off a restart.
    pub(super) async fn stop_process(
        &self,
        c: &Arc<Container>,
        signal: i32,
        patience: Option<Duration>,
    ) -> Result<()> {
        loop {
            let (record, seen) = c.snapshot();
            if record.state.status == Status::Restarting {
                self.cancel_restart(c).await;
                continue;
            }
            if !record.state.has_process() {
                return Ok(());
            }
            self.send_signal(c, &record, signal).await?;
            crate::fault!("stop:after-signal");
            let ended = c.wait_exit(seen);
            match patience {
                None => ended.await,
                Some(patience) => {
                    if timeout(patience, ended).await.is_err() {
                        self.kill_hard(c, seen).await?;
                    }
                }
            }
            if c.record().state.status != Status::Restarting {
                return Ok(());
            }
        }
    }

    /// SIGKILL, then everything in the cgroup, until the end is seen.
    async fn kill_hard(&self, c: &Arc<Container>, seen: u64) -> Result<()> {
        let record = c.record();
        self.send_signal(c, &record, nix::libc::SIGKILL).await?;
        crate::fault!("stop:after-kill");
        if timeout(KILL_PATIENCE, c.wait_exit(seen)).await.is_ok() {
            return Ok(());
        }
        let cgroup = self.cgroup(&record);
        self.blocking(move || Ok(cgroup.kill_all()?)).await?;
        timeout(KILL_PATIENCE, c.wait_exit(seen)).await.map_err(|_| {
            EngineError::Fault(format!(
                "cannot stop container: {}: tried to kill container, but did not receive an exit \
                 event",
                c.id()
            ))
        })
    }

    /// Sends a signal and says so; thaws a frozen container, for the signal
    /// to arrive. That it has ended meanwhile is fine.
    async fn send_signal(
        &self,
        c: &Arc<Container>,
        record: &ContainerRecord,
        signal: i32,
    ) -> Result<()> {
        let Some(shim) = c.shim() else { return Ok(()) };
        match shim.signal(signal).await {
            Ok(()) => {}
            // Its end is on the way to the supervisor.
            Err(RuntimeError::NotRunning { .. } | RuntimeError::ShimDied { .. }) => return Ok(()),
            Err(e) => {
                let id = c.id();
                return Err(EngineError::from(e).context(format!("cannot kill container: {id}")));
            }
        }
        self.container_event(c, "kill", &[("signal", &signal.to_string())]);
        if record.state.status == Status::Paused {
            self.thaw(c, record).await?;
        }
        Ok(())
    }

    /// Calls a planned restart off: the container counts as ended.
    async fn cancel_restart(&self, c: &Arc<Container>) {
        c.cancel_restart();
        let off = c.call_off(CallOff::Stopped);
        let _ops = c.ops.lock().await;
        drop(off);
        if c.record().state.status == Status::Restarting {
            let record = c.record();
            let exit = Exit { code: record.state.exit_code, error: record.state.error.clone() };
            c.change_at_exit(exit, |r| step(r, Transition::RestartCancelled));
            self.persist_later(c);
        }
    }

    /// Sends a signal to a container's init; `None`: SIGKILL, and then the
    /// end is waited for.
    ///
    /// # Errors
    /// Not running; no such signal.
    pub async fn container_kill(&self, id: &str, name: Option<&str>) -> Result<()> {
        let (engine, c) = (self.clone(), self.container(id)?);
        let signal = match name.filter(|n| !n.is_empty()) {
            Some(name) => signal::parse(name)?,
            None => nix::libc::SIGKILL,
        };
        let text = id.to_owned();
        self.detached(async move {
            // Whoever kills, or sends what stops the container, wants it to
            // stay down; other signals are messages to the program.
            let (stops, _) = plan(&c.record(), &StopOptions::default())?;
            if c.is_starting()
                && (signal == stops || ENDS.contains(&signal))
                && !engine.call_off_start(&c, CallOff::Killed).await
            {
                return Ok(());
            }
            let record = c.record();
            if !record.state.is_running() {
                return Err(EngineError::Conflict(format!(
                    "cannot kill container: {text}: container {} is not running",
                    c.id()
                )));
            }
            if signal == nix::libc::SIGKILL {
                engine.wish_stopped(&c, Desired::Stopped, false).await;
                return engine.stop_process(&c, signal, Some(KILL_PATIENCE)).await;
            }
            if signal == stops {
                engine.wish_stopped(&c, Desired::Stopped, false).await;
            }
            if record.state.status == Status::Restarting {
                return engine.stop_process(&c, signal, None).await;
            }
            engine.send_signal(&c, &record, signal).await
        })
        .await
    }

    /// Gives a container's terminal a new size.
    ///
    /// # Errors
    /// Not running, or without a terminal.
    pub async fn container_resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let c = self.container(id)?;
        let Some(shim) = c.shim().filter(|_| c.record().state.has_process()) else {
            return Err(EngineError::NotRunning(c.id().to_string()));
        };
        shim.resize(rows, columns).await?;
        let (rows, columns) = (rows.to_string(), columns.to_string());
        self.container_event(&c, "resize", &[("height", &rows), ("width", &columns)]);
        Ok(())
    }
}

/// The signal and the patience of a stop.
fn plan(record: &ContainerRecord, options: &StopOptions) -> Result<(i32, Option<Duration>)> {
    let own = record.config.stop_signal.as_deref();
    let name = options.signal.as_deref().or(own).filter(|n| !n.is_empty());
    let signal = signal::parse(name.unwrap_or("SIGTERM"))?;
    let seconds = options.timeout.or(record.config.stop_timeout).unwrap_or(DEFAULT_TIMEOUT);
    Ok((signal, u64::try_from(seconds).ok().map(Duration::from_secs)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::record;

    #[test]
    fn the_request_then_the_container_then_the_default_decide() {
        let mut r = record(&"ab".repeat(32), "web");
        let none = StopOptions::default();
        assert_eq!(plan(&r, &none).unwrap(), (15, Some(Duration::from_secs(10))));
        r.config.stop_signal = Some("SIGQUIT".into());
        r.config.stop_timeout = Some(3);
        assert_eq!(plan(&r, &none).unwrap(), (3, Some(Duration::from_secs(3))));
        let own = StopOptions { signal: Some("INT".into()), timeout: Some(-1) };
        assert_eq!(plan(&r, &own).unwrap(), (2, None));
        let wrong = StopOptions { signal: Some("NOPE".into()), timeout: None };
        assert!(plan(&r, &wrong).is_err());
    }
}
