//! The directories of a copy that are not finished yet.
//!
//! Be aware: trees may be deeper than a process may have descriptors. Deep
//! directories are closed between two uses and reached again from the nearest
//! open one above.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{self as rfs, Mode, OFlags};
use rustix::io::Errno;

/// Directories down to this depth stay open until they are finished.
const NEAR: usize = 64;
/// Further down one in so many levels does.
const ANCHOR: usize = 64;

/// A directory of the source, and its copy.
pub(super) struct Pair {
    from: OwnedFd,
    to: OwnedFd,
    /// Which directory of the source it is, so that another one that takes its
    /// place is noticed.
    id: (u64, u64),
    /// The group of the copy while it is made.
    gid: u32,
}

impl Pair {
    pub(super) fn new(from: OwnedFd, to: OwnedFd) -> Result<Self, Errno> {
        let stat = rfs::fstat(&from)?;
        let gid = rfs::fstat(&to)?.st_gid;
        Ok(Self { from, to, id: (stat.st_dev, stat.st_ino), gid })
    }

    /// With a copy that somebody else has made, and may have given a default
    /// access list: then nothing is known of what is made in it.
    pub(super) fn given(from: OwnedFd, to: OwnedFd) -> Result<Self, Errno> {
        let mut pair = Self::new(from, to)?;
        let list = rfs::fgetxattr(&pair.to, "system.posix_acl_default", &mut [0u8; 0]);
        if !matches!(list, Err(Errno::NODATA | Errno::NOTSUP)) {
            pair.gid = u32::MAX;
        }
        Ok(pair)
    }

    pub(super) fn gid(&self) -> u32 {
        self.gid
    }

    pub(super) fn from(&self) -> BorrowedFd<'_> {
        self.from.as_fd()
    }

    pub(super) fn to(&self) -> BorrowedFd<'_> {
        self.to.as_fd()
    }
}

/// A directory that is not finished.
pub(super) struct Node {
    /// `None` for the root.
    parent: Option<Arc<Node>>,
    name: CString,
    depth: usize,
    /// What it waits for before it gets its attributes: being read, and each
    /// thing in it that is copied by somebody else.
    pending: AtomicUsize,
    /// Locked for a look.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: Option<Arc<Pair>>,
    /// See [`Pair::id`]; known from the first opening on.
    id: Option<(u64, u64)>,
}

/// Why a directory could not be opened.
#[derive(Debug)]
pub(super) enum OpenError {
    /// It is not in the source any more.
    Vanished,
    /// Anything else.
    Failed(Errno),
}

impl Node {
    pub(super) fn root(pair: Pair) -> Arc<Self> {
        let state = State { id: Some(pair.id), open: Some(Arc::new(pair)) };
        Arc::new(Self {
            parent: None,
            name: CString::default(),
            depth: 0,
            pending: AtomicUsize::new(1),
            state: Mutex::new(state),
        })
    }

    /// A directory in `parent`, which waits for it from now on.
    pub(super) fn child(parent: &Arc<Self>, name: CString) -> Arc<Self> {
        parent.wait_for_one();
        Arc::new(Self {
            parent: Some(Arc::clone(parent)),
            name,
            depth: parent.depth + 1,
            pending: AtomicUsize::new(1),
            state: Mutex::default(),
        })
    }

    pub(super) fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    pub(super) fn wait_for_one(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    /// One thing less to wait for; true when it was the last.
    pub(super) fn one_done(&self) -> bool {
        // Everybody else's work happened before what the last one does.
        self.pending.fetch_sub(1, Ordering::AcqRel) == 1
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the source's directory and makes its copy.
    pub(super) fn make(&self) -> Result<Arc<Pair>, OpenError> {
        let Some(parent) = &self.parent else { return self.pair() };
        let above = parent.pair()?;
        let from = open_source(above.from(), &self.name)?;
        rfs::mkdirat(above.to(), &self.name, Mode::RWXU).map_err(|e| match e {
            // It was renamed while the directory was read, and shows twice.
            Errno::EXIST => OpenError::Vanished,
            e => OpenError::Failed(e),
        })?;
        let to = open_dir(above.to(), &self.name).map_err(OpenError::Failed)?;
        let pair = Arc::new(Pair::new(from, to).map_err(OpenError::Failed)?);
        let mut state = self.state();
        state.id = Some(pair.id);
        if self.depth < NEAR || self.depth.is_multiple_of(ANCHOR) {
            state.open = Some(pair.clone());
        }
        Ok(pair)
    }

    /// The directory that was made before; opened again when it was closed.
    pub(super) fn pair(&self) -> Result<Arc<Pair>, OpenError> {
        if let Some(open) = self.state().open.clone() {
            return Ok(open);
        }
        // Upwards to one that is open, then down again.
        let mut way = vec![self];
        let mut at = self;
        let mut pair = loop {
            let Some(parent) = &at.parent else {
                // The root is closed last.
                return Err(OpenError::Failed(Errno::BADF));
            };
            at = parent;
            if let Some(open) = at.state().open.clone() {
                break open;
            }
            way.push(at);
        };
        for node in way.into_iter().rev() {
            // It was gone when it should have been made, whatever is there now.
            let Some(id) = node.state().id else { return Err(OpenError::Vanished) };
            let from = open_source(pair.from(), &node.name)?;
            let to = open_dir(pair.to(), &node.name).map_err(OpenError::Failed)?;
            pair = Arc::new(Pair::new(from, to).map_err(OpenError::Failed)?);
            if id != pair.id {
                return Err(OpenError::Vanished);
            }
        }
        Ok(pair)
    }

    /// It is finished.
    pub(super) fn close(&self) {
        if self.parent.is_some() {
            self.state().open = None;
        }
    }

    /// Where it is below the root.
    pub(super) fn path(&self) -> PathBuf {
        let mut parts = Vec::new();
        let mut at = self;
        while let Some(parent) = &at.parent {
            parts.push(OsStr::from_bytes(at.name.to_bytes()));
            at = parent;
        }
        parts.into_iter().rev().collect()
    }

    /// Where the entry `name` of it is, below `root`.
    pub(super) fn path_of(&self, root: &Path, name: &CStr) -> PathBuf {
        root.join(self.path()).join(OsStr::from_bytes(name.to_bytes()))
    }
}

impl Drop for Node {
    /// Without recursion: a chain may be longer than the stack.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(node) = next {
            next = Arc::into_inner(node).and_then(|mut node| node.parent.take());
        }
    }
}

fn open_source(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, OpenError> {
    open_dir(dir, name).map_err(|e| match e {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => OpenError::Vanished,
        e => OpenError::Failed(e),
    })
}

fn open_dir(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rfs::openat(dir, name, flags, Mode::empty())
}
