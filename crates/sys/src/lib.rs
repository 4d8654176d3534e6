//! The kernel's interfaces that the engine speaks directly: files that
//! survive a crash, mounts, namespaces, netlink, nf_tables.
//!
//! Be aware:
//! - This is the only crate in which `unsafe` is allowed, each use with its
//!   reason.
//! - Functions block for as long as the kernel takes; callers on the async
//!   runtime decide which of them need a blocking thread.

pub mod file;
pub mod mount;
pub mod netlink;
pub mod sysctl;
pub mod process;
