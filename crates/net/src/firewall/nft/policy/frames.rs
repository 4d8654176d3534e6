//! Frames of containers under policy: the table of the family `bridge`.
//!
//! ```text
//! prerouting ─> enter ─┬─ from a container under policy ─> check: its own addresses only
//!                      └─ from or to one, to a single address ─> the host's
//! forward ─> many: broadcast and multicast, judged frame by frame
//! ```
//!
//! Be aware:
//! - A container under policy is known by its port of the bridge, and before
//!   it has one by its hardware address, which is chosen ahead.
//! - What is found out about neighbours (ARP, and its part of ICMPv6) goes on
//!   between them as it would without policies.
//! - Nothing can be sent around the rules in a frame to everybody that carries
//!   a packet to one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use sampan_sys::nft::{
    BaseChain, Chain, ChainKind, DataType, Expr, Hook, MetaKey, Order, PayloadBase, Policy,
    Register, Rule, Ruleset, Set, SetValue, Verdict,
};

use super::{COMMENT, elements, flows};
use crate::firewall::nft::rules::interface_key;
use crate::firewall::{Guard, PolicySet};
use crate::mac::MacAddr;
use crate::policy::{Action, Direction, PolicyRule};

/// Before br_netfilter, at 0, and before translation, at -300.
const FIRST: i32 = -310;

/// A key's beginning, what follows an interface's name in it, and what is
/// needed beside it.
const R: Register = Register(0);
const REST: Register = Register(4);
const ASIDE: Register = Register(12);

const ETHER_IPV4: [u8; 2] = [0x08, 0x00];
const ETHER_ARP: [u8; 2] = [0x08, 0x06];
const ETHER_IPV6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;
/// Queries and reports of multicast groups are ICMPv6 types 130 to 132 and
/// 143, discovery of neighbours 133 to 137.
const NEIGHBOURS: [u8; 2] = [133, 137];
const GROUPS: [u8; 2] = [130, 132];
const GROUPS_2: [u8; 2] = [143, 143];
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
/// `PACKET_HOST`: for this host.
const PACKET_HOST: u8 = 0;

/// The bridge's ports of containers under policy, and where they lead to.
const CHECKED: &str = "checked";
const PORTS: &str = "ports";
const HARDWARE: &str = "hardware";
const OWN_HARDWARE: &str = "own_hardware";
const BROADCAST: &str = "broadcast4";

fn own(v4: bool) -> &'static str {
    if v4 { "own4" } else { "own6" }
}

fn guarded(v4: bool) -> &'static str {
    if v4 { "guarded4" } else { "guarded6" }
}

fn member_set(rule: &str) -> String {
    format!("of.{rule}")
}

/// The whole table.
pub(super) fn ruleset(set: &PolicySet, hardware: &HashMap<String, MacAddr>) -> Ruleset {
    let base = |name: &str, hook| Chain {
        name: name.to_owned(),
        base: Some(BaseChain {
            kind: ChainKind::Filter,
            hook,
            priority: FIRST,
            policy: Policy::Accept,
        }),
    };
    let inner = |name: &str| Chain { name: name.to_owned(), base: None };
    let chains = vec![
        base("enter", Hook::Prerouting),
        base("many", Hook::Forward),
        inner("check"),
        inner("egress"),
        inner("ingress"),
    ];
    let mut rules = enter();
    rules.extend(check());
    rules.extend(many());
    for rule in set.rules.iter().filter(|r| r.is_verdict()) {
        rules.extend(alternatives(rule));
    }
    Ruleset { chains, sets: sets(set, hardware), rules }
}

fn sets(set: &PolicySet, hardware: &HashMap<String, MacAddr>) -> Vec<Set> {
    use DataType::{EtherAddr, Ifname};
    let mac = SetValue::data(&[EtherAddr]);
    let mut ports = Set::new(PORTS, &[Ifname], mac);
    let mut checked = Set::new(CHECKED, &[Ifname], SetValue::None);
    let mut by_hardware = Set::new(HARDWARE, &[EtherAddr], mac);
    let mut own_hardware = Set::new(OWN_HARDWARE, &[Ifname, EtherAddr], SetValue::None);
    let mut broadcast = Set::new(BROADCAST, &[DataType::Ipv4Addr], SetValue::None);
    for guard in &set.guards {
        let Some(bridge) = hardware.get(&guard.bridge) else { continue };
        by_hardware.elements.push(elements::mapped(guard.mac.0.to_vec(), bridge.0.to_vec()));
        if let Some(port) = &guard.interface {
            checked.elements.push(elements::plain(interface_key(port)));
            ports.elements.push(elements::mapped(interface_key(port), bridge.0.to_vec()));
            let key = elements::with_interface(port, &guard.mac.0);
            own_hardware.elements.push(elements::plain(key));
        }
    }
    let everybody = [IpAddr::V4(Ipv4Addr::BROADCAST)];
    let of_subnets = set.guards.iter().flat_map(|g| &g.addresses).map(ipnet::IpNet::broadcast);
    let all: Vec<IpAddr> = of_subnets.chain(everybody).collect();
    broadcast.elements = elements::addresses(all.iter(), true);
    let mut sets = vec![checked, ports, by_hardware, own_hardware, broadcast];
    for (v4, kind) in [(true, DataType::Ipv4Addr), (false, DataType::Ipv6Addr)] {
        let mut mine = Set::new(own(v4), &[Ifname, kind], SetValue::None);
        for guard in &set.guards {
            let Some(port) = &guard.interface else { continue };
            let addresses = guard.addresses.iter().map(ipnet::IpNet::addr);
            let key = |a| elements::with_interface(port, &elements::octets(a));
            let of_family = addresses.filter(|a| a.is_ipv4() == v4);
            mine.elements.extend(of_family.map(|a| elements::plain(key(a))));
        }
        let mut all = Set::new(guarded(v4), &[kind], SetValue::None);
        let addresses: Vec<IpAddr> =
            set.guards.iter().flat_map(|g| &g.addresses).map(ipnet::IpNet::addr).collect();
        all.elements = elements::addresses(addresses.iter(), v4);
        sets.extend([mine, all]);
    }
    for rule in set.rules.iter().filter(|r| r.is_verdict()) {
        let mut members = Set::new(member_set(&rule.name), &[Ifname], SetValue::None);
        let mine = set.guards.iter().filter(|g| is_subject(rule, g));
        let keys = mine.filter_map(|g| Some(interface_key(g.interface.as_ref()?)));
        members.elements = keys.map(elements::plain).collect();
        sets.push(members);
        sets.extend([true, false].into_iter().filter_map(|v4| flows::peer_addresses(rule, v4)));
        sets.extend(flows::port_numbers(rule));
    }
    for set in &mut sets {
        if set.keeps == sampan_sys::nft::SetKeeps::Keys {
            set.elements.sort_by(|a, b| a.key.cmp(&b.key));
            set.elements.dedup_by(|a, b| a.key == b.key);
        }
    }
    sets
}

fn is_subject(rule: &PolicyRule, guard: &Guard) -> bool {
    guard.addresses.iter().any(|a| rule.subjects.contains(&a.addr()))
}

fn rule(chain: &str, when: impl IntoIterator<Item = Expr>, then: Verdict, comment: &str) -> Rule {
    let end = [Expr::counter(), Expr::verdict(&then)];
    Rule {
        chain: chain.to_owned(),
        expressions: when.into_iter().chain(end).collect(),
        comment: comment.to_owned(),
    }
}

fn all(parts: &[&[Expr]]) -> Vec<Expr> {
    parts.concat()
}

/// The frame carries this.
fn carries(ether_type: [u8; 2]) -> [Expr; 2] {
    [Expr::ether_type(ASIDE), Expr::compare(ASIDE, true, &ether_type)]
}

/// The frame goes to several.
fn to_many() -> [Expr; 3] {
    [
        Expr::payload(PayloadBase::Link, 0, 1, ASIDE),
        Expr::mask(ASIDE, &[1]),
        Expr::compare(ASIDE, false, &[0]),
    ]
}

/// The packet is of ICMPv6, of one of these types.
fn icmpv6([first, last]: [u8; 2]) -> Vec<Expr> {
    let mut when = carries(ETHER_IPV6).to_vec();
    when.extend([
        Expr::meta(MetaKey::L4Proto, ASIDE),
        Expr::compare(ASIDE, true, &[ICMPV6]),
        Expr::payload(PayloadBase::Transport, 0, 1, ASIDE),
    ]);
    if first == last {
        when.push(Expr::compare(ASIDE, true, &[first]));
    } else {
        when.push(Expr::order(ASIDE, Order::AtLeast, &[first]));
        when.push(Expr::order(ASIDE, Order::Less, &[last + 1]));
    }
    when
}

/// The address in the header, in a register.
fn address(v4: bool, source: bool, to: Register) -> Expr {
    let (offset, length) = match (v4, source) {
        (true, true) => (12, 4),
        (true, false) => (16, 4),
        (false, true) => (8, 16),
        (false, false) => (24, 16),
    };
    Expr::payload(PayloadBase::Network, offset, length, to)
}

fn families() -> [(bool, [u8; 2]); 2] {
    [(true, ETHER_IPV4), (false, ETHER_IPV6)]
}

fn enter() -> Vec<Rule> {
    let port = Expr::meta(MetaKey::IifName, R);
    let by_port = [port.clone(), Expr::lookup_data(PORTS, R, REST)];
    let by_target =
        [Expr::payload(PayloadBase::Link, 0, 6, R), Expr::lookup_data(HARDWARE, R, REST)];
    let to_host = [
        Expr::set_payload(PayloadBase::Link, 0, 6, REST),
        Expr::immediate(&[PACKET_HOST], ASIDE),
        Expr::set_packet_type(ASIDE),
    ];
    let jump = Verdict::Jump("check".to_owned());
    let mut rules =
        vec![rule("enter", [port, Expr::lookup(CHECKED, R)], jump, "from containers under policy")];
    for (v4, ether_type) in families() {
        let target = [address(v4, false, R), Expr::lookup(guarded(v4), R)];
        let when = all(&[&to_many(), &carries(ether_type), &target]);
        rules.push(rule("enter", when, Verdict::Drop, "to one, in a frame to many"));
    }
    rules.push(rule("enter", to_many(), Verdict::Accept, "to many"));
    let accept = Verdict::Accept;
    rules.push(rule("enter", icmpv6(NEIGHBOURS), accept, "discovery of neighbours"));
    for (way, comment) in [
        (&by_port, "from containers under policy, by the host"),
        (&by_target, "to containers under policy, by the host"),
    ] {
        for (_, ether_type) in families() {
            let when = all(&[&carries(ether_type), way, &to_host]);
            rules.push(rule("enter", when, Verdict::Accept, comment));
        }
    }
    rules
}

/// What a container under policy may send at all: with its own addresses.
fn check() -> Vec<Rule> {
    let drop = |when: Vec<Expr>, comment: &str| rule("check", when, Verdict::Drop, comment);
    let pass = |when: &[Expr]| rule("check", when.to_vec(), Verdict::Return, "its own addresses");
    let port = || Expr::meta(MetaKey::IifName, R);
    let not = |value: &[u8]| Expr::compare(ASIDE, false, value);
    let link_local = [0xfe, 0x80];
    let prefix = |base, offset| {
        [Expr::payload(base, offset, 2, ASIDE), Expr::mask(ASIDE, &[0xff, 0xc0]), not(&link_local)]
    };
    let hardware = vec![
        port(),
        Expr::payload(PayloadBase::Link, 6, 6, REST),
        Expr::lookup_absent(OWN_HARDWARE, R),
    ];
    let sender = [
        Expr::payload(PayloadBase::Network, 14, 4, REST),
        Expr::compare(REST, false, &[0; 4]),
        port(),
        Expr::lookup_absent(own(true), R),
    ];
    let four = [port(), address(true, true, REST), Expr::lookup_absent(own(true), R)];
    let not_group4 = [
        address(true, false, R),
        Expr::lookup_absent(BROADCAST, R),
        Expr::payload(PayloadBase::Network, 16, 1, ASIDE),
        Expr::mask(ASIDE, &[0xf0]),
        not(&[0xe0]),
    ];
    let six = [
        address(false, true, REST),
        Expr::compare(REST, false, &[0; 16]),
        port(),
        Expr::lookup_absent(own(false), R),
    ];
    let not_group6 = [Expr::payload(PayloadBase::Network, 24, 1, ASIDE), not(&[0xff])];
    let target = [
        Expr::payload(PayloadBase::Transport, 8, 16, REST),
        port(),
        Expr::lookup_absent(own(false), R),
    ];
    let (arp, ipv4, ipv6) = (carries(ETHER_ARP), carries(ETHER_IPV4), carries(ETHER_IPV6));
    let advertised =
        all(&[&icmpv6([NEIGHBOUR_ADVERTISEMENT; 2]), &prefix(PayloadBase::Transport, 8), &target]);
    vec![
        drop(hardware, "with another's hardware address"),
        drop(all(&[&arp, &sender]), "saying that it has another's address"),
        pass(&arp),
        drop(all(&[&ipv4, &four]), "with another's address"),
        drop(all(&[&to_many(), &ipv4, &not_group4]), "to one, in a frame to many"),
        pass(&ipv4),
        drop(all(&[&ipv6, &prefix(PayloadBase::Network, 8), &six]), "with another's address"),
        drop(all(&[&to_many(), &ipv6, &not_group6]), "to one, in a frame to many"),
        drop(advertised, "saying that it has another's address"),
        drop(icmpv6([ROUTER_ADVERTISEMENT; 2]), "saying that it is a router"),
        drop(icmpv6([REDIRECT; 2]), "saying that it is a router"),
        pass(&ipv6),
        drop(Vec::new(), "neither IP nor ARP"),
    ]
}

/// Broadcast and multicast between neighbours, which the host can't route.
fn many() -> Vec<Rule> {
    let accept = |when: Vec<Expr>| rule("many", when, Verdict::Accept, "discovery of neighbours");
    let mut rules: Vec<Rule> =
        [NEIGHBOURS, GROUPS, GROUPS_2].into_iter().map(|types| accept(icmpv6(types))).collect();
    for (_, ether_type) in families() {
        for chain in ["egress", "ingress"] {
            let when = all(&[&to_many(), &carries(ether_type)]);
            rules.push(rule("many", when, Verdict::Jump(chain.to_owned()), "to many"));
        }
    }
    rules
}

/// A policy's rule about frames to many.
fn alternatives(policy: &PolicyRule) -> Vec<Rule> {
    let (chain, key) = match policy.direction {
        Direction::Egress => ("egress", MetaKey::IifName),
        Direction::Ingress => ("ingress", MetaKey::OifName),
    };
    let verdict = if policy.action == Action::Deny { Verdict::Drop } else { Verdict::Return };
    let member = [Expr::meta(key, R), Expr::lookup(&member_set(&policy.name), R)];
    let mut ports = vec![Vec::new()];
    if !policy.ports.is_empty() {
        let of = |protocol: crate::ports::Protocol| {
            vec![
                Expr::meta(MetaKey::L4Proto, ASIDE),
                Expr::compare(ASIDE, true, &[protocol.number()]),
                Expr::payload(PayloadBase::Transport, 2, 2, ASIDE),
                Expr::lookup(&flows::port_set(&policy.name, protocol), ASIDE),
            ]
        };
        ports = flows::protocols(policy).into_iter().map(of).collect();
    }
    let mut rules = Vec::new();
    for ports in ports {
        let comment = format!("{COMMENT}{}", policy.name);
        if policy.peers.is_none() {
            let when = all(&[&member, &ports]);
            rules.push(rule(chain, when, verdict.clone(), &comment));
            continue;
        }
        for (v4, ether_type) in families() {
            let source = policy.direction == Direction::Ingress;
            let peers = flows::peer_set(&policy.name, v4);
            let peer = [address(v4, source, R), Expr::lookup(&peers, R)];
            let when = all(&[&member, &carries(ether_type), &peer, &ports]);
            rules.push(rule(chain, when, verdict.clone(), &comment));
        }
    }
    rules
}
