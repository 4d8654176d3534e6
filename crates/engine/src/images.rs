//! Images as the API shows them: glue over [`sampan_image`].

use futures_util::stream::BoxStream;
use sampan_image::ByteStream;
use sampan_types::docker::{AuthConfig, ImageDeleteResponseItem};
use serde_json::Value;
use tokio::io::AsyncRead;

use crate::filters::Filters;
use crate::{Engine, Result};

/// Docker's JSON messages, one per item, without line ends. An error that
/// happens on the way is the last message.
pub type Messages = BoxStream<'static, Value>;

/// What to import.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The repository to name it; empty for none.
    pub repo: String,
    /// The tag.
    pub tag: String,
    /// A remark.
    pub message: String,
    /// Dockerfile instructions, one each.
    pub changes: Vec<String>,
    /// `os[/arch[/variant]]`.
    pub platform: Option<String>,
}

impl Engine {
    /// The images that pass the filters: items of type `ImageSummary`.
    ///
    /// # Errors
    /// When a filter is wrong.
    pub async fn image_list(
        &self,
        all: bool,
        shared_size: bool,
        filters: &Filters,
    ) -> Result<Vec<Value>> {
        let _ = (all, shared_size, filters);
        todo!()
    }

    /// One image.
    ///
    /// # Errors
    /// No such image.
    pub async fn image_inspect(&self, name: &str) -> Result<Value> {
        let _ = name;
        todo!()
    }

    /// How an image came about.
    ///
    /// # Errors
    /// No such image.
    pub async fn image_history(&self, name: &str) -> Result<Value> {
        let _ = name;
        todo!()
    }

    /// Pulls `image` (with `tag`: a tag or digest beside it; both empty tag
    /// and digest mean `latest`).
    ///
    /// # Errors
    /// A wrong name, and what the registry says before anything was sent.
    pub async fn image_pull(
        &self,
        image: &str,
        tag: &str,
        platform: Option<&str>,
        auth: Option<AuthConfig>,
    ) -> Result<Messages> {
        let _ = (image, tag, platform, auth);
        todo!()
    }

    /// Pushes `image` with `tag`; an empty tag means all tags.
    ///
    /// # Errors
    /// No such image, a wrong name.
    pub async fn image_push(
        &self,
        image: &str,
        tag: &str,
        auth: Option<AuthConfig>,
    ) -> Result<Messages> {
        let _ = (image, tag, auth);
        todo!()
    }

    /// Loads images from an archive.
    ///
    /// # Errors
    /// A wrong platform; what is wrong with the archive comes as a message.
    pub async fn image_load<R>(
        &self,
        archive: R,
        quiet: bool,
        platform: Option<&str>,
    ) -> Result<Messages>
    where
        R: AsyncRead + Unpin + Send + 'static,
    {
        let _ = (archive, quiet, platform);
        todo!()
    }

    /// Images as one archive.
    ///
    /// # Errors
    /// No such image.
    pub async fn image_save(&self, names: &[String], platform: Option<&str>) -> Result<ByteStream> {
        let _ = (names, platform);
        todo!()
    }

    /// Makes an image from the archive of a root file system.
    ///
    /// # Errors
    /// A wrong name or change; what is wrong with the archive comes as a message.
    pub async fn image_import<R>(&self, archive: R, options: ImportOptions) -> Result<Messages>
    where
        R: AsyncRead + Unpin + Send + 'static,
    {
        let _ = (archive, options);
        todo!()
    }

    /// Gives an image another name.
    ///
    /// # Errors
    /// No such image, a wrong name.
    pub async fn image_tag(&self, source: &str, repo: &str, tag: &str) -> Result<()> {
        let _ = (source, repo, tag);
        todo!()
    }

    /// Takes a name away, and the image with the last.
    ///
    /// # Errors
    /// No such image; containers use it.
    pub async fn image_remove(
        &self,
        name: &str,
        force: bool,
        noprune: bool,
    ) -> Result<Vec<ImageDeleteResponseItem>> {
        let _ = (name, force, noprune);
        todo!()
    }

    /// Removes the images that nothing needs.
    ///
    /// # Errors
    /// When a filter is wrong.
    pub async fn image_prune(&self, filters: &Filters) -> Result<Value> {
        let _ = filters;
        todo!()
    }

    /// Searches a registry.
    ///
    /// # Errors
    /// Always: registries have no search of their own.
    pub async fn image_search(&self, term: &str) -> Result<Value> {
        let _ = term;
        todo!()
    }

    /// What a registry has under a name.
    ///
    /// # Errors
    /// A wrong name; what the registry says.
    pub async fn distribution_inspect(
        &self,
        name: &str,
        auth: Option<AuthConfig>,
    ) -> Result<Value> {
        let _ = (name, auth);
        todo!()
    }

    /// Checks credentials with a registry: the answer of `POST /auth`.
    ///
    /// # Errors
    /// They are wrong; the registry is out of reach.
    pub async fn registry_auth(&self, auth: AuthConfig) -> Result<Value> {
        let _ = auth;
        todo!()
    }
}
