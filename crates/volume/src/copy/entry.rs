//! One entry of a directory that is not a directory.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{self as rfs, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::attributes::{self, Fresh, Scratch};
use super::content::{self, Reflink};
use super::node::{Node, Pair};
use super::watch::Watch;

/// Where files that have several names were copied to first. Locked while the
/// first one is made, so that whoever sees the second can link to it.
#[derive(Default)]
pub(super) struct Links(Mutex<HashMap<(u64, u64), First>>);

struct First {
    dir: Arc<Node>,
    name: CString,
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Copied,
    /// It was gone, or something else was in its place.
    Vanished,
    /// Somebody put a directory there.
    IsDirectory,
}

/// The buffers of one thread.
pub(super) struct Copier {
    pub(super) scratch: Scratch,
    fresh: Fresh,
    buffer: Vec<u8>,
}

/// An entry that is about to be copied.
struct Source<'a> {
    pair: &'a Pair,
    name: &'a CStr,
    kind: FileType,
    stat: Stat,
}

impl Copier {
    pub(super) fn new(fresh: Fresh) -> Self {
        Self { scratch: Scratch::new(), fresh, buffer: vec![0; content::BUFFER] }
    }

    /// Copies the entry `name`, of which the directory says that it is `kind`.
    pub(super) fn entry(
        &mut self,
        (node, pair): (&Arc<Node>, &Pair),
        name: &CStr,
        kind: FileType,
        links: &Links,
        reflink: &Reflink,
        watch: &Watch,
    ) -> Result<Outcome, Errno> {
        let (stat, file) = match look(pair.from(), name, kind) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::LOOP) => return Ok(Outcome::Vanished),
            Err(e) => return Err(e),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            return Ok(Outcome::IsDirectory);
        }
        let source = Source { pair, name, kind, stat };
        let made = if source.stat.st_nlink > 1 {
            links.link_or_make(node, &source)
        } else {
            source.make().map(Some)
        };
        let made = match made {
            Ok(Some(made)) => made,
            Ok(None) => {
                watch.add(0, 1);
                return Ok(Outcome::Copied);
            }
            // The link is gone; or it was renamed while the directory was
            // read, and shows twice.
            Err(Errno::NOENT | Errno::EXIST) => return Ok(Outcome::Vanished),
            Err(e) => return Err(e),
        };
        match (file, made) {
            (Some(file), Some(target)) => {
                let mut copied = |bytes| {
                    watch.add(bytes, 0);
                    if watch.is_stopped() { Err(Errno::CANCELED) } else { Ok(()) }
                };
                let (from, to) = (file.as_fd(), target.as_fd());
                content::copy(from, to, &source.stat, reflink, &mut self.buffer, &mut copied)?;
                // Where the group of what is made is the directory's, it is ours.
                let fresh = Some(&self.fresh).filter(|f| f.gid() == pair.gid());
                attributes::copy(from, to, &source.stat, fresh, &mut self.scratch)?;
            }
            _ => {
                let (from, to) = (pair.from(), pair.to());
                attributes::copy_at(from, to, name, &source.stat, &mut self.scratch)?;
            }
        }
        watch.add(0, 1);
        Ok(Outcome::Copied)
    }
}

/// What is at `name`, and, when it is a regular file, that file.
///
/// It is opened for reading only when it was seen to be one: opening a device
/// that a container put there meanwhile could do anything.
fn look(
    dir: BorrowedFd<'_>,
    name: &CStr,
    kind: FileType,
) -> Result<(Stat, Option<OwnedFd>), Errno> {
    if kind != FileType::RegularFile {
        let stat = rfs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok((stat, None));
        }
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rfs::openat(dir, name, flags, Mode::empty())?;
    let stat = rfs::fstat(&found)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok((stat, None));
    }
    Ok((stat, Some(read_only(&found)?)))
}

/// Opens what `found` stands for, and leaves its time of access alone where
/// that is allowed.
fn read_only(found: &OwnedFd) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    match rfs::open(path.as_str(), flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rfs::open(path.as_str(), flags, Mode::empty()),
        other => other,
    }
}

impl Source<'_> {
    /// Makes the copy, still empty; gives it when it can be written to.
    fn make(&self) -> Result<Option<OwnedFd>, Errno> {
        let to = self.pair.to();
        match self.kind {
            FileType::RegularFile => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let mode = Mode::from_raw_mode(self.stat.st_mode & 0o777);
                rfs::openat(to, self.name, flags, mode).map(Some)
            }
            FileType::Symlink => {
                let text = match rfs::readlinkat(self.pair.from(), self.name, Vec::new()) {
                    // It is no link any more.
                    Err(Errno::INVAL) => return Err(Errno::NOENT),
                    text => text?,
                };
                rfs::symlinkat(text.as_c_str(), to, self.name).map(|()| None)
            }
            kind => {
                let mode = Mode::RUSR | Mode::WUSR;
                rfs::mknodat(to, self.name, kind, mode, self.stat.st_rdev).map(|()| None)
            }
        }
    }
}

impl Links {
    /// Makes the copy of a file that has several names, or, when one of the
    /// others was there before, a link; `None` then.
    fn link_or_make(
        &self,
        node: &Arc<Node>,
        source: &Source<'_>,
    ) -> Result<Option<Option<OwnedFd>>, Errno> {
        let mut firsts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (source.stat.st_dev, source.stat.st_ino);
        let here = First { dir: Arc::clone(node), name: source.name.to_owned() };
        match firsts.entry(key) {
            Entry::Vacant(free) => {
                let made = source.make()?;
                free.insert(here);
                Ok(Some(made))
            }
            Entry::Occupied(mut first) => {
                let (to, name) = (source.pair.to(), source.name);
                // A directory that vanished from the source can't be reached
                // again: then this name gets a copy of its own.
                let linked = first.get().dir.pair().map_or(Err(Errno::NOENT), |dir| {
                    rfs::linkat(dir.to(), &first.get().name, to, name, AtFlags::empty())
                });
                match linked {
                    Ok(()) => Ok(None),
                    // As many links as the file system allows.
                    Err(Errno::MLINK | Errno::NOENT | Errno::XDEV) => {
                        let made = source.make()?;
                        first.insert(here);
                        Ok(Some(made))
                    }
                    Err(e) => Err(e),
                }
            }
        }
    }
}
