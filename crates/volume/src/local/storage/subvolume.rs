//! Content in a btrfs subvolume: snapshots in an instant, and a limit by its
//! qgroup.

use std::io;
use std::path::Path;

use sampan_sys::btrfs;

use super::Usage;
use crate::VolumeError;

/// Makes an empty subvolume with a limit.
pub(super) fn make(data: &Path, limit: Option<u64>) -> Result<(), VolumeError> {
    btrfs::create(data).map_err(VolumeError::io("create the subvolume", data))?;
    set_limit(data, limit)
}

/// Makes `to` a subvolume with what the subvolume `from` holds.
pub(super) fn copy(from: &Path, to: &Path, limit: Option<u64>) -> Result<(), VolumeError> {
    btrfs::snapshot(from, to, false).map_err(VolumeError::io("make a snapshot of", from))?;
    set_limit(to, limit)
}

/// Gives the subvolume another limit.
pub(super) fn set_limit(data: &Path, limit: Option<u64>) -> Result<(), VolumeError> {
    let counted = btrfs::has_quota(data).map_err(VolumeError::io("examine", data))?;
    if limit.is_none() && !counted {
        return Ok(());
    }
    if !counted {
        tracing::info!(
            path = %data.display(),
            "quotas are turned on for this btrfs: a volume has a limit"
        );
        btrfs::enable_quota(data).map_err(VolumeError::io("turn on the quotas of", data))?;
    }
    btrfs::limit(data, limit).map_err(VolumeError::io("limit the subvolume", data))
}

/// What the subvolume holds; `None` while nobody counts that.
pub(super) fn usage(data: &Path) -> Result<Option<Usage>, VolumeError> {
    let found = btrfs::space(data).map_err(VolumeError::io("read the quota of", data))?;
    Ok(found.map(|s| Usage { bytes: s.referenced, limit: s.limit }))
}

/// Removes the subvolume, when `data` is one that holds no other one: the rest
/// is an ordinary directory for whoever removes trees.
pub(super) fn remove(data: &Path) -> Result<(), VolumeError> {
    match btrfs::is_subvolume(data) {
        Ok(true) => {}
        Ok(false) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(VolumeError::io("examine", data)(e)),
    }
    let id = std::fs::File::open(data).and_then(btrfs::id);
    match btrfs::destroy(data) {
        // Containers may make subvolumes of their own in theirs.
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => return Ok(()),
        done => done.map_err(VolumeError::io("remove the subvolume", data))?,
    }
    if let (Ok(id), Some(parent)) = (id, data.parent())
        && let Err(error) = btrfs::forget(parent, id)
    {
        // It counts nothing any more; the kernel forgets it by itself, or the
        // administrator does ("btrfs qgroup clear-stale").
        tracing::debug!(path = %data.display(), %error, "the subvolume's qgroup stays");
    }
    Ok(())
}
