//! The directory that is backed up.
//!
//! Be aware:
//! - Containers may write in it meanwhile, also to harm: everything is reached
//!   through descriptors of directories, and no link is followed.
//! - What vanishes between listing and reading is no fault; what can't be read
//!   is noted, and the rest is backed up.
//! - Other file systems that are mounted in it are left out, and noted.

mod node;
mod walk;

use std::fs::File;
use std::io::{self, Read, Take};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustic_core::{ErrorKind, ReadSource, ReadSourceOpen, RusticError, RusticResult};
use rustix::fs::{self as rfs, Mode, OFlags};
use rustix::io::Errno;

use crate::BackupError;
use crate::guard::Guard;

pub(crate) use node::unix_mode;

/// Notes beyond this number are counted alone.
const MOST_NOTES: usize = 100;

/// What is remarkable about the files.
#[derive(Default)]
pub(crate) struct Notes {
    list: Mutex<Vec<String>>,
    /// What could not be read.
    unreadable: AtomicU64,
    /// What was found and is no directory.
    files: AtomicU64,
    /// Those of them that can't be in the snapshot.
    missing: AtomicU64,
}

impl Notes {
    /// A file that is not in the backup, or not whole.
    fn unreadable(&self, path: &Path, error: &io::Error) {
        self.unreadable.fetch_add(1, Ordering::Relaxed);
        self.note(format!("{}: {error}", path.display()));
    }

    fn note(&self, text: String) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() < MOST_NOTES {
            list.push(text);
        }
    }

    /// How many files could not be read.
    pub(crate) fn count(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// The files that must be in the snapshot.
    pub(crate) fn complete_files(&self) -> u64 {
        let missing = self.missing.load(Ordering::Relaxed);
        self.files.load(Ordering::Relaxed).saturating_sub(missing)
    }

    /// The texts.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.list.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A directory as the library reads it: the directory itself appears as `/NAME`.
pub(crate) struct Tree {
    root: Arc<OwnedFd>,
    path: PathBuf,
    shown: PathBuf,
    guard: Arc<Guard>,
    notes: Arc<Notes>,
}

impl Tree {
    /// Opens the directory at `path`; in the backup it is `shown`, which has
    /// one component.
    pub(crate) fn open(
        path: &Path,
        shown: &Path,
        guard: Arc<Guard>,
        notes: Arc<Notes>,
    ) -> Result<Self, BackupError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rfs::open(path, flags, Mode::empty())
            .map_err(|e| BackupError::io("open", path)(e.into()))?;
        let (path, shown) = (path.to_owned(), shown.to_owned());
        Ok(Self { root: Arc::new(root), path, shown, guard, notes })
    }
}

impl ReadSource for Tree {
    type Open = Content;
    type Iter = walk::Walk;

    fn size(&self) -> RusticResult<Option<u64>> {
        Ok(None)
    }

    fn entries(&self) -> walk::Walk {
        walk::Walk::new(
            Arc::clone(&self.root),
            &self.path,
            &self.shown,
            Arc::clone(&self.guard),
            Arc::clone(&self.notes),
        )
    }
}

/// A regular file that is yet to be opened.
pub(crate) struct Content {
    dir: Arc<OwnedFd>,
    name: std::ffi::CString,
    path: PathBuf,
    size: u64,
    inode: u64,
    notes: Arc<Notes>,
}

impl ReadSourceOpen for Content {
    type Reader = Reading;

    fn open(self) -> RusticResult<Reading> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |more| rfs::openat(&*self.dir, &*self.name, flags | more, Mode::empty());
        // Reading leaves no trace where the file is ours.
        let opened = match open(OFlags::NOATIME) {
            Err(Errno::PERM) => open(OFlags::empty()),
            opened => opened,
        };
        let checked = opened.and_then(|fd| {
            let stat = rfs::fstat(&fd)?;
            let same = stat.st_ino == self.inode && node::is_file(&stat);
            if same { Ok(fd) } else { Err(Errno::NOENT) }
        });
        match checked {
            Ok(fd) => Ok(Reading {
                // What is written to its end meanwhile belongs to the next backup.
                file: File::from(fd).take(self.size),
                path: self.path,
                notes: self.notes,
            }),
            Err(errno) => {
                let error = io::Error::from(errno);
                self.notes.missing.fetch_add(1, Ordering::Relaxed);
                if errno != Errno::NOENT {
                    self.notes.unreadable(&self.path, &error);
                }
                Err(RusticError::with_source(
                    ErrorKind::InputOutput,
                    "a file can't be opened",
                    error,
                ))
            }
        }
    }
}

/// A regular file that is read.
pub(crate) struct Reading {
    file: Take<File>,
    path: PathBuf,
    notes: Arc<Notes>,
}

impl Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer);
        if let Err(error) = &read
            && error.kind() != io::ErrorKind::Interrupted
        {
            self.notes.missing.fetch_add(1, Ordering::Relaxed);
            self.notes.unreadable(&self.path, error);
        }
        read
    }
}
