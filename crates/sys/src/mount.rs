//! Mounts: bind, overlay, tmpfs, and taking them away again.

use std::ffi::{CStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::syscall::{done, owned};

/// One line of `/proc/self/mountinfo` (see proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Where it is mounted.
    pub target: PathBuf,
    /// The file system's type: `overlay`, `ext4` …
    pub fs_type: String,
    /// The mounted source.
    pub source: String,
    /// The options of the superblock, comma-separated.
    pub options: String,
}

/// Mounts `source` at `target` as well, with everything below it when
/// `recursive`.
///
/// # Errors
/// Those of mount(2).
pub fn bind(source: &Path, target: &Path, recursive: bool) -> io::Result<()> {
    let mut flags = MsFlags::MS_BIND;
    if recursive {
        flags |= MsFlags::MS_REC;
    }
    mount(Some(source), target, None::<&str>, flags, None::<&str>).map_err(io::Error::from)
}

/// Mounts a file system of type `fs_type` at `target` with `options`.
///
/// # Errors
/// Those of mount(2).
pub fn mount_fs(fs_type: &str, source: &str, target: &Path, options: &str) -> io::Result<()> {
    mount(Some(source), target, Some(fs_type), MsFlags::empty(), Some(options))
        .map_err(io::Error::from)
}

/// A file system's root directory without a place in any tree of mounts: it is
/// there as long as the descriptor is.
///
/// # Errors
/// Those of fsopen(2), fsconfig(2) and fsmount(2).
pub fn detached(fs_type: &CStr) -> io::Result<OwnedFd> {
    /// `FSOPEN_CLOEXEC` and `FSMOUNT_CLOEXEC`.
    const CLOEXEC: libc::c_uint = 1;
    /// `FSCONFIG_CMD_CREATE`.
    const CREATE: libc::c_uint = 6;
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: the name ends with a zero and lives until the return.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, fs_type.as_ptr(), CLOEXEC) })?;
    let context_fd = context.as_raw_fd();
    // SAFETY: this command takes neither key nor value.
    done(unsafe { libc::syscall(libc::SYS_fsconfig, context_fd, CREATE, none, none, 0_i32) })?;
    // SAFETY: nothing in it is a pointer.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context_fd, CLOEXEC, 0_u32) })
}

/// Takes the mount at `target` away, at once or, when it is busy, as soon as
/// its last user is gone. That nothing is mounted there is success.
///
/// # Errors
/// Those of umount2(2).
pub fn unmount(target: &Path) -> io::Result<()> {
    match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// All mounts of this process's mount namespace, in the order of mounting.
///
/// # Errors
/// When `/proc/self/mountinfo` can't be read.
pub fn list() -> io::Result<Vec<MountEntry>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|b| *b == b'\n').filter_map(parse_line).collect())
}

/// Whether something is mounted exactly at `target`.
///
/// # Errors
/// When `/proc/self/mountinfo` can't be read.
pub fn is_mounted(target: &Path) -> io::Result<bool> {
    Ok(list()?.iter().any(|m| m.target == target))
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let dash = fields.iter().position(|f| *f == b"-")?;
    let text = |i: usize| fields.get(i).map(|f| String::from_utf8_lossy(f).into_owned());
    Some(MountEntry {
        target: PathBuf::from(OsString::from_vec(unescape(fields.get(4)?))),
        fs_type: text(dash + 1)?,
        source: text(dash + 2)?,
        options: text(dash + 3)?,
    })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
pub(crate) fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                out.push(byte);
                rest = &tail[3..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mountinfo_lines() {
        let line =
            br"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let m = parse_line(line).unwrap();
        assert_eq!(m.target, Path::new("/mnt 2"));
        assert_eq!((m.fs_type.as_str(), m.source.as_str()), ("ext3", "/dev/root"));
        assert!(parse_line(b"").is_none());
        assert!(is_mounted(Path::new("/proc")).unwrap());
    }
}
