//! What the store keeps about a container, in a versioned envelope.
//!
//! Be aware:
//! - A record holds what was wished (`desired`, configuration, addresses and
//!   ports) and what was last observed (`state`). The wish is durable before
//!   the world is touched; the observation may lag behind, because the shim
//!   and the kernel can be asked again.
//! - Fields may be added with `#[serde(default)]`. Any other change needs a
//!   new version and a migration in [`decode`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use sampan_net::Protocol;
use sampan_types::docker;
use sampan_types::{
    ContainerId, ContainerName, EndpointId, ImageId, NetworkId, SandboxId, Timestamp, VolumeName,
};
use serde::{Deserialize, Serialize};

use crate::envelope::Envelope;

pub use crate::container::WishedPorts;
pub use crate::container::state::{State, Status};
pub use crate::envelope::RecordError;

/// The version that this build writes.
pub const VERSION: u32 = 1;

/// The store's prefix of container records.
pub const PREFIX: &str = "containers/";

/// The key of a container's record.
#[must_use]
pub fn key(id: &ContainerId) -> String {
    format!("{PREFIX}{id}")
}

const ENVELOPE: Envelope = Envelope { noun: "container", version: VERSION };

/// A record as bytes.
///
/// # Errors
/// When a map has keys that JSON can't hold; no record has such.
pub fn encode(record: &ContainerRecord) -> Result<Vec<u8>, RecordError> {
    ENVELOPE.encode(|| key(&record.id), &record.whole())
}

/// A record from bytes of this or an earlier version.
///
/// # Errors
/// When the bytes are no record, or a later version's.
pub fn decode(key: &str, bytes: &[u8]) -> Result<ContainerRecord, RecordError> {
    ENVELOPE.decode(key, bytes).map(ContainerRecord::packed)
}

/// What the user wants a container to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    /// Being made: until `create` has answered. Found at start, it is undone.
    Creating,
    /// Not running; also: it ended and nothing asked for more.
    #[default]
    Stopped,
    /// Running; its restart policy decides when it ends.
    Running,
    /// Gone, with its anonymous volumes when `volumes` is set.
    Removed {
        /// Whether anonymous volumes go too.
        volumes: bool,
    },
}

/// Whose network a container uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// A namespace of its own with endpoints on networks.
    Private,
    /// The host's.
    Host,
    /// A namespace of its own with nothing but loopback.
    None,
    /// Another container's.
    Container(ContainerId),
}

/// A container's connection to one network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// The network.
    pub network: NetworkId,
    /// What the user asked for: fixed addresses, aliases, driver options.
    pub config: docker::EndpointSettings,
    /// What it has while the container runs.
    pub live: Option<EndpointLive>,
    /// Its place among the container's endpoints behind the one of the
    /// network mode, which is the first.
    #[serde(default)]
    pub order: u32,
    /// The hardware address that was made up for it: the same in each run.
    #[serde(default)]
    pub mac: Option<String>,
    /// The addresses of the last run, taken again when they are free.
    #[serde(default)]
    pub before: Vec<IpAddr>,
}

impl EndpointRecord {
    /// A connection that was never made.
    #[must_use]
    pub fn new(network: NetworkId, config: docker::EndpointSettings, order: u32) -> Self {
        Self { network, config, live: None, order, mac: None, before: Vec::new() }
    }
}

/// A name that stands for another container on the default bridge (`--link`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRecord {
    /// The other container.
    pub target: ContainerId,
    /// The name.
    pub alias: String,
}

/// What an endpoint has while its container runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointLive {
    /// The endpoint's id; new at each start.
    pub endpoint: EndpointId,
    /// The address with the length of its network.
    pub address: Option<IpNet>,
    /// The IPv6 address with the length of its network.
    pub address6: Option<IpNet>,
    /// The default gateway.
    pub gateway: Option<IpAddr>,
    /// The IPv6 default gateway.
    pub gateway6: Option<IpAddr>,
    /// The interface's hardware address: six bytes with colons.
    pub mac: Option<String>,
}

/// One published port while the container runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRecord {
    /// The protocol.
    pub proto: Protocol,
    /// The port in the container.
    pub container_port: u16,
    /// The host's address; unspecified means all.
    pub host_ip: IpAddr,
    /// The port on the host.
    pub host_port: u16,
}

/// A container's network: what it asked for and what it has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Networking {
    /// Whose namespace.
    pub mode: NetworkMode,
    /// Endpoints by the network's name.
    pub endpoints: BTreeMap<String, EndpointRecord>,
    /// The namespace while the container runs.
    pub sandbox: Option<SandboxId>,
    /// Published ports while the container runs.
    pub ports: Vec<PortRecord>,
    /// Links on the default bridge.
    #[serde(default)]
    pub links: Vec<LinkRecord>,
}

impl Networking {
    /// A network of this mode, with nothing in it.
    #[must_use]
    pub fn new(mode: NetworkMode) -> Self {
        let (endpoints, sandbox, ports, links) = Default::default();
        Self { mode, endpoints, sandbox, ports, links }
    }
}

/// What is mounted into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A directory or file of the host.
    Bind,
    /// A volume.
    Volume,
    /// A file system in memory.
    Tmpfs,
    /// The files of an image, read-only.
    Image,
}

/// The image behind a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountedImage {
    /// Its id.
    pub id: ImageId,
    /// As the user named it.
    pub name: String,
}

/// One mount of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    /// What is mounted.
    pub kind: MountKind,
    /// The volume's name.
    pub volume: Option<VolumeName>,
    /// The volume's driver.
    pub driver: Option<String>,
    /// The image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<MountedImage>,
    /// Whether the volume was made for this container without a name.
    pub anonymous: bool,
    /// The host's path; empty for tmpfs and images.
    pub source: PathBuf,
    /// A path below the volume's or image's root that is mounted instead of the root.
    pub subpath: Option<PathBuf>,
    /// Where in the container.
    pub destination: PathBuf,
    /// Whether the container may write.
    pub rw: bool,
    /// The options of `-v` as given (`z`, `ro`), as inspect shows them.
    pub mode: String,
    /// Mount propagation: `rprivate` and the others; empty for volumes.
    pub propagation: String,
    /// Whether mounts below the source stay out.
    pub non_recursive: bool,
    /// Read-only applies to the top mount alone.
    pub read_only_non_recursive: bool,
    /// Read-only below too, or the container does not start.
    pub read_only_force_recursive: bool,
    /// Options of a tmpfs: `size=64m,mode=1777`.
    pub tmpfs_options: String,
    /// Whether the source is made when it is missing (`-v`, not `--mount`).
    pub create_source: bool,
    /// Who owns in the container what belongs to somebody else at the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<OwnerMap>,
}

/// One user and one group of the source, and who they are in the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerMap {
    /// At the source: user and group.
    pub stored: (u32, u32),
    /// In the container.
    pub shown: (u32, u32),
}

impl MountRecord {
    /// A mount of this kind at this place, with nothing said about it.
    #[must_use]
    pub fn new(kind: MountKind, destination: PathBuf, rw: bool) -> Self {
        Self {
            kind,
            volume: None,
            driver: None,
            image: None,
            anonymous: false,
            source: PathBuf::new(),
            subpath: None,
            destination,
            rw,
            mode: String::new(),
            propagation: String::new(),
            non_recursive: false,
            read_only_non_recursive: false,
            read_only_force_recursive: false,
            tmpfs_options: String::new(),
            create_source: false,
            owner: None,
        }
    }
}

/// Everything known about a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// The container's id.
    pub id: ContainerId,
    /// Its unique name, without the slash.
    pub name: ContainerName,
    /// When it was created.
    pub created: Timestamp,
    /// The image that it was made from.
    pub image: ImageId,
    /// The image's platform: `linux`.
    pub os: String,
    /// The program: first of entrypoint and command.
    pub path: String,
    /// The program's arguments.
    pub args: Vec<String>,
    /// The image's configuration with the request's over it; without the
    /// exposed ports.
    pub config: docker::ContainerConfig,
    /// Resources, mounts, network mode … as asked for, with defaults filled in;
    /// without the bindings of ports.
    pub host_config: docker::HostConfig,
    /// Network.
    pub networking: Networking,
    /// Mounts, in the order of creation.
    pub mounts: Vec<MountRecord>,
    /// What the user wants.
    pub desired: Desired,
    /// Counts the starts; a shim's answers carry the number of theirs.
    pub generation: u64,
    /// The boot of the machine during which it was last started.
    pub boot_id: String,
    /// What was last observed.
    pub state: State,
    /// How often the restart policy has started it again.
    pub restart_count: u32,
    /// Whether it was stopped by a user: the restart policy is then silent.
    pub manually_stopped: bool,
    /// Whether a restart that a user asked for is between its stop and its
    /// start: what is left of it is carried out after the daemon's death.
    #[serde(default)]
    pub restart_wanted: bool,
    /// The exposed ports and the bindings of ports: in the store they are in
    /// the two configurations, as Docker's API has them.
    #[serde(skip)]
    pub wished_ports: WishedPorts,
}

impl ContainerRecord {
    /// The record with its ports in the configurations.
    #[must_use]
    pub fn whole(&self) -> Cow<'_, Self> {
        if self.wished_ports.is_empty() {
            return Cow::Borrowed(self);
        }
        let mut whole = self.clone();
        whole.wished_ports.put(&mut whole.config, &mut whole.host_config);
        Cow::Owned(whole)
    }

    /// The record with the ports out of the configurations.
    #[must_use]
    pub fn packed(mut self) -> Self {
        self.wished_ports = WishedPorts::take(&mut self.config, &mut self.host_config);
        self
    }

    /// The directory of a container below the data root: log, hosts file …
    #[must_use]
    pub fn data_dir(&self, data_root: &Path) -> PathBuf {
        data_root.join("containers").join(self.id.as_str())
    }

    /// Whether it has a terminal.
    #[must_use]
    pub fn tty(&self) -> bool {
        self.config.tty.unwrap_or(false)
    }

    /// Whether its standard input is kept open.
    #[must_use]
    pub fn open_stdin(&self) -> bool {
        self.config.open_stdin.unwrap_or(false)
    }

    /// Whether it removes itself when it ends.
    #[must_use]
    pub fn auto_remove(&self) -> bool {
        self.host_config.auto_remove.unwrap_or(false)
    }

    /// The restart policy in effect.
    #[must_use]
    pub fn restart_policy(&self) -> crate::restart::Policy {
        crate::restart::Policy::of(&self.host_config)
    }
}
