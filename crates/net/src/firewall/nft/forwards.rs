//! Published ports: two maps that lead to the container's address and port,
//! one from protocol and port for those of all the host's addresses, one from
//! protocol, address and port for those of a single one.
//!
//! Be aware: the single address is looked up first. Only the first packet of
//! a flow is looked up at all.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use sampan_sys::nft::{
    Batch, DataType, Element, ElementValue, Expr, MetaKey, PayloadBase, Register, Rule, Ruleset,
    Set, SetValue,
};

use super::rules::{IPV4_DESTINATION, When};
use crate::firewall::Forward;
use crate::ports::Protocol;

/// Ports of all the host's addresses.
const PORTS: &str = "ports";
/// Ports of one address.
const ADDRESS_PORTS: &str = "address_ports";
/// The map's names.
pub(super) const MAPS: [&str; 2] = [ADDRESS_PORTS, PORTS];
/// The chain that looks into it.
pub(super) const PUBLISHED: &str = "published";

/// Where the value of a lookup is.
const TARGET: Register = Register(4);
const TARGET_PORT: Register = Register(5);

/// Adds the maps with `forwards` in them, and the rules that look into them.
pub(super) fn add_to(ruleset: &mut Ruleset, forwards: &[Forward]) {
    let value = SetValue::data(&[DataType::Ipv4Addr, DataType::InetService]);
    let key = [DataType::InetProto, DataType::Ipv4Addr, DataType::InetService];
    let mut single = Set::new(ADDRESS_PORTS, &key, value);
    let mut all = Set::new(PORTS, &[DataType::InetProto, DataType::InetService], value);
    single.elements = elements(ADDRESS_PORTS, forwards);
    all.elements = elements(PORTS, forwards);
    ruleset.sets.extend([single, all]);
    let protocol = || Expr::meta(MetaKey::L4Proto, Register(0));
    let address = Expr::payload(PayloadBase::Network, IPV4_DESTINATION, 4, Register(1));
    let port = |register| Expr::payload(PayloadBase::Transport, 2, 2, Register(register));
    let key = [protocol(), address, port(2)];
    ruleset.rules.push(lookup(&key, ADDRESS_PORTS, "ports of one address"));
    ruleset.rules.push(lookup(&[protocol(), port(1)], PORTS, "ports of all addresses"));
}

fn lookup(key: &[Expr], map: &str, comment: &str) -> Rule {
    let mut when = When::always().ipv4();
    when.0.extend_from_slice(key);
    when.0.push(Expr::lookup_data(map, Register(0), TARGET));
    when.then(PUBLISHED, comment, Expr::destination_nat_v4(TARGET, TARGET_PORT))
}

/// The changes that publish ports.
pub(super) fn add(batch: &mut Batch, table: &str, forwards: &[Forward]) {
    for map in MAPS {
        batch.add_elements(table, map, &elements(map, forwards));
    }
}

/// The changes that take published ports back.
pub(super) fn remove(batch: &mut Batch, table: &str, forwards: &[Forward]) {
    for map in MAPS {
        batch.delete_elements(table, map, &elements(map, forwards));
    }
}

/// The elements of one of the maps. Ports of IPv6 addresses have none: they
/// come with IPv6 networks.
fn elements(map: &str, forwards: &[Forward]) -> Vec<Element> {
    let mine = |f: &&Forward| f.host_ip.is_unspecified() == (map == PORTS);
    forwards.iter().filter(mine).filter_map(element).collect()
}

fn element(forward: &Forward) -> Option<Element> {
    let (IpAddr::V4(host), SocketAddr::V4(target)) = (forward.host_ip, forward.target) else {
        return None;
    };
    let mut key = vec![forward.protocol.number(), 0, 0, 0];
    if !host.is_unspecified() {
        key.extend(host.octets());
    }
    key.extend(port_word(forward.host_port));
    let mut data = target.ip().octets().to_vec();
    data.extend(port_word(target.port()));
    Some(Element { key, value: ElementValue::Data(data), comment: forward.owner.clone() })
}

fn port_word(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// The published port that an element of one of the maps stands for.
pub(super) fn read(map: &str, element: &Element) -> Option<Forward> {
    let ElementValue::Data(data) = &element.value else { return None };
    let address = |bytes: &[u8]| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?));
    let port = |bytes: &[u8]| Some(u16::from_be_bytes(<[u8; 2]>::try_from(bytes.get(..2)?).ok()?));
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|p| Some(&p.number()) == element.key.first())?;
    let rest = element.key.get(4..)?;
    let (host, host_port) = match map {
        PORTS => (Ipv4Addr::UNSPECIFIED, port(rest)?),
        _ => (address(rest)?, port(rest.get(4..)?)?),
    };
    Some(Forward {
        protocol,
        host_ip: IpAddr::V4(host),
        host_port,
        target: SocketAddr::from((address(data)?, port(data.get(4..)?)?)),
        owner: element.comment.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_as_written() {
        let single = Forward {
            protocol: Protocol::Udp,
            host_ip: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
            host_port: 53,
            target: SocketAddr::from((Ipv4Addr::new(172, 17, 0, 2), 5353)),
            owner: "0123456789ab".to_owned(),
        };
        let all = Forward { host_ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED), ..single.clone() };
        let forwards = [single.clone(), all.clone()];
        let of_one = elements(ADDRESS_PORTS, &forwards);
        let of_all = elements(PORTS, &forwards);
        assert_eq!(of_one[0].key, [17, 0, 0, 0, 10, 0, 0, 1, 0, 53, 0, 0]);
        assert_eq!(of_all[0].key, [17, 0, 0, 0, 0, 53, 0, 0]);
        assert_eq!((of_one.len(), of_all.len()), (1, 1));
        assert_eq!(read(ADDRESS_PORTS, &of_one[0]), Some(single));
        assert_eq!(read(PORTS, &of_all[0]), Some(all));
    }
}
