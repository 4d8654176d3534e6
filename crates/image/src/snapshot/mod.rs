//! Snapshots: the file system of a container, its image's layers below and a
//! writable directory of its own above, joined by overlayfs.
//!
//! Be aware:
//! - Nothing is copied when a container is created.
//! - A mount is taken away when neither the container nor an operation that
//!   reads it wants it any more; never mount the same snapshot twice.

mod changes;
mod init;
mod store;
mod views;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use sampan_sys::overlay::Overlay;
use sampan_types::{ContainerId, ImageId};

pub(crate) use init::InitLayers;
pub(crate) use store::{Snapshot, Snapshots, destroy};

use crate::images::Inner;
use crate::stream::{blocking, produce};
use crate::tarball::TreeWriter;
use crate::{ByteStream, Digest, ImageError, Images};

/// What happened to a path since the container was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// Changed (0 in the API).
    Modified,
    /// Is new (1).
    Added,
    /// Is gone (2).
    Deleted,
}

/// The directories of a snapshot, as `docker inspect` shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotPaths {
    /// The layers, topmost first.
    pub lower: Vec<PathBuf>,
    /// What the container wrote.
    pub upper: PathBuf,
    /// Overlayfs' own.
    pub work: PathBuf,
    /// Where it is mounted.
    pub merged: PathBuf,
}

/// Keeps a container's file system mounted for as long as it lives.
#[derive(Debug)]
pub struct MountHold {
    inner: Arc<Inner>,
    snapshot: Arc<Snapshot>,
    merged: PathBuf,
}

impl MountHold {
    /// The root of the container's file system.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.merged
    }
}

impl Drop for MountHold {
    fn drop(&mut self) {
        let (inner, snapshot) = (Arc::clone(&self.inner), Arc::clone(&self.snapshot));
        let merged = std::mem::take(&mut self.merged);
        // Unmounting takes time; whoever drops this may be on the runtime.
        self.inner.in_background(move || {
            let mut mounted = snapshot.mounted();
            mounted.holds = mounted.holds.saturating_sub(1);
            if mounted.holds == 0
                && !mounted.wanted
                && let Err(error) = inner.unmount(&merged)
            {
                tracing::warn!(path = %merged.display(), %error, "a mount stays for now");
            }
        });
    }
}

impl Inner {
    /// Runs `work` on a blocking thread without waiting for it, or at once
    /// where there is no runtime.
    pub(crate) fn in_background(&self, work: impl FnOnce() + Send + 'static) {
        match tokio::runtime::Handle::try_current() {
            Ok(handle) => {
                self.background.spawn_blocking_on(work, &handle);
            }
            Err(_) => work(),
        }
    }

    /// The layers of a stack of diff ids (lowest first) as they are mounted:
    /// topmost first, with their short paths.
    fn stack(&self, diff_ids: &[Digest]) -> Vec<(PathBuf, PathBuf)> {
        let mut seen = HashSet::new();
        let mut stack = Vec::with_capacity(diff_ids.len() + 1);
        for diff_id in diff_ids.iter().rev() {
            // What is in a layer twice is decided by the upper one.
            if seen.insert(diff_id) {
                stack.push((self.layers.path(diff_id), self.layers.short(diff_id)));
            }
            if self.layers.info(diff_id).is_some_and(|i| i.opaque) {
                break;
            }
        }
        stack
    }

    /// As [`Inner::stack`], with the init layer on top.
    fn lower(&self, snapshot: &Snapshot) -> Vec<(PathBuf, PathBuf)> {
        let init = (self.inits.path(&snapshot.init), self.inits.short(&snapshot.init));
        std::iter::once(init).chain(self.stack(&snapshot.diff_ids)).collect()
    }

    fn prepare(&self, id: &ContainerId, image: &ImageId) -> Result<(), ImageError> {
        if self.snapshots.find(id).is_some_and(|s| s.image == *image) {
            return Ok(());
        }
        let lease = crate::Lease::new(Arc::clone(&self.pins));
        let record = self.record(image)?;
        let snapshot = Snapshot::new(image.clone(), &record.config);
        lease.pin(&Digest::from(image));
        lease.pin(&snapshot.init);
        snapshot.diff_ids.iter().for_each(|d| lease.pin(d));
        // Once more, now that a removal can't come between.
        self.record(image)?;
        let lower: Vec<PathBuf> =
            self.stack(&snapshot.diff_ids).into_iter().map(|(path, _)| path).collect();
        let like = snapshot.diff_ids.iter().rev();
        let like = like.filter(|d| self.layers.info(d).is_some_and(|i| i.has_root));
        let like = like.map(|d| self.layers.path(d)).next();
        self.inits.ensure(&snapshot.init, &lower, like.as_deref())?;
        let like = self.inits.path(&snapshot.init);
        self.snapshots.create(id, snapshot, &like)
    }

    fn mount(&self, id: &ContainerId, snapshot: &Snapshot) -> Result<PathBuf, ImageError> {
        let home = self.snapshots.home(id);
        let merged = home.join("merged");
        if store::is_mounted(&merged) {
            return Ok(merged);
        }
        let (lower, short): (Vec<_>, Vec<_>) = self.lower(snapshot).into_iter().unzip();
        let (upper, work) = (home.join("upper"), home.join("work"));
        let overlay = Overlay {
            base: &self.root,
            lower: &lower,
            short: &short,
            writable: Some((&upper, &work)),
            target: &merged,
        };
        overlay.mount().map_err(|error| {
            let on_overlay =
                statfs(&upper).is_ok_and(|s| s.filesystem_type() == OVERLAYFS_SUPER_MAGIC);
            let error = if on_overlay {
                io::Error::other(
                    "the data root is on overlayfs itself, which can't hold the files of \
                     containers: choose a --data-root on ext4, xfs, btrfs or tmpfs",
                )
            } else {
                error
            };
            ImageError::io("mount", &merged)(error)
        })?;
        Ok(merged)
    }

    /// Takes the mount out of the tree at once. Its end waits for the disk, and
    /// nobody has to wait for that.
    fn unmount(&self, merged: &Path) -> Result<(), ImageError> {
        if let Some(mount) = store::detach(merged)? {
            self.in_background(move || drop(mount));
        }
        Ok(())
    }

    /// Writes a container's changes as a layer's archive; gives how many there
    /// are. Blocks.
    pub(crate) fn write_changes(
        &self,
        id: &ContainerId,
        out: impl io::Write,
    ) -> Result<u64, ImageError> {
        let snapshot = self.snapshots.get(id)?;
        let upper = self.snapshots.home(id).join("upper");
        let lower: Vec<PathBuf> = self.lower(&snapshot).into_iter().map(|(p, _)| p).collect();
        let like = self.inits.path(&snapshot.init);
        changes::archive(&upper, &lower, &like, out).map_err(ImageError::io("read", &upper))
    }

    /// Removes what was taken away, and the layers that are free now.
    fn destroy(&self, trash: &Path, image: Option<&ImageId>) {
        if let Err(error) = destroy(trash) {
            tracing::warn!(%error, "the file system of a removed container stays for now");
        }
        if image.is_some_and(|i| self.record(i).is_err())
            && let Err(error) = self.collect()
        {
            tracing::warn!(%error, "layers that nothing needs stay for now");
        }
    }
}

impl Images {
    /// Makes the directories of a container's file system; its layers stay
    /// from now on, whatever happens to the image. Repeatable.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] when the image doesn't exist; those of the file
    /// system.
    pub async fn prepare(&self, id: &ContainerId, image: &ImageId) -> Result<(), ImageError> {
        let (inner, id, image) = (Arc::clone(&self.0), id.clone(), image.clone());
        blocking(move || inner.prepare(&id, &image)).await
    }

    /// Mounts a container's file system and gives the place. Repeatable.
    ///
    /// # Errors
    /// [`ImageError::NoSnapshot`]; those of mount(2).
    pub async fn mount(&self, id: &ContainerId) -> Result<PathBuf, ImageError> {
        let (inner, id) = (Arc::clone(&self.0), id.clone());
        blocking(move || {
            let snapshot = inner.snapshots.get(&id)?;
            let mut mounted = snapshot.mounted();
            let merged = inner.mount(&id, &snapshot)?;
            mounted.wanted = true;
            Ok(merged)
        })
        .await
    }

    /// Mounts a container's file system for reading or writing, if it isn't
    /// mounted, for as long as what is given lives. For a stopped container.
    ///
    /// # Errors
    /// As [`Images::mount`].
    pub async fn hold(&self, id: &ContainerId) -> Result<MountHold, ImageError> {
        let (inner, id) = (Arc::clone(&self.0), id.clone());
        blocking(move || {
            let snapshot = inner.snapshots.get(&id)?;
            let merged = {
                let mut mounted = snapshot.mounted();
                let merged = inner.mount(&id, &snapshot)?;
                mounted.holds += 1;
                merged
            };
            Ok(MountHold { inner, snapshot, merged })
        })
        .await
    }

    /// Takes the mount away, once nothing holds it. Repeatable.
    ///
    /// # Errors
    /// Those of umount(2).
    pub async fn unmount(&self, id: &ContainerId) -> Result<(), ImageError> {
        let (inner, id) = (Arc::clone(&self.0), id.clone());
        blocking(move || {
            let Some(snapshot) = inner.snapshots.find(&id) else { return Ok(()) };
            let mut mounted = snapshot.mounted();
            mounted.wanted = false;
            if mounted.holds > 0 {
                return Ok(());
            }
            inner.unmount(&inner.snapshots.home(&id).join("merged"))
        })
        .await
    }

    /// Removes a container's file system. Repeatable. The files go in the
    /// background; layers that nothing else needs go too.
    ///
    /// # Errors
    /// Those of the file system.
    pub async fn discard(&self, id: &ContainerId) -> Result<(), ImageError> {
        let (inner, id) = (Arc::clone(&self.0), id.clone());
        blocking(move || {
            let (snapshot, trash) = inner.snapshots.take_away(&id)?;
            if let Some(trash) = trash {
                let image = snapshot.map(|s| s.image.clone());
                let worker = Arc::clone(&inner);
                inner.in_background(move || worker.destroy(&trash, image.as_ref()));
            }
            Ok(())
        })
        .await
    }

    /// The directories of a container's file system.
    ///
    /// # Errors
    /// [`ImageError::NoSnapshot`].
    pub fn snapshot(&self, id: &ContainerId) -> Result<SnapshotPaths, ImageError> {
        let snapshot = self.0.snapshots.get(id)?;
        let home = self.0.snapshots.home(id);
        Ok(SnapshotPaths {
            lower: self.0.lower(&snapshot).into_iter().map(|(path, _)| path).collect(),
            upper: home.join("upper"),
            work: home.join("work"),
            merged: home.join("merged"),
        })
    }

    /// The directories of an image's layers, topmost first.
    ///
    /// # Errors
    /// [`ImageError::NotFound`].
    pub fn layer_paths(&self, id: &ImageId) -> Result<Vec<PathBuf>, ImageError> {
        let record = self.inspect(id)?;
        let stack = self.0.stack(&record.config.rootfs.diff_ids);
        Ok(stack.into_iter().map(|(path, _)| path).collect())
    }

    /// What the container changed, sorted by path; paths are absolute.
    ///
    /// # Errors
    /// [`ImageError::NoSnapshot`]; those of the file system.
    pub async fn changes(
        &self,
        id: &ContainerId,
    ) -> Result<Vec<(ChangeKind, PathBuf)>, ImageError> {
        let paths = self.snapshot(id)?;
        blocking(move || {
            changes::changes(&paths.upper, &paths.lower)
                .map_err(ImageError::io("read", &paths.upper))
        })
        .await
    }

    /// Bytes that the container wrote (`SizeRw`).
    ///
    /// # Errors
    /// [`ImageError::NoSnapshot`]; those of the file system.
    pub async fn upper_size(&self, id: &ContainerId) -> Result<u64, ImageError> {
        let upper = self.snapshot(id)?.upper;
        blocking(move || changes::size(&upper).map_err(ImageError::io("read", &upper))).await
    }

    /// Bytes of the container's whole file system (`SizeRootFs`).
    ///
    /// # Errors
    /// As [`Images::upper_size`].
    pub async fn root_size(&self, id: &ContainerId) -> Result<u64, ImageError> {
        let snapshot = self.0.snapshots.get(id)?;
        let sizes = snapshot.diff_ids.iter().filter_map(|d| self.0.layers.info(d));
        let image: u64 = sizes.map(|i| i.size).sum();
        Ok(image + self.upper_size(id).await?)
    }

    /// The container's whole file system as a tar archive. It is mounted for
    /// the duration if it isn't.
    ///
    /// # Errors
    /// [`ImageError::NoSnapshot`]; those of mount(2).
    pub async fn export(&self, id: &ContainerId) -> Result<ByteStream, ImageError> {
        let hold = self.hold(id).await?;
        Ok(produce(move |out| {
            let root = sampan_sys::inroot::open_root(hold.path())?;
            let mut tree = TreeWriter::new(out);
            tree.content(root, b"")?;
            tree.finish()?;
            Ok(())
        }))
    }

    /// Removes the file systems of containers that don't exist.
    ///
    /// # Errors
    /// Those of the file system, after all were tried.
    pub async fn sweep(&self, keep: &HashSet<ContainerId>) -> Result<(), ImageError> {
        let mut first_error = None;
        let inner = Arc::clone(&self.0);
        for id in blocking(move || inner.snapshots.ids()).await? {
            if !keep.contains(&id)
                && let Err(error) = self.discard(&id).await
            {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}
