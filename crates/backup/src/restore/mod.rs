//! Restoring a backup into an empty directory.
//!
//! Be aware:
//! - What is written is reached through descriptors of directories; names in a
//!   backup are single names, others are damage.
//! - Every piece is verified: it is authenticated when it is decrypted, and
//!   its digest is compared with its name. A damaged pack costs the files
//!   that have pieces in it; these are named, the rest is restored.
//! - Blocks of zeros become holes. So a sparse file stays one, and one that
//!   was filled with zeros becomes one.

mod content;
mod meta;

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use rustic_core::repofile::{Node, NodeType, SnapshotFile};
use rustic_core::{IndexedFullStatus, TreeId};
use rustix::fs::{self as rfs, AtFlags, FileType, Mode, OFlags};

use crate::BackupError;
use crate::guard::Guard;
use crate::progress::Watch;
use crate::repository::{Opened, Repository};
use crate::snapshot::{Snapshot, Wanted};

type Indexed = rustic_core::Repository<IndexedFullStatus>;

/// Files beyond this number are counted alone.
const MOST_NAMED: usize = 1000;

/// Directories nested deeper than this are damage: no backup of ours has them.
const MAX_DEPTH: usize = 1000;

/// Files that wait for their content.
const WAITING: usize = 64;

/// A file that could not be restored, or not whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Its path in the backup.
    pub path: PathBuf,
    /// The pack with the damage, when it is one.
    pub pack: Option<String>,
    /// What is wrong.
    pub reason: String,
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The backup.
    pub snapshot: Snapshot,
    /// Regular files that were written.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// What is missing or not whole. Missing pieces of a file are zeros.
    pub damaged: Vec<Damage>,
}

impl Repository {
    /// Restores a backup into the empty directory `target`, and gives that
    /// the owner, mode, times and attributes of the directory that was backed
    /// up.
    ///
    /// # Errors
    /// Those of the storage and the file system; a wrong secret; no such
    /// backup; [`BackupError::Cancelled`]. Damage is none.
    pub fn restore(
        &self,
        wanted: &Wanted,
        target: &Path,
        watch: &Watch,
    ) -> Result<Restored, BackupError> {
        let guard = self.guard(watch);
        let opened = self.open(&guard)?;
        let file = self.wanted(&opened, &guard, wanted)?;
        let snapshot = Snapshot::of(&file);
        watch.expect(snapshot.bytes);
        let indexed = Self::indexed(opened, &guard)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rfs::open(target, flags, Mode::empty())
            .map_err(|e| BackupError::io("open", target)(e.into()))?;
        let run = Run {
            indexed: &indexed,
            guard: &guard,
            target,
            damaged: Mutex::default(),
            stopped: Mutex::default(),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        };
        run.all(&file, root)?;
        let mut damaged = run.damaged.into_inner().unwrap_or_else(PoisonError::into_inner);
        damaged.sort_by(|a, b| a.path.cmp(&b.path));
        let (files, bytes) = (run.files.into_inner(), run.bytes.into_inner());
        Ok(Restored { snapshot, files, bytes, damaged })
    }

    /// Reads the index; where a part is damaged, the packs themselves say
    /// what they hold.
    fn indexed(opened: Opened, guard: &Guard) -> Result<Indexed, BackupError> {
        if Self::index_is_whole(&opened) {
            return opened.to_indexed().map_err(|e| guard.explain(&e));
        }
        for name in guard.hide_damaged_indexes()? {
            tracing::warn!(index = name, "a damaged index is read from the packs instead");
        }
        opened.to_indexed_checked().map_err(|e| guard.explain(&e))
    }
}

/// One restoring.
struct Run<'a> {
    indexed: &'a Indexed,
    guard: &'a Guard,
    target: &'a Path,
    damaged: Mutex<Vec<Damage>>,
    /// What ends it.
    stopped: Mutex<Option<BackupError>>,
    files: AtomicU64,
    bytes: AtomicU64,
}

/// A regular file that waits for its content.
struct Job {
    file: File,
    path: PathBuf,
    node: Node,
}

/// The first name of each file with several: device and inode on the host
/// that made the backup.
type Links = HashMap<(u64, u64), PathBuf>;

/// A directory that is being filled.
struct Place {
    dir: Arc<OwnedFd>,
    path: PathBuf,
}

impl Run<'_> {
    fn all(&self, file: &SnapshotFile, root: OwnedFd) -> Result<(), BackupError> {
        let (tree, node) = self.root_of(file)?;
        let place = Place { dir: Arc::new(root), path: PathBuf::new() };
        let workers = thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
        let walked = thread::scope(|scope| {
            let (send, receive) = mpsc::sync_channel::<Job>(WAITING);
            let receive = Arc::new(Mutex::new(receive));
            for _ in 0..workers {
                let receive = Arc::clone(&receive);
                scope.spawn(move || self.work(&receive));
            }
            let mut links = Links::new();
            // The workers end when `send` goes.
            let send = send;
            self.tree(tree, &place, 0, &mut links, &send)
        });
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner).take();
        match stopped.or_else(|| self.guard.take_failure()) {
            Some(error) => return Err(error),
            None => walked?,
        }
        if let Some(node) = node {
            let applied = meta::apply(&*place.dir, OsStr::new("."), &node);
            applied.map_err(BackupError::io("set the attributes of", self.target))?;
        }
        rfs::syncfs(&*place.dir).map_err(|e| BackupError::io("write", self.target)(e.into()))
    }

    /// The tree of the directory that was backed up, and its own entry.
    fn root_of(&self, file: &SnapshotFile) -> Result<(TreeId, Option<Node>), BackupError> {
        let mut tree = file.tree;
        let mut entry = None;
        let path = file.paths.iter().next().map(PathBuf::from).unwrap_or_default();
        for part in path.components() {
            let std::path::Component::Normal(name) = part else { continue };
            let found = self.indexed.get_tree(&tree).map_err(|e| self.guard.explain(&e))?;
            let Some(node) = found.nodes.into_iter().find(|n| n.name() == name) else { break };
            let Some(inner) = node.subtree else { break };
            tree = inner;
            entry = Some(node);
        }
        Ok((tree, entry))
    }

    fn alive(&self) -> Result<(), BackupError> {
        if self.guard.watch().is_cancelled() {
            return Err(BackupError::Cancelled);
        }
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        // What stopped it is reported in place of this.
        if stopped || self.guard.failed() { Err(BackupError::Cancelled) } else { Ok(()) }
    }

    fn tree(
        &self,
        tree: TreeId,
        place: &Place,
        depth: usize,
        links: &mut Links,
        send: &SyncSender<Job>,
    ) -> Result<(), BackupError> {
        if depth > MAX_DEPTH {
            self.damage(&place.path, None, "directories are nested too deep".to_owned());
            return Ok(());
        }
        let nodes = match self.indexed.get_tree(&tree) {
            Ok(tree) => tree.nodes,
            Err(error) => {
                self.alive()?;
                let reason = format!("what is in it is lost: {}", one_line(&error.display_log()));
                self.damage(&place.path, self.pack_of_tree(&tree), reason);
                return Ok(());
            }
        };
        for node in nodes {
            self.alive()?;
            self.entry(node, place, depth, links, send)?;
        }
        Ok(())
    }

    fn entry(
        &self,
        node: Node,
        place: &Place,
        depth: usize,
        links: &mut Links,
        send: &SyncSender<Job>,
    ) -> Result<(), BackupError> {
        let name = node.name().into_owned();
        let path = place.path.join(&name);
        if !sampan_sys::inroot::is_single_name(&name) {
            self.damage(&place.path, None, format!("an entry has the name {name:?}"));
            return Ok(());
        }
        let Ok(c_name) = CString::new(name.as_bytes()) else {
            self.damage(&place.path, None, format!("an entry has the name {name:?}"));
            return Ok(());
        };
        let failed = |operation: &'static str| BackupError::io(operation, self.target.join(&path));
        if node.meta.links > 1 && !node.is_dir() {
            let key = (node.meta.device_id, node.meta.inode);
            if let Some(first) = links.get(&key) {
                return self.link(first, place, &c_name).map_err(failed("link"));
            }
            links.insert(key, path.clone());
        }
        match &node.node_type {
            NodeType::Dir => {
                let inner = make_dir(&place.dir, &c_name).map_err(failed("make the directory"))?;
                let inner = Place { dir: Arc::new(inner), path };
                match node.subtree {
                    Some(tree) => self.tree(tree, &inner, depth + 1, links, send)?,
                    None => self.damage(&inner.path, None, "it has no tree".to_owned()),
                }
                meta::apply(&*inner.dir, OsStr::new("."), &node)
                    .map_err(BackupError::io("set the attributes of", inner.path))
            }
            NodeType::File => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let mode = Mode::RUSR | Mode::WUSR;
                let file = rfs::openat(&*place.dir, &*c_name, flags | OFlags::CLOEXEC, mode)
                    .map_err(|e| failed("make")(e.into()))?;
                self.guard.watch().file();
                let job = Job { file: file.into(), path, node };
                // All workers are gone only when something stopped them.
                send.send(job).map_err(|_| BackupError::Cancelled)
            }
            _ => {
                make_special(&place.dir, &c_name, &node).map_err(failed("make"))?;
                meta::apply(&*place.dir, &name, &node).map_err(failed("set the attributes of"))
            }
        }
    }

    /// Gives the file `first` another name.
    fn link(&self, first: &Path, place: &Place, name: &CString) -> io::Result<()> {
        let from = self.target.join(first);
        rfs::linkat(rfs::CWD, &from, &*place.dir, &**name, AtFlags::empty())?;
        Ok(())
    }

    fn damage(&self, path: &Path, pack: Option<String>, reason: String) {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        if damaged.len() < MOST_NAMED {
            damaged.push(Damage { path: path.to_owned(), pack, reason });
        }
    }

    fn stop(&self, error: BackupError) {
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        stopped.get_or_insert(error);
    }

    fn count(&self, bytes: u64) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn pack_of_tree(&self, tree: &TreeId) -> Option<String> {
        let entry = self.indexed.get_index_entry(tree).ok()?;
        Some(entry.pack.to_hex().as_str().to_owned())
    }
}

fn make_dir(dir: &OwnedFd, name: &CString) -> io::Result<OwnedFd> {
    rfs::mkdirat(dir, &**name, Mode::RWXU)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rfs::openat(dir, &**name, flags, Mode::empty())?)
}

fn make_special(dir: &OwnedFd, name: &CString, node: &Node) -> io::Result<()> {
    let (kind, device) = match node.node_type {
        NodeType::Symlink { .. } => {
            let target = node.node_type.to_link().as_os_str();
            return Ok(rfs::symlinkat(target, dir, &**name)?);
        }
        NodeType::Dev { device } => (FileType::BlockDevice, device),
        NodeType::Chardev { device } => (FileType::CharacterDevice, device),
        NodeType::Fifo => (FileType::Fifo, 0),
        NodeType::Socket => (FileType::Socket, 0),
        NodeType::Dir | NodeType::File => return Err(io::ErrorKind::InvalidInput.into()),
    };
    Ok(rfs::mknodat(dir, &**name, kind, Mode::RUSR | Mode::WUSR, device)?)
}

fn one_line(text: &str) -> String {
    text.strip_prefix("Error: ").unwrap_or(text).replace('\n', " ").trim().to_owned()
}
