//! Bridge networks as they shall be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use sampan_types::NetworkId;
use serde::{Deserialize, Serialize};

use super::{EndpointSpec, Subnet, check_interface_name};
use crate::error::NetError;

/// One bridge network. The default bridge is just one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeConfig {
    /// The bridge interface's name, at most 15 bytes.
    pub bridge: String,
    /// The subnets; an endpoint has an address of one for each family.
    pub subnets: Vec<Subnet>,
    /// The largest packet in bytes.
    pub mtu: u32,
    /// Whether containers on it may talk to each other (`--icc`).
    pub icc: bool,
    /// Whether what containers send elsewhere leaves with the host's address.
    pub masquerade: bool,
    /// No way in or out but to containers on it and the host itself.
    pub internal: bool,
    /// The way out by IPv4.
    #[serde(default)]
    pub gateway_mode_ipv4: GatewayMode,
    /// The way out by IPv6.
    #[serde(default)]
    pub gateway_mode_ipv6: GatewayMode,
    /// The host gets no IPv4 address on the bridge: the gateway is somebody
    /// else's.
    #[serde(default)]
    pub inhibit_ipv4: bool,
    /// The source address of what leaves by IPv4, instead of that of the
    /// interface that it leaves by.
    #[serde(default)]
    pub host_ipv4: Option<Ipv4Addr>,
    /// As `host_ipv4`, by IPv6.
    #[serde(default)]
    pub host_ipv6: Option<Ipv6Addr>,
    /// What the names of interfaces inside begin with; `eth` when empty.
    #[serde(default)]
    pub interface_prefix: String,
}

/// How the outside and the containers of a network reach each other
/// (`com.docker.network.bridge.gateway_mode_ipv4` and `…_ipv6`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayMode {
    /// Through published ports inward, with the host's address outward.
    #[default]
    Nat,
    /// As `Nat`, and containers' addresses are reachable on every port from
    /// other networks of the host and from outside.
    NatUnprotected,
    /// By the containers' own addresses, published ports only.
    Routed,
    /// Not at all; the host itself has no address on the bridge. Internal
    /// networks only.
    Isolated,
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
            gateway_mode_ipv4: GatewayMode::Nat,
            gateway_mode_ipv6: GatewayMode::Nat,
            inhibit_ipv4: false,
            host_ipv4: None,
            host_ipv6: None,
            interface_prefix: String::new(),
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
        if let Err(reason) = check_interface_name(&self.bridge) {
            return invalid(reason);
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
