//! The wire between the daemon and a shim.
