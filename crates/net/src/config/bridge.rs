//! Bridge networks as they shall be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use sampan_types::NetworkId;
use serde::{Deserialize, Serialize};

use super::{EndpointSpec, INTERFACE_NAME_MAX, RouteSpec, Subnet, check_interface_name};
use crate::error::NetError;
use crate::ipam::overlap;

/// What the kernel allows for IPv4 (`ETH_MIN_MTU`), for IPv6
/// (`IPV6_MIN_MTU`), and of a bridge (`ETH_MAX_MTU`).
const MTU_MIN: u32 = 68;
const MTU_MIN_IPV6: u32 = 1280;
const MTU_MAX: u32 = 65535;

/// `GSO_LEGACY_MAX_SIZE`: what every link takes at once.
const GSO_LEGACY_MAX_SIZE: u32 = 65_536;
/// `GSO_MAX_SIZE`: what a pair of links takes at most.
const GSO_MAX_SIZE: u32 = 524_280;
/// Between containers larger ones gain nothing more (`docs/performance.md`).
const GSO_INTERNAL_SIZE: u32 = 196_608;

/// One bridge network. The default bridge is just one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeConfig {
    /// The bridge interface's name, at most 15 bytes.
    pub bridge: String,
    /// The subnets; an endpoint has an address of one for each family.
    pub subnets: Vec<Subnet>,
    /// The largest packet in bytes.
    pub mtu: u32,
    /// The most bytes that a container hands to its link at once, to be cut
    /// into packets where they leave the host; see
    /// [`BridgeConfig::gso_max_size`].
    #[serde(default)]
    pub gso_max_size: Option<u32>,
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
    /// Interfaces of the host from which every port is reached by the
    /// containers' own addresses.
    #[serde(default)]
    pub trusted: Vec<String>,
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
            gso_max_size: None,
            icc: true,
            masquerade: true,
            internal: false,
            gateway_mode_ipv4: GatewayMode::Nat,
            gateway_mode_ipv6: GatewayMode::Nat,
            inhibit_ipv4: false,
            host_ipv4: None,
            host_ipv6: None,
            interface_prefix: String::new(),
            trusted: Vec::new(),
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

    /// The most bytes that a container hands to its link at once. More make
    /// streams between containers faster, and those that leave the host slower:
    /// an interface of hardware takes 64 KiB, and the kernel cuts what is
    /// larger into packets by itself. Nothing leaves an internal network.
    #[must_use]
    pub fn gso_max_size(&self) -> u32 {
        let usual = if self.internal { GSO_INTERNAL_SIZE } else { GSO_LEGACY_MAX_SIZE };
        self.gso_max_size.unwrap_or(usual)
    }

    /// The subnet that contains `address`.
    #[must_use]
    pub fn subnet_of(&self, address: IpAddr) -> Option<&Subnet> {
        self.subnets.iter().find(|s| s.net.contains(&address))
    }

    /// The host's addresses with their prefix lengths.
    pub(crate) fn gateways(&self) -> impl Iterator<Item = IpNet> {
        let isolated = |v6| self.gateway_mode(v6) == GatewayMode::Isolated;
        let absent = [self.inhibit_ipv4 || isolated(false), isolated(true)];
        let present =
            self.subnets.iter().filter(move |s| !absent[usize::from(s.gateway.is_ipv6())]);
        present.map(|s| IpNet::new_assert(s.gateway, s.net.prefix_len()))
    }

    /// The way out by a family.
    pub(crate) fn gateway_mode(&self, v6: bool) -> GatewayMode {
        if v6 { self.gateway_mode_ipv6 } else { self.gateway_mode_ipv4 }
    }

    /// Whether containers have addresses of a family.
    pub(crate) fn has_family(&self, v6: bool) -> bool {
        self.subnets.iter().any(|s| s.gateway.is_ipv6() == v6)
    }

    /// The gateways that lead an endpoint with these addresses out; none of
    /// an internal network.
    pub(crate) fn ways_out(&self, addresses: &[IpNet]) -> Vec<IpAddr> {
        let of = |subnet: &&Subnet| addresses.iter().any(|a| subnet.net.contains(&a.addr()));
        self.subnets.iter().filter(|_| !self.internal).filter(of).map(|s| s.gateway).collect()
    }

    /// The other subnets of an endpoint's families: neighbours on the same
    /// bridge, reached directly.
    pub(crate) fn neighbours(&self, addresses: &[IpNet]) -> Vec<RouteSpec> {
        let other = |subnet: &&Subnet| {
            let mut own =
                addresses.iter().filter(|a| a.addr().is_ipv4() == subnet.gateway.is_ipv4());
            own.next().is_some_and(|a| !subnet.net.contains(&a.addr()))
        };
        let route = |s: &Subnet| RouteSpec { destination: Some(s.net), gateway: None };
        self.subnets.iter().filter(other).map(route).collect()
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
        for v4 in [true, false] {
            if endpoint.addresses.iter().filter(|a| a.is_ipv4() == v4).count() > 1 {
                let family = if v4 { 4 } else { 6 };
                return Err(invalid(format!("more than one IPv{family} address")));
            }
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
        let least = if self.has_family(true) { MTU_MIN_IPV6 } else { MTU_MIN };
        if !(least..=MTU_MAX).contains(&self.mtu) {
            let mtu = self.mtu;
            return invalid(format!("an MTU of {mtu} is out of the range {least} to {MTU_MAX}"));
        }
        let sizes = GSO_LEGACY_MAX_SIZE..=GSO_MAX_SIZE;
        if let Some(size) = self.gso_max_size.filter(|size| !sizes.contains(size)) {
            let (least, most) = sizes.into_inner();
            return invalid(format!(
                "a GSO size of {size} bytes is out of the range {least} to {most}"
            ));
        }
        if self.interface_prefix.len() > INTERFACE_NAME_MAX - 3 {
            return invalid(format!(
                "the prefix {:?} leaves no room for a number in the name of an interface",
                self.interface_prefix
            ));
        }
        if !self.interface_prefix.is_empty()
            && let Err(reason) = check_interface_name(&self.interface_prefix)
        {
            return invalid(reason);
        }
        if let Err(reason) = self.check_trusted() {
            return invalid(reason);
        }
        for v6 in [false, true] {
            if self.gateway_mode(v6) == GatewayMode::Isolated && !self.internal {
                let family = if v6 { 6 } else { 4 };
                return invalid(format!(
                    "gateway mode isolated for IPv{family} is for internal networks only"
                ));
            }
        }
        let sources = [self.host_ipv4.map(IpAddr::V4), self.host_ipv6.map(IpAddr::V6)];
        for source in sources.into_iter().flatten() {
            if source.is_unspecified() || source.is_multicast() || source.is_loopback() {
                return invalid(format!("{source} can't be the source of what leaves the host"));
            }
        }
        match self.check_subnets() {
            Ok(()) => Ok(()),
            Err(reason) => invalid(reason),
        }
    }

    fn check_trusted(&self) -> Result<(), String> {
        for (at, name) in self.trusted.iter().enumerate() {
            check_interface_name(name)?;
            if *name == self.bridge || self.trusted[..at].contains(name) {
                return Err(format!(
                    "{name} can't be trusted: it is the network's own, or named twice"
                ));
            }
        }
        if self.internal && !self.trusted.is_empty() {
            return Err(
                "interfaces can't be trusted by an internal network: it has no way in".to_owned()
            );
        }
        Ok(())
    }

    fn check_subnets(&self) -> Result<(), String> {
        if self.subnets.is_empty() {
            return Err("a bridge needs a subnet".to_owned());
        }
        for (i, s) in self.subnets.iter().enumerate() {
            if s.net != s.net.trunc() {
                return Err(format!("{} has host bits set", s.net));
            }
            if !s.net.contains(&s.gateway) {
                return Err(format!("gateway {} is not in {}", s.gateway, s.net));
            }
            if s.net.prefix_len() + 2 > s.net.max_prefix_len() {
                return Err(format!("{} has no room for a container", s.net));
            }
            if let Some(other) = self.subnets[..i].iter().find(|o| overlap(&o.net, &s.net)) {
                return Err(format!("subnets {} and {} overlap", other.net, s.net));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_types::EndpointId;

    fn subnet(gateway: &str) -> Subnet {
        let gateway: IpNet = gateway.parse().unwrap();
        Subnet { net: gateway.trunc(), gateway: gateway.addr() }
    }

    fn dual() -> BridgeConfig {
        let mut config = BridgeConfig::new("br-test", subnet("10.1.0.1/24"));
        config.subnets.extend([subnet("10.2.0.1/24"), subnet("fd00:1::1/64")]);
        config
    }

    #[test]
    fn an_endpoint_leaves_by_the_gateways_of_its_own_subnets() {
        let config = dual();
        let network = NetworkId::random();
        let endpoint = |list: &[&str]| {
            let addresses = list.iter().map(|a| a.parse().unwrap()).collect();
            EndpointSpec::new(EndpointId::random(), network.clone(), addresses)
        };
        let both = config.with_prefixes(&endpoint(&["10.2.0.9", "fd00:1::9"]), "x").unwrap();
        let gateways: Vec<IpAddr> = vec!["10.2.0.1".parse().unwrap(), "fd00:1::1".parse().unwrap()];
        assert_eq!(config.ways_out(&both), gateways);
        let near = RouteSpec { destination: "10.1.0.0/24".parse().ok(), gateway: None };
        assert_eq!(config.neighbours(&both), [near]);
        let six = config.with_prefixes(&endpoint(&["fd00:1::9"]), "x").unwrap();
        assert_eq!(config.ways_out(&six), gateways[1..]);
        assert_eq!(config.neighbours(&six), []);
        for wrong in [&["10.1.0.9", "10.2.0.9"][..], &["10.3.0.9"], &[]] {
            assert!(config.with_prefixes(&endpoint(wrong), "x").is_err(), "{wrong:?}");
        }
        let internal = BridgeConfig { internal: true, ..config };
        assert_eq!(internal.ways_out(&both), Vec::<IpAddr>::new());
    }

    #[test]
    fn the_host_has_no_address_where_it_shall_have_none() {
        let gateways =
            |config: BridgeConfig| config.gateways().map(|g| g.to_string()).collect::<Vec<_>>();
        assert_eq!(gateways(dual()), ["10.1.0.1/24", "10.2.0.1/24", "fd00:1::1/64"]);
        assert_eq!(gateways(BridgeConfig { inhibit_ipv4: true, ..dual() }), ["fd00:1::1/64"]);
        let isolated = BridgeConfig { gateway_mode_ipv6: GatewayMode::Isolated, ..dual() };
        assert_eq!(gateways(isolated), ["10.1.0.1/24", "10.2.0.1/24"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        type Change = fn(&mut BridgeConfig);
        let wrong: [(&str, Change); 12] = [
            ("named twice", |c| c.trusted = vec!["eth0".to_owned(), "eth0".to_owned()]),
            ("no name for an interface", |c| c.trusted = vec![String::new()]),
            ("no way in", |c| (c.internal, c.trusted) = (true, vec!["eth0".to_owned()])),
            ("overlap", |c| c.subnets.push(subnet("10.1.0.129/25"))),
            ("out of the range 1280", |c| c.mtu = 1279),
            ("out of the range", |c| c.mtu = 65536),
            ("internal networks only", |c| c.gateway_mode_ipv6 = GatewayMode::Isolated),
            ("no room for a number", |c| c.interface_prefix = "long-interface".to_owned()),
            ("without blank", |c| c.interface_prefix = "a b".to_owned()),
            ("source", |c| c.host_ipv4 = Some(Ipv4Addr::LOCALHOST)),
            ("no room for a container", |c| c.subnets.push(subnet("fd00:2::1/127"))),
            ("needs a subnet", |c| c.subnets.clear()),
        ];
        dual().validate("x").unwrap();
        for (what, change) in wrong {
            let mut config = dual();
            change(&mut config);
            let error = config.validate("x").unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        let mut four = BridgeConfig::new("br-test", subnet("10.1.0.1/24"));
        four.mtu = 68;
        four.validate("x").unwrap();
    }
}
