//! Freezing and thawing a container's processes.

use std::sync::Arc;

use super::Container;
use super::start::step;
use super::state::{Status, Transition};
use crate::Engine;
use crate::error::{EngineError, Result};
use crate::record::ContainerRecord;

impl Engine {
    /// Freezes a container's processes.
    ///
    /// # Errors
    /// Not running; paused already; the kernel does not freeze them in time.
    pub async fn container_pause(&self, id: &str) -> Result<()> {
        let (engine, c) = (self.clone(), self.container(id)?);
        self.detached(async move {
            let _ops = c.ops.lock().await;
            let record = c.record();
            match record.state.status {
                Status::Running => {}
                Status::Paused => {
                    return Err(EngineError::Conflict(format!(
                        "container {} is already paused",
                        c.id()
                    )));
                }
                Status::Restarting => return Err(EngineError::Restarting(c.id().to_string())),
                _ => return Err(EngineError::NotRunning(c.id().to_string())),
            }
            let frozen = engine.cgroup(&record).freeze(true).await;
            frozen.map_err(|e| {
                EngineError::from(e).context(format!("cannot pause container {}", c.id()))
            })?;
            crate::fault!("pause:after-freeze");
            c.change(|r| step(r, Transition::Frozen));
            engine.persist_later(&c);
            engine.container_event(&c, "pause", &[]);
            crate::fault!("pause:after-record");
            Ok(())
        })
        .await
    }

    /// Thaws a container's processes.
    ///
    /// # Errors
    /// Not paused; the kernel does not thaw them in time.
    pub async fn container_unpause(&self, id: &str) -> Result<()> {
        let (engine, c) = (self.clone(), self.container(id)?);
        self.detached(async move {
            let _ops = c.ops.lock().await;
            let record = c.record();
            if record.state.status != Status::Paused {
                return Err(EngineError::Conflict(format!("Container {} is not paused", c.id())));
            }
            engine.thaw(&c, &record).await
        })
        .await
    }

    /// Thaws; also without `ops`, for a signal that is to arrive.
    pub(super) async fn thaw(&self, c: &Arc<Container>, record: &ContainerRecord) -> Result<()> {
        self.cgroup(record).freeze(false).await.map_err(|e| {
            EngineError::from(e).context(format!("cannot unpause container {}", c.id()))
        })?;
        crate::fault!("unpause:after-thaw");
        let thawed = c.change(|r| r.state.step(Transition::Thawed).is_ok());
        if thawed {
            self.persist_later(c);
            self.container_event(c, "unpause", &[]);
        }
        crate::fault!("unpause:after-record");
        Ok(())
    }
}
