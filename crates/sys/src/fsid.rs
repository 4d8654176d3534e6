//! Making files in somebody else's name, by one thread (setfsuid(2)).
//!
//! Be aware:
//! - A mount with other owners takes no file of a user that has no counterpart
//!   in it, root not excepted: who makes files there has to be somebody else.
//! - The thread keeps all that root may do with files, so that nothing but the
//!   owner of what it makes changes.

use std::io;
use std::marker::PhantomData;

use linux_raw_sys::general::{__user_cap_data_struct, __user_cap_header_struct};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use crate::syscall::done;

/// `_LINUX_CAPABILITY_VERSION_3` (`linux/capability.h`): two words of each set.
const VERSION: u32 = 0x2008_0522;
/// No id: setfsuid(2) then only tells who it is.
const NOBODY: u32 = u32::MAX;

/// This thread makes files as somebody else; until it is dropped, on the same
/// thread.
#[derive(Debug)]
pub struct Acting {
    user: Uid,
    group: Gid,
    /// Of this thread alone.
    _thread: PhantomData<*mut ()>,
}

/// Lets this thread make files as `user` and `group`, with the rights that it
/// has.
///
/// # Errors
/// `PermissionDenied` without `CAP_SETUID` and `CAP_SETGID`.
pub fn act_as(user: u32, group: u32) -> io::Result<Acting> {
    let rights = rights()?;
    let dumpable = Dumpable::now()?;
    let acting = Acting {
        group: setfsgid(Gid::from_raw(group)),
        user: setfsuid(Uid::from_raw(user)),
        _thread: PhantomData,
    };
    let now = (setfsuid(Uid::from_raw(NOBODY)), setfsgid(Gid::from_raw(NOBODY)));
    if now != (Uid::from_raw(user), Gid::from_raw(group)) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    // Whoever is no longer root loses root's rights over files with it.
    set_rights(&rights)?;
    dumpable.restore()?;
    Ok(acting)
}

impl Drop for Acting {
    fn drop(&mut self) {
        let dumpable = Dumpable::now();
        setfsuid(self.user);
        setfsgid(self.group);
        // Nothing but core dumps depends on it.
        let _ = dumpable.and_then(|d| d.restore());
    }
}

/// Whether the process leaves core dumps; the kernel forgets it when a thread
/// acts as somebody else.
struct Dumpable(libc::c_int);

impl Dumpable {
    fn now() -> io::Result<Self> {
        // SAFETY: it takes no pointer.
        let found = unsafe { libc::prctl(libc::PR_GET_DUMPABLE) };
        done(found.into())?;
        Ok(Self(found))
    }

    fn restore(&self) -> io::Result<()> {
        // 2 can't be set, and comes from a setting of the host.
        if self.0 != 1 {
            return Ok(());
        }
        // SAFETY: it takes no pointer.
        done(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) }.into()).map(drop)
    }
}

type Rights = [__user_cap_data_struct; 2];

/// The capabilities of this thread.
fn rights() -> io::Result<Rights> {
    let mut header = __user_cap_header_struct { version: VERSION, pid: 0 };
    let mut sets = [__user_cap_data_struct { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: both live until the return; this version writes two of the latter.
    done(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) })?;
    Ok(sets)
}

fn set_rights(rights: &Rights) -> io::Result<()> {
    let mut header = __user_cap_header_struct { version: VERSION, pid: 0 };
    // SAFETY: both live until the return; this version reads two of the latter.
    done(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, rights.as_ptr()) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn files_are_made_in_another_name_with_all_rights() {
        if !Uid::effective().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let made = |name: &str| fs::write(dir.path().join(name), b"").unwrap();
        let owner = |name: &str| {
            let about = fs::metadata(dir.path().join(name)).unwrap();
            (about.uid(), about.gid())
        };
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let acting = act_as(999, 998).unwrap();
        // In a directory that only root may enter.
        made("theirs");
        std::os::unix::fs::chown(dir.path().join("theirs"), Some(5), Some(6)).unwrap();
        made("kept");
        drop(acting);
        made("ours");
        let ours = (Uid::effective().as_raw(), nix::unistd::Gid::effective().as_raw());
        assert_eq!([owner("theirs"), owner("kept"), owner("ours")], [(5, 6), (999, 998), ours]);
        assert_eq!(Dumpable::now().unwrap().0, 1);
    }
}
