//! The daemon's side: starts shims, finds them again, and talks to them.

mod attach;
mod exec;
mod shim;
mod types;

use sampan_types::{ContainerId, ExecId};

pub use attach::{AttachOptions, AttachStream, OutputStream, StdinWriter};
pub use exec::ExecProcess;
pub use shim::Shim;
pub use types::{CreateRequest, ExecRequest, ExitStatus, IoConfig, OciRuntime, RuntimeConfig};

use crate::error::RuntimeError;

/// Makes containers and finds them again. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtime {}

impl Runtime {
    /// A runtime for one instance.
    ///
    /// # Errors
    /// When the directories can't be made.
    pub fn new(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        let _ = config;
        todo!()
    }

    /// Starts a shim, which creates the container; its init waits for
    /// [`Shim::start`]. When it fails, nothing is left behind.
    ///
    /// # Errors
    /// With Docker's texts; [`RuntimeError::exit_code`] is what the container
    /// exits with.
    pub async fn create(&self, request: CreateRequest) -> Result<Shim, RuntimeError> {
        let _ = request;
        todo!()
    }

    /// Finds the living shim of a container that an earlier daemon started.
    /// `None` when there is none: then [`Runtime::recorded_exit`] tells how
    /// the container ended, or, with no record of its last generation, its
    /// shim was killed and [`Runtime::cleanup`] ends what is left of it.
    ///
    /// # Errors
    /// When there is one, but it can't be talked to.
    pub async fn connect(&self, id: &ContainerId) -> Result<Option<Shim>, RuntimeError> {
        let _ = id;
        todo!()
    }

    /// How the last recorded run of the container ended.
    ///
    /// # Errors
    /// When the record can't be read.
    pub fn recorded_exit(&self, id: &ContainerId) -> Result<Option<ExitStatus>, RuntimeError> {
        let _ = id;
        todo!()
    }

    /// Ends everything that is left of a container's run: processes, cgroups
    /// and the directory below exec-root. Can be repeated; that nothing is
    /// left is success.
    ///
    /// # Errors
    /// When something could not be removed; everything else was, though.
    pub async fn cleanup(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let _ = id;
        todo!()
    }

    /// Prepares a further process in a running container: starts its shim, to
    /// which clients can attach. [`ExecProcess::start`] runs it.
    ///
    /// # Errors
    /// When the container has no living shim.
    pub async fn exec(
        &self,
        id: &ContainerId,
        request: ExecRequest,
    ) -> Result<ExecProcess, RuntimeError> {
        let _ = (id, request);
        todo!()
    }

    /// Finds the living shim of an exec that an earlier daemon started.
    /// `None` when there is none; [`Runtime::recorded_exec_exit`] then tells
    /// how it ended.
    ///
    /// # Errors
    /// When there is one, but it can't be talked to.
    pub async fn connect_exec(
        &self,
        id: &ContainerId,
        exec: &ExecId,
    ) -> Result<Option<ExecProcess>, RuntimeError> {
        let _ = (id, exec);
        todo!()
    }

    /// How an exec ended; known until the container's next cleanup.
    ///
    /// # Errors
    /// When the record can't be read.
    pub fn recorded_exec_exit(
        &self,
        id: &ContainerId,
        exec: &ExecId,
    ) -> Result<Option<ExitStatus>, RuntimeError> {
        let _ = (id, exec);
        todo!()
    }
}
