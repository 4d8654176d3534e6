//! Which images exist and what they are called: `repositories.json`.
//!
//! Be aware:
//! - The file is replaced as a whole, durably; the view in memory follows it.
//!   Writers take the lock on blocking threads; readers take a copy of the
//!   view and never wait for the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use sampan_types::{ImageId, Timestamp};
use serde::{Deserialize, Serialize};

use super::ImageRecord;
use crate::content::writing;
use crate::layer::LayerStore;
use crate::{ConfigFile, Content, Digest, ImageError, Manifest, Reference};

/// What the file holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Stored {
    /// The version of the file's form.
    pub version: u32,
    pub images: BTreeMap<ImageId, StoredImage>,
    /// Tags, each of one image.
    pub tags: BTreeMap<Reference, ImageId>,
    /// Names with digests, as registries know images.
    pub digests: BTreeMap<Reference, ImageId>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredImage {
    pub manifest: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ImageId>,
    pub last_tagged: Timestamp,
}

impl Stored {
    /// The names of an image: tags, then digests.
    pub(super) fn references(&self, id: &ImageId) -> Vec<Reference> {
        let of = |names: &BTreeMap<Reference, ImageId>| {
            names.iter().filter(|(_, i)| *i == id).map(|(r, _)| r.clone()).collect::<Vec<_>>()
        };
        [of(&self.tags), of(&self.digests)].concat()
    }

    /// Whether images were committed from this one.
    pub(super) fn has_children(&self, id: &ImageId) -> bool {
        self.images.values().any(|i| i.parent.as_ref() == Some(id))
    }

    /// Takes a name away.
    pub(super) fn forget(&mut self, name: &Reference) {
        self.tags.remove(name);
        self.digests.remove(name);
    }
}

/// What is in memory: never changed, only replaced.
#[derive(Debug, Default)]
pub(super) struct View {
    pub images: BTreeMap<ImageId, Arc<ImageRecord>>,
    pub stored: Stored,
}

/// The file and the view.
#[derive(Debug)]
pub(super) struct State {
    path: PathBuf,
    /// Held while the file is replaced, on blocking threads only.
    writer: Mutex<()>,
    /// Held for as long as it takes to copy or replace the pointer.
    view: RwLock<Arc<View>>,
}

impl State {
    /// Reads the file. One that can't be read is set aside and reported by the
    /// second value: then nothing may be removed as unreferenced.
    pub(super) fn open(
        image: &Path,
        content: &Content,
        layers: &LayerStore,
    ) -> Result<(Self, bool), ImageError> {
        let path = image.join("repositories.json");
        let (mut stored, whole) = match fs::read(&path) {
            Ok(text) => match serde_json::from_slice::<Stored>(&text) {
                Ok(stored) => (stored, true),
                Err(error) => {
                    let aside = image.join(format!("repositories.json.broken-{}", crate::unique()));
                    fs::rename(&path, &aside).map_err(writing(&aside))?;
                    tracing::error!(%error, aside = %aside.display(), "the list of images is broken and was set aside");
                    (Stored::default(), false)
                }
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => (Stored::default(), true),
            Err(e) => return Err(ImageError::io("read", &path)(e)),
        };
        if stored.version > 1 {
            return Err(ImageError::Broken(format!(
                "{} has version {}, made by a later release",
                path.display(),
                stored.version
            )));
        }
        stored.version = 1;
        let view = View::build(stored, &View::default(), content, layers);
        Ok((Self { path, writer: Mutex::default(), view: RwLock::new(Arc::new(view)) }, whole))
    }

    pub(super) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what is stored, durably. Blocks. Nothing is written when
    /// `change` fails or changes nothing.
    pub(super) fn change<T>(
        &self,
        content: &Content,
        layers: &LayerStore,
        change: impl FnOnce(&mut Stored, &View) -> Result<T, ImageError>,
    ) -> Result<T, ImageError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.view();
        let mut stored = before.stored.clone();
        let result = change(&mut stored, &before)?;
        let text = serde_json::to_vec_pretty(&stored)
            .map_err(|e| ImageError::Broken(format!("list of images: {e}")))?;
        sampan_sys::file::write_atomic(&self.path, &text, 0o600).map_err(writing(&self.path))?;
        let view = Arc::new(View::build(stored, &before, content, layers));
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
        Ok(result)
    }
}

impl View {
    /// What `stored` means; blobs are read only of images that weren't there
    /// before.
    fn build(mut stored: Stored, before: &Self, content: &Content, layers: &LayerStore) -> Self {
        let mut images = BTreeMap::new();
        let mut broken = BTreeSet::new();
        for (id, image) in &stored.images {
            let known = before.images.get(id).filter(|r| r.manifest == image.manifest).cloned();
            let loaded = known.map_or_else(|| load(id, image, content, layers).map(Arc::new), Ok);
            match loaded {
                Ok(record) => {
                    images.insert(id.clone(), record);
                }
                Err(error) => {
                    tracing::error!(image = %id, %error, "an image's content is damaged");
                    broken.insert(id.clone());
                }
            }
        }
        stored.images.retain(|id, _| !broken.contains(id));
        let alive = stored.images.clone();
        stored.tags.retain(|_, id| alive.contains_key(id));
        stored.digests.retain(|_, id| alive.contains_key(id));
        for (id, record) in &mut images {
            let named = |names: &BTreeMap<Reference, ImageId>| -> Vec<Reference> {
                names.iter().filter(|(_, i)| *i == id).map(|(r, _)| r.clone()).collect()
            };
            let image = &stored.images[id];
            let parent = image.parent.clone().filter(|p| stored.images.contains_key(p));
            let fresh = ImageRecord {
                tags: named(&stored.tags),
                digests: named(&stored.digests),
                parent,
                last_tagged: image.last_tagged,
                ..ImageRecord::clone(record)
            };
            if fresh != **record {
                *record = Arc::new(fresh);
            }
        }
        Self { images, stored }
    }
}

/// Reads an image's blobs and checks that its layers are here.
pub(super) fn load(
    id: &ImageId,
    image: &StoredImage,
    content: &Content,
    layers: &LayerStore,
) -> Result<ImageRecord, ImageError> {
    let config = ConfigFile::parse(&content.read(&Digest::from(id))?)?;
    let manifest = parse_manifest(&content.read(&image.manifest)?)?;
    if manifest.config.digest != Digest::from(id) {
        return Err(ImageError::Broken("the manifest is of another image".into()));
    }
    if manifest.layers.len() != config.rootfs.diff_ids.len() {
        return Err(ImageError::Broken(format!(
            "the manifest has {} layers, the configuration {}",
            manifest.layers.len(),
            config.rootfs.diff_ids.len()
        )));
    }
    let mut size = 0;
    for diff_id in &config.rootfs.diff_ids {
        let info = layers
            .info(diff_id)
            .ok_or_else(|| ImageError::Broken(format!("layer {diff_id} is missing")))?;
        size += info.size;
    }
    for blob in &manifest.layers {
        if !content.contains(&blob.digest) {
            return Err(ImageError::NoBlob(blob.digest.clone()));
        }
    }
    let created = config.created.as_deref().and_then(|t| Timestamp::parse(t).ok());
    Ok(ImageRecord {
        id: id.clone(),
        tags: Vec::new(),
        digests: Vec::new(),
        parent: image.parent.clone(),
        created: created.unwrap_or(Timestamp::NEVER),
        last_tagged: image.last_tagged,
        config,
        manifest: image.manifest.clone(),
        layers: manifest.layers,
        size,
    })
}

/// Reads a manifest blob.
pub(super) fn parse_manifest(blob: &[u8]) -> Result<Manifest, ImageError> {
    let manifest: Manifest = serde_json::from_slice(blob)
        .map_err(|e| ImageError::Broken(format!("image manifest: {e}")))?;
    if manifest.schema_version != 2 {
        return Err(ImageError::Broken(format!(
            "image manifest: schema version {} is not supported",
            manifest.schema_version
        )));
    }
    Ok(manifest)
}
