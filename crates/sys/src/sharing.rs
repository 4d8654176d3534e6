//! Which mounts tell each other what is mounted in them (mount_namespaces(7),
//! "Shared subtrees"), across namespaces.
//!
//! Be aware:
//! - A copy of a shared mount shares with it only while nobody made it private.
//!   Who wants a tree of private mounts, and some in it that share with the
//!   host's, gives these the host's group afterwards (`MOVE_MOUNT_SET_GROUP`,
//!   Linux 5.15).

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use crate::mount::unescape;
use crate::syscall::{done, owned};
use crate::tree::{self, MountAttr};

/// `MOVE_MOUNT_F_EMPTY_PATH`, `MOVE_MOUNT_T_EMPTY_PATH`, `MOVE_MOUNT_SET_GROUP`
/// (`linux/mount.h`).
const EMPTY_PATHS: libc::c_uint = 0x04 | 0x40;
const SET_GROUP: libc::c_uint = 0x100;

/// A directory or file with the mounts that it is in, and that are below it.
#[derive(Debug)]
pub struct Origin {
    /// The root of the mount that it is in.
    mount: OwnedFd,
    /// Itself.
    source: OwnedFd,
    /// Where other mounts are below it that have somebody to share with.
    below: Vec<PathBuf>,
}

/// The mount that a path is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Around {
    /// Where it is mounted.
    pub target: PathBuf,
    /// What is mounted here, others get, and the reverse.
    pub shared: bool,
    /// What is mounted elsewhere comes here.
    pub slave: bool,
}

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    id: u64,
    around: Around,
}

/// The mount that `path` is in.
///
/// # Errors
/// Those of the file system; `NotFound` when it is reachable by no mount of
/// this namespace.
pub fn around(path: &Path) -> io::Result<Around> {
    let source = std::fs::canonicalize(path)?;
    Ok(top(&source, table()?)?.0.around)
}

impl Origin {
    /// Looks at what is mounted around `path`, and with `recursive` below it.
    ///
    /// # Errors
    /// As [`around`].
    pub fn of(path: &Path, recursive: bool) -> io::Result<Self> {
        let path = std::fs::canonicalize(path)?;
        let (top, rest) = top(&path, table()?)?;
        let shares = |l: &Line| recursive && (l.around.shared || l.around.slave);
        let below = rest.iter().filter(|l| shares(l) && l.around.target != path);
        let below = below.filter_map(|l| l.around.target.strip_prefix(&path).ok());
        let below = below.map(Path::to_owned).collect();
        Ok(Self { mount: at(&top.around.target)?, source: at(&path)?, below })
    }

    /// Lets the private mount at `target`, which was made of this, share with
    /// those that this shares with, from whatever namespace; with `slave`, only
    /// get what they do. So do the mounts below, unless there is something else
    /// at their places.
    ///
    /// # Errors
    /// Those of move_mount(2): `InvalidInput` when `target` is no root of a
    /// mount, or one of something else than this.
    pub fn join(&self, target: &Path, slave: bool) -> io::Result<()> {
        join(&self.mount, &at(target)?, slave)?;
        for below in &self.below {
            let joined = at_in(&self.source, below)
                .and_then(|from| join(&from, &at(&target.join(below))?, slave));
            match joined.map_err(|e| (e.kind(), e)) {
                Ok(()) | Err((io::ErrorKind::InvalidInput | io::ErrorKind::NotFound, _)) => {}
                Err((_, e)) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Whether the kernel can do what [`Origin::join`] does.
#[must_use]
pub fn can_join() -> bool {
    // It looks at the flags before the descriptors.
    let tried = set_group(-1, -1);
    tried.is_err_and(|e| e.raw_os_error() == Some(libc::EBADF))
}

fn join(origin: &OwnedFd, mount: &OwnedFd, slave: bool) -> io::Result<()> {
    set_group(origin.as_raw_fd(), mount.as_raw_fd())?;
    if slave { make_slave(mount.as_fd()) } else { Ok(()) }
}

const LOOK: OFlag = OFlag::O_PATH.union(OFlag::O_CLOEXEC);

fn at(path: &Path) -> io::Result<OwnedFd> {
    owned(open(path, LOOK, Mode::empty())?.into())
}

/// As [`at`], within the mounts that `dir` is in.
fn at_in(dir: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    owned(openat(Some(dir.as_raw_fd()), path, LOOK | OFlag::O_NOFOLLOW, Mode::empty())?.into())
}

fn set_group(from: libc::c_int, to: libc::c_int) -> io::Result<()> {
    let (empty, flags) = (c"".as_ptr(), SET_GROUP | EMPTY_PATHS);
    // SAFETY: both paths are empty, and end with a zero.
    done(unsafe { libc::syscall(libc::SYS_move_mount, from, empty, to, empty, flags) }).map(drop)
}

fn make_slave(mount: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = MountAttr { propagation: libc::MS_SLAVE, ..MountAttr::default() };
    tree::set_attributes(mount, &attributes, false)
}

/// The kernel's number of the mount that a descriptor is on.
fn mount_id(fd: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: a structure of numbers, for which zero is a value.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is empty, and the structure lives until the return.
    let result = unsafe {
        libc::statx(
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_MNT_ID,
            &raw mut found,
        )
    };
    done(result.into())?;
    Ok(found.stx_mnt_id)
}

/// The line of the mount that `source` is in, and the others.
fn top(source: &Path, mut lines: Vec<Line>) -> io::Result<(Line, Vec<Line>)> {
    let id = mount_id(at(source)?.as_fd())?;
    let place = lines.iter().position(|l| l.id == id).ok_or(io::ErrorKind::NotFound)?;
    Ok((lines.swap_remove(place), lines))
}

fn table() -> io::Result<Vec<Line>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|b| *b == b'\n').filter_map(parse).collect())
}

fn parse(line: &[u8]) -> Option<Line> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let dash = fields.iter().position(|f| *f == b"-")?;
    let optional = fields.get(6..dash)?;
    let has = |word: &[u8]| optional.iter().any(|f| f.starts_with(word));
    Some(Line {
        id: std::str::from_utf8(fields.first()?).ok()?.parse().ok()?,
        around: Around {
            target: PathBuf::from(OsString::from_vec(unescape(fields.get(4)?))),
            shared: has(b"shared:"),
            slave: has(b"master:"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_who_shares() {
        let line = |optional: &str| {
            let text = format!("36 35 98:0 / /m\\0402 rw,noatime {optional}- ext3 /dev/x rw");
            let line = parse(text.as_bytes()).unwrap();
            assert_eq!((line.id, line.around.target.to_str()), (36, Some("/m 2")));
            (line.around.shared, line.around.slave)
        };
        assert_eq!(line(""), (false, false));
        assert_eq!(line("shared:4 "), (true, false));
        assert_eq!(line("shared:4 master:1 "), (true, true));
        assert_eq!(line("master:1 propagate_from:2 "), (false, true));
        assert!(parse(b"").is_none());
    }

    #[test]
    fn the_mount_around_a_path_is_found() {
        assert_eq!(around(Path::new("/proc/self")).unwrap().target, Path::new("/proc"));
        assert!(around(Path::new("/nowhere")).is_err());
    }
}
