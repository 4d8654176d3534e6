//! Containers as processes: OCI spec, shim, exec, stdio, logs, cgroups.
#![forbid(unsafe_code)]

pub mod cgroup;
pub mod init;
pub mod logs;
pub mod seccomp;
pub mod signal;
pub mod spec;
pub mod user;
