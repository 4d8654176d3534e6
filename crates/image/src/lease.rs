//! Leases: content that an operation in progress needs stays.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Digest;

/// Digests of blobs and layers with the number of leases on each. Collection
/// holds the lock while it decides and takes content out of reach.
#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<HashMap<Digest, usize>>);

impl Pins {
    pub(crate) fn lock(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds blobs and layers that no image refers to yet. They become free when
/// it is dropped; pull, load, import and commit keep one until the image is
/// recorded.
#[derive(Debug)]
pub struct Lease {
    pins: Arc<Pins>,
    held: Mutex<Vec<Digest>>,
}

impl Lease {
    pub(crate) fn new(pins: Arc<Pins>) -> Self {
        Self { pins, held: Mutex::new(Vec::new()) }
    }

    /// Keeps the blob or layer `digest` for as long as this lease lives. Ask
    /// whether content exists only after this.
    pub fn pin(&self, digest: &Digest) {
        *self.pins.lock().entry(digest.clone()).or_default() += 1;
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(digest.clone());
    }
}

impl Lease {
    /// Lets `other` hold what this one holds too.
    pub(crate) fn share(&self, other: &Self) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for digest in &held {
            other.pin(digest);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut pins = self.pins.lock();
        for digest in self.held.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if let Some(count) = pins.get_mut(&digest) {
                *count -= 1;
                if *count == 0 {
                    pins.remove(&digest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lease_frees() {
        let pins = Arc::new(Pins::default());
        let digest = Digest::of(b"x");
        let (a, b) = (Lease::new(Arc::clone(&pins)), Lease::new(Arc::clone(&pins)));
        a.pin(&digest);
        b.pin(&digest);
        drop(a);
        assert!(pins.lock().contains_key(&digest));
        drop(b);
        assert!(pins.lock().is_empty());
    }
}
