//! Sandboxes, their endpoints, and what drivers make of these.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use sampan_types::{ContainerId, EndpointId, NetworkId, SandboxId};
use serde::{Deserialize, Serialize};

use crate::mac::MacAddr;
use crate::ports::{Protocol, PublishedPort};

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
    /// How names are looked up in it.
    #[serde(default)]
    pub dns: DnsSpec,
    /// Containers whose ports it reaches also where those on the same network
    /// are kept from each other (`--link`).
    #[serde(default)]
    pub links: Vec<OpenedLink>,
}

/// What a link opens on a network whose containers are kept from each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedLink {
    /// Whose ports.
    pub target: ContainerId,
    /// The network on which.
    pub network: NetworkId,
    /// The ports that the target exposes.
    pub ports: Vec<(Protocol, u16)>,
}

impl SandboxSpec {
    /// A sandbox with nothing but its endpoints.
    #[must_use]
    pub fn new(sandbox: SandboxId, container: ContainerId, endpoints: Vec<EndpointSpec>) -> Self {
        let (ports, sysctls, dns, links) = Default::default();
        Self { sandbox, container, endpoints, ports, sysctls, dns, links }
    }
}

/// How names are looked up in a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsSpec {
    /// Whether names of containers are answered at 127.0.0.11: there is an
    /// endpoint on a network of the users' own.
    pub serves: bool,
    /// Servers that are asked for other names (`--dns`), from inside the
    /// sandbox; the host's when empty, from the host.
    pub servers: Vec<IpAddr>,
    /// Further names of containers, for this sandbox alone (`--link`).
    pub links: Vec<LinkSpec>,
}

/// A name for another container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkSpec {
    /// The name.
    pub alias: String,
    /// Whose addresses it stands for.
    pub target: ContainerId,
    /// The network on which these are; any common one when absent.
    pub network: Option<NetworkId>,
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
    /// Further addresses of its link alone (`--link-local-ip`), which no
    /// network allocates.
    #[serde(default)]
    pub link_locals: Vec<IpAddr>,
    /// The hardware address; a random one when absent.
    pub mac: Option<MacAddr>,
    /// The names by which others on the network find it, the main one first;
    /// none where names are not answered.
    #[serde(default)]
    pub names: Vec<String>,
    /// The interface's name inside; the next of `eth0`, `eth1` … when absent.
    #[serde(default)]
    pub interface: Option<String>,
    /// Of the networks that lead out, the one with the greatest has the
    /// default route; of equal ones the first.
    #[serde(default)]
    pub gateway_priority: i64,
    /// Kernel parameters of the interface: `net.ipv4.conf.IFNAME.…`.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// How much may pass.
    #[serde(default)]
    pub rate: RateLimit,
    /// What the drivers of plugins are told as it is.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

impl EndpointSpec {
    /// An endpoint with addresses and nothing else asked for.
    #[must_use]
    pub fn new(endpoint: EndpointId, network: NetworkId, addresses: Vec<IpAddr>) -> Self {
        Self {
            endpoint,
            network,
            addresses,
            link_locals: Vec::new(),
            mac: None,
            names: Vec::new(),
            interface: None,
            gateway_priority: 0,
            sysctls: BTreeMap::new(),
            rate: RateLimit::default(),
            options: BTreeMap::new(),
        }
    }
}

/// Limits of an endpoint in bits per second; none where absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Of what the container receives.
    pub ingress: Option<u64>,
    /// Of what it sends.
    pub egress: Option<u64>,
}

impl RateLimit {
    /// Whether there is no limit.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// A route of a driver's making inside a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSpec {
    /// Where it leads; everywhere when absent.
    pub destination: Option<IpNet>,
    /// By whom; directly when absent.
    pub gateway: Option<IpAddr>,
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
    /// Its further addresses, of the link alone.
    #[serde(default)]
    pub link_locals: Vec<IpNet>,
    /// The gateway of each address family the network leads out by.
    pub gateways: Vec<IpAddr>,
    /// Further routes by the interface.
    #[serde(default)]
    pub routes: Vec<RouteSpec>,
    /// The largest packet in bytes; 0 where there is no interface.
    pub mtu: u32,
}

impl Attachment {
    /// The attachment of an endpoint without an interface.
    #[must_use]
    pub fn blank(endpoint: &EndpointSpec) -> Self {
        Self {
            endpoint: endpoint.endpoint.clone(),
            network: endpoint.network.clone(),
            interface: None,
            host_interface: None,
            mac: None,
            addresses: Vec::new(),
            link_locals: Vec::new(),
            gateways: Vec::new(),
            routes: Vec::new(),
            mtu: 0,
        }
    }
}
