//! The snapshots that exist: directories below `<data-root>/overlay`.
//!
//! Be aware:
//! - The link `image` in a snapshot's directory names its image and is made
//!   last: a directory without it is unfinished. A link is metadata, so that
//!   it is whole after a crash without waiting for the disk.
//! - The image's configuration blob stays for as long as the snapshot, also
//!   when the image is removed: the layers are known from it.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sampan_sys::inroot;
use sampan_types::{ContainerId, ImageId};

use super::init::InitLayers;
use super::views::{self, Views};
use crate::content::writing;
use crate::remove::remove_deep;
use crate::{ConfigFile, Content, Digest, ImageError};

/// A container's file system.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub image: ImageId,
    /// The image's layers, lowest first.
    pub diff_ids: Vec<Digest>,
    /// The layer of mount points above them.
    pub init: Digest,
    /// The images that are mounted into the container. Held for a moment.
    pub views: Mutex<Views>,
    /// Who wants it mounted. Held while it is mounted or unmounted, on
    /// blocking threads only.
    pub mounted: Mutex<Mounted>,
}

/// Who wants a snapshot mounted.
#[derive(Debug, Default)]
pub(crate) struct Mounted {
    /// The container runs, or is about to.
    pub wanted: bool,
    /// Operations that read it.
    pub holds: u32,
}

/// All snapshots.
#[derive(Debug)]
pub(crate) struct Snapshots {
    root: PathBuf,
    known: Mutex<HashMap<ContainerId, Arc<Snapshot>>>,
}

const TRASH: &str = ".trash-";

impl Snapshot {
    pub(super) fn new(image: ImageId, config: &ConfigFile) -> Self {
        Self {
            image,
            diff_ids: config.rootfs.diff_ids.clone(),
            init: InitLayers::key_of(config),
            views: Mutex::default(),
            mounted: Mutex::default(),
        }
    }

    pub(crate) fn views(&self) -> MutexGuard<'_, Views> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn mounted(&self) -> MutexGuard<'_, Mounted> {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Snapshots {
    pub(crate) fn open(root: &Path, content: &Content) -> Result<Self, ImageError> {
        fs::create_dir_all(root).map_err(ImageError::io("make", root))?;
        let mut known = HashMap::new();
        for entry in fs::read_dir(root).map_err(ImageError::io("list", root))?.flatten() {
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|n| n.parse::<ContainerId>().ok()) else {
                continue;
            };
            let read = || -> Result<Option<Snapshot>, ImageError> {
                let link = entry.path().join("image");
                let image = match fs::read_link(&link) {
                    Ok(image) => image,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(e) => return Err(ImageError::io("read", &link)(e)),
                };
                let image: ImageId = image.to_string_lossy().parse().map_err(|_| {
                    ImageError::Broken(format!("{} names no image", link.display()))
                })?;
                let config = ConfigFile::parse(&content.read(&Digest::from(&image))?)?;
                Ok(Some(Snapshot::new(image, &config)))
            };
            match read() {
                Ok(Some(snapshot)) => {
                    *snapshot.views() = views::read(&entry.path(), content);
                    snapshot.mounted().wanted = is_mounted(&entry.path().join("merged"));
                    known.insert(id, Arc::new(snapshot));
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(container = %id, %error, "a container's file system can't be used");
                }
            }
        }
        Ok(Self { root: root.to_owned(), known: Mutex::new(known) })
    }

    pub(crate) fn home(&self, id: &ContainerId) -> PathBuf {
        self.root.join(id.as_str())
    }

    fn known(&self) -> MutexGuard<'_, HashMap<ContainerId, Arc<Snapshot>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Snapshot>> {
        self.known().values().cloned().collect()
    }

    pub(crate) fn get(&self, id: &ContainerId) -> Result<Arc<Snapshot>, ImageError> {
        self.find(id).ok_or_else(|| ImageError::NoSnapshot(id.to_string()))
    }

    pub(super) fn find(&self, id: &ContainerId) -> Option<Arc<Snapshot>> {
        self.known().get(id).cloned()
    }

    /// Makes the directories; `like` gives the root's attributes.
    pub(super) fn create(
        &self,
        id: &ContainerId,
        snapshot: Snapshot,
        like: &Path,
    ) -> Result<(), ImageError> {
        let home = self.home(id);
        for name in ["upper", "work", "merged"] {
            let dir = home.join(name);
            fs::create_dir_all(&dir).map_err(writing(&dir))?;
        }
        let upper = home.join("upper");
        super::init::copy_attributes(like, &upper).map_err(writing(&upper))?;
        let link = home.join("image");
        match symlink(snapshot.image.as_str(), &link) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&link)
                    .and_then(|()| symlink(snapshot.image.as_str(), &link))
                    .map_err(writing(&link))?;
            }
            made => made.map_err(writing(&link))?,
        }
        self.known().insert(id.clone(), Arc::new(snapshot));
        Ok(())
    }

    /// Takes a snapshot out of reach; gives it with its directory, which has
    /// to be unmounted and removed.
    pub(super) fn take_away(
        &self,
        id: &ContainerId,
    ) -> Result<(Option<Arc<Snapshot>>, Option<PathBuf>), ImageError> {
        let snapshot = self.known().remove(id);
        let (home, trash) = (self.home(id), self.root.join(format!("{TRASH}{}", crate::unique())));
        match fs::rename(&home, &trash) {
            Ok(()) => Ok((snapshot, Some(trash))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok((snapshot, None)),
            Err(e) => Err(ImageError::io("remove", &home)(e)),
        }
    }

    /// The ids of all directories, unfinished ones included.
    pub(super) fn ids(&self) -> Result<Vec<ContainerId>, ImageError> {
        let list = fs::read_dir(&self.root).map_err(ImageError::io("list", &self.root))?;
        Ok(list.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect())
    }

    /// Directories that were taken away and not yet removed.
    pub(crate) fn trash(&self) -> Result<Vec<PathBuf>, ImageError> {
        let list = fs::read_dir(&self.root).map_err(ImageError::io("list", &self.root))?;
        let is_trash = |e: &fs::DirEntry| e.file_name().to_string_lossy().starts_with(TRASH);
        Ok(list.flatten().filter(is_trash).map(|e| e.path()).collect())
    }
}

/// Unmounts and removes a directory that was taken away.
pub(crate) fn destroy(trash: &Path) -> Result<(), ImageError> {
    let merged = trash.join("merged");
    let mut detached = views::detach_all(trash)?;
    while let Some(mount) = detach(&merged)? {
        detached.push(mount);
    }
    // Before the end of the mount, which brings to disk what is dirty: what is
    // removed needs no writing.
    remove_deep(trash).map_err(ImageError::io("remove", trash))
}

/// A mount that is no longer in the tree; it ends when this is dropped, which
/// takes as long as synchronising the file system below.
pub(super) struct Detached(#[expect(dead_code, reason = "only held")] OwnedFd);

/// Takes the mount at `merged` out of the tree; `None` when there is none.
pub(super) fn detach(merged: &Path) -> Result<Option<Detached>, ImageError> {
    if !is_mounted(merged) {
        return Ok(None);
    }
    let mount = inroot::open_root(merged).map_err(ImageError::io("open", merged))?;
    sampan_sys::mount::unmount(merged).map_err(ImageError::io("unmount", merged))?;
    Ok(Some(Detached(mount)))
}

/// Whether something is mounted on the directory.
pub(super) fn is_mounted(dir: &Path) -> bool {
    let device = |path: &Path| fs::symlink_metadata(path).map(|m| m.dev());
    match (device(dir), dir.parent().map(device)) {
        (Ok(own), Some(Ok(parents))) => own != parents,
        _ => false,
    }
}
