//! Idmapped mounts: the same files with other owners (mount_setattr(2),
//! `MOUNT_ATTR_IDMAP`; `Documentation/filesystems/idmappings.rst`).
//!
//! Be aware: an id that has no counterpart is shown as nobody's, and nothing
//! can be made in its name.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use crate::syscall::done;
use crate::tree::{MountAttr, Tree};

/// The highest id there is, and one more.
const IDS: u64 = 0xffff_ffff;

/// `MOUNT_ATTR_IDMAP` (`linux/mount.h`).
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// One id that is shown as another; all others stay what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swap {
    /// As the file system has it.
    pub stored: u32,
    /// As it is shown. The stored id of that number is shown as nobody.
    pub shown: u32,
}

impl Swap {
    /// The lines of a `uid_map`: stored id, shown id, how many.
    fn map(self) -> String {
        let (stored, shown) = (u64::from(self.stored), u64::from(self.shown));
        let (low, high) = (stored.min(shown), stored.max(shown));
        let mut lines = format!("{stored} {shown} 1\n");
        let mut same = |from: u64, to: u64| {
            if from < to {
                lines.push_str(&format!("{from} {from} {}\n", to - from));
            }
        };
        same(0, low);
        same(low + 1, high);
        same(high + 1, IDS);
        lines
    }
}

/// Mounts `source` at `target` with other owners, with everything below it
/// when `recursive`.
///
/// # Errors
/// Those of clone(2), open_tree(2), mount_setattr(2) and move_mount(2):
/// `InvalidInput` when the file system can't.
pub fn bind(
    source: &Path,
    target: &Path,
    recursive: bool,
    users: Swap,
    groups: Swap,
) -> io::Result<()> {
    let userns = user_namespace(&users.map(), &groups.map())?;
    let tree = Tree::of(source, recursive)?;
    tree.set_all(&MountAttr {
        set: MOUNT_ATTR_IDMAP,
        userns: u64::try_from(userns.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?,
        ..MountAttr::default()
    })?;
    tree.attach(target)
}

/// A process that does nothing but have a user namespace. It ends when this is
/// dropped, or with the thread that made it.
struct Holder(libc::pid_t);

impl Drop for Holder {
    fn drop(&mut self) {
        // SAFETY: the child is ours and not waited for yet, so that the number
        // is no other process's.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

/// A user namespace with these maps.
fn user_namespace(users: &str, groups: &str) -> io::Result<OwnedFd> {
    let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
    // SAFETY: without a stack of its own the child goes on as after fork(2). It
    // makes system calls only, which need nothing that another thread of this
    // process may have held.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if child == 0 {
        // SAFETY: neither takes a pointer, nor comes back to code of ours.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            loop {
                libc::pause();
            }
        }
    }
    done(child)?;
    let child = libc::pid_t::try_from(child).map_err(|_| io::ErrorKind::InvalidData)?;
    let _holder = Holder(child);
    std::fs::write(format!("/proc/{child}/uid_map"), users)?;
    std::fs::write(format!("/proc/{child}/gid_map"), groups)?;
    Ok(File::open(format!("/proc/{child}/ns/user"))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_leave_all_others_alone() {
        let map = |stored, shown| Swap { stored, shown }.map();
        assert_eq!(map(1000, 0), "1000 0 1\n1 1 999\n1001 1001 4294966294\n");
        assert_eq!(map(0, 999), "0 999 1\n1 1 998\n1000 1000 4294966295\n");
        assert_eq!(map(5, 5), "5 5 1\n0 0 5\n6 6 4294967289\n");
        assert_eq!(map(7, 6), "7 6 1\n0 0 6\n8 8 4294967287\n");
    }
}
