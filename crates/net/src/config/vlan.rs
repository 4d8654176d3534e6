//! Networks whose interfaces sit on one of the host's: macvlan and ipvlan.
//!
//! Be aware:
//! - Options that all drivers share beside the MTU (`com.docker.network.enable_ipv4`
//!   and the like) are the caller's: what is not named here is refused.
//! - Whether the parent exists is the kernel's to say, later.

mod options;

use std::net::IpAddr;

use ipnet::IpNet;
use sampan_types::NetworkId;
use serde::{Deserialize, Serialize};

use super::{DriverConfig, EndpointSpec, INTERFACE_NAME_MAX, Subnet};
use crate::error::NetError;

/// A macvlan network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacvlanConfig {
    /// The host's interface, or `eth0.10` for VLAN 10 on `eth0`, which is made
    /// when it is not there. None: a dummy, for containers among themselves.
    pub parent: Option<String>,
    /// How interfaces on the parent see each other.
    pub mode: MacvlanMode,
    /// The subnets.
    pub subnets: Vec<Subnet>,
    /// The largest packet in bytes; the parent's when absent.
    pub mtu: Option<u32>,
    /// No way out but to containers on it.
    pub internal: bool,
    /// Whether the host and the containers reach each other, which the kernel
    /// alone does not let them.
    pub host_access: bool,
    /// The host's addresses towards the containers; the parent's in the
    /// network's subnets when empty. The caller gives them to no container.
    #[serde(default)]
    pub host_addresses: Vec<IpAddr>,
}

/// `-o macvlan_mode=` (`IFLA_MACVLAN_MODE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MacvlanMode {
    /// They reach each other directly.
    #[default]
    Bridge,
    /// They don't.
    Private,
    /// By a switch that sends frames back.
    Vepa,
    /// One interface has the parent for itself.
    Passthru,
}

/// An ipvlan network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpvlanConfig {
    /// As [`MacvlanConfig::parent`].
    pub parent: Option<String>,
    /// Where packets are switched.
    pub mode: IpvlanMode,
    /// How interfaces on the parent see each other.
    pub flag: IpvlanFlag,
    /// The subnets.
    pub subnets: Vec<Subnet>,
    /// The largest packet in bytes; the parent's when absent.
    pub mtu: Option<u32>,
    /// No way out but to containers on it.
    pub internal: bool,
}

/// `-o ipvlan_mode=` (`IFLA_IPVLAN_MODE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanMode {
    /// By address on the link.
    #[default]
    L2,
    /// Routed, without the host's firewall.
    L3,
    /// Routed, through the host's firewall.
    L3s,
}

/// `-o ipvlan_flag=` (`IFLA_IPVLAN_FLAGS`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanFlag {
    /// They reach each other directly.
    #[default]
    Bridge,
    /// They don't.
    Private,
    /// By a switch that sends frames back.
    Vepa,
}

/// What macvlan and ipvlan networks have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SubInterfaces<'a> {
    /// `macvlan` or `ipvlan`.
    pub kind: &'static str,
    /// The parent that was asked for.
    pub parent: Option<&'a str>,
    /// The subnets.
    pub subnets: &'a [Subnet],
    /// The largest packet in bytes; the parent's when absent.
    pub mtu: Option<u32>,
    /// No route out.
    pub internal: bool,
    /// Whether only one network can have the parent.
    pub alone: bool,
    /// Whether the way out is the interface itself: there is no gateway.
    pub routed: bool,
    /// Whether an endpoint can have a hardware address of its own choice.
    pub own_mac: bool,
}

impl<'a> SubInterfaces<'a> {
    /// Of a network of one of the two drivers.
    pub fn of(driver: &'a DriverConfig) -> Option<Self> {
        match driver {
            DriverConfig::Macvlan(c) => Some(c.common()),
            DriverConfig::Ipvlan(c) => Some(c.common()),
            _ => None,
        }
    }

    /// The parent's name: the one asked for, or that of the link that is made
    /// for the network alone.
    pub fn parent_name(&self, network: &NetworkId) -> String {
        self.parent.map_or_else(|| format!("dm-{}", network.short()), str::to_owned)
    }

    /// `eth0` and 10, where the parent is `eth0.10`.
    pub fn vlan(&self) -> Option<(&'a str, u16)> {
        let (base, id) = self.parent?.rsplit_once('.')?;
        let digits = !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
        let id = id.parse().ok().filter(|id| digits && (1..=4094).contains(id))?;
        (!base.is_empty()).then_some((base, id))
    }

    /// Why this network and another one of the same instance can't both be,
    /// if they can't: what both would have.
    pub fn conflict(&self, other: &Self) -> Option<String> {
        let parent = self.parent.filter(|p| other.parent == Some(*p))?;
        (self.kind != other.kind || self.alone || other.alone)
            .then(|| format!("parent interface {parent}"))
    }

    /// The gateways that lead out; none where there is no route out, or none
    /// by a gateway.
    pub fn ways_out(&self, addresses: &[IpNet]) -> Vec<IpAddr> {
        let has_way = !self.internal && !self.routed;
        let subnet = |a: &IpNet| self.subnets.iter().find(|s| s.net.contains(&a.addr()));
        addresses.iter().filter(|_| has_way).filter_map(subnet).map(|s| s.gateway).collect()
    }

    /// The addresses of an endpoint with their prefix lengths.
    pub fn with_prefixes(
        &self,
        endpoint: &EndpointSpec,
        network: &str,
    ) -> Result<Vec<IpNet>, NetError> {
        let invalid = |reason| NetError::InvalidEndpoint { network: network.to_owned(), reason };
        if endpoint.addresses.is_empty() {
            return Err(invalid("no address is given".to_owned()));
        }
        if let Some(mac) = endpoint.mac {
            if !self.own_mac {
                let kind = self.kind;
                return Err(invalid(format!(
                    "its interfaces have their parent's MAC address, {mac} can't be set: leave \
                     --mac-address out, or use a macvlan network in mode bridge ({kind} here)"
                )));
            }
            if !mac.is_unicast() {
                let reason = format!("{mac} is a group's address, no interface can have it");
                return Err(invalid(reason));
            }
        }
        let prefixed =
            |address: &IpAddr| match self.subnets.iter().find(|s| s.net.contains(address)) {
                Some(subnet) => Ok(IpNet::new_assert(*address, subnet.net.prefix_len())),
                None => Err(invalid(format!("address {address} is in no subnet of the network"))),
            };
        endpoint.addresses.iter().map(prefixed).collect()
    }

    /// Refuses what the kernel would refuse later, or what makes no sense.
    pub fn validate(&self, network: &str) -> Result<(), NetError> {
        let invalid =
            |reason: String| Err(NetError::InvalidNetwork { network: network.to_owned(), reason });
        if let Some(parent) = self.parent {
            let unusable = |b: u8| !b.is_ascii_graphic() || b == b'/' || b == b':';
            if parent.is_empty() || matches!(parent, "." | "..") || parent.bytes().any(unusable) {
                return invalid(format!("{parent:?} is no name of an interface (option parent)"));
            }
            if parent.len() > INTERFACE_NAME_MAX {
                return invalid(format!(
                    "parent interface {parent:?} has a name of {} bytes, the kernel allows \
                     {INTERFACE_NAME_MAX}",
                    parent.len()
                ));
            }
            if parent == "lo" {
                let kind = self.kind;
                return invalid(format!("the loopback interface can be no parent of {kind}"));
            }
        }
        self.validate_subnets(network)
    }

    fn validate_subnets(&self, network: &str) -> Result<(), NetError> {
        let invalid =
            |reason: String| Err(NetError::InvalidNetwork { network: network.to_owned(), reason });
        if self.subnets.is_empty() {
            return invalid("it needs a subnet".to_owned());
        }
        let least = if self.subnets.iter().any(|s| s.net.addr().is_ipv6()) { 1280 } else { 68 };
        if let Some(mtu) = self.mtu.filter(|m| !(least..=65535).contains(m)) {
            return invalid(format!("an MTU of {mtu} is out of the range {least} to 65535"));
        }
        for s in self.subnets {
            if s.net != s.net.trunc() {
                return invalid(format!("{} has host bits set", s.net));
            }
            if !self.routed && !s.net.contains(&s.gateway) {
                return invalid(format!("gateway {} is not in {}", s.gateway, s.net));
            }
        }
        Ok(())
    }
}

impl DriverConfig {
    /// Whether endpoints have hardware addresses that can be chosen, rather
    /// than that of the interface that they sit on, or none.
    #[must_use]
    pub fn has_own_mac(&self) -> bool {
        match self {
            Self::Host | Self::None => false,
            other => SubInterfaces::of(other).is_none_or(|upper| upper.own_mac),
        }
    }

    /// Whether what leaves the network does so by a gateway, if it can leave.
    #[must_use]
    pub fn has_gateway(&self) -> bool {
        SubInterfaces::of(self).is_none_or(|upper| !upper.routed)
    }
}

impl MacvlanConfig {
    fn common(&self) -> SubInterfaces<'_> {
        let passthru = self.mode == MacvlanMode::Passthru;
        SubInterfaces {
            kind: "macvlan",
            parent: self.parent.as_deref(),
            subnets: &self.subnets,
            mtu: self.mtu,
            internal: self.internal,
            alone: passthru,
            routed: false,
            own_mac: !passthru,
        }
    }

    /// Refuses what can't work, before anything is done.
    ///
    /// # Errors
    /// [`NetError::InvalidNetwork`] with the reason.
    pub fn validate(&self, network: &str) -> Result<(), NetError> {
        self.common().validate(network)?;
        let invalid =
            |reason: String| Err(NetError::InvalidNetwork { network: network.to_owned(), reason });
        if !self.host_access {
            return match self.host_addresses.as_slice() {
                [] => Ok(()),
                _ => invalid("option host_address needs host_access=true".to_owned()),
            };
        }
        if self.mode != MacvlanMode::Bridge {
            return invalid(format!(
                "option host_access needs macvlan_mode=bridge: in mode {} interfaces on one \
                 parent don't reach each other",
                self.mode.name()
            ));
        }
        for (i, address) in self.host_addresses.iter().enumerate() {
            let subnet = self.subnets.iter().find(|s| s.net.contains(address));
            let Some(subnet) = subnet else {
                return invalid(format!("host address {address} is in no subnet of the network"));
            };
            if subnet.gateway == *address {
                return invalid(format!("host address {address} is the gateway's"));
            }
            if self.host_addresses[..i].iter().any(|o| o.is_ipv4() == address.is_ipv4()) {
                return invalid("more than one host address of the same family".to_owned());
            }
        }
        Ok(())
    }
}

impl IpvlanConfig {
    fn common(&self) -> SubInterfaces<'_> {
        SubInterfaces {
            kind: "ipvlan",
            parent: self.parent.as_deref(),
            subnets: &self.subnets,
            mtu: self.mtu,
            internal: self.internal,
            // The mode is the parent's, not the single interface's.
            alone: true,
            routed: self.mode != IpvlanMode::L2,
            own_mac: false,
        }
    }

    /// Refuses what can't work, before anything is done.
    ///
    /// # Errors
    /// [`NetError::InvalidNetwork`] with the reason.
    pub fn validate(&self, network: &str) -> Result<(), NetError> {
        self.common().validate(network)
    }
}
