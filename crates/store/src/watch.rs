//! Watches: the changes after a revision, in order, each once.
//!
//! A bounded history of recent changes is kept in memory, so a watch may begin
//! a little in the past; that closes the gap between listing and watching.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;
use tokio::sync::Notify;

/// How many changes are remembered for watches that begin in the past or are
/// slow. Beyond it they have to list again.
const HISTORY: usize = 8192;
/// How many bytes of values are remembered while there is a watch.
const WATCHED_BYTES: usize = 16 << 20;
/// How many bytes of values are remembered while there is none.
const UNWATCHED_BYTES: usize = 256 << 10;

/// One key's change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The commit's revision.
    pub revision: u64,
    /// The key.
    pub key: String,
    /// The new value; `None`: removed.
    pub value: Option<Arc<[u8]>>,
}

impl Change {
    fn size(&self) -> usize {
        self.value.as_ref().map_or(0, |value| value.len())
    }
}

/// Why a watch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WatchError {
    /// Changes after the wanted revision are no longer remembered: list again.
    #[error("store: changes before revision {oldest} are forgotten, list again")]
    Compacted {
        /// The oldest revision that is still remembered.
        oldest: u64,
    },
    /// The store was closed.
    #[error("store: closed")]
    Closed,
}

#[derive(Debug)]
struct History {
    changes: VecDeque<Change>,
    /// Changes up to and including this revision may be missing.
    forgotten: u64,
    /// The length of all values of `changes`.
    bytes: usize,
    /// How many watches there are.
    watches: usize,
    closed: bool,
}

impl History {
    /// Forgets what is too much.
    fn shorten(&mut self) {
        let most = if self.watches > 0 { WATCHED_BYTES } else { UNWATCHED_BYTES };
        while self.changes.len() > HISTORY || self.bytes > most {
            let Some(old) = self.changes.pop_front() else { return };
            self.bytes = self.bytes.saturating_sub(old.size());
            self.forgotten = old.revision;
        }
    }
}

/// Where the writer publishes and watches read. The mutex is held for copying
/// a few entries only, never across an await.
#[derive(Debug)]
pub(crate) struct Feed {
    history: Mutex<History>,
    changed: Notify,
}

impl Feed {
    pub(crate) fn new(revision: u64) -> Arc<Self> {
        let (changes, bytes, watches) = Default::default();
        let history = History { changes, forgotten: revision, bytes, watches, closed: false };
        Arc::new(Self { history: Mutex::new(history), changed: Notify::new() })
    }

    pub(crate) fn publish(&self, changes: impl IntoIterator<Item = Change>) {
        {
            let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
            for change in changes {
                history.bytes = history.bytes.saturating_add(change.size());
                history.changes.push_back(change);
            }
            history.shorten();
        }
        self.changed.notify_waiters();
    }

    /// Counts a watch more or less.
    fn count(&self, more: bool) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let watches = history.watches;
        history.watches = if more { watches + 1 } else { watches.saturating_sub(1) };
        history.shorten();
    }

    pub(crate) fn close(&self) {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.changed.notify_waiters();
    }

    fn after(
        &self,
        prefix: &str,
        from: u64,
        into: &mut VecDeque<Change>,
    ) -> Result<u64, WatchError> {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if from < history.forgotten {
            return Err(WatchError::Compacted { oldest: history.forgotten });
        }
        let start = history.changes.partition_point(|c| c.revision <= from);
        let newer = history.changes.range(start..);
        into.extend(newer.filter(|c| c.key.starts_with(prefix)).cloned());
        if into.is_empty() && history.closed {
            return Err(WatchError::Closed);
        }
        Ok(history.changes.back().map_or(from, |c| c.revision.max(from)))
    }
}

/// A stream of changes; see [`crate::Store::watch`].
#[derive(Debug)]
pub struct Watch {
    feed: Arc<Feed>,
    prefix: String,
    from: u64,
    ready: VecDeque<Change>,
}

impl Watch {
    pub(crate) fn new(feed: Arc<Feed>, prefix: &str, from: u64) -> Self {
        feed.count(true);
        Self { feed, prefix: prefix.to_owned(), from, ready: VecDeque::new() }
    }

    /// The next change. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the changes that come next are no longer remembered, or the store
    /// was closed.
    pub async fn next(&mut self) -> Result<Change, WatchError> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Ok(change);
            }
            let feed = Arc::clone(&self.feed);
            let mut changed = std::pin::pin!(feed.changed.notified());
            // Registered before looking, so that no change falls in between.
            changed.as_mut().enable();
            self.from = self.feed.after(&self.prefix, self.from, &mut self.ready)?;
            if self.ready.is_empty() {
                changed.await;
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.feed.count(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: u64) -> Change {
        Change { revision, key: "a".to_owned(), value: Some(vec![0; 100 << 10].into()) }
    }

    #[tokio::test]
    async fn large_values_are_remembered_for_watches() {
        let feed = Feed::new(0);
        feed.publish((1..=4).map(change));
        let mut late = Watch::new(Arc::clone(&feed), "", 0);
        assert_eq!(late.next().await, Err(WatchError::Compacted { oldest: 2 }));
        feed.publish((5..=9).map(change));
        late.from = 2;
        for revision in 3..=9 {
            assert_eq!(late.next().await.map(|c| c.revision), Ok(revision));
        }
        drop(late);
        let history = feed.history.lock().unwrap();
        assert_eq!((history.changes.len(), history.forgotten), (2, 7));
        assert_eq!(history.bytes, 200 << 10);
    }
}
