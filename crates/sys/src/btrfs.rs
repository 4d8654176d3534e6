//! Btrfs: subvolumes, snapshots, and how much they hold and may hold.
//!
//! Be aware:
//! - A subvolume's qgroup is `0/<id>`; its numbers are right only while quotas
//!   are on for the file system. Turning them on starts a scan in the kernel.
//! - Numbers are read from sysfs, where the kernel shows what it has in memory.

use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use linux_raw_sys::btrfs::{
    BTRFS_QGROUP_LIMIT_MAX_RFER, BTRFS_QUOTA_CTL_ENABLE, btrfs_ioctl_fs_info_args,
    btrfs_ioctl_ino_lookup_args, btrfs_ioctl_qgroup_create_args, btrfs_ioctl_qgroup_limit_args,
    btrfs_ioctl_quota_ctl_args, btrfs_ioctl_vol_args, btrfs_ioctl_vol_args_v2, btrfs_qgroup_limit,
};
use linux_raw_sys::ioctl::{
    BTRFS_IOC_FS_INFO, BTRFS_IOC_INO_LOOKUP, BTRFS_IOC_QGROUP_CREATE, BTRFS_IOC_QGROUP_LIMIT,
    BTRFS_IOC_QUOTA_CTL, BTRFS_IOC_QUOTA_RESCAN_WAIT, BTRFS_IOC_SNAP_CREATE_V2,
    BTRFS_IOC_SNAP_DESTROY, BTRFS_IOC_SUBVOL_CREATE,
};

use crate::{fsattr, ioctl};

/// The number of each subvolume's root.
const ROOT_INODE: u64 = 256;
/// `BTRFS_SUBVOL_RDONLY`.
const READ_ONLY: u64 = 1 << 1;

/// What a subvolume holds and may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that it refers to, alone or with others.
    pub referenced: u64,
    /// Bytes that it may refer to; `None` for any number.
    pub limit: Option<u64>,
}

/// Whether `path` is the root of a subvolume.
///
/// # Errors
/// Those of stat(2).
pub fn is_subvolume(path: &Path) -> io::Result<bool> {
    let found = fs::symlink_metadata(path)?;
    Ok(found.is_dir() && found.ino() == ROOT_INODE && fsattr::magic(path)? == fsattr::BTRFS)
}

/// Makes an empty subvolume.
///
/// # Errors
/// Those of the ioctl.
pub fn create(path: &Path) -> io::Result<()> {
    let (parent, mut args) = named(path)?;
    // SAFETY: the request reads a btrfs_ioctl_vol_args.
    unsafe { ioctl::with(&parent, BTRFS_IOC_SUBVOL_CREATE, &mut args) }.map(drop)
}

/// Makes `to` a snapshot of the subvolume `from`, in an instant.
///
/// # Errors
/// Those of the ioctl.
pub fn snapshot(from: &Path, to: &Path, read_only: bool) -> io::Result<()> {
    let source = File::open(from)?;
    let (parent, name) = parts(to)?;
    // SAFETY: zeroes are a valid value of each field.
    let mut args: btrfs_ioctl_vol_args_v2 = unsafe { MaybeUninit::zeroed().assume_init() };
    args.fd = i64::from(source.as_raw_fd());
    args.flags = if read_only { READ_ONLY } else { 0 };
    // SAFETY: the union was zeroed whole.
    let place = unsafe { &mut args.__bindgen_anon_2.name };
    copy_name(place, name)?;
    // SAFETY: the request reads a btrfs_ioctl_vol_args_v2.
    unsafe { ioctl::with(&parent, BTRFS_IOC_SNAP_CREATE_V2, &mut args) }.map(drop)
}

/// Removes a subvolume with everything in it but other subvolumes: while it
/// has such, ENOTEMPTY. Its absence is success.
///
/// # Errors
/// Those of the ioctl.
pub fn destroy(path: &Path) -> io::Result<()> {
    let (parent, mut args) = match named(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    // SAFETY: the request reads a btrfs_ioctl_vol_args.
    match unsafe { ioctl::with(&parent, BTRFS_IOC_SNAP_DESTROY, &mut args) } {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map(drop),
    }
}

/// The id of the subvolume that `dir` is in.
///
/// # Errors
/// Those of the ioctl.
pub fn id(dir: impl AsFd) -> io::Result<u64> {
    // SAFETY: zeroes are a valid value of each field.
    let mut args: btrfs_ioctl_ino_lookup_args = unsafe { MaybeUninit::zeroed().assume_init() };
    args.objectid = ROOT_INODE;
    // SAFETY: the request fills a btrfs_ioctl_ino_lookup_args.
    unsafe { ioctl::with(dir, BTRFS_IOC_INO_LOOKUP, &mut args) }?;
    Ok(args.treeid)
}

/// Whether the file system that `dir` is on counts what subvolumes hold.
///
/// # Errors
/// When the file system's id can't be read.
pub fn has_quota(dir: &Path) -> io::Result<bool> {
    Ok(sysfs(&File::open(dir)?)?.exists())
}

/// Lets the file system that `dir` is on count what subvolumes hold, and waits
/// until it has counted what there is.
///
/// # Errors
/// Those of the ioctl.
pub fn enable_quota(dir: &Path) -> io::Result<()> {
    let dir = File::open(dir)?;
    let mut args = btrfs_ioctl_quota_ctl_args { cmd: BTRFS_QUOTA_CTL_ENABLE.into(), status: 0 };
    // SAFETY: the request reads a btrfs_ioctl_quota_ctl_args.
    unsafe { ioctl::with(&dir, BTRFS_IOC_QUOTA_CTL, &mut args) }?;
    wait_for_scan(&dir)
}

/// Waits until the numbers are right that turning quotas on made wrong.
///
/// # Errors
/// Those of the ioctl.
fn wait_for_scan(dir: impl AsFd) -> io::Result<()> {
    // SAFETY: the request takes no argument.
    unsafe { ioctl::number(dir, BTRFS_IOC_QUOTA_RESCAN_WAIT, 0) }.map(drop)
}

/// Lets the subvolume `path` refer to `bytes`; `None` for any number.
///
/// # Errors
/// Those of the ioctl: ENOTCONN when quotas are off.
pub fn limit(path: &Path, bytes: Option<u64>) -> io::Result<()> {
    let dir = File::open(path)?;
    let mut args = btrfs_ioctl_qgroup_limit_args {
        qgroupid: id(&dir)?,
        lim: btrfs_qgroup_limit {
            flags: BTRFS_QGROUP_LIMIT_MAX_RFER.into(),
            // All ones take the limit away.
            max_rfer: bytes.unwrap_or(u64::MAX),
            max_excl: 0,
            rsv_rfer: 0,
            rsv_excl: 0,
        },
    };
    // SAFETY: the request reads a btrfs_ioctl_qgroup_limit_args.
    unsafe { ioctl::with(&dir, BTRFS_IOC_QGROUP_LIMIT, &mut args) }.map(drop)
}

/// Forgets the qgroup of the subvolume `id`, which is gone, on the file system
/// of `dir`. Newer kernels do that themselves; that it is absent, or that
/// quotas are off, is success.
///
/// # Errors
/// Those of the ioctl: EBUSY while the kernel still clears the subvolume away.
pub fn forget(dir: &Path, id: u64) -> io::Result<()> {
    let dir = File::open(dir)?;
    let mut args = btrfs_ioctl_qgroup_create_args { create: 0, qgroupid: id };
    // SAFETY: the request reads a btrfs_ioctl_qgroup_create_args.
    match unsafe { ioctl::with(&dir, BTRFS_IOC_QGROUP_CREATE, &mut args) } {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTCONN)) => Ok(()),
        done => done.map(drop),
    }
}

/// What the subvolume `path` holds; `None` while nobody counts that.
///
/// # Errors
/// Those of reading.
pub fn space(path: &Path) -> io::Result<Option<Space>> {
    let dir = File::open(path)?;
    let group = sysfs(&dir)?.join(format!("0_{}", id(&dir)?));
    let number = |name: &str| -> io::Result<Option<u64>> {
        match fs::read_to_string(group.join(name)) {
            Ok(text) => Ok(text.trim().parse().ok()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    };
    let Some(referenced) = number("referenced")? else { return Ok(None) };
    let limited = number("limit_flags")?
        .is_some_and(|flags| flags & u64::from(BTRFS_QGROUP_LIMIT_MAX_RFER) != 0);
    let limit = if limited { number("max_referenced")?.filter(|b| *b > 0) } else { None };
    Ok(Some(Space { referenced, limit }))
}

/// Where the kernel shows the qgroups of the file system of `dir`.
fn sysfs(dir: &File) -> io::Result<PathBuf> {
    // SAFETY: zeroes are a valid value of each field.
    let mut args: btrfs_ioctl_fs_info_args = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: the request fills a btrfs_ioctl_fs_info_args.
    unsafe { ioctl::with(dir, BTRFS_IOC_FS_INFO, &mut args) }?;
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let id = &args.fsid;
    let text = [&id[..4], &id[4..6], &id[6..8], &id[8..10], &id[10..]].map(hex).join("-");
    Ok(PathBuf::from(format!("/sys/fs/btrfs/{text}/qgroups")))
}

/// The directory that `path` lies in, and the arguments that name it there.
fn named(path: &Path) -> io::Result<(File, btrfs_ioctl_vol_args)> {
    let (parent, name) = parts(path)?;
    let mut args = btrfs_ioctl_vol_args { fd: 0, name: [0; 4088] };
    copy_name(&mut args.name, name)?;
    Ok((parent, args))
}

fn parts(path: &Path) -> io::Result<(File, &[u8])> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    Ok((File::open(parent)?, name.as_bytes()))
}

fn copy_name(place: &mut [libc::c_char], name: &[u8]) -> io::Result<()> {
    if name.len() >= place.len() {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    for (to, from) in place.iter_mut().zip(name) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    Ok(())
}
