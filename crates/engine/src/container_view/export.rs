//! A container's whole file system as a tar archive.

use sampan_image::ByteStream;
use sampan_types::EventType;

use super::attributes;
use crate::record::Status;
use crate::{Engine, EngineError, Result};

impl Engine {
    /// The archive, without the content of volumes.
    ///
    /// # Errors
    /// No such container; it is being removed.
    pub async fn container_export(&self, id: &str) -> Result<ByteStream> {
        let container = self.container(id)?;
        let record = container.record();
        if matches!(record.state.status, Status::Removing | Status::Dead) {
            return Err(EngineError::Conflict(format!(
                "You cannot export container {} which is {}",
                record.id,
                record.state.status.as_str()
            )));
        }
        let stream = self.image_store().export(container.id()).await.map_err(EngineError::part)?;
        self.event_bus().publish(
            EventType::Container,
            "export",
            record.id.as_str(),
            attributes(&record),
        );
        Ok(stream)
    }
}
