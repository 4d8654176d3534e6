//! A container's whole file system as a tar archive.

use sampan_image::ByteStream;

use crate::{Engine, Result};

impl Engine {
    /// The archive, without the content of volumes.
    ///
    /// # Errors
    /// No such container; it is being removed.
    pub async fn container_export(&self, id: &str) -> Result<ByteStream> {
        let _ = id;
        todo!()
    }
}
