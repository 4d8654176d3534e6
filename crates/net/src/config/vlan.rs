//! Networks whose interfaces sit on one of the host's: macvlan and ipvlan.

use serde::{Deserialize, Serialize};

use super::Subnet;

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
