//! Writing a tree as a stream: all of it, or what changed since another one.
//!
//! The walk goes along the index of what was sent before, which has the same
//! order, and writes the index of what is sent now. Neither is held in memory.
//!
//! Be aware:
//! - Containers may write meanwhile. What vanishes is left out; what changes
//!   while it is read is sent as it was read, and again the next time.
//! - A file with several names is sent by the first, the others as links. A
//!   link is sent again when its first name was not at the receiver as the
//!   same file before.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{self as rfs, Stat};
use rustix::io::Errno;

use super::content::{self, Piece, SendError};
use super::format::{Entry, FrameWriter, MOST, Node, PATH_MOST, kind, put_bytes};
use super::index::{IndexReader, IndexWriter, Item, Mark, is_below, order};
use super::tree::{self, Tree};
use super::{TransferError, index_damaged};
use crate::{VolumeError, Watch};

/// Writes the tree below `root`.
///
/// `base` is what was sent before, when only changes go; `index` takes what is
/// sent now. The last frame is still to be written.
pub(super) fn send_tree<W: Write>(
    root: &Path,
    output: &mut FrameWriter<W>,
    base: Option<IndexReader>,
    index: &mut IndexWriter,
    watch: &Watch,
) -> Result<(), VolumeError> {
    let tree = Tree::open(root).map_err(|e| VolumeError::io("open", root)(e.into()))?;
    let base = base.map(|reader| Base { reader, gone: None });
    let (links, buffer, path) = (HashMap::new(), Vec::new(), Vec::new());
    Sender { root, tree, output, base, index, watch, links, buffer, path }.run()
}

/// A file that has several names, where it was seen first.
struct First {
    path: Vec<u8>,
    /// Whether the receiver has had it under that name.
    kept: bool,
}

struct Sender<'a, W: Write> {
    root: &'a Path,
    tree: Tree,
    output: &'a mut FrameWriter<W>,
    base: Option<Base>,
    index: &'a mut IndexWriter,
    watch: &'a Watch,
    /// By device and inode.
    links: HashMap<(u64, u64), First>,
    buffer: Vec<u8>,
    /// Where the walk is.
    path: Vec<u8>,
}

/// An entry that is there.
struct Found {
    node: Node,
    stat: Stat,
    mark: Mark,
    unsure: bool,
    /// To open it; `None` when nothing about it changed.
    held: Option<OwnedFd>,
    /// What was sent under this name before.
    before: Option<Item>,
}

impl<W: Write> Sender<'_, W> {
    fn run(mut self) -> Result<(), VolumeError> {
        // The names in each directory that the walk is in, and how long the
        // directory's own path is.
        let mut levels = Vec::new();
        if self.visit()? {
            levels.push((0, self.names()?));
        }
        while let Some((length, names)) = levels.last_mut() {
            self.path.truncate(*length);
            let Some(name) = names.next() else {
                levels.pop();
                continue;
            };
            if *length > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(&name);
            if self.path.len() > PATH_MOST {
                return Err(self.too_large("its path is longer than 65535 bytes"));
            }
            self.watch.check(self.root)?;
            if self.visit()? {
                let names = self.names()?;
                levels.push((self.path.len(), names));
            }
        }
        self.removed(true)
    }

    /// The names in the directory where the walk is; none when it vanished.
    fn names(&mut self) -> Result<std::vec::IntoIter<Vec<u8>>, VolumeError> {
        match self.tree.names(&self.path) {
            Ok(names) => Ok(names.into_iter()),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(Vec::new().into_iter()),
            Err(e) => Err(self.failed("read")(e)),
        }
    }

    /// Sends the entry where the walk is; true when it is a directory.
    fn visit(&mut self) -> Result<bool, VolumeError> {
        let Some(found) = self.find()? else { return Ok(false) };
        if found.node == Node::Directory {
            self.directory(&found)?;
            return Ok(true);
        }
        if found.before.as_ref().is_some_and(|b| tree::node(b.mark.mode) == Some(Node::Directory)) {
            // It takes the place of a directory, whose content goes with it.
            self.gone();
        }
        let key = (found.stat.st_dev, found.stat.st_ino);
        if found.stat.st_nlink > 1
            && let Some(first) = self.links.get(&key)
        {
            let has_it = found.same_file() && first.kept;
            let to = first.path.clone();
            return self.link(&found, has_it, &to).map(|()| false);
        }
        let kept = match &found.held {
            None => true,
            Some(held) => match self.changed(&found, held)? {
                Some(kept) => kept,
                None => return Ok(false),
            },
        };
        if found.stat.st_nlink > 1 {
            self.links.insert(key, First { path: self.path.clone(), kept });
        }
        Ok(false)
    }

    /// Looks at the entry where the walk is, and for what was sent of it.
    fn find(&mut self) -> Result<Option<Found>, VolumeError> {
        let now = SystemTime::now();
        let Some(stat) = self.stat()? else { return Ok(None) };
        self.removed(false)?;
        let before = match &mut self.base {
            Some(base) => base.at(&self.path).map_err(index_damaged)?,
            None => None,
        };
        let mark = Mark::of(&stat);
        if let (Some(item), Some(node)) = (&before, tree::node(stat.st_mode))
            && item.mark == mark
            && !item.unsure
        {
            let Some(item) = before else { return Ok(None) };
            self.index.write(&item).map_err(VolumeError::io("write", "what is sent"))?;
            self.watch.add(0, 1);
            let (unsure, held) = (false, None);
            return Ok(Some(Found { node, stat, mark, unsure, held, before: Some(item) }));
        }
        self.hold(now, before)
    }

    fn stat(&mut self) -> Result<Option<Stat>, VolumeError> {
        let found = self.tree.place(&self.path).and_then(|place| place.stat());
        match found {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(e) => Err(self.failed("look at")(e)),
        }
    }

    /// Holds the entry, so that it stays the same while it is sent.
    fn hold(
        &mut self,
        now: SystemTime,
        before: Option<Item>,
    ) -> Result<Option<Found>, VolumeError> {
        let held = self.tree.place(&self.path).and_then(|place| {
            let held = place.hold()?;
            let stat = rfs::fstat(&held)?;
            Ok((held, stat))
        });
        let (held, stat) = match held {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                return self.vanished(before.is_some()).map(|()| None);
            }
            Err(e) => return Err(self.failed("open")(e)),
        };
        let Some(node) = tree::node(stat.st_mode) else {
            return self.vanished(before.is_some()).map(|()| None);
        };
        let mark = Mark::of(&stat);
        let unsure = mark.is_recent(now);
        Ok(Some(Found { node, stat, mark, unsure, held: Some(held), before }))
    }

    /// The entry went away after it was seen.
    fn vanished(&mut self, was_sent: bool) -> Result<(), VolumeError> {
        if was_sent {
            self.gone();
            let path = self.path.clone();
            self.write_path(kind::REMOVE, &path)?;
        }
        Ok(())
    }

    fn directory(&mut self, found: &Found) -> Result<(), VolumeError> {
        if found.held.is_none() {
            return Ok(());
        }
        let change = found.was(Node::Directory);
        let entry = self.entry(found, change, Vec::new())?;
        self.write_entry(&entry)?;
        self.watch.add(0, 1);
        self.note(found, false, Vec::new())
    }

    /// Sends another name of what was sent, unless the receiver has it.
    fn link(&mut self, found: &Found, has_it: bool, to: &[u8]) -> Result<(), VolumeError> {
        if !has_it {
            let mut payload = Vec::with_capacity(8 + self.path.len() + to.len());
            put_bytes(&mut payload, &self.path);
            put_bytes(&mut payload, to);
            self.output.write(kind::LINK, &[&payload]).map_err(self.unwritten())?;
        }
        if found.held.is_some() {
            self.watch.add(0, 1);
            return self.note(found, true, Vec::new());
        }
        Ok(())
    }

    /// Sends what is not a directory and changed, or is new. Gives whether the
    /// receiver had the same file; `None` when it vanished.
    fn changed(&mut self, found: &Found, held: &OwnedFd) -> Result<Option<bool>, VolumeError> {
        let mut target = Vec::new();
        if found.node == Node::Symlink {
            let read = rfs::readlinkat(held, c"", Vec::new()).map_err(self.failed("read"))?;
            target = read.into_bytes();
        }
        if found.node != Node::File {
            let entry = self.entry(found, false, target)?;
            self.write_entry(&entry)?;
            self.watch.add(0, 1);
            self.note(found, false, Vec::new())?;
            return Ok(Some(false));
        }
        let file = tree::read(held).map_err(self.failed("open"))?;
        // A file that shares its content with a name that is no longer its own
        // must not be changed in place.
        let base = found.before.as_ref().filter(|before| {
            found.was(Node::File)
                && !before.is_link
                && (before.nlink == 1 || before.mark.ino == found.mark.ino)
        });
        let entry = self.entry(found, base.is_some(), target)?;
        self.write_entry(&entry)?;
        let blocks = self.content(&file, found.mark.size, base)?;
        self.watch.add(0, 1);
        let kept = base.is_some() && found.same_file();
        self.note(found, false, blocks)?;
        Ok(Some(kept))
    }

    fn content(
        &mut self,
        file: &OwnedFd,
        size: u64,
        base: Option<&Item>,
    ) -> Result<Vec<(u64, super::index::Hash)>, VolumeError> {
        let (output, watch, root) = (&mut *self.output, self.watch, self.root);
        let mut send = |piece: Piece<'_>| {
            if watch.is_stopped() {
                return Err(SendError::Read(Errno::CANCELED));
            }
            match piece {
                Piece::Data { at, bytes } => {
                    watch.add(bytes.len() as u64, 0);
                    output.write(kind::DATA, &[&at.to_le_bytes(), bytes])
                }
                Piece::Hole { at, length } => {
                    output.write(kind::HOLE, &[&at.to_le_bytes(), &length.to_le_bytes()])
                }
            }
            .map_err(SendError::Write)
        };
        let base = base.map(|item| &item.blocks[..]);
        let done = content::compare(file.as_fd(), size, base, &mut self.buffer, &mut send);
        watch.check(root)?;
        done.map_err(|e| match e {
            SendError::Read(e) => self.failed("read")(e),
            SendError::Write(e) => self.unwritten()(e),
        })
    }

    /// The entry as it is sent.
    fn entry(
        &mut self,
        found: &Found,
        change: bool,
        target: Vec<u8>,
    ) -> Result<Entry, VolumeError> {
        let place = self.tree.place(&self.path);
        let xattrs = match place.and_then(|place| place.xattrs()) {
            Ok(xattrs) => xattrs,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Vec::new(),
            Err(e) => return Err(self.failed("read the attributes of")(e)),
        };
        let Mark { mode, uid, gid, size, rdev, mtime, .. } = found.mark;
        let is_device = matches!(found.node, Node::Character | Node::Block);
        Ok(Entry {
            path: self.path.clone(),
            node: found.node,
            change,
            mode: mode & 0o7777,
            uid,
            gid,
            size: if found.node == Node::File { size } else { 0 },
            mtime,
            rdev: if is_device { rdev } else { 0 },
            target,
            xattrs,
        })
    }

    fn write_entry(&mut self, entry: &Entry) -> Result<(), VolumeError> {
        let payload = entry.encode();
        if payload.len() > MOST {
            return Err(self.too_large("it has more extended attributes than fit in a frame"));
        }
        self.output.write(kind::ENTRY, &[&payload]).map_err(self.unwritten())
    }

    fn write_path(&mut self, kind: u8, path: &[u8]) -> Result<(), VolumeError> {
        let mut payload = Vec::with_capacity(4 + path.len());
        put_bytes(&mut payload, path);
        self.output.write(kind, &[&payload]).map_err(self.unwritten())
    }

    /// Notes what was sent.
    fn note(
        &mut self,
        found: &Found,
        is_link: bool,
        blocks: Vec<(u64, super::index::Hash)>,
    ) -> Result<(), VolumeError> {
        let item = Item {
            path: self.path.clone(),
            mark: found.mark,
            nlink: u32::try_from(found.stat.st_nlink).unwrap_or(u32::MAX),
            unsure: found.unsure,
            is_link,
            blocks,
        };
        self.index.write(&item).map_err(VolumeError::io("write", "what is sent"))
    }

    /// What was sent below where the walk is goes with it.
    fn gone(&mut self) {
        if let Some(base) = &mut self.base {
            base.gone = Some(self.path.clone());
        }
    }

    /// Sends what was sent before and is no longer there: before where the walk
    /// is, and when it is at its end, `all` that is left.
    fn removed(&mut self, all: bool) -> Result<(), VolumeError> {
        while let Some(base) = &mut self.base {
            let here = (!all).then_some(&self.path[..]);
            let Some(path) = base.removed_before(here).map_err(index_damaged)? else { break };
            self.write_path(kind::REMOVE, &path)?;
        }
        Ok(())
    }

    fn shown(&self) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        self.root.join(std::ffi::OsStr::from_bytes(&self.path))
    }

    fn failed(&self, operation: &'static str) -> impl FnOnce(Errno) -> VolumeError + use<W> {
        let path = self.shown();
        move |e| VolumeError::io(operation, path)(e.into())
    }

    fn unwritten(&self) -> impl FnOnce(std::io::Error) -> VolumeError + use<W> {
        VolumeError::io("send", self.root.to_owned())
    }

    fn too_large(&self, reason: &'static str) -> VolumeError {
        let path: String = self.shown().to_string_lossy().chars().take(200).collect();
        TransferError::TooLarge { path, reason }.into()
    }
}

impl Found {
    /// Whether what was sent under this name was one of these.
    fn was(&self, node: Node) -> bool {
        self.before.as_ref().is_some_and(|b| tree::node(b.mark.mode) == Some(node))
    }

    /// Whether what was sent under this name was this very file.
    fn same_file(&self) -> bool {
        self.was(self.node) && self.before.as_ref().is_some_and(|b| b.mark.ino == self.mark.ino)
    }
}

/// What was sent before, in the order of the walk.
struct Base {
    reader: IndexReader,
    /// A directory that was removed: what is below went with it.
    gone: Option<Vec<u8>>,
}

impl Base {
    fn removed_before(
        &mut self,
        here: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, super::format::ReadError> {
        while let Some(path) = self.reader.peek() {
            if here.is_some_and(|here| order(path, here).is_ge()) {
                return Ok(None);
            }
            let covered = self.gone.as_ref().is_some_and(|gone| is_below(path, gone));
            let Some(item) = self.reader.next()? else { return Ok(None) };
            if !covered {
                self.gone = Some(item.path.clone());
                return Ok(Some(item.path));
            }
        }
        Ok(None)
    }

    /// What was sent at this path.
    fn at(&mut self, path: &[u8]) -> Result<Option<Item>, super::format::ReadError> {
        if self.reader.peek() != Some(path) {
            return Ok(None);
        }
        let covered = self.gone.as_ref().is_some_and(|gone| is_below(path, gone));
        Ok(self.reader.next()?.filter(|_| !covered))
    }
}
