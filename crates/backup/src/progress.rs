//! How far an operation is, and that it shall stop.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustic_core::{ProgressBars, ProgressType, RusticProgress};
use tokio_util::sync::CancellationToken;

/// How far an operation is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of content that are done.
    pub done: u64,
    /// Bytes of content in all, as far as it is known; 0 when it is not.
    pub total: u64,
    /// Files that are done or under way.
    pub files: u64,
}

type Tell = dyn Fn(Progress) + Send + Sync;

/// Who watches an operation: it is told how far that is, and may end it.
#[derive(Clone)]
pub struct Watch {
    cancel: CancellationToken,
    tell: Arc<Tell>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Counters {
    done: AtomicU64,
    total: AtomicU64,
    files: AtomicU64,
}

impl Watch {
    /// Calls `tell` from many threads, often: it must be quick. The operation
    /// ends with [`crate::BackupError::Cancelled`] soon after `cancel`.
    pub fn new(cancel: CancellationToken, tell: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self { cancel, tell: Arc::new(tell), counters: Arc::default() }
    }

    /// Nobody watches.
    #[must_use]
    pub fn nobody() -> Self {
        Self::new(CancellationToken::new(), |_| ())
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    pub(crate) fn expect(&self, bytes: u64) {
        self.counters.total.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn file(&self) {
        self.counters.files.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self, count: u64) {
        let done = self.counters.done.fetch_add(count, Ordering::Relaxed) + count;
        // What grows while it is read is larger than what was expected.
        let total = self.counters.total.load(Ordering::Relaxed);
        (self.tell)(Progress {
            done,
            total: if total == 0 { 0 } else { total.max(done) },
            files: self.counters.files.load(Ordering::Relaxed),
        });
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// What the library reports to: bytes alone are passed on.
impl ProgressBars for Watch {
    fn progress(&self, kind: ProgressType, _title: &str) -> rustic_core::Progress {
        match kind {
            ProgressType::Bytes => rustic_core::Progress::new(Bytes(self.clone())),
            _ => rustic_core::Progress::hidden(),
        }
    }
}

#[derive(Debug)]
struct Bytes(Watch);

impl RusticProgress for Bytes {
    fn is_hidden(&self) -> bool {
        false
    }

    fn set_length(&self, length: u64) {
        self.0.expect(length);
    }

    fn set_title(&self, _title: &str) {}

    fn inc(&self, count: u64) {
        self.0.bytes(count);
    }

    fn finish(&self) {}
}
