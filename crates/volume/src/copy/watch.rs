//! Who watches a copy: hears how far it is, and may stop it.
//!
//! Be aware: the report is called from the copying threads, at most ten times
//! a second, and must not block.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::VolumeError;

/// How often a report is made at most.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// How far a copy is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of content that were copied.
    pub bytes: u64,
    /// Bytes that are to be copied; 0 while that is not known.
    pub total: u64,
    /// Files of all kinds that were copied.
    pub files: u64,
}

/// The connection between a copy and who wants it. Cheap to clone.
#[derive(Clone)]
pub struct Watch {
    inner: Arc<Inner>,
}

struct Inner {
    started: Instant,
    /// Shared with the quiet ones.
    stopped: Arc<AtomicBool>,
    bytes: AtomicU64,
    total: AtomicU64,
    files: AtomicU64,
    /// When the last report was made: milliseconds after `started`.
    reported: AtomicU64,
    report: Option<Box<dyn Fn(Progress) + Send + Sync>>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("progress", &self.progress()).finish_non_exhaustive()
    }
}

impl Default for Watch {
    /// Nobody watches.
    fn default() -> Self {
        Self::with(None, Arc::default())
    }
}

impl Watch {
    /// A copy's watcher that is told by `report`.
    pub fn new(report: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self::with(Some(Box::new(report)), Arc::default())
    }

    /// One that is stopped together with this one, and tells nobody.
    pub(crate) fn quiet(&self) -> Self {
        Self::with(None, self.inner.stopped.clone())
    }

    fn with(report: Option<Box<dyn Fn(Progress) + Send + Sync>>, stopped: Arc<AtomicBool>) -> Self {
        let inner = Inner {
            started: Instant::now(),
            stopped,
            bytes: AtomicU64::new(0),
            total: AtomicU64::new(0),
            files: AtomicU64::new(0),
            reported: AtomicU64::new(0),
            report,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Tells the copy to stop; it fails with [`VolumeError::Stopped`].
    pub fn stop(&self) {
        self.inner.stopped.store(true, Ordering::Relaxed);
    }

    /// Stops the copy when the guard is dropped, if it still goes on then.
    #[must_use]
    pub fn stop_on_drop(&self) -> StopOnDrop {
        StopOnDrop(Some(self.clone()))
    }

    /// Whether the copy is to stop.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.inner.stopped.load(Ordering::Relaxed)
    }

    /// # Errors
    /// [`VolumeError::Stopped`] when the copy is to stop.
    pub fn check(&self, path: &Path) -> Result<(), VolumeError> {
        if self.is_stopped() {
            return Err(VolumeError::Stopped { path: path.to_owned() });
        }
        Ok(())
    }

    /// Whether somebody would like to know how much there is, and nobody said.
    pub(crate) fn wants_total(&self) -> bool {
        self.inner.report.is_some() && self.inner.total.load(Ordering::Relaxed) == 0
    }

    /// What there is to copy.
    pub fn set_total(&self, bytes: u64) {
        self.inner.total.store(bytes, Ordering::Relaxed);
    }

    /// More was copied.
    pub fn add(&self, bytes: u64, files: u64) {
        self.inner.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.inner.files.fetch_add(files, Ordering::Relaxed);
        let Some(report) = &self.inner.report else { return };
        let now = self.inner.started.elapsed();
        let last = self.inner.reported.load(Ordering::Relaxed);
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        if millis.saturating_sub(last) < REPORT_EVERY.as_millis() as u64 {
            return;
        }
        let reported = &self.inner.reported;
        // One of the threads reports, the others go on.
        if reported.compare_exchange(last, millis, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            report(self.progress());
        }
    }

    /// How far the copy is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress {
            bytes: self.inner.bytes.load(Ordering::Relaxed),
            total: self.inner.total.load(Ordering::Relaxed),
            files: self.inner.files.load(Ordering::Relaxed),
        }
    }
}

/// See [`Watch::stop_on_drop`].
#[derive(Debug)]
pub struct StopOnDrop(Option<Watch>);

impl StopOnDrop {
    /// The copy is done, or may go on.
    pub fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(watch) = &self.0 {
            watch.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_rare_and_a_stop_is_seen() {
        let heard = Arc::new(AtomicU64::new(0));
        let count = heard.clone();
        let watch = Watch::new(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        for _ in 0..1000 {
            watch.add(10, 1);
        }
        assert!(heard.load(Ordering::Relaxed) < 100);
        assert_eq!(watch.progress(), Progress { bytes: 10_000, total: 0, files: 1000 });
        drop(watch.stop_on_drop());
        assert!(watch.check(Path::new("x")).is_err());
    }
}
