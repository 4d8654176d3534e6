//! What stands between the library and the storage.
//!
//! The library reads and writes through this, which
//! - ends everything soon after a cancellation,
//! - remembers the first failure of the storage (the library goes on after
//!   some) and stores no snapshot after one: a snapshot is complete,
//! - hides index files that are damaged, so that the rest can be restored,
//! - keeps index files while packs are adopted that an interrupted backup
//!   left: another host may have written them meanwhile,
//! - reads ahead in packs of a remote storage.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustic_core::{
    BytesList, ErrorKind, FileType, Id, ReadBackend, RusticError, RusticResult, WriteBackend,
};
use sampan_sys::allocator::BusyMemory;
use sha2::{Digest, Sha256};

use crate::BackupError;
use crate::progress::Watch;
use crate::store::Store;

/// How much of a pack is fetched at once from a remote storage.
const AHEAD: u64 = 4 << 20;

/// Packs of which something is kept in memory.
const WINDOWS: usize = 16;

/// One operation on a repository.
pub(crate) struct Guard {
    store: Arc<dyn Store>,
    watch: Watch,
    failure: Mutex<Option<BackupError>>,
    adopting: AtomicBool,
    written: AtomicU64,
    hidden: Mutex<BTreeSet<Id>>,
    windows: Mutex<Windows>,
    /// The library compresses each piece with buffers of a megabyte of its own.
    _memory: BusyMemory,
}

/// A part of a pack, and where it begins.
type Window = Option<(u64, Bytes)>;

/// What was read ahead: of each pack one part. The oldest goes first.
#[derive(Default)]
struct Windows {
    of: BTreeMap<Id, Arc<Mutex<Window>>>,
    order: std::collections::VecDeque<Id>,
}

impl Guard {
    pub(crate) fn new(store: Arc<dyn Store>, watch: Watch) -> Arc<Self> {
        Arc::new(Self {
            store,
            watch,
            failure: Mutex::default(),
            adopting: AtomicBool::new(false),
            written: AtomicU64::new(0),
            hidden: Mutex::default(),
            windows: Mutex::default(),
            _memory: BusyMemory::begin(),
        })
    }

    pub(crate) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Bytes that were written into the repository.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// From now on no index file is removed, until it is unset.
    pub(crate) fn set_adopting(&self, adopting: bool) {
        self.adopting.store(adopting, Ordering::Relaxed);
    }

    /// What really went wrong when the library says that something did.
    pub(crate) fn explain(&self, error: &RusticError) -> BackupError {
        self.take_failure().unwrap_or_else(|| BackupError::library(self.store.location(), error))
    }

    /// The first failure, once.
    pub(crate) fn take_failure(&self) -> Option<BackupError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Lets the operation end with this error, unless it failed before.
    pub(crate) fn fail(&self, error: BackupError) -> Box<RusticError> {
        let shown = RusticError::new(ErrorKind::Backend, error.to_string());
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        shown
    }

    /// Whether the operation must end.
    pub(crate) fn failed(&self) -> bool {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn alive(&self) -> RusticResult<()> {
        if self.watch.is_cancelled() { Err(self.fail(BackupError::Cancelled)) } else { Ok(()) }
    }

    fn checked<T>(&self, result: Result<T, BackupError>) -> RusticResult<T> {
        result.map_err(|error| self.fail(error))
    }

    /// Reads the index files and hides those whose content isn't what their
    /// name says. The names of these.
    ///
    /// # Errors
    /// When the storage can't be listed.
    pub(crate) fn hide_damaged_indexes(&self) -> Result<Vec<String>, BackupError> {
        let mut damaged = Vec::new();
        for file in self.store.list(FileType::Index.dirname())? {
            let Some(id) = Id::parse_some(&file.name, FileType::Index) else { continue };
            let content = self.store.read(&path_of(FileType::Index, &id));
            let whole = content.is_ok_and(|c| is_named_after(&c, &file.name));
            if !whole {
                self.hidden.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
                damaged.push(file.name);
            }
        }
        Ok(damaged)
    }

    /// A file that is damaged or missing is its reader's concern; a storage
    /// that can't be reached ends the operation.
    fn judge(&self, path: &str, error: BackupError) -> Box<RusticError> {
        let reached = !self.store.is_remote() || error.is_absent();
        if reached || self.store.size(path).is_ok() {
            return RusticError::new(ErrorKind::Backend, error.to_string());
        }
        self.fail(error)
    }

    fn ahead(&self, id: &Id, path: &str, offset: u64, length: u64) -> Result<Bytes, BackupError> {
        let window = {
            let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
            if !windows.of.contains_key(id) {
                if windows.order.len() >= WINDOWS
                    && let Some(oldest) = windows.order.pop_front()
                {
                    windows.of.remove(&oldest);
                }
                windows.order.push_back(*id);
            }
            Arc::clone(windows.of.entry(*id).or_default())
        };
        let mut window = window.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((start, bytes)) = &*window
            && let Some(from) = offset.checked_sub(*start).and_then(|n| usize::try_from(n).ok())
            && let Some(to) = usize::try_from(length).ok().and_then(|n| from.checked_add(n))
            && to <= bytes.len()
        {
            return Ok(bytes.slice(from..to));
        }
        let size = self.store.size(path)?.unwrap_or(0);
        let wanted = length.max(AHEAD.min(size.saturating_sub(offset)));
        let bytes = self.store.read_range(path, offset, wanted)?;
        let end = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
        let part = bytes.slice(..end);
        *window = Some((offset, bytes));
        Ok(part)
    }
}

/// Whether the content's digest is its file's name.
pub(crate) fn is_named_after(content: &[u8], name: &str) -> bool {
    let digest = Sha256::digest(content);
    let hex = digest.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    hex.map(|n| char::from_digit(n.into(), 16)).eq(name.chars().map(Some))
}

/// Where a file of the repository is.
pub(crate) fn path_of(kind: FileType, id: &Id) -> String {
    let hex = id.to_hex();
    let hex = hex.as_str();
    match kind {
        FileType::Config => "config".to_owned(),
        FileType::Pack => format!("data/{}/{hex}", &hex[..2]),
        other => format!("{}/{hex}", other.dirname()),
    }
}

/// The guard as the library knows it.
#[derive(Clone)]
pub(crate) struct Backend(pub(crate) Arc<Guard>);

impl ReadBackend for Backend {
    fn location(&self) -> String {
        self.0.store.location().to_owned()
    }

    fn list_with_size(&self, kind: FileType) -> RusticResult<Vec<(Id, u32)>> {
        let guard = &self.0;
        guard.alive()?;
        let narrow = |size: u64| u32::try_from(size).unwrap_or(u32::MAX);
        if kind == FileType::Config {
            let size = guard.checked(guard.store.size("config"))?;
            return Ok(size.map(|size| (Id::default(), narrow(size))).into_iter().collect());
        }
        let files = guard.checked(guard.store.list(kind.dirname()))?;
        let hidden = guard.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        let known = files
            .into_iter()
            .filter_map(|file| Some((Id::parse_some(&file.name, kind)?, narrow(file.size))));
        Ok(known.filter(|(id, _)| kind != FileType::Index || !hidden.contains(id)).collect())
    }

    fn read_full(&self, kind: FileType, id: &Id) -> RusticResult<Bytes> {
        self.0.alive()?;
        // Whether a missing or unreadable file ends the operation is the
        // reader's choice: the failure is not kept.
        let path = path_of(kind, id);
        self.0.store.read(&path).map_err(|e| self.0.judge(&path, e))
    }

    fn read_partial(
        &self,
        kind: FileType,
        id: &Id,
        _cacheable: bool,
        offset: u32,
        length: u32,
    ) -> RusticResult<Bytes> {
        self.0.alive()?;
        let (offset, length) = (u64::from(offset), u64::from(length));
        let path = path_of(kind, id);
        let read = if kind == FileType::Pack && self.0.store.is_remote() {
            self.0.ahead(id, &path, offset, length)
        } else {
            self.0.store.read_range(&path, offset, length)
        };
        read.map_err(|e| self.0.judge(&path, e))
    }

    fn warmup_path(&self, kind: FileType, id: &Id) -> String {
        path_of(kind, id)
    }
}

impl WriteBackend for Backend {
    fn create(&self) -> RusticResult<()> {
        self.0.checked(self.0.store.create())
    }

    fn write_bytes(
        &self,
        kind: FileType,
        id: &Id,
        _cacheable: bool,
        content: BytesList,
    ) -> RusticResult<()> {
        let guard = &self.0;
        guard.alive()?;
        if kind == FileType::Snapshot && guard.failed() {
            // The failure that was kept is what the caller hears.
            return Err(RusticError::new(ErrorKind::Backend, "the backup is not complete"));
        }
        guard.checked(guard.store.write(&path_of(kind, id), content.slice()))?;
        guard.written.fetch_add(content.size() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn remove(&self, kind: FileType, id: &Id, _cacheable: bool) -> RusticResult<()> {
        let guard = &self.0;
        guard.alive()?;
        if kind == FileType::Index && guard.adopting.load(Ordering::Relaxed) {
            return Ok(());
        }
        guard.checked(guard.store.remove(&path_of(kind, id)))
    }
}
