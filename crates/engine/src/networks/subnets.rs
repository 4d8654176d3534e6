//! Choosing a subnet for a network that asks for none. Pure.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// Docker's pools: 172.17 to 172.31 whole, 192.168 in pieces of /20.
pub(super) fn default_pools() -> Vec<(IpNet, u8)> {
    let v4 = |a, b, bits| IpNet::V4(Ipv4Net::new_assert([a, b, 0, 0].into(), bits));
    let mut pools: Vec<(IpNet, u8)> = (17..=31).map(|i| (v4(172, i, 16), 16)).collect();
    pools.push((v4(192, 168, 16), 20));
    pools
}

/// The first subnet of the pools that overlaps nothing in `taken`.
pub(super) fn choose(pools: &[(IpNet, u8)], taken: &[IpNet]) -> Option<IpNet> {
    pools.iter().filter(|(base, _)| base.addr().is_ipv4()).find_map(|(base, bits)| {
        base.subnets(*bits).ok()?.find(|net| !taken.iter().any(|t| overlap(t, net)))
    })
}

/// Whether two networks have an address in common.
pub(super) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The first address of a subnet that a host may have.
pub(super) fn first_host(net: &IpNet) -> Option<IpAddr> {
    net.hosts().next()
}

/// The destinations of `/proc/net/route` whose interface is not `except`; the
/// default route is none.
pub(super) fn routes(table: &str, except: &str) -> Vec<IpNet> {
    let number = |field: &str| u32::from_str_radix(field, 16).ok().map(u32::swap_bytes);
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (interface, target) = (*fields.first()?, number(fields.get(1)?)?);
            let mask = number(fields.get(7)?)?;
            if interface == except || mask == 0 {
                return None;
            }
            let bits = u8::try_from(mask.leading_ones()).ok()?;
            Ipv4Net::new(target.into(), bits).ok().map(IpNet::V4)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_follow_the_pools_and_avoid_what_is_taken() {
        let pools = default_pools();
        assert_eq!(choose(&pools, &[]), Some(net("172.17.0.0/16")));
        let taken = [net("172.17.3.0/24"), net("172.16.0.0/12")];
        assert_eq!(choose(&pools, &taken), Some(net("192.168.0.0/20")));
        assert_eq!(choose(&pools, &[net("172.17.0.0/16")]), Some(net("172.18.0.0/16")));
        assert_eq!(choose(&pools, &[net("0.0.0.0/0")]), None);
        let small = [(net("10.9.0.0/24"), 26)];
        assert_eq!(
            choose(&small, &[net("10.9.0.64/26"), net("10.9.0.1/32")]),
            Some(net("10.9.0.128/26"))
        );
        assert_eq!(first_host(&net("10.9.0.128/26")), Some("10.9.0.129".parse().unwrap()));
    }

    #[test]
    fn routes_are_read() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\n\
                     eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     eth0\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                     docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        assert_eq!(routes(table, "docker0"), [net("192.168.2.0/24")]);
        assert_eq!(routes(table, "").len(), 2);
        assert!(routes("", "").is_empty());
    }
}
