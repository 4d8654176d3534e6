//! Making a tree as a stream says.
//!
//! Be aware:
//! - The stream may be hostile: what it names is reached below the root only
//!   and through no link, what it makes is not followed, and what it says of
//!   sizes and places is checked against what it said before.
//! - A directory gets its attributes when the stream has left it. What is made
//!   or removed in one that the stream does not change leaves its times alone.
//! - Errors leave a tree that is half changed: the caller discards it.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self as rfs, AtFlags, FallocateFlags, FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use sampan_sys::file;

use super::format::{BLOCK, Entry, FrameReader, Node, Step};
use super::index::{Mark, is_below};
use super::tree::{self, Tree};
use super::{stream_damaged, unread};
use crate::{VolumeError, Watch};

/// Makes the tree below `root` as the frames say, up to the last one, whose
/// digest fits. `is_change`: the tree is what the stream builds on; otherwise
/// it is empty.
pub(super) fn receive_tree<R: Read>(
    root: &Path,
    frames: &mut FrameReader<R>,
    is_change: bool,
    watch: &Watch,
) -> Result<(), VolumeError> {
    let tree = Tree::open(root).map_err(|e| VolumeError::io("open", root)(e.into()))?;
    let mut receiver = Receiver { root, tree, is_change, watch, open: Vec::new(), file: None };
    let mut has_root = is_change;
    while let Some((kind, payload)) = frames.next().map_err(unread)? {
        watch.check(root)?;
        let step = Step::decode(kind, payload).map_err(unread)?;
        has_root |= matches!(&step, Step::Entry(entry) if entry.path.is_empty());
        if !has_root {
            return Err(stream_damaged("it begins with something else than the root"));
        }
        receiver.apply(step)?;
    }
    if !has_root {
        return Err(stream_damaged("it is empty"));
    }
    receiver.finish()?;
    receiver.leave(None)
}

struct Receiver<'a> {
    root: &'a Path,
    tree: Tree,
    is_change: bool,
    watch: &'a Watch,
    /// The directories that are still to get their attributes: each is below
    /// the one before.
    open: Vec<Open>,
    /// The file whose bytes are expected.
    file: Option<Current>,
}

struct Open {
    path: Vec<u8>,
    then: Then,
}

/// What a directory gets when the stream has left it.
enum Then {
    /// What the stream says.
    Become(Entry),
    /// The time that it had.
    Keep((i64, u32)),
}

struct Current {
    entry: Entry,
    file: OwnedFd,
}

impl Receiver<'_> {
    fn apply(&mut self, step: Step<'_>) -> Result<(), VolumeError> {
        match step {
            Step::Data { at, bytes } => return self.data(at, bytes),
            Step::Hole { at, length } => return self.hole(at, length),
            _ => self.finish()?,
        }
        match step {
            Step::Entry(entry) => {
                self.leave(Some(&entry.path))?;
                self.entry(entry)
            }
            Step::Link { path, to } => {
                self.leave(Some(path))?;
                self.link(path, to)
            }
            Step::Remove { path } if self.is_change => {
                self.leave(Some(path))?;
                self.clear(path)
            }
            _ => Err(stream_damaged("it removes something from what is new")),
        }
    }

    /// Gives those directories their attributes that `path` is not in.
    fn leave(&mut self, path: Option<&[u8]>) -> Result<(), VolumeError> {
        while let Some(Open { path, then }) =
            self.open.pop_if(|open| path.is_none_or(|path| !is_below(path, &open.path)))
        {
            let done = self.tree.place(&path).and_then(|place| match &then {
                Then::Become(entry) => place.give(entry, entry.change || path.is_empty()),
                Then::Keep(mtime) => place.set_mtime(*mtime),
            });
            done.map_err(|e| self.failed("change", &path, e))?;
        }
        Ok(())
    }

    /// The content of the directory that `path` is in is about to change.
    fn touch(&mut self, path: &[u8]) -> Result<(), VolumeError> {
        let (dir, _) = tree::split(path);
        if self.open.last().is_some_and(|open| open.path == dir) {
            return Ok(());
        }
        let stat = self.tree.place(dir).and_then(|place| place.stat());
        let stat = stat.map_err(|e| self.failed("look at", dir, e))?;
        self.open.push(Open { path: dir.to_vec(), then: Then::Keep(Mark::of(&stat).mtime) });
        Ok(())
    }

    /// Removes what is at `path`, if anything is.
    fn clear(&mut self, path: &[u8]) -> Result<(), VolumeError> {
        self.touch(path)?;
        if !self.is_change {
            return Ok(());
        }
        let place = self.tree.place(path).and_then(|place| {
            let stat = place.stat()?;
            Ok((place, stat))
        });
        let removed = match place {
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(self.failed("remove", path, e)),
            Ok((place, stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                file::remove_tree(Path::new(OsStr::from_bytes(&place.path())))
            }
            Ok((place, _)) => {
                rfs::unlinkat(place.dir, &place.name, AtFlags::empty()).map_err(Into::into)
            }
        };
        self.tree.forget();
        removed.map_err(VolumeError::io("remove", self.shown(path)))
    }

    fn entry(&mut self, entry: Entry) -> Result<(), VolumeError> {
        let is_root = entry.path.is_empty();
        let may_change = self.is_change && matches!(entry.node, Node::File | Node::Directory);
        if entry.change && !may_change {
            return Err(stream_damaged("it changes what can't be changed"));
        }
        if !entry.change && !is_root {
            self.clear(&entry.path)?;
        }
        match entry.node {
            Node::Directory => {
                let made = if is_root { Ok(()) } else { self.make_directory(&entry) };
                made.map_err(|e| self.failed("create", &entry.path, e))?;
                self.open.push(Open { path: entry.path.clone(), then: Then::Become(entry) });
                Ok(())
            }
            Node::File => {
                let file = self.open_file(&entry);
                let file = file.map_err(|e| self.failed("create", &entry.path, e))?;
                self.file = Some(Current { entry, file });
                Ok(())
            }
            _ => {
                let made = self.make_node(&entry);
                self.watch.add(0, 1);
                made.map_err(|e| self.failed("create", &entry.path, e))
            }
        }
    }

    fn make_directory(&mut self, entry: &Entry) -> Result<(), Errno> {
        let place = self.tree.place(&entry.path)?;
        if !entry.change {
            return rfs::mkdirat(place.dir, &place.name, Mode::RWXU);
        }
        match FileType::from_raw_mode(place.stat()?.st_mode) {
            FileType::Directory => Ok(()),
            _ => Err(Errno::NOTDIR),
        }
    }

    fn open_file(&mut self, entry: &Entry) -> Result<OwnedFd, Errno> {
        let place = self.tree.place(&entry.path)?;
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = if entry.change {
            // Opening a device could do anything.
            if FileType::from_raw_mode(place.stat()?.st_mode) != FileType::RegularFile {
                return Err(Errno::NOENT);
            }
            rfs::openat(place.dir, &place.name, flags, Mode::empty())?
        } else {
            let flags = flags | OFlags::CREATE | OFlags::EXCL;
            rfs::openat(place.dir, &place.name, flags, Mode::RUSR | Mode::WUSR)?
        };
        if entry.change || entry.size > 0 {
            rfs::ftruncate(&file, entry.size)?;
        }
        Ok(file)
    }

    fn make_node(&mut self, entry: &Entry) -> Result<(), Errno> {
        let place = self.tree.place(&entry.path)?;
        let kind = match entry.node {
            Node::Symlink => {
                rfs::symlinkat(&entry.target[..], place.dir, &place.name)?;
                return place.give(entry, false);
            }
            Node::Fifo => FileType::Fifo,
            Node::Socket => FileType::Socket,
            Node::Character => FileType::CharacterDevice,
            Node::Block => FileType::BlockDevice,
            Node::File | Node::Directory => return Err(Errno::INVAL),
        };
        rfs::mknodat(place.dir, &place.name, kind, Mode::RUSR | Mode::WUSR, entry.rdev)?;
        place.give(entry, false)
    }

    fn link(&mut self, path: &[u8], to: &[u8]) -> Result<(), VolumeError> {
        if path == to {
            return Err(stream_damaged("it links something to itself"));
        }
        self.clear(path)?;
        let linked = (|| {
            let first = self.tree.place(to)?;
            let (dir, name) =
                (first.dir.try_clone_to_owned().map_err(|_| Errno::MFILE)?, first.name);
            let place = self.tree.place(path)?;
            rfs::linkat(&dir, &name, place.dir, &place.name, AtFlags::empty())
        })();
        self.watch.add(0, 1);
        linked.map_err(|e| self.failed("link", path, e))
    }

    fn data(&mut self, at: u64, bytes: &[u8]) -> Result<(), VolumeError> {
        let Some(current) = &self.file else {
            return Err(stream_damaged("bytes without a file"));
        };
        check_range(at, bytes.len() as u64, &current.entry)?;
        write_all(&current.file, bytes, at)
            .map_err(|e| self.failed("write", &current.entry.path, e))?;
        self.watch.add(bytes.len() as u64, 0);
        Ok(())
    }

    fn hole(&mut self, at: u64, length: u64) -> Result<(), VolumeError> {
        let current = self.file.as_ref().filter(|current| current.entry.change && length > 0);
        let Some(current) = current else {
            return Err(stream_damaged("a hole in what has none"));
        };
        check_range(at, length, &current.entry)?;
        punch(&current.file, at, length).map_err(|e| self.failed("write", &current.entry.path, e))
    }

    /// The file that was written gets its attributes.
    fn finish(&mut self) -> Result<(), VolumeError> {
        let Some(Current { entry, file }) = self.file.take() else { return Ok(()) };
        drop(file);
        let given = self.tree.place(&entry.path).and_then(|p| p.give(&entry, entry.change));
        self.watch.add(0, 1);
        given.map_err(|e| self.failed("change", &entry.path, e))
    }

    fn shown(&self, path: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(path))
    }

    fn failed(&self, operation: &'static str, path: &[u8], e: Errno) -> VolumeError {
        let shown = || self.shown(path);
        match e {
            Errno::NOSPC | Errno::DQUOT => VolumeError::Full { path: shown(), source: e.into() },
            // What was there when it was sent is not here, or is something else.
            Errno::NOENT
            | Errno::NOTDIR
            | Errno::ISDIR
            | Errno::LOOP
            | Errno::XDEV
            | Errno::EXIST
            | Errno::FBIG
            | Errno::INVAL => {
                let path: String = String::from_utf8_lossy(path).chars().take(200).collect();
                stream_damaged(&format!("{path:?} does not fit what came before ({e})"))
            }
            e => VolumeError::io(operation, shown())(e.into()),
        }
    }
}

fn check_range(at: u64, length: u64, entry: &Entry) -> Result<(), VolumeError> {
    match at.checked_add(length) {
        Some(end) if end <= entry.size => Ok(()),
        _ => Err(stream_damaged("bytes behind the end of their file")),
    }
}

fn write_all(file: &OwnedFd, mut bytes: &[u8], mut at: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(file, bytes, at) {
            Ok(n) => {
                at += n as u64;
                bytes = &bytes[n..];
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Makes a hole; zeros where the file system can't.
fn punch(file: &OwnedFd, at: u64, length: u64) -> Result<(), Errno> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rfs::fallocate(file, flags, at, length) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        done => return done,
    }
    let zeros = vec![0; usize::try_from(BLOCK.min(length)).unwrap_or(0)];
    let (mut at, end) = (at, at + length);
    while at < end {
        // Where nothing is, nothing has to be written.
        match rfs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => at = data,
            Err(Errno::INVAL) => {}
            Err(Errno::NXIO) => return Ok(()),
            Err(e) => return Err(e),
        }
        if at < end {
            let part = usize::try_from(end - at).unwrap_or(usize::MAX).min(zeros.len());
            write_all(file, &zeros[..part], at)?;
            at += part as u64;
        }
    }
    Ok(())
}
