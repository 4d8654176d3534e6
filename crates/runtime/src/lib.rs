//! Containers as processes: OCI spec, shim, exec, stdio, logs, cgroups.
#![forbid(unsafe_code)]
