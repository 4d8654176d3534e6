//! Published ports: maps that lead to the container's address and port. For
//! each family there is one from protocol and port for those of all the
//! host's addresses, and one from protocol, address and port for those of a
//! single one. What is reached by the container's own address is in a set.
//!
//! Be aware: the single address is looked up first. Only the first packet of
//! a flow is looked up at all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use sampan_sys::nft::{
    Batch, DataType, Element, ElementValue, Expr, Family, MetaKey, PayloadBase, Register, Rule,
    Ruleset, Set, SetValue,
};

use super::rules::{FAMILIES, When, destination, family_of, octets};
use crate::firewall::{Forward, Forwards};
use crate::ports::Protocol;

/// Elements of one message.
const CHUNK: usize = 256;
/// The chain that looks into the maps.
pub(super) const PUBLISHED: &str = "published";

/// What the elements of a map or set have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Ports of one of the host's addresses.
    OneAddress,
    /// Ports of all the host's addresses.
    AllAddresses,
    /// Ports of a container's own address.
    Routed,
}

/// In the order of looking them up.
const KINDS: [Kind; 3] = [Kind::OneAddress, Kind::AllAddresses, Kind::Routed];

impl Kind {
    fn of(forward: &Forward) -> Self {
        match forward {
            Forward { routed: true, .. } => Self::Routed,
            Forward { host_ip, .. } if host_ip.is_unspecified() => Self::AllAddresses,
            _ => Self::OneAddress,
        }
    }

    fn name(self, family: Family) -> &'static str {
        match (self, family == Family::Ipv6) {
            (Self::OneAddress, false) => "address_ports",
            (Self::OneAddress, true) => "address_ports6",
            (Self::AllAddresses, false) => "ports",
            (Self::AllAddresses, true) => "ports6",
            (Self::Routed, false) => "routed_ports",
            (Self::Routed, true) => "routed_ports6",
        }
    }
}

/// All maps and sets.
fn tables() -> impl Iterator<Item = (Kind, Family)> {
    FAMILIES.into_iter().flat_map(|family| KINDS.into_iter().map(move |kind| (kind, family)))
}

/// A set of the ports of the host that lead to containers, for tables that
/// can't look into the maps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gate {
    kind: Kind,
    family: Family,
}

impl Gate {
    /// Those of a family.
    pub fn of(family: Family) -> impl Iterator<Item = Self> {
        [Kind::OneAddress, Kind::AllAddresses].into_iter().map(move |kind| Self { kind, family })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.kind.name(self.family)
    }

    /// The set without elements.
    pub fn empty(self) -> Set {
        Set { value: SetValue::None, ..empty(self.kind, self.family) }
    }

    /// The set's elements.
    pub fn elements(self, forwards: &Forwards) -> impl Iterator<Item = Element> + '_ {
        let plain = |e: Element| Element { value: ElementValue::None, comment: String::new(), ..e };
        elements(self.kind, self.family, forwards).map(plain)
    }
}

/// The packet goes to a port that is in a set of a table of family `table`.
pub(super) fn when_listed(gate: Gate, table: Family) -> When {
    let (key, _) = key(gate.kind, gate.family);
    // nft gives up at a question for the family where there is but one.
    let mut when =
        if table == Family::Inet { When::always().of(gate.family) } else { When::always() };
    when.0.extend(key.0);
    when.0.push(Expr::lookup(gate.name(), Register(0)));
    when
}

/// Adds the maps with `forwards` in them, and the rules that look into them.
pub(super) fn add_to(ruleset: &mut Ruleset, forwards: &Forwards) {
    for (kind, family) in tables() {
        let mut set = empty(kind, family);
        set.elements = elements(kind, family, forwards).collect();
        ruleset.sets.push(set);
        ruleset.rules.extend(lookup(kind, family));
    }
}

fn empty(kind: Kind, family: Family) -> Set {
    let address = if family == Family::Ipv6 { DataType::Ipv6Addr } else { DataType::Ipv4Addr };
    let key: &[DataType] = match kind {
        Kind::AllAddresses => &[DataType::InetProto, DataType::InetService],
        Kind::OneAddress | Kind::Routed => &[DataType::InetProto, address, DataType::InetService],
    };
    let value = match kind {
        Kind::Routed => SetValue::None,
        _ => SetValue::data(&[address, DataType::InetService]),
    };
    Set::new(kind.name(family), key, value)
}

/// Loads a map's key from a packet of the family, and says how many words an
/// address has.
fn key(kind: Kind, family: Family) -> (When, u8) {
    let words = if family == Family::Ipv6 { 4 } else { 1 };
    let mut when = When::always();
    when.0.push(Expr::meta(MetaKey::L4Proto, Register(0)));
    let port = match kind {
        Kind::OneAddress | Kind::Routed => {
            when.0.push(destination(family, Register(1)));
            Register(1 + words)
        }
        Kind::AllAddresses => Register(1),
    };
    when.0.push(Expr::payload(PayloadBase::Transport, 2, 2, port));
    (when, words)
}

/// The rule that looks into a map.
fn lookup(kind: Kind, family: Family) -> Option<Rule> {
    let comment = match kind {
        Kind::OneAddress => "ports of one address",
        Kind::AllAddresses => "ports of all addresses",
        Kind::Routed => return None,
    };
    let (key, words) = key(kind, family);
    let mut when = When::always().of(family);
    when.0.extend(key.0);
    // The value is put where none of the key's words is.
    let (target, target_port) = (Register(8), Register(8 + words));
    when.0.push(Expr::lookup_data(kind.name(family), Register(0), target));
    Some(when.then(PUBLISHED, comment, Expr::destination_nat(family, target, target_port)))
}

/// The packet goes to a published port by the container's own address.
pub(super) fn when_routed(family: Family) -> When {
    let (key, _) = key(Kind::Routed, family);
    let mut when = When::always().of(family);
    when.0.extend(key.0);
    when.0.push(Expr::lookup(Kind::Routed.name(family), Register(0)));
    when
}

/// The changes that publish ports.
pub(super) fn add(batch: &mut Batch, table: &str, forwards: &Forwards) {
    for (kind, family) in tables() {
        let name = kind.name(family);
        by_chunks(elements(kind, family, forwards), |chunk| {
            batch.add_elements(table, name, chunk);
        });
    }
}

/// The changes that take published ports back.
pub(super) fn remove(batch: &mut Batch, table: &str, forwards: &Forwards) {
    for (kind, family) in tables() {
        let name = kind.name(family);
        by_chunks(elements(kind, family, forwards), |chunk| {
            batch.delete_elements(table, name, chunk);
        });
    }
}

/// Hands elements on as many at a time as fit into a message: all of them at
/// once would take much memory.
pub(super) fn by_chunks(elements: impl Iterator<Item = Element>, mut each: impl FnMut(&[Element])) {
    let mut elements = elements.peekable();
    while elements.peek().is_some() {
        let chunk: Vec<Element> = elements.by_ref().take(CHUNK).collect();
        each(&chunk);
    }
}

/// The elements of one of the maps. A port of one family can't lead to an
/// address of the other: it has none.
fn elements(kind: Kind, family: Family, forwards: &Forwards) -> impl Iterator<Item = Element> + '_ {
    forwards
        .iter()
        .filter(move |f| family_of(f.target.ip()) == family && Kind::of(f) == kind)
        .filter(move |f| f.routed || family_of(f.host_ip) == family)
        .map(move |f| element(kind, &f))
}

fn element(kind: Kind, forward: &Forward) -> Element {
    let target = octets(forward.target.ip());
    let mut key = Vec::with_capacity(24);
    key.extend([forward.protocol.number(), 0, 0, 0]);
    let (port, value) = match kind {
        Kind::Routed => {
            key.extend(target);
            (forward.target.port(), ElementValue::None)
        }
        Kind::OneAddress | Kind::AllAddresses => {
            if kind == Kind::OneAddress {
                key.extend(octets(forward.host_ip));
            }
            let mut data = target;
            data.extend(port_word(forward.target.port()));
            (forward.host_port, ElementValue::Data(data))
        }
    };
    key.extend(port_word(port));
    Element { key, value, comment: forward.owner.to_string() }
}

fn port_word(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// The published ports in the maps and sets of a table.
pub(super) fn read(found: &Ruleset) -> Forwards {
    let of_set = |set: &Set| {
        let (kind, family) = tables().find(|(kind, family)| kind.name(*family) == set.name)?;
        Some(set.elements.iter().filter_map(|e| forward(kind, family, e)).collect::<Vec<_>>())
    };
    found.sets.iter().filter_map(of_set).flatten().collect()
}

/// The published port that an element stands for.
fn forward(kind: Kind, family: Family, element: &Element) -> Option<Forward> {
    let (length, any): (usize, IpAddr) = match family {
        Family::Ipv6 => (16, Ipv6Addr::UNSPECIFIED.into()),
        _ => (4, Ipv4Addr::UNSPECIFIED.into()),
    };
    let protocol = Protocol::of_number(*element.key.first()?)?;
    let rest = element.key.get(4..)?;
    let (host_ip, host_port) = match kind {
        Kind::AllAddresses => (any, port(rest)?),
        Kind::OneAddress | Kind::Routed => {
            (address(rest.get(..length)?)?, port(rest.get(length..)?)?)
        }
    };
    let owner = Arc::from(element.comment.as_str());
    Some(match (kind, &element.value) {
        (Kind::Routed, _) => {
            let target = SocketAddr::new(host_ip, host_port);
            Forward { protocol, host_ip: any, host_port: 0, target, routed: true, owner }
        }
        (_, ElementValue::Data(data)) => {
            let target = SocketAddr::new(address(data.get(..length)?)?, port(data.get(length..)?)?);
            Forward { protocol, host_ip, host_port, target, routed: false, owner }
        }
        _ => return None,
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn single(host: &str, target: &str) -> Forward {
        Forward {
            protocol: Protocol::Udp,
            host_ip: host.parse().unwrap(),
            host_port: 53,
            target: target.parse().unwrap(),
            routed: false,
            owner: Arc::from("0123456789ab"),
        }
    }

    #[test]
    fn keys_are_as_the_kernel_has_them() {
        let one = Forwards::from_iter([single("10.0.0.1", "172.17.0.2:5353")]);
        let all = Forwards::from_iter([single("::", "[fd00::2]:5353")]);
        let elements = |kind, family, f| elements(kind, family, f).collect::<Vec<_>>();
        let of_one = elements(Kind::OneAddress, Family::Ipv4, &one);
        assert_eq!(of_one[0].key, [17, 0, 0, 0, 10, 0, 0, 1, 0, 53, 0, 0]);
        let of_all = elements(Kind::AllAddresses, Family::Ipv6, &all);
        assert_eq!(of_all[0].key, [17, 0, 0, 0, 0, 53, 0, 0]);
        assert_eq!(elements(Kind::AllAddresses, Family::Ipv4, &one).len(), 0);
        assert_eq!(elements(Kind::AllAddresses, Family::Ipv4, &all).len(), 0);
    }

    #[test]
    fn elements_are_read_as_written() {
        let routed = |target: &str| Forward {
            routed: true,
            host_ip: if target.starts_with('[') { "::" } else { "0.0.0.0" }.parse().unwrap(),
            host_port: 0,
            ..single("::", target)
        };
        let forwards = Forwards::from_iter([
            single("10.0.0.1", "172.17.0.2:5353"),
            single("0.0.0.0", "172.17.0.2:5353"),
            routed("10.0.0.2:80"),
            single("fd00::1", "[fd00:1::2]:5353"),
            single("::", "[fd00:1::2]:5353"),
            routed("[fd00:1::2]:80"),
        ]);
        let mut ruleset = Ruleset::default();
        add_to(&mut ruleset, &forwards);
        assert!(ruleset.sets.iter().all(|s| s.elements.len() == 1), "{:?}", ruleset.sets);
        assert_eq!(read(&ruleset), forwards);
    }
}
