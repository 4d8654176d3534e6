//! Content that is made from other content of the same kind of storage.

use std::fs::File;
use std::path::Path;

use sampan_sys::{file, fsattr};

use super::{Content, Fresh, Storage, image, subvolume};
use crate::{VolumeError, Watch, copy};

impl Content {
    /// Makes content in `to_dir`, which exists, as `to` describes it, with
    /// what this one in `from_dir` holds. Both are of the same kind of storage.
    /// What is made is not mounted; whether this one is stays as it was.
    pub(crate) fn clone_content(
        &self,
        from_dir: &Path,
        to: &Fresh,
        to_dir: &Path,
        watch: &Watch,
    ) -> Result<(), VolumeError> {
        let (from, data) = (Self::data(from_dir), Self::data(to_dir));
        match (&self.storage, &to.storage) {
            (Storage::Subvolume, Storage::Subvolume) => {
                subvolume::copy(&from, &data, to.limit)?;
                to.give_owner(to_dir)
            }
            // Byte for byte it would keep this one's key and could only grow.
            (Storage::Image, Storage::Image)
                if self.encryption == to.encryption && self.fits(from_dir, to)? =>
            {
                self.copy_image(from_dir, to_dir, watch)
            }
            _ => self.copy_files(from_dir, to, to_dir, watch),
        }
    }

    /// Whether an image with the limit of `to` can hold this one's bytes.
    fn fits(&self, from_dir: &Path, to: &Self) -> Result<bool, VolumeError> {
        match to.limit {
            Some(limit) => Ok(image::refusal(from_dir, limit)?.is_none()),
            None => Ok(true),
        }
    }

    /// Copies the image. One that is mounted stands still meanwhile: where its
    /// bytes can be shared for an instant, else for as long as it takes.
    fn copy_image(&self, from_dir: &Path, to_dir: &Path, watch: &Watch) -> Result<(), VolumeError> {
        let frozen = if self.is_mounted(from_dir)? {
            let data = Self::data(from_dir);
            let root = File::open(&data).map_err(VolumeError::io("open", &data))?;
            fsattr::freeze(&root).map_err(VolumeError::io("stop writing to", &data))?;
            Some(root)
        } else {
            None
        };
        let (from, to) = (from_dir.join(image::FILE), to_dir.join(image::FILE));
        let copied = copy::copy_file(&from, &to, watch);
        if let Some(root) = frozen {
            fsattr::thaw(&root).map_err(VolumeError::io("let writing go on in", from_dir))?;
        }
        if copied.is_err() {
            file::remove_file(&to).map_err(VolumeError::io("remove", &to))?;
        }
        copied.and_then(|()| image::make_place(to_dir))
    }

    /// Makes empty content and copies every file.
    fn copy_files(
        &self,
        from_dir: &Path,
        to: &Fresh,
        to_dir: &Path,
        watch: &Watch,
    ) -> Result<(), VolumeError> {
        let was_mounted = self.is_mounted(from_dir)?;
        to.make_open(to_dir)?;
        let copied = to.ensure_mounted(to_dir).and_then(|()| {
            self.ensure_mounted(from_dir)?;
            copy::copy_tree(&Self::data(from_dir), &Self::data(to_dir), watch)?;
            to.give_owner(to_dir)
        });
        // Two that have the same key on one file system are closed together.
        let shares_key = self.encryption == to.encryption && !matches!(to.storage, Storage::Image);
        let target = if to.needs_mount() && !(was_mounted && shares_key) {
            to.ensure_unmounted(to_dir)
        } else {
            Ok(())
        };
        let source = if self.needs_mount() && !was_mounted {
            self.ensure_unmounted(from_dir)
        } else {
            Ok(())
        };
        copied.and(target).and(source)
    }
}
