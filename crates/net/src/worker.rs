//! The network thread.
