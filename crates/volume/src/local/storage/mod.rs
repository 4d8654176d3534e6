//! What a volume's content lies in: a directory, a btrfs subvolume, a file
//! with a file system in it, or what the options mount.
//!
//! ```text
//! Directory   _data is a directory, with a project quota where it has a limit
//! Subvolume   _data is a btrfs subvolume, with a qgroup's limit where it has one
//! Image       content.img holds an ext4, mounted on _data while it is used
//! Mount       the options type, o and device are mounted on _data
//! ```
//!
//! All functions take the directory that holds `_data`, so that whatever is
//! laid out like a volume (a snapshot, one that is being made) can be handled
//! by them. All of them block.
//!
//! Be aware:
//! - What a volume lies in is decided when it is made and kept in its record:
//!   a data root that is mounted with other options later changes nothing.
//! - Every function can be repeated, after a crash in its middle as well.
//! - Content that is encrypted on top of one of these is reachable only while
//!   the volume is mounted, see [`encryption`].

mod copy;
pub(crate) mod crypt;
mod decide;
mod directory;
pub(crate) mod encryption;
mod fresh;
mod image;
mod project;
mod secret;
mod subvolume;
mod wish;

use std::path::{Path, PathBuf};

use sampan_sys::{file, mount};
use sampan_types::VolumeName;
use serde::{Deserialize, Serialize};

use self::encryption::{Encryption, Key, Layer, Source};
pub(crate) use self::fresh::Fresh;
use self::image::Cipher;
use super::options::MountOptions;
use super::record::DATA;
use crate::VolumeError;
use crate::fault::fault;

pub(crate) use self::project::Projects;
pub(crate) use self::wish::{HIDDEN, Owner, Wish, bytes_text, limit};

/// What holds the content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Storage {
    /// `_data` is a directory.
    Directory {
        /// The project id that its limit is kept under, when it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        project: Option<u32>,
    },
    /// `_data` is a btrfs subvolume.
    Subvolume,
    /// `content.img` holds an ext4 that is mounted on `_data`.
    Image,
    /// The options' mount; the record has them as they were given.
    #[serde(skip)]
    Mount(MountOptions),
}

impl Default for Storage {
    fn default() -> Self {
        Self::Directory { project: None }
    }
}

impl Storage {
    /// What it is called where people look.
    pub(crate) fn shown(&self) -> &'static str {
        match self {
            Self::Directory { project: None } => "directory",
            Self::Directory { project: Some(_) } => "directory with a project quota",
            Self::Subvolume => "btrfs subvolume",
            Self::Image => "image file with ext4",
            Self::Mount(_) => "mount",
        }
    }
}

/// How much a volume holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that are taken.
    pub bytes: u64,
    /// Bytes that it may hold, when it has a limit.
    pub limit: Option<u64>,
}

/// Everything that has to be known of a volume's content to handle it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    /// The volume's name, for errors.
    pub(crate) name: VolumeName,
    /// What holds it.
    pub(crate) storage: Storage,
    /// Bytes that it may hold.
    pub(crate) limit: Option<u64>,
    /// Owner and mode of its root that the options name.
    pub(crate) owner: Owner,
    /// How it is encrypted, and where the key comes from.
    pub(crate) encryption: Option<(Encryption, Source)>,
}

impl Content {
    /// The project id that it has.
    pub(crate) fn project(&self) -> Option<u32> {
        match self.storage {
            Storage::Directory { project } => project,
            _ => None,
        }
    }

    /// The same kind of storage without what belongs to one volume alone: its
    /// limit, and the id that this is kept under.
    pub(crate) fn without_ids(&self) -> Self {
        let mut same = Self { limit: None, ..self.clone() };
        if let Storage::Directory { project } = &mut same.storage {
            *project = None;
        }
        same
    }

    /// The key, when it is encrypted and the secret is the right one.
    fn key(&self) -> Result<Option<Key>, VolumeError> {
        match &self.encryption {
            Some((encryption, source)) => encryption.key(&self.name, source).map(Some),
            None => Ok(None),
        }
    }

    /// How an image is encrypted, with the key that it has.
    fn cipher<'a>(&self, key: Option<&'a Key>) -> Cipher<'a> {
        match (key, &self.encryption) {
            (Some(key), Some((encryption, _))) => match encryption.layer() {
                Layer::Fscrypt => Cipher::Fscrypt(key),
                Layer::DmCrypt => Cipher::DmCrypt(key),
            },
            _ => Cipher::None,
        }
    }

    /// Whether the content has to be mounted before it can be reached.
    pub(crate) fn needs_mount(&self) -> bool {
        self.encryption.is_some() || matches!(self.storage, Storage::Image | Storage::Mount(_))
    }

    /// Whether nobody but volumes writes to what holds it, so that what is
    /// half made in it can be cleared away.
    pub(crate) fn is_ours(&self) -> bool {
        !matches!(self.storage, Storage::Mount(_))
    }

    /// Whether the content is reachable at `_data`.
    pub(crate) fn is_mounted(&self, dir: &Path) -> Result<bool, VolumeError> {
        let target = Self::data(dir);
        match &self.storage {
            Storage::Image | Storage::Mount(_) => {
                mount::is_mounted(&target).map_err(VolumeError::io("look for", target))
            }
            _ if self.encryption.is_some() => encryption::is_open(&target),
            _ => Ok(true),
        }
    }

    /// Makes the content reachable at `_data`, unless it is.
    pub(crate) fn ensure_mounted(&self, dir: &Path) -> Result<(), VolumeError> {
        self.mount_with(dir, || self.key())
    }

    /// As [`Self::ensure_mounted`], with the key that `key` gives.
    fn mount_with(
        &self,
        dir: &Path,
        key: impl FnOnce() -> Result<Option<Key>, VolumeError>,
    ) -> Result<(), VolumeError> {
        let target = &Self::data(dir);
        if self.is_mounted(dir)? {
            return match &self.storage {
                Storage::Image => image::thaw(target),
                _ => Ok(()),
            };
        }
        match &self.storage {
            Storage::Mount(options) => options.mount(target).inspect_err(|_| {
                // A bind mount may stand although making it read-only failed.
                if let Err(error) = mount::unmount(target) {
                    tracing::warn!(path = %target.display(), %error, "a failed mount stays");
                }
            }),
            Storage::Image => {
                let key = key()?;
                let cipher = self.cipher(key.as_ref());
                let opened = image::open(dir, self.limit, cipher)?;
                if let Cipher::Fscrypt(key) = cipher {
                    encryption::unlock(&opened.inner(), key)?;
                }
                opened.attach(dir, cipher)?;
                fault!("volume-mount:after-mount");
                Ok(())
            }
            _ => {
                let Some(key) = key()? else { return Ok(()) };
                encryption::unlock(target, &key)?;
                fault!("volume-mount:after-key");
                Ok(())
            }
        }
    }

    /// Takes away what [`Self::ensure_mounted`] made.
    pub(crate) fn ensure_unmounted(&self, dir: &Path) -> Result<(), VolumeError> {
        let target = Self::data(dir);
        if matches!(self.storage, Storage::Image) {
            image::clear_place(dir).map_err(VolumeError::io("clear", dir))?;
        }
        if matches!(self.storage, Storage::Image | Storage::Mount(_)) {
            mount::unmount(&target).map_err(VolumeError::io("unmount", &target))?;
            fault!("volume-unmount:after-unmount");
            // A file system that is mounted nowhere has no keys.
            return Ok(());
        }
        self.lock(dir)
    }

    /// Takes the key of an encrypted directory away.
    fn lock(&self, dir: &Path) -> Result<(), VolumeError> {
        match (&self.storage, &self.encryption) {
            (Storage::Directory { .. } | Storage::Subvolume, Some(_)) => {
                encryption::lock(&Self::data(dir))
            }
            _ => Ok(()),
        }
    }

    /// Whether the limit could be changed to `limit`.
    pub(crate) fn check_resize(&self, dir: &Path, limit: Option<u64>) -> Result<(), VolumeError> {
        let refused =
            |reason: String| VolumeError::CannotResize { name: self.name.to_string(), reason };
        match (&self.storage, limit) {
            (Storage::Mount(_), _) => Err(refused(
                "its options mount something from elsewhere, where its size is decided".to_owned(),
            )),
            (Storage::Directory { project: None }, Some(_)) => Err(refused(
                "it was made without a size, and its files belong to no quota: clone it with the \
                 option size"
                    .to_owned(),
            )),
            (Storage::Image, None) => {
                Err(refused("it lies in an image file, which has a size: give one".to_owned()))
            }
            (Storage::Image, Some(limit)) => {
                image::refusal(dir, limit)?.map_or(Ok(()), |r| Err(refused(r)))
            }
            (_, None) => Ok(()),
            (_, Some(limit)) => {
                let held = self.usage(dir)?.map_or(0, |u| u.bytes);
                if limit < held {
                    return Err(refused(format!(
                        "it holds {} already, {} would be less",
                        bytes_text(held),
                        bytes_text(limit)
                    )));
                }
                Ok(())
            }
        }
    }

    /// Makes the limit so that the record has; [`Self::check_resize`] said
    /// that it can be.
    pub(crate) fn resize(&self, dir: &Path) -> Result<(), VolumeError> {
        let data = &Self::data(dir);
        match (&self.storage, self.limit) {
            (Storage::Directory { project: Some(id) }, limit) => {
                project::set_limit(data, *id, limit)
            }
            (Storage::Subvolume, limit) => subvolume::set_limit(data, limit),
            (Storage::Image, Some(limit)) => {
                // What is mounted may have to be mapped anew, with the key.
                let key = if self.is_mounted(dir)? { self.mapping_key()? } else { None };
                image::resize(dir, limit, self.cipher(key.as_ref()))
            }
            _ => Ok(()),
        }
    }

    /// The key, where it is in the device's mapping.
    fn mapping_key(&self) -> Result<Option<Key>, VolumeError> {
        match &self.encryption {
            Some((encryption, _)) if encryption.layer() == Layer::DmCrypt => self.key(),
            _ => Ok(None),
        }
    }

    /// Makes the limit so that the record has, unless it is.
    pub(crate) fn ensure_limit(&self, dir: &Path) -> Result<(), VolumeError> {
        match self.usage(dir)? {
            Some(usage) if usage.limit == self.limit => Ok(()),
            _ => self.resize(dir),
        }
    }

    /// How much it holds, where that can be told without walking the tree and
    /// without mounting; `None` elsewhere.
    pub(crate) fn usage(&self, dir: &Path) -> Result<Option<Usage>, VolumeError> {
        let data = &Self::data(dir);
        match &self.storage {
            Storage::Directory { project: Some(id) } => project::usage(dir, *id).map(Some),
            Storage::Subvolume => subvolume::usage(data),
            Storage::Image => image::usage(dir, self.limit).map(Some),
            Storage::Directory { project: None } | Storage::Mount(_) => Ok(None),
        }
    }

    /// Gives the content's root the owner and mode that the options name, after
    /// something else was copied over them.
    pub(crate) fn give_owner(&self, dir: &Path) -> Result<(), VolumeError> {
        directory::give(&Self::data(dir), &self.owner, None)
    }

    /// Removes the content in `dir` and `dir`, where nothing is mounted any
    /// more, and frees what was taken for it outside.
    pub(crate) fn remove(&self, dir: &Path) -> Result<(), VolumeError> {
        clear_away(dir)
    }

    /// The project id is free for another volume.
    pub(crate) fn give_back(&self, projects: &Projects) {
        if let Some(id) = self.project() {
            projects.release(id);
        }
    }

    /// Where the content is reached while it is mounted.
    pub(crate) fn data(dir: &Path) -> PathBuf {
        dir.join(DATA)
    }
}

/// Removes `dir`, which is laid out like a volume, complete or not, and where
/// nothing is mounted any more; frees what was taken for it outside.
pub(crate) fn clear_away(dir: &Path) -> Result<(), VolumeError> {
    let data = Content::data(dir);
    let project = project::of(&data);
    subvolume::remove(&data)?;
    file::remove_tree(dir).map_err(VolumeError::io("remove", dir))?;
    fault!("volume-remove:after-content");
    match (project, dir.parent()) {
        (Some(id), Some(parent)) => project::set_limit(parent, id, None),
        _ => Ok(()),
    }
}
