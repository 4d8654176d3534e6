//! Content that is being made, with its key.
//!
//! Be aware:
//! - A key costs scrypt's work and a run of the user's command, and making
//!   content needs it in several places: here it is made once, and wiped with
//!   this.

use std::ops::Deref;
use std::path::Path;

use sampan_types::VolumeName;

use super::encryption::{self, Encryption, Key};
use super::image::Cipher;
use super::{
    Content, Owner, Projects, Storage, Wish, decide, directory, image, project, subvolume,
};
use crate::VolumeError;
use crate::fault::fault;

/// The mode of a new volume's root, as Docker makes it.
const MODE: u32 = 0o755;

/// Content that is about to be made, or was just now.
pub(crate) struct Fresh {
    content: Content,
    /// Where it is encrypted and the key is known already.
    key: Option<Key>,
}

impl Deref for Fresh {
    type Target = Content;

    fn deref(&self) -> &Content {
        &self.content
    }
}

/// Like other content; its key is made when it is needed.
impl From<Content> for Fresh {
    fn from(content: Content) -> Self {
        Self { content, key: None }
    }
}

impl Fresh {
    /// Decides what a new volume below `root` will lie in. A project id that
    /// this takes is given back by [`Content::give_back`] or [`Content::remove`].
    pub(crate) fn decide(
        name: &VolumeName,
        root: &Path,
        wish: Wish,
        projects: &Projects,
    ) -> Result<Self, VolumeError> {
        // First: it is what most easily goes wrong.
        let (encryption, key) = match &wish.key {
            Some(source) => {
                let layer = decide::layer(name, root, &wish)?;
                let (encryption, key) = Encryption::new(name, source, layer)?;
                (Some((encryption, source.clone())), Some(key))
            }
            None => (None, None),
        };
        let layer = encryption.as_ref().map(|(encryption, _)| encryption.layer());
        let (storage, limit) = decide::storage(name, root, &wish, layer, projects)?;
        let name = name.clone();
        Ok(Self { content: Content { name, storage, limit, owner: wish.owner, encryption }, key })
    }

    /// Makes the empty content in `dir`, which exists. It is not mounted.
    pub(crate) fn make(&self, dir: &Path) -> Result<(), VolumeError> {
        self.make_open(dir)?;
        self.lock(dir)
    }

    /// As [`Self::make`], but an encrypted directory can be written to.
    pub(super) fn make_open(&self, dir: &Path) -> Result<(), VolumeError> {
        let data = Content::data(dir);
        match &self.storage {
            Storage::Directory { project } => {
                directory::make(&data, MODE)?;
                if let Some(id) = project {
                    fault!("volume-create:after-directory");
                    project::apply(&data, *id, self.limit)?;
                }
                if let Some(key) = self.key()? {
                    encryption::encrypt(&data, &key)?;
                    fault!("volume-create:after-key");
                }
            }
            Storage::Subvolume => {
                subvolume::make(&data, self.limit)?;
                directory::give(&data, &Owner::default(), Some(MODE))?;
            }
            Storage::Image => return self.make_image(dir),
            Storage::Mount(_) => return directory::make(&data, MODE),
        }
        directory::give(&data, &self.owner, None)
    }

    fn make_image(&self, dir: &Path) -> Result<(), VolumeError> {
        // Before anything is there: a wrong secret leaves nothing.
        let key = self.key()?;
        let cipher = self.cipher(key.as_ref());
        image::make(&self.name, dir, self.limit.unwrap_or(image::SMALLEST), cipher)?;
        let opened = image::open(dir, self.limit, cipher)?;
        match cipher {
            Cipher::Fscrypt(key) => {
                directory::make(&opened.inner(), MODE)?;
                encryption::encrypt(&opened.inner(), key)?;
                directory::give(&opened.inner(), &self.owner, None)
            }
            Cipher::None | Cipher::DmCrypt(_) => {
                opened.remove_lost_and_found()?;
                directory::give(&opened.root(), &self.owner, Some(MODE))
            }
        }
    }

    /// As [`Content::ensure_mounted`].
    pub(crate) fn ensure_mounted(&self, dir: &Path) -> Result<(), VolumeError> {
        self.content.mount_with(dir, || self.key())
    }

    fn key(&self) -> Result<Option<Key>, VolumeError> {
        match &self.key {
            Some(key) => Ok(Some(key.clone())),
            None => self.content.key(),
        }
    }
}
