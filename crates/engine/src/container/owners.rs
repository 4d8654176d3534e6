//! Mounts whose files have other owners in the container than at their source.
//!
//! ```text
//! containers/<id>/owners/<n>    the n-th mount of the container, with its owners
//! containers/<id>/owners/view   one of them, while files of the stopped container are copied
//! ```
//!
//! Be aware: such a mount is there while its container runs, like the root.

use std::path::{Path, PathBuf};

use sampan_sys::idmap::{self, Swap};
use sampan_sys::mount;

use crate::error::{EngineError, Result};
use crate::record::{ContainerRecord, MountRecord, OwnerMap};

/// Where the mounts are of the container with this directory.
fn place(data_dir: &Path, number: usize) -> PathBuf {
    data_dir.join("owners").join(number.to_string())
}

fn view(data_dir: &Path) -> PathBuf {
    data_dir.join("owners").join("view")
}

/// Mounts `source` with the owners that mount `number` of a container wants;
/// gives the place. Repeatable.
pub(super) fn mount_owned(
    data_dir: &Path,
    number: usize,
    mount: &MountRecord,
    owner: OwnerMap,
    source: &Path,
) -> Result<PathBuf> {
    let at = place(data_dir, number);
    bind(&at, mount, owner, source, !mount.non_recursive)?;
    Ok(at)
}

/// Mounts the directory `source`, which a stopped container's `mount` is or
/// lies in, with that one's owners; gives the place. Repeatable.
pub(crate) fn view_owned(
    data_dir: &Path,
    mount: &MountRecord,
    owner: OwnerMap,
    source: &Path,
    recursive: bool,
) -> Result<PathBuf> {
    let at = view(data_dir);
    bind(&at, mount, owner, source, recursive)?;
    Ok(at)
}

/// Takes away what [`view_owned`] mounted. Repeatable.
pub(crate) fn unmount_view(data_dir: &Path) -> Result<()> {
    let at = view(data_dir);
    mount::unmount(&at).map_err(|e| EngineError::io("unmount", at.display(), e))
}

fn bind(
    at: &Path,
    mount: &MountRecord,
    owner: OwnerMap,
    source: &Path,
    recursive: bool,
) -> Result<()> {
    let failed = |e: std::io::Error| {
        let reason = match e.kind() {
            std::io::ErrorKind::InvalidInput => {
                "the file system of the source can't show other owners".to_owned()
            }
            _ => e.to_string(),
        };
        EngineError::Invalid(format!(
            "cannot mount {} with the owners of {}: {reason}; leave idmap out",
            source.display(),
            mount.mode
        ))
    };
    // What a start before this one left may be of another source.
    mount::unmount(at).map_err(failed)?;
    let about = std::fs::metadata(source).map_err(failed)?;
    if about.is_dir() {
        std::fs::create_dir_all(at).map_err(failed)?;
    } else {
        if let Some(above) = at.parent() {
            std::fs::create_dir_all(above).map_err(failed)?;
        }
        std::fs::File::create(at).map_err(failed)?;
    }
    let ((user, group), (shown_user, shown_group)) = (owner.stored, owner.shown);
    let users = Swap { stored: user, shown: shown_user };
    let groups = Swap { stored: group, shown: shown_group };
    idmap::bind(source, at, recursive, users, groups).map_err(failed)
}

/// Takes all such mounts of a container away. Repeatable.
pub(super) fn unmount_owned(data_dir: &Path, record: &ContainerRecord) -> Result<()> {
    for (number, _) in record.mounts.iter().enumerate().filter(|(_, m)| m.owner.is_some()) {
        let at = place(data_dir, number);
        mount::unmount(&at).map_err(|e| EngineError::io("unmount", at.display(), e))?;
    }
    unmount_view(data_dir)
}
