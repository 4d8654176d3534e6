//! Desired state: a small transactional key-value store with watches.
#![forbid(unsafe_code)]
