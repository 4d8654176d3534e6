//! The images: records, names, and what is done with them.

mod collect;
mod query;
mod register;
mod removal;
mod state;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sampan_types::{ContainerId, ImageId, Timestamp, docker};
use tokio_util::task::TaskTracker;

pub(crate) use register::Watched;
use state::State;

use crate::layer::LayerStore;
use crate::lease::Pins;
use crate::snapshot::{InitLayers, Snapshots, destroy};
use crate::stream::blocking;
use crate::{
    ConfigFile, Content, Descriptor, Digest, ImageError, Lease, Limits, Manifest, Reference, media,
};

/// The images and snapshots of an instance. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Images(pub(crate) Arc<Inner>);

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
    /// The layers' archives, lowest first.
    pub layers: Vec<Descriptor>,
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

/// What all clones of [`Images`] share.
#[derive(Debug)]
pub(crate) struct Inner {
    /// `<data-root>/image`.
    pub(crate) root: PathBuf,
    pub(crate) content: Content,
    pub(crate) layers: LayerStore,
    pub(crate) inits: InitLayers,
    pub(crate) snapshots: Snapshots,
    pub(crate) pins: Arc<Pins>,
    pub(crate) limits: Limits,
    /// Removal of files that nobody waits for.
    pub(crate) background: TaskTracker,
    state: State,
}

impl Images {
    /// Opens the images below `data_root`, and removes what an interrupted
    /// operation left.
    ///
    /// # Errors
    /// When the directories can't be made or read.
    pub async fn open(data_root: &Path) -> Result<Self, ImageError> {
        Self::open_with(data_root, Limits::default()).await
    }

    /// As [`Images::open`], with other bounds for archives.
    ///
    /// # Errors
    /// As there.
    pub async fn open_with(data_root: &Path, limits: Limits) -> Result<Self, ImageError> {
        let data_root = data_root.to_owned();
        let inner = Arc::new(blocking(move || Inner::open(&data_root, limits)).await?);
        for trash in inner.snapshots.trash()? {
            inner.in_background(move || {
                if let Err(error) = destroy(&trash) {
                    tracing::warn!(%error, "the file system of a removed container stays for now");
                }
            });
        }
        Ok(Self(inner))
    }

    /// Waits until what goes on in the background is done: before the engine
    /// exits, and in tests.
    pub async fn settle(&self) {
        self.0.background.close();
        self.0.background.wait().await;
        self.0.background.reopen();
    }

    /// Keeps content alive that no image refers to yet.
    #[must_use]
    pub fn lease(&self) -> Lease {
        Lease::new(Arc::clone(&self.0.pins))
    }

    /// The blobs.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.0.content
    }

    /// Whether the layer with this diff id is unpacked. Pin it first.
    #[must_use]
    pub fn has_layer(&self, diff_id: &Digest) -> bool {
        self.0.layers.info(diff_id).is_some()
    }

    /// The manifest of an image, with the descriptor of its blob. All blobs
    /// that it names are in the content store.
    ///
    /// # Errors
    /// [`ImageError::NotFound`]; [`ImageError::Broken`] when the blob is damaged.
    pub fn manifest(&self, id: &ImageId) -> Result<(Descriptor, Manifest), ImageError> {
        let record = self.inspect(id)?;
        let blob = self.0.content.read(&record.manifest)?;
        let manifest = state::parse_manifest(&blob)?;
        let media_type = manifest.media_type.as_deref().unwrap_or(media::OCI_MANIFEST);
        let size = blob.len() as u64;
        Ok((Descriptor::new(media_type, record.manifest.clone(), size), manifest))
    }
}

impl Inner {
    /// What is known of an image.
    pub(crate) fn record(&self, id: &ImageId) -> Result<Arc<ImageRecord>, ImageError> {
        let found = self.state.view().images.get(id).cloned();
        found.ok_or_else(|| ImageError::NotFound(id.to_string()))
    }

    fn open(data_root: &Path, limits: Limits) -> Result<Self, ImageError> {
        let root = data_root.join("image");
        fs::create_dir_all(&root).map_err(ImageError::io("make", &root))?;
        fs::set_permissions(&root, fs::Permissions::from_mode(0o710))
            .map_err(ImageError::io("set the mode of", &root))?;
        sampan_sys::file::remove_temporaries(&root).map_err(ImageError::io("clean", &root))?;
        let content = Content::open(&root)?;
        let layers = LayerStore::open(&root, content.clone(), limits)?;
        let inits = InitLayers::open(&root)?;
        let (state, whole) = State::open(&root, &content, &layers)?;
        let snapshots = Snapshots::open(&data_root.join("overlay"), &content)?;
        let inner = Self {
            root,
            content,
            layers,
            inits,
            snapshots,
            pins: Arc::default(),
            limits,
            background: TaskTracker::new(),
            state,
        };
        if whole {
            inner.collect()?;
        }
        Ok(inner)
    }
}
