//! Who can reach a published port, as far as the host's own rules say. Pure.

use std::net::{IpAddr, SocketAddr};

use sampan_sys::iptables::{LegacyChain, LegacyHook};
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

/// Who can reach a port. `legacy` is beside the rules: nobody tells when it
/// changes.
pub(in crate::firewall::nft) fn exposure(
    rules: &HostRules,
    legacy: &[LegacyChain],
    forward: &Forward,
) -> Exposure {
    let is_led = forward.host_ip.is_ipv6() && forward.target.is_ipv4();
    if !forward.routed && (forward.host_ip.is_loopback() || is_led) {
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
        _ if let Some(chain) = unread(legacy, forward) => {
            Exposure::Unknown { table: chain.table(), chain: chain.hook.chain().to_owned() }
        }
        (Fate::Depends(place), _) | (_, Fate::Depends(place)) => {
            Exposure::Partly { table: place.table, chain: place.chain }
        }
        (Fate::Passes, Fate::Passes) => Exposure::Everyone,
    }
}

/// The first chain of iptables-legacy that a port's packets pass.
fn unread<'a>(legacy: &'a [LegacyChain], forward: &Forward) -> Option<&'a LegacyChain> {
    legacy.iter().find(|chain| {
        let passed = chain.hook == LegacyHook::Forward || !forward.routed;
        passed && chain.ipv6 == forward.target.is_ipv6()
    })
}

fn probe(forward: &Forward, destination: Option<IpAddr>, port: u16) -> Probe {
    let SocketAddr::V4(_) = forward.target else {
        return Probe::new(Family::Ipv6, forward.protocol.number(), destination, port);
    };
    Probe::new(Family::Ipv4, forward.protocol.number(), destination, port)
}
