//! The data-plane process, `sampan proxy`: it answers for names inside the
//! sandboxes, also while the daemon is not there.
#![forbid(unsafe_code)]
