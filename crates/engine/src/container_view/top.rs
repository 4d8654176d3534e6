//! The processes of a container, as `docker top` shows them.

use sampan_types::docker::ContainerTopResponse;

use crate::{Engine, Result};

impl Engine {
    /// The processes of a running container in columns chosen by `ps_args`
    /// (the words for ps(1); empty means `-ef`).
    ///
    /// # Errors
    /// No such container, not running, or arguments that are not understood.
    pub async fn container_top(&self, id: &str, ps_args: &str) -> Result<ContainerTopResponse> {
        let _ = (id, ps_args);
        todo!()
    }
}
