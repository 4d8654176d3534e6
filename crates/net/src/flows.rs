//! Flows that a change makes wrong: a flow keeps the translation of its first
//! packet for as long as packets keep coming. Pure.
//!
//! Be aware:
//! - Only what is certainly wrong is forgotten. A TCP connection to a port
//!   that gets a destination is the host's own and stays: picked up in the
//!   middle, it would be led astray.
//! - An address may be somebody else's soon. [`StaleFlows::addresses`] have
//!   to be forgotten before they are given out again.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use sampan_sys::conntrack::Flow;

use crate::firewall::Forward;
use crate::ports::Protocol;

/// What has to be forgotten.
#[derive(Debug, Clone, Default)]
pub(crate) struct StaleFlows {
    /// Addresses that are out of use.
    addresses: HashSet<IpAddr>,
    /// By protocol and port that flows went to.
    ports: HashMap<(u8, u16), Vec<Stale>>,
}

/// Flows through one port.
#[derive(Debug, Clone, Copy)]
struct Stale {
    /// The host's address; none for a container that is reached by its own.
    host_ip: Option<IpAddr>,
    /// The container.
    target: SocketAddr,
    /// Whether flows to the target are meant, or flows to anybody else.
    to_target: bool,
}

impl StaleFlows {
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.ports.is_empty()
    }

    /// Flows that an address had part in.
    pub fn address(&mut self, address: IpAddr) {
        self.addresses.insert(address);
    }

    /// The addresses that are out of use.
    pub fn addresses(&self) -> impl Iterator<Item = &IpAddr> {
        self.addresses.iter()
    }

    /// Flows through ports that lead nowhere any more.
    pub fn removed<'a>(&mut self, forwards: impl Iterator<Item = &'a Forward>) {
        forwards.for_each(|f| self.port(f, true));
    }

    /// Flows that went elsewhere by ports that lead to a container now.
    pub fn added<'a>(&mut self, forwards: impl Iterator<Item = &'a Forward>) {
        let datagrams = |f: &&Forward| f.protocol != Protocol::Tcp && !f.routed;
        forwards.filter(datagrams).for_each(|f| self.port(f, false));
    }

    fn port(&mut self, forward: &Forward, to_target: bool) {
        let (host_ip, port) = match forward.routed {
            true => (None, forward.target.port()),
            false => (Some(forward.host_ip), forward.host_port),
        };
        let stale = Stale { host_ip, target: forward.target, to_target };
        self.ports.entry((forward.protocol.number(), port)).or_default().push(stale);
    }

    /// Adds what `other` has.
    pub fn merge(&mut self, other: Self) {
        self.addresses.extend(other.addresses);
        for (port, stale) in other.ports {
            self.ports.entry(port).or_default().extend(stale);
        }
    }

    /// Whether a flow has to be forgotten. `local` says which addresses are
    /// the host's.
    pub fn contains(&self, flow: &Flow, local: &HashSet<IpAddr>) -> bool {
        let (sent_to, answered_by) = (flow.original.destination, flow.reply.source);
        if self.addresses.contains(&flow.original.source.ip())
            || self.addresses.contains(&answered_by.ip())
        {
            return true;
        }
        let through = |stale: &Stale| match stale.host_ip {
            None => sent_to == stale.target,
            Some(ip) if ip.is_unspecified() => {
                ip.is_ipv4() == sent_to.is_ipv4()
                    && (local.contains(&sent_to.ip()) || sent_to.ip().is_loopback())
            }
            Some(ip) => ip == sent_to.ip(),
        };
        let ports = self.ports.get(&(flow.protocol, sent_to.port()));
        ports
            .into_iter()
            .flatten()
            .any(|stale| through(stale) && (answered_by == stale.target) == stale.to_target)
    }
}

#[cfg(test)]
mod tests {
    use sampan_sys::conntrack::Endpoints;

    use super::*;

    fn flow(protocol: Protocol, from: &str, to: &str, answered_by: &str) -> Flow {
        let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
        Flow {
            protocol: protocol.number(),
            original: Endpoints { source: parse(from), destination: parse(to) },
            reply: Endpoints { source: parse(answered_by), destination: parse(from) },
        }
    }

    fn forward(protocol: Protocol, host: &str, target: &str) -> Forward {
        let host: SocketAddr = host.parse().unwrap();
        Forward {
            protocol,
            host_ip: host.ip(),
            host_port: host.port(),
            target: target.parse().unwrap(),
            routed: false,
            owner: "c".into(),
        }
    }

    const CLIENT: &str = "10.9.0.9:4000";

    #[test]
    fn only_what_a_port_led_to_is_forgotten() {
        let local = HashSet::from(["10.9.0.1".parse().unwrap()]);
        let mut stale = StaleFlows::default();
        stale.removed([forward(Protocol::Tcp, "0.0.0.0:80", "172.17.0.2:8080")].iter());
        let has = |f: &Flow| stale.contains(f, &local);
        assert!(has(&flow(Protocol::Tcp, CLIENT, "10.9.0.1:80", "172.17.0.2:8080")));
        assert!(has(&flow(Protocol::Tcp, "127.0.0.1:9", "127.0.0.1:80", "172.17.0.2:8080")));
        assert!(!has(&flow(Protocol::Udp, CLIENT, "10.9.0.1:80", "172.17.0.2:8080")));
        assert!(!has(&flow(Protocol::Tcp, CLIENT, "10.9.0.1:80", "10.9.0.1:80")), "the host's");
        assert!(!has(&flow(Protocol::Tcp, CLIENT, "10.9.0.1:81", "172.17.0.2:8080")));
        assert!(!has(&flow(Protocol::Tcp, CLIENT, "172.17.0.2:8080", "172.17.0.2:8080")));
    }

    #[test]
    fn datagrams_that_went_elsewhere_are_forgotten() {
        let local = HashSet::from(["10.9.0.1".parse().unwrap()]);
        let mut stale = StaleFlows::default();
        let added = |p| forward(p, "10.9.0.1:53", "172.17.0.3:53");
        stale.added([added(Protocol::Udp), added(Protocol::Tcp)].iter());
        let has = |f: &Flow| stale.contains(f, &local);
        assert!(has(&flow(Protocol::Udp, CLIENT, "10.9.0.1:53", "172.17.0.2:53")));
        assert!(has(&flow(Protocol::Udp, CLIENT, "10.9.0.1:53", "10.9.0.1:53")));
        assert!(!has(&flow(Protocol::Udp, CLIENT, "10.9.0.1:53", "172.17.0.3:53")), "right");
        assert!(!has(&flow(Protocol::Tcp, CLIENT, "10.9.0.1:53", "10.9.0.1:53")));
        assert!(!has(&flow(Protocol::Udp, CLIENT, "10.9.0.5:53", "172.17.0.2:53")));
    }

    #[test]
    fn an_address_out_of_use_has_no_flows() {
        let mut stale = StaleFlows::default();
        stale.address("fd00::2".parse().unwrap());
        let has = |f: &Flow| stale.contains(f, &HashSet::new());
        assert!(has(&flow(Protocol::Tcp, "[fd00::2]:9", "[2001:db8::1]:80", "[2001:db8::1]:80")));
        assert!(has(&flow(Protocol::Tcp, "[2001:db8::1]:9", "[2001:db8::2]:80", "[fd00::2]:80")));
        assert!(!has(&flow(Protocol::Tcp, "[fd00::3]:9", "[2001:db8::1]:80", "[2001:db8::1]:80")));
    }
}
