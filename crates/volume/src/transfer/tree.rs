//! A tree of files that is reached through descriptors of its directories.
//!
//! Be aware: no link is followed and nothing above the root is reached,
//! whatever the paths say and whoever changes the tree meanwhile.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    self as rfs, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps,
    Uid, XattrFlags,
};
use rustix::io::Errno;

use super::format::{Entry, Node, Xattr, is_carried};

/// The kernel's bound on a value and on a list of names.
const LARGEST: usize = 1 << 16;
/// How much of a path the kernel is given at once.
const PIECE: usize = 4000;

/// A path below the root, which is empty itself, in two.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// A tree.
pub(super) struct Tree {
    root: OwnedFd,
    /// The directory that was used last.
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl Tree {
    pub(super) fn open(root: &Path) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self { root: rfs::open(root, flags, Mode::empty())?, last: None })
    }

    /// The directory at `path`.
    pub(super) fn dir(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>, Errno> {
        if path.is_empty() {
            return Ok(self.root.as_fd());
        }
        if self.last.as_ref().is_none_or(|(at, _)| at != path) {
            let found = open_below(self.root.as_fd(), path)?;
            self.last = Some((path.to_vec(), found));
        }
        self.last.as_ref().map(|(_, dir)| dir.as_fd()).ok_or(Errno::BADF)
    }

    /// Forgets what is open: it may be another one from now on.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// The directory that holds `path`, and its name there.
    pub(super) fn place(&mut self, path: &[u8]) -> Result<Place<'_>, Errno> {
        let (dir, name) = split(path);
        let name = if name.is_empty() { b"." } else { name };
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        Ok(Place { dir: self.dir(dir)?, name })
    }

    /// The names in the directory at `path`, sorted.
    pub(super) fn names(&mut self, path: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
        let mut names = Vec::new();
        for entry in rfs::Dir::read_from(self.dir(path)?)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

fn open_below(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let mut rest = path;
    let mut at: Option<OwnedFd> = None;
    loop {
        let length = if rest.len() <= PIECE {
            rest.len()
        } else {
            // Names are shorter than pieces.
            rest[..PIECE].iter().rposition(|b| *b == b'/').ok_or(Errno::NAMETOOLONG)?
        };
        let from = at.as_ref().map_or(root, AsFd::as_fd);
        let found = rfs::openat2(from, &rest[..length], flags, Mode::empty(), resolve)?;
        rest = rest.get(length + 1..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(found);
        }
        at = Some(found);
    }
}

/// Where an entry is: a name in a directory.
pub(super) struct Place<'a> {
    pub(super) dir: BorrowedFd<'a>,
    pub(super) name: CString,
}

impl Place<'_> {
    pub(super) fn stat(&self) -> Result<Stat, Errno> {
        rfs::statat(self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Holds the entry without opening it.
    pub(super) fn hold(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rfs::openat(self.dir, &self.name, flags, Mode::empty())
    }

    /// A path for calls that know no descriptors.
    pub(super) fn path(&self) -> Vec<u8> {
        let mut path = format!("/proc/self/fd/{}/", self.dir.as_raw_fd()).into_bytes();
        path.extend_from_slice(self.name.to_bytes());
        path
    }

    /// The extended attributes that are carried.
    pub(super) fn xattrs(&self) -> Result<Vec<Xattr>, Errno> {
        let path = self.path();
        let mut found = Vec::new();
        let mut value = vec![MaybeUninit::uninit(); LARGEST];
        for name in names_of(&path)? {
            if !is_carried(name.to_bytes()) {
                continue;
            }
            match rfs::lgetxattr(&path[..], &name, &mut value[..]) {
                Ok((value, _)) => found.push((name.into_bytes(), value.to_vec())),
                // Gone meanwhile, or not ours to read.
                Err(Errno::NODATA | Errno::NOTSUP | Errno::NOENT) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(found)
    }

    /// Gives the entry what `wanted` says: owner, extended attributes, mode,
    /// times, in this order, because a change of owner clears capabilities and
    /// the set-user-id bit. `was_there`: it may have attributes already.
    pub(super) fn give(&self, wanted: &Entry, was_there: bool) -> Result<(), Errno> {
        let (uid, gid) = (Uid::from_raw(wanted.uid), Gid::from_raw(wanted.gid));
        rfs::chownat(self.dir, &self.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        let path = self.path();
        if was_there {
            for name in names_of(&path)? {
                let wanted = wanted.xattrs.iter().any(|(n, _)| n[..] == *name.to_bytes());
                if wanted || !is_carried(name.to_bytes()) {
                    continue;
                }
                match rfs::lremovexattr(&path[..], &name) {
                    Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        for (name, value) in &wanted.xattrs {
            match rfs::lsetxattr(&path[..], &name[..], value, XattrFlags::empty()) {
                // The file system can't hold it: a tmpfs with user.*.
                Ok(()) | Err(Errno::NOTSUP) => {}
                Err(e) => return Err(e),
            }
        }
        if wanted.node != Node::Symlink {
            let mode = Mode::from_raw_mode(wanted.mode);
            rfs::chmodat(self.dir, &self.name, mode, AtFlags::empty())?;
        }
        self.set_mtime(wanted.mtime)
    }

    /// Sets when the content was changed last; leaves the time of access alone.
    pub(super) fn set_mtime(&self, (seconds, nanos): (i64, u32)) -> Result<(), Errno> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: rfs::UTIME_OMIT },
            last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos.into() },
        };
        rfs::utimensat(self.dir, &self.name, &times, AtFlags::SYMLINK_NOFOLLOW)
    }
}

fn names_of(path: &[u8]) -> Result<Vec<CString>, Errno> {
    let mut room = vec![MaybeUninit::uninit(); LARGEST];
    let names = match rfs::llistxattr(path, &mut room[..]) {
        Ok((names, _)) => &*names,
        // No attributes here; or the entry is gone.
        Err(Errno::NOTSUP | Errno::NOENT) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let names = names.split_inclusive(|b| *b == 0);
    Ok(names.filter_map(|n| CStr::from_bytes_with_nul(n).ok()).map(CStr::to_owned).collect())
}

/// Opens a regular file that is held for reading, and leaves its time of
/// access alone where that is allowed.
pub(super) fn read(held: &OwnedFd) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", held.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    match rfs::open(path.as_str(), flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rfs::open(path.as_str(), flags, Mode::empty()),
        other => other,
    }
}

/// What the kernel's word for a kind is here; `None` for what has no content
/// that could be sent.
pub(super) fn node(mode: u32) -> Option<Node> {
    Some(match FileType::from_raw_mode(mode) {
        FileType::RegularFile => Node::File,
        FileType::Directory => Node::Directory,
        FileType::Symlink => Node::Symlink,
        FileType::Fifo => Node::Fifo,
        FileType::Socket => Node::Socket,
        FileType::CharacterDevice => Node::Character,
        FileType::BlockDevice => Node::Block,
        FileType::Unknown => return None,
    })
}

/// Something below `root` that was changed after `nanos`; the root itself is
/// not looked at. What vanishes meanwhile was changed.
pub(super) fn changed_after(root: &Path, nanos: i128) -> Result<Option<Vec<u8>>, (Vec<u8>, Errno)> {
    let mut tree = Tree::open(root).map_err(|e| (Vec::new(), e))?;
    let mut rest = vec![Vec::new()];
    while let Some(dir) = rest.pop() {
        for name in tree.names(&dir).map_err(|e| (dir.clone(), e))? {
            let path = if dir.is_empty() { name } else { [&dir[..], b"/", &name].concat() };
            let stat = match tree.place(&path).and_then(|place| place.stat()) {
                Err(Errno::NOENT) => return Ok(Some(path)),
                found => found.map_err(|e| (path.clone(), e))?,
            };
            let changed =
                i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec);
            if changed > nanos {
                return Ok(Some(path));
            }
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                rest.push(path);
            }
        }
    }
    Ok(None)
}
