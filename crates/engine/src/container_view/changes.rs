//! What a container changed in its file system, as `docker diff` shows it.

use sampan_image::ChangeKind;
use sampan_types::docker;
use sampan_types::docker::FilesystemChange;

use crate::{Engine, EngineError, Result};

impl Engine {
    /// The changed paths. `None` (JSON `null`) when nothing changed.
    ///
    /// # Errors
    /// No such container; those of the file system.
    pub async fn container_changes(&self, id: &str) -> Result<Option<Vec<FilesystemChange>>> {
        let container = self.container(id)?;
        let changes =
            self.image_store().changes(container.id()).await.map_err(EngineError::part)?;
        let shown: Vec<FilesystemChange> = changes
            .into_iter()
            .map(|(kind, path)| FilesystemChange {
                path: path.to_string_lossy().into_owned(),
                kind: match kind {
                    ChangeKind::Modified => docker::ChangeType::_0,
                    ChangeKind::Added => docker::ChangeType::_1,
                    ChangeKind::Deleted => docker::ChangeType::_2,
                },
            })
            .collect();
        Ok((!shown.is_empty()).then_some(shown))
    }
}
