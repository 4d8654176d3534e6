//! Who may begin which flow: the table of the family `inet`.
//!
//! ```text
//! forward, input, output ─> decide ─┬─ of no known flow ─> stray
//!                                   └─ of a container under policy ─> judge ─> egress, ingress
//!                                                  denied: counted by container <─┘
//! postrouting ─> source addresses
//! ```
//!
//! Be aware:
//! - The two ends of a flow are the sources of its two directions: those are
//!   the real ones before and behind every translation.
//! - What is allowed returns from its chain, so that the other end is asked
//!   as well.
//! - What is denied ends in a chain that counts it for the container that the
//!   policy is about, by elements of a set; what passes never gets there.
//! - A flow to an address that is allowed by its name gets a label, and is
//!   allowed by that for as long as it lives: the address may be forgotten.

use ipnet::IpNet;
use sampan_sys::nft::{
    BaseChain, Chain, ChainKind, CtKey, DataType, Expr, Family, FlowDirection, FlowKey, Hook,
    MetaKey, Order, PayloadBase, Policy, Register, Rule, Ruleset, Set, SetKeeps, SetValue, Verdict,
};

use super::{COMMENT, elements};
use crate::firewall::PolicySet;
use crate::firewall::nft::rules::interface_key;
use crate::policy::{Action, Direction, Peer, PolicyRule};
use crate::ports::Protocol;

/// Before the filters of others, behind translation of destinations; and
/// before the masquerade of networks.
const FILTER: i32 = -10;
const SOURCE: i32 = 99;

/// The register of addresses and labels, and that of protocols and ports.
const R: Register = Register(0);
const P: Register = Register(4);

/// `NF_CT_STATE_BIT`s.
const INVALID: u32 = 1;
const NEW: u32 = 8;
const UNTRACKED: u32 = 1 << 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Redirects in ICMP and ICMPv6.
const REDIRECT: u8 = 5;
const REDIRECT_V6: u8 = 137;
/// The first port that clients usually have.
const EPHEMERAL: u16 = 32768;

/// The set of the addresses that were told for a name.
pub(super) fn name_set(name: &str, v4: bool) -> String {
    let family = if v4 { 4 } else { 6 };
    match name.strip_prefix("*.") {
        Some(rest) => format!("wild{family}.{rest}"),
        None => format!("name{family}.{name}"),
    }
}

fn subject_set(rule: &str, v4: bool) -> String {
    format!("of{}.{rule}", if v4 { 4 } else { 6 })
}

pub(super) fn peer_set(rule: &str, v4: bool) -> String {
    format!("peers{}.{rule}", if v4 { 4 } else { 6 })
}

pub(super) fn port_set(rule: &str, protocol: Protocol) -> String {
    format!("{protocol}.{rule}")
}

fn all_subjects(v4: bool) -> &'static str {
    if v4 { "subjects4" } else { "subjects6" }
}

/// The set of the addresses that something was denied to, with how much.
pub(super) fn denied_set(v4: bool) -> &'static str {
    if v4 { "denied4" } else { "denied6" }
}

/// Where packets end that are denied to who sends, or receives, the flow.
fn denied_chain(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "denied-egress",
        Direction::Ingress => "denied-ingress",
    }
}

/// Which direction of a flow comes from who sends, or receives, it.
fn flow_of(direction: Direction) -> FlowDirection {
    match direction {
        Direction::Egress => FlowDirection::Original,
        Direction::Ingress => FlowDirection::Reply,
    }
}

/// The whole table.
pub(super) fn ruleset(set: &PolicySet) -> Ruleset {
    let mut ruleset = Ruleset { chains: chains(set), sets: sets(set), rules: fixed_rules(set) };
    for rule in &set.rules {
        let chain = match (rule.action, rule.direction) {
            (Action::Source(_), _) => "postrouting",
            (_, Direction::Egress) => "egress",
            (_, Direction::Ingress) => "ingress",
        };
        for expressions in alternatives(rule) {
            let comment = format!("{COMMENT}{}", rule.name);
            ruleset.rules.push(Rule { chain: chain.to_owned(), expressions, comment });
        }
    }
    ruleset
}

fn chains(set: &PolicySet) -> Vec<Chain> {
    let base = |name: &str, kind, hook, priority| Chain {
        name: name.to_owned(),
        base: Some(BaseChain { kind, hook, priority, policy: Policy::Accept }),
    };
    let inner = |name: &str| Chain { name: name.to_owned(), base: None };
    let mut chains = vec![
        base("forward", ChainKind::Filter, Hook::Forward, FILTER),
        base("input", ChainKind::Filter, Hook::Input, FILTER),
        base("output", ChainKind::Filter, Hook::Output, FILTER),
        inner("decide"),
        inner("stray"),
        inner("judge"),
        inner("egress"),
        inner("ingress"),
        inner(denied_chain(Direction::Egress)),
        inner(denied_chain(Direction::Ingress)),
    ];
    if set.rules.iter().any(|r| !r.is_verdict()) {
        chains.push(base("postrouting", ChainKind::Nat, Hook::Postrouting, SOURCE));
    }
    chains
}

fn sets(set: &PolicySet) -> Vec<Set> {
    let mut sets = Vec::new();
    let address = |v4| if v4 { DataType::Ipv4Addr } else { DataType::Ipv6Addr };
    let plain = |name: String, v4| Set::new(name, &[address(v4)], SetValue::None);
    let subjects = set.rules.iter().filter(|r| r.is_verdict()).flat_map(|r| &r.subjects);
    let mut interfaces = |name: &str, list: Vec<&String>| {
        let mut interfaces = Set::new(name, &[DataType::Ifname], SetValue::None);
        let mut keys: Vec<_> = list.into_iter().map(|b| interface_key(b)).collect();
        keys.sort();
        keys.dedup();
        interfaces.elements = keys.into_iter().map(elements::plain).collect();
        sets.push(interfaces);
    };
    interfaces("networks", set.networks.iter().collect());
    interfaces("shared", set.guards.iter().map(|g| &g.bridge).collect());
    for v4 in [true, false] {
        let mut all = plain(all_subjects(v4).to_owned(), v4);
        all.elements = elements::addresses(subjects.clone(), v4);
        let mut denied = plain(denied_set(v4).to_owned(), v4).keeping(SetKeeps::Counts);
        denied.elements = all.elements.clone();
        sets.extend([all, denied]);
        for rule in &set.rules {
            let mut of = plain(subject_set(&rule.name, v4), v4);
            of.elements = elements::addresses(rule.subjects.iter(), v4);
            sets.push(of);
            sets.extend(peer_addresses(rule, v4));
        }
        let mut names: Vec<String> = set.rules.iter().flat_map(names_of).cloned().collect();
        names.sort();
        names.dedup();
        let of_name = |name| plain(name_set(name, v4), v4).keeping(SetKeeps::Timeouts);
        sets.extend(names.iter().map(|name| of_name(name)));
    }
    for rule in &set.rules {
        sets.extend(port_numbers(rule));
    }
    sets
}

/// The addresses of a rule's peers, as far as these are no names.
pub(super) fn peer_addresses(rule: &PolicyRule, v4: bool) -> Option<Set> {
    let nets: Vec<IpNet> = rule.peers.as_ref()?.iter().filter_map(net_of).collect();
    let kind = if v4 { DataType::Ipv4Addr } else { DataType::Ipv6Addr };
    let mut set = Set::new(peer_set(&rule.name, v4), &[kind], SetValue::None);
    set.elements = elements::net_ranges(nets.iter(), v4);
    Some(set.keeping(SetKeeps::Ranges))
}

/// The ports of a rule, a set for each protocol.
pub(super) fn port_numbers(rule: &PolicyRule) -> impl Iterator<Item = Set> {
    protocols(rule).into_iter().map(|protocol| {
        let name = port_set(&rule.name, protocol);
        let mut set = Set::new(name, &[DataType::InetService], SetValue::None);
        let mine = rule.ports.iter().filter(|p| p.protocol == protocol);
        set.elements = elements::port_ranges(mine.map(|p| &p.ports));
        set.keeping(SetKeeps::Ranges)
    })
}

fn net_of(peer: &Peer) -> Option<IpNet> {
    match peer {
        Peer::Net(net) => Some(*net),
        Peer::Name(_) | Peer::Host => None,
    }
}

fn names_of(rule: &PolicyRule) -> impl Iterator<Item = &String> {
    rule.peers.iter().flatten().filter_map(|peer| match peer {
        Peer::Name(name) => Some(name),
        Peer::Net(_) | Peer::Host => None,
    })
}

/// The protocols that a rule's ports are of.
pub(super) fn protocols(rule: &PolicyRule) -> Vec<Protocol> {
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    all.into_iter().filter(|p| rule.ports.iter().any(|m| m.protocol == *p)).collect()
}

/// The rules that are there with any policy.
fn fixed_rules(set: &PolicySet) -> Vec<Rule> {
    let drop = || Expr::verdict(&Verdict::Drop);
    let goto = |chain: &str| Expr::verdict(&Verdict::Goto(chain.to_owned()));
    let jump = |chain: &str| Expr::verdict(&Verdict::Jump(chain.to_owned()));
    let mut rules = Vec::new();
    for (protocol, kind) in [(ICMP, REDIRECT), (ICMPV6, REDIRECT_V6)] {
        let when = [
            Expr::meta(MetaKey::L4Proto, P),
            Expr::compare(P, true, &[protocol]),
            Expr::payload(PayloadBase::Transport, 0, 1, P),
            Expr::compare(P, true, &[kind]),
            Expr::meta(MetaKey::OifName, R),
            Expr::lookup("shared", R),
        ];
        rules.push(rule("output", when, drop(), "neighbours reach each other by the host"));
    }
    for base in ["forward", "input", "output"] {
        rules.push(rule(base, [], jump("decide"), "policies"));
    }
    rules.push(rule("decide", state(INVALID | UNTRACKED), goto("stray"), "of no known flow"));
    for (v4, direction) in both_ways() {
        let when = [Expr::flow(source(v4), direction, R), Expr::lookup(all_subjects(v4), R)];
        rules.push(rule("decide", when, goto("judge"), "containers under policy"));
    }
    let neighbours = [Expr::meta(MetaKey::L4Proto, P), Expr::compare(P, true, &[ICMPV6])];
    let when = state(UNTRACKED).into_iter().chain(neighbours);
    let accept = Expr::verdict(&Verdict::Return);
    rules.push(rule("stray", when, accept, "discovery of neighbours"));
    for (v4, offset) in [(true, 12), (true, 16), (false, 8), (false, 24)] {
        let (family, length) = if v4 { (Family::Ipv4, 4) } else { (Family::Ipv6, 16) };
        let when = [
            Expr::meta(MetaKey::NfProto, P),
            Expr::compare(P, true, &[family as u8]),
            Expr::payload(PayloadBase::Network, offset, length, R),
            Expr::lookup(all_subjects(v4), R),
        ];
        rules.push(rule("stray", when, drop(), "of no flow that could be judged"));
    }
    rules.push(rule("judge", middle_of_flow(), drop(), "an answer of an unknown flow"));
    rules.push(rule("judge", [], jump("egress"), "what containers send"));
    rules.push(rule("judge", [], jump("ingress"), "what containers receive"));
    for direction in [Direction::Egress, Direction::Ingress] {
        let chain = denied_chain(direction);
        for v4 in [true, false] {
            // The lookup counts. Who is not in the set is denied all the same.
            let key = Expr::flow(source(v4), flow_of(direction), R);
            let expressions = vec![key, Expr::lookup(denied_set(v4), R)];
            let comment = "counted for the container".to_owned();
            rules.push(Rule { chain: chain.to_owned(), expressions, comment });
        }
        rules.push(rule(chain, [], drop(), "denied"));
    }
    if set.rules.iter().any(|r| !r.is_verdict()) {
        let when = [Expr::meta(MetaKey::OifName, R), Expr::lookup("networks", R)];
        let leave = Expr::verdict(&Verdict::Accept);
        rules.push(rule("postrouting", when, leave, "into networks"));
    }
    rules
}

fn rule(chain: &str, when: impl IntoIterator<Item = Expr>, then: Expr, comment: &str) -> Rule {
    let expressions = when.into_iter().chain([Expr::counter(), then]).collect();
    Rule { chain: chain.to_owned(), expressions, comment: comment.to_owned() }
}

fn both_ways() -> [(bool, FlowDirection); 4] {
    use FlowDirection::{Original, Reply};
    [(true, Original), (true, Reply), (false, Original), (false, Reply)]
}

fn source(v4: bool) -> FlowKey {
    if v4 { FlowKey::SourceIpv4 } else { FlowKey::SourceIpv6 }
}

fn state(bits: u32) -> Vec<Expr> {
    vec![
        Expr::ct(CtKey::State, P),
        Expr::mask(P, &bits.to_ne_bytes()),
        Expr::compare(P, false, &0u32.to_ne_bytes()),
    ]
}

/// The first packet that is seen of a TCP flow is not its beginning, and comes
/// from a server as it seems: the flow would be taken for one the other way
/// round. The client's next packet tells.
fn middle_of_flow() -> Vec<Expr> {
    const TCP: u8 = 6;
    const SYN: u8 = 0x02;
    const FIN_SYN_RST_ACK: u8 = 0x17;
    let mut when = state(NEW);
    when.extend([
        Expr::meta(MetaKey::L4Proto, P),
        Expr::compare(P, true, &[TCP]),
        Expr::payload(PayloadBase::Transport, 13, 1, P),
        Expr::mask(P, &[FIN_SYN_RST_ACK]),
        Expr::compare(P, false, &[SYN]),
        Expr::payload(PayloadBase::Transport, 0, 2, P),
        Expr::order(P, Order::Less, &EPHEMERAL.to_be_bytes()),
        Expr::payload(PayloadBase::Transport, 2, 2, P),
        Expr::order(P, Order::AtLeast, &EPHEMERAL.to_be_bytes()),
    ]);
    when
}

/// A rule as lists of expressions, each of which is enough.
fn alternatives(rule: &PolicyRule) -> Vec<Vec<Expr>> {
    let mut all = Vec::new();
    for v4 in [true, false] {
        if let Action::Source(address) = rule.action
            && address.is_ipv4() != v4
        {
            continue;
        }
        for ports in ports(rule) {
            for (peer, named) in peers(rule, v4) {
                let when = subject(rule, v4).into_iter().chain(ports.clone()).chain(peer);
                let mut expressions: Vec<Expr> = when.collect();
                if named && rule.action == Action::Allow {
                    expressions.extend(set_label(&rule.name));
                }
                expressions.push(Expr::counter());
                expressions.extend(then(rule));
                all.push(expressions);
            }
        }
    }
    all
}

fn then(rule: &PolicyRule) -> Vec<Expr> {
    match rule.action {
        Action::Allow => vec![Expr::verdict(&Verdict::Return)],
        Action::Deny => {
            vec![Expr::verdict(&Verdict::Goto(denied_chain(rule.direction).to_owned()))]
        }
        Action::Source(address) => {
            let family = if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
            vec![Expr::immediate(&elements::octets(address), R), Expr::source_nat(family, R)]
        }
    }
}

fn subject(rule: &PolicyRule, v4: bool) -> Vec<Expr> {
    vec![
        Expr::flow(source(v4), flow_of(rule.direction), R),
        Expr::lookup(&subject_set(&rule.name, v4), R),
    ]
}

fn ports(rule: &PolicyRule) -> Vec<Vec<Expr>> {
    if rule.ports.is_empty() {
        return vec![Vec::new()];
    }
    let of = |protocol: Protocol| {
        vec![
            Expr::flow_protocol(P),
            Expr::compare(P, true, &[protocol.number()]),
            Expr::flow(FlowKey::SourcePort, FlowDirection::Reply, P),
            Expr::lookup(&port_set(&rule.name, protocol), P),
        ]
    };
    protocols(rule).into_iter().map(of).collect()
}

/// The ways to be one of a rule's peers, and whether by name.
fn peers(rule: &PolicyRule, v4: bool) -> Vec<(Vec<Expr>, bool)> {
    let Some(list) = &rule.peers else { return vec![(Vec::new(), false)] };
    let direction = match rule.direction {
        Direction::Egress => FlowDirection::Reply,
        Direction::Ingress => FlowDirection::Original,
    };
    let in_set = |set: &str| vec![Expr::flow(source(v4), direction, R), Expr::lookup(set, R)];
    let mut ways = vec![(in_set(&peer_set(&rule.name, v4)), false)];
    if list.contains(&Peer::Host) {
        // What the host sends has not come in, what it gets does not go out.
        for key in [MetaKey::IifName, MetaKey::OifName] {
            let nowhere = interface_key("");
            ways.push((vec![Expr::meta(key, R), Expr::compare(R, true, &nowhere)], false));
        }
    }
    let mut names: Vec<&String> = names_of(rule).collect();
    names.sort();
    names.dedup();
    if !names.is_empty() && rule.action == Action::Allow {
        ways.push((has_label(&rule.name), false));
    }
    ways.extend(names.into_iter().map(|name| (in_set(&name_set(name, v4)), true)));
    ways
}

/// The label of flows that a rule allowed by a name: one bit of 128, chosen by
/// the rule's name (FNV-1a).
fn label(rule: &str) -> [u8; 16] {
    let hash = rule
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (1u128 << (hash % 128)).to_le_bytes()
}

fn has_label(rule: &str) -> Vec<Expr> {
    vec![Expr::flow_labels(R), Expr::mask(R, &label(rule)), Expr::compare(R, false, &[0; 16])]
}

fn set_label(rule: &str) -> [Expr; 2] {
    [Expr::immediate(&label(rule), R), Expr::label_flow(R)]
}
