//! Owner, mode, times and extended attributes.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{self as rfs, AtFlags, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

/// The kernel's bound on a value and on a list of names.
const LARGEST: usize = 1 << 16;

/// Room for names and values of extended attributes, used again and again.
pub(super) struct Scratch {
    names: Vec<MaybeUninit<u8>>,
    value: Vec<MaybeUninit<u8>>,
}

impl Scratch {
    pub(super) fn new() -> Self {
        let room = || vec![MaybeUninit::uninit(); LARGEST];
        Self { names: room(), value: room() }
    }
}

/// What a file has that this process makes. A change that changes nothing
/// costs as much as any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fresh {
    uid: u32,
    gid: u32,
    /// The bits that are taken away from the mode of what is made, when they
    /// are known.
    umask: Option<u32>,
}

impl Fresh {
    /// As this process is at the moment.
    pub(super) fn here() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("Umask:"));
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            umask: line.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()),
        }
    }

    pub(super) fn gid(&self) -> u32 {
        self.gid
    }

    fn has_owner_of(&self, stat: &Stat) -> bool {
        (self.uid, self.gid) == (stat.st_uid, stat.st_gid)
    }

    /// Whether a file that is made with the permissions of `stat` has its mode
    /// then.
    fn has_mode_of(&self, stat: &Stat) -> bool {
        let mode = stat.st_mode & 0o7777;
        self.umask.is_some_and(|umask| mode & 0o777 & !umask == mode)
    }
}

/// Owner, extended attributes, mode, times: in this order, because a change
/// of owner clears capabilities and the set-user-id bit. `fresh` is what the
/// file was made with, if that is known, and the permissions of `stat`.
pub(super) fn copy(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    stat: &Stat,
    fresh: Option<&Fresh>,
    scratch: &mut Scratch,
) -> Result<(), Errno> {
    let has_owner = fresh.is_some_and(|f| f.has_owner_of(stat));
    if !has_owner {
        let (uid, gid) = owner(stat);
        rfs::fchown(to, uid, gid)?;
    }
    let Scratch { names, value } = scratch;
    let had_more = copy_xattrs(
        rfs::flistxattr(from, &mut names[..]).map(|(names, _)| &*names),
        |name| rfs::fgetxattr(from, name, &mut value[..]).map(|(value, _)| value.to_vec()),
        |name, value| rfs::fsetxattr(to, name, value, XattrFlags::empty()),
    )?;
    // An access list changes the mode, too.
    if had_more || !(has_owner && fresh.is_some_and(|f| f.has_mode_of(stat))) {
        rfs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    }
    rfs::futimens(to, &times(stat))
}

/// As [`copy`], of the entry `name`, which can't be opened: a link, a device.
pub(super) fn copy_at(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
    scratch: &mut Scratch,
) -> Result<(), Errno> {
    let (uid, gid) = owner(stat);
    rfs::chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    // The calls that know no descriptors get a path that leads through one.
    let path = |fd: BorrowedFd<'_>| {
        let mut path = format!("/proc/self/fd/{}/", fd.as_raw_fd()).into_bytes();
        path.extend_from_slice(name.to_bytes());
        path
    };
    let (from_path, to_path) = (path(from), path(to));
    let Scratch { names, value } = scratch;
    copy_xattrs(
        rfs::llistxattr(&from_path[..], &mut names[..]).map(|(names, _)| &*names),
        |name| rfs::lgetxattr(&from_path[..], name, &mut value[..]).map(|(v, _)| v.to_vec()),
        |name, value| rfs::lsetxattr(&to_path[..], name, value, XattrFlags::empty()),
    )?;
    if !rfs::FileType::from_raw_mode(stat.st_mode).is_symlink() {
        rfs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())?;
    }
    rfs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

/// Copies what there is; false when there is nothing.
fn copy_xattrs(
    names: Result<&[u8], Errno>,
    mut get: impl FnMut(&CStr) -> Result<Vec<u8>, Errno>,
    set: impl Fn(&CStr, &[u8]) -> Result<(), Errno>,
) -> Result<bool, Errno> {
    let names = match names {
        Ok(names) => names,
        // No attributes here; or the entry is gone.
        Err(Errno::NOTSUP | Errno::NOENT) => return Ok(false),
        Err(e) => return Err(e),
    };
    for name in names.split_inclusive(|b| *b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        // Overlay's own marks describe the layers, not the content.
        let bytes = name.to_bytes();
        if bytes.starts_with(b"trusted.overlay.") || bytes.starts_with(b"user.overlay.") {
            continue;
        }
        let value = match get(name) {
            Ok(value) => value,
            // Gone meanwhile, or not ours to read.
            Err(Errno::NODATA | Errno::NOTSUP | Errno::NOENT) => continue,
            Err(e) => return Err(e),
        };
        match set(name, &value) {
            // The target's file system can't hold it: a tmpfs with user.*.
            Err(Errno::NOTSUP) => {}
            other => other?,
        }
    }
    Ok(!names.is_empty())
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

fn times(stat: &Stat) -> Timestamps {
    let spec = |seconds, nanos: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanos).unwrap_or(0),
    };
    Timestamps {
        last_access: spec(stat.st_atime, stat.st_atime_nsec),
        last_modification: spec(stat.st_mtime, stat.st_mtime_nsec),
    }
}
