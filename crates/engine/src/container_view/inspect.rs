//! Everything about one container, as `docker inspect` shows it.

use serde_json::Value;

use crate::{Engine, Result};

impl Engine {
    /// A container as dockerd's `GET /containers/{id}/json` answers.
    ///
    /// # Errors
    /// No such container; with `size`, those of the file system.
    pub async fn container_inspect(&self, id: &str, size: bool) -> Result<Value> {
        let _ = (id, size);
        todo!()
    }
}
