//! What file systems do beyond POSIX: project ids, freezing, growing ext4.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use linux_raw_sys::btrfs::{FS_XFLAG_PROJINHERIT, fsxattr};
use linux_raw_sys::ioctl::{FIFREEZE, FITHAW, FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR};

use crate::ioctl;

/// `_IOW('f', 16, __u64)` in the kernel's fs/ext4/ext4.h.
const EXT4_IOC_RESIZE_FS: u32 = 0x4008_6610;

/// The type of the file system that `path` is on: `statfs.f_type`, see
/// linux/magic.h.
///
/// # Errors
/// Those of statfs(2).
pub fn magic(path: &Path) -> io::Result<u64> {
    let found = nix::sys::statfs::statfs(path)?;
    // The field's width and sign differ between architectures; the numbers
    // have 32 bits.
    Ok(u64::from(found.filesystem_type().0 as u32))
}

/// `EXT4_SUPER_MAGIC`.
pub const EXT4: u64 = 0xef53;
/// `XFS_SUPER_MAGIC`.
pub const XFS: u64 = 0x5846_5342;
/// `BTRFS_SUPER_MAGIC`.
pub const BTRFS: u64 = 0x9123_683e;
/// `F2FS_SUPER_MAGIC`.
pub const F2FS: u64 = 0xf2f5_2010;

/// The project id of a file or directory; 0 for none.
///
/// # Errors
/// Those of the ioctl: ENOTTY or EOPNOTSUPP where there are none.
pub fn project(file: impl AsFd) -> io::Result<u32> {
    attributes(file).map(|a| a.fsx_projid)
}

/// Puts a directory into the project `id`, and everything that will be made
/// below it.
///
/// # Errors
/// Those of the ioctl.
pub fn set_project(dir: &Path, id: u32) -> io::Result<()> {
    let dir = File::open(dir)?;
    let mut attributes = attributes(&dir)?;
    attributes.fsx_projid = id;
    attributes.fsx_xflags |= FS_XFLAG_PROJINHERIT;
    // SAFETY: the request takes a pointer to an fsxattr.
    unsafe { ioctl::with(&dir, FS_IOC_FSSETXATTR, &mut attributes) }.map(drop)
}

fn attributes(file: impl AsFd) -> io::Result<fsxattr> {
    let mut found = fsxattr {
        fsx_xflags: 0,
        fsx_extsize: 0,
        fsx_nextents: 0,
        fsx_projid: 0,
        fsx_cowextsize: 0,
        fsx_pad: [0; 8],
    };
    // SAFETY: the request fills an fsxattr.
    unsafe { ioctl::with(file, FS_IOC_FSGETXATTR, &mut found) }?;
    Ok(found)
}

/// Stops all writing to the file system of `file` until [`thaw`]; what was
/// written is on its device then. A frozen file system stays frozen when this
/// process dies.
///
/// # Errors
/// Those of the ioctl: EBUSY when it is frozen already.
pub fn freeze(file: impl AsFd) -> io::Result<()> {
    // SAFETY: the request takes no argument.
    unsafe { ioctl::number(file, FIFREEZE, 0) }.map(drop)
}

/// Lets writing go on. That it was not frozen is success.
///
/// # Errors
/// Those of the ioctl.
pub fn thaw(file: impl AsFd) -> io::Result<()> {
    // SAFETY: the request takes no argument.
    match unsafe { ioctl::number(file, FITHAW, 0) } {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        done => done.map(drop),
    }
}

/// Grows the mounted ext4 that `dir` is in to `blocks` of its blocks; that it
/// has as many already is success.
///
/// # Errors
/// Those of the ioctl: it never shrinks.
pub fn grow_ext4(dir: impl AsFd, blocks: u64) -> io::Result<()> {
    let mut blocks = blocks;
    // SAFETY: the request reads a u64.
    unsafe { ioctl::with(dir, EXT4_IOC_RESIZE_FS, &mut blocks) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_tell_their_type() {
        let dir = tempfile::tempdir().unwrap();
        assert_ne!(magic(dir.path()).unwrap(), 0);
        assert_eq!(magic(Path::new("/proc")).unwrap(), 0x9fa0);
    }
}
