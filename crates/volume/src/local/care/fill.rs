//! Filling what is being made with the content of something that is there.
//! All of it blocks.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{self as rfs, CWD, RenameFlags};
use sampan_sys::file;

use super::super::Entry;
use super::super::record;
use super::super::storage::{Content, Fresh};
use crate::{Volume, VolumeError, Watch};

/// Where content comes from: a volume or one of its snapshots.
pub(super) struct Source {
    pub(super) dir: PathBuf,
    pub(super) volume: Volume,
    pub(super) content: Content,
}

impl Source {
    /// What a volume holds; the caller is one of its users.
    pub(super) fn volume(entry: &Entry) -> Self {
        Self {
            dir: entry.dir().to_owned(),
            volume: entry.volume.clone(),
            content: entry.content.clone(),
        }
    }
}

/// Makes the content `to` in `dir`, which is empty, with what `source` holds.
pub(super) fn fill(
    source: &Source,
    to: &Fresh,
    dir: &Path,
    watch: &Watch,
) -> Result<(), VolumeError> {
    source.content.clone_content(&source.dir, to, dir, watch)
}

/// Writes all of the file system of `dir` to the disk.
pub(super) fn settle(dir: &Path) -> Result<(), VolumeError> {
    file::sync_fs(dir).map_err(|e| match e.kind() {
        // Room that was promised when it was written, and wasn't there.
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            VolumeError::Full { path: dir.to_owned(), source: e }
        }
        _ => VolumeError::io("write to the disk", dir)(e),
    })
}

/// Gives what was made its name, unless something has it.
pub(super) fn rename_new(new: &Path, name: &Path) -> io::Result<()> {
    match rfs::renameat_with(CWD, new, CWD, name, RenameFlags::NOREPLACE) {
        // A file system without that flag. The names of what is complete are
        // given under a lock, or by one task at a time.
        Err(rustix::io::Errno::INVAL) if name.symlink_metadata().is_err() => fs::rename(new, name),
        renamed => Ok(renamed?),
    }
}

/// Removes what was not completed.
pub(super) fn discard(content: &Content, dir: &Path) {
    let removed = record::unmount_below(dir)
        .map_err(VolumeError::io("unmount what is in", dir))
        .and_then(|()| content.remove(dir))
        .or_else(|_| file::remove_tree(dir).map_err(VolumeError::io("remove", dir)));
    if let Err(error) = removed {
        tracing::warn!(path = %dir.display(), %error, "an unfinished copy stays");
    }
}
