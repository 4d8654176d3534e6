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
//! - The propagation of the whole tree is the widest that any bind asks for, as
//!   OCI runtimes need it; libcontainer is told another (`client/sharing.rs`).
//! - The working directory must exist in the rootfs: the engine makes it.

mod caps;
mod devices;
mod error;
mod facts;
mod input;
pub(crate) mod mounts;
mod process;
mod resources;
mod security;
mod sysctl;
#[cfg(test)]
mod testing;
mod validate;

use std::collections::HashMap;
use std::path::Path;

use oci_spec::runtime::{
    Linux, LinuxNamespace, LinuxNamespaceType, LinuxResources, Process, Root, RootBuilder, Spec,
};
use sampan_types::docker::HostConfig;

pub use error::SpecError;
pub use facts::{CgroupFacts, HostFacts};
pub use input::{
    BindMount, DeviceNode, Devices, ExecInput, Ipc, Namespace, Namespaces, Propagation, ReadOnly,
    SpecInput,
};
pub use mounts::normal;
pub use process::check_ulimits;
pub use validate::{adapt, validate};

use security::Security;

/// A remark for the user that refuses nothing, in Docker's words.
pub type Warning = String;

/// The version of the OCI specification that these values follow.
const OCI_VERSION: &str = "1.0.2";

/// What Docker hides of `/proc` and `/sys`.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What Docker makes read-only.
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Checks only the resource limits of `host`: what `update` may change.
///
/// # Errors
/// [`SpecError`] with Docker's message for the first thing that is wrong.
pub fn validate_resources(host: &HostConfig, facts: &HostFacts) -> Result<Vec<Warning>, SpecError> {
    resources::validate(host, facts)
}

/// The whole specification of a container.
///
/// # Errors
/// [`SpecError`] when something can't be expressed; what [`validate`]
/// accepted can, unless a device vanished since.
pub fn build(input: &SpecInput<'_>) -> Result<Spec, SpecError> {
    let host = input.host;
    let privileged = host.privileged.unwrap_or(false);
    let security = Security::parse(host.security_opt.as_deref(), input.facts)?;
    let caps = caps::effective(host, privileged, input.facts)?;
    let own_uts = input.namespaces.uts == Namespace::Private;
    let writable_cgroups = security.writable_cgroups;
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_root(Some(root(input.rootfs, host.readonly_rootfs.unwrap_or(false))))
        .set_hostname(Some(input.hostname.to_owned()).filter(|h| own_uts && !h.is_empty()))
        .set_mounts(Some(mounts::build(input, privileged, writable_cgroups)?))
        .set_process(Some(process::build(input, &caps)?))
        .set_linux(Some(linux(input, privileged, &security, &caps)?))
        .set_annotations(annotations(host));
    Ok(spec)
}

fn annotations(host: &HostConfig) -> Option<HashMap<String, String>> {
    host.annotations.clone().filter(|a| !a.is_empty())
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
    resources::build(host, devices, facts)
}

/// The process of an `exec` in a running container.
///
/// # Errors
/// [`SpecError`] for an empty command or an unknown capability.
pub fn exec_process(input: &ExecInput<'_>) -> Result<Process, SpecError> {
    process::build_exec(input)
}

fn root(rootfs: &Path, read_only: bool) -> Root {
    RootBuilder::default().path(rootfs).readonly(read_only).build().expect("every field is set")
}

fn linux(
    input: &SpecInput<'_>,
    privileged: bool,
    security: &Security,
    caps: &[&str],
) -> Result<Linux, SpecError> {
    let host = input.host;
    let own_net = input.namespaces.net != Namespace::Host;
    let own_uts = input.namespaces.uts == Namespace::Private;
    let sysctls = sysctl::build(host, input.config, own_net, own_uts);
    let devices = devices::nodes(input.devices);
    let (masked, read_only) = hidden(host, privileged || security.bare_paths);
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(input.namespaces)))
        .set_resources(Some(resources::build(host, input.devices, input.facts)?))
        .set_cgroups_path(Some(input.cgroups_path.to_owned()))
        .set_devices(Some(devices).filter(|d| !d.is_empty()))
        .set_sysctl(Some(sysctls).filter(|s| !s.is_empty()))
        .set_seccomp(security.filter(privileged, caps, input.facts)?)
        .set_rootfs_propagation(Some(mounts::root_propagation(input.mounts).to_owned()))
        .set_masked_paths(masked)
        .set_readonly_paths(read_only);
    Ok(linux)
}

type Paths = Option<Vec<String>>;

/// Masked and read-only paths: the user's lists, or Docker's.
fn hidden(host: &HostConfig, bare: bool) -> (Paths, Paths) {
    let paths = |own: &Paths, default: &[&str]| {
        let list = match own {
            _ if bare => Vec::new(),
            Some(own) => own.clone(),
            None => default.iter().map(|p| (*p).to_owned()).collect(),
        };
        Some(list).filter(|l| !l.is_empty())
    };
    (paths(&host.masked_paths, &MASKED), paths(&host.readonly_paths, &READ_ONLY))
}

/// The namespaces to make or to join; those of the host are left out.
fn namespaces(wanted: &Namespaces) -> Vec<LinuxNamespace> {
    let ipc = match &wanted.ipc {
        Ipc::Host => Namespace::Host,
        Ipc::Join { namespace, .. } => Namespace::Path(namespace.clone()),
        Ipc::Private | Ipc::None | Ipc::Shareable { .. } => Namespace::Private,
    };
    [
        (LinuxNamespaceType::Mount, &Namespace::Private),
        (LinuxNamespaceType::Pid, &wanted.pid),
        (LinuxNamespaceType::Ipc, &ipc),
        (LinuxNamespaceType::Uts, &wanted.uts),
        (LinuxNamespaceType::Network, &wanted.net),
        (LinuxNamespaceType::Cgroup, &wanted.cgroup),
    ]
    .into_iter()
    .filter(|(_, namespace)| **namespace != Namespace::Host)
    .map(|(kind, namespace)| {
        let mut result = LinuxNamespace::default();
        result.set_typ(kind);
        if let Namespace::Path(path) = namespace {
            result.set_path(Some(path.clone()));
        }
        result
    })
    .collect()
}

#[cfg(test)]
mod tests;
