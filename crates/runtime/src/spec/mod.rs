//! The OCI specification of a container, made from what the user asked for.
//!
//! [`build`] and [`validate`] are pure: what depends on the machine comes in
//! as values ([`HostFacts`], [`Devices`]), gathered beforehand by the caller.
//!
//! Be aware:
//! - `validate` runs at `create` and refuses with Docker's words; `build`
//!   runs at `start` and may still find a device gone.
//! - Of `HostConfig` the mounts of type `tmpfs` are read here; binds, volumes
//!   and the engine's own files come in as [`BindMount`]s.
//! - libcontainer gives every bind the propagation of the whole tree, so the
//!   widest one that any bind asks for decides (see `mounts.rs`).
//! - The working directory must exist in the rootfs: the engine makes it.

mod error;
mod facts;
mod input;

pub use error::SpecError;
pub use facts::{CgroupFacts, HostFacts};
pub use input::{
    BindMount, DeviceNode, Devices, ExecInput, Ipc, Namespace, Namespaces, Propagation, ReadOnly,
    SpecInput,
};

use oci_spec::runtime::{LinuxResources, Process, Spec};
use sampan_types::docker::{ContainerConfig, HostConfig};

/// A remark for the user that refuses nothing, in Docker's words.
pub type Warning = String;

/// Checks what the user asked for against what the host can do.
///
/// # Errors
/// [`SpecError`] with Docker's message for the first thing that is wrong.
pub fn validate(
    host: &HostConfig,
    config: &ContainerConfig,
    facts: &HostFacts,
) -> Result<Vec<Warning>, SpecError> {
    let _ = (host, config, facts);
    todo!()
}

/// Checks only the resource limits of `host`: what `update` may change.
///
/// # Errors
/// [`SpecError`] with Docker's message for the first thing that is wrong.
pub fn validate_resources(host: &HostConfig, facts: &HostFacts) -> Result<Vec<Warning>, SpecError> {
    let _ = (host, facts);
    todo!()
}

/// The whole specification of a container.
///
/// # Errors
/// [`SpecError`] when something can't be expressed; what [`validate`]
/// accepted can, unless a device vanished since.
pub fn build(input: &SpecInput<'_>) -> Result<Spec, SpecError> {
    let _ = input;
    todo!()
}

/// The limits of `host` alone: for `update` of a running container.
///
/// # Errors
/// As [`build`].
pub fn resources(
    host: &HostConfig,
    devices: &Devices,
    facts: &HostFacts,
) -> Result<LinuxResources, SpecError> {
    let _ = (host, devices, facts);
    todo!()
}

/// The process of an `exec` in a running container.
///
/// # Errors
/// [`SpecError`] for an empty command or an unknown capability.
pub fn exec_process(input: &ExecInput<'_>) -> Result<Process, SpecError> {
    let _ = input;
    todo!()
}
