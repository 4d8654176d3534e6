//! Choosing a subnet for a network that asks for none.
//!
//! Be aware:
//! - What is in use is the caller's to say: other networks' subnets, and the
//!   destinations of the host's routes without the default one.
//! - The time is that of sorting what is taken, whatever the pools' size: a
//!   pool of /64s has more subnets than can be counted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha2::{Digest, Sha256};

use super::{address, number};

/// The length of the prefix of a subnet that is cut from [`ula`].
pub const ULA_SUBNET: u8 = 64;

/// The pools that IPv4 subnets come from when the configuration names none,
/// each with the length of the prefix of a network's subnet: Docker's first,
/// then smaller subnets for more than a thousand networks in what it uses,
/// and at last 10.0.0.0/8, of which others on the host's LAN may be part.
#[must_use]
pub fn default_pools() -> Vec<(IpNet, u8)> {
    let v4 = |a, b, bits| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), bits));
    let mut pools: Vec<(IpNet, u8)> = (17..=27).map(|b| (v4(172, b, 16), 16)).collect();
    pools.push((v4(172, 28, 14), 24));
    pools.push((v4(192, 168, 16), 20));
    pools.push((v4(10, 0, 8), 24));
    pools
}

/// The first subnet of the pools of one family that overlaps nothing in
/// `taken`.
#[must_use]
pub fn choose(pools: &[(IpNet, u8)], taken: &[IpNet], v6: bool) -> Option<IpNet> {
    let mut busy: Vec<(u128, u128)> =
        taken.iter().filter(|t| t.addr().is_ipv6() == v6).map(bounds).collect();
    busy.sort_unstable();
    pools
        .iter()
        .filter(|(base, _)| base.addr().is_ipv6() == v6)
        .find_map(|(base, bits)| first_free(*base, *bits, &busy))
}

/// The first subnet of `base` that overlaps none of `busy`, which is sorted.
fn first_free(base: IpNet, bits: u8, busy: &[(u128, u128)]) -> Option<IpNet> {
    if bits < base.prefix_len() || bits > base.max_prefix_len() {
        return None;
    }
    let (mut first, last) = bounds(&base);
    // The number of a subnet's last address less that of its first.
    let span = match u32::from(base.max_prefix_len() - bits) {
        128 => u128::MAX,
        host_bits => (1 << host_bits) - 1,
    };
    for (from, to) in busy {
        if *to < first {
            continue;
        }
        if *from > first + span {
            break;
        }
        // The subnet after the one that holds the end of what is in the way.
        first = (to | span).checked_add(1)?;
        if first > last {
            return None;
        }
    }
    IpNet::new(address(base, first), bits).ok()
}

/// The numbers of a network's first and last address.
fn bounds(net: &IpNet) -> (u128, u128) {
    (number(net.network()), number(net.broadcast()))
}

/// A /48 of unique local addresses (RFC 4193), always the same for a `seed`,
/// which is something that no other host has. IPv6 networks without a subnet
/// of the user's get a /64 of it.
#[must_use]
pub fn ula(seed: &str) -> IpNet {
    let digest = Sha256::digest(seed.as_bytes());
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&digest[..5]);
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from(octets), 48))
}

/// Whether two networks have an address in common.
#[must_use]
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The first address of a subnet that a host may have: its gateway's, unless
/// somebody names another one.
#[must_use]
pub fn first_host(net: &IpNet) -> Option<IpAddr> {
    let (first, last) = bounds(net);
    let pair = net.prefix_len() + 1 >= net.max_prefix_len();
    let host = if pair { first } else { first.checked_add(1)? };
    (host <= last).then(|| address(*net, host))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_follow_the_pools_and_avoid_what_is_taken() {
        let pools = default_pools();
        assert_eq!(choose(&pools, &[], false), Some(net("172.17.0.0/16")));
        let taken = [net("172.17.3.0/24"), net("172.16.0.0/12")];
        assert_eq!(choose(&pools, &taken, false), Some(net("192.168.0.0/20")));
        assert_eq!(choose(&pools, &[net("172.17.0.0/16")], false), Some(net("172.18.0.0/16")));
        assert_eq!(choose(&pools, &[net("0.0.0.0/0")], false), None);
        assert_eq!(choose(&pools, &[], true), None);
        let small = [(net("10.9.0.0/24"), 26)];
        let taken = [net("10.9.0.64/26"), net("10.9.0.1/32")];
        assert_eq!(choose(&small, &taken, false), Some(net("10.9.0.128/26")));
        assert_eq!(choose(&[(net("10.9.0.0/24"), 16)], &[], false), None);
    }

    #[test]
    fn there_is_room_for_a_thousand_networks_and_more() {
        let pools = default_pools();
        let mut taken = Vec::new();
        for _ in 0..1500 {
            let chosen = choose(&pools, &taken, false).unwrap();
            assert!(!taken.iter().any(|t| overlap(t, &chosen)));
            taken.push(chosen);
        }
    }

    #[test]
    fn ends_of_the_address_space_are_no_trap() {
        let all = [(net("::/0"), 0)];
        assert_eq!(choose(&all, &[], true), Some(net("::/0")));
        assert_eq!(choose(&all, &[net("::1/128")], true), None);
        let end = [(net("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00/120"), 124)];
        assert_eq!(choose(&end, &[net("ffff::/16")], true), None);
        assert_eq!(choose(&[(net("255.255.255.0/24"), 32)], &[net("255.0.0.0/8")], false), None);
    }

    #[test]
    fn a_host_has_a_prefix_of_its_own() {
        let mine = ula("4c4c4544-0042");
        assert_eq!(mine, ula("4c4c4544-0042"));
        assert_ne!(mine, ula("4c4c4544-0043"));
        assert!(net("fd00::/8").contains(&mine) && mine.prefix_len() == 48);
        let pools = [(mine, ULA_SUBNET)];
        let mut taken = Vec::new();
        for _ in 0..300 {
            let chosen = choose(&pools, &taken, true).unwrap();
            assert!(mine.contains(&chosen) && chosen.prefix_len() == ULA_SUBNET);
            assert!(!taken.contains(&chosen));
            taken.push(chosen);
        }
    }

    #[test]
    fn the_first_host_is_after_the_networks_own_address() {
        for (subnet, host) in [
            ("10.9.0.128/26", "10.9.0.129"),
            ("10.9.0.0/31", "10.9.0.0"),
            ("10.9.0.7/32", "10.9.0.7"),
            ("fd00::/64", "fd00::1"),
        ] {
            assert_eq!(first_host(&net(subnet)), Some(host.parse().unwrap()), "{subnet}");
        }
    }

    proptest! {
        /// The choice is what trying each subnet in turn finds.
        #[test]
        fn the_choice_is_the_first_that_fits(
            bits in 24u8..=30,
            taken in prop::collection::vec((any::<u8>(), 20u8..=32), 0..12),
            v6 in any::<bool>(),
        ) {
            let shift = if v6 { 96 } else { 0 };
            let at = |byte: u8, bits: u8| {
                let host = if v6 {
                    IpAddr::V6(Ipv6Addr::from((0xfd00 << 112) | u128::from(byte)))
                } else {
                    IpAddr::V4(Ipv4Addr::new(10, 1, 2, byte))
                };
                IpNet::new(host, bits + shift).unwrap().trunc()
            };
            let taken: Vec<IpNet> =
                taken.into_iter().filter(|(_, b)| *b > 24).map(|(a, b)| at(a, b)).collect();
            let base = at(0, 24);
            let slow = base
                .subnets(bits + shift)
                .unwrap()
                .find(|net| !taken.iter().any(|t| overlap(t, net)));
            prop_assert_eq!(choose(&[(base, bits + shift)], &taken, v6), slow);
        }
    }
}
