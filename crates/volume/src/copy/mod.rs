//! Copying a directory of an image into an empty volume.
//!
//! Be aware:
//! - The image is hostile input. The source is opened below the rootfs with
//!   `openat2(RESOLVE_IN_ROOT)`; from there on everything is reached through
//!   descriptors of directories, and no link is ever followed.
//! - Owner, mode, times, extended attributes and hard links are kept; devices,
//!   pipes and sockets are made anew.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    self as rfs, AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec,
    Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::VolumeError;

/// Directories nested deeper than this are refused: three descriptors are open
/// for each level.
const MAX_DEPTH: usize = 200;

/// Fills the directory `target`, when it is empty, with what is at `inside`
/// below `rootfs`, and gives it that directory's owner, mode and times. Does
/// nothing when the volume has content, or the image no such directory.
/// Blocks.
///
/// # Errors
/// Those of the file system, and [`VolumeError::TooDeep`].
pub fn copy_up(rootfs: &Path, inside: &Path, target: &Path) -> Result<(), VolumeError> {
    if !is_empty(target)? {
        return Ok(());
    }
    match open_inside(rootfs, inside)? {
        Some(source) => copy_from(&source, inside, target),
        None => Ok(()),
    }
}

/// Whether a directory holds nothing; a file system's own `lost+found` counts.
pub(crate) fn is_empty(dir: &Path) -> Result<bool, VolumeError> {
    let mut entries = std::fs::read_dir(dir).map_err(VolumeError::io("read", dir))?;
    Ok(entries.next().is_none())
}

/// Opens the directory `inside` below `rootfs`; `None` when there is none.
pub(crate) fn open_inside(rootfs: &Path, inside: &Path) -> Result<Option<OwnedFd>, VolumeError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = || {
        let root = rfs::open(rootfs, flags, Mode::empty())?;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rfs::openat2(&root, inside, flags, Mode::empty(), resolve)
    };
    match open() {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(VolumeError::io("open the image's", inside)(e.into())),
    }
}

/// Copies all of the directory `source`, which errors call `shown`, to the
/// empty directory `target`.
pub(crate) fn copy_from(source: &OwnedFd, shown: &Path, target: &Path) -> Result<(), VolumeError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rfs::open(target, flags, Mode::empty())
        .map_err(|e| VolumeError::io("open", target)(e.into()))?;
    let mut copy = Copy { root: root.as_fd(), links: HashMap::new(), path: PathBuf::new(), shown };
    copy.directory(source.as_fd(), root.as_fd(), 0)
}

/// One copy that is under way.
struct Copy<'a> {
    /// The volume's root.
    root: BorrowedFd<'a>,
    /// Where a file with several names was copied to first, below the root.
    links: HashMap<(u64, u64), PathBuf>,
    /// Where we are, below the root.
    path: PathBuf,
    /// The source's name in errors.
    shown: &'a Path,
}

impl Copy<'_> {
    fn failed(&self, operation: &'static str) -> impl FnOnce(Errno) -> VolumeError + use<> {
        let path = self.shown.join(&self.path);
        move |e| VolumeError::io(operation, path)(e.into())
    }

    fn directory(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        depth: usize,
    ) -> Result<(), VolumeError> {
        if depth > MAX_DEPTH {
            return Err(VolumeError::TooDeep { path: self.shown.join(&self.path) });
        }
        let entries = Dir::read_from(from).map_err(self.failed("read the image's"))?;
        for entry in entries {
            let entry = entry.map_err(self.failed("read the image's"))?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            self.path.push(std::ffi::OsStr::from_bytes(name.to_bytes()));
            self.entry(from, to, name, depth)?;
            self.path.pop();
        }
        // Last: what is made inside changes the times.
        let stat = rfs::fstat(from).map_err(self.failed("examine the image's"))?;
        copy_attributes(from, to, &stat).map_err(self.failed("copy the attributes of"))
    }

    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        depth: usize,
    ) -> Result<(), VolumeError> {
        let stat = rfs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(self.failed("examine the image's"))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let failed = self.failed("copy");
            let opened = (|| {
                let inner = rfs::openat(from, name, flags, Mode::empty())?;
                rfs::mkdirat(to, name, Mode::RWXU)?;
                Ok((inner, rfs::openat(to, name, flags, Mode::empty())?))
            })();
            let (inner, made) = opened.map_err(failed)?;
            return self.directory(inner.as_fd(), made.as_fd(), depth + 1);
        }
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key) {
                return rfs::linkat(self.root, first, to, name, AtFlags::empty())
                    .map_err(self.failed("link"));
            }
            self.links.insert(key, self.path.clone());
        }
        match kind {
            FileType::RegularFile => copy_file(from, to, name, &stat),
            FileType::Symlink => copy_symlink(from, to, name, &stat),
            _ => copy_node(to, name, kind, &stat),
        }
        .map_err(self.failed("copy"))
    }
}

fn copy_file(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
) -> Result<(), Errno> {
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut source = File::from(rfs::openat(from, name, read, Mode::empty())?);
    let mut target = File::from(rfs::openat(to, name, write, Mode::RUSR | Mode::WUSR)?);
    // Stays in the kernel: copy_file_range, sendfile.
    io::copy(&mut source, &mut target).map_err(errno)?;
    copy_attributes(source.as_fd(), target.as_fd(), stat)
}

fn copy_symlink(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
) -> Result<(), Errno> {
    let link = rfs::readlinkat(from, name, Vec::new())?;
    rfs::symlinkat(link.as_c_str(), to, name)?;
    set_owner_and_times(to, name, stat)
}

fn copy_node(to: BorrowedFd<'_>, name: &CStr, kind: FileType, stat: &Stat) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(stat.st_mode);
    rfs::mknodat(to, name, kind, mode, stat.st_rdev)?;
    set_owner_and_times(to, name, stat)?;
    // After the owner: a change of owner clears bits. The name can't be a link.
    rfs::chmodat(to, name, mode, AtFlags::empty())
}

fn set_owner_and_times(to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = owner(stat);
    rfs::chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    rfs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

/// Owner, extended attributes, mode, times: in this order, because a change
/// of owner clears capabilities and the set-user-id bit.
fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = owner(stat);
    rfs::fchown(to, uid, gid)?;
    copy_xattrs(from, to)?;
    rfs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    rfs::futimens(to, &times(stat))
}

fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut names = vec![0u8; 1024];
    let length = loop {
        match rfs::flistxattr(from, &mut names[..]) {
            Ok(length) => break length,
            Err(Errno::RANGE) if names.len() < 1 << 20 => names.resize(names.len() * 2, 0),
            Err(Errno::NOTSUP) => return Ok(()),
            Err(e) => return Err(e),
        }
    };
    for name in names[..length].split_inclusive(|b| *b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        // Overlay's own marks describe the layers, not the content.
        let bytes = name.to_bytes();
        if bytes.starts_with(b"trusted.overlay.") || bytes.starts_with(b"user.overlay.") {
            continue;
        }
        let mut value: Vec<MaybeUninit<u8>> = vec![MaybeUninit::uninit(); 1 << 16];
        let (value, _) = match rfs::fgetxattr(from, name, &mut value[..]) {
            Ok(parts) => parts,
            // Gone meanwhile, or not ours to read.
            Err(Errno::NODATA | Errno::NOTSUP) => continue,
            Err(e) => return Err(e),
        };
        match rfs::fsetxattr(to, name, value, XattrFlags::empty()) {
            // The volume's file system can't hold it: a tmpfs with user.*.
            Err(Errno::NOTSUP) => {}
            other => other?,
        }
    }
    Ok(())
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

fn errno(e: io::Error) -> Errno {
    e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}
