//! File trees to archives, and a look at the layers below a directory.
//!
//! Be aware:
//! - The tree may change while it is read, by a hostile container. Everything
//!   is opened without following links, relative to its directory's
//!   descriptor, and read through the descriptor that was examined.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, major, minor};
use nix::sys::statfs::{
    CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, FsType, PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs,
};
use sampan_sys::{inroot, xattr};

use super::{Entry, EntryKind, TarWriter};

/// Directories that can be open at once below each other.
const DEEPEST: usize = 900;

/// Overlayfs' mark of a directory that hides the ones below it.
const OPAQUE: &str = "trusted.overlay.opaque";

/// The type bits of a mode.
pub(crate) fn file_type(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Whether this is overlayfs' mark of something that is gone.
pub(crate) fn is_whiteout(stat: &FileStat) -> bool {
    file_type(stat) == SFlag::S_IFCHR && stat.st_rdev == 0
}

/// Whether the directory `fd` hides what is below it.
pub(crate) fn is_opaque(fd: &OwnedFd) -> io::Result<bool> {
    let value = xattr::get(&itself(fd), OsStr::new(OPAQUE))?;
    Ok(value.is_some_and(|v| v == b"y"))
}

/// Makes the directory at `path` hide what is below it.
pub(crate) fn set_opaque(path: &Path) -> io::Result<()> {
    xattr::set(path, OsStr::new(OPAQUE), b"y")
}

/// A path to the directory `fd` that `l…` calls act on.
fn itself(fd: &OwnedFd) -> PathBuf {
    inroot::fd_path(fd).join(".")
}

/// Which attributes are content. Others are the host's (labels, integrity) or
/// overlayfs' own, and never travel.
pub(crate) fn is_content_xattr(name: &[u8]) -> bool {
    name == b"security.capability"
        || name.starts_with(b"system.posix_acl_")
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

/// Opens an entry of a directory itself, whatever it is, for looking.
pub(crate) fn look(dir: &OwnedFd, name: &OsStr) -> io::Result<Option<(OwnedFd, FileStat)>> {
    match inroot::open_at(dir, name, OFlag::O_PATH, Mode::empty()) {
        Ok(fd) => {
            let stat = fstat(fd.as_raw_fd())?;
            Ok(Some((fd, stat)))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The names in the directory `fd`, sorted.
pub(crate) fn visit_names(fd: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = std::fs::read_dir(inroot::fd_path(fd))?
        .map(|entry| entry.map(|e| e.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

/// The directories of several layers that make up one directory, topmost first.
#[derive(Debug, Default)]
pub(crate) struct Layers(Vec<OwnedFd>);

/// What layers have at a name.
pub(crate) enum Below {
    Nothing,
    Directory(Layers, FileStat),
    Other,
}

impl Layers {
    /// The roots of layers, topmost first.
    pub(crate) fn open(roots: &[PathBuf]) -> io::Result<Self> {
        roots.iter().map(|r| inroot::open_root(r)).collect::<io::Result<_>>().map(Self)
    }

    /// The topmost directory itself.
    pub(crate) fn topmost(&self) -> io::Result<Option<OwnedFd>> {
        self.0.first().map(OwnedFd::try_clone).transpose()
    }

    /// What they have at `name` together, as overlayfs would show it.
    pub(crate) fn child(&self, name: &OsStr) -> io::Result<Below> {
        let (mut found, mut topmost) = (Vec::new(), None);
        for dir in &self.0 {
            let Some((fd, stat)) = look(dir, name)? else { continue };
            if is_whiteout(&stat) {
                break;
            }
            if file_type(&stat) != SFlag::S_IFDIR {
                if found.is_empty() {
                    return Ok(Below::Other);
                }
                break;
            }
            let opaque = is_opaque(&fd)?;
            topmost.get_or_insert(stat);
            found.push(fd);
            if opaque {
                break;
            }
        }
        Ok(topmost.map_or(Below::Nothing, |stat| Below::Directory(Self(found), stat)))
    }

    /// The names that they have together, without those that are gone.
    pub(crate) fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for dir in &self.0 {
            names.extend(visit_names(dir)?);
        }
        names.sort_unstable();
        names.dedup();
        let mut visible = Vec::new();
        for name in names {
            if !matches!(self.child(&name)?, Below::Nothing) {
                visible.push(name);
            }
        }
        Ok(visible)
    }
}

/// Writes file trees into an archive.
pub(crate) struct TreeWriter<W> {
    tar: TarWriter<W>,
    /// Where files with several names are in the archive.
    links: HashMap<(u64, u64), Vec<u8>>,
    entries: u64,
}

/// A directory on the way down.
struct Level {
    fd: OwnedFd,
    path: Vec<u8>,
    device: u64,
    names: std::vec::IntoIter<OsString>,
}

impl<W: Write> TreeWriter<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { tar: TarWriter::new(out), links: HashMap::new(), entries: 0 }
    }

    /// How many entries were written.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    pub(crate) fn finish(self) -> io::Result<W> {
        self.tar.finish()
    }

    /// What `fd` is open on, with all that is below a directory, as `path`.
    pub(crate) fn tree(&mut self, fd: OwnedFd, path: &[u8]) -> io::Result<()> {
        let stat = fstat(fd.as_raw_fd())?;
        self.item(&fd, &stat, path, true)?;
        if file_type(&stat) == SFlag::S_IFDIR { self.content(fd, path) } else { Ok(()) }
    }

    /// What is below the directory `fd`, as below `path`.
    pub(crate) fn content(&mut self, fd: OwnedFd, path: &[u8]) -> io::Result<()> {
        let stat = fstat(fd.as_raw_fd())?;
        let mut levels = vec![Level::open(fd, path.to_vec(), stat.st_dev)?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next() else {
                levels.pop();
                continue;
            };
            // What is gone by now is not there.
            let Some((fd, stat)) = look(&level.fd, &name)? else { continue };
            let path = join(&level.path, &name);
            let device = level.device;
            self.item(&fd, &stat, &path, true)?;
            if file_type(&stat) == SFlag::S_IFDIR
                && (stat.st_dev == device || !is_kernels_own(&fd)?)
            {
                if levels.len() == DEEPEST {
                    return Err(io::Error::other(format!(
                        "{}: more than {DEEPEST} directories deep",
                        String::from_utf8_lossy(&path)
                    )));
                }
                levels.push(Level::open(fd, path, stat.st_dev)?);
            }
        }
        Ok(())
    }

    /// What `fd` is open on (with `O_PATH`), without what is below it.
    /// `links`: write a file's further names as hard links.
    pub(crate) fn item(
        &mut self,
        fd: &OwnedFd,
        stat: &FileStat,
        path: &[u8],
        links: bool,
    ) -> io::Result<()> {
        let kind = match file_type(stat) {
            SFlag::S_IFREG => EntryKind::File,
            SFlag::S_IFDIR => EntryKind::Directory,
            SFlag::S_IFLNK => EntryKind::Symlink,
            SFlag::S_IFCHR => EntryKind::CharDevice,
            SFlag::S_IFBLK => EntryKind::BlockDevice,
            SFlag::S_IFIFO => EntryKind::Fifo,
            // Sockets mean nothing without the process behind them.
            _ => return Ok(()),
        };
        self.entries += 1;
        let mut entry = Entry::new(path.to_vec(), kind);
        entry.mode = stat.st_mode & 0o7777;
        (entry.uid, entry.gid) = (stat.st_uid, stat.st_gid);
        // Whole seconds, as Docker's archives have.
        entry.mtime = (stat.st_mtime, 0);
        match kind {
            EntryKind::Directory => {
                if !entry.path.ends_with(b"/") {
                    entry.path.push(b'/');
                }
                entry.xattrs = content_xattrs(&itself(fd))?;
            }
            EntryKind::Symlink => {
                entry.link = readlinkat(Some(fd.as_raw_fd()), "")?.as_bytes().to_vec();
            }
            EntryKind::CharDevice | EntryKind::BlockDevice => {
                let part = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
                entry.device = (part(major(stat.st_rdev)), part(minor(stat.st_rdev)));
            }
            EntryKind::File => return self.file(fd, stat, entry, links),
            _ => {}
        }
        self.tar.append(&entry, &mut io::empty())
    }

    fn file(
        &mut self,
        fd: &OwnedFd,
        stat: &FileStat,
        mut entry: Entry,
        links: bool,
    ) -> io::Result<()> {
        if links && stat.st_nlink > 1 {
            let first = self.links.entry((stat.st_dev, stat.st_ino));
            match first {
                std::collections::hash_map::Entry::Occupied(first) => {
                    entry.kind = EntryKind::HardLink;
                    entry.link.clone_from(first.get());
                    return self.tar.append(&entry, &mut io::empty());
                }
                std::collections::hash_map::Entry::Vacant(vacant) => {
                    vacant.insert(entry.path.clone());
                }
            }
        }
        // The very file that was examined, which is a regular one.
        let mut file = inroot::reopen(fd, false)?;
        entry.size = u64::try_from(stat.st_size).unwrap_or(0);
        entry.xattrs = file_xattrs(&file)?;
        self.tar.append(&entry, &mut file)
    }

    /// A mark that `name` in the directory `dir` (a path in the archive) is gone.
    pub(crate) fn whiteout(&mut self, dir: &[u8], name: &OsStr) -> io::Result<()> {
        let marked = [b".wh.", name.as_bytes()].concat();
        self.entries += 1;
        let entry = Entry::new(join(dir, OsStr::from_bytes(&marked)), EntryKind::File);
        self.tar.append(&entry, &mut io::empty())
    }
}

impl Level {
    fn open(fd: OwnedFd, path: Vec<u8>, device: u64) -> io::Result<Self> {
        let names = visit_names(&fd)?.into_iter();
        Ok(Self { fd, path, device, names })
    }
}

/// `path/name`, and `name` in the unnamed root.
pub(crate) fn join(path: &[u8], name: &OsStr) -> Vec<u8> {
    let mut joined = path.to_vec();
    if !joined.is_empty() && !joined.ends_with(b"/") {
        joined.push(b'/');
    }
    joined.extend_from_slice(name.as_bytes());
    joined
}

/// Whether the directory is of a file system that the kernel makes up.
fn is_kernels_own(fd: &OwnedFd) -> io::Result<bool> {
    const DEVPTS_MAGIC: FsType = FsType(0x1cd1);
    let kind = fstatfs(fd)?.filesystem_type();
    Ok([PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, DEVPTS_MAGIC]
        .contains(&kind))
}

fn content_xattrs(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut found = Vec::new();
    for name in xattr::list(path)? {
        if is_content_xattr(name.as_bytes())
            && let Some(value) = xattr::get(path, &name)?
        {
            found.push((name.as_bytes().to_vec(), value));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn file_xattrs(file: &std::fs::File) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut found = Vec::new();
    for name in xattr::list_of(file)? {
        if is_content_xattr(name.as_bytes())
            && let Some(value) = xattr::get_of(file, &name)?
        {
            found.push((name.as_bytes().to_vec(), value));
        }
    }
    found.sort_unstable();
    Ok(found)
}
