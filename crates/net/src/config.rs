//! What the engine says about networks and sandboxes: plain values.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use sampan_types::{ContainerId, EndpointId, NetworkId, SandboxId};
use serde::{Deserialize, Serialize};

use crate::error::NetError;
use crate::mac::MacAddr;
use crate::ports::PublishedPort;

/// The longest name that the kernel gives an interface (`IFNAMSIZ` less the
/// final zero).
pub(crate) const INTERFACE_NAME_MAX: usize = 15;

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
}

/// One bridge network. The default bridge is just one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeConfig {
    /// The bridge interface's name, at most 15 bytes.
    pub bridge: String,
    /// The subnets, at most one per address family.
    pub subnets: Vec<Subnet>,
    /// The largest packet in bytes.
    pub mtu: u32,
    /// Whether containers on it may talk to each other (`--icc`).
    pub icc: bool,
    /// Whether what containers send elsewhere leaves with the host's address.
    pub masquerade: bool,
    /// No way in or out but to containers on it and the host itself.
    pub internal: bool,
}

/// A subnet with the host's address in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The subnet, host bits zero.
    pub net: IpNet,
    /// The host's address on the bridge: the containers' gateway.
    pub gateway: IpAddr,
}

impl BridgeConfig {
    /// A bridge with one subnet and Docker's defaults for the rest.
    #[must_use]
    pub fn new(bridge: impl Into<String>, subnet: Subnet) -> Self {
        Self {
            bridge: bridge.into(),
            subnets: vec![subnet],
            mtu: 1500,
            icc: true,
            masquerade: true,
            internal: false,
        }
    }

    /// The default bridge: `docker0`, 172.17.0.0/16 unless `bip` (the host's
    /// address with its prefix length, as dockerd's `--bip`) says otherwise.
    #[must_use]
    pub fn default_bridge(bip: Option<IpNet>) -> Self {
        let address =
            bip.unwrap_or_else(|| IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(172, 17, 0, 1)), 16));
        Self::new("docker0", Subnet { net: address.trunc(), gateway: address.addr() })
    }

    /// The bridge's name for a user's network: `br-` and twelve digits of its id.
    #[must_use]
    pub fn name_for(network: &NetworkId) -> String {
        format!("br-{}", network.short())
    }

    /// The subnet that contains `address`.
    #[must_use]
    pub fn subnet_of(&self, address: IpAddr) -> Option<&Subnet> {
        self.subnets.iter().find(|s| s.net.contains(&address))
    }

    /// The host's addresses with their prefix lengths.
    pub(crate) fn gateways(&self) -> impl Iterator<Item = IpNet> {
        self.subnets.iter().map(|s| IpNet::new_assert(s.gateway, s.net.prefix_len()))
    }

    /// The gateways that lead out; none of an internal network.
    pub(crate) fn ways_out(&self) -> impl Iterator<Item = IpAddr> {
        self.subnets.iter().filter(|_| !self.internal).map(|s| s.gateway)
    }

    /// The addresses of an endpoint with their prefix lengths.
    pub(crate) fn with_prefixes(
        &self,
        endpoint: &EndpointSpec,
        network: &str,
    ) -> Result<Vec<IpNet>, NetError> {
        let invalid = |reason| NetError::InvalidEndpoint { network: network.to_owned(), reason };
        if endpoint.addresses.is_empty() {
            return Err(invalid("no address is given".to_owned()));
        }
        if let Some(mac) = endpoint.mac.filter(|m| !m.is_unicast()) {
            return Err(invalid(format!("{mac} is a group's address, no interface can have it")));
        }
        let prefixed = |address: &IpAddr| match self.subnet_of(*address) {
            Some(subnet) => Ok(IpNet::new_assert(*address, subnet.net.prefix_len())),
            None => Err(invalid(format!("address {address} is in no subnet of the network"))),
        };
        endpoint.addresses.iter().map(prefixed).collect()
    }

    /// Refuses what the kernel would refuse later, or what makes no sense.
    ///
    /// # Errors
    /// [`NetError::InvalidNetwork`] with the reason.
    pub fn validate(&self, network: &str) -> Result<(), NetError> {
        let invalid =
            |reason: String| Err(NetError::InvalidNetwork { network: network.to_owned(), reason });
        let name = &self.bridge;
        if name.is_empty()
            || name.len() > INTERFACE_NAME_MAX
            || name == "."
            || name == ".."
            || name.bytes().any(|b| !b.is_ascii_graphic() || b == b'/' || b == b':')
        {
            return invalid(format!(
                "{name:?} is no name for an interface: 1 to {INTERFACE_NAME_MAX} bytes without \
                 blank, '/' and ':' expected"
            ));
        }
        if !(68..=65535).contains(&self.mtu) {
            return invalid(format!("an MTU of {} is out of the range 68 to 65535", self.mtu));
        }
        if self.subnets.is_empty() {
            return invalid("a bridge needs a subnet".to_owned());
        }
        for (i, s) in self.subnets.iter().enumerate() {
            if s.net != s.net.trunc() {
                return invalid(format!("{} has host bits set", s.net));
            }
            if !s.net.contains(&s.gateway) {
                return invalid(format!("gateway {} is not in {}", s.gateway, s.net));
            }
            if s.net.prefix_len() + 2 > s.net.max_prefix_len() {
                return invalid(format!("{} has no room for a container", s.net));
            }
            if self.subnets[..i].iter().any(|o| o.gateway.is_ipv4() == s.gateway.is_ipv4()) {
                return invalid("more than one subnet of the same address family".to_owned());
            }
        }
        if self.subnets.iter().any(|s| s.gateway.is_ipv6()) {
            return Err(NetError::NotSupported {
                what: format!("an IPv6 subnet on network {network}"),
            });
        }
        Ok(())
    }
}

/// A sandbox as it shall be: a namespace, its endpoints and published ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Its id; names the namespace's file.
    pub sandbox: SandboxId,
    /// The container that it is for; named in comments and messages.
    pub container: ContainerId,
    /// The connections to networks. The first becomes `eth0`; the first with
    /// a way out has the default route and the published ports.
    pub endpoints: Vec<EndpointSpec>,
    /// Ports of the host that lead to the container.
    pub ports: Vec<PublishedPort>,
    /// Kernel parameters of the namespace, `net.…` only.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
}

/// One connection of a sandbox to a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSpec {
    /// Its id.
    pub endpoint: EndpointId,
    /// The network.
    pub network: NetworkId,
    /// Addresses in the network's subnets, already allocated. None for the
    /// drivers host and none.
    pub addresses: Vec<IpAddr>,
    /// The hardware address; a random one when absent.
    pub mac: Option<MacAddr>,
    /// Other names of the container on this network.
    #[serde(default)]
    pub aliases: Vec<String>,
}

/// What a driver made of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The network.
    pub network: NetworkId,
    /// The interface inside (`eth0`); none for the drivers host and none.
    pub interface: Option<String>,
    /// Its other end on the host (`veth…`).
    pub host_interface: Option<String>,
    /// Its hardware address.
    pub mac: Option<MacAddr>,
    /// Its addresses with their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// The gateway of each address family the network leads out by.
    pub gateways: Vec<IpAddr>,
    /// The largest packet in bytes; 0 where there is no interface.
    pub mtu: u32,
}
