//! Making a container.

use sampan_types::docker::{ContainerCreateBody, ContainerCreateResponse};

use crate::Engine;
use crate::error::Result;

impl Engine {
    /// Makes a container from an image and a configuration. Everything is
    /// checked before anything is made; a failure leaves nothing behind.
    ///
    /// # Errors
    /// Wrong or conflicting options, a name in use, no such image.
    pub async fn container_create(
        &self,
        name: Option<&str>,
        platform: Option<&str>,
        body: ContainerCreateBody,
    ) -> Result<ContainerCreateResponse> {
        let _ = (name, platform, body);
        todo!()
    }
}
