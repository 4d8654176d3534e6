//! Which connections of the host by IPv6 are led where: pure.
//!
//! Be aware:
//! - A port without an address (`0.0.0.0`) that leads to an address of IPv4
//!   is reached at every address of the host's, by way of 127.0.0.1. One of a
//!   single address of IPv4 is not.
//! - A port of IPv6 that leads to an address of IPv6 needs no help, and nobody
//!   else has it; but for `::1`, where answers to it would be lost.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sampan_sys::bpf::Place;

use crate::firewall::Forward;
use crate::ports::Protocol;

/// Where sockets go instead: an address and a port.
pub(super) type Led = (Ipv6Addr, u16);

/// What goes there goes on as it is.
const ALONE: Led = (Ipv6Addr::UNSPECIFIED, 0);

/// Whether it leads anywhere.
pub(super) fn leads(led: Led) -> bool {
    led != ALONE
}

/// The places of one protocol and port of the host. `loopback6` says whether
/// what is sent to `::1` can be answered by a container.
pub(super) fn places(
    forwards: impl Iterator<Item = Forward> + Clone,
    loopback6: bool,
) -> BTreeMap<Place, Led> {
    let has_hooks = |f: &Forward| matches!(f.protocol, Protocol::Tcp | Protocol::Udp);
    let forwards = forwards.filter(|f| !f.routed && has_hooks(f));
    let mut places = BTreeMap::new();
    for forward in forwards.clone() {
        let IpAddr::V6(host) = forward.host_ip else { continue };
        let (place, port) = (place(&forward, host), forward.target.port());
        match forward.target.ip() {
            IpAddr::V4(target) => drop(places.insert(place, (target.to_ipv6_mapped(), port))),
            IpAddr::V6(target) => {
                places.insert(place, ALONE);
                let is_lost = !loopback6 && (host.is_unspecified() || host.is_loopback());
                if is_lost && !target.is_unicast_link_local() {
                    places.insert(Place { address: Ipv6Addr::LOCALHOST, ..place }, (target, port));
                }
            }
        }
    }
    for forward in forwards {
        if forward.host_ip.is_ipv4() && forward.host_ip.is_unspecified() {
            let local = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
            let every = place(&forward, Ipv6Addr::UNSPECIFIED);
            places.entry(every).or_insert((local, forward.host_port));
        }
    }
    if !places.values().any(|led| leads(*led)) {
        places.clear();
    }
    places
}

fn place(forward: &Forward, address: Ipv6Addr) -> Place {
    Place { protocol: forward.protocol.number(), address, port: forward.host_port }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(host: &str, target: &str) -> Forward {
        Forward {
            protocol: Protocol::Tcp,
            host_ip: host.parse().unwrap(),
            host_port: 8080,
            target: target.parse().unwrap(),
            routed: false,
            owner: "c".into(),
        }
    }

    /// Address and where it leads, in the order of addresses.
    fn led(forwards: &[Forward], loopback6: bool) -> Vec<(String, String)> {
        let places = places(forwards.iter().cloned(), loopback6);
        let text = |(place, (address, port)): (Place, Led)| {
            assert_eq!((place.protocol, place.port), (6, 8080));
            (place.address.to_string(), format!("{address} {port}"))
        };
        places.into_iter().map(text).collect()
    }

    fn are(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn a_port_of_all_addresses_is_one_of_ipv6_as_well() {
        let four = forward("0.0.0.0", "172.17.0.2:80");
        assert_eq!(led(&[four], true), are(&[("::", "::ffff:127.0.0.1 8080")]));
        for other in ["127.0.0.1", "10.0.0.1"] {
            assert_eq!(led(&[forward(other, "172.17.0.2:80")], false), are(&[]));
        }
        let routed = Forward { routed: true, ..forward("0.0.0.0", "172.17.0.2:80") };
        let sctp = Forward { protocol: Protocol::Sctp, ..forward("0.0.0.0", "172.17.0.2:80") };
        assert_eq!(led(&[routed, sctp], true), are(&[]));
    }

    #[test]
    fn a_port_of_an_address_of_ipv6_leads_to_one_of_ipv4() {
        for host in ["::", "::1", "fd99::1"] {
            let one = forward(host, "172.17.0.2:80");
            assert_eq!(led(&[one], true), are(&[(host, "::ffff:172.17.0.2 80")]));
        }
    }

    #[test]
    fn what_ipv6_does_itself_is_left_to_it() {
        let both = [forward("0.0.0.0", "172.17.0.2:80"), forward("::", "[fd60::2]:80")];
        assert_eq!(led(&both, true), are(&[]), "nothing to do");
        let lost = [("::", ":: 0"), ("::1", "fd60::2 80")];
        assert_eq!(led(&both, false), are(&lost));
        assert_eq!(led(&both[1..], false), are(&lost));
        let others = [forward("0.0.0.0", "172.17.0.2:80"), forward("fd99::1", "[fd60::2]:80")];
        let expected = are(&[("::", "::ffff:127.0.0.1 8080"), ("fd99::1", ":: 0")]);
        assert_eq!(led(&others, false), expected, "the port of one address has another container");
        assert_eq!(led(&[forward("::", "[fe80::2]:80")], false), are(&[]));
    }
}
