//! Images as archives: load, save, import, and images made from containers.

use sampan_types::{ContainerId, ImageId, docker};
use tokio::io::AsyncRead;

use crate::{ByteStream, Change, ImageError, Images, Platform, ProgressSink, Reference};

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

impl Images {
    /// Loads images from an archive: Docker's (`manifest.json`) or an OCI
    /// layout (`index.json`), compressed or not. Gives the images with the
    /// names they got. All of it is loaded, or nothing.
    ///
    /// # Errors
    /// A broken or hostile archive; a full disk. Nothing is left then.
    pub async fn load<R>(
        &self,
        archive: R,
        options: LoadOptions,
        progress: ProgressSink,
    ) -> Result<Vec<(ImageId, Vec<Reference>)>, ImageError>
    where
        R: AsyncRead + Unpin + Send + 'static,
    {
        todo!()
    }

    /// The named images as one archive that is Docker's and an OCI layout at
    /// once. A name without tag or digest stands for all tags of a repository.
    ///
    /// # Errors
    /// As [`Images::resolve`], before anything is sent.
    pub async fn save(
        &self,
        names: &[String],
        platform: Option<Platform>,
    ) -> Result<ByteStream, ImageError> {
        todo!()
    }

    /// Makes an image from the archive of a root file system, compressed or not.
    ///
    /// # Errors
    /// A broken or hostile archive; a full disk.
    pub async fn import<R>(&self, archive: R, request: ImportRequest) -> Result<ImageId, ImageError>
    where
        R: AsyncRead + Unpin + Send + 'static,
    {
        todo!()
    }

    /// Makes an image from what a container changed.
    ///
    /// # Errors
    /// [`ImageError::NoSnapshot`]; a full disk.
    pub async fn commit(&self, request: CommitRequest) -> Result<ImageId, ImageError> {
        todo!()
    }
}
