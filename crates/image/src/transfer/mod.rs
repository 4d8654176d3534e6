//! Images as archives: load, save, import, and images made from containers.

mod load;
mod make;
mod save;
mod spool;

use sampan_types::{ContainerId, ImageId, docker};

use crate::{Change, Platform, Reference};

/// How to load an archive.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Only images for this platform.
    pub platform: Option<Platform>,
    /// Send only the final messages, no figures.
    pub quiet: bool,
}

/// An image to make from a root file system's archive.
#[derive(Debug, Clone, Default)]
pub struct ImportRequest {
    /// The name to give; without a tag, `latest`.
    pub reference: Option<Reference>,
    /// Alterations of the empty configuration.
    pub changes: Vec<Change>,
    /// A remark; Docker's default is `Imported from -`.
    pub message: String,
    /// The platform to record; this machine's otherwise.
    pub platform: Option<Platform>,
}

/// An image to make from a container.
#[derive(Debug, Clone)]
pub struct CommitRequest {
    /// Whose file system.
    pub container: ContainerId,
    /// The image it was created from.
    pub image: ImageId,
    /// The container's configuration, the image's already merged into it; it
    /// becomes the new image's.
    pub config: docker::ImageConfig,
    /// The name to give; without a tag, `latest`.
    pub reference: Option<Reference>,
    /// Alterations of the configuration.
    pub changes: Vec<Change>,
    /// Who.
    pub author: String,
    /// A remark.
    pub message: String,
}
