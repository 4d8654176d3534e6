//! Signatures of the life cycle.

use sampan_types::docker::{ContainerPruneResponse, ContainerUpdateBody};

use crate::Engine;
use crate::error::Result;
use crate::filters::Filters;

/// How to stop a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopOptions {
    /// The signal; `None`: the container's own, else SIGTERM.
    pub signal: Option<String>,
    /// Seconds until SIGKILL; negative: never. `None`: the container's own, else 10.
    pub timeout: Option<i64>,
}

/// How to remove a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// Kill it when it runs.
    pub force: bool,
    /// Remove its anonymous volumes too.
    pub volumes: bool,
    /// Remove a link, not a container; refused.
    pub link: bool,
}

/// What to wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WaitCondition {
    /// It does not run: also when it never did.
    #[default]
    NotRunning,
    /// It ends the next time.
    NextExit,
    /// It is gone.
    Removed,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitResult {
    /// The exit code.
    pub status_code: i64,
    /// Why it could not be started or removed.
    pub error: Option<String>,
}

/// A wait that has begun: nothing that happens from now on is missed.
pub struct WaitHandle {
    pub(crate) future: futures_util::future::BoxFuture<'static, WaitResult>,
}

impl WaitHandle {
    /// Waits.
    pub async fn result(self) -> WaitResult {
        self.future.await
    }
}

impl Engine {
    /// Starts a container.
    ///
    /// # Errors
    /// [`EngineError::NotModified`](crate::EngineError::NotModified) when it
    /// runs already; everything that keeps it from starting.
    pub async fn container_start(&self, id: &str) -> Result<()> {
        let _ = id;
        todo!()
    }
    /// Stops a container.
    ///
    /// # Errors
    /// `NotModified` when it does not run.
    pub async fn container_stop(&self, id: &str, options: StopOptions) -> Result<()> {
        let _ = (id, options);
        todo!()
    }
    /// Stops and starts a container.
    ///
    /// # Errors
    /// As stop and start.
    pub async fn container_restart(&self, id: &str, options: StopOptions) -> Result<()> {
        let _ = (id, options);
        todo!()
    }
    /// Sends a signal to a container's init; `None`: SIGKILL.
    ///
    /// # Errors
    /// Not running; no such signal.
    pub async fn container_kill(&self, id: &str, signal: Option<&str>) -> Result<()> {
        let _ = (id, signal);
        todo!()
    }
    /// Freezes a container's processes.
    ///
    /// # Errors
    /// Not running; paused already.
    pub async fn container_pause(&self, id: &str) -> Result<()> {
        let _ = id;
        todo!()
    }
    /// Thaws a container's processes.
    ///
    /// # Errors
    /// Not paused.
    pub async fn container_unpause(&self, id: &str) -> Result<()> {
        let _ = id;
        todo!()
    }
    /// Gives a container another name.
    ///
    /// # Errors
    /// The name is in use or no name.
    pub async fn container_rename(&self, id: &str, name: &str) -> Result<()> {
        let _ = (id, name);
        todo!()
    }
    /// Changes limits and restart policy, also of a running container;
    /// returns warnings.
    ///
    /// # Errors
    /// Limits that are out of range or that the kernel refuses.
    pub async fn container_update(
        &self,
        id: &str,
        body: ContainerUpdateBody,
    ) -> Result<Vec<String>> {
        let _ = (id, body);
        todo!()
    }
    /// Removes a container.
    ///
    /// # Errors
    /// It runs and `force` is not set.
    pub async fn container_remove(&self, id: &str, options: RemoveOptions) -> Result<()> {
        let _ = (id, options);
        todo!()
    }
    /// Removes all containers that do not run and match.
    ///
    /// # Errors
    /// Unknown filters.
    pub async fn container_prune(&self, filters: &Filters) -> Result<ContainerPruneResponse> {
        let _ = filters;
        todo!()
    }
    /// Begins to wait for a container.
    ///
    /// # Errors
    /// No such container.
    pub fn container_wait(&self, id: &str, condition: WaitCondition) -> Result<WaitHandle> {
        let _ = (id, condition);
        todo!()
    }
    /// Gives a container's terminal a new size.
    ///
    /// # Errors
    /// Not running.
    pub async fn container_resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let _ = (id, rows, columns);
        todo!()
    }
}
