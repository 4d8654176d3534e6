//! Giving a volume the content of a snapshot. Blocks.

use std::mem::discriminant;
use std::path::Path;

use rustix::fs::{self as rfs, CWD, RenameFlags};
use sampan_sys::file;
use sampan_types::SnapshotName;

use super::super::operations::make_dir;
use super::super::record::{self, DATA, NEW};
use super::super::storage::{Fresh, Wish};
use super::super::{Entry, Inner, State};
use super::{fill, snapshot};
use crate::fault::fault;
use crate::{VolumeError, Watch};

/// What a volume's content is called, in the order of exchanging: where there
/// is an image, the directory is only where it is mounted.
const CONTENT: [&str; 2] = ["content.img", DATA];

impl Inner {
    /// Makes a copy of the snapshot's content beside and exchanges it with the
    /// volume's. What the volume held is removed last.
    pub(super) fn roll_back(
        &self,
        entry: &Entry,
        state: &mut State,
        name: &SnapshotName,
        watch: &Watch,
    ) -> Result<(), VolumeError> {
        let volume = entry.volume.name.to_string();
        if state.removed {
            return Err(VolumeError::NotFound { name: volume });
        }
        entry.refuse_users("restore")?;
        let source = snapshot::open(entry, name)?;
        let content = self.like(entry)?;
        let new = self.temporary(NEW)?;
        make_dir(&new, 0o700)?;
        let exchanged = fill::fill(&source, &content, &new, watch)
            .and_then(|()| fill::settle(&new))
            .and_then(|()| {
                fault!("volume-restore:after-content");
                exchange(&new, entry.dir())
            });
        if let Err(error) = exchanged {
            fill::discard(&content, &new);
            return Err(error);
        }
        fault!("volume-restore:after-exchange");
        let done = record::write(entry.dir(), &entry.volume, &content).and_then(|()| {
            if let Some(kept) = self.entries().get_mut(&entry.volume.name) {
                kept.content = content.clone();
            }
            file::sync_dir(&self.root).map_err(VolumeError::io("synchronise", &self.root))
        });
        fault!("volume-restore:after-record");
        // What was the volume's content until now.
        fill::discard(&entry.content, &new);
        done
    }

    /// Content for the same volume beside what it has.
    pub(super) fn like(&self, entry: &Entry) -> Result<Fresh, VolumeError> {
        let name = &entry.volume.name;
        let wish = Wish::new(name, &entry.volume.options)?;
        let decided = self.decide(name, Wish { size: entry.content.limit, ..wish })?;
        // The data root may lie on another kind of file system than it did.
        if discriminant(&decided.storage) == discriminant(&entry.content.storage) {
            return Ok(decided);
        }
        Ok(entry.content.clone().into())
    }
}

/// Exchanges the contents of two volumes' directories, of the same storage.
pub(super) fn exchange(new: &Path, volume: &Path) -> Result<(), VolumeError> {
    for name in CONTENT {
        let (from, to) = (new.join(name), volume.join(name));
        if from.symlink_metadata().is_err() {
            continue;
        }
        rfs::renameat_with(CWD, &from, CWD, &to, RenameFlags::EXCHANGE)
            .map_err(|e| VolumeError::io("exchange", &to)(e.into()))?;
    }
    Ok(())
}
