//! Who can reach a published port, as far as the host's own rules say. Pure.

use std::net::{IpAddr, SocketAddr};

use sampan_sys::nft::{Family, ForeignTable};

use super::evaluate::{Fate, Probe, fate};
use crate::firewall::{Exposure, Forward};

/// What the tables of others filter.
#[derive(Debug, Clone, Default)]
pub(in crate::firewall::nft) struct HostRules {
    /// At the hook input; nothing where published ports don't obey it.
    pub input: Vec<ForeignTable>,
    /// At the hook forward.
    pub forward: Vec<ForeignTable>,
}

/// Who can reach a port.
pub(in crate::firewall::nft) fn exposure(rules: &HostRules, forward: &Forward) -> Exposure {
    if !forward.routed && forward.host_ip.is_loopback() {
        return Exposure::HostOnly;
    }
    let host = Some(forward.host_ip).filter(|ip| !ip.is_unspecified());
    let before = probe(forward, host, forward.host_port);
    let after = probe(forward, Some(forward.target.ip()), forward.target.port());
    let at_input = if forward.routed { Fate::Passes } else { fate(&rules.input, &before) };
    match (at_input, fate(&rules.forward, &after)) {
        (Fate::Ends(place), _) | (_, Fate::Ends(place)) => {
            Exposure::Blocked { table: place.table, chain: place.chain }
        }
        (Fate::Depends(place), _) | (_, Fate::Depends(place)) => {
            Exposure::Partly { table: place.table, chain: place.chain }
        }
        (Fate::Passes, Fate::Passes) => Exposure::Everyone,
    }
}

fn probe(forward: &Forward, destination: Option<IpAddr>, port: u16) -> Probe {
    let SocketAddr::V4(_) = forward.target else {
        return Probe::new(Family::Ipv6, forward.protocol.number(), destination, port);
    };
    Probe::new(Family::Ipv4, forward.protocol.number(), destination, port)
}
