//! Copying trees of files: an image's directory into an empty volume, a
//! volume into its clone.
//!
//! Be aware:
//! - The source is hostile: an image, or a volume in which containers write
//!   while it is copied. Everything is reached through descriptors of
//!   directories, no link is followed, only what was seen to be a regular file
//!   is opened, and what vanishes meanwhile is left out.
//! - Owner, mode, times, extended attributes (access lists and capabilities
//!   are such), holes and hard links are kept; devices, pipes and sockets are
//!   made anew. Content is shared between the copies where the file system
//!   can (`FICLONE`).
//! - A directory gets its attributes when all in it is done: what is made
//!   inside changes its times, and its default access list would change that.

mod attributes;
mod content;
mod entry;
mod node;
pub(crate) mod watch;
mod worker;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self as rfs, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use self::watch::Watch;
use crate::VolumeError;

/// How many threads copy at most. Two keep a small machine busy; more than
/// four only wait for the directory's and the journal's locks.
const MOST_THREADS: usize = 4;

/// Fills the directory `target`, when it is empty, with what is at `inside`
/// below `rootfs`, and gives it that directory's owner, mode and times. Does
/// nothing when the volume has content, or the image no such directory.
/// Blocks.
///
/// # Errors
/// Those of the file system.
pub fn copy_up(rootfs: &Path, inside: &Path, target: &Path) -> Result<(), VolumeError> {
    if !is_empty(target)? {
        return Ok(());
    }
    match open_inside(rootfs, inside)? {
        Some(source) => copy_from(&source, inside, target),
        None => Ok(()),
    }
}

/// Copies all of the directory `source` with its attributes to the empty
/// directory `target`. Blocks.
///
/// # Errors
/// Those of the file system, [`VolumeError::Full`] and, when `watch` says so,
/// [`VolumeError::Stopped`]. What was copied until then stays.
pub fn copy_tree(source: &Path, target: &Path, watch: &Watch) -> Result<(), VolumeError> {
    let from = open_dir(source)?;
    copy_with(&from, source, target, watch, threads())
}

/// As [`copy_tree`], with so many threads at most; for measurements.
///
/// # Errors
/// See [`copy_tree`].
#[doc(hidden)]
pub fn copy_tree_with(source: &Path, target: &Path, most: usize) -> Result<(), VolumeError> {
    let from = open_dir(source)?;
    copy_with(&from, source, target, &Watch::default(), most)
}

/// Copies the bytes of one file, shared where the file system can, to a new
/// one that only the owner may read. Blocks.
///
/// # Errors
/// As [`copy_tree`].
pub(crate) fn copy_file(from: &Path, to: &Path, watch: &Watch) -> Result<(), VolumeError> {
    let failed = |e: Errno| match e {
        Errno::NOSPC | Errno::DQUOT => VolumeError::Full { path: to.to_owned(), source: e.into() },
        e => VolumeError::io("copy", from)(e.into()),
    };
    let source =
        rfs::open(from, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let target = rfs::open(to, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    let stat = rfs::fstat(&source).map_err(failed)?;
    watch.set_total(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512));
    let mut buffer = vec![0; content::BUFFER];
    let mut copied = |bytes| {
        watch.add(bytes, 0);
        if watch.is_stopped() { Err(Errno::CANCELED) } else { Ok(()) }
    };
    let done = content::copy(
        source.as_fd(),
        target.as_fd(),
        &stat,
        &content::Reflink::default(),
        &mut buffer,
        &mut copied,
    );
    watch.check(to)?;
    done.map_err(failed)?;
    watch.add(0, 1);
    Ok(())
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
    copy_with(source, shown, target, &Watch::default(), threads())
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, MOST_THREADS)
}

fn copy_with(
    source: &OwnedFd,
    shown: &Path,
    target: &Path,
    watch: &Watch,
    threads: usize,
) -> Result<(), VolumeError> {
    let from = source.try_clone().map_err(VolumeError::io("open", shown))?;
    let to = open_dir(target)?;
    worker::run(from, to, &worker::Job { shown, watch, threads })
}

fn open_dir(path: &Path) -> Result<OwnedFd, VolumeError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rfs::open(path, flags, Mode::empty()).map_err(|e| VolumeError::io("open", path)(e.into()))
}

#[cfg(test)]
mod tests;
