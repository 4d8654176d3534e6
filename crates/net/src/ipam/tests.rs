use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pool(subnet: &str, gateway: &str) -> Pool {
    Pool::new(net(subnet), None, Some(ip(gateway)), &BTreeMap::new()).unwrap()
}

#[test]
fn gives_addresses_in_order_and_freed_ones_last() {
    let mut pool = pool("172.17.0.0/29", "172.17.0.1");
    let given: Vec<_> = (0..5).map(|i| pool.allocate(None, &i.to_string()).unwrap()).collect();
    assert_eq!(given, (2..=6).map(|i| ip(&format!("172.17.0.{i}"))).collect::<Vec<_>>());
    pool.release(ip("172.17.0.4"));
    pool.release(ip("172.17.0.3"));
    assert_eq!(pool.allocate(None, "x"), Ok(ip("172.17.0.4")));
    assert_eq!(pool.allocate(None, "y"), Ok(ip("172.17.0.3")));
    let error = pool.allocate(None, "z").unwrap_err();
    assert!(error.to_string().contains("no available IPv4 addresses on subnet 172.17.0.0/29"));
}

#[test]
fn a_freed_address_waits_for_all_others() {
    let mut pool = pool("10.0.0.0/28", "10.0.0.1");
    let first = pool.allocate(None, "a").unwrap();
    pool.release(first);
    for _ in 0..12 {
        assert_ne!(pool.allocate(None, "b").unwrap(), first);
    }
    assert_eq!(pool.allocate(None, "c").unwrap(), first);
}

#[test]
fn refusals_name_the_owner_and_the_subnet() {
    let mut pool = pool("10.1.0.0/24", "10.1.0.1");
    pool.reserve(ip("10.1.0.9"), "web").unwrap();
    pool.reserve(ip("10.1.0.9"), "web").unwrap();
    let error = pool.allocate(Some(ip("10.1.0.9")), "db").unwrap_err().to_string();
    assert!(error.contains("web") && error.contains("10.1.0.0/24"), "{error}");
    assert!(pool.allocate(Some(ip("10.1.0.1")), "db").is_err());
    for bad in ["10.1.0.0", "10.1.0.255", "10.2.0.1", "::1"] {
        let error = pool.allocate(Some(ip(bad)), "db").unwrap_err();
        assert!(matches!(error, IpamError::Invalid { .. }), "{error}");
    }
}

#[test]
fn a_range_is_kept_to_but_names_may_leave_it() {
    let range = Some(net("10.1.0.128/30"));
    let aux = BTreeMap::from([("router".to_owned(), ip("10.1.0.129"))]);
    let mut pool = Pool::new(net("10.1.0.0/24"), range, Some(ip("10.1.0.1")), &aux).unwrap();
    assert_eq!(pool.allocate(None, "a"), Ok(ip("10.1.0.128")));
    assert_eq!(pool.allocate(None, "b"), Ok(ip("10.1.0.130")));
    assert_eq!(pool.allocate(None, "c"), Ok(ip("10.1.0.131")));
    assert!(matches!(pool.allocate(None, "d"), Err(IpamError::Exhausted { .. })));
    assert_eq!(pool.allocate(Some(ip("10.1.0.7")), "d"), Ok(ip("10.1.0.7")));
    pool.release(ip("10.1.0.7"));
    assert!(matches!(pool.allocate(None, "d"), Err(IpamError::Exhausted { .. })));
}

#[test]
fn contradictions_are_refused() {
    let none = BTreeMap::new();
    assert!(Pool::new(net("10.1.0.1/24"), None, None, &none).is_err());
    assert!(Pool::new(net("10.1.0.0/24"), Some(net("10.2.0.0/28")), None, &none).is_err());
    assert!(Pool::new(net("10.1.0.0/24"), None, Some(ip("10.2.0.1")), &none).is_err());
}

#[test]
fn large_and_small_subnets_work() {
    let mut six = pool("fd00::/64", "fd00::1");
    assert_eq!(six.allocate(None, "a"), Ok(ip("fd00::2")));
    let mut end =
        Pool::new(net("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127"), None, None, &BTreeMap::new())
            .unwrap();
    assert!(end.allocate(None, "a").is_ok());
    let mut pair = Pool::new(net("10.0.0.0/31"), None, None, &BTreeMap::new()).unwrap();
    assert_eq!(pair.allocate(None, "a"), Ok(ip("10.0.0.0")));
    assert_eq!(pair.allocate(None, "b"), Ok(ip("10.0.0.1")));
}

proptest! {
    #[test]
    fn never_two_owners_and_never_lost(steps in prop::collection::vec((any::<bool>(), 0u8..32), 1..200)) {
        let mut pool = pool("10.0.0.0/27", "10.0.0.1");
        let mut mine: Vec<IpAddr> = Vec::new();
        for (take, which) in steps {
            if take {
                let prefer = (which >= 24).then(|| ip(&format!("10.0.0.{which}")));
                match pool.allocate(prefer, "me") {
                    Ok(address) => {
                        prop_assert!(!mine.contains(&address));
                        prop_assert!(net("10.0.0.0/27").contains(&address));
                        mine.push(address);
                    }
                    Err(IpamError::Exhausted { .. }) => prop_assert_eq!(mine.len(), 29),
                    Err(_) => {
                        let wanted = prefer.unwrap();
                        let last = wanted == ip("10.0.0.31");
                        prop_assert!(last || mine.contains(&wanted));
                    }
                }
            } else if !mine.is_empty() {
                let address = mine.swap_remove(usize::from(which) % mine.len());
                pool.release(address);
                pool.release(address);
            }
        }
        let unique: HashSet<_> = mine.iter().collect();
        prop_assert_eq!(unique.len(), mine.len());
        while mine.len() < 29 {
            mine.push(pool.allocate(None, "me").unwrap());
        }
        prop_assert!(pool.allocate(None, "me").is_err());
    }

    /// Pools of both families, with a range and named addresses: what is given
    /// without a preference is in the range, nobody's, and the longest free.
    #[test]
    fn both_families_keep_to_their_range_and_reuse_last(
        v6 in any::<bool>(),
        bits in 2u8..=6,
        at in 0u8..4,
        aux in prop::collection::btree_set(2u8..60, 0..5),
        steps in prop::collection::vec(prop::option::of(any::<u8>()), 1..300),
    ) {
        let host = |n: u8| if v6 { ip(&format!("fd00:1::{n:x}")) } else { ip(&format!("10.1.0.{n}")) };
        let whole = if v6 { net("fd00:1::/64") } else { net("10.1.0.0/24") };
        let range = IpNet::new(host(at << 6), whole.max_prefix_len() - bits).unwrap();
        let named: BTreeMap<String, IpAddr> =
            aux.iter().map(|n| (format!("n{n}"), host(*n))).collect();
        let mut pool = Pool::new(whole, Some(range), Some(host(1)), &named).unwrap();
        let fixed: HashSet<IpAddr> =
            named.values().copied().chain([host(1)]).filter(|a| range.contains(a)).collect();
        let reserved = [whole.network(), whole.broadcast()];
        let reserved = reserved.iter().filter(|a| range.contains(*a) && (a.is_ipv4() || at == 0));
        let reserved: HashSet<_> = reserved.filter(|a| a.is_ipv4() || **a == whole.network()).collect();
        let room = (1_usize << bits) - fixed.len() - reserved.len();
        // Never given, or given back: in this order they come up again.
        let (mut mine, mut freed): (Vec<IpAddr>, Vec<IpAddr>) = (Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for step in steps {
            match step {
                None => match pool.allocate(None, "me") {
                    Ok(address) => {
                        prop_assert!(range.contains(&address) && !fixed.contains(&address));
                        prop_assert!(!mine.contains(&address));
                        if !seen.insert(address) {
                            prop_assert_eq!(seen.len(), room, "new ones first");
                            prop_assert_eq!(address, freed.remove(0), "the longest free first");
                        }
                        mine.push(address);
                    }
                    Err(e) => {
                        let exhausted = matches!(e, IpamError::Exhausted { .. });
                        prop_assert!(exhausted);
                        prop_assert_eq!(mine.len(), room);
                    }
                },
                Some(which) if !mine.is_empty() => {
                    let address = mine.swap_remove(usize::from(which) % mine.len());
                    pool.release(address);
                    freed.push(address);
                }
                Some(_) => {}
            }
        }
    }
}
