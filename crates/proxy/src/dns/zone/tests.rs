use super::*;
use crate::dns::query::{add_edns, ask};
use crate::dns::{records, u16_at};
use proptest::prelude::*;
use sampan_net::DnsSpec;
use sampan_net::names::EndpointNames;

fn id<T: std::str::FromStr>(n: u8) -> T {
    let Ok(id) = format!("{n:02x}").repeat(32).parse() else { panic!("id {n}") };
    id
}

fn endpoint(network: u8, name: &str, names: &[&str], addresses: &[&str]) -> EndpointNames {
    EndpointNames {
        network: id(network),
        network_name: name.to_owned(),
        names: names.iter().map(|n| (*n).to_owned()).collect(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
    }
}

fn sandbox(n: u8, endpoints: Vec<EndpointNames>) -> SandboxNames {
    SandboxNames {
        sandbox: id(n),
        container: id(n),
        netns: "/none".into(),
        dns: DnsSpec { serves: true, ..DnsSpec::default() },
        leads_out: true,
        endpoints,
    }
}

/// Two networks; `web` twice on the first, `db` on both.
fn zones() -> Zones {
    let mut zones = Zones::new(7);
    zones.set(sandbox(1, vec![endpoint(1, "front", &["web1", "web"], &["10.1.0.1", "fd01::1"])]));
    zones.set(sandbox(2, vec![endpoint(1, "front", &["web2", "WEB"], &["10.1.0.2"])]));
    let both = vec![
        endpoint(1, "front", &["db"], &["10.1.0.3"]),
        endpoint(2, "back.end", &["db", "store"], &["10.2.0.3"]),
    ];
    zones.set(sandbox(3, both));
    zones.set(sandbox(4, vec![endpoint(2, "back.end", &["job"], &["10.2.0.4"])]));
    zones
}

/// The answer's code and records of its first section; none when the name is
/// not known.
fn look(zones: &mut Zones, from: u8, name: &str, kind: u16) -> Option<(u16, Vec<Vec<u8>>)> {
    let message = ask(3, name, kind);
    let query = Query::read(&message).unwrap();
    let mut out = Vec::new();
    match zones.answer(&id(from), &query, 512, &mut Hits::default(), &mut out) {
        Outcome::Unknown => None,
        Outcome::Answered => {
            let list = records::records(&out, query.end).unwrap();
            assert!(list.iter().all(|r| r.ttl <= 5));
            let answers = list.iter().filter(|r| r.section == 0);
            let mut data: Vec<Vec<u8>> = answers.map(|r| out[r.data..r.end].to_vec()).collect();
            data.sort();
            Some((records::rcode(&out), data))
        }
    }
}

fn v4(zones: &mut Zones, from: u8, name: &str) -> Option<Vec<String>> {
    let (_, data) = look(zones, from, name, kind::A)?;
    let text = |d: Vec<u8>| Ipv4Addr::from(<[u8; 4]>::try_from(d).unwrap()).to_string();
    Some(data.into_iter().map(text).collect())
}

#[test]
fn names_are_of_their_networks() {
    let mut zones = zones();
    assert_eq!(v4(&mut zones, 3, "web").unwrap(), ["10.1.0.1", "10.1.0.2"]);
    assert_eq!(v4(&mut zones, 3, "Web1").unwrap(), ["10.1.0.1"]);
    assert_eq!(v4(&mut zones, 4, "web"), None);
    assert_eq!(v4(&mut zones, 4, "DB").unwrap(), ["10.2.0.3"]);
    assert_eq!(v4(&mut zones, 1, "db").unwrap(), ["10.1.0.3"]);
    assert_eq!(v4(&mut zones, 3, "db").unwrap(), ["10.1.0.3"], "the first network answers");
    assert_eq!(v4(&mut zones, 3, "db.back.end").unwrap(), ["10.2.0.3"]);
    assert_eq!(v4(&mut zones, 3, "store.back.end").unwrap(), ["10.2.0.3"]);
    assert_eq!(v4(&mut zones, 1, "db.back.end"), None);
    assert_eq!(v4(&mut zones, 9, "db"), None, "an unknown sandbox");
}

#[test]
fn each_family_is_of_the_first_network_that_has_it() {
    let mut zones = Zones::new(7);
    let on = |n: u8| {
        vec![
            endpoint(1, "four", &["db"], &[&format!("10.1.0.{n}")]),
            endpoint(2, "both", &["db"], &[&format!("10.2.0.{n}"), &format!("fd02::{n}")]),
        ]
    };
    zones.set(sandbox(1, on(1)));
    zones.set(sandbox(2, on(2)));
    assert_eq!(v4(&mut zones, 1, "db").unwrap(), ["10.1.0.1", "10.1.0.2"]);
    assert_eq!(look(&mut zones, 1, "db", kind::AAAA).unwrap().1.len(), 2);
}

#[test]
fn a_known_name_without_such_a_record_has_an_empty_answer() {
    let mut zones = zones();
    let six = vec![Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1).octets().to_vec()];
    assert_eq!(look(&mut zones, 3, "web", kind::AAAA), Some((0, six)));
    assert_eq!(look(&mut zones, 3, "db", kind::AAAA), Some((0, vec![])));
    assert_eq!(look(&mut zones, 3, "db", 15), Some((0, vec![])));
    assert_eq!(look(&mut zones, 3, "web", kind::ANY).unwrap().1.len(), 3);
    assert_eq!(look(&mut zones, 3, "nobody", kind::A), None);
}

#[test]
fn addresses_have_names() {
    let mut zones = zones();
    let ptr = |zones: &mut Zones, from, name| look(zones, from, name, kind::PTR);
    let wanted = vec![b"\x04web1\x05front\0".to_vec()];
    assert_eq!(ptr(&mut zones, 3, "1.0.1.10.in-addr.arpa"), Some((0, wanted.clone())));
    assert_eq!(ptr(&mut zones, 4, "1.0.1.10.in-addr.arpa"), None, "of another network");
    let six = format!("1.{}1.0.d.f.ip6.arpa", "0.".repeat(27));
    assert_eq!(ptr(&mut zones, 3, &six), Some((0, wanted)));
}

#[test]
fn services_are_at_names() {
    let mut zones = zones();
    let (code, data) = look(&mut zones, 3, "_http._tcp.web", kind::SRV).unwrap();
    assert_eq!((code, data), (0, vec![b"\0\0\0\0\0\x50\x03web\0".to_vec()]));
    let (_, data) = look(&mut zones, 3, "_9000._tcp.db.back.end", kind::SRV).unwrap();
    assert_eq!(data, [b"\0\0\0\0\x23\x28\x02db\x04back\x03end\0".to_vec()]);
    assert_eq!(look(&mut zones, 3, "_nothing._tcp.web", kind::SRV), Some((3, vec![])));
    assert_eq!(look(&mut zones, 3, "_http._tcp.nobody", kind::SRV), None);
    assert_eq!(look(&mut zones, 3, "_http._icmp.web", kind::SRV), None);
}

#[test]
fn links_are_names_of_one_sandbox() {
    let mut zones = zones();
    let link = |network| sampan_net::LinkSpec { alias: "Mate".to_owned(), target: id(3), network };
    let mut linked = sandbox(1, vec![endpoint(1, "front", &["web1"], &["10.1.0.1"])]);
    linked.dns.links = vec![link(None)];
    zones.set(linked.clone());
    assert_eq!(v4(&mut zones, 1, "mate").unwrap(), ["10.1.0.3"]);
    assert_eq!(v4(&mut zones, 2, "mate"), None);
    linked.dns.links = vec![link(Some(id(2)))];
    zones.set(linked);
    assert_eq!(v4(&mut zones, 1, "mate"), None, "not on a network of both");
}

#[test]
fn what_is_removed_is_unknown() {
    let mut zones = zones();
    zones.remove(&id(1));
    assert_eq!(v4(&mut zones, 3, "web").unwrap(), ["10.1.0.2"]);
    for n in 2..5 {
        zones.remove(&id(n));
    }
    assert!(zones.networks.is_empty() && zones.members.is_empty() && zones.containers.is_empty());
}

#[test]
fn answers_come_in_every_order_and_are_cut() {
    let mut zones = Zones::new(1);
    for n in 1..=60 {
        let address = format!("10.1.0.{n}");
        zones.set(sandbox(n, vec![endpoint(1, "front", &["all"], &[&address])]));
    }
    let mut first = std::collections::HashSet::new();
    let mut message = ask(3, "all", kind::A);
    for _ in 0..500 {
        let query = Query::read(&message).unwrap();
        let mut out = Vec::new();
        zones.answer(&id(1), &query, query.room(), &mut Hits::default(), &mut out);
        assert!(records::is_cut(&out) && out.len() <= 512);
        first.insert(out[query.end + 15]);
    }
    assert!(first.len() > 50, "{}", first.len());
    add_edns(&mut message, 4096);
    let query = Query::read(&message).unwrap();
    let mut out = Vec::new();
    zones.answer(&id(1), &query, query.room(), &mut Hits::default(), &mut out);
    assert_eq!((records::is_cut(&out), u16_at(&out, 6)), (false, Some(60)));
}

proptest! {
    /// However names came and went, what is found is what a search through
    /// all sandboxes finds.
    #[test]
    fn the_index_agrees_with_a_search(
        steps in prop::collection::vec((1u8..6, any::<bool>(), 1u8..3, 0usize..3), 1..40),
    ) {
        let names = ["a", "b", "c"];
        let mut zones = Zones::new(3);
        zones.set(sandbox(9, vec![
            endpoint(1, "n1", &["me"], &["10.9.0.1"]),
            endpoint(2, "n2", &["me"], &["10.9.0.2"]),
        ]));
        let mut known: HashMap<u8, (u8, usize, String)> = HashMap::new();
        for (n, (who, remove, network, name)) in steps.into_iter().enumerate() {
            if remove {
                zones.remove(&id(who));
                known.remove(&who);
            } else {
                let address = format!("10.{network}.{who}.{n}");
                let network_name = format!("n{network}");
                zones.set(sandbox(who, vec![endpoint(network, &network_name, &[names[name]], &[&address])]));
                known.insert(who, (network, name, address));
            }
            for (at, name) in names.iter().enumerate() {
                let of = |network: u8| -> Vec<String> {
                    let mut list: Vec<String> = known.values()
                        .filter(|(n, a, _)| *n == network && *a == at)
                        .map(|(_, _, address)| address.clone())
                        .collect();
                    list.sort_by_key(|a| a.parse::<Ipv4Addr>().unwrap());
                    list
                };
                let wanted = [of(1), of(2)].into_iter().find(|l| !l.is_empty());
                prop_assert_eq!(v4(&mut zones, 9, name), wanted);
            }
        }
    }
}
