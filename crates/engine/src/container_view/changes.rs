//! What a container changed in its file system, as `docker diff` shows it.

use sampan_types::docker::FilesystemChange;

use crate::{Engine, Result};

impl Engine {
    /// The changed paths. `None` (JSON `null`) when nothing changed.
    ///
    /// # Errors
    /// No such container; those of the file system.
    pub async fn container_changes(&self, id: &str) -> Result<Option<Vec<FilesystemChange>>> {
        let _ = id;
        todo!()
    }
}
