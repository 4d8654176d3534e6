//! The values that a specification is made from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sampan_types::ContainerId;
use sampan_types::docker::{ContainerConfig, ExecConfig, HostConfig, ResourcesUlimits};

use super::HostFacts;
use crate::user::ResolvedUser;

/// Everything that a specification is made from.
#[derive(Debug, Clone)]
pub struct SpecInput<'a> {
    /// The container.
    pub id: &'a ContainerId,
    /// Its configuration, merged with the image's.
    pub config: &'a ContainerConfig,
    /// Its host configuration.
    pub host: &'a HostConfig,
    /// The mounted root file system on the host.
    pub rootfs: &'a Path,
    /// The host name (ignored with the host's UTS namespace).
    pub hostname: &'a str,
    /// Who runs the command ([`crate::user::resolve`]).
    pub user: &'a ResolvedUser,
    /// Binds: host paths, volumes, `/etc/hosts` and the like.
    pub mounts: &'a [BindMount],
    /// Which namespaces are the container's own.
    pub namespaces: &'a Namespaces,
    /// The path of the container's cgroup, the same in every hierarchy:
    /// `/sampan/<id>` ([`crate::cgroup::Cgroup::path`]).
    pub cgroups_path: &'a Path,
    /// With `--init`: the static program that is bound to `/sbin/docker-init`.
    pub init: Option<&'a Path>,
    /// The devices that the host configuration names ([`Devices::collect`]).
    pub devices: &'a Devices,
    /// Limits of the daemon's `default-ulimits`; the container's override them.
    pub default_ulimits: &'a [ResourcesUlimits],
    /// What the machine can do.
    pub facts: &'a HostFacts,
}

/// Whether a namespace is the container's own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Namespace {
    /// A new one.
    #[default]
    Private,
    /// The host's.
    Host,
    /// An existing one: another container's `/proc/<pid>/ns/…`, or a network
    /// namespace made beforehand.
    Path(PathBuf),
}

/// The IPC namespace and `/dev/shm`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Ipc {
    /// Own namespace, own `/dev/shm`.
    #[default]
    Private,
    /// Own namespace, no `/dev/shm`.
    None,
    /// The host's, with its `/dev/shm`.
    Host,
    /// Own namespace; `/dev/shm` is a tmpfs that the engine mounted at `shm`,
    /// so that other containers can join.
    Shareable {
        /// Where on the host it is mounted.
        shm: PathBuf,
    },
    /// Another container's.
    Join {
        /// Its `/proc/<pid>/ns/ipc`.
        namespace: PathBuf,
        /// Where on the host its `/dev/shm` is mounted.
        shm: PathBuf,
    },
}

/// Which namespaces are the container's own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Namespaces {
    /// Process ids.
    pub pid: Namespace,
    /// System V IPC, message queues, `/dev/shm`.
    pub ipc: Ipc,
    /// Host name.
    pub uts: Namespace,
    /// Network.
    pub net: Namespace,
    /// cgroups.
    pub cgroup: Namespace,
}

/// How mounts made later spread between host and container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub enum Propagation {
    /// Not at all, with all below.
    #[default]
    RPrivate,
    /// Not at all.
    Private,
    /// From the host into the container, with all below.
    RSlave,
    /// From the host into the container.
    Slave,
    /// Both ways, with all below.
    RShared,
    /// Both ways.
    Shared,
}

/// Whether a bind can be written through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadOnly {
    /// Writable.
    #[default]
    No,
    /// Read-only at the top; mounts below keep their own mode.
    Top,
    /// Read-only with all below (`rro`, Linux 5.12).
    Recursive,
}

/// A directory or file of the host, seen in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindMount {
    /// On the host; must exist.
    pub source: PathBuf,
    /// In the container; made when absent.
    pub target: PathBuf,
    /// Whether it can be written through.
    pub read_only: ReadOnly,
    /// Whether mounts below the source come along.
    pub recursive: bool,
    /// How later mounts spread.
    pub propagation: Propagation,
}

/// A device node of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// Its path in the container.
    pub path: PathBuf,
    /// Block device; else character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What the device cgroup allows: letters of `rwm`.
    pub access: String,
}

/// What the host configuration's device paths mean on this host, now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Devices {
    /// The nodes that the container gets.
    pub nodes: Vec<DeviceNode>,
    /// Block devices that limits name: path to major and minor number.
    pub block: BTreeMap<String, (u32, u32)>,
}

/// Everything that the process of an `exec` is made from.
#[derive(Debug, Clone)]
pub struct ExecInput<'a> {
    /// The container's configuration, merged with the image's.
    pub config: &'a ContainerConfig,
    /// The container's host configuration.
    pub host: &'a HostConfig,
    /// What is asked for.
    pub exec: &'a ExecConfig,
    /// Who runs it.
    pub user: &'a ResolvedUser,
    /// The host name, for `HOSTNAME`.
    pub hostname: &'a str,
    /// Limits of the daemon's `default-ulimits`.
    pub default_ulimits: &'a [ResourcesUlimits],
    /// What the machine can do.
    pub facts: &'a HostFacts,
}
