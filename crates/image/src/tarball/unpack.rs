//! Unpacking into a directory, for layers and for `docker cp`.
//!
//! Be aware:
//! - Every parent is resolved by the kernel within the root; every entry is
//!   made by its single name in the parent's descriptor, without following
//!   links. There is no path that could lead elsewhere.
//! - What the archive may ask for is bounded by the reader; what it may make
//!   is decided here.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{
    FileStat, Mode, SFlag, UtimensatFlags, fchmod, futimens, makedev, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};
use sampan_sys::{inroot, xattr};

use super::reader::lossy;
use super::tree::{file_type, is_content_xattr, is_whiteout, look, set_opaque};
use super::{Entry, EntryKind, TarReader};
use crate::Limits;
use crate::archive::{ArchiveError, StandIn};

/// What differs between a layer and a copy into a container.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    /// The archive is a layer: `.wh.` names are marks of what is gone.
    pub layer: bool,
    /// An entry for the root itself sets the attributes of the directory.
    pub root: bool,
    /// Whom everything belongs to, instead of the archive's owners.
    pub owner: Option<(u32, u32)>,
    /// Refuse to replace a directory by something else, and the reverse.
    pub no_overwrite_dir_non_dir: bool,
    /// Who owns what would belong to somebody that can't be there.
    pub stand_in: Option<StandIn>,
}

/// What was unpacked.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Bytes of regular files.
    pub size: u64,
    /// The layer hides everything below it.
    pub opaque_root: bool,
    /// The archive has attributes for the root itself.
    pub has_root: bool,
}

/// The devices that every container has anyway. Others would be a way to the
/// host's hardware, and character device 0:0 is overlayfs' mark of absence.
const HARMLESS: [(u32, u32); 8] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const PRIVATE: &[u8] = b".wh..wh.";

/// Unpacks all entries of `reader` below `prefix` within `root`.
pub(crate) fn unpack<R: Read>(
    reader: &mut TarReader<R>,
    root: &OwnedFd,
    prefix: &Path,
    policy: Policy,
    limits: Limits,
) -> Result<Unpacked, ArchiveError> {
    let mut unpacker = Unpacker {
        root,
        prefix,
        policy,
        limits,
        parent: None,
        times: Vec::new(),
        buffer: vec![0; 128 << 10],
        done: Unpacked::default(),
    };
    while let Some(entry) = reader.next()? {
        unpacker.entry(&entry, reader)?;
    }
    unpacker.finish()
}

struct Unpacker<'a> {
    root: &'a OwnedFd,
    prefix: &'a Path,
    policy: Policy,
    limits: Limits,
    /// The directory of the last entry; archives go directory by directory.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Directories get their times last, because filling them changes these.
    times: Vec<(PathBuf, (i64, u32))>,
    buffer: Vec<u8>,
    done: Unpacked,
}

/// For `map_err`: a system call's failure on an entry.
fn failed<E: Into<io::Error>>(
    operation: &'static str,
    entry: &Entry,
) -> impl FnOnce(E) -> ArchiveError {
    let path = lossy(&entry.path);
    move |e| ArchiveError::from_io(operation, &path, e.into())
}

fn refused(entry: &Entry, reason: impl Into<String>) -> ArchiveError {
    ArchiveError::Refused { entry: lossy(&entry.path), reason: reason.into() }
}

impl Unpacker<'_> {
    fn entry<R: Read>(
        &mut self,
        entry: &Entry,
        data: &mut TarReader<R>,
    ) -> Result<(), ArchiveError> {
        let parts = self.parts(entry, &entry.path)?;
        let Some((name, parents)) = parts.split_last() else {
            return self.root_itself(entry);
        };
        let directory: PathBuf = parents.iter().map(|p| OsStr::from_bytes(p)).collect();
        // Taken out for the time of the entry, so that making it can forget it.
        let parent = self.enter(entry, &directory)?;
        let name = OsStr::from_bytes(name);
        let keep = if self.policy.layer && name.as_bytes().starts_with(WHITEOUT) {
            self.whiteout(entry, &parent, parents.is_empty(), name.as_bytes())?;
            true
        } else {
            let path = directory.join(name);
            self.make(entry, data, &parent, name, &path)?
        };
        if keep {
            self.parent = Some((directory, parent));
        }
        Ok(())
    }

    /// The parts of a path in the archive, without empty ones and dots.
    fn parts<'p>(&self, entry: &Entry, path: &'p [u8]) -> Result<Vec<&'p [u8]>, ArchiveError> {
        let parts: Vec<&[u8]> =
            path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".").collect();
        if parts.contains(&&b".."[..]) {
            return Err(refused(entry, "its path leads out of the archive"));
        }
        if parts.len() > self.limits.depth {
            return Err(refused(entry, "its path is too deep"));
        }
        Ok(parts)
    }

    /// The archive's own root: its attributes are those of a layer or a volume,
    /// but not of any directory that files are copied into.
    fn root_itself(&mut self, entry: &Entry) -> Result<(), ArchiveError> {
        if !self.policy.root {
            return Ok(());
        }
        if entry.kind != EntryKind::Directory {
            return Err(refused(entry, "the root can only be a directory"));
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let fd = inroot::open_in_root(self.root, self.prefix, flags, Mode::empty())
            .map_err(failed("open", entry))?;
        self.dress(entry, &File::from(fd))?;
        self.times.push((PathBuf::new(), entry.mtime));
        self.done.has_root = true;
        Ok(())
    }

    /// Opens the directory `path` of the archive; what is missing is made.
    fn enter(&mut self, entry: &Entry, path: &Path) -> Result<OwnedFd, ArchiveError> {
        if let Some((_, fd)) = self.parent.take_if(|(known, _)| known == path) {
            return Ok(fd);
        }
        match self.open_dir(path) {
            Ok(fd) => return Ok(fd),
            Err(e)
                if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(e) => return Err(ArchiveError::from_io("open", &lossy(&entry.path), e)),
        }
        let mut so_far = PathBuf::new();
        let mut fd = self.open_dir(&so_far).map_err(failed("open", entry))?;
        for part in path {
            so_far.push(part);
            fd = match self.open_dir(&so_far) {
                Ok(next) => next,
                Err(_) => self.make_parent(entry, &fd, part)?,
            };
        }
        Ok(fd)
    }

    fn open_dir(&self, path: &Path) -> io::Result<OwnedFd> {
        let path = self.prefix.join(path);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        inroot::open_in_root(self.root, &path, flags, Mode::empty())
    }

    /// A directory that the archive has no entry for.
    fn make_parent(
        &mut self,
        entry: &Entry,
        dir: &OwnedFd,
        name: &OsStr,
    ) -> Result<OwnedFd, ArchiveError> {
        let existing = look(dir, name).map_err(failed("examine", entry))?;
        let was_gone = existing.is_some_and(|(_, stat)| self.policy.layer && is_whiteout(&stat));
        if was_gone {
            remove(dir, name, None).map_err(failed("replace", entry))?;
        }
        match mkdirat(Some(dir.as_raw_fd()), name, Mode::from_bits_truncate(0o755)) {
            Ok(()) => {}
            Err(Errno::EEXIST) => {
                return Err(refused(
                    entry,
                    format!("{:?} is in its path and is not a directory", name),
                ));
            }
            Err(e) => return Err(failed("make the parent of", entry)(e)),
        }
        if was_gone {
            set_opaque(&inroot::fd_path(dir).join(name)).map_err(failed("mark", entry))?;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let fd = inroot::open_at(dir, name, flags, Mode::empty()).map_err(failed("open", entry))?;
        let (uid, gid) = self.owner((0, 0));
        fchown(fd.as_raw_fd(), uid, gid)
            .and_then(|()| fchmod(fd.as_raw_fd(), Mode::from_bits_truncate(0o755)))
            .map_err(failed("change", entry))?;
        Ok(fd)
    }

    /// Marks what is gone.
    fn whiteout(
        &mut self,
        entry: &Entry,
        parent: &OwnedFd,
        at_root: bool,
        name: &[u8],
    ) -> Result<(), ArchiveError> {
        if name == OPAQUE {
            self.done.opaque_root |= at_root;
            return set_opaque(&inroot::fd_path(parent).join(".")).map_err(failed("mark", entry));
        }
        if name.starts_with(PRIVATE) {
            // AUFS' own bookkeeping.
            return Ok(());
        }
        let name = OsStr::from_bytes(&name[WHITEOUT.len()..]);
        if !inroot::is_single_name(name) {
            return Err(refused(entry, "it marks nothing"));
        }
        match look(parent, name).map_err(failed("examine", entry))? {
            // This layer has put something else there. A directory hides what
            // the layers below have; other things do so anyway.
            Some((_, stat)) if file_type(&stat) == SFlag::S_IFDIR => {
                set_opaque(&inroot::fd_path(parent).join(name)).map_err(failed("mark", entry))
            }
            Some(_) => Ok(()),
            None => mknodat(Some(parent.as_raw_fd()), name, SFlag::S_IFCHR, Mode::empty(), 0)
                .map_err(failed("mark", entry)),
        }
    }

    /// Makes the entry; gives whether the parent's descriptor is still good to
    /// find it again by its path.
    fn make<R: Read>(
        &mut self,
        entry: &Entry,
        data: &mut TarReader<R>,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
    ) -> Result<bool, ArchiveError> {
        let existing = look(parent, name).map_err(failed("examine", entry))?;
        let (mut keep, mut merge, mut opaque) = (true, false, false);
        if let Some((_, stat)) = &existing {
            merge = self.may_replace(entry, stat)?;
            opaque = self.policy.layer && is_whiteout(stat);
            if !merge {
                keep = file_type(stat) != SFlag::S_IFDIR;
                if file_type(stat) == SFlag::S_IFREG && stat.st_nlink == 1 {
                    let size = u64::try_from(stat.st_size).unwrap_or(0);
                    self.done.size = self.done.size.saturating_sub(size);
                }
                remove(parent, name, Some(stat)).map_err(failed("replace", entry))?;
            }
        }
        match entry.kind {
            EntryKind::File => self.file(entry, data, parent, name)?,
            EntryKind::Directory => {
                if !merge {
                    mkdirat(Some(parent.as_raw_fd()), name, Mode::S_IRWXU)
                        .map_err(failed("make", entry))?;
                }
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
                let fd = inroot::open_at(parent, name, flags, Mode::empty())
                    .map_err(failed("open", entry))?;
                if opaque {
                    set_opaque(&inroot::fd_path(&fd).join(".")).map_err(failed("mark", entry))?;
                }
                self.dress(entry, &File::from(fd))?;
                self.times.push((path.to_owned(), entry.mtime));
            }
            EntryKind::HardLink => self.hard_link(entry, parent, name)?,
            EntryKind::Symlink => self.symlink(entry, parent, name, path)?,
            EntryKind::CharDevice | EntryKind::BlockDevice | EntryKind::Fifo => {
                self.node(entry, parent, name)?;
            }
        }
        Ok(keep)
    }

    /// Whether the entry goes into an existing directory; otherwise what is
    /// there has to go.
    fn may_replace(&self, entry: &Entry, there: &FileStat) -> Result<bool, ArchiveError> {
        let old = file_type(there) == SFlag::S_IFDIR;
        let new = entry.kind == EntryKind::Directory;
        if self.policy.no_overwrite_dir_non_dir && old != new {
            let word = |dir: bool| if dir { "directory" } else { "non-directory" };
            return Err(ArchiveError::Overwrite {
                existing: word(old),
                path: lossy(&entry.path),
                new: word(new),
            });
        }
        Ok(old && new)
    }

    fn file<R: Read>(
        &mut self,
        entry: &Entry,
        data: &mut TarReader<R>,
        parent: &OwnedFd,
        name: &OsStr,
    ) -> Result<(), ArchiveError> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let fd = inroot::open_at(parent, name, flags, Mode::from_bits_truncate(0o600))
            .map_err(failed("make", entry))?;
        let mut file = File::from(fd);
        match &entry.segments {
            None => self.copy(entry, data, &mut file, entry.size)?,
            Some(segments) => {
                for segment in segments {
                    file.seek(SeekFrom::Start(segment.offset)).map_err(failed("write", entry))?;
                    self.copy(entry, data, &mut file, segment.length)?;
                }
                file.set_len(entry.size).map_err(failed("write", entry))?;
            }
        }
        self.done.size += entry.size;
        self.dress(entry, &file)?;
        let time = time_spec(entry.mtime);
        futimens(file.as_raw_fd(), &time, &time).map_err(failed("set the time of", entry))
    }

    fn copy<R: Read>(
        &mut self,
        entry: &Entry,
        data: &mut TarReader<R>,
        file: &mut File,
        mut left: u64,
    ) -> Result<(), ArchiveError> {
        while left > 0 {
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let n = data
                .read(&mut self.buffer[..room])
                .map_err(|e| ArchiveError::from_io("read", &lossy(&entry.path), e))?;
            if n == 0 {
                return Err(ArchiveError::Malformed("it ends within an entry".into()));
            }
            file.write_all(&self.buffer[..n]).map_err(failed("write", entry))?;
            left -= n as u64;
        }
        Ok(())
    }

    /// Whose it becomes what the archive says is `given`'s.
    fn owner(&self, given: (u32, u32)) -> (Option<Uid>, Option<Gid>) {
        let wanted = self.policy.owner.unwrap_or(given);
        let (uid, gid) = self.policy.stand_in.map_or(wanted, |s| s.of(wanted));
        (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
    }

    /// Owner, mode and attributes, in the order in which none undoes another.
    fn dress(&self, entry: &Entry, file: &File) -> Result<(), ArchiveError> {
        let (uid, gid) = self.owner((entry.uid, entry.gid));
        let fd = file.as_raw_fd();
        fchown(fd, uid, gid).map_err(failed("set the owner of", entry))?;
        fchmod(fd, Mode::from_bits_truncate(entry.mode))
            .map_err(failed("set the mode of", entry))?;
        for (name, value) in &entry.xattrs {
            if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
                return Err(refused(
                    entry,
                    format!("it has the attribute {}, which is overlayfs' own", lossy(name)),
                ));
            }
            if !is_content_xattr(name) {
                continue;
            }
            match xattr::set_of(file, OsStr::from_bytes(name), value) {
                // The file system has none: the archive can't change that.
                Err(e) if e.raw_os_error() == Some(Errno::ENOTSUP as i32) => {}
                done => done.map_err(failed("set the attributes of", entry))?,
            }
        }
        Ok(())
    }

    fn hard_link(
        &mut self,
        entry: &Entry,
        parent: &OwnedFd,
        name: &OsStr,
    ) -> Result<(), ArchiveError> {
        let parts = self.parts(entry, &entry.link)?;
        let missing =
            || refused(entry, format!("it links to {:?}, which is not there", lossy(&entry.link)));
        let Some((target, parents)) = parts.split_last() else { return Err(missing()) };
        let directory: PathBuf = parents.iter().map(|p| OsStr::from_bytes(p)).collect();
        let from = self.open_dir(&directory).map_err(|_| missing())?;
        let target = OsStr::from_bytes(target);
        let (old, new) = (Some(from.as_raw_fd()), Some(parent.as_raw_fd()));
        match linkat(old, target, new, name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::ENOENT) => Err(missing()),
            Err(Errno::EPERM) => Err(refused(entry, "it links to a directory")),
            Err(e) => Err(failed("link", entry)(e)),
        }
    }

    fn symlink(
        &mut self,
        entry: &Entry,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), ArchiveError> {
        if self.policy.layer && climbs_out(path, &entry.link) {
            return Err(refused(
                entry,
                format!("it links to {:?}, outside of the image", lossy(&entry.link)),
            ));
        }
        let fd = Some(parent.as_raw_fd());
        symlinkat(OsStr::from_bytes(&entry.link), fd, name).map_err(failed("link", entry))?;
        self.dress_by_name(entry, parent, name)
    }

    fn node(&mut self, entry: &Entry, parent: &OwnedFd, name: &OsStr) -> Result<(), ArchiveError> {
        let (kind, device) = match entry.kind {
            EntryKind::Fifo => (SFlag::S_IFIFO, 0),
            EntryKind::CharDevice if HARMLESS.contains(&entry.device) => {
                (SFlag::S_IFCHR, makedev(u64::from(entry.device.0), u64::from(entry.device.1)))
            }
            _ => {
                let (major, minor) = entry.device;
                return Err(refused(
                    entry,
                    format!("device nodes ({major}:{minor}) are not allowed"),
                ));
            }
        };
        let fd = Some(parent.as_raw_fd());
        mknodat(fd, name, kind, Mode::S_IRUSR, device).map_err(failed("make", entry))?;
        self.dress_by_name(entry, parent, name)?;
        let node = inroot::open_at(parent, name, OFlag::O_PATH, Mode::empty())
            .map_err(failed("open", entry))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(entry.mode);
        std::fs::set_permissions(inroot::fd_path(&node), mode)
            .map_err(failed("set the mode of", entry))
    }

    /// Owner and time of what can't be opened.
    fn dress_by_name(
        &self,
        entry: &Entry,
        parent: &OwnedFd,
        name: &OsStr,
    ) -> Result<(), ArchiveError> {
        let (uid, gid) = self.owner((entry.uid, entry.gid));
        let (fd, time) = (Some(parent.as_raw_fd()), time_spec(entry.mtime));
        fchownat(fd, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(failed("set the owner of", entry))?;
        utimensat(fd, name, &time, &time, UtimensatFlags::NoFollowSymlink)
            .map_err(failed("set the time of", entry))
    }

    fn finish(self) -> Result<Unpacked, ArchiveError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        for (path, mtime) in self.times.iter().rev() {
            let path = self.prefix.join(path);
            match inroot::open_in_root(self.root, &path, flags, Mode::empty()) {
                Ok(fd) => {
                    let time = time_spec(*mtime);
                    futimens(fd.as_raw_fd(), &time, &time).map_err(|e| {
                        ArchiveError::from_io("set the time of", &path.to_string_lossy(), e.into())
                    })?;
                }
                // Something else took its place later in the archive.
                Err(_) => continue,
            }
        }
        Ok(self.done)
    }
}

/// Removes an entry of a directory, a directory with all that is in it.
fn remove(dir: &OwnedFd, name: &OsStr, stat: Option<&FileStat>) -> io::Result<()> {
    if stat.is_some_and(|s| file_type(s) == SFlag::S_IFDIR) {
        // Goes down by descriptors and follows no link.
        return std::fs::remove_dir_all(inroot::fd_path(dir).join(name));
    }
    Ok(unlinkat(Some(dir.as_raw_fd()), name, UnlinkatFlags::NoRemoveDir)?)
}

/// Whether a link at `path` with this target leads above the root.
fn climbs_out(path: &Path, target: &[u8]) -> bool {
    if target.starts_with(b"/") {
        return false;
    }
    let mut depth = path.components().count().saturating_sub(1);
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

fn time_spec((seconds, nanos): (i64, u32)) -> TimeSpec {
    TimeSpec::new(seconds, i64::from(nanos))
}
