//! The local driver's work on files. All of it blocks.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sampan_sys::{file, mount};
use sampan_types::{Timestamp, VolumeName};

use super::record::{self, DATA, GONE, NEW};
use super::{DRIVER, Entry, Inner, State, options};
use crate::fault::fault;
use crate::{Volume, VolumeError, VolumeSpec, copy};

impl Entry {
    /// Mounts what the options say, unless it is mounted.
    pub(super) fn ensure_mounted(&self) -> Result<(), VolumeError> {
        let Some(options) = &self.mount else { return Ok(()) };
        let target = &self.volume.mountpoint;
        if mount::is_mounted(target).map_err(VolumeError::io("look for", target))? {
            return Ok(());
        }
        options.mount(target).inspect_err(|_| {
            // A bind mount may stand although making it read-only failed.
            if let Err(error) = mount::unmount(target) {
                tracing::warn!(path = %target.display(), %error, "a failed mount stays");
            }
        })
    }

    /// Takes the options' mount away, if it is there.
    pub(super) fn ensure_unmounted(&self) -> Result<(), VolumeError> {
        let target = &self.volume.mountpoint;
        mount::unmount(target).map_err(VolumeError::io("unmount", target))
    }
}

impl Inner {
    /// Makes a volume under a name that is not one and gives it its name last.
    pub(super) fn create(&self, name: VolumeName, spec: VolumeSpec) -> Result<Volume, VolumeError> {
        let mount = options::check(&name, &spec.options)?;
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
            .and_then(|()| make_dir(&new.join(DATA), 0o755))
            .and_then(|()| record::write(&new, &volume));
        fault!("volume-create:after-content");
        let named = made.and_then(|()| {
            let mut entries = self.entries();
            if let Some(existing) = entries.get(&volume.name) {
                return Ok(Some(existing.volume.clone()));
            }
            fs::rename(&new, &dir).map_err(VolumeError::io("create", &dir))?;
            let entry = Entry { volume: volume.clone(), mount, state: Arc::default() };
            entries.insert(volume.name.clone(), entry);
            Ok(None)
        });
        match named {
            Ok(None) => {
                fault!("volume-create:after-rename");
                file::sync_dir(&self.root).map_err(VolumeError::io("synchronise", &self.root))?;
                Ok(volume)
            }
            other => {
                if let Err(error) = file::remove_tree(&new) {
                    tracing::warn!(path = %new.display(), %error, "an unfinished volume stays");
                }
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
        if !state.users.is_empty() {
            let users = state.users.iter().cloned().collect();
            return Err(VolumeError::InUse { name: name.to_string(), users });
        }
        let dir = self.dir(name);
        record::unmount_below(&dir).map_err(VolumeError::io("unmount what is in", &dir))?;
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
        file::remove_tree(&gone).map_err(VolumeError::io("remove", gone))
    }

    /// Copies the image's content in; see [`crate::Volumes::copy_up`].
    ///
    /// A volume of plain files that nobody uses is filled beside and put in
    /// place by a rename, so that a crash leaves it empty, not half full.
    pub(super) fn copy_up(
        &self,
        entry: &Entry,
        state: &State,
        rootfs: &Path,
        inside: &Path,
    ) -> Result<(), VolumeError> {
        let target = &entry.volume.mountpoint;
        if entry.mount.is_some() {
            entry.ensure_mounted()?;
            let copied = copy::copy_up(rootfs, inside, target);
            return if state.users.is_empty() {
                copied.and(entry.ensure_unmounted())
            } else {
                copied
            };
        }
        if !copy::is_empty(target)? {
            return Ok(());
        }
        if !state.users.is_empty() {
            return copy::copy_up(rootfs, inside, target);
        }
        let Some(source) = copy::open_inside(rootfs, inside)? else { return Ok(()) };
        let beside = self.temporary(NEW)?;
        make_dir(&beside, 0o700)?;
        let copied = copy::copy_from(&source, inside, &beside)
            .and_then(|()| fs::rename(&beside, target).map_err(VolumeError::io("fill", target)));
        copied.inspect_err(|_| {
            if let Err(error) = file::remove_tree(&beside) {
                tracing::warn!(path = %beside.display(), %error, "an unfinished copy stays");
            }
        })
    }

    fn temporary(&self, prefix: &str) -> Result<PathBuf, VolumeError> {
        let mut bytes = [0u8; 8];
        getrandom::fill(&mut bytes).map_err(|e| {
            VolumeError::io("choose a name in", &self.root)(io::Error::other(e.to_string()))
        })?;
        Ok(self.root.join(format!("{prefix}{:016x}", u64::from_ne_bytes(bytes))))
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<(), VolumeError> {
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
