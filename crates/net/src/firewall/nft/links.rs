//! What links open where containers of a network are kept from each other: a
//! set for each family of protocol, source, destination and port.
//!
//! Be aware: only the first packet of a flow is looked up; what answers it is
//! a known flow.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use sampan_sys::nft::{
    Batch, DataType, Element, ElementValue, Expr, Family, MetaKey, PayloadBase, Register, Ruleset,
    Set, SetValue,
};

use super::forwards::by_chunks;
use super::rules::{FAMILIES, When, destination, family_of, octets, source};
use crate::firewall::LinkRule;
use crate::ports::Protocol;

fn name(family: Family) -> &'static str {
    if family == Family::Ipv6 { "links6" } else { "links" }
}

/// Adds the sets with `links` in them.
pub(super) fn add_to(ruleset: &mut Ruleset, links: &BTreeSet<LinkRule>) {
    for family in FAMILIES {
        let address = if family == Family::Ipv6 { DataType::Ipv6Addr } else { DataType::Ipv4Addr };
        let key = [DataType::InetProto, address, address, DataType::InetService];
        let mut set = Set::new(name(family), &key, SetValue::None);
        set.elements = elements(family, links).collect();
        ruleset.sets.push(set);
    }
}

/// The packet enters by the bridge that it leaves by, and a link opens its
/// way.
pub(super) fn when_linked(family: Family, bridge: &str) -> When {
    let words = if family == Family::Ipv6 { 4 } else { 1 };
    let mut when = When::always().of(family).enters_by(bridge);
    when.0.extend([
        Expr::meta(MetaKey::L4Proto, Register(0)),
        source(family, Register(1)),
        destination(family, Register(1 + words)),
        Expr::payload(PayloadBase::Transport, 2, 2, Register(1 + 2 * words)),
        Expr::lookup(name(family), Register(0)),
    ]);
    when
}

/// The changes that open ways.
pub(super) fn add(batch: &mut Batch, table: &str, links: &BTreeSet<LinkRule>) {
    for family in FAMILIES {
        by_chunks(elements(family, links), |chunk| {
            batch.add_elements(table, name(family), chunk);
        });
    }
}

/// The changes that close ways again.
pub(super) fn remove(batch: &mut Batch, table: &str, links: &BTreeSet<LinkRule>) {
    for family in FAMILIES {
        by_chunks(elements(family, links), |chunk| {
            batch.delete_elements(table, name(family), chunk);
        });
    }
}

/// The elements of one of the sets, each once: two links of a container may
/// lead to the same port.
fn elements(family: Family, links: &BTreeSet<LinkRule>) -> impl Iterator<Item = Element> + '_ {
    links.iter().filter(move |l| family_of(l.source) == family).map(element)
}

fn element(link: &LinkRule) -> Element {
    let mut key = Vec::with_capacity(40);
    key.extend([link.protocol.number(), 0, 0, 0]);
    key.extend(octets(link.source));
    key.extend(octets(link.target.ip()));
    let [high, low] = link.target.port().to_be_bytes();
    key.extend([high, low, 0, 0]);
    Element { key, value: ElementValue::None, comment: link.owner.to_string() }
}

/// What links open by the sets of a table.
pub(super) fn read(found: &Ruleset) -> BTreeSet<LinkRule> {
    let of_family = |family: Family| {
        let set = found.sets.iter().find(move |set| set.name == name(family));
        set.into_iter().flat_map(|s| &s.elements).filter_map(move |e| link(family, e))
    };
    FAMILIES.into_iter().flat_map(of_family).collect()
}

fn link(family: Family, element: &Element) -> Option<LinkRule> {
    let length = if family == Family::Ipv6 { 16 } else { 4 };
    let address = |bytes: &[u8]| -> Option<IpAddr> {
        match family {
            Family::Ipv6 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
            _ => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        }
    };
    let key = element.key.as_slice();
    let port = key.get(4 + 2 * length..6 + 2 * length)?.try_into().ok()?;
    Some(LinkRule {
        protocol: Protocol::of_number(*key.first()?)?,
        source: address(key.get(4..4 + length)?)?,
        target: SocketAddr::new(
            address(key.get(4 + length..4 + 2 * length)?)?,
            u16::from_be_bytes(port),
        ),
        owner: Arc::from(element.comment.as_str()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_as_written() {
        let link = |protocol, source: &str, target: &str| LinkRule {
            protocol,
            source: source.parse().unwrap(),
            target: target.parse().unwrap(),
            owner: "0123456789ab".into(),
        };
        let links = BTreeSet::from([
            link(Protocol::Tcp, "172.17.0.3", "172.17.0.2:80"),
            link(Protocol::Udp, "172.17.0.3", "172.17.0.2:53"),
            link(Protocol::Tcp, "fd00::3", "[fd00::2]:80"),
        ]);
        let mut ruleset = Ruleset::default();
        add_to(&mut ruleset, &links);
        let count: Vec<usize> = ruleset.sets.iter().map(|s| s.elements.len()).collect();
        assert_eq!(count, [2, 1]);
        assert_eq!(
            ruleset.sets[0].elements[0].key,
            [6, 0, 0, 0, 172, 17, 0, 3, 172, 17, 0, 2, 0, 80, 0, 0]
        );
        assert_eq!(read(&ruleset), links);
    }
}
