//! Further processes in running containers.

use sampan_types::docker::{ExecConfig, ExecInspectResponse};
use sampan_types::ExecId;

use crate::Engine;
use crate::attach::Attachment;
use crate::error::Result;

/// How an exec is started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExecStartOptions {
    /// Do not attach; answer when it runs.
    pub detach: bool,
    /// Whether the client expects a terminal; must match the exec's.
    pub tty: bool,
    /// The terminal's first size: rows, columns.
    pub console_size: Option<(u16, u16)>,
}

impl Engine {
    /// Prepares a process in a running container.
    ///
    /// # Errors
    /// No such container, not running, paused, an empty command.
    pub async fn exec_create(&self, id: &str, config: ExecConfig) -> Result<ExecId> {
        let _ = (id, config);
        todo!()
    }

    /// Runs a prepared process; with `detach` there is nothing to attach to.
    ///
    /// # Errors
    /// No such exec, started before, container not running, no such program.
    pub async fn exec_start(
        &self,
        exec: &str,
        options: ExecStartOptions,
    ) -> Result<Option<Attachment>> {
        let _ = (exec, options);
        todo!()
    }

    /// Gives the terminal of an exec a new size.
    ///
    /// # Errors
    /// No such exec, not running.
    pub async fn exec_resize(&self, exec: &str, rows: u16, columns: u16) -> Result<()> {
        let _ = (exec, rows, columns);
        todo!()
    }

    /// The shape that `GET /exec/{id}/json` answers.
    ///
    /// # Errors
    /// No such exec.
    pub fn exec_inspect(&self, exec: &str) -> Result<ExecInspectResponse> {
        let _ = exec;
        todo!()
    }

    /// The ids of a container's execs that have not ended, for `inspect`.
    #[must_use]
    pub fn exec_ids(&self, id: &sampan_types::ContainerId) -> Vec<ExecId> {
        let _ = id;
        todo!()
    }
}
