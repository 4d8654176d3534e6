//! Images that are mounted into a container, read-only: views.
//!
//! ```text
//! overlay/<container>/views/<image>/image    names the image; made last
//! overlay/<container>/views/<image>/merged   where it is mounted
//! overlay/<container>/views/<image>/none     empty: overlayfs wants two layers
//! ```
//!
//! Be aware: views live in the directory of their container's file system, and
//! go with it. Several mounts of one image in one container share a view.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sampan_sys::overlay::Overlay;
use sampan_types::{ContainerId, ImageId};

use super::store;
use crate::content::writing;
use crate::images::Inner;
use crate::stream::blocking;
use crate::{ConfigFile, Content, Digest, ImageError, Images};

/// The views of a container: an image's layers, lowest first.
pub(crate) type Views = BTreeMap<ImageId, Vec<Digest>>;

/// Where the views of the container with this directory are.
fn root(home: &Path) -> PathBuf {
    home.join("views")
}

/// Reads the views of the container with this directory. One whose image
/// can't be read is reported and left out.
pub(super) fn read(home: &Path, content: &Content) -> Views {
    let Ok(list) = fs::read_dir(root(home)) else { return Views::new() };
    let mut views = Views::new();
    for entry in list.flatten() {
        let link = entry.path().join("image");
        // Without the link it is unfinished.
        let Ok(image) = fs::read_link(&link) else { continue };
        let layers = || -> Result<(ImageId, Vec<Digest>), ImageError> {
            let broken = |_| ImageError::Broken(format!("{} names no image", link.display()));
            let image: ImageId = image.to_string_lossy().parse().map_err(broken)?;
            let config = ConfigFile::parse(&content.read(&Digest::from(&image))?)?;
            Ok((image, config.rootfs.diff_ids))
        };
        match layers() {
            Ok((image, diff_ids)) => drop(views.insert(image, diff_ids)),
            Err(error) => tracing::error!(%error, "an image can't be mounted into its container"),
        }
    }
    views
}

/// Takes the mounts of all views below a container's directory out of the
/// tree; they end when what is given is dropped.
pub(super) fn detach_all(home: &Path) -> Result<Vec<store::Detached>, ImageError> {
    let mut detached = Vec::new();
    let Ok(list) = fs::read_dir(root(home)) else { return Ok(detached) };
    for entry in list.flatten() {
        while let Some(mount) = store::detach(&entry.path().join("merged"))? {
            detached.push(mount);
        }
    }
    Ok(detached)
}

impl Inner {
    fn prepare_view(&self, id: &ContainerId, image: &ImageId) -> Result<(), ImageError> {
        let snapshot = self.snapshots.get(id)?;
        if snapshot.views().contains_key(image) {
            return Ok(());
        }
        let lease = crate::Lease::new(Arc::clone(&self.pins));
        let record = self.record(image)?;
        let diff_ids = record.config.rootfs.diff_ids.clone();
        if diff_ids.is_empty() {
            return Err(ImageError::Broken(format!("image {image} has no files to mount")));
        }
        lease.pin(&Digest::from(image));
        diff_ids.iter().for_each(|d| lease.pin(d));
        // Once more, now that a removal can't come between.
        self.record(image)?;
        let view = root(&self.snapshots.home(id)).join(image.hex());
        for name in ["merged", "none"] {
            let dir = view.join(name);
            fs::create_dir_all(&dir).map_err(writing(&dir))?;
        }
        let link = view.join("image");
        match symlink(image.as_str(), &link) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(writing(&link)(e)),
            _ => {}
        }
        snapshot.views().insert(image.clone(), diff_ids);
        Ok(())
    }

    fn mount_view(&self, id: &ContainerId, image: &ImageId) -> Result<PathBuf, ImageError> {
        let snapshot = self.snapshots.get(id)?;
        let diff_ids = snapshot.views().get(image).cloned();
        let diff_ids = diff_ids.ok_or_else(|| ImageError::NotFound(image.to_string()))?;
        // One mount at a time: whoever comes second finds it there.
        let _turn = snapshot.mounted();
        let view = root(&self.snapshots.home(id)).join(image.hex());
        let merged = view.join("merged");
        if store::is_mounted(&merged) {
            return Ok(merged);
        }
        let (mut lower, mut short): (Vec<_>, Vec<_>) = self.stack(&diff_ids).into_iter().unzip();
        let none = view.join("none");
        short.push(none.strip_prefix(&self.root).unwrap_or(&none).to_owned());
        lower.push(none);
        let overlay = Overlay {
            base: &self.root,
            lower: &lower,
            short: &short,
            writable: None,
            target: &merged,
        };
        overlay.mount().map_err(ImageError::io("mount", &merged))?;
        Ok(merged)
    }
}

impl Images {
    /// Makes an image mountable into a container that has a file system
    /// ([`Images::prepare`]); its layers stay for as long as that. Repeatable.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] when the image doesn't exist; those of the file
    /// system.
    pub async fn prepare_view(&self, id: &ContainerId, image: &ImageId) -> Result<(), ImageError> {
        let (inner, id, image) = (Arc::clone(&self.0), id.clone(), image.clone());
        blocking(move || inner.prepare_view(&id, &image)).await
    }

    /// Mounts an image's files for a container, read-only, and gives the
    /// place. Repeatable. [`Images::unmount_views`] takes it away.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] when it was not prepared; those of mount(2).
    pub async fn mount_view(
        &self,
        id: &ContainerId,
        image: &ImageId,
    ) -> Result<PathBuf, ImageError> {
        let (inner, id, image) = (Arc::clone(&self.0), id.clone(), image.clone());
        blocking(move || inner.mount_view(&id, &image)).await
    }

    /// Takes the mounts of all images of a container away. Repeatable.
    ///
    /// # Errors
    /// Those of umount(2).
    pub async fn unmount_views(&self, id: &ContainerId) -> Result<(), ImageError> {
        let (inner, id) = (Arc::clone(&self.0), id.clone());
        blocking(move || {
            let Some(snapshot) = inner.snapshots.find(&id) else { return Ok(()) };
            let _turn = snapshot.mounted();
            detach_all(&inner.snapshots.home(&id)).map(drop)
        })
        .await
    }
}
