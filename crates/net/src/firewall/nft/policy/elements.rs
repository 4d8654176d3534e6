//! Addresses and ports as elements of sets.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use sampan_sys::nft::{Element, ElementValue, SetKeeps};

use super::super::rules::interface_key;

/// An element of a plain set.
pub(super) fn plain(key: Vec<u8>) -> Element {
    Element { key, value: ElementValue::None, comment: String::new() }
}

/// An element of a map.
pub(super) fn mapped(key: Vec<u8>, data: Vec<u8>) -> Element {
    Element { key, value: ElementValue::Data(data), comment: String::new() }
}

/// An address's bytes.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A key of an interface's name and something else, padded to whole words.
pub(super) fn with_interface(interface: &str, rest: &[u8]) -> Vec<u8> {
    let mut key = interface_key(interface);
    key.extend(rest);
    key.resize(key.len().next_multiple_of(4), 0);
    key
}

/// The addresses of one family, each once.
pub(super) fn addresses<'a>(all: impl Iterator<Item = &'a IpAddr>, v4: bool) -> Vec<Element> {
    let mut keys: Vec<Vec<u8>> = all.filter(|a| a.is_ipv4() == v4).map(|a| octets(*a)).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter().map(plain).collect()
}

/// The ranges of one family that `nets` cover.
pub(super) fn net_ranges<'a>(nets: impl Iterator<Item = &'a IpNet>, v4: bool) -> Vec<Element> {
    let of_family = nets.filter(|n| n.addr().is_ipv4() == v4);
    let range = |net: &IpNet| match net {
        IpNet::V4(n) => {
            let [first, last] = [n.network(), n.broadcast()].map(|a| u128::from(a.to_bits()));
            first..=last
        }
        IpNet::V6(n) => n.network().to_bits()..=n.broadcast().to_bits(),
    };
    let length = if v4 { 4 } else { 16 };
    ranges(of_family.map(range).collect(), length)
}

/// The ranges that `ports` cover.
pub(super) fn port_ranges<'a>(
    ports: impl Iterator<Item = &'a RangeInclusive<u16>>,
) -> Vec<Element> {
    ranges(ports.map(|r| u128::from(*r.start())..=u128::from(*r.end())).collect(), 2)
}

/// Ranges as elements, those that meet or overlap as one. Numbers have
/// `length` bytes; the last of all has no end.
fn ranges(mut all: Vec<RangeInclusive<u128>>, length: usize) -> Vec<Element> {
    all.retain(|r| !r.is_empty());
    all.sort_by_key(|r| *r.start());
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for range in all {
        let (first, last) = range.into_inner();
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    let greatest = if length == 16 { u128::MAX } else { (1 << (8 * length)) - 1 };
    let key = |number: u128| number.to_be_bytes()[16 - length..].to_vec();
    let mut elements = Vec::with_capacity(2 * merged.len());
    for (first, last) in merged {
        elements.push(plain(key(first)));
        if last < greatest {
            let value = ElementValue::RangeEnd;
            elements.push(Element { key: key(last + 1), value, comment: String::new() });
        }
    }
    elements
}

/// What is only in `old`, and what is only in `new`. Of ranges, both ends go
/// together.
pub(super) fn difference(
    keeps: SetKeeps,
    old: &[Element],
    new: &[Element],
) -> (Vec<Element>, Vec<Element>) {
    let only = |of: &[Element], other: &[Element]| -> Vec<Element> {
        match keeps {
            // Others fill these.
            SetKeeps::Timeouts => Vec::new(),
            SetKeeps::Keys | SetKeeps::Counts => {
                let other: HashMap<&[u8], &Element> =
                    other.iter().map(|e| (e.key.as_slice(), e)).collect();
                let same = |e: &&Element| other.get(e.key.as_slice()) == Some(e);
                of.iter().filter(|e| !same(e)).cloned().collect()
            }
            SetKeeps::Ranges => {
                let other: HashSet<Vec<&[u8]>> = pairs(other).into_iter().map(keys).collect();
                let pairs = pairs(of).into_iter();
                pairs.filter(|p| !other.contains(&keys(p))).flatten().cloned().collect()
            }
        }
    };
    (only(old, new), only(new, old))
}

fn keys(elements: &[Element]) -> Vec<&[u8]> {
    elements.iter().map(|e| e.key.as_slice()).collect()
}

/// The elements of each range.
fn pairs(elements: &[Element]) -> Vec<&[Element]> {
    elements.chunk_by(|_, next| next.value == ElementValue::RangeEnd).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|n| n.parse().unwrap()).collect()
    }

    fn ends(elements: &[Element]) -> Vec<(u8, bool)> {
        let end = |e: &Element| e.value == ElementValue::RangeEnd;
        elements.iter().map(|e| (*e.key.last().unwrap(), end(e))).collect()
    }

    #[test]
    fn ranges_that_meet_become_one() {
        let all = nets(&["10.0.0.8/32", "10.0.0.0/29", "10.0.0.4/31", "10.0.0.20/30", "fd00::/64"]);
        let four = net_ranges(all.iter(), true);
        assert_eq!(ends(&four), [(0, false), (9, true), (20, false), (24, true)]);
        let six = net_ranges(all.iter(), false);
        assert_eq!(six.len(), 2);
        assert_eq!(six[0].key.len(), 16);
    }

    #[test]
    fn the_last_range_has_no_end() {
        let all = nets(&["0.0.0.0/0", "::/0"]);
        assert_eq!(net_ranges(all.iter(), true), [plain(vec![0; 4])]);
        assert_eq!(net_ranges(all.iter(), false), [plain(vec![0; 16])]);
        assert_eq!(ends(&port_ranges([80..=80, 81..=90].iter())), [(80, false), (91, true)]);
        assert_eq!(port_ranges([1..=65535].iter()).len(), 1);
    }

    #[test]
    fn both_ends_of_a_range_change_together() {
        let old = net_ranges(nets(&["10.0.0.0/31", "10.0.0.8/31"]).iter(), true);
        let new = net_ranges(nets(&["10.0.0.0/30", "10.0.0.8/31"]).iter(), true);
        let (gone, added) = difference(SetKeeps::Ranges, &old, &new);
        assert_eq!(ends(&gone), [(0, false), (2, true)]);
        assert_eq!(ends(&added), [(0, false), (4, true)]);
    }

    #[test]
    fn a_value_that_changes_is_removed_and_added() {
        let old = [mapped(vec![1], vec![1]), mapped(vec![2], vec![2])];
        let new = [mapped(vec![1], vec![9]), mapped(vec![2], vec![2]), mapped(vec![3], vec![3])];
        let (gone, added) = difference(SetKeeps::Keys, &old, &new);
        assert_eq!(gone, old[..1]);
        assert_eq!(added, [new[0].clone(), new[2].clone()]);
    }
}
