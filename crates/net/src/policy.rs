//! What containers may send to whom, as the firewall carries it out: rules with
//! the addresses of the containers that they are about.
//!
//! Be aware:
//! - Selecting containers by label or name is the caller's part, who says so
//!   before a container's sandbox is joined: no packet passes without.
//! - Rules are looked at in their order, the first that fits decides. What
//!   none fits may pass, as far as the networks let it.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::ports::Protocol;

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRule {
    /// Its name, unique; for comments and counters.
    pub name: String,
    /// The addresses of the containers that it is about.
    pub subjects: Vec<IpAddr>,
    /// Which of their flows.
    pub direction: Direction,
    /// Who is at the other end; empty for anybody.
    pub peers: Vec<Peer>,
    /// The ports of the flow's destination; empty for all of them.
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Peer {
    /// Addresses of containers, or of the world.
    Net(IpNet),
    /// The addresses that the container was told for a DNS name: `example.org`
    /// or `*.example.org`. Egress only.
    Name(String),
}

/// Ports of a flow's destination.
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
