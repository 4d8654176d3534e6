//! The local driver's work on files. All of it blocks.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use sampan_sys::file;
use sampan_types::{Timestamp, VolumeName};
use serde_json::{Map, Value};

use super::record::{self, DATA, GONE, NEW};
use super::storage::{Fresh, Storage, Wish};
use super::{DRIVER, Entry, Inner, State};
use crate::fault::fault;
use crate::{Volume, VolumeError, VolumeSpec, copy};

/// The file beside the content that says that an image's content is being
/// copied into it.
const FILLING: &str = "filling";

impl Entry {
    /// Makes the content reachable, unless it is, and empties what an image's
    /// content was not copied into to its end.
    pub(super) fn ensure_mounted(&self) -> Result<(), VolumeError> {
        self.content.ensure_mounted(self.dir())?;
        let mark = self.mark();
        if !mark.exists() {
            return Ok(());
        }
        empty(&self.volume.mountpoint)?;
        file::remove_file(&mark).map_err(VolumeError::io("remove", mark))
    }

    /// Copies the image's directory `source`, which errors call `shown`, into
    /// the reachable content, when that is empty.
    fn copy_in(&self, source: &OwnedFd, shown: &Path) -> Result<(), VolumeError> {
        let target = &self.volume.mountpoint;
        if !copy::is_empty(target)? {
            return Ok(());
        }
        if !self.content.is_ours() {
            return copy::copy_from(source, shown, target);
        }
        let mark = self.mark();
        file::write_atomic(&mark, b"", 0o600).map_err(VolumeError::io("write", &mark))?;
        fault!("volume-copy-up:after-mark");
        let copied = copy::copy_from(source, shown, target)
            .and_then(|()| self.content.give_owner(self.dir()));
        fault!("volume-copy-up:after-content");
        if copied.is_err() {
            empty(target)?;
        }
        file::remove_file(&mark).map_err(VolumeError::io("remove", mark))?;
        copied
    }

    /// The file that says that the content is being filled.
    fn mark(&self) -> PathBuf {
        self.dir().join(FILLING)
    }

    /// Takes away what makes the content reachable, if it is there.
    pub(super) fn ensure_unmounted(&self) -> Result<(), VolumeError> {
        self.content.ensure_unmounted(self.dir())
    }

    /// The volume's directory.
    pub(super) fn dir(&self) -> &Path {
        self.volume.mountpoint.parent().unwrap_or(&self.volume.mountpoint)
    }
}

impl Inner {
    /// Decides what the content of a volume lies in that is about to be made.
    pub(super) fn decide(&self, name: &VolumeName, wish: Wish) -> Result<Fresh, VolumeError> {
        Fresh::decide(name, &self.root, wish, &self.projects)
    }

    /// Makes a volume under a name that is not one and gives it its name last.
    pub(super) fn create(&self, name: VolumeName, spec: VolumeSpec) -> Result<Volume, VolumeError> {
        let wish = Wish::new(&name, &spec.options)?;
        let content = self.decide(&name, wish)?;
        let dir = self.dir(&name);
        let volume = Volume {
            mountpoint: dir.join(DATA),
            driver: DRIVER.to_owned(),
            created: Timestamp::now(),
            options: spec.options,
            labels: spec.labels,
            name,
        };
        let new = self.temporary(NEW)?;
        let made = make_dir(&new, 0o701)
            .and_then(|()| content.make(&new))
            .and_then(|()| record::write(&new, &volume, &content));
        fault!("volume-create:after-content");
        let named = made.and_then(|()| {
            let mut entries = self.entries();
            if let Some(existing) = entries.get(&volume.name) {
                return Ok(Some(existing.volume.clone()));
            }
            fs::rename(&new, &dir).map_err(VolumeError::io("create", &dir))?;
            let (volume, content) = (volume.clone(), content.clone());
            entries.insert(volume.name.clone(), Entry::new(volume, content));
            Ok(None)
        });
        match named {
            Ok(None) => {
                fault!("volume-create:after-rename");
                file::sync_dir(&self.root).map_err(VolumeError::io("synchronise", &self.root))?;
                Ok(volume)
            }
            other => {
                record::clear_away(&new);
                content.give_back(&self.projects);
                other.map(|existing| existing.unwrap_or(volume))
            }
        }
    }

    /// Takes the name away first, then the content.
    pub(super) fn remove(&self, entry: &Entry, state: &mut State) -> Result<(), VolumeError> {
        if state.removed {
            return Ok(());
        }
        let name = &entry.volume.name;
        let users = entry.users.all();
        if !users.is_empty() {
            return Err(VolumeError::InUse { name: name.to_string(), users });
        }
        let dir = self.dir(name);
        record::unmount_below(&dir).map_err(VolumeError::io("unmount what is in", &dir))?;
        fault!("volume-remove:after-unmount");
        let gone = self.temporary(GONE)?;
        {
            let mut entries = self.entries();
            match fs::rename(&dir, &gone) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(VolumeError::io("remove", &dir)(e));
                }
                _ => entries.remove(name),
            };
        }
        state.removed = true;
        fault!("volume-remove:after-rename");
        file::sync_dir(&self.root).map_err(VolumeError::io("synchronise", &self.root))?;
        let removed = entry.content.remove(&gone);
        entry.content.give_back(&self.projects);
        removed
    }

    /// Copies the image's directory `source`, which errors call `shown`, into
    /// reachable content; see [`crate::Volumes::copy_up`].
    ///
    /// A volume of plain files that nobody uses is filled beside and put in
    /// place by a rename. Others are marked while they are filled. Either way a
    /// crash leaves nothing half full.
    pub(super) fn copy_up(
        &self,
        entry: &Entry,
        source: &OwnedFd,
        shown: &Path,
    ) -> Result<(), VolumeError> {
        entry.ensure_mounted()?;
        let is_directory = matches!(entry.content.storage, Storage::Directory { .. });
        if is_directory && entry.users.is_empty() {
            return self.copy_beside(entry, source, shown);
        }
        entry.copy_in(source, shown)
    }

    fn copy_beside(
        &self,
        entry: &Entry,
        source: &OwnedFd,
        shown: &Path,
    ) -> Result<(), VolumeError> {
        let target = &entry.volume.mountpoint;
        if !copy::is_empty(target)? {
            return Ok(());
        }
        let beside = self.temporary(NEW)?;
        make_dir(&beside, 0o700)?;
        let copied = Fresh::from(entry.content.clone()).make(&beside).and_then(|()| {
            let data = beside.join(DATA);
            copy::copy_from(source, shown, &data)?;
            entry.content.give_owner(&beside)?;
            fault!("volume-copy-up:after-content");
            fs::rename(&data, target).map_err(VolumeError::io("fill", target))
        });
        // What is left is a directory without content, whatever happened.
        if let Err(error) = file::remove_tree(&beside) {
            tracing::warn!(path = %beside.display(), %error, "an unfinished copy stays");
        }
        copied
    }

    /// A path for what is being made or removed.
    pub(super) fn temporary(&self, prefix: &str) -> Result<PathBuf, VolumeError> {
        self.temporary_in(&self.root, prefix)
    }

    /// As [`Self::temporary`], in another directory.
    pub(super) fn temporary_in(&self, dir: &Path, prefix: &str) -> Result<PathBuf, VolumeError> {
        let mut bytes = [0u8; 8];
        getrandom::fill(&mut bytes).map_err(|e| {
            VolumeError::io("choose a name in", dir)(io::Error::other(e.to_string()))
        })?;
        Ok(dir.join(format!("{prefix}{:016x}", u64::from_ne_bytes(bytes))))
    }
}

/// What `inspect` says of a volume that lies in more than a directory.
pub(super) fn status(entry: &Entry) -> Map<String, Value> {
    let mut status = Map::new();
    let content = &entry.content;
    if matches!(content.storage, Storage::Mount(_) | Storage::Directory { project: None })
        && content.encryption.is_none()
    {
        return status;
    }
    status.insert("storage".to_owned(), content.storage.shown().into());
    status.insert("encrypted".to_owned(), content.encryption.is_some().into());
    if let Some((encryption, _)) = &content.encryption {
        status.insert("encryption".to_owned(), encryption.layer().shown().into());
    }
    match content.usage(entry.dir()) {
        Ok(Some(usage)) => {
            status.insert("used".to_owned(), usage.bytes.into());
            if let Some(limit) = usage.limit {
                status.insert("limit".to_owned(), limit.into());
            }
        }
        Ok(None) => {}
        Err(error) => {
            status.insert("error".to_owned(), error.to_string().into());
        }
    }
    status
}

/// Removes everything in a directory.
fn empty(dir: &Path) -> Result<(), VolumeError> {
    let failed = || VolumeError::io("empty", dir);
    for entry in fs::read_dir(dir).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        if entry.file_type().map_err(failed())?.is_dir() {
            file::remove_tree(&entry.path()).map_err(failed())?;
        } else {
            file::remove_file(&entry.path()).map_err(failed())?;
        }
    }
    Ok(())
}

pub(super) fn make_dir(path: &Path, mode: u32) -> Result<(), VolumeError> {
    use std::os::unix::fs::PermissionsExt;
    fs::DirBuilder::new()
        .mode(mode)
        .create(path)
        // Once more, whatever the process's umask is.
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .map_err(VolumeError::io("create", path))
}

/// Bytes of all files below `root`, those with several names counted once;
/// directories count nothing. What vanishes meanwhile is left out.
pub(super) fn tree_size(root: &Path) -> Result<u64, VolumeError> {
    let mut total = 0;
    let mut seen = HashSet::new();
    let mut rest = vec![root.to_owned()];
    while let Some(dir) = rest.pop() {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if dir != root && e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(VolumeError::io("read", dir)(e)),
        };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                rest.push(entry.path());
            } else if meta.nlink() < 2 || seen.insert((meta.dev(), meta.ino())) {
                total += meta.len();
            }
        }
    }
    Ok(total)
}
