//! An image made from a container, as `docker commit` does.

use sampan_types::{ImageId, docker};

use crate::{Engine, Result};

/// How to make the image.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// The repository to name it; empty for none.
    pub repo: String,
    /// The tag; empty for `latest`.
    pub tag: String,
    /// A remark.
    pub comment: String,
    /// Who.
    pub author: String,
    /// Whether the container is paused meanwhile.
    pub pause: bool,
    /// Dockerfile instructions, one each.
    pub changes: Vec<String>,
    /// Configuration that replaces the container's where it is set.
    pub config: Option<docker::ContainerConfig>,
}

impl Engine {
    /// Makes an image from what a container changed.
    ///
    /// # Errors
    /// No such container, a wrong name, wrong changes, a full disk.
    pub async fn container_commit(&self, id: &str, options: CommitOptions) -> Result<ImageId> {
        let _ = (id, options);
        todo!()
    }
}
