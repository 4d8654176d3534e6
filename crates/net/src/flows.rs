//! Flows that a change makes wrong: a flow keeps the translation of its first
//! packet for as long as packets keep coming. Pure.
//!
//! Be aware:
//! - Only what is certainly wrong is forgotten. A TCP connection to a port
//!   that gets a destination is the host's own and stays: picked up in the
//!   middle, it would be led astray.
//! - An address may be somebody else's soon. [`StaleFlows::addresses`] have
//!   to be forgotten before they are given out again.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use sampan_sys::conntrack::Flow;

use crate::firewall::{Forward, Forwards, LinkRule};
use crate::ports::Protocol;

/// What has to be forgotten.
#[derive(Debug, Clone, Default)]
pub(crate) struct StaleFlows {
    /// Addresses that are out of use.
    addresses: HashSet<IpAddr>,
    /// Ports that lead nowhere any more.
    removed: Forwards,
    /// Ports that lead to a container now, of protocols with datagrams.
    added: Forwards,
    /// Ways that links open no longer.
    unlinked: Vec<LinkRule>,
}

impl StaleFlows {
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
            && self.removed.is_empty()
            && self.added.is_empty()
            && self.unlinked.is_empty()
    }

    /// How many ports are concerned.
    pub fn ports(&self) -> usize {
        self.removed.len() + self.added.len() + self.unlinked.len()
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
    pub fn removed(&mut self, forwards: Forwards) {
        self.removed.extend(forwards);
    }

    /// Flows that went elsewhere by ports that lead to a container now.
    pub fn added(&mut self, forwards: &Forwards) {
        self.added.extend(forwards.iter().filter(|f| f.protocol != Protocol::Tcp && !f.routed));
    }

    /// Flows that a link opened the way for, and no longer does.
    pub fn unlinked(&mut self, links: impl IntoIterator<Item = LinkRule>) {
        self.unlinked.extend(links);
    }

    /// Adds what `other` has.
    pub fn merge(&mut self, other: Self) {
        self.addresses.extend(other.addresses);
        self.removed.extend(other.removed);
        self.added.extend(other.added);
        self.unlinked.extend(other.unlinked);
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
        let Some(protocol) = Protocol::of_number(flow.protocol) else { return false };
        let through = |f: &Forward| {
            f.host_ip == sent_to.ip()
                || (f.host_ip.is_unspecified()
                    && f.host_ip.is_ipv4() == sent_to.is_ipv4()
                    && (local.contains(&sent_to.ip()) || sent_to.ip().is_loopback()))
        };
        let port = sent_to.port();
        let mut removed = self.removed.by_port(protocol, port).filter(|f| !f.routed);
        let mut added = self.added.by_port(protocol, port);
        let unlinked = |l: &LinkRule| {
            let from = flow.original.source.ip();
            l.protocol == protocol && l.source == from && l.target == sent_to
        };
        self.unlinked.iter().any(unlinked)
            || removed.any(|f| answered_by == f.target && through(&f))
            || added.any(|f| answered_by != f.target && through(&f))
            || (answered_by == sent_to && self.was_routed(protocol, sent_to))
    }

    /// Whether a container was reached there by its own address.
    fn was_routed(&self, protocol: Protocol, sent_to: SocketAddr) -> bool {
        self.removed.by_port(protocol, 0).any(|f| f.routed && f.target == sent_to)
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
        let gone = forward(Protocol::Tcp, "0.0.0.0:80", "172.17.0.2:8080");
        stale.removed(Forwards::from_iter([gone]));
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
        stale.added(&Forwards::from_iter([added(Protocol::Udp), added(Protocol::Tcp)]));
        let has = |f: &Flow| stale.contains(f, &local);
        assert!(has(&flow(Protocol::Udp, CLIENT, "10.9.0.1:53", "172.17.0.2:53")));
        assert!(has(&flow(Protocol::Udp, CLIENT, "10.9.0.1:53", "10.9.0.1:53")));
        assert!(!has(&flow(Protocol::Udp, CLIENT, "10.9.0.1:53", "172.17.0.3:53")), "right");
        assert!(!has(&flow(Protocol::Tcp, CLIENT, "10.9.0.1:53", "10.9.0.1:53")));
        assert!(!has(&flow(Protocol::Udp, CLIENT, "10.9.0.5:53", "172.17.0.2:53")));
    }

    #[test]
    fn flows_of_a_link_that_is_gone_are_forgotten() {
        let mut stale = StaleFlows::default();
        let source = "172.17.0.3".parse().unwrap();
        let target = "172.17.0.2:80".parse().unwrap();
        let owner = "c".into();
        stale.unlinked([LinkRule { protocol: Protocol::Tcp, source, target, owner }]);
        assert!(!stale.is_empty());
        let has = |f: &Flow| stale.contains(f, &HashSet::new());
        let to = |from: &str, to: &str| flow(Protocol::Tcp, from, to, to);
        assert!(has(&to("172.17.0.3:4000", "172.17.0.2:80")));
        assert!(!has(&to("172.17.0.3:4000", "172.17.0.2:81")));
        assert!(!has(&to("172.17.0.4:4000", "172.17.0.2:80")));
        assert!(!has(&to("172.17.0.2:80", "172.17.0.3:4000")));
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
