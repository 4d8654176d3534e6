//! Containers as processes: OCI spec, shim, exec, stdio, logs, cgroups.
//!
//! The daemon's side is [`Runtime`]: it starts one small process per
//! container, the shim (module [`shim`]), and talks to it over a unix socket
//! ([`protocol`]). The shim is the parent of the container's init: it pumps
//! the container's output to the log and to attached clients, and records how
//! it ended. The daemon can die at any moment; the shim goes on, and the next
//! daemon finds it again with [`Runtime::connect`].
//!
//! Be aware:
//! - libcontainer is called in a process forked from the shim and nowhere
//!   else: it needs a process with one thread, and its memory goes away with
//!   that process.
//! - The shim contains no async code. What runs in the daemon
//!   ([`Runtime`], [`Shim`], [`ExecProcess`]) needs a tokio runtime.
#![forbid(unsafe_code)]

pub mod cgroup;
mod client;
mod error;
pub mod init;
pub mod logs;
pub mod protocol;
pub mod seccomp;
pub mod shim;
pub mod signal;
pub mod spec;
pub mod user;

pub use client::{
    AttachOptions, AttachStream, CreateRequest, ExecProcess, ExecRequest, ExitStatus, IoConfig,
    OciRuntime, OutputStream, Runtime, RuntimeConfig, Shim, StdinWriter,
};
pub use error::RuntimeError;
pub use logs::{LogSetup, StdStream};
