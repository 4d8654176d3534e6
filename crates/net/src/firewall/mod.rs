//! The firewall seam: what lets packets into networks, out of them, and from
//! published ports to containers.
//!
//! Be aware:
//! - A firewall keeps what it was told and can restore it; it never touches
//!   what is not its own.
//! - Each call is one transaction: all of it, or nothing.

mod forwards;
mod nft;
#[cfg(test)]
mod noop;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use sampan_types::NetworkId;

pub use forwards::Forwards;
pub(crate) use nft::{NftFirewall, answers_reach_loopback6, is_own};
#[cfg(test)]
pub(crate) use noop::NoFirewall;

use crate::config::GatewayMode;
pub use crate::driver::BoxFuture;
use crate::error::NetError;
use crate::mac::MacAddr;
use crate::names::NameSet;
use crate::policy::{DeniedCount, PolicyCount, PolicyRule};
use crate::ports::Protocol;

/// What may pass into and out of a bridge network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkRules {
    /// The network.
    pub network: NetworkId,
    /// Its name, for comments.
    pub name: String,
    /// Its bridge.
    pub bridge: String,
    /// Its subnets.
    pub subnets: Vec<IpNet>,
    /// Whether containers on it may talk to each other.
    pub icc: bool,
    /// Whether what they send elsewhere leaves with the host's address.
    pub masquerade: bool,
    /// No way in or out.
    pub internal: bool,
    /// The way in and out by IPv4.
    pub gateway_mode_ipv4: GatewayMode,
    /// The way in and out by IPv6.
    pub gateway_mode_ipv6: GatewayMode,
    /// The source address of what leaves by IPv4, where `masquerade` would
    /// take that of the interface.
    pub host_ipv4: Option<Ipv4Addr>,
    /// As `host_ipv4`, by IPv6.
    pub host_ipv6: Option<Ipv6Addr>,
    /// Interfaces from which everything may enter.
    pub trusted: Vec<String>,
}

/// What a link opens between two containers of a network whose containers are
/// kept from each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkRule {
    /// The protocol.
    pub protocol: Protocol,
    /// Who may begin a flow.
    pub source: IpAddr,
    /// Where to.
    pub target: SocketAddr,
    /// Whose link it is, for the comment.
    pub owner: Arc<str>,
}

/// A port of the host that leads to a container.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Forward {
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address; the unspecified one for all of them.
    pub host_ip: IpAddr,
    /// The host's port.
    pub host_port: u16,
    /// The container's address and port.
    pub target: SocketAddr,
    /// Whether the container is reached by its own address and port only:
    /// nothing is translated, the host's address and port mean nothing.
    pub routed: bool,
    /// Whose it is, for the comment.
    pub owner: Arc<str>,
}

/// Everything that a firewall lets through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The networks.
    pub networks: Vec<NetworkRules>,
    /// The published ports.
    pub forwards: Forwards,
    /// What links open.
    pub links: BTreeSet<LinkRule>,
}

/// Policies, with what is known of the containers that they are about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicySet {
    /// The rules, in the order in which they are looked at.
    pub rules: Vec<PolicyRule>,
    /// The endpoints on bridges of containers that rules allow or deny
    /// something.
    pub guards: Vec<Guard>,
    /// The bridges of all networks.
    pub networks: Vec<String>,
}

/// An endpoint that is kept from going around the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// Its bridge.
    pub bridge: String,
    /// Its port of the bridge; none while it is not there yet.
    pub interface: Option<String>,
    /// Its hardware address.
    pub mac: MacAddr,
    /// Its addresses with their prefix lengths.
    pub addresses: Vec<IpNet>,
}

/// What [`Firewall::set_policies`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyOutcome {
    /// Whether the kernel had anything else.
    pub different: bool,
    /// Whether sets of names were made anew, and are empty.
    pub emptied: bool,
    /// The sets that the name service has to fill.
    pub names: Vec<NameSet>,
}

/// Who can reach a published port, as far as the host's rules say. What lies
/// between the host and others is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exposure {
    /// Whoever reaches the host.
    Everyone,
    /// The host itself.
    HostOnly,
    /// Nobody: it leads to no network.
    Nobody,
    /// Nobody from elsewhere: a chain of another table ends every packet.
    Blocked {
        /// The table with its family: `ip filter`.
        table: String,
        /// The chain.
        chain: String,
    },
    /// Some: a chain of another table decides by more than the port.
    Partly {
        /// The table with its family.
        table: String,
        /// The chain.
        chain: String,
    },
    /// Not known: a chain of iptables-legacy decides, whose rules are not read.
    Unknown {
        /// The table with its family.
        table: String,
        /// The chain.
        chain: String,
    },
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everyone => f.write_str("everyone"),
            Self::HostOnly => f.write_str("host only"),
            Self::Nobody => f.write_str("nobody"),
            Self::Blocked { table, chain } => write!(f, "blocked by {table} {chain}"),
            Self::Partly { table, chain } => write!(f, "partly: {table} {chain} decides"),
            Self::Unknown { table, chain } => {
                write!(f, "unknown: rules of iptables-legacy are not read ({table} {chain})")
            }
        }
    }
}

/// A packet filter with address translation.
pub trait Firewall: Send + Sync {
    /// Takes over what an earlier run of the same instance left, published
    /// ports included, with `networks` as the networks. Nothing that is right
    /// is interrupted.
    fn adopt(&self, networks: Vec<NetworkRules>) -> BoxFuture<'_, Result<(), NetError>>;

    /// Makes `policy` all there is. Says whether anything was different.
    fn restore(&self, policy: Policy) -> BoxFuture<'_, Result<bool, NetError>>;

    /// Compares the kernel with what was told until now, and restores what
    /// differs. Says whether anything did.
    fn verify(&self) -> BoxFuture<'_, Result<bool, NetError>>;

    /// Whether the kernel has anything else than what was told until now.
    fn differs(&self) -> BoxFuture<'_, Result<bool, NetError>>;

    /// Whether published ports obey what the host filters at *input*.
    fn respects_host(&self) -> bool;

    /// Adds a network, or changes its rules.
    fn add_network(&self, rules: NetworkRules) -> BoxFuture<'_, Result<(), NetError>>;

    /// Removes a network's rules.
    fn remove_network<'a>(&'a self, network: &'a NetworkId) -> BoxFuture<'a, Result<(), NetError>>;

    /// Publishes ports.
    fn add_forwards(&self, forwards: Forwards) -> BoxFuture<'_, Result<(), NetError>>;

    /// Takes published ports back.
    fn remove_forwards(&self, forwards: Forwards) -> BoxFuture<'_, Result<(), NetError>>;

    /// Makes `links` all that links open.
    fn set_links(&self, links: BTreeSet<LinkRule>) -> BoxFuture<'_, Result<(), NetError>>;

    /// Who can reach published ports, in their order.
    fn exposure(&self, forwards: Vec<Forward>) -> BoxFuture<'_, Result<Vec<Exposure>, NetError>>;

    /// Makes `policies` all there are. With `compare`, the kernel is asked
    /// what it has, else it is believed to have what it was told. Until this is
    /// called, what an earlier run of the same instance left stays.
    fn set_policies(
        &self,
        policies: PolicySet,
        compare: bool,
    ) -> BoxFuture<'_, Result<PolicyOutcome, NetError>>;

    /// The sets that the name service fills for these rules.
    fn name_sets(&self, rules: &[PolicyRule]) -> Vec<NameSet>;

    /// What the policies' rules met, as far as they met anything.
    fn policy_counts(&self) -> BoxFuture<'_, Result<Vec<PolicyCount>, NetError>>;

    /// What the policies denied to containers, by their addresses.
    fn denied(&self) -> BoxFuture<'_, Result<Vec<DeniedCount>, NetError>>;
}
