//! Mounts that are put together out of sight, and attached when they are as
//! they shall be (open_tree(2), mount_setattr(2), move_mount(2)).
//!
//! Be aware: what is attached nowhere goes with its descriptor.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::syscall::{done, owned};

/// `OPEN_TREE_CLONE`, `MOVE_MOUNT_F_EMPTY_PATH`, `MOUNT_ATTR_RDONLY`
/// (`linux/mount.h`); `AT_RECURSIVE` (`linux/fcntl.h`).
const OPEN_TREE_CLONE: libc::c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
const MOUNT_ATTR_RDONLY: u64 = 1;
const AT_RECURSIVE: libc::c_uint = 0x8000;

/// `struct mount_attr` (`linux/mount.h`).
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct MountAttr {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
    pub userns: u64,
}

/// A copy of what is mounted somewhere.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    recursive: bool,
}

impl Tree {
    /// A copy of the mount that `source` is in, from there on, and with
    /// `recursive` of those below.
    ///
    /// # Errors
    /// Those of open_tree(2).
    pub fn of(source: &Path, recursive: bool) -> io::Result<Self> {
        let source = text(source)?;
        let below = if recursive { AT_RECURSIVE } else { 0 };
        let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned() | below;
        // SAFETY: the path ends with a zero and lives until the return.
        let root =
            unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, source.as_ptr(), flags) };
        Ok(Self { root: owned(root)?, recursive })
    }

    /// Lets nothing that is mounted in it be seen elsewhere, and the reverse.
    ///
    /// # Errors
    /// Those of mount_setattr(2).
    pub fn make_private(&self) -> io::Result<()> {
        let attributes = MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() };
        self.set_all(&attributes)
    }

    /// Lets nobody write through it, with `below` through any of its mounts.
    ///
    /// # Errors
    /// Those of mount_setattr(2).
    pub fn make_read_only(&self, below: bool) -> io::Result<()> {
        let attributes = MountAttr { set: MOUNT_ATTR_RDONLY, ..MountAttr::default() };
        set_attributes(self.root.as_fd(), &attributes, below)
    }

    /// Mounts it at `target`.
    ///
    /// # Errors
    /// Those of move_mount(2).
    pub fn attach(&self, target: &Path) -> io::Result<()> {
        attach(self.root.as_fd(), target)
    }

    /// Changes all of its mounts.
    pub(crate) fn set_all(&self, attributes: &MountAttr) -> io::Result<()> {
        set_attributes(self.root.as_fd(), attributes, self.recursive)
    }
}

/// Changes a mount, with `below` those below it as well.
pub(crate) fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: &MountAttr,
    below: bool,
) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH.cast_unsigned() | if below { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is empty, and the structure, whose size is given, lives
    // until the return.
    done(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Mounts what is mounted nowhere yet at `target`.
pub(crate) fn attach(mount: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    let target = text(target)?;
    // SAFETY: both paths end with a zero and live until the return.
    done(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
    .map(drop)
}

fn text(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}
