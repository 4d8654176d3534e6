//! What the engine says about networks and sandboxes: plain values.

mod bridge;
mod plugin;
mod sandbox;
mod vlan;

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use sampan_types::NetworkId;
use serde::{Deserialize, Serialize};

pub use bridge::{BridgeConfig, GatewayMode};
pub use plugin::{CniConfig, RemoteConfig};
pub use sandbox::{
    Attachment, DnsSpec, EndpointSpec, LinkSpec, OpenedLink, RateLimit, RouteSpec, SandboxSpec,
};
pub(crate) use vlan::SubInterfaces;
pub use vlan::{IpvlanConfig, IpvlanFlag, IpvlanMode, MacvlanConfig, MacvlanMode};

/// The longest name that the kernel gives an interface (`IFNAMSIZ` less the
/// final zero).
pub(crate) const INTERFACE_NAME_MAX: usize = 15;

/// Why `name` can't be an interface's, if it can't (`dev_valid_name` of the
/// kernel).
pub(crate) fn check_interface_name(name: &str) -> Result<(), String> {
    let bad = name.is_empty()
        || name.len() > INTERFACE_NAME_MAX
        || name == "."
        || name == ".."
        || name.bytes().any(|b| !b.is_ascii_graphic() || b == b'/' || b == b':' || b == b'%');
    if !bad {
        return Ok(());
    }
    Err(format!(
        "{name:?} is no name for an interface: 1 to {INTERFACE_NAME_MAX} bytes without blank, \
         '/', ':' and '%' expected"
    ))
}

/// How the networks of one instance are run.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// The instance's name: `sampan`, or `sampan-<8 hex>` for others than the
    /// default one. It names the nftables table and marks the interfaces.
    pub instance: String,
    /// The instance's volatile directory; namespaces are below `netns/`.
    pub exec_root: PathBuf,
    /// The networks that exist from the start, the default bridge among them.
    pub networks: Vec<NetworkSpec>,
    /// Whether to switch the host's IPv4 forwarding on (dockerd's
    /// `--ip-forward`, on by default).
    pub ip_forward: bool,
    /// How many network namespaces are made ahead of need.
    pub namespaces_ahead: usize,
    /// Whether what the host's own firewall refuses to let into the host is
    /// kept from published ports as well.
    pub respect_host_firewall: bool,
    /// Whether packets between containers of one bridge take the short way
    /// past the bridge, where the kernel can.
    pub redirect: bool,
    /// Whether the host's own programs reach published ports by IPv6 also
    /// where packets would find no way, if the kernel can.
    pub host_ipv6_ports: bool,
    /// Where network and IPAM plugins are looked for.
    pub plugin_dirs: Vec<PathBuf>,
    /// Where CNI plugins are looked for.
    pub cni_path: Vec<PathBuf>,
}

impl NetConfig {
    /// A configuration with nothing unusual and no network.
    #[must_use]
    pub fn new(instance: impl Into<String>, exec_root: impl Into<PathBuf>) -> Self {
        Self {
            instance: instance.into(),
            exec_root: exec_root.into(),
            networks: Vec::new(),
            ip_forward: true,
            namespaces_ahead: 8,
            respect_host_firewall: false,
            redirect: true,
            host_ipv6_ports: true,
            plugin_dirs: Vec::new(),
            cni_path: Vec::new(),
        }
    }
}

/// A network as it shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Its id.
    pub id: NetworkId,
    /// Its name, for messages and comments.
    pub name: String,
    /// The driver and what it needs to know.
    pub driver: DriverConfig,
}

/// A driver and its typed options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverConfig {
    /// A Linux bridge on this host.
    Bridge(BridgeConfig),
    /// The host's own network namespace.
    Host,
    /// A namespace with the loopback interface only.
    None,
    /// Interfaces with a hardware address of their own on one of the host's.
    Macvlan(MacvlanConfig),
    /// Interfaces that share the hardware address of one of the host's.
    Ipvlan(IpvlanConfig),
    /// A network driver plugin of Docker's protocol.
    Remote(RemoteConfig),
    /// A chain of CNI plugins.
    Cni(CniConfig),
}

/// A subnet with its gateway's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The subnet, host bits zero.
    pub net: IpNet,
    /// The containers' gateway: the host's address on a bridge.
    pub gateway: IpAddr,
}

impl NetworkSpec {
    /// What the names of interfaces inside begin with.
    #[must_use]
    pub fn interface_prefix(&self) -> &str {
        match &self.driver {
            DriverConfig::Bridge(c) if !c.interface_prefix.is_empty() => &c.interface_prefix,
            _ => "eth",
        }
    }

    /// Its subnets, as far as they are known here: none of host, none, CNI.
    #[must_use]
    pub fn subnets(&self) -> &[Subnet] {
        match &self.driver {
            DriverConfig::Bridge(c) => &c.subnets,
            DriverConfig::Macvlan(c) => &c.subnets,
            DriverConfig::Ipvlan(c) => &c.subnets,
            DriverConfig::Remote(c) => &c.subnets,
            DriverConfig::Host | DriverConfig::None | DriverConfig::Cni(_) => &[],
        }
    }
}
