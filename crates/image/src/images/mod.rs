//! The images: records, names, and what is done with them.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use sampan_types::{ContainerId, ImageId, Timestamp, docker};

use crate::{
    ConfigFile, Content, Descriptor, Digest, ImageError, Lease, Limits, Manifest, ProgressSink,
    Reference,
};

/// The images and snapshots of an instance. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Images {}

/// What is known of an image. Records are immutable; a change makes a new one.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageRecord {
    /// The digest of its configuration.
    pub id: ImageId,
    /// The tags that name it, sorted.
    pub tags: Vec<Reference>,
    /// The digests by which registries know it, sorted.
    pub digests: Vec<Reference>,
    /// The image it was committed from, while that exists.
    pub parent: Option<ImageId>,
    /// When it was made, by its configuration.
    pub created: Timestamp,
    /// When a tag was last given to it.
    pub last_tagged: Timestamp,
    /// Its configuration; `config` and `rootfs` are in it.
    pub config: ConfigFile,
    /// Its manifest's digest.
    pub manifest: Digest,
    /// The bytes of its unpacked layers.
    pub size: u64,
}

impl ImageRecord {
    /// What a container of this image runs, and how.
    #[must_use]
    pub fn run_config(&self) -> docker::ImageConfig {
        self.config.config.clone().unwrap_or_default()
    }
}

/// One line of `docker history`, newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryItem {
    /// The image as it was after this step, where it still exists.
    pub id: Option<ImageId>,
    /// When.
    pub created: Timestamp,
    /// By which command.
    pub created_by: String,
    /// The bytes of the layer; 0 when the step made none.
    pub size: u64,
    /// A remark.
    pub comment: String,
    /// The tags of `id`.
    pub tags: Vec<Reference>,
}

/// A container's use of an image, as the engine knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUse {
    /// Which container.
    pub container: ContainerId,
    /// Whether it is running (or paused, or restarting).
    pub running: bool,
}

/// How to remove an image.
pub struct RemoveOptions<'a> {
    /// Remove although stopped containers use it or several tags name it.
    pub force: bool,
    /// Keep untagged parents.
    pub noprune: bool,
    /// Which containers use an image.
    pub in_use: &'a (dyn Fn(&ImageId) -> Vec<ImageUse> + Send + Sync),
}

/// Which images to remove in one go.
pub struct Pruning<'a> {
    /// Only images without a tag; otherwise all that no container uses.
    pub dangling: bool,
    /// Only images made before this.
    pub until: Option<Timestamp>,
    /// Only images with these labels (`key` or `key=value`, all of them).
    pub labels: Vec<String>,
    /// Only images with none of these labels.
    pub not_labels: Vec<String>,
    /// Which containers use an image.
    pub in_use: &'a (dyn Fn(&ImageId) -> Vec<ImageUse> + Send + Sync),
}

/// What a prune did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PruneReport {
    /// What was untagged and deleted.
    pub deleted: Vec<docker::ImageDeleteResponseItem>,
    /// How many bytes came free.
    pub reclaimed: u64,
}

/// Which images `list` gives. Lists of one filter are alternatives, but for
/// labels, which must all be there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ListFilters {
    /// Intermediate images too: untagged images that others were made from.
    pub all: bool,
    /// Only images with (false) or without (true) a tag.
    pub dangling: Option<bool>,
    /// Patterns for the familiar reference or name (`*`, `?`, `[…]`; no `/`).
    pub references: Vec<String>,
    /// Made before these images.
    pub before: Vec<String>,
    /// Made after these images.
    pub since: Vec<String>,
    /// Labels (`key` or `key=value`).
    pub labels: Vec<String>,
    /// Made before this time.
    pub until: Option<Timestamp>,
}

/// An image whose content is complete: what [`Images::register`] records.
#[derive(Debug, Clone)]
pub struct Registration {
    /// The manifest, in the content store.
    pub manifest: Digest,
    /// The tags to give, each taken away from the image that has it.
    pub tags: Vec<Reference>,
    /// Name and digest by which the registry knows it (of the index, if there
    /// is one).
    pub digests: Vec<Reference>,
    /// The image it was committed from.
    pub parent: Option<ImageId>,
}

impl Images {
    /// Opens the images below `data_root`, and removes what an interrupted
    /// operation left.
    ///
    /// # Errors
    /// When the directories can't be made or read.
    pub async fn open(data_root: &Path) -> Result<Self, ImageError> {
        todo!()
    }

    /// As [`Images::open`], with other bounds for archives.
    ///
    /// # Errors
    /// As there.
    pub async fn open_with(data_root: &Path, limits: Limits) -> Result<Self, ImageError> {
        todo!()
    }

    /// The image that a reference, an id or the beginning of an id names.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::Ambiguous`], or that the name is
    /// not a reference.
    pub fn resolve(&self, name: &str) -> Result<ImageId, ImageError> {
        todo!()
    }

    /// What is known of an image.
    ///
    /// # Errors
    /// [`ImageError::NotFound`].
    pub fn inspect(&self, id: &ImageId) -> Result<Arc<ImageRecord>, ImageError> {
        todo!()
    }

    /// All images, newest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<ImageRecord>> {
        todo!()
    }

    /// The images that pass the filters, newest first.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] when an image named by `before` or `since`
    /// doesn't exist; [`ImageError::Invalid`] for a wrong pattern.
    pub fn list_filtered(&self, filters: &ListFilters) -> Result<Vec<Arc<ImageRecord>>, ImageError> {
        todo!()
    }

    /// How an image came about, newest step first.
    ///
    /// # Errors
    /// [`ImageError::NotFound`].
    pub fn history(&self, id: &ImageId) -> Result<Vec<HistoryItem>, ImageError> {
        todo!()
    }

    /// Bytes of an image's layers that other images have too.
    #[must_use]
    pub fn shared_size(&self, id: &ImageId) -> u64 {
        todo!()
    }

    /// Bytes of all layers, each counted once.
    #[must_use]
    pub fn layers_size(&self) -> u64 {
        todo!()
    }

    /// Gives the image `source` another name; without a tag, `latest`.
    ///
    /// # Errors
    /// As [`Images::resolve`]; [`ImageError::Invalid`] when the name holds a
    /// digest; those of the file system.
    pub async fn tag(&self, source: &str, name: &Reference) -> Result<ImageId, ImageError> {
        todo!()
    }

    /// Takes a name away and, when it was the last, removes the image with the
    /// layers and blobs that nothing else has. Gives what Docker's `rmi`
    /// answers, in order.
    ///
    /// # Errors
    /// [`ImageError::NotFound`]; [`ImageError::Conflict`] with Docker's texts.
    pub async fn remove(
        &self,
        name: &str,
        options: RemoveOptions<'_>,
    ) -> Result<Vec<docker::ImageDeleteResponseItem>, ImageError> {
        todo!()
    }

    /// Removes the images that nothing needs.
    ///
    /// # Errors
    /// Those of the file system.
    pub async fn prune(&self, what: Pruning<'_>) -> Result<PruneReport, ImageError> {
        todo!()
    }

    /// Keeps content alive that no image refers to yet.
    #[must_use]
    pub fn lease(&self) -> Lease {
        todo!()
    }

    /// The blobs.
    #[must_use]
    pub fn content(&self) -> &Content {
        todo!()
    }

    /// Whether the layer with this diff id is unpacked. Pin it first.
    #[must_use]
    pub fn has_layer(&self, diff_id: &Digest) -> bool {
        todo!()
    }

    /// Unpacks a layer's archive from the content store, verifies that its
    /// uncompressed digest is `diff_id`, and pins it by `lease`. Layers may be
    /// unpacked in parallel; one that is here already is done at once.
    /// `progress` gets `Extracting` and `Pull complete` about `label`.
    ///
    /// # Errors
    /// A broken or hostile archive, a wrong digest, a full disk. Nothing is left.
    pub async fn unpack_layer(
        &self,
        lease: &Lease,
        blob: &Descriptor,
        diff_id: &Digest,
        label: &str,
        progress: &ProgressSink,
    ) -> Result<(), ImageError> {
        todo!()
    }

    /// Records an image, all of whose blobs and layers are here, and its names.
    /// Durable on return.
    ///
    /// # Errors
    /// [`ImageError::Broken`] when manifest or configuration are wrong or
    /// something is missing; [`ImageError::Invalid`] when the image is not for
    /// Linux.
    pub async fn register(
        &self,
        lease: &Lease,
        registration: Registration,
    ) -> Result<ImageId, ImageError> {
        todo!()
    }

    /// Adds the name by which a registry knows the image (after a push).
    ///
    /// # Errors
    /// [`ImageError::NotFound`]; those of the file system.
    pub async fn add_digest(&self, id: &ImageId, name: &Reference) -> Result<(), ImageError> {
        todo!()
    }

    /// The manifest of an image, with the descriptor of its blob. All blobs
    /// that it names are in the content store.
    ///
    /// # Errors
    /// [`ImageError::NotFound`]; [`ImageError::Broken`] when the blob is damaged.
    pub fn manifest(&self, id: &ImageId) -> Result<(Descriptor, Manifest), ImageError> {
        todo!()
    }
}

type _Unused = (BTreeMap<(), ()>, HashSet<()>);
