//! Owner, attributes, mode and times of what was restored.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use jiff::Timestamp;
use rustic_core::repofile::Node;
use rustix::fs::{self as rfs, AtFlags, Gid, Mode, Timespec, Timestamps, Uid};

use crate::source::unix_mode;

/// Gives the entry `name` of `dir` what the backup says of it; with an empty
/// name, the open file itself; with `.`, the open directory. No link is
/// followed.
///
/// The order matters: a change of the owner takes special permissions and
/// capabilities away, an ACL changes the mode, and all change the times.
pub(super) fn apply(dir: impl AsFd, name: &OsStr, node: &Node) -> io::Result<()> {
    let dir = dir.as_fd();
    let itself = name.is_empty();
    let flags = if itself { AtFlags::EMPTY_PATH } else { AtFlags::SYMLINK_NOFOLLOW };
    let meta = &node.meta;
    let (uid, gid) = (meta.uid.map(Uid::from_raw), meta.gid.map(Gid::from_raw));
    rfs::chownat(dir, name, uid, gid, flags)?;
    for attribute in &meta.extended_attributes {
        let value = attribute.value.as_deref().unwrap_or_default();
        let attribute = OsStr::new(&attribute.name);
        if itself {
            sampan_sys::xattr::set_of(dir, attribute, value)?;
        } else {
            let mut reach = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
            // `join(".")` would be lost, and the descriptor's link meant.
            reach.as_mut_os_string().push("/");
            reach.as_mut_os_string().push(name);
            sampan_sys::xattr::set(&reach, attribute, value)?;
        }
    }
    if let Some(mode) = meta.mode.filter(|_| !node.is_symlink()) {
        let mode = Mode::from_raw_mode(unix_mode(mode));
        if itself {
            rfs::fchmod(dir, mode)?;
        } else {
            rfs::chmodat(dir, name, mode, AtFlags::empty())?;
        }
    }
    let Some(modified) = meta.mtime.map(timespec) else { return Ok(()) };
    let accessed = meta.atime.map_or(modified, timespec);
    let times = Timestamps { last_access: accessed, last_modification: modified };
    if itself {
        rfs::futimens(dir, &times)?
    } else {
        rfs::utimensat(dir, name, &times, flags)?
    }
    Ok(())
}

fn timespec(time: Timestamp) -> Timespec {
    let nanos = time.as_nanosecond();
    let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or(0);
    let rest = i64::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0);
    Timespec { tv_sec: seconds, tv_nsec: rest }
}
