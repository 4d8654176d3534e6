//! Content in a plain directory.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::Path;

use super::Owner;
use crate::VolumeError;

/// Makes a directory with this mode, whatever the umask is.
pub(super) fn make(data: &Path, mode: u32) -> Result<(), VolumeError> {
    fs::DirBuilder::new().mode(mode).create(data).map_err(VolumeError::io("create", data))?;
    give(data, &Owner::default(), Some(mode))
}

/// Gives the content's root the owner and mode that the options name, `mode`
/// where they name none.
pub(super) fn give(data: &Path, owner: &Owner, mode: Option<u32>) -> Result<(), VolumeError> {
    if owner.uid.is_some() || owner.gid.is_some() {
        chown(data, owner.uid, owner.gid).map_err(VolumeError::io("change the owner of", data))?;
    }
    // After the owner, whose change clears bits.
    match owner.mode.or(mode) {
        Some(mode) => fs::set_permissions(data, fs::Permissions::from_mode(mode))
            .map_err(VolumeError::io("change the mode of", data)),
        None => Ok(()),
    }
}
