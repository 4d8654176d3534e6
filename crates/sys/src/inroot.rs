//! Paths that stay below a root whatever they contain: `..`, absolute paths
//! and symbolic links are resolved by the kernel inside it (openat2(2)).
//!
//! Be aware:
//! - A path that was checked may lead elsewhere a moment later. Work on the
//!   descriptors given here, or on [`fd_path`] of them, never on the path again.
//! - `/proc` must be mounted for [`fd_path`] and [`reopen`].

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;

/// How often a resolution that raced with a rename is tried again.
const ATTEMPTS: u32 = 128;

/// Opens the directory `path` as a root: for walking, not for reading.
///
/// # Errors
/// Those of open(2).
pub fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    OpenOptions::new().read(true).custom_flags(flags).open(path).map(OwnedFd::from)
}

/// Opens `path` with `root` as its `/`. An absolute path, `..` and symbolic
/// links lead nowhere outside of `root`; magic links of `/proc` are refused.
/// `mode` is for a file that `flags` create.
///
/// # Errors
/// Those of openat2(2).
pub fn open_in_root(root: impl AsFd, path: &Path, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
    let mut resolve = ResolveFlag::RESOLVE_IN_ROOT;
    resolve |= ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    for _ in 0..ATTEMPTS {
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(resolve);
        match openat2(root.as_fd().as_raw_fd(), path, how) {
            Ok(fd) => return Ok(own(fd)),
            // The path was renamed under the kernel's hands.
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(Errno::EAGAIN.into())
}

/// Opens the entry `name` of the directory `dir`. A symbolic link is not
/// followed: with `O_PATH` it is opened itself, otherwise it is an error.
///
/// # Errors
/// `InvalidInput` when `name` is not a single name; those of openat(2).
pub fn open_at(dir: impl AsFd, name: &OsStr, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
    if !is_single_name(name) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    openat(Some(dir.as_fd().as_raw_fd()), name, flags, mode).map(own).map_err(io::Error::from)
}

/// Opens what `fd` is open on (perhaps with `O_PATH`) once more with other
/// flags. What is opened is that very file, whatever happened to its name.
///
/// # Errors
/// Those of open(2).
pub fn reopen(fd: impl AsFd, write: bool) -> io::Result<File> {
    OpenOptions::new().read(!write).write(write).open(fd_path(fd))
}

/// A path that leads to what `fd` is open on, for system calls that know no
/// descriptors. For a directory, `fd_path(dir).join(name)` is an entry of it.
#[must_use]
pub fn fd_path(fd: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// Whether `name` is one part of a path and names an entry of a directory.
#[must_use]
pub fn is_single_name(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    !bytes.is_empty() && bytes != b"." && bytes != b".." && !bytes.contains(&b'/')
}

fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just given this descriptor to us alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(root.join("etc/passwd"), "inside").unwrap();
        symlink("/etc", root.join("absolute")).unwrap();
        symlink("../../../../../etc", root.join("up")).unwrap();
        let fd = open_root(&root).unwrap();
        for path in
            ["etc/passwd", "/etc/passwd", "../../etc/passwd", "absolute/passwd", "up/passwd"]
        {
            let opened = open_in_root(&fd, Path::new(path), OFlag::O_RDONLY, Mode::empty());
            let text = io::read_to_string(File::from(opened.unwrap())).unwrap();
            assert_eq!(text, "inside", "{path}");
        }
        let link = open_at(&fd, OsStr::new("up"), OFlag::O_RDONLY, Mode::empty());
        assert_eq!(link.unwrap_err().raw_os_error(), Some(libc::ELOOP));
        for name in ["", ".", "..", "a/b"] {
            assert!(open_at(&fd, OsStr::new(name), OFlag::O_PATH, Mode::empty()).is_err());
        }
        let path = open_at(&fd, OsStr::new("etc"), OFlag::O_PATH, Mode::empty()).unwrap();
        assert!(fd_path(&path).join("passwd").exists());
    }
}
