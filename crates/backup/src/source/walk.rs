//! Goes through the directory: the entries of each in the order of their
//! names, a directory before what is in it.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustic_core::{ReadSourceEntry, RusticResult};
use rustix::fs::{self as rfs, AtFlags, Dir, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Content, Notes, node};
use crate::BackupError;
use crate::guard::Guard;

/// Directories nested deeper than this are left out: each level keeps one
/// descriptor, and what reads the backup goes as deep.
const MAX_DEPTH: usize = 1000;

type Entry = ReadSourceEntry<Content>;

/// The walk.
pub(crate) struct Walk {
    levels: Vec<Level>,
    /// The directory itself, before anything in it.
    root: Option<(Arc<OwnedFd>, PathBuf)>,
    /// As the entry's paths begin.
    shown: PathBuf,
    /// Where that is on this host, for notes.
    real: PathBuf,
    device: u64,
    guard: Arc<Guard>,
    notes: Arc<Notes>,
}

/// One directory that is being gone through.
struct Level {
    dir: Arc<OwnedFd>,
    /// The last name is the next.
    names: Vec<CString>,
    shown: PathBuf,
}

impl Walk {
    pub(super) fn new(
        root: Arc<OwnedFd>,
        real: &Path,
        shown: &Path,
        guard: Arc<Guard>,
        notes: Arc<Notes>,
    ) -> Self {
        Self {
            levels: Vec::new(),
            root: Some((root, shown.to_owned())),
            shown: shown.to_owned(),
            real: real.to_owned(),
            device: 0,
            guard,
            notes,
        }
    }

    /// Where an entry is on this host.
    fn real(&self, shown: &Path) -> PathBuf {
        shown.strip_prefix(&self.shown).map_or_else(|_| shown.to_owned(), |p| self.real.join(p))
    }

    /// Goes down into an open directory.
    fn enter(&mut self, dir: Arc<OwnedFd>, shown: &Path) {
        match names(&dir) {
            Ok(names) => self.levels.push(Level { dir, names, shown: shown.to_owned() }),
            Err(e) => self.notes.unreadable(&self.real(shown), &e),
        }
    }

    fn first(&mut self, dir: Arc<OwnedFd>, shown: PathBuf) -> RusticResult<Entry> {
        let found = rfs::fstat(&dir).map_err(io::Error::from).and_then(|stat| {
            let reach = PathBuf::from(format!("/proc/self/fd/{}/.", dir.as_raw_fd()));
            let name = shown.file_name().unwrap_or_default();
            Ok((stat.st_dev, node::node(name, &stat, &reach)?))
        });
        match found {
            Ok((device, node)) => {
                self.device = device;
                self.enter(dir, &shown);
                Ok(Entry { path: shown, node, open: None })
            }
            Err(e) => Err(self.guard.fail(BackupError::io("read", &self.real)(e))),
        }
    }

    /// One entry of the directory on top; `None` when it is left out.
    fn entry(&mut self, name: CString) -> Option<Entry> {
        let level = self.levels.last()?;
        let dir = Arc::clone(&level.dir);
        let os_name = OsStr::from_bytes(name.as_bytes());
        let path = level.shown.join(os_name);
        match self.look(&dir, &name, &path) {
            Ok(Some((stat, node))) => {
                let is_file = node::is_file(&stat);
                if !node.is_dir() {
                    self.guard.watch().file();
                    self.notes.files.fetch_add(1, Ordering::Relaxed);
                }
                let open = is_file.then(|| Content {
                    dir,
                    name,
                    path: self.real(&path),
                    size: node.meta.size,
                    inode: stat.st_ino,
                    notes: Arc::clone(&self.notes),
                });
                Some(Entry { path, node, open })
            }
            Ok(None) => None,
            // It vanished since it was listed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => {
                self.notes.unreadable(&self.real(&path), &e);
                None
            }
        }
    }

    fn look(
        &mut self,
        dir: &Arc<OwnedFd>,
        name: &CString,
        path: &Path,
    ) -> io::Result<Option<(Stat, rustic_core::repofile::Node)>> {
        let stat = rfs::statat(&**dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if stat.st_dev != self.device {
            let place = self.real(path);
            self.notes.note(format!("{}: another file system, left out", place.display()));
            return Ok(None);
        }
        let os_name = OsStr::from_bytes(name.as_bytes());
        if !node::is_dir(&stat) {
            let reach = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(os_name);
            return Ok(Some((stat, node::node(os_name, &stat, &reach)?)));
        }
        if self.levels.len() >= MAX_DEPTH {
            return Err(io::Error::other(format!(
                "directories deeper than {MAX_DEPTH} are left out"
            )));
        }
        let inside = Arc::new(open_dir(dir, name)?);
        // What was opened counts: it may have been exchanged.
        let stat = rfs::fstat(&inside)?;
        let reach = PathBuf::from(format!("/proc/self/fd/{}/.", inside.as_raw_fd()));
        let node = node::node(os_name, &stat, &reach)?;
        self.enter(inside, path);
        Ok(Some((stat, node)))
    }
}

impl Iterator for Walk {
    type Item = RusticResult<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some((dir, shown)) = self.root.take() {
            return Some(self.first(dir, shown));
        }
        loop {
            if self.guard.watch().is_cancelled() {
                // The snapshot is refused after this.
                _ = self.guard.fail(BackupError::Cancelled);
                return None;
            }
            let Some(name) = self.levels.last_mut()?.names.pop() else {
                self.levels.pop();
                continue;
            };
            if let Some(entry) = self.entry(name) {
                return Some(Ok(entry));
            }
        }
    }
}

fn open_dir(dir: &OwnedFd, name: &CString) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |more| rfs::openat(dir, name, flags | more, Mode::empty());
    match open(OFlags::NOATIME) {
        Err(Errno::PERM) => Ok(open(OFlags::empty())?),
        opened => Ok(opened?),
    }
}

/// The names in a directory, the last one first.
fn names(dir: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names)
}
