//! What containers may send to whom, as the firewall carries it out: rules with
//! the addresses of the containers that they are about.
//!
//! Be aware:
//! - Selecting containers by label or name is the caller's part, who says so
//!   before a container's sandbox is joined: no packet passes without.
//! - Rules are looked at in their order. Of those that allow or deny, the first
//!   that fits decides, once for what a container sends and once for what it
//!   receives; of those that give a source address, the first as well. What
//!   none fits may pass, as far as the networks let it.
//! - A rule is about flows, and a flow is what began it: answers share its fate,
//!   with every packet. A flow that a new rule denies stops at once.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::ports::Protocol;

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRule {
    /// Its name, unique, of letters, digits, `_`, `.` and `-`; for sets,
    /// comments and counters.
    pub name: String,
    /// The addresses of the containers that it is about.
    pub subjects: Vec<IpAddr>,
    /// Which of their flows.
    pub direction: Direction,
    /// Who is at the other end; anybody when absent, nobody when empty.
    pub peers: Option<Vec<Peer>>,
    /// The ports of the flow's destination; empty for all of them, and for
    /// protocols without ports.
    pub ports: Vec<PortMatch>,
    /// What becomes of it.
    pub action: Action,
}

/// Which flows of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// That others begin.
    Ingress,
    /// That it begins.
    Egress,
}

/// The other end of a flow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Peer {
    /// Addresses of containers, or of the world.
    Net(IpNet),
    /// The addresses that containers were told for a DNS name: `example.org`
    /// or `*.example.org`, in lower case. Egress only.
    Name(String),
    /// The host itself.
    Host,
}

/// Ports of a flow's destination, behind any translation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMatch {
    /// The protocol.
    pub protocol: Protocol,
    /// The ports.
    pub ports: RangeInclusive<u16>,
}

/// What becomes of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It passes.
    Allow,
    /// It does not.
    Deny,
    /// It leaves the host with this address. Egress only.
    Source(IpAddr),
}

/// What a rule met.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyCount {
    /// The rule's name.
    pub name: String,
    /// Packets, the answers included; of rules that give a source address,
    /// flows.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What rules denied to a container: packets of flows that it began or that
/// others began with it, whichever the rule was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeniedCount {
    /// Its address.
    pub address: IpAddr,
    /// Packets, since it came under policy.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl PolicyRule {
    /// Whether the rule lets through or stops, rather than to translate.
    #[must_use]
    pub fn is_verdict(&self) -> bool {
        matches!(self.action, Action::Allow | Action::Deny)
    }
}
